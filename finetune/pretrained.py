"""Where fine-tuning starts: a bundle, the run that holds one, or the authors' released weights."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ponet import PretrainingModel, load_bundle, load_official
from ponet.weight_files import CONFIG_NAME, TOKENIZER_NAME, file_digest, find_weights

BUNDLE = "bundle"


@dataclass(frozen=True, kw_only=True)
class EncoderSource:
    """What a table says about a pretrained encoder."""

    tokenizer_json: Path
    """The tokenizer it was pretrained with."""
    name: str
    """Name of its run: the folder's, or that of the folder above one called bundle."""
    digest: str
    """sha256 of the weights file; of several, that of their digests one after the other."""


@dataclass(frozen=True, kw_only=True)
class PretrainedEncoder:
    """A pretrained model and where it comes from."""

    model: PretrainingModel
    """In evaluation mode, on the CPU."""
    source: EncoderSource
    """Its files."""


def load_pretrained(path: str | Path) -> PretrainedEncoder:
    """Return the encoder that a path leads to.

    Args:
        path: Folder of a bundle; of a run that holds `bundle/`; or the authors' released layout (a
            folder with config.json and weights, or one .safetensors file) with the tokenizer.json
            beside the weights.

    Raises:
        ValueError: Nothing of that kind is there, or a file is missing or damaged.
    """
    given = Path(path)
    folder = given / BUNDLE if (given / BUNDLE).is_dir() else given
    if not folder.exists():
        raise ValueError(f"--model.encoder {path}: no such folder; give a bundle or a run's folder")
    if not folder.is_file() and not (folder / CONFIG_NAME).is_file():
        raise ValueError(
            f"--model.encoder {path}: holds neither {BUNDLE}/ nor config.json; give the folder of "
            "a bundle, of a pretraining run, or of released weights"
        )
    _refuse_other_family(folder)
    model = load_bundle(folder).model if _is_bundle(folder) else load_official(folder)
    tokenizer_json = (folder.parent if folder.is_file() else folder) / TOKENIZER_NAME
    if not tokenizer_json.is_file():
        raise ValueError(f"{tokenizer_json}: no such file; put the pretraining tokenizer there")
    absolute = folder.absolute()
    named = absolute.parent if absolute.name == BUNDLE else absolute
    source = EncoderSource(
        tokenizer_json=tokenizer_json,
        name=named.stem if folder.is_file() else named.name,
        digest=_digest(folder),
    )
    return PretrainedEncoder(model=model, source=source)


def _config(folder: Path) -> dict[str, Any] | None:
    """Return a folder's config.json; None: it is no JSON object."""
    try:
        config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    except ValueError:
        return None
    return config if isinstance(config, dict) else None


def _is_bundle(folder: Path) -> bool:
    if folder.is_file():
        return False
    config = _config(folder)
    return config is None or "encoder" in config  # load_bundle says what is wrong with the file


def _refuse_other_family(folder: Path) -> None:
    config = None if folder.is_file() else _config(folder)
    if config is None or "encoder" in config:
        return
    family = config.get("model_type")
    is_ponet = any("ponet" in str(name).casefold() for name in config.get("architectures") or ())
    if isinstance(family, str) and family != "ponet" and not is_ponet:
        raise ValueError(
            f"--model.encoder {folder}: holds a model of the type {family} in the layout of "
            f"transformers; make it a bundle first: python -m ponet import {folder} --output BUNDLE"
        )


def _digest(source: Path) -> str:
    """Return the digest of a weights file, or of a folder's."""
    files = [source] if source.is_file() else find_weights(source)
    first, *others = map(file_digest, files)
    return hashlib.sha256("".join((first, *others)).encode()).hexdigest() if others else first
