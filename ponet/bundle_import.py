"""`python -m ponet import`: from a source to a bundle; in words, which weights became which.

A source is a folder, a weights file or a name on the Hub, in the layout of another code base or of
our exports; or a checkpoint of our own training. Whatever is not understood is an error, and then
nothing is written.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_prep.manifest import file_sha256
from ponet.bundle import (
    PRETRAINING,
    TEXT_FACTS,
    UNTRAINED,
    Bundle,
    bundle_folder,
    lacks_masked_head,
    load_bundle,
    save_bundle,
)
from ponet.config import PoolingConfig
from ponet.foreign import ForeignModel, TrainedModel, foreign_model, trained_model
from ponet.foreign_tokenizer import (
    ADDED_NAME,
    SETTINGS_NAME,
    SPECIAL_TOKENS_NAME,
    prepare_tokenizer,
)
from ponet.inference import Guess
from ponet.names import KeyTable, foreign_config
from ponet.weight_files import (
    CONFIG_NAME,
    STATE_NAME,
    TOKENIZER_NAME,
    find_weights,
    read_checkpoint,
    read_config_metadata,
    read_json,
    read_weights,
    weight_digest,
)

CHECKPOINT_SUFFIX = ".ckpt"
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
_MODULES_NAME = "modules.json"  # of sentence-transformers
_BESIDE = (CONFIG_NAME, "configuration.json", TOKENIZER_NAME, SETTINGS_NAME, SPECIAL_TOKENS_NAME,
           ADDED_NAME, "vocab.txt", _MODULES_NAME)  # fmt: skip
_FORMS = (
    ("model*.safetensors", "model.safetensors.index.json"),
    ("pytorch_model*.bin", "pytorch_model.bin.index.json"),
)
"""Files of the weights on the Hub; the second form is fetched only where the first is missing."""
_GROUPS = ("encoder.embeddings", "encoder.layers", "pooler", "mlm_head", "pair_head")
_EXAMPLES = {
    "en": (
        "Paris is the [MASK] of France.",
        "She opened the [MASK] and walked into the house.",
        "The sun rises in the [MASK] and sets in the west.",
    ),
    "zh": (
        "北京是中国的[MASK]都。",
        "今天天气很[MASK]。",
        "太阳从[MASK]方升起。",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A bundle that was written, and where everything in it comes from."""

    bundle: Bundle
    """As read back."""
    converted: ForeignModel
    """The account of the source's weights."""
    tokenizer: str | None
    """Description of the tokenizer; None without one."""
    note: str | None
    """What else a user should know."""


def import_bundle(
    source: str,
    output: Path,
    *,
    revision: str | None = None,
    tokenizer: str | None = None,
    lowercase: bool | None = None,
    language: str | None = None,
    **conversion: Any,
) -> Imported:
    """Write the bundle of a source.

    Args:
        source: Folder, weights file, checkpoint, or "owner/name" on the Hub.
        output: Folder of the bundle; a bundle already there is replaced.
        revision: Branch, tag or commit on the Hub; None: its main branch.
        tokenizer: tokenizer.json or vocab.txt to take; "none": a bundle without one; None: the
            source's.
        lowercase: For a vocab.txt: lowercase text; None: as its tokenizer_config.json says, else
            yes.
        language: Its code, for the splitting into sentences; None: the source's, else "en".
        **conversion: `drop` and `add_missing_heads`, as for `foreign_model`.

    Raises:
        ValueError: If the source is missing, damaged, not known, or not wholly understood; then
            nothing is written.
    """
    path, trained = Path(source).expanduser(), None
    if revision is not None and path.exists():
        raise ValueError(
            f"--revision {revision} would do nothing: {source} is here and not on the Hub; "
            "leave it out"
        )
    is_file = path.is_file() or (path / STATE_NAME).is_file()
    if is_file and path.suffix == CHECKPOINT_SUFFIX:
        trained, folder, note = _read_run(path, conversion.get("drop", ()))
        converted, metadata = trained.converted, trained.metadata
    else:
        converted, metadata, folder = _read_foreign(source, path, revision, conversion)
        note = f"commit {metadata['revision']} of the Hub" if metadata["revision"] else ""
    if language:
        metadata["language"] = language
    with tempfile.TemporaryDirectory(prefix="ponet-import-") as staging:
        file = Path(staging) / TOKENIZER_NAME
        described = prepare_tokenizer(
            folder,
            file,
            given=tokenizer,
            lowercase=lowercase,
            vocab_size=converted.model.config.vocab_size,
        )
        if described and trained is not None:
            advice = "give the tokenizer.json of the run's shards by --tokenizer"
            trained.check_tokenizer(file, advice=advice)
        tokenizer_json = file if described else None
        save_bundle(output, converted.model, tokenizer_json=tokenizer_json, metadata=metadata)
    return Imported(
        bundle=load_bundle(output), converted=converted, tokenizer=described, note=note or None
    )


def _read_run(path: Path, drop: Sequence[str]) -> tuple[TrainedModel, Path, str]:
    """Return the model of a checkpoint, where its tokenizer would be, and what to know of it."""
    content, is_verified = read_checkpoint(path)
    trained = trained_model(content, where=path, drop=drop)
    folders = [trained.shards, path.absolute().parent.parent / "bundle"]
    folder = next((f for f in folders if f and (f / TOKENIZER_NAME).is_file()), path.parent)
    digest = "whole, as its digest says" if is_verified else "there is no digest beside it"
    return trained, folder, f"checkpoint file: {digest}"


def _read_foreign(
    source: str, path: Path, revision: str | None, conversion: dict[str, Any]
) -> tuple[ForeignModel, dict[str, Any], Path]:
    """Return the model of others, what its bundle says of it, and where its tokenizer would be."""
    commit = None
    if not path.exists():
        path = _download(source, revision=revision or "main")
        commit = path.name
    if path.is_file():
        folder, files, values = path.parent, [path], _values_of(path)
    else:
        folder = _checked_folder(path)
        files, values = find_weights(folder), read_json(folder / CONFIG_NAME)
    where = files[0] if len(files) == 1 else folder
    weights = read_weights(*files)
    converted = foreign_model(foreign_config(values), weights, where=where, **conversion)
    converted = replace(
        converted, untrained=(*converted.untrained, *_still_fresh(converted, values))
    )
    metadata = {
        "imported_from": source if commit else Path(source).name,
        "revision": commit,
        "weights_sha256": {file.name: file_sha256(file) for file in files},
        "language": _language(folder) or "en",
        **_kept_facts(values),
        **({"segments": {"rule": "text"}} if _is_one_segment(folder, converted) else {}),
        UNTRAINED: list(converted.untrained),
        "dropped": list(converted.dropped),
    }
    return converted, metadata, folder


def _values_of(path: Path) -> dict[str, Any]:
    """Return the configuration beside a weights file, or inside it."""
    if path.suffix not in _WEIGHT_SUFFIXES:
        raise ValueError(
            f"{path} is no weights file by its ending; known are "
            f"{', '.join((*_WEIGHT_SUFFIXES, CHECKPOINT_SUFFIX))}"
        )
    config = path.parent / CONFIG_NAME
    is_whole = path.suffix == ".safetensors" and not config.is_file()
    return read_config_metadata(path) if is_whole else read_json(config)


def _checked_folder(folder: Path) -> Path:
    """Refuse a folder whose content this command does not take, and say who does."""
    if (folder / "state").is_dir() or (folder / ".metadata").is_file():  # of ZeRO, of FSDP
        raise ValueError(
            f"{folder} is a sharded checkpoint; run: python -m pretrain export {folder} --output "
            "BUNDLE, which gathers its parts"
        )
    folder = bundle_folder(folder)
    if {"format_version", "encoder"} <= read_json(folder / CONFIG_NAME).keys():
        load_bundle(folder)  # says what a classifier is for
        raise ValueError(f"{folder} is a bundle already; use it as it is")
    return folder


def _download(source: str, *, revision: str) -> Path:
    """Return the local folder with configuration, weights and tokenizer of a repository.

    Whatever the revision is (branch, tag or commit), all files come from one commit, the name of
    the folder.
    """
    owner, _, name = source.partition("/")
    if not name or "/" in name or source.startswith((".", "~")):
        raise ValueError(f"{source} does not exist; give a folder, a weights file or a Hub id")
    if owner in ("damo", "iic"):
        raise ValueError(
            f"{source} is on ModelScope; run: modelscope download --model {source} --local_dir "
            f"{name}, and import the folder {name}"
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ValueError(
            f"{source} is no file here, and the Hub needs a package: pip install -e '.[hub]'"
        ) from error
    commit = revision
    try:
        for form in _FORMS:
            patterns = [*_BESIDE, *form]
            folder = Path(snapshot_download(source, revision=commit, allow_patterns=patterns))
            commit = folder.name
            if any(path.match(form[0]) for path in folder.glob("*")):
                break
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{source} is neither a file or folder here nor to be had from the Hub at revision "
            f"{commit} ({type(error).__name__}); check the name, or download it elsewhere and "
            "give its folder"
        ) from error
    if not (folder / CONFIG_NAME).is_file():
        raise ValueError(
            f"{source} has no {CONFIG_NAME} at revision {revision}, so it is no model that this "
            "command knows"
        )
    return folder


def _kept_facts(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an export of ours wrote into config.json about the texts of pretraining."""
    kept = values.get(PRETRAINING)
    return {key: kept[key] for key in TEXT_FACTS if key in kept} if isinstance(kept, dict) else {}


def _is_one_segment(folder: Path, converted: ForeignModel) -> bool:
    """Return whether sentence-transformers saved a folder: a text is one segment to it."""
    is_pooling = isinstance(converted.model.config, PoolingConfig)
    return is_pooling and (folder / _MODULES_NAME).is_file()


def _still_fresh(converted: ForeignModel, values: Mapping[str, Any]) -> list[str]:
    """Return the weights that an export of ours called untrained and that nobody trained since."""
    kept = values.get(PRETRAINING)
    digests = kept.get(UNTRAINED) if isinstance(kept, dict) else None
    state = {name: value for name, value in converted.model.state_dict().items()
             if name not in converted.untrained}  # fmt: skip
    return [
        name
        for name, digest in (digests if isinstance(digests, dict) else {}).items()
        if name in state and weight_digest(state[name]) == digest
    ]


def _language(folder: Path) -> str | None:
    """Return the language that ModelScope's configuration.json names, if there is one."""
    path = folder / "configuration.json"
    model = read_json(path).get("model") if path.is_file() else None
    language = model.get("language") if isinstance(model, dict) else None
    return {"cn": "zh"}.get(str(language), str(language)) if language else None


def report_lines(imported: Imported, *, with_names: bool = False) -> Iterator[str]:
    """Yield the lines of the report.

    Args:
        imported: What was done.
        with_names: Also every weight's names, ours and the source's.
    """
    converted, model = imported.converted, imported.bundle.model
    sizes, state = model.config, model.state_dict()

    def counts(rows: KeyTable) -> tuple[int, int, int]:
        num_foreign = sum(len(keys) for _, keys in rows)
        return num_foreign, len(rows), sum(state[name].numel() for name, _ in rows)

    yield (
        f"encoder     {sizes.kind}, {sizes.num_layers} layers of width {sizes.hidden_size}, "
        f"{sizes.max_positions} positions"
    )
    if imported.note:
        yield f"source      {imported.note}"
    foreign, native, parameters = counts(converted.table)
    yield (
        f"mapped      {foreign} weights of the source -> {native} of the bundle, "
        f"{parameters:,} parameters"
    )
    for group in _GROUPS:
        rows = [row for row in converted.table if row[0].startswith(f"{group}.")]
        if not rows:
            continue
        foreign, native, parameters = counts(rows)
        yield f"  {group:18s} {foreign:4d} -> {native:4d} weights  {parameters:13,} parameters"
        if with_names:
            yield from (f"    {' + '.join(keys)} -> {name}" for name, keys in rows)
    yield f"copies      {_listed(converted.copies)} (repeat what is mapped, or count positions)"
    yield f"dropped     {_listed(converted.dropped)}"
    fresh = sum(state[name].numel() for name in converted.untrained)
    how = f": {fresh:,} parameters with fresh random values" if fresh else ""
    yield f"untrained   {_listed(converted.untrained)}{how}"
    if imported.bundle.metadata.get("segments") == {"rule": "text"}:
        yield "segments    each text is one, as in its training"
    yield f"tokenizer   {imported.tokenizer or 'none: encode and fill will not work'}"


def example_lines(imported: Imported) -> Iterator[str]:
    """Yield three filled sentences, or why there are none."""
    if imported.tokenizer is None or lacks_masked_head(imported.bundle.metadata):
        yield "fill        no examples: they need a tokenizer and a trained masked-LM head"
        return
    language = imported.bundle.metadata.get("language")
    for text in _EXAMPLES.get(language or "en", _EXAMPLES["en"]):
        yield text
        yield from guess_lines(imported.bundle.fill(text))


def guess_lines(guesses: Sequence[Sequence[Guess]]) -> Iterator[str]:
    """Yield one line for each [MASK]: the words and their probabilities."""
    for position, candidates in enumerate(guesses, start=1):
        shown = ", ".join(
            f"{word if any(map(str.isalnum, word)) else repr(word)} {probability:.1%}"
            for word, probability in candidates
        )
        yield f"  [MASK] {position}: {shown}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "none"
