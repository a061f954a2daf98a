"""Encoders that are trained from scratch: a YAML file of sizes, as in configs/encoder.

Invariant: a file without a projection means the same for pretraining (`--config`) and here
(`--model.encoder`).
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

import ponet.config
from finetune.data.encoding import is_encoder_file
from ponet.bundle import bundle_folder, read_config
from ponet.config import EncoderConfig
from ponet.tokenizer import num_ids
from ponet.weight_files import CONFIG_NAME, read_json


def read_encoder_file(path: str | Path, *, tokenizer_json: Path, max_len: int) -> EncoderConfig:
    """Return the configuration in a file, for a tokenizer and a length.

    Args:
        path: `model: {encoder: {class_path: ponet.PoNetConfig, init_args: {...}}}`.
        tokenizer_json: Decides the size of the vocabulary.
        max_len: Least number of positions, where these are not fixed.

    Raises:
        ValueError: No such file, or another content; names the file.
    """
    values = _encoder_values(Path(path))
    values["vocab_size"] = num_ids(tokenizer_json)
    try:
        config = EncoderConfig.from_dict(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    if config.fixed_places:  # another number of them is another model
        return config
    return dataclasses.replace(config, max_positions=max(max_len, config.max_positions))


def sizes_of(path: str | Path, *, tokenizer_json: Path, max_len: int) -> EncoderConfig | None:
    """Return the configuration of a file or bundle, or of a run's; None: released weights."""
    if is_encoder_file(path):
        return read_encoder_file(path, tokenizer_json=tokenizer_json, max_len=max_len)
    folder = bundle_folder(path)
    file = folder / CONFIG_NAME
    if not file.is_file() or "encoder" not in read_json(file):
        return None
    return EncoderConfig.from_dict(read_config(folder)["encoder"])


def encoder_entry(path: Path) -> Mapping[str, Any]:
    """Return what a file says of its encoder, `class_path` and `init_args`; empty: nothing.

    Raises:
        ValueError: No such file, or no YAML; names it.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; configs/encoder has some")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML ({error})") from error
    entry: Any = content
    for key in ("model", "encoder"):
        entry = entry.get(key) if isinstance(entry, Mapping) else None
    return entry if isinstance(entry, Mapping) else {}


def _encoder_values(path: Path) -> dict[str, Any]:
    entry = encoder_entry(path)
    classes = {
        name: value
        for name, value in vars(ponet.config).items()
        if isinstance(value, type) and issubclass(value, EncoderConfig) and value.kind
    }
    name = str(entry.get("class_path", "")).rpartition(".")[2]
    if name not in classes:
        raise ValueError(
            f"{path}: needs model.encoder with class_path and init_args; class_path is one of "
            f"{', '.join(f'ponet.{name}' for name in classes)}"
        )
    values = {"kind": classes[name].kind, **_arguments(entry)}
    if isinstance(values.get("projection"), Mapping):
        values["projection"] = _arguments(values["projection"], bare=True)
    return values


def _arguments(entry: Mapping[str, Any], *, bare: bool = False) -> dict[str, Any]:
    """Return the arguments of a class; those of a plain dataclass may stand alone."""
    return dict(entry if bare and "class_path" not in entry else entry.get("init_args") or {})
