"""What a fit is given beside module and data, and which options of the trainer it refuses."""

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback

from finetune.callbacks import TrainingLog, WandbLineage, dropout_seed
from finetune.run_config import RunConfig
from training.callbacks.steps import StepSeeds

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


def fit_callbacks(run: RunConfig, *, log_every_n_steps: int) -> list[Callback]:
    """Return the callbacks of `fit` that write no file, in the order in which they are called."""
    callbacks: list[Callback] = [StepSeeds(dropout_seed), TrainingLog(log_every_n_steps)]
    return callbacks if run.wandb == "off" else [*callbacks, WandbLineage()]


def check_trainer(trainer: Trainer) -> None:
    """Refuse options of the trainer that could give no result.

    Raises:
        ValueError: Names the option and what to give instead.
    """
    if trainer.precision not in PRECISIONS:
        raise ValueError(
            f"trainer.precision is {trainer.precision}; fine-tuning has {', '.join(PRECISIONS)}, "
            "which keep the weights in 32 bits"
        )
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        if getattr(trainer, name) == 0:
            raise ValueError(f"trainer.{name} is 0: nothing would be trained; give 1 or more")
    if trainer.limit_val_batches == 0:
        raise ValueError(
            "trainer.limit_val_batches is 0: no epoch would be validated, so there would be no "
            "best classifier to keep; leave it out, or use --data.max_eval_rows for a quick look"
        )
    if trainer.overfit_batches:  # type: ignore[attr-defined]
        raise ValueError(
            "trainer.overfit_batches has no effect on the order of the rows here; use "
            "--data.max_train_rows, with the training file as --data.validation"
        )
