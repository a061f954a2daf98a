"""`python -m ponet import`: from a source to a bundle; in words, which weights became which.

A source is a folder, a weights file or a name on the Hub, in the layout of another code base or of
our exports; or a checkpoint of our own training. Whatever is not understood is an error, and then
nothing is written.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.manifest import file_sha256
from ponet.bundle import Bundle, load_bundle, save_bundle
from ponet.foreign import ForeignModel, TrainedModel, foreign_model, trained_model
from ponet.foreign_tokenizer import (
    ADDED_NAME,
    NO_TOKENIZER,
    SETTINGS_NAME,
    SPECIAL_TOKENS_NAME,
    prepare_tokenizer,
)
from ponet.inference import Guess
from ponet.names import foreign_config
from ponet.weight_files import (
    CONFIG_NAME,
    STATE_NAME,
    TOKENIZER_NAME,
    find_weights,
    read_checkpoint,
    read_config_metadata,
    read_json,
    read_weights,
)

CHECKPOINT_SUFFIX = ".ckpt"
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
_BESIDE = (CONFIG_NAME, "configuration.json", TOKENIZER_NAME, SETTINGS_NAME, SPECIAL_TOKENS_NAME,
           ADDED_NAME, "vocab.txt")  # fmt: skip
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
    note: str | None
    """What else a user should know."""


@dataclass(frozen=True, kw_only=True)
class _Source:
    """A source in memory."""

    converted: ForeignModel
    metadata: dict[str, Any]
    folder: Path
    """Where its tokenizer would be."""
    note: str | None = None
    trained: TrainedModel | None = None


def import_bundle(source: str, output: Path, options: ImportOptions) -> Imported:
    """Write the bundle of a source.

    Args:
        source: Folder, weights file, checkpoint, or "owner/name" on the Hub.
        output: Folder of the bundle; a bundle already there is replaced.
        options: What else is known.

    Raises:
        ValueError: If the source is missing, damaged, not known, or not wholly understood; then
            nothing is written.
    """
    path = Path(source).expanduser()
    is_file = path.is_file() or (path / STATE_NAME).is_file()
    is_ours = is_file and path.suffix == CHECKPOINT_SUFFIX
    read = _read_own(path, options) if is_ours else _read_foreign(source, options)
    model = read.converted.model
    with tempfile.TemporaryDirectory(prefix="ponet-import-") as staging:
        file = Path(staging) / TOKENIZER_NAME
        tokenizer = prepare_tokenizer(
            read.folder,
            file,
            given=options.tokenizer,
            lowercase=options.lowercase,
            vocab_size=model.config.vocab_size,
        )
        if tokenizer and read.trained:
            advice = "give the tokenizer.json of the run's shards by --tokenizer"
            read.trained.check_tokenizer(file, advice=advice)
        tokenizer_json = file if tokenizer else None
        save_bundle(output, model, tokenizer_json=tokenizer_json, metadata=read.metadata)
    return Imported(
        bundle=load_bundle(output),
        converted=read.converted,
        tokenizer=tokenizer,
        note=read.note,
    )


def _read_own(path: Path, options: ImportOptions) -> _Source:
    content, is_verified = read_checkpoint(path)
    trained = trained_model(content, where=path, drop=options.drop)
    folders = [trained.shards, path.absolute().parent.parent / "bundle"]
    folder = next((f for f in folders if f and (f / TOKENIZER_NAME).is_file()), None)
    if folder is None and options.tokenizer is None:
        raise ValueError(
            f"the tokenizer of {path} is neither with the shards it was trained on nor in the "
            f"run's bundle; give their tokenizer.json by --tokenizer, or --tokenizer {NO_TOKENIZER}"
        )
    known = {} if options.language is None else {"language": options.language}
    note = "whole, as its digest says" if is_verified else "there is no digest beside it"
    return _Source(
        converted=trained.converted,
        metadata={**trained.metadata, **known},
        note=f"checkpoint file: {note}",
        folder=folder or path.parent,
        trained=trained,
    )


def _read_foreign(source: str, options: ImportOptions) -> _Source:
    path = Path(source).expanduser()
    revision = None
    if not path.exists():
        path = _download(source, revision=options.revision)
        revision = path.name
    if path.is_file():
        folder, files = path.parent, [path]
        values = _values_of(path)
    else:
        folder = _checked_folder(path)
        values, files = read_json(folder / CONFIG_NAME), find_weights(folder)
    converted = foreign_model(
        foreign_config(values),
        read_weights(*files),
        where=files[0] if len(files) == 1 else folder,
        drop=options.drop,
        add_missing_heads=options.add_missing_heads,
    )
    metadata = {
        "imported_from": source if revision else Path(source).name,
        "revision": revision,
        "weights_sha256": {file.name: file_sha256(file) for file in files},
        "language": options.language or _language(folder) or "en",
        "untrained": list(converted.untrained),
        "dropped": list(converted.dropped),
    }
    note = f"commit {revision} of the Hub" if revision else None
    return _Source(converted=converted, metadata=metadata, note=note, folder=folder)


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
    if (folder / "zero.json").is_file() or (folder / ".metadata").is_file():
        raise ValueError(
            f"{folder} is a sharded checkpoint; run: python -m pretrain export {folder} --output "
            "BUNDLE, which gathers its parts"
        )
    if not (folder / CONFIG_NAME).is_file():
        if (folder / "bundle" / CONFIG_NAME).is_file():
            raise ValueError(f"{folder} is the folder of a run; its bundle is {folder / 'bundle'}")
        folder = folder / "classifier" if (folder / "classifier").is_dir() else folder
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

    def count(names: Sequence[str]) -> int:
        return sum(state[name].numel() for name in names)

    yield (
        f"encoder     {sizes.kind}, {sizes.num_layers} layers of width {sizes.hidden_size}, "
        f"{sizes.max_positions} positions"
    )
    if imported.note:
        yield f"source      {imported.note}"
    table = [row for row in converted.table if row[0] not in converted.untrained]
    yield (
        f"mapped      {sum(len(keys) for _, keys in table)} weights of the source -> {len(table)} "
        f"of the bundle, {count([name for name, _ in table]):,} parameters"
    )
    for group in _GROUPS:
        rows = [row for row in table if row[0].startswith(f"{group}.")]
        if not rows:
            continue
        yield (
            f"  {group:18s} {sum(len(keys) for _, keys in rows):4d} -> {len(rows):4d} weights  "
            f"{count([name for name, _ in rows]):13,} parameters"
        )
        if with_names:
            yield from (f"    {' + '.join(keys)} -> {name}" for name, keys in rows)
    yield f"copies      {_listed(converted.copies)} (repeat what is mapped, or count positions)"
    yield f"dropped     {_listed(converted.dropped)}"
    fresh = count(converted.untrained)
    yield f"untrained   {_listed(converted.untrained)}" + (
        f": {fresh:,} parameters with fresh random values" if fresh else ""
    )
    yield f"tokenizer   {imported.tokenizer or 'none: encode and fill will not work'}"


def example_lines(imported: Imported) -> Iterator[str]:
    """Yield three filled sentences, or why there are none."""
    untrained = any(name.startswith("mlm_head.") for name in imported.converted.untrained)
    if imported.tokenizer is None or untrained:
        yield "fill        no examples: they need a tokenizer and a trained masked-LM head"
        return
    language = imported.bundle.metadata.get("language")
    for text in _EXAMPLES.get(language or "en", _EXAMPLES["en"]):
        yield text
        yield from guess_lines(imported.bundle.fill(text))


def guess_lines(guesses: Sequence[Sequence[Guess]]) -> Iterator[str]:
    """Yield one line for each [MASK]: the words and their probabilities."""
    for position, candidates in enumerate(guesses, start=1):
        shown = ", ".join(f"{guess.word} {guess.probability:.1%}" for guess in candidates)
        yield f"  [MASK] {position}: {shown}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "none"
