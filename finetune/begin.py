"""What a fit on a task writes when it begins: last, when every check has been passed."""

from pathlib import Path

from pytorch_lightning import LightningModule, Trainer

from finetune.data.overview import overview_lines
from finetune.module import FinetuneModule, log_prefix
from ponet.weight_files import restore_folder
from training.callbacks.history import RunBegin, rewind_metrics
from training.command_line import check_monitors
from training.inputs import digests, write_inputs
from training.interruption import say


class TaskBegin(RunBegin):
    """Keep the configuration and the digests of what is read; print what is known of the data."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse callbacks that wait for a metric which there is not; then begin."""
        assert isinstance(pl_module, FinetuneModule)
        check_monitors(trainer.callbacks, metric_names(pl_module))  # type: ignore[attr-defined]
        super().on_train_start(trainer, pl_module)

    def begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write both, or go on where the run was stopped."""
        assert isinstance(pl_module, FinetuneModule)
        folder = self.run.folder
        if self.resumes:
            say(f"going on after step {trainer.global_step} of {folder}")
            restore_folder(folder / "classifier")
        else:
            self.write_config(trainer, pl_module)
            write_inputs(folder, digests(input_paths(pl_module)))
        rewind_metrics(trainer)
        print("\n".join(overview_lines(pl_module.datamodule.inspection)))


def input_paths(module: FinetuneModule) -> dict[str, Path]:
    """Return what a fit reads: encoder, tokenizer and the files of the splits."""
    assert module.source is not None
    paths = {f"the encoder's {file.name}": file for file in module.source.files}
    for name, split in module.datamodule.task.splits.items():
        paths[f"the {name} file"] = Path(split.source)
    return paths


def metric_names(module: FinetuneModule) -> list[str]:
    """Return the metrics that a validation of this task gives."""
    majority = module.datamodule.inspection.majority
    names = [
        f"{log_prefix(split)}/{name}"
        for split in module.datamodule.task.validation_splits
        for name in (*(name for name in majority[split] if name != "num_rows"), "loss")
    ]
    return list(dict.fromkeys(names))
