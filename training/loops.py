"""Lightning's loop counters as a function of the optimiser step.

Invariant: what a checkpoint says of the loops is never trusted. It was taken somewhere inside them,
perhaps with other devices or another accumulation; a run resumes between two optimiser steps.
"""

from typing import Any

_STARTED = ("ready", "started", "completed")
_PROCESSED = (*_STARTED, "processed")


def loop_state(
    step: int,
    *,
    epoch: int,
    within: int,
    accumulation: int,
    validation_due: bool,
    validation_done: bool,
) -> dict[str, Any]:
    """The state of Lightning's fit loop after an optimiser step (Lightning 2.6).

    Args:
        step: Optimiser steps done.
        epoch: Lightning epochs that are over.
        within: Optimiser steps done of the next one.
        accumulation: Micro-batches per optimiser step.
        validation_due: Whether a validation belongs to this step.
        validation_done: Whether it was finished; otherwise the loop makes up for it first.
    """
    steps = {"total": step, "current": within}
    batches = {name: count * accumulation for name, count in steps.items()}
    optimizer_step = {name: _counts(count, ("ready", "completed")) for name, count in steps.items()}
    zero_grad = {name: _counts(count, _STARTED) for name, count in steps.items()}
    batch_progress: dict[str, Any] = {n: _counts(count, _PROCESSED) for n, count in batches.items()}
    # Lightning takes a validation with a batch started and not processed for one to do again.
    interrupted = int(validation_due and not validation_done)
    evaluation: dict[str, Any] = {
        name: {"ready": interrupted, "started": interrupted, "processed": 0, "completed": 0}
        for name in ("total", "current")
    }
    epochs = _counts(epoch, _PROCESSED)
    if within:
        epochs |= {"ready": epoch + 1, "started": epoch + 1}
    return {
        "state_dict": {},
        "epoch_progress": {"total": epochs, "current": dict(epochs)},
        # A validation at this step, done or not, is passed through once more and counted there.
        "epoch_loop.state_dict": {"_batches_that_stepped": step - int(validation_due)},
        "epoch_loop.batch_progress": {**batch_progress, "is_last_batch": False},
        "epoch_loop.scheduler_progress": optimizer_step,
        "epoch_loop.automatic_optimization.state_dict": {},
        "epoch_loop.automatic_optimization.optim_progress": {
            "optimizer": {"step": optimizer_step, "zero_grad": zero_grad}
        },
        "epoch_loop.val_loop.state_dict": {},
        "epoch_loop.val_loop.batch_progress": {**evaluation, "is_last_batch": False},
    }


def _counts(count: int, names: tuple[str, ...]) -> dict[str, int]:
    return dict.fromkeys(names, count)
