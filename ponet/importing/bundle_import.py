"""From a source to a bundle; and in words, which weights became which and what was left out."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from data_prep.manifest import file_sha256
from ponet.bundle import Bundle, load_bundle, save_bundle
from ponet.importing.foreign import ForeignModel, foreign_model, weights_group
from ponet.importing.own_checkpoint import (
    TrainedModel,
    read_checkpoint_file,
    tokenizer_folder,
    trained_model,
)
from ponet.importing.sources import is_checkpoint, locate
from ponet.importing.tokenizer_files import NO_TOKENIZER, prepare_tokenizer
from ponet.inference import Guess
from ponet.names import foreign_config
from ponet.weight_files import read_weights

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
class ImportOptions:
    """What a user may say about a source."""

    revision: str = "main"
    """Branch, tag or commit on the Hub."""
    tokenizer: str | None = None
    """tokenizer.json or vocab.txt to take; "none": a bundle without one; None: the source's."""
    lowercase: bool | None = None
    """For a vocab.txt: lowercase text; None: as its tokenizer_config.json says, else yes."""
    language: str | None = None
    """Code of the language, for the splitting into sentences; None: the source's, else "en"."""
    drop: tuple[str, ...] = ()
    """Shell patterns of weights to leave out."""
    add_missing_heads: bool = False
    """Give heads that the source lacks fresh values, and say so in the bundle."""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A bundle that was written, and where everything in it comes from."""

    bundle: Bundle
    """As read back."""
    converted: ForeignModel
    """The account of the source's weights."""
    tokenizer: str | None
    """Description of the tokenizer; None without one."""
    notes: tuple[str, ...]
    """What else a user should know."""


@dataclass(frozen=True, kw_only=True)
class _Read:
    """A source in memory."""

    converted: ForeignModel
    metadata: dict[str, Any]
    notes: tuple[str, ...]
    tokenizer_folder: Path
    trained: TrainedModel | None = None


def import_bundle(source: str, output: Path, options: ImportOptions) -> Imported:
    """Write the bundle of a source.

    Args:
        source: See `sources.locate`; or a .ckpt file of our own training.
        output: Folder of the bundle; a bundle already there is replaced.
        options: What else is known.

    Raises:
        ValueError: If the source is missing, damaged, not known, or not wholly understood; then
            nothing is written.
    """
    path = Path(source).expanduser()
    read = _read_own(path, options) if is_checkpoint(path) else _read_foreign(source, options)
    model = read.converted.model
    with tempfile.TemporaryDirectory(prefix="ponet-import-") as staging:
        tokenizer = prepare_tokenizer(
            read.tokenizer_folder,
            Path(staging),
            given=options.tokenizer,
            lowercase=options.lowercase,
            vocab_size=model.config.vocab_size,
        )
        if tokenizer is not None and read.trained is not None:
            advice = "give the tokenizer.json of the run's shards by --tokenizer"
            read.trained.check_tokenizer(tokenizer.path, advice=advice)
        tokenizer_json = tokenizer.path if tokenizer else None
        save_bundle(output, model, tokenizer_json=tokenizer_json, metadata=read.metadata)
    return Imported(
        bundle=load_bundle(output),
        converted=read.converted,
        tokenizer=tokenizer.description if tokenizer else None,
        notes=read.notes,
    )


def _read_foreign(source: str, options: ImportOptions) -> _Read:
    found = locate(source, revision=options.revision)
    where = str(found.files[0]) if len(found.files) == 1 else str(found.folder)
    converted = foreign_model(
        foreign_config(found.values),
        weights_group(read_weights(found.files)),
        where=where,
        drop=options.drop,
        add_missing_heads=options.add_missing_heads,
    )
    metadata = {
        "imported_from": source if found.revision else Path(source).name,
        "revision": found.revision,
        "weights_sha256": {path.name: file_sha256(path) for path in found.files},
        "language": options.language or found.language or "en",
        "untrained": list(converted.untrained),
        "dropped": list(converted.dropped),
    }
    notes = () if found.revision is None else (f"commit {found.revision} of the Hub",)
    return _Read(converted=converted, metadata=metadata, notes=notes, tokenizer_folder=found.folder)


def _read_own(path: Path, options: ImportOptions) -> _Read:
    content, is_verified = read_checkpoint_file(path)
    trained = trained_model(content, where=path, drop=options.drop)
    folder = tokenizer_folder(trained, path)
    if folder is None and options.tokenizer is None:
        raise ValueError(
            f"the tokenizer of {path} is neither with the shards it was trained on nor in the "
            f"run's bundle; give their tokenizer.json by --tokenizer, or --tokenizer {NO_TOKENIZER}"
        )
    known = {} if options.language is None else {"language": options.language}
    note = "whole, as its digest says" if is_verified else "there is no digest beside it"
    return _Read(
        converted=trained.converted,
        metadata={**trained.metadata, **known},
        notes=(f"checkpoint file: {note}",),
        tokenizer_folder=folder or path.parent,
        trained=trained,
    )


def report_lines(imported: Imported, *, with_names: bool = False) -> Iterator[str]:
    """Yield the lines of the report.

    Args:
        imported: What was done.
        with_names: Also every weight's names, ours and the source's.
    """
    converted, model = imported.converted, imported.bundle.model
    yield f"encoder     {model.config.kind}, {model.config.num_layers} layers of width " + (
        f"{model.config.hidden_size}, {model.config.max_positions} positions"
    )
    for note in imported.notes:
        yield f"source      {note}"
    table = [row for row in converted.table if row[0] not in converted.untrained]
    num_foreign = sum(len(keys) for _, keys in table)
    state = model.state_dict()
    yield (
        f"mapped      {num_foreign} weights of the source -> {len(table)} of the bundle, "
        f"{_count(state, [name for name, _ in table]):,} parameters"
    )
    for group in _GROUPS:
        rows = [row for row in table if row[0].startswith(f"{group}.")]
        if rows:
            foreign = sum(len(keys) for _, keys in rows)
            yield (
                f"  {group:18s} {foreign:4d} -> {len(rows):4d} weights  "
                f"{_count(state, [name for name, _ in rows]):13,} parameters"
            )
            if with_names:
                yield from (f"    {' + '.join(keys)} -> {name}" for name, keys in rows)
    yield f"copies      {_listed(converted.copies)} (repeat what is mapped, or count positions)"
    yield f"dropped     {_listed(converted.dropped)}"
    fresh = _count(state, list(converted.untrained))
    yield f"untrained   {_listed(converted.untrained)}" + (
        f": {fresh:,} parameters with fresh random values" if fresh else ""
    )
    yield f"tokenizer   {imported.tokenizer or 'none: encode and fill will not work'}"


def example_lines(imported: Imported) -> Iterator[str]:
    """Yield three filled sentences, or why there are none."""
    metadata = imported.bundle.metadata
    untrained = any(name.startswith("mlm_head.") for name in imported.converted.untrained)
    if imported.tokenizer is None or untrained:
        yield "fill        no examples: they need a tokenizer and a trained masked-LM head"
        return
    for text in _EXAMPLES.get(metadata.get("language") or "en", _EXAMPLES["en"]):
        yield text
        yield from guess_lines(imported.bundle.fill(text))


def guess_lines(guesses: Sequence[Sequence[Guess]]) -> Iterator[str]:
    """Yield one line for each [MASK]: the words and their probabilities."""
    for position, candidates in enumerate(guesses, start=1):
        shown = ", ".join(f"{guess.word} {guess.probability:.1%}" for guess in candidates)
        yield f"  [MASK] {position}: {shown}"


def _count(state: dict[str, Any], names: Sequence[str]) -> int:
    return sum(prod(state[name].shape) for name in names)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "none"
