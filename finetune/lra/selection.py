"""Which samples of Long Range Arena: options that a run and a baseline share."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from finetune.lra.inspection import inspect_splits
from finetune.lra.sources import CUTTABLE, LraData, Wanted, load_data, take
from finetune.lra.splits import LraSplit, TaskName
from finetune.lra.tasks import TASKS, LraTask, Mode


@dataclass(kw_only=True)
class LraSelection:
    """A task and its samples."""

    task: TaskName
    """listops, text, retrieval, image, pathfinder32 or path_x."""
    mode: Mode = "strict"
    """strict: a validation split of its own, the mean over real tokens, black is no padding, every
    test sample. published: mean over the padded length, id 0 is masked even where it is a black
    pixel, Text is validated on its test split, whole batches only, as behind Table 1."""
    folder: str = ""
    """The user's files (docs/long_range_arena.md); empty: ListOps and Pathfinder are made."""
    cache: str = "data/lra"
    """Folder that keeps what was made."""
    generator_seed: int = 2021
    """Seed of made data; runs that are compared share it."""
    max_len: int = 0
    """Padded length of Text or Retrieval, where it shall be shorter; 0: the task's."""
    max_train_rows: int = 0
    """Train on so many samples, drawn once for all seeds; 0: all."""
    max_eval_rows: int = 0
    """The same for validation and test."""

    def check_selection(self) -> None:
        """Refuse numbers below 0, and a length that the task does not have."""
        for name in ("max_len", "max_train_rows", "max_eval_rows", "generator_seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"data.{name} is {getattr(self, name)}; 0 or more is needed")
        spec = TASKS[self.task]
        if self.max_len and spec.name not in CUTTABLE:
            raise ValueError(f"data.max_len is for Text and Retrieval; {spec.title} has one length")
        if self.max_len > spec.length:
            raise ValueError(f"data.max_len is {self.max_len}; {spec.title} has {spec.length}")

    def task_spec(self) -> LraTask:
        """Return the task, with the length that is used."""
        spec = TASKS[self.task]
        return spec.shortened(self.max_len or spec.length)

    def load(self) -> tuple[LraData, dict[str, Any]]:
        """Return the samples that are used, and what is to be known of them."""
        spec = self.task_spec()
        data = load_data(
            Wanted(
                task=spec,
                folder=self.folder,
                cache=self.cache,
                mode=self.mode,
                generator_seed=self.generator_seed,
            )
        )
        used = {name: self._subset(name, split) for name, split in data.splits.items()}
        found = replace(data, splits=used)
        return found, inspect_splits(spec, found, mode=self.mode, whole=data.splits)

    def _subset(self, name: str, split: LraSplit) -> LraSplit:
        most = self.max_train_rows if name == "train" else self.max_eval_rows
        if not 0 < most < len(split):
            return split
        rows = np.random.default_rng(0).permutation(len(split))[:most]
        return take(split, np.sort(rows))
