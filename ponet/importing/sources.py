"""Where a checkpoint is: a file, a folder, or a name on the Hub; and what is not one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ponet.importing.tokenizer_files import ADDED_NAME, SETTINGS_NAME, SPECIAL_TOKENS_NAME
from ponet.weight_files import (
    CONFIG_NAME,
    TOKENIZER_NAME,
    find_weights,
    read_config_metadata,
    read_json,
    refuse_classifier,
)

CHECKPOINT_SUFFIX = ".ckpt"
STATE_FILE = "state.pt"
"""What such a checkpoint, a folder, holds beside its list of digests."""
_MODELSCOPE_OWNERS = ("damo", "iic")
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
_BESIDE = (CONFIG_NAME, "configuration.json", TOKENIZER_NAME, SETTINGS_NAME, SPECIAL_TOKENS_NAME,
           ADDED_NAME, "vocab.txt")  # fmt: skip
_FORMS = (
    ("model*.safetensors", "model.safetensors.index.json"),
    ("pytorch_model*.bin", "pytorch_model.bin.index.json"),
)
"""Files of the weights on the Hub; the second form is fetched only where the first is missing."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A checkpoint in the layout of another code base, or of our exports."""

    values: dict[str, Any]
    """Its config.json."""
    files: tuple[Path, ...]
    """Its weights: one file, or the parts of one."""
    folder: Path
    """Where its tokenizer would be."""
    revision: str | None
    """Commit on the Hub; None for local files."""
    language: str | None
    """Code of its language, where the checkpoint says so."""


def is_checkpoint(path: Path) -> bool:
    """Return whether a path is a checkpoint of our own training, by its ending."""
    whole = path.is_file() or (path / STATE_FILE).is_file()
    return whole and path.suffix == CHECKPOINT_SUFFIX


def locate(source: str, *, revision: str) -> Source:
    """Return the parts of a checkpoint; what is on the Hub is downloaded.

    Args:
        source: Folder, weights file, or "owner/name" on the Hub.
        revision: Branch, tag or commit on the Hub.

    Raises:
        ValueError: If nothing of that kind is there; the message says what is.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return _from_file(path)
    if path.is_dir():
        return _from_folder(path)
    owner, _, name = source.partition("/")
    if not name or "/" in name or source.startswith((".", "~")):
        raise ValueError(f"{source} does not exist; give a folder, a weights file or a Hub id")
    if owner in _MODELSCOPE_OWNERS:
        raise ValueError(
            f"{source} is on ModelScope; run: modelscope download --model {source} --local_dir "
            f"{name}, and import the folder {name}"
        )
    folder = download(source, revision=revision)
    return _from_folder(folder, revision=folder.name)


def download(repo: str, *, revision: str) -> Path:
    """Return the local folder with configuration, weights and tokenizer of a repository.

    Args:
        repo: "owner/name".
        revision: Branch, tag or commit; whatever it is, all files come from one commit.

    Raises:
        ValueError: If the Hub cannot be reached, or has no such repository, revision or config.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ValueError(
            f"{repo} is no file here, and the Hub needs a package: pip install -e '.[hub]'"
        ) from error
    commit = revision
    try:
        for form in _FORMS:
            patterns = [*_BESIDE, *form]
            folder = Path(snapshot_download(repo, revision=commit, allow_patterns=patterns))
            commit = folder.name
            if any(path.match(form[0]) for path in folder.glob("*")):
                break
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{repo} is neither a file or folder here nor to be had from the Hub at revision "
            f"{commit} ({type(error).__name__}); check the name, or download it elsewhere and "
            "give its folder"
        ) from error
    if not (folder / CONFIG_NAME).is_file():
        raise ValueError(
            f"{repo} has no {CONFIG_NAME} at revision {revision}, so it is no model that this "
            "command knows"
        )
    return folder


def _from_file(path: Path) -> Source:
    if path.suffix not in _WEIGHT_SUFFIXES:
        raise ValueError(
            f"{path} is no weights file by its ending; known are "
            f"{', '.join((*_WEIGHT_SUFFIXES, CHECKPOINT_SUFFIX))}"
        )
    config = path.parent / CONFIG_NAME
    is_whole = path.suffix == ".safetensors" and not config.is_file()
    values = read_config_metadata(path) if is_whole else read_json(config)
    return Source(
        values=values, files=(path,), folder=path.parent, revision=None,
        language=_language(path.parent),
    )  # fmt: skip


def _from_folder(folder: Path, revision: str | None = None) -> Source:
    if (folder / "state").is_dir() or (folder / ".metadata").is_file():  # of ZeRO, of FSDP
        raise ValueError(
            f"{folder} is a sharded checkpoint; run: python -m pretrain export {folder} --output "
            "BUNDLE, which gathers its parts"
        )
    if not (folder / CONFIG_NAME).is_file() and (folder / "bundle" / CONFIG_NAME).is_file():
        raise ValueError(f"{folder} is the folder of a run; its bundle is {folder / 'bundle'}")
    if not (folder / CONFIG_NAME).is_file() and (folder / "classifier" / CONFIG_NAME).is_file():
        folder = folder / "classifier"
    values = read_json(folder / CONFIG_NAME)
    refuse_classifier(folder, values)
    if "format_version" in values and "encoder" in values:
        raise ValueError(f"{folder} is a bundle already; use it as it is")
    return Source(
        values=values, files=tuple(find_weights(folder)), folder=folder, revision=revision,
        language=_language(folder),
    )  # fmt: skip


def _language(folder: Path) -> str | None:
    """Return the language that ModelScope's configuration.json names, if there is one."""
    path = folder / "configuration.json"
    model = read_json(path).get("model") if path.is_file() else None
    language = model.get("language") if isinstance(model, dict) else None
    return {"cn": "zh"}.get(str(language), str(language)) if language else None
