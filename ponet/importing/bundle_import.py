"""From a source to a bundle that was read back and compared with it."""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ponet.checkpoint import Bundle, load_bundle, save_bundle
from ponet.importing.foreign import ForeignModel, foreign_model, weights_group, without
from ponet.importing.own_checkpoint import OwnCheckpoint, read_own_checkpoint
from ponet.importing.sources import is_checkpoint, locate
from ponet.importing.tokenizer_files import (
    NO_TOKENIZER,
    TokenizerFile,
    prepare_tokenizer,
    tokenizer_digest,
)
from ponet.names import drop_tied_decoder, foreign_config, import_state
from ponet.weight_files import file_digest, read_weights


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
    """A bundle that was written and checked, and where everything in it comes from."""

    bundle: Bundle
    """As read back."""
    converted: ForeignModel
    """The account of the source's weights."""
    shapes: Mapping[str, tuple[int, ...]]
    """Shape of every weight of the source that was not dropped."""
    tokenizer: str | None
    """Description of the tokenizer; None without one."""
    notes: tuple[str, ...]
    """What else a user should know."""


@dataclass(frozen=True, kw_only=True)
class _Read:
    """A source in memory."""

    converted: ForeignModel
    state: Mapping[str, Tensor]
    metadata: dict[str, Any]
    notes: tuple[str, ...]
    tokenizer_folder: Path
    tokenizer_digest: str | None = None


def import_bundle(source: str, output: Path, options: ImportOptions) -> Imported:
    """Write the bundle of a source; read it back and compare every weight.

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
        _check_tokenizer(tokenizer, read.tokenizer_digest)
        existed = output.exists()
        tokenizer_json = tokenizer.path if tokenizer else None
        save_bundle(output, model, tokenizer_json=tokenizer_json, metadata=read.metadata)
    bundle = load_bundle(output)
    wrong = _differing(bundle, read)
    if wrong:
        if not existed:
            shutil.rmtree(output)
        raise ValueError(f"the bundle {output} is not the source's model: {wrong} differs")
    return Imported(
        bundle=bundle,
        converted=read.converted,
        shapes={key: tuple(tensor.shape) for key, tensor in read.state.items()},
        tokenizer=tokenizer.description if tokenizer else None,
        notes=read.notes,
    )


def _read_foreign(source: str, options: ImportOptions) -> _Read:
    found = locate(source, revision=options.revision)
    state = weights_group(read_weights(found.files))
    where = str(found.files[0]) if len(found.files) == 1 else str(found.folder)
    converted = foreign_model(
        foreign_config(found.values),
        state,
        where=where,
        drop=options.drop,
        add_missing_heads=options.add_missing_heads,
    )
    kept, _ = without(state, options.drop)
    metadata = {
        "imported_from": source if found.revision else Path(source).name,
        "revision": found.revision,
        "weights_sha256": {path.name: file_digest(path) for path in found.files},
        "language": options.language or found.language or "en",
        "untrained": list(converted.untrained),
        "dropped": list(converted.dropped),
    }
    notes = () if found.revision is None else (f"commit {found.revision} of the Hub",)
    return _Read(
        converted=converted, state=kept, metadata=metadata, notes=notes,
        tokenizer_folder=found.folder,
    )  # fmt: skip


def _read_own(path: Path, options: ImportOptions) -> _Read:
    own: OwnCheckpoint = read_own_checkpoint(path, drop=options.drop)
    if own.tokenizer_folder is None and options.tokenizer is None:
        raise ValueError(
            f"the tokenizer of {path} is neither with the shards it was trained on nor in the "
            f"run's bundle; give their tokenizer.json by --tokenizer, or --tokenizer {NO_TOKENIZER}"
        )
    known = {} if options.language is None else {"language": options.language}
    note = "whole, as its digest says" if own.is_verified else "there is no digest beside it"
    return _Read(
        converted=own.converted,
        state=own.state,
        metadata={**own.metadata, **known},
        notes=(f"checkpoint file: {note}",),
        tokenizer_folder=own.tokenizer_folder or path.parent,
        tokenizer_digest=own.tokenizer_digest,
    )


def _check_tokenizer(tokenizer: TokenizerFile | None, expected: str | None) -> None:
    if tokenizer is None or expected is None:
        return
    found = tokenizer_digest(tokenizer.path)
    if found != expected:
        raise ValueError(
            f"this is not the tokenizer of the run: its digest is {found[:12]}…, the run's "
            f"{expected[:12]}…; give the tokenizer.json of the run's shards by --tokenizer"
        )


def _differing(bundle: Bundle, read: _Read) -> str | None:
    """Return the first weight of a bundle that is not the source's, or None."""
    written = bundle.model.state_dict()
    table = read.converted.table
    word_key = dict(table)["encoder.embeddings.word.weight"][0]
    source = import_state(drop_tied_decoder(read.state, word_key=word_key), table)
    for name, tensor in written.items():
        if name in read.converted.untrained:
            tensor_there = read.converted.model.state_dict()[name]
        else:
            tensor_there = source[name].float()
        if not torch.equal(tensor, tensor_there):
            return name
    return None
