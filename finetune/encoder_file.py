"""What stands at `--model.encoder`: the tokenizer there, and YAML files of sizes (configs/encoder).

Invariant: a file without a projection means the same for pretraining (`--config`) and here
(`--model.encoder`).
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ponet.config
from data_prep.command import read_yaml
from data_prep.config import LANGUAGES
from ponet.bundle import bundle_folder, read_config
from ponet.config import EncoderConfig
from ponet.tokenizer import num_ids
from ponet.weight_files import CONFIG_NAME, TOKENIZER_NAME, read_json
from training.configuration import RUN_PARTS


def is_encoder_file(path: str | Path) -> bool:
    """Return whether a path is that of a YAML file of an encoder's sizes."""
    return Path(path).suffix.lower() in (".yaml", ".yml")


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


def language_of(path: str | Path) -> str:
    """Return the language by whose rules an encoder's texts were cut; "en" if it is not known."""
    file = None if is_encoder_file(path) else bundle_folder(path) / CONFIG_NAME
    config = read_json(file) if file is not None and file.is_file() else {}
    known = (config.get(part) or {} for part in ("task", "metadata"))
    return next((one["language"] for one in known if one.get("language") in LANGUAGES), "en")


def encoder_entry(path: Path) -> Mapping[str, Any]:
    """Return what a file says of its encoder, `class_path` and `init_args`; empty: nothing.

    Raises:
        ValueError: No such file, no YAML, or a key stands twice; names it.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; configs/encoder has some")
    entry = read_yaml(path)
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


def tokenizer_file(encoder: str | Path, tokenizer: str | Path = "") -> Path:
    """Return the tokenizer.json of a bundle or classifier, of a run or beside a weights file.

    A tokenizer that is given is taken instead: the file, or what holds one.
    """
    if not encoder:
        raise ValueError(
            "no encoder is given; set model.encoder to a bundle, or to a run folder that holds one"
        )
    if not tokenizer and is_encoder_file(encoder):
        raise ValueError(
            f"{encoder} is an encoder without a tokenizer; give a tokenizer.json with "
            "--model.tokenizer"
        )
    given = Path(tokenizer or encoder)
    if tokenizer and given.is_file():
        return given
    folder = given.parent if given.is_file() else given
    places = [folder / part / TOKENIZER_NAME for part in (*RUN_PARTS, "")]
    found = next((place for place in places if place.is_file()), None)
    if found is not None:
        return found
    if tokenizer:
        raise ValueError(
            f"--model.tokenizer {tokenizer}: no such file, and no folder that holds a "
            f"{TOKENIZER_NAME}"
        )
    what = f"{encoder} has no {TOKENIZER_NAME} (looked for {', '.join(map(str, places))})"
    if not folder.exists():
        what = f"--model.encoder {encoder}: no such folder"
    raise ValueError(
        f"{what}; give a bundle or run folder, or put the tokenizer of the pretraining there; a "
        f"model of transformers or the Hub is made a bundle first: python -m ponet import {encoder}"
        " --output BUNDLE"
    )
