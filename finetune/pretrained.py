"""Where fine-tuning starts: a bundle, a fine-tuned classifier, or the authors' released weights."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.manifest import file_sha256
from finetune.artifact import load_model
from finetune.data.targets import ScoreScale
from ponet import PretrainingModel, SequenceClassifier, load_bundle, load_official
from ponet.weight_files import CONFIG_NAME, TOKENIZER_NAME, find_weights
from training.configuration import RUN_PARTS

BUNDLE = "bundle"


@dataclass(frozen=True, kw_only=True)
class EncoderSource:
    """What a table says about a pretrained encoder."""

    tokenizer_json: Path
    """The tokenizer it was pretrained with."""
    name: str
    """Name of its run: the folder's, or that of the folder above one of `RUN_PARTS`."""
    digest: str
    """sha256 of the weights file; of several, that of their digests one after the other."""
    files: tuple[Path, ...]
    """Configuration, weights and tokenizer."""


@dataclass(frozen=True, kw_only=True)
class PretrainedEncoder:
    """A pretrained model and where it comes from."""

    model: PretrainingModel | SequenceClassifier
    """In evaluation mode, on the CPU."""
    source: EncoderSource
    """Its files."""
    labels: tuple[str, ...] = ()
    """Label of each output of a classifier's last layer; empty: there is none to go on with."""
    scale: ScoreScale = ScoreScale()
    """Of the scores that a regression's last layer gives."""


def load_pretrained(path: str | Path) -> PretrainedEncoder:
    """Return the encoder that a path leads to.

    Args:
        path: Folder of a bundle or of a fine-tuned classifier; of a run that holds `bundle/` or
            `classifier/`; or the authors' released layout (a folder with config.json and weights,
            or one .safetensors file) with the tokenizer.json beside the weights.

    Raises:
        ValueError: Nothing of that kind is there, or a file is missing or damaged.
    """
    given = Path(path)
    folder = next((given / part for part in RUN_PARTS if (given / part).is_dir()), given)
    if not folder.exists():
        raise ValueError(f"--model.encoder {path}: no such folder; give a bundle or a run's folder")
    if not folder.is_file() and not (folder / CONFIG_NAME).is_file():
        raise ValueError(
            f"--model.encoder {path}: holds neither {BUNDLE}/ nor config.json; give the folder of "
            "a bundle, of a pretraining or fine-tuning run, or of released weights"
        )
    labels: tuple[str, ...] = ()
    scale = ScoreScale()
    model: PretrainingModel | SequenceClassifier
    config = _config(folder)
    if "labels" in config:
        model, info = load_model(folder)
        labels, scale = info.labels, info.scale
    elif "encoder" in config:
        model = load_bundle(folder).model
    else:
        _refuse_other_family(folder, config)
        model = load_official(folder)
    tokenizer_json = (folder.parent if folder.is_file() else folder) / TOKENIZER_NAME
    if not tokenizer_json.is_file():
        raise ValueError(f"{tokenizer_json}: no such file; put the pretraining tokenizer there")
    absolute = folder.absolute()
    named = absolute.parent if absolute.name in RUN_PARTS else absolute
    source = EncoderSource(
        tokenizer_json=tokenizer_json,
        name=named.stem if folder.is_file() else named.name,
        digest=_digest(folder),
        files=(tokenizer_json, *_files(folder)),
    )
    return PretrainedEncoder(model=model, source=source, labels=labels, scale=scale)


def _config(folder: Path) -> dict[str, Any]:
    """Return config.json, whose keys tell a classifier and a bundle from other layouts."""
    if folder.is_file():
        return {}
    try:
        config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    except ValueError:
        return {"encoder": None}  # load_bundle says what is wrong with the file
    return config if isinstance(config, dict) else {}


def _refuse_other_family(folder: Path, config: dict[str, Any]) -> None:
    family = config.get("model_type")
    is_ponet = any("ponet" in str(name).casefold() for name in config.get("architectures") or ())
    if isinstance(family, str) and family != "ponet" and not is_ponet:
        raise ValueError(
            f"--model.encoder {folder}: holds a model of the type {family} in the layout of "
            f"transformers; make it a bundle first: python -m ponet import {folder} --output BUNDLE"
        )


def _files(source: Path) -> list[Path]:
    return [source] if source.is_file() else [source / CONFIG_NAME, *find_weights(source)]


def _digest(source: Path) -> str:
    """Return the digest of a weights file, or of a folder's."""
    files = [source] if source.is_file() else find_weights(source)
    first, *others = map(file_sha256, files)
    return hashlib.sha256("".join((first, *others)).encode()).hexdigest() if others else first
