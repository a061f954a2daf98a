"""A trained classifier as a folder: config.json, model.safetensors, tokenizer.json.

Invariant: the folder appears by a rename when it is complete, and loads without pickle.
"""

import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from finetune.encoding import TextEncoder
from ponet import EncoderConfig, SequenceClassifier

FORMAT_VERSION = 1
_CONFIG, _WEIGHTS, _TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"


@dataclass(frozen=True, kw_only=True)
class ClassifierInfo:
    """What a classifier needs besides its weights."""

    labels: tuple[str, ...]
    """Label of each logit."""
    text: str
    """Column of the text it was trained on."""
    text_pair: str
    """Column of the second text; empty: single texts."""
    max_len: int
    """Most tokens of an example."""


@dataclass(frozen=True, kw_only=True)
class LoadedClassifier:
    """A classifier ready to label texts."""

    model: SequenceClassifier
    """In evaluation mode, on the CPU."""
    encoder: TextEncoder
    """Its tokenizer and length."""
    info: ClassifierInfo
    """Labels and columns."""


def save_classifier(
    folder: Path, model: SequenceClassifier, info: ClassifierInfo, *, tokenizer_json: Path
) -> Path:
    """Write a classifier and return its folder.

    Raises:
        OSError: The folder exists and is not empty, or cannot be written.
    """
    config = {
        "format_version": FORMAT_VERSION,
        "encoder": model.encoder.config.to_dict(),
        **asdict(info),
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        state = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
        save_file(state, staging / _WEIGHTS)
        shutil.copyfile(tokenizer_json, staging / _TOKENIZER)
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (staging / _CONFIG).write_text(text, encoding="utf-8")
        (staging / _WEIGHTS).chmod(0o644)  # safetensors and mkdtemp give the owner alone access
        staging.chmod(0o755)
        os.rename(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder


def load_classifier(folder: str | Path) -> LoadedClassifier:
    """Return what `save_classifier` wrote.

    Raises:
        ValueError: A file is missing, damaged, or does not fit the others.
    """
    folder = Path(folder)
    config = _read_config(folder / _CONFIG)
    info = ClassifierInfo(
        labels=tuple(config["labels"]),
        text=config["text"],
        text_pair=config["text_pair"],
        max_len=config["max_len"],
    )
    encoder_config = EncoderConfig.from_dict(config["encoder"])
    model = SequenceClassifier(encoder_config, num_labels=len(info.labels))
    try:
        model.load_state_dict(load_file(folder / _WEIGHTS))
    except (SafetensorError, RuntimeError, FileNotFoundError) as error:
        raise ValueError(f"{folder / _WEIGHTS}: missing, damaged or of another model") from error
    encoder = TextEncoder(folder / _TOKENIZER, max_len=info.max_len)
    return LoadedClassifier(model=model.eval(), encoder=encoder, info=info)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file; give the classifier/ folder of a fit") from error
    except ValueError as error:
        raise ValueError(f"{path}: is not valid JSON ({error})") from error
    expected = {"format_version", "encoder", "labels", "text", "text_pair", "max_len"}
    if not isinstance(config, dict) or set(config) != expected:
        raise ValueError(f"{path}: is no classifier; give the classifier/ folder of a fit")
    if config["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"{path}: format_version is {config['format_version']}; this version reads "
            f"{FORMAT_VERSION}"
        )
    return config
