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
from ponet.importing.sources import STATE_FILE
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
    """Return the content of a checkpoint, and whether its digest says that it is whole.

    Args:
        path: Its folder, or one file, or a link to it.

    Raises:
        ValueError: If it is damaged, or holds something else.
    """
    real = path.resolve()
    file = real / STATE_FILE if real.is_dir() else real
    digests = _listed_digests(file)
    if digests and file_sha256(file) not in digests:
        raise ValueError(
            f"{file} is damaged: its content is not what its digest says was written; take an "
            "earlier checkpoint of the run"
        )
    content = read_pickle(file)
    return (content if isinstance(content, dict) else {}), bool(digests)


def _listed_digests(file: Path) -> set[str]:
    """Return what the lists of `sha256sum` beside a file say of it."""
    listings = (file.with_name("SHA256SUMS"), file.with_name(file.name + ".sha256"))
    return {
        line.partition(" ")[0].lower()
        for listing in listings
        if listing.is_file()
        for line in listing.read_text(encoding="utf-8").splitlines()
        if line.partition(" ")[2].lstrip(" *").removeprefix("./") == file.name
    }


def tokenizer_folder(trained: TrainedModel, path: Path) -> Path | None:
    """Return where a tokenizer.json of a checkpoint's run is: its shards, or its bundle."""
    folders = [trained.shards, path.absolute().parent.parent / "bundle"]
    return next((f for f in folders if f and (f / TOKENIZER_NAME).is_file()), None)
