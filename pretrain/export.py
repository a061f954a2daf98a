"""`export`: a checkpoint, also a ZeRO folder, as a bundle or an ordinary checkpoint.

A run's own bundle, at its end, is made by the same function.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from training.command_line import parse_options


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Write a checkpoint, also a ZeRO folder, as a bundle or an ordinary checkpoint."""

    source: Path
    """Checkpoint of a run, ordinary or of ZeRO."""
    output: Path = Path()
    """Bundle folder to write, for fine-tuning."""
    checkpoint: Path = Path()
    """To write: a ZeRO folder as an ordinary checkpoint with the whole optimiser state, to be
    resumed with --resume on any number of devices."""
    folder: Path = Path()
    """Shards with the tokenizer; left out: those of the run."""

    def __post_init__(self) -> None:
        if self.output == self.checkpoint == Path():
            raise ValueError(
                "export writes nothing: give --output BUNDLE, --checkpoint FILE, or both"
            )


def run_export(arguments: Sequence[str]) -> None:
    """`export CHECKPOINT [--output BUNDLE] [--checkpoint FILE.ckpt] [--folder SHARDS]`."""
    program = "ponet-pretrain export"
    options = parse_options(ExportOptions, arguments, program=program, positional="source")
    from pretrain.strategies.consolidate import consolidate
    from training.checkpoints.storage import is_sharded, load_checkpoint
    from training.run_config import CHECKPOINT_FOLDER

    source, path, shards = options.source, options.checkpoint, options.folder
    if not source.exists():
        raise ValueError(f"there is no checkpoint at {source}")
    if (newest := source / CHECKPOINT_FOLDER / "last.ckpt").exists():
        raise ValueError(f"{source} is a run's folder; give one of its checkpoints: {newest}")
    sharded = is_sharded(source)
    if path != Path() and not sharded:
        raise ValueError(f"{source} is an ordinary checkpoint already; leave --checkpoint out")
    checkpoint = consolidate(source)[0] if sharded else load_checkpoint(source)
    if path != Path():
        export_checkpoint(checkpoint, path)
        print(f"checkpoint: {path}")
    if options.output != Path():
        _write_alone(checkpoint, options.output, None if shards == Path() else shards)
        print(f"bundle: {options.output}")


def _write_alone(checkpoint: Mapping[str, Any], output: Path, shards: Path | None) -> None:
    """Write a bundle; in a run's folder alone, for a fit at work there writes the same one."""
    from pretrain.run_config import RUN_FILES
    from training.run_config import METRICS_FILE
    from training.run_folder import sole_writer

    run = output.parent
    is_run = (run / METRICS_FILE).exists()
    with sole_writer(run, own=RUN_FILES, doing="export") if is_run else nullcontext():
        write_bundle(checkpoint, output, shards=shards)


def export_checkpoint(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Write an ordinary checkpoint with its digest; it is verified after writing."""
    from training.checkpoints.storage import CHECKPOINT_SUFFIX, write_checkpoint

    if path.exists():
        raise ValueError(f"{path} exists; choose another name or remove it")
    if path.suffix != CHECKPOINT_SUFFIX:
        raise ValueError(f"--checkpoint {path}: the name must end in {CHECKPOINT_SUFFIX}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(checkpoint, path)


def write_bundle(
    checkpoint: Mapping[str, Any], output: Path, *, shards: Path | None = None
) -> None:
    """Write the bundle of a checkpoint.

    Args:
        checkpoint: Whole float32 weights and what belongs to them.
        output: Bundle folder.
        shards: Folder with `tokenizer.json`; None: the run's data folder.
    """
    from ponet import save_bundle
    from ponet.foreign import trained_model
    from ponet.weight_files import TOKENIZER_NAME

    trained = trained_model(checkpoint, where="the checkpoint", shards=shards)
    path = (trained.shards or Path()) / TOKENIZER_NAME
    advice = "give the folder of the run's shards by --folder"
    if not path.is_file():
        raise ValueError(f"no tokenizer at {path}: {advice}")
    trained.check_tokenizer(path, advice=advice)
    save_bundle(output, trained.converted.model, tokenizer_json=path, metadata=trained.metadata)


class BundleExport(Callback):
    """Save model, config and tokenizer as a bundle at the end of training.

    Args:
        folder: The bundle's folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export on the first rank."""
        self.write(trainer, pl_module)

    def done(self) -> bool:
        """Whether the bundle is there."""
        return (self.folder / "model.safetensors").exists()

    def write(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the bundle, with whole float32 weights under any strategy; called on all ranks."""
        from pretrain.strategies.consolidate import full_model_state

        weights = full_model_state(trainer)
        if weights is None:
            return
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        checkpoint: dict[str, Any] = {
            "state_dict": {f"model.{name}": value for name, value in weights.items()},
            "global_step": trainer.global_step,
            "PretrainDataModule": {
                "samples_seen": trainer.global_step * datamodule.global_batch_size,
                "fingerprint": datamodule.fingerprint(),
            },
        }
        pl_module.on_save_checkpoint(checkpoint)
        write_bundle(checkpoint, self.folder, shards=datamodule.tokenizer_path.parent)
