"""Decisions that all ranks must make alike: stop, save, roll back.

Invariant: every rank calls `ranks_agree` the same number of times in the same order.
"""

import torch
from pytorch_lightning import Trainer
from torch import distributed

_GROUP = "_ponet_control_group"


def ranks_agree(trainer: Trainer, value: int) -> int:
    """The highest value over all ranks; on one rank the value itself.

    It travels through a gloo group of its own, between the hosts: no GPU has to finish its work
    first, as it would with NCCL.

    Args:
        trainer: The trainer, after its strategy has set up the processes.
        value: A small whole number of this rank.
    """
    if trainer.world_size == 1 or not distributed.is_initialized():
        return value
    group = getattr(trainer.strategy, _GROUP, None)
    if group is None:
        group = distributed.new_group(backend="gloo")
        setattr(trainer.strategy, _GROUP, group)
    wish = torch.tensor(value, dtype=torch.int64)
    distributed.all_reduce(wish, op=distributed.ReduceOp.MAX, group=group)
    return int(wish)
