"""A checkpoint of our own pretraining, read without the code that wrote it, and its bundle.

Whoever makes a bundle of a trained model does it here: the end of a run, `pretrain export`, and
`import` of a checkpoint.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data_prep.manifest import TokenizerInfo, file_sha256
from ponet.bundle import load_strictly, save_bundle
from ponet.config import EncoderConfig
from ponet.heads import PretrainingModel
from ponet.importing.foreign import ForeignModel, without
from ponet.weight_files import TOKENIZER_NAME, read_pickle

RUN_KEY = "ponet_run"
_MODEL_PREFIX = "model."
_NOT_ENCODER = ("objective", "config")


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """The model of a checkpoint and what is known of its run."""

    converted: ForeignModel
    """The model, with the names in the checkpoint as the foreign ones."""
    metadata: dict[str, Any]
    """What its bundle stores beside it."""
    shards: Path | None
    """What it was trained on, as the run named it."""
    tokenizer_digest: str | None
    """Of the run's tokenizer."""

    def check_tokenizer(self, tokenizer_json: Path, *, advice: str) -> None:
        """Refuse a tokenizer.json that is not the run's.

        Args:
            tokenizer_json: The file.
            advice: What to do otherwise.

        Raises:
            ValueError: If it is another one.
        """
        found = TokenizerInfo.from_file(tokenizer_json).digest
        if self.tokenizer_digest not in (None, found):
            raise ValueError(
                f"{tokenizer_json} is not the tokenizer of the run: its digest is {found[:12]}…, "
                f"the run's {str(self.tokenizer_digest)[:12]}…; {advice}"
            )

    def save(self, folder: Path, tokenizer_json: Path) -> None:
        """Write the bundle of the model, as `save_bundle` does."""
        model = self.converted.model
        save_bundle(folder, model, tokenizer_json=tokenizer_json, metadata=self.metadata)


def trained_model(
    checkpoint: Mapping[str, Any], *, where: object, drop: Sequence[str] = ()
) -> TrainedModel:
    """Return the model that a checkpoint holds.

    Args:
        checkpoint: Its content, with whole weights.
        where: What to call it in an error.
        drop: Shell patterns of weights to leave out.

    Raises:
        ValueError: If it is not ours, or a weight is missing, unexpected or not float32.
    """
    if RUN_KEY not in checkpoint:
        raise ValueError(
            f"{where} is not a checkpoint of `python -m pretrain fit`: it has no {RUN_KEY!r}"
        )
    run = checkpoint[RUN_KEY]
    config = EncoderConfig.from_dict({k: v for k, v in run.items() if k not in _NOT_ENCODER})
    data = checkpoint.get("PretrainDataModule", {})
    fingerprint = data.get("fingerprint", {})
    shards = run.get("config", {}).get("data", {}).get("folder")
    return TrainedModel(
        converted=_converted(config, checkpoint["state_dict"], where, drop),
        metadata={
            "objective": run.get("objective"),
            "steps": checkpoint.get("global_step"),
            "samples_seen": data.get("samples_seen"),
            "max_len": fingerprint.get("max_len"),
            "data_digest": fingerprint.get("data"),
        },
        shards=Path(shards) if shards else None,
        tokenizer_digest=fingerprint.get("tokenizer"),
    )


def _converted(
    config: EncoderConfig, weights: Mapping[str, Any], where: object, drop: Sequence[str]
) -> ForeignModel:
    state, dropped = without(weights, drop)
    pair_weight = state.get(f"{_MODEL_PREFIX}pair_head.weight")
    num_pair_classes = 0 if pair_weight is None else pair_weight.shape[0]
    model = PretrainingModel(config, num_pair_classes=num_pair_classes)
    wrong = sorted(key for key, value in state.items() if value.dtype != torch.float32)
    if wrong:
        raise ValueError(f"{where}: {', '.join(wrong)} are not float32; this file is not ours")
    native = {key.removeprefix(_MODEL_PREFIX): value for key, value in state.items()}
    load_strictly(model, native, where)
    return ForeignModel(
        model=model.eval(),
        table=[(name, (_MODEL_PREFIX + name,)) for name in native],
        copies=(),
        dropped=dropped,
        untrained=(),
    )


def read_checkpoint_file(path: Path) -> tuple[dict[str, Any], bool]:
    """Return the content of a .ckpt file, and whether a digest beside it says that it is whole.

    Raises:
        ValueError: If it is damaged, or holds something else.
    """
    file = path.resolve()
    listing = file.with_name(file.name + ".sha256")
    is_verified = listing.is_file()
    if is_verified and f"{file_sha256(file)}  {file.name}" not in _lines(listing):
        raise ValueError(
            f"{path} is damaged: its content is not what {listing.name} says was written; take "
            "an earlier checkpoint of the run"
        )
    content = read_pickle(path)
    return (content if isinstance(content, dict) else {}), is_verified


def _lines(listing: Path) -> list[str]:
    """Return the lines of a list of `sha256sum` in one form: digest, two spaces, name."""
    pairs = (line.partition(" ")[::2] for line in listing.read_text("utf-8").splitlines())
    return [f"{sha.lower()}  {name.lstrip(' *').removeprefix('./')}" for sha, name in pairs]


def tokenizer_folder(trained: TrainedModel, path: Path) -> Path | None:
    """Return where a tokenizer.json of a checkpoint's run is: its shards, or its bundle."""
    folders = [trained.shards, path.absolute().parent.parent / "bundle"]
    return next((f for f in folders if f and (f / TOKENIZER_NAME).is_file()), None)
