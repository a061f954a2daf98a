"""Callbacks of a fit on a task: what it logs and says, the best classifier, going on, W&B.

Invariant: every rank looks at the same steps, and all see the same numbers.
"""

import hashlib
import logging
import math
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from finetune.artifact import ClassifierInfo, EncoderSource
from finetune.fit_module import FitModule
from finetune.module import FinetuneModule
from finetune.run_config import RunConfig
from ponet import save_bundle
from ponet.encoders.pairs import WordPairs
from training.callbacks.steps import ranks_agree, say_above, show
from training.checkpoints.schedule import SAVE, SavesAndStops, loop_state
from training.interruption import StopRequest
from training.run_config import BUNDLE_FOLDER, RESULT_FILE
from training.tracking import TrackingRecord, add_config, log_files, log_table, tracked_run

_LOGGER = logging.getLogger(__name__)


def dropout_seed(trainer: Trainer, batch_idx: int) -> int:
    """Seed of a forward pass, of run, epoch, micro-batch and rank alone."""
    seed = trainer.datamodule.seed  # type: ignore[attr-defined]
    place = f"{seed} {trainer.current_epoch} {batch_idx} {trainer.global_rank}"
    return int.from_bytes(hashlib.blake2b(place.encode(), digest_size=8).digest(), "little")


class TrainingLog(Callback):
    """Logs the mean loss of the steps since the last look, every few steps and at validation.

    `train/loss` is the mean over the rows of these steps, in nats (squared error for a
    regression). A loss that is not finite stops training and is noted in the module's `diverged`.
    Prints the scores of every validation.

    Args:
        every_n_steps: Optimiser steps between two looks, > 0.
    """

    def __init__(self, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps
        self._last_step = 0
        self._losses: list[Tensor] = []
        self._lr = 0.0

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the losses that are not logged yet, means over all ranks; every rank calls it."""
        losses: list[float] = []
        if self._losses:
            reduced: Any = trainer.strategy.reduce(torch.stack(self._losses), reduce_op="mean")
            losses = reduced.tolist()
        checkpoint["callbacks"][self.state_key] = {"losses": losses, "lr": self._lr}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with them."""
        self._losses = [torch.tensor(loss) for loss in state_dict["losses"]]
        self._lr = state_dict["lr"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from the step that the run goes on from."""
        self._last_step = trainer.global_step
        self._losses = [loss.to(pl_module.device) for loss in self._losses]

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Keep the learning rate that the step takes."""
        self._lr = float(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Keep the loss of a step that this micro-batch completed."""
        if trainer.global_step == self._last_step:
            return
        self._last_step = trainer.global_step
        assert isinstance(pl_module, FitModule) and pl_module.step_loss is not None
        self._losses.append(pl_module.step_loss)
        if self._last_step % self.every_n_steps == 0 or self._last_step == pl_module.renamed_after:
            self.look(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the last steps before they are judged."""
        self.look(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what the first validation split scores."""
        assert isinstance(pl_module, FitModule)
        if trainer.progress_bar_callback is not None and not trainer.sanity_checking:
            step, steps = trainer.global_step, int(trainer.estimated_stepping_batches)
            found = next(iter(pl_module.evaluation.values()))
            scores = f"score {found['score']:.4f}, loss {found['loss']:.4f}"
            say_above(trainer, f"step {step:,} of {steps:,}: {scores}", file=sys.stderr)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the last steps."""
        self.look(trainer, pl_module)

    def look(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the steps since the last look; every rank calls it at the same step."""
        assert isinstance(pl_module, FitModule)
        if not self._losses:
            return
        reduced: Any = trainer.strategy.reduce(torch.stack(self._losses), reduce_op="mean")
        losses: list[float] = reduced.tolist()
        first_step = trainer.global_step - len(losses) + 1
        self._losses = []
        mean = sum(losses) / len(losses)
        for logger in trainer.loggers:
            logger.log_metrics(
                {pl_module.loss_name: mean, "lr": self._lr}, step=trainer.global_step
            )
        show(trainer, {"loss": f"{mean:.4f}"})
        bad = [(n, x) for n, x in enumerate(losses, first_step) if not math.isfinite(x)]
        if bad and not pl_module.diverged:
            pl_module.diverged = f"the training loss is {bad[0][1]} at step {bad[0][0]}"
            trainer.should_stop = True


class BestClassifier(Callback):
    """Writes the classifier at every new best score of the first validation split.

    The folder always holds a whole classifier, the one that `evaluation` describes. Equal scores
    are decided by the smaller loss, then by the earlier epoch. A validation loss that is not finite
    stops training, is noted in the module's `diverged`, and is never the best.

    Args:
        folder: The classifier's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.epoch = 0
        """Best epoch, counted from 1; 0: none yet."""
        self.step = 0
        """Optimiser steps it took."""
        self.total_steps = 0
        """Optimiser steps of the whole run."""
        self.validated_step = -1
        """Optimiser steps before the newest validation; -1: there was none."""
        self.evaluation: dict[str, dict[str, float]] = {}
        """Its scores: validation split -> metric -> value."""
        self._rank = (-math.inf, -math.inf)

    def state_dict(self) -> dict[str, Any]:
        """The best so far, as plain values."""
        names = ("epoch", "step", "validated_step", "evaluation", "_rank")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on comparing."""
        vars(self).update(state_dict)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare with the best so far."""
        if trainer.sanity_checking:
            return
        assert isinstance(pl_module, FitModule)
        self.validated_step = trainer.global_step
        found = {name: dict(values) for name, values in pl_module.evaluation.items()}
        chosen_by = next(iter(found.values()))
        loss = chosen_by["loss"]
        if not math.isfinite(loss) and not pl_module.diverged:
            pl_module.diverged = f"the validation loss is {loss} after step {trainer.global_step}"
            trainer.should_stop = True
        rank = (chosen_by["score"], -loss)
        if pl_module.diverged or not rank > self._rank:
            return
        self._rank, self.evaluation = rank, found
        # The epoch that ends here is not counted yet, but in a validation after the training.
        self.epoch = trainer.current_epoch + int(trainer.state.fn == TrainerFn.FITTING)
        self.step = trainer.global_step
        if trainer.is_global_zero:
            self._write(pl_module)
        if trainer.state.fn != TrainerFn.FITTING:
            trainer.strategy.barrier("best classifier")

    def _write(self, module: FitModule) -> None:
        assert isinstance(module, FinetuneModule) and module.source is not None
        info, tokenizer = classifier_info(module), module.source.tokenizer_json
        pairs: WordPairs | None = getattr(module.classifier, "pairs", None)
        with nullcontext() if pairs is None else pairs.as_one_table():
            save_bundle(
                self.folder,
                module.classifier,
                tokenizer_json=tokenizer,
                metadata={"max_len": max(module.trained_positions, info.max_len)},
                task=asdict(info),
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let no rank go on before the first one has written."""
        self.total_steps = trainer.global_step
        trainer.strategy.barrier("best classifier")


def classifier_info(module: FinetuneModule) -> ClassifierInfo:
    """Return what a classifier's folder says about the task it was trained on."""
    spec, datamodule = module.spec, module.datamodule
    columns = spec.hub.columns if spec.hub else datamodule
    return ClassifierInfo(
        task=spec.name,
        title=spec.title,
        labels=spec.labels,
        score_range=spec.score_range,
        text=columns.text,
        text_pair=columns.text_pair if spec.has_pair else "",
        has_pair=spec.has_pair,
        max_len=datamodule.max_len,
        segments=spec.segments,
        positions=module.positions,
        scale=module.scale,
        tags=spec.tags,
        decoder=module.decoder,
        is_multilabel=spec.is_multilabel,
        unit=spec.unit,
        has_words=spec.has_words,
        marks=spec.marks,
        thresholds=module.thresholds,
        language=datamodule.text_encoder.language,
    )


class ResumePoint(SavesAndStops):
    """Of a fit on a task: saves after every validation and by time, one checkpoint at a time.

    It is taken before the next step, when every validation of the steps before is over.

    Args:
        folder: See `SavesAndStops`.
        every_n_minutes: See `SavesAndStops`.
        stop: Who may ask the fit to stop.
        started: `time.monotonic()` of the start of the command.
    """

    def __init__(
        self, folder: Path, *, every_n_minutes: float, stop: StopRequest, started: float
    ) -> None:
        super().__init__(folder, stop=stop, every_n_minutes=every_n_minutes)
        self.spent_s = 0.0
        """Seconds of earlier starts."""
        self._started = self._saved_at = started
        self._is_due = False
        self._within = 0

    @property
    def elapsed_s(self) -> float:
        """Seconds of all starts together."""
        return self.spent_s + time.monotonic() - self._started

    def state_dict(self) -> dict[str, Any]:
        """Steps of the present epoch, and the time spent."""
        return {"within": self._within, "elapsed_s": self.elapsed_s}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting the time."""
        self.spent_s = state_dict["elapsed_s"]

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put loops and data between two optimiser steps of this run's devices."""
        within = checkpoint["callbacks"][self.state_key]["within"]
        epoch, accumulation = checkpoint["epoch"], trainer.accumulate_grad_batches
        checkpoint["loops"]["fit_loop"] = loop_state(
            checkpoint["global_step"], epoch=epoch, within=within, accumulation=accumulation
        )
        trainer.datamodule.resume_at = (epoch, within * accumulation)  # type: ignore[attr-defined]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save before the next step."""
        self._is_due = True

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Between two optimiser steps: save or stop, if that is due or asked for."""
        self._within, rest = divmod(batch_idx, trainer.accumulate_grad_batches)
        if rest:
            return
        # Lightning passes through a validation of the last step once more, and counts it.
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
        wish = ranks_agree(trainer, self.wish() or int(self._is_due))
        if wish >= SAVE and trainer.global_step:
            self.write(trainer)
            self._is_due = False
        if wish > SAVE:
            raise self.stopped(trainer, wish)


class WandbLineage(Callback):
    """Tells W&B which encoder a run starts from: the bundle's artifact, where one was logged.

    `lineage.*` of the configuration holds the encoder's name and digest, the artifact and the W&B
    run it is from, and what kept W&B itself from noting the use (offline it never does).
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note it on the first rank."""
        run = tracked_run(trainer)
        if run is None:
            return
        count = sum(p.numel() for p in pl_module.parameters())
        run.summary.update({"model/num_parameters": count})
        source = pl_module.source if isinstance(pl_module, FinetuneModule) else None
        if source is None:  # it starts from nothing
            return
        values = encoder_lineage(source)
        artifact = values.get("lineage.encoder_artifact")
        if artifact and (missing := use_artifact(run, artifact)):
            values["lineage.not_noted"] = missing
            if not run.offline:
                _LOGGER.warning("%s is not noted as used by this run: %s", artifact, missing)
        add_config(run, values)


def use_artifact(run: Any, name: str) -> str:
    """Note that a run has used an artifact; returns what prevented it, or nothing.

    Offline W&B keeps no such note: the name stands in the run's configuration alone.
    """
    import wandb

    if run.offline:
        return "W&B records no used artifacts offline"
    try:
        run.use_artifact(name)
    except (wandb.Error, ValueError) as error:
        return f"W&B does not give it: {error}"
    return ""


def encoder_lineage(source: EncoderSource) -> dict[str, str]:
    """Return the `lineage.*` settings of an encoder.

    The record of the run beside the bundle counts only where it is of these very weights.
    """
    values = {"lineage.encoder": source.name, "lineage.encoder_sha256": source.digest}
    folder = source.tokenizer_json.parent
    logged = TrackingRecord.load(folder.parent if folder.name == BUNDLE_FOLDER else folder).bundle
    if logged.get("sha256") == source.digest:
        values["lineage.encoder_artifact"] = logged["artifact"]
        values["lineage.encoder_run"] = logged["run"]
    return values


def record_result(trainer: Trainer, run_config: RunConfig, result: dict[str, Any]) -> None:
    """Give W&B what stands in result.json, as summary, as table, and as an artifact if wanted."""
    if run_config.wandb == "off":
        return
    run = tracked_run(trainer)
    columns = ("task", "split", "rows", "metric", "value", "majority")
    rows = [
        (
            *(result["task"], split, values.get("num_rows"), metric, float(value)),
            result["majority"].get(split, {}).get(metric),
        )
        for split, values in result["evaluation"].items()
        for metric, value in values.items()
        if metric != "num_rows"
    ]
    best = {f"best/{row[1]}/{row[3]}": row[4] for row in rows}
    keys = ("best_epoch", "best_step", "total_steps", "diverged", "reason", "elapsed_s")
    run.summary.update({**best, **{key: result[key] for key in keys}})
    log_table(run, "result", columns, rows, step=result["total_steps"])
    if run_config.wandb_artifacts:
        metadata = {name: result[name] for name in ("task", "evaluation")}
        metadata |= {"encoder_sha256": result["encoder"]["digest"]}
        log_files(
            run,
            [run_config.folder / RESULT_FILE],
            name=f"result-{run.id}",
            type="result",
            metadata=metadata | {"seed": result["settings"]["seed"]},
            alias=str(result["task"]),
        )
