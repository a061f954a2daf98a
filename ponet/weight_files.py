"""Configuration and weight files as they lie on disk: JSON objects, tensors, whole folders.

Invariant: nothing that a file holds is ever run, a damaged file is named in the error, and a folder
appears by a rename when it is complete.
"""

import hashlib
import json
import os
import pickle
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from data_prep.manifest import file_sha256

CONFIG_NAME, WEIGHTS_NAME, TOKENIZER_NAME = "config.json", "model.safetensors", "tokenizer.json"
PICKLE_NAME = "pytorch_model.bin"
STATE_NAME = "state.pt"
"""What a checkpoint of our own training, a folder, holds beside its list of digests."""
_OFFICIAL_GROUP = "weights."
_WRAPPING_KEYS = ("state_dict", "model_state_dict", "model", "module")
_WRAPPING_NAMES = ("module.", "_orig_mod.", "model.")
_OTHER_OBJECT = re.compile(r"GLOBAL ([\w.]+)")


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file."""
    try:
        return _object_in(path.read_bytes(), path)
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist; give a folder that holds {path.name}") from error


def _object_in(text: str | bytes, where: object) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{where} is not valid JSON ({error}); restore or re-create it") from error
    if not isinstance(values, dict):
        raise ValueError(f"{where} holds a {type(values).__name__}; a JSON object is needed")
    return values


def read_config_metadata(path: Path) -> dict[str, Any]:
    """Return the configuration that a .safetensors file carries under the metadata key "config"."""
    metadata = _read_safetensors(path)[1]
    if "config" not in metadata:
        raise ValueError(
            f"{path} has no configuration in its metadata; give the folder with config.json instead"
        )
    return _object_in(metadata["config"], f"the metadata of {path}")


def find_weights(folder: Path) -> list[Path]:
    """Return the weights files of a folder, safetensors first: one, or the parts of an index."""
    for name in (WEIGHTS_NAME, PICKLE_NAME):
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if not index.is_file():
            continue
        parts = read_json(index).get("weight_map")
        if not isinstance(parts, dict) or not parts:
            raise ValueError(f"{index} has no weight_map; download it again")
        if any(Path(str(part)).name != part for part in parts.values()):
            raise ValueError(f"{index} names files of other folders, which is refused")
        return [folder / part for part in sorted(set(parts.values()))]
    raise ValueError(f"{folder} holds neither {WEIGHTS_NAME} nor {PICKLE_NAME}")


def read_weights(*files: Path) -> dict[str, Tensor]:
    """Return the tensors of files together: safetensors by their ending, else pickles."""
    state: dict[str, Tensor] = {}
    for path in files:
        is_safe = path.suffix == ".safetensors"
        part = _read_safetensors(path)[0] if is_safe else _read_state_dict(path)
        if twice := sorted(state.keys() & part.keys()):
            raise ValueError(f"{path} repeats the weights {', '.join(twice)} of another file")
        state |= part
    return state


def weight_digest(weight: Tensor) -> str:
    """Return the SHA-256 of a weight's values."""
    return hashlib.sha256(weight.detach().cpu().contiguous().numpy().tobytes()).hexdigest()


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a file and its metadata."""
    try:
        with safe_open(_existing(path), "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); copy or export it again") from error


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the state dict in a pickle, also beside what training scripts save with it."""
    content = state = read_pickle(path)
    while isinstance(state, dict):
        inner = [state[name] for name in _WRAPPING_KEYS if isinstance(state.get(name), dict)]
        if len(inner) != 1:
            break
        state = inner[0]
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        keys = f" under {', '.join(map(str, content))}"[:200] if isinstance(content, dict) else ""
        raise ValueError(f"{path} holds no state dict{keys}; a dict of tensors is needed")
    return state


def read_pickle(path: Path) -> Any:
    """Return what torch.save wrote, if it is tensors and plain values alone."""
    try:
        return torch.load(_existing(path), map_location="cpu", weights_only=True)
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


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give a path that holds the weights")
    return path


def unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under "weights.", without that prefix, or all where there are none.

    What a wrapper has put before every name, such as "module.", is left out too.
    """
    group = [key for key in state if key.startswith(_OFFICIAL_GROUP)]
    inner = {key.removeprefix(_OFFICIAL_GROUP): state[key] for key in group or state}
    while prefix := next((p for p in _WRAPPING_NAMES if all(k.startswith(p) for k in inner)), ""):
        inner = {key.removeprefix(prefix): tensor for key, tensor in inner.items()}
    return inner


def read_checkpoint(path: Path) -> tuple[dict[str, Any], bool]:
    """Return the content of our own training's checkpoint, and whether its digest was compared.

    Args:
        path: Its folder, or one file, or a link to it.
    """
    real = path.resolve()
    file = real / STATE_NAME if real.is_dir() else real
    listings = (file.with_name("SHA256SUMS"), file.with_name(f"{file.name}.sha256"))
    lines = (
        line.split(maxsplit=1)
        for listing in listings
        if listing.is_file()
        for line in listing.read_text(encoding="utf-8").splitlines()
        if line.strip()
    )
    digests = {words[0].lower() for words in lines if words[-1].lstrip("*./") == file.name}
    if digests and file_sha256(file) not in digests:
        raise ValueError(
            f"{file} is damaged: its content is not what its digest says was written; take an "
            "earlier checkpoint of the run"
        )
    content = read_pickle(file)
    return (content if isinstance(content, dict) else {}), bool(digests)


@contextmanager
def new_folder(target: Path, *, replaces: bool = True) -> Iterator[Path]:
    """Give an empty folder to fill; it takes the place of the target at the end, if all went well.

    What stood there is moved aside first and removed last; after an error nothing has changed.

    Args:
        target: The folder.
        replaces: Whether something may stand there already.
    """
    if not replaces and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"--output {target} holds something; choose another folder or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent)) / "old"
    try:
        yield staging
        staging.chmod(0o755)
        if target.exists():
            os.rename(target, aside)
        os.rename(staging, target)
    finally:
        if aside.exists() and not target.exists():
            os.rename(aside, target)
        shutil.rmtree(staging, ignore_errors=True)
        shutil.rmtree(aside.parent, ignore_errors=True)


def restore_folder(target: Path) -> None:
    """Bring back what a killed `new_folder` had moved aside, and clear up what it left."""
    old = next(target.parent.glob(f".{target.name}.old.*/*"), None)
    if old is not None and not target.exists():
        os.rename(old, target)
    for left in target.parent.glob(f".{target.name}.*"):
        shutil.rmtree(left, ignore_errors=True)


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], where: object) -> None:
    """Load a native state dict that must name every weight, with its shape."""
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{where} does not fit its configuration: {error}") from error
