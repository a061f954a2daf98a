"""Configuration and weight files as they lie on disk: JSON objects, tensors, whole folders.

Invariant: nothing that a file holds is ever run, a damaged file is named in the error, and a folder
appears by a rename when it is complete.
"""

import json
import os
import pickle
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

CONFIG_NAME, WEIGHTS_NAME, TOKENIZER_NAME = "config.json", "model.safetensors", "tokenizer.json"
PICKLE_NAME = "pytorch_model.bin"
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
_OTHER_OBJECT = re.compile(r"GLOBAL ([\w.]+)")
INDEX_SUFFIX = ".index.json"
"""A file of this name beside a weights file's name lists the parts it was cut into."""


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        ValueError: If the file is missing, or holds something else.
    """
    try:
        return parse_object(path.read_bytes(), str(path))
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist; give a folder that holds {path.name}") from error


def refuse_classifier(folder: Path, config: dict[str, Any]) -> None:
    """Say what a fine-tuned classifier is for where a bundle is needed.

    Raises:
        ValueError: If the config.json of the folder is that of a classifier.
    """
    if {"encoder", "labels"} <= config.keys():
        raise ValueError(
            f"{folder} is a fine-tuned classifier, not a bundle; label texts with `python -m "
            "finetune predict --model`, or take it to transformers with `python -m ponet export "
            "--format huggingface`"
        )


def parse_object(text: str | bytes, where: str) -> dict[str, Any]:
    """Return the JSON object in a text.

    Args:
        text: JSON.
        where: What to call it in an error.

    Raises:
        ValueError: If it is no JSON, or no object.
    """
    try:
        values = json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{where} is not valid JSON ({error}); restore or re-create it") from error
    if not isinstance(values, dict):
        raise ValueError(f"{where} holds a {type(values).__name__}; a JSON object is needed")
    return values


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors file.

    Raises:
        ValueError: If it is missing or damaged.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give a path that holds the weights")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); copy or export it again") from error


def read_config_metadata(path: Path) -> dict[str, Any]:
    """Return the configuration that a .safetensors file carries under the metadata key "config".

    Raises:
        ValueError: If it carries none.
    """
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    if "config" not in metadata:
        raise ValueError(
            f"{path} has no configuration in its metadata; give the folder with config.json instead"
        )
    return parse_object(metadata["config"], f"the metadata of {path}")


def read_pickle(path: Path) -> Any:
    """Return what torch.save wrote, if it is tensors and plain values alone.

    Raises:
        ValueError: If the file is missing, damaged, or holds any other object.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give a path that holds the weights")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        found = _OTHER_OBJECT.search(str(error))  # torch's own text tells how to run it
        if found is None:
            raise ValueError(
                f"{path} is damaged or not written by torch.save; copy it again"
            ) from error
        raise ValueError(
            f"{path} holds more than tensors ({found[1]}), which is refused, because reading it "
            "could run any code; save model.state_dict() alone where you trust it"
        ) from error


def read_weights_file(path: Path) -> dict[str, Tensor]:
    """Return the tensors of one file, safetensors by its ending, else a pickle of a state dict.

    Raises:
        ValueError: If the file is missing or damaged, or holds something else.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    content = read_pickle(path)
    state = _unwrapped(content)
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        keys = f" under {', '.join(map(str, content))}"[:200] if isinstance(content, dict) else ""
        raise ValueError(f"{path} holds no state dict{keys}; a dict of tensors is needed")
    return state


def _unwrapped(content: Any) -> Any:
    """Return the state dict inside what training scripts save beside their optimiser's state."""
    while isinstance(content, dict):
        inner = [content[name] for name in _WRAPPERS if isinstance(content.get(name), dict)]
        if len(inner) != 1:
            break
        content = inner[0]
    return content


def find_weights(folder: Path) -> list[Path]:
    """Return the weights files of a folder, safetensors first: one, or the parts of an index.

    Raises:
        ValueError: If there are none, or an index is broken.
    """
    for name in (WEIGHTS_NAME, PICKLE_NAME):
        if (folder / name).is_file():
            return [folder / name]
        index = folder / (name + INDEX_SUFFIX)
        if index.is_file():
            return [folder / part for part in index_parts(read_json(index), str(index))]
    raise ValueError(f"{folder} holds neither {WEIGHTS_NAME} nor {PICKLE_NAME}")


def index_parts(values: dict[str, Any], where: str) -> list[str]:
    """Return the file names that an index of weights lists, each once.

    Raises:
        ValueError: If there is no map of weights, or a name leads out of the folder.
    """
    names = values.get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ValueError(f"{where} has no weight_map; download it again")
    parts = sorted({str(name) for name in names.values()})
    if any(Path(part).name != part for part in parts):
        raise ValueError(f"{where} names files of other folders, which is refused")
    return parts


def read_weights(files: Sequence[Path]) -> dict[str, Tensor]:
    """Return the tensors of several files together.

    Raises:
        ValueError: If a file is missing or damaged, or a name stands in two of them.
    """
    state: dict[str, Tensor] = {}
    for path in files:
        part = read_weights_file(path)
        if twice := sorted(state.keys() & part.keys()):
            raise ValueError(f"{path} repeats the weights {', '.join(twice)} of another file")
        state |= part
    return state


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Give an empty folder to fill; it takes the place of the target at the end, if all went well.

    What stood there is moved aside first and removed last; after an error nothing has changed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield staging
        staging.chmod(0o755)
        _swap_in(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _swap_in(staging: Path, target: Path) -> None:
    if not target.exists():
        os.rename(staging, target)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    os.rename(target, aside / "old")
    try:
        os.rename(staging, target)
    except OSError:
        os.rename(aside / "old", target)
        raise
    finally:
        if target.exists():
            shutil.rmtree(aside, ignore_errors=True)
