"""A checkpoint of our own pretraining, read without the code that wrote it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ponet.config import EncoderConfig
from ponet.heads import PretrainingModel
from ponet.importing.foreign import ForeignModel, load_strictly, without
from ponet.importing.sources import STATE_FILE
from ponet.key_maps import KeyTable
from ponet.weight_files import TOKENIZER_NAME, file_digest, read_pickle

RUN_KEY = "ponet_run"
_MODEL_PREFIX = "model."
_NOT_ENCODER = ("objective", "config")


@dataclass(frozen=True, kw_only=True)
class OwnCheckpoint:
    """The model of a checkpoint and what is known of its run."""

    converted: ForeignModel
    """The model, with the names in the checkpoint as the foreign ones."""
    state: dict[str, Tensor]
    """The weights by those names."""
    metadata: dict[str, Any]
    """What the run itself would have stored in its bundle."""
    tokenizer_folder: Path | None
    """Where a tokenizer.json of the run is: its shards, or the bundle beside its checkpoints."""
    tokenizer_digest: str | None
    """Of the run's tokenizer."""
    is_verified: bool
    """Whether its digest says that it is whole."""


def read_own_checkpoint(path: Path, *, drop: Sequence[str] = ()) -> OwnCheckpoint:
    """Return the model of a checkpoint.

    Args:
        path: Its folder, or the file that earlier versions wrote, or a link to it.
        drop: Shell patterns of weights to leave out.

    Raises:
        ValueError: If it is damaged, not ours, or a weight is missing, unexpected or not float32.
    """
    real = path.resolve()
    file = real / STATE_FILE if real.is_dir() else real
    is_verified = _matches_digest(file)
    content = read_pickle(file)
    if not isinstance(content, dict) or RUN_KEY not in content:
        raise ValueError(
            f"{path} is not a checkpoint of `python -m pretrain fit`: it has no {RUN_KEY!r}"
        )
    run = content[RUN_KEY]
    config = EncoderConfig.from_dict({k: v for k, v in run.items() if k not in _NOT_ENCODER})
    state, dropped = without(content["state_dict"], drop)
    data = content.get("PretrainDataModule", {})
    fingerprint = data.get("fingerprint", {})
    shards = run.get("config", {}).get("data", {}).get("folder")
    folders = [Path(shards)] if shards else []
    folders.append(path.absolute().parent.parent / "bundle")
    return OwnCheckpoint(
        converted=_converted(config, state, dropped, str(path)),
        state=state,
        metadata={
            "objective": run.get("objective"),
            "steps": content.get("global_step"),
            "samples_seen": data.get("samples_seen"),
            "max_len": fingerprint.get("max_len"),
            "data_digest": fingerprint.get("data"),
        },
        tokenizer_folder=next((f for f in folders if (f / TOKENIZER_NAME).is_file()), None),
        tokenizer_digest=fingerprint.get("tokenizer"),
        is_verified=is_verified,
    )


def _converted(
    config: EncoderConfig, state: Mapping[str, Tensor], dropped: tuple[str, ...], where: str
) -> ForeignModel:
    pair_weight = state.get(f"{_MODEL_PREFIX}pair_head.weight")
    num_pair_classes = 0 if pair_weight is None else pair_weight.shape[0]
    model = PretrainingModel(config, num_pair_classes=num_pair_classes)
    table: KeyTable = [(name, (_MODEL_PREFIX + name,)) for name in model.state_dict()]
    wrong = sorted(key for key, value in state.items() if value.dtype != torch.float32)
    if wrong:
        raise ValueError(f"{where}: {', '.join(wrong)} are not float32; this file is not ours")
    native = {key.removeprefix(_MODEL_PREFIX): value for key, value in state.items()}
    load_strictly(model, native, where)
    return ForeignModel(model=model.eval(), table=table, copies=(), dropped=dropped, untrained=())


def _matches_digest(file: Path) -> bool:
    """Return whether a list of digests names the file; a digest that differs is an error."""
    listings = (file.with_name("SHA256SUMS"), file.with_name(file.name + ".sha256"))
    digests = {
        line.partition(" ")[0].lower()
        for listing in listings
        if listing.is_file()
        for line in listing.read_text(encoding="utf-8").splitlines()
        if line.partition(" ")[2].lstrip(" *").removeprefix("./") == file.name
    }
    if digests and file_digest(file) not in digests:
        raise ValueError(
            f"{file} is damaged: its content is not what its digest says was written; take "
            "an earlier checkpoint of the run"
        )
    return bool(digests)
