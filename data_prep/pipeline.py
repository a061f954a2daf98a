"""The stages of a build, in order: read and clean, select, tokenizer, encode, merge, manifest.

Work in progress lies in `<output>.building`, in folders named after the settings they depend on:
a build that was stopped goes on where it was, and one with other settings starts afresh. The
result is the same bytes for any number of workers and after any interruption.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
import sys
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from data_prep import files, sources, workers
from data_prep.config import BuildConfig
from data_prep.manifest import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    TOKENIZER_NAME,
    Manifest,
    ShardError,
    TokenizerInfo,
    digest_of,
)
from data_prep.pool import RayPool, WorkerPool
from data_prep.selection import Selection, reaches_limit, select_documents
from data_prep.shards import SplitWriter, check_files, finish_shards
from data_prep.tokenizer import load_tokenizer, save_tokenizer, vocabulary_notes

logger = logging.getLogger(__name__)

Engine = Literal["local", "ray"]
Parts = list[tuple[int, Path]]
Task = Callable[[], workers.Part]
_LABELS = ("licence", "date")
_RULES = "3"
"""Raised when the same text and settings give other sentences, documents or splits than before."""
_SINCE_FORMAT: dict[str, dict[str, Any]] = {
    "sentences": {"split": "language"},
    "tokenizer": {"strip_accents": True},
}
_SOURCE_SINCE_FORMAT: dict[str, Any] = {"delimiter": "", "header": True, "quotes": "csv"}
"""Settings that came later, with the value older folders were made with: left out where equal."""
_NOT_CONTENT = ("output", "num_workers", "overwrite", "chunk_megabytes", "check_disk")


def content_settings(config: BuildConfig) -> dict[str, Any]:
    """Return the settings that determine the content: no paths, no workers."""
    settings: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    for name in _NOT_CONTENT:
        del settings[name]
    for source in settings["sources"]:
        for name in ("path", "streaming", *_LABELS):
            source.pop(name, None)
        for name, before in _SOURCE_SINCE_FORMAT.items():
            if source.get(name) == before:
                del source[name]
    for group, later in _SINCE_FORMAT.items():
        for name, before in later.items():
            if settings[group][name] == before:
                del settings[group][name]
    settings["tokenizer"]["loaded"] = bool(settings["tokenizer"].pop("path"))
    del settings["tokenizer"]["add_words"]  # the digest is of the tokenizer itself
    return settings


def content_digest(config: BuildConfig, described: list[dict[str, Any]]) -> str:
    """Return the digest of versions, settings, what is read, and a loaded tokenizer."""
    loaded = ""
    if config.tokenizer.path:
        loaded = digest_of(load_tokenizer(config.tokenizer).to_str())
    return digest_of([_versions(), content_settings(config), described, loaded])


def _versions() -> dict[str, str]:
    """Return the versions of what the content depends on."""
    tools = {name: version(name) for name in ("sentencex", "tokenizers")}
    return {"format": str(FORMAT_VERSION), "rules": _RULES, **tools}


def changed_settings(folder: str | Path, config: BuildConfig) -> list[str]:
    """Return the names of the settings that differ from those a finished folder was made with.

    The text itself is not read: `build` compares that too.
    """
    made_with = Manifest.load(Path(folder)).settings
    return sorted(
        name for name, value in content_settings(config).items() if made_with.get(name) != value
    )


@dataclass(frozen=True)
class _Plan:
    """Where a build works, and what its result will be called."""

    config: BuildConfig
    work: Path
    described: list[dict[str, Any]]
    digest: str
    pool: WorkerPool
    progress: bool

    def stage(self, name: str, key: object) -> Path:
        """Return the folder of a stage, named after what it depends on."""
        folder = self.work / _stage_name(name, key)
        folder.mkdir(exist_ok=True)
        return folder

    def remove_others(self, prefix: str, keep: list[Path]) -> None:
        """Remove the folders of a stage that belong to other settings."""
        for folder in self.work.glob(f"{prefix}*"):
            if folder not in keep:
                shutil.rmtree(folder)

    def bar(self, text: str, total: int | None, unit: str) -> Any:
        """Return a progress bar with rate and time left."""
        from tqdm import tqdm

        options: dict[str, Any] = {"desc": text, "total": total, "unit": unit, "unit_scale": True}
        interval = 0.5 if sys.stderr.isatty() else 10.0
        return tqdm(**options, disable=not self.progress, mininterval=interval)


def _stage_name(name: str, key: object) -> str:
    return f"{name}-{digest_of(key)[:16]}"


def build(
    config: BuildConfig,
    *,
    progress: bool = True,
    engine: Engine = "local",
    ray_address: str = "",
) -> Path:
    """Make a shard folder, or return at once if it is already there with the same content.

    Args:
        config: What to build.
        progress: Whether to show progress bars on stderr.
        engine: Run tasks in processes of this machine, or as tasks of Ray; the result is the same.
        ray_address: `host:port` of a running Ray cluster, `auto` for the one this machine belongs
            to; empty: start one here.

    Returns:
        The finished folder.

    Raises:
        ValueError: Damaged or missing input, the output holds something else, another build is
            at work on it, or there is no room for it.
        OSError: A file cannot be written; finished parts are kept.
    """
    if ray_address and engine != "ray":
        raise ValueError(f"--ray-address {ray_address} has no effect without --engine ray.")
    named = Path(config.output).expanduser()
    output = Path(os.path.realpath(named))
    count = config.num_workers
    pool = RayPool(count, ray_address) if engine == "ray" else WorkerPool(count)
    described = [sources.describe(source) for source in config.sources]
    digest = content_digest(config, described)
    if _is_already_built(output, digest, overwrite=config.overwrite):
        _relabel(output, _labelled(config, described), sources.count_left_out(config.sources))
        files.remove_leftovers(output, made_by=_stage_name("tokenizer", digest))
        logger.info("%s is up to date", named)
        return named
    for note in vocabulary_notes(config.tokenizer):
        logger.warning("%s", note)
    with files.locked_work(output) as work:
        if not _is_already_built(output, digest, overwrite=config.overwrite):
            if config.check_disk:
                _check_disk(config, described, work)
            with pool, files.names_full_disk(work):
                final = _run_stages(_Plan(config, work, described, digest, pool, progress))
            files.publish(final, output)
        files.discard(output)
    return named


def _run_stages(plan: _Plan) -> Path:
    counters = Counter(sources.count_left_out(plan.config.sources))
    parts = _read_stage(plan, counters)
    selection = select_documents(parts, plan.config, counters)
    tokenizer = _tokenizer_stage(plan, selection)
    encoded = _encode_stage(plan, selection, tokenizer)
    return _merge_stage(plan, encoded, tokenizer, counters)


def _is_already_built(output: Path, digest: str, *, overwrite: bool) -> bool:
    if (output / MANIFEST_NAME).is_file():
        try:
            manifest = Manifest.load(output)
            if manifest.digest == digest:
                check_files(output, manifest, hashes=overwrite)
                return True
        except ShardError:
            if not overwrite:
                raise
        if overwrite:
            return False
        raise ValueError(
            f"output {output} holds shards made from other text or settings, or by another "
            "version; name another folder, or give --overwrite true to replace it."
        )
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"output {output} exists and is no shard folder; name another folder.")
    return False


def _check_disk(config: BuildConfig, described: list[dict[str, Any]], work: Path) -> None:
    """Check that there is room for twice the files to read, what is written already counted in."""
    limits = [source.max_megabytes * 1e6 or math.inf for source in config.sources]
    sizes = [sum(file["size"] for file in source.get("files", ())) for source in described]
    done = sum(path.stat().st_size for path in work.rglob("*") if path.is_file())
    files.require_room(work, 2 * sum(map(min, limits, sizes)) - done, "the build")


def _labelled(config: BuildConfig, described: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what was read, with what the user says about it."""
    labels = [
        {name: getattr(source, name, "") for name in _LABELS if getattr(source, name, "")}
        for source in config.sources
    ]
    return [{**source, **own} for source, own in zip(described, labels, strict=True)]


def _relabel(output: Path, described: list[dict[str, Any]], left_out: dict[str, int]) -> None:
    """Bring the labels of a finished folder up to date; its content stays as it is."""
    manifest = Manifest.load(output)
    start = sources.LEFT_OUT
    kept = {name: n for name, n in manifest.counters.items() if not name.startswith(start)}
    changed = replace(manifest, sources=described, counters={**kept, **left_out})
    if changed != manifest:
        changed.save(output)


def _read_stage(plan: _Plan, counters: Counter[str]) -> Parts:
    """Return the text parts of all sources; the counters get what was repaired."""
    config = plan.config
    parts: Parts = []
    folders: list[Path] = []
    for index, settings in enumerate(content_settings(config)["sources"]):
        key = [_versions(), asdict(config.cleaning), settings, plan.described[index]]
        folder = plan.stage(f"read-{index}", [*key, config.chunk_megabytes])
        folders.append(folder)
        parts.extend((index, path) for path in _read_source(plan, index, folder))
    plan.remove_others("read-", folders)
    for _, path in parts:
        counters.update(workers.load_part(path, ())[1])
    return parts


def _read_source(plan: _Plan, index: int, folder: Path) -> list[Path]:
    source = plan.config.sources[index]
    finished = folder / "finished.json"
    if finished.is_file():
        made = [folder / name for name in json.loads(finished.read_text(encoding="utf-8"))]
        if all(workers.is_finished(path) for path in made):
            return made
    chunks = sources.iterate_chunks(source, int(plan.config.chunk_megabytes * 1e6))
    cleaning = plan.config.cleaning
    tasks = ((chunk.advance, partial(workers.clean_chunk, chunk, cleaning)) for chunk in chunks)
    paths: list[Path] = []
    total, unit = sources.progress_total(plan.described[index])
    documents = chars = 0
    bar = plan.bar(f"read {index + 1}/{len(plan.config.sources)}", total, unit)
    with bar, contextlib.closing(_make_parts(plan, folder, tasks, bar)) as parts:
        for path in parts:
            paths.append(path)
            lens = workers.load_part(path, ("char_lens",))[0]["char_lens"]
            documents, chars = documents + lens.size, chars + int(lens.sum())
            if reaches_limit(source, documents, chars):
                break
    files.write_atomic(finished, json.dumps([path.name for path in paths]).encode("utf-8"))
    return paths


def _make_parts(
    plan: _Plan, folder: Path, tasks: Iterable[tuple[int, Task]], bar: Any
) -> Generator[Path, None, None]:
    """Yield the path of every part in order, made now by its task or finished before.

    With every task comes how much it adds to the bar.
    """
    in_flight: deque[tuple[Path, int]] = deque()

    def unfinished() -> Iterator[Task | None]:
        for number, (advance, task) in enumerate(tasks):
            path = folder / f"{number:06d}.npz"
            in_flight.append((path, advance))
            yield None if workers.is_finished(path) else task

    with contextlib.closing(plan.pool.results(unfinished())) as results:
        for part in results:
            path, advance = in_flight.popleft()
            if part is not None:
                workers.save_part(path, *part)
            bar.update(advance)
            yield path


def _tokenizer_stage(plan: _Plan, selection: Selection) -> Path:
    """Return the path of the tokenizer, trained or loaded."""
    config = plan.config.tokenizer
    path = plan.stage("tokenizer", plan.digest) / TOKENIZER_NAME
    if path.is_file():
        return path
    if config.path:
        save_tokenizer(load_tokenizer(config), path)
        return path
    if plan.progress:
        print(f"training a tokenizer on {selection.train_chars:,} characters", file=sys.stderr)
    parts, chosen = selection.parts, selection.train_chosen
    train = partial(workers.train_tokenizer, parallel=plan.pool.num_workers > 1)
    plan.pool.run_here(partial(train, parts, chosen, config, path))
    return path


def _encode_stage(plan: _Plan, selection: Selection, tokenizer: Path) -> list[Path]:
    """Return the token parts, one per text part."""
    info = TokenizerInfo.from_file(tokenizer)
    folder = plan.stage("encode", [plan.digest, plan.config.chunk_megabytes, info.digest])
    plan.remove_others("encode-", [folder])
    text = tokenizer.read_text(encoding="utf-8")
    encode = partial(workers.encode_part, config=plan.config.sentences, tokenizer=text, info=info)

    def tasks() -> Iterator[tuple[int, Task]]:
        for path, fates in zip(selection.parts, selection.fates, strict=True):
            texts = workers.load_part(path)[0]
            yield int(texts["char_lens"].sum()), partial(encode, texts, fates)

    with plan.bar("encode", selection.chars, " chars") as bar:
        return list(_make_parts(plan, folder, tasks(), bar))


def _merge_stage(plan: _Plan, parts: list[Path], tokenizer: Path, counters: Counter[str]) -> Path:
    """Return the folder with all final files, the manifest last."""
    if plan.config.check_disk:
        needed = sum(path.stat().st_size for path in parts)
        files.require_room(plan.work, needed, "merging the parts")
    final = plan.work / "final"
    shutil.rmtree(final, ignore_errors=True)
    final.mkdir()
    files.write_atomic(final / TOKENIZER_NAME, tokenizer.read_bytes())
    vocab_size = TokenizerInfo.from_file(tokenizer).vocab_size
    writers = [SplitWriter(final, split, vocab_size=vocab_size) for split in workers.SPLIT_CODES]
    with plan.bar("merge", len(parts), " parts") as bar:
        for path in parts:
            arrays, part_counters = workers.load_part(path)
            counters.update(part_counters)
            for writer in writers:
                names = ("tokens", "sentence_lens", "document_sentences")
                writer.append(*(arrays[f"{writer.split}.{name}"] for name in names))
            bar.update(1)
    if not all(writer.counts.tokens for writer in writers if writer.split == "train"):
        raise ValueError("no token is left in the train split; check the sources and tokenizer.")
    finish_shards(
        final,
        writers,
        digest=plan.digest,
        settings={**content_settings(plan.config), "versions": _versions()},
        sources=_labelled(plan.config, plan.described),
        counters={name: int(count) for name, count in sorted(counters.items()) if count},
    )
    return final
