"""Bundles (config.json + model.safetensors + tokenizer.json) and the authors' released weights.

Invariant: weights are read as tensors only, never as arbitrary pickled objects, and every key of a
file is accounted for.
"""

import json
import os
import pickle
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ponet.config import EncoderConfig, PoNetConfig
from ponet.heads import PretrainingModel
from ponet.key_maps import drop_tied_decoder, encoder_table, head_table, import_state

_FORMAT_VERSION = 1
_CONFIG, _WEIGHTS, _TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A loaded bundle."""

    model: PretrainingModel
    """The model, in evaluation mode, on the CPU."""
    tokenizer_path: Path | None
    """tokenizer.json (Hugging Face tokenizers format), if the bundle has one."""
    metadata: dict[str, Any]
    """What the writer stored beside the model: JSON types only."""


def save_bundle(
    folder: str | Path,
    model: PretrainingModel,
    *,
    tokenizer_json: Path | None,
    metadata: dict[str, Any] | None = None,
) -> Path:
    """Write a bundle and return its folder; a bundle already there is replaced as a whole.

    Args:
        folder: Target. It is put in place by a rename, so that it is never half written.
        model: Model on any device.
        tokenizer_json: Tokenizer file to copy, or None.
        metadata: Anything that fits into JSON, such as the steps trained.

    Raises:
        ValueError: If the target exists and is not a bundle, the tokenizer is missing, or the
            metadata does not fit into JSON.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or _is_foreign(target)):
        raise ValueError(f"{target} exists and is no bundle; choose another folder or remove it")
    if tokenizer_json is not None and not Path(tokenizer_json).is_file():
        raise ValueError(f"tokenizer file {tokenizer_json} does not exist; give its path or None")
    config = {
        "format_version": _FORMAT_VERSION,
        "encoder": model.config.to_dict(),
        "num_pair_classes": model.num_pair_classes,
        "metadata": metadata or {},
    }
    try:
        config_text = json.dumps(config, indent=2) + "\n"
    except TypeError as error:
        raise ValueError(f"the metadata does not fit into JSON: {error}") from error
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        state = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
        save_file(state, staging / _WEIGHTS)
        if tokenizer_json is not None:
            shutil.copyfile(tokenizer_json, staging / _TOKENIZER)
        (staging / _CONFIG).write_text(config_text, encoding="utf-8")
        staging.chmod(0o755)
        _swap_in(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def load_bundle(folder: str | Path) -> Bundle:
    """Return what save_bundle wrote.

    Raises:
        ValueError: If a file is missing, damaged, or does not fit the others.
    """
    source = Path(folder)
    config = _read_json(source / _CONFIG)
    if config.get("format_version") != _FORMAT_VERSION:
        raise ValueError(
            f"{source / _CONFIG} has format_version {config.get('format_version')!r}; "
            f"this version reads {_FORMAT_VERSION}"
        )
    expected = {"format_version", "encoder", "num_pair_classes", "metadata"}
    if set(config) != expected:
        raise ValueError(
            f"{source / _CONFIG} has the keys {', '.join(sorted(config))}; "
            f"needed are {', '.join(sorted(expected))}"
        )
    model = PretrainingModel(
        EncoderConfig.from_dict(config["encoder"]), num_pair_classes=config["num_pair_classes"]
    )
    _load_strictly(model, _read_safetensors(source / _WEIGHTS), source / _WEIGHTS)
    tokenizer_path = source / _TOKENIZER
    return Bundle(
        model=model.eval(),
        tokenizer_path=tokenizer_path if tokenizer_path.is_file() else None,
        metadata=config["metadata"],
    )


def load_official(path: str | Path) -> PretrainingModel:
    """Return the authors' released model, in evaluation mode.

    Args:
        path: A folder with config.json and model.safetensors or pytorch_model.bin, or one
            .safetensors file with the configuration as JSON under the metadata key "config". In a
            file with groups of tensors, only "weights." is read.

    Raises:
        ValueError: If a file is missing or damaged, the configuration is not PoNet's, or a key is
            missing, unexpected, or contradicts what it is tied to.
    """
    source = Path(path)
    if source.is_dir():
        values, state = _read_json(source / _CONFIG), _read_official_weights(source)
    else:
        state = _read_safetensors(source)
        values = _read_config_metadata(source)
    if any(key.startswith("weights.") for key in state):
        state = {
            key.removeprefix("weights."): tensor
            for key, tensor in state.items()
            if key.startswith("weights.")
        }
    config = official_config(values)
    state = drop_tied_decoder(state, word_key="ponet.embeddings.word_embeddings.weight")
    pair_weight = state.get("cls.seq_relationship.weight")
    num_pair_classes = 3 if pair_weight is None else pair_weight.shape[0]
    model = PretrainingModel(config, num_pair_classes=num_pair_classes)
    table = encoder_table(config, foreign_prefix="ponet.") + head_table()
    _load_strictly(model, import_state(state, table), source)
    return model.eval()


def official_config(values: Mapping[str, Any]) -> PoNetConfig:
    """Return the configuration that a released config.json describes.

    Raises:
        ValueError: If it describes another model or a function that this PoNet does not compute.
    """
    supported = {"model_type": ("ponet",), "position_embedding_type": ("absolute",)}
    if any(str(name).startswith("PoNet") for name in values.get("architectures") or ()):
        supported.pop("model_type")  # the released config.json says "bert": it was made from BERT's
    for key, allowed in supported.items():
        if values.get(key, allowed[0]) not in allowed:
            raise ValueError(f"config has {key}={values[key]!r}; supported: {', '.join(allowed)}")
    activations: dict[str, Literal["gelu", "gelu_tanh"]] = {
        "gelu": "gelu",
        "gelu_new": "gelu_tanh",
        "gelu_pytorch_tanh": "gelu_tanh",
    }
    activation = values.get("hidden_act", "gelu")
    if activation not in activations:
        raise ValueError(
            f"config has hidden_act={activation!r}; supported: {', '.join(activations)}"
        )
    names = {
        "vocab_size": "vocab_size",
        "hidden_size": "hidden_size",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "intermediate_size": "ffn_size",
        "max_position_embeddings": "max_positions",
        "type_vocab_size": "type_vocab_size",
        "hidden_dropout_prob": "dropout_prob",
        "layer_norm_eps": "layer_norm_eps",
        "initializer_range": "init_range",
        "clsgsepg": "guard_special_tokens",
    }
    fields = {ours: values[theirs] for theirs, ours in names.items() if theirs in values}
    return PoNetConfig(**fields, activation=activations[activation])


def _is_foreign(folder: Path) -> bool:
    return any(folder.iterdir()) and not (folder / _CONFIG).is_file()


def _swap_in(staging: Path, target: Path) -> None:
    """Rename staging to target; an old target is moved aside first and removed last."""
    if not target.exists():
        os.rename(staging, target)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    os.rename(target, aside / "bundle")
    try:
        os.rename(staging, target)
    except OSError:
        os.rename(aside / "bundle", target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return _parse_object(path.read_bytes(), str(path))
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist; give a folder that holds {path.name}") from error


def _parse_object(text: str | bytes, where: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{where} is not valid JSON ({error}); restore or re-create it") from error
    if not isinstance(values, dict):
        raise ValueError(f"{where} holds a {type(values).__name__}; a JSON object is needed")
    return values


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give a path that holds the weights")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); copy or export it again") from error


def _read_config_metadata(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    if "config" not in metadata:
        raise ValueError(
            f"{path} has no configuration in its metadata; give the folder with config.json instead"
        )
    return _parse_object(metadata["config"], f"the metadata of {path}")


def _read_official_weights(folder: Path) -> dict[str, Tensor]:
    if (folder / _WEIGHTS).is_file():
        return _read_safetensors(folder / _WEIGHTS)
    path = folder / "pytorch_model.bin"
    if not path.is_file():
        raise ValueError(f"{folder} holds neither {_WEIGHTS} nor {path.name}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path} is damaged or holds more than tensors, which is refused ({reason}); "
            "convert it to safetensors where you trust it"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise ValueError(f"{path} holds no state dict; a dict of tensors is needed")
    return state


def _load_strictly(model: PretrainingModel, state: Mapping[str, Tensor], path: Path) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit its configuration: {error}") from error
