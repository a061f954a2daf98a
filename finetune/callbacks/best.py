"""The classifier of the best validation so far, as a folder.

Invariant: the folder always holds a whole classifier, the one that `evaluation` describes.
"""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn

from finetune.artifact import ClassifierInfo
from finetune.module import FinetuneModule
from ponet import save_bundle


class BestClassifier(Callback):
    """Writes the classifier at every new best score of the first validation split.

    Equal scores are decided by the smaller loss, then by the earlier epoch. A validation loss that
    is not finite stops training, is noted in the module's `diverged`, and is never the best.

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
        assert isinstance(pl_module, FinetuneModule)
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

    def _write(self, module: FinetuneModule) -> None:
        assert module.source is not None
        save_bundle(
            self.folder,
            module.classifier,
            tokenizer_json=module.source.tokenizer_json,
            task=asdict(classifier_info(module)),
        )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let no rank go on before the first one has written."""
        self.total_steps = trainer.global_step
        trainer.strategy.barrier("best classifier")


def classifier_info(module: FinetuneModule) -> ClassifierInfo:
    """Return what a classifier's folder says about the task it was trained on."""
    spec, datamodule = module.spec, module.datamodule
    hub = spec.hub
    return ClassifierInfo(
        task=spec.name,
        title=spec.title,
        labels=spec.labels,
        score_range=spec.score_range,
        text=hub.text if hub else datamodule.text,
        text_pair=(hub.text_pair if hub else datamodule.text_pair) if spec.has_pair else "",
        has_pair=spec.has_pair,
        max_len=datamodule.max_len,
        segments=spec.segments,
        positions=module.positions,
        scale=module.scale,
    )
