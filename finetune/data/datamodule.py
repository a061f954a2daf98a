"""Rows of a task to batches: loaded once, tokenised once, looked at, then dealt out by length.

Invariant: an optimiser step sees the same rows on any number of devices, and evaluation sees every
row exactly once.
"""

from dataclasses import replace
from typing import Any, Literal, TypeVar

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from finetune.data.encoding import TextEncoder, tokenizer_file
from finetune.data.inspection import Inspection, inspect_task, targets_of
from finetune.data.sampler import (
    BucketBatchSampler,
    WeightedRow,
    accumulation_steps,
    evaluation_shard,
    stratified_subset,
)
from finetune.data.task_batches import EncodedSplit, TaskBatch
from finetune.tasks.registry import OwnFiles, load_task
from finetune.tasks.spec import LoadedTask, MetricName, SegmentRule, SplitRows, TaskSpec
from training.interruption import ignore_signals_in_worker

__all__ = ["OWN_TASK", "TaskBatch", "TaskDataModule", "tokenizer_file"]

OWN_TASK = "own"
LONGEST_PLAIN_TEXT = 512
"""Longer texts of an own task are cut into sentences by default."""

_OF_NAMED_TASKS = {"folder": "", "fold": 0, "repeat": 0}
_OF_OWN_FILES = {"text": "text", "text_pair": "", "label": "label", "kind": "classification",
                 "validation_fraction": 0.0, "score": "auto", "positive_label": ""}  # fmt: skip
"""Options that would be ignored by the other kind of task, and their defaults."""

_T = TypeVar("_T")


class TaskDataModule(pl.LightningDataModule):
    """One task for a Trainer.

    After `setup`: `task` (the rows that are used), `spec` (with the segment rule that is used),
    `text_encoder`, and `inspection`. For `validate` and `test` only the rows that are scored are
    read, and the training rows where folds, carving or labels need them.

    Args:
        task: Name of a task (`python -m finetune tasks` lists them), or own: the files below.
        folder: Local copy of the task in its original layout; empty: from the Hugging Face Hub.
        train: Own training file, .csv, .tsv or .jsonl, also .gz or .zst.
        validation: Own validation file.
        test: Own test file with labels; empty: none.
        text: Column of the text in own files.
        text_pair: Column of the second text in own files; empty: none.
        label: Column of the label or score in own files.
        kind: Whether the label of own files is a class or a number.
        validation_fraction: Share of the own training rows that becomes the validation split, in
            (0, 1), stratified, by a hash of the text; 0: there is a validation file.
        score: Metric of own files that chooses the epoch. auto: accuracy, or the mean of pearson
            and spearman.
        positive_label: Of two own classes the one that F1 is of; empty: the second one in order.
        segments: Pooling segment: the whole text (separators), its sentences or its paragraphs.
            auto: what the task says; for own files sentences above 512 tokens, else separators.
        max_len: Most tokens of an example, special tokens included.
        global_batch_size: Examples per optimiser step over all devices.
        micro_batch_size: Most examples per device and forward pass; the rest is accumulated.
        eval_batch_size: Most examples per device and forward pass of an evaluation; changes speed
            and memory, not the scores.
        fold: Which fold is the test split, for tasks with folds; from 0.
        repeat: Which shuffle the folds are cut from; from 0.
        max_train_rows: Train on a fixed stratified subset of so many rows, for quick runs; 0: all.
        max_eval_rows: The same for every validation and test split.
        num_workers: Processes that assemble batches beside the main one.
        seed: Seed of the order of the training rows.
        encoder: Bundle, or run folder that holds one, whose tokenizer.json is used.

    Raises:
        ValueError: A mistake in an option or in the data; names the place.
    """

    def __init__(  # noqa: PLR0913
        self,
        *,
        task: str = "own",
        folder: str = "",
        train: str = "",
        validation: str = "",
        test: str = "",
        text: str = "text",
        text_pair: str = "",
        label: str = "label",
        kind: Literal["classification", "regression"] = "classification",
        validation_fraction: float = 0.0,
        score: Literal[MetricName, Literal["auto"]] = "auto",
        positive_label: str = "",
        segments: Literal["auto", "separators", "sentences", "paragraphs"] = "auto",
        max_len: int = 128,
        global_batch_size: int = 32,
        micro_batch_size: int = 32,
        eval_batch_size: int = 64,
        fold: int = 0,
        repeat: int = 0,
        max_train_rows: int = 0,
        max_eval_rows: int = 0,
        num_workers: int = 0,
        seed: int = 42,
        encoder: str = "",
    ) -> None:
        super().__init__()
        self.task_name, self.folder = task, folder
        self.train, self.validation, self.test = train, validation, test
        self.text, self.text_pair, self.label, self.kind = text, text_pair, label, kind
        self.validation_fraction = validation_fraction
        self.score, self.positive_label = score, positive_label
        self.segments, self.max_len = segments, max_len
        self.global_batch_size = global_batch_size
        self.micro_batch_size = micro_batch_size
        self.eval_batch_size = eval_batch_size
        self.fold, self.repeat = fold, repeat
        self.max_train_rows, self.max_eval_rows = max_train_rows, max_eval_rows
        self.num_workers, self.seed, self.encoder = num_workers, seed, encoder
        self._check_options()
        self.equal_lengths = False
        """Whether a batch of an evaluation holds texts of one length; the model says so."""
        self._loaded: LoadedTask | None = None
        self._stages: set[str] = set()
        self._trained_labels: tuple[str, ...] | None = None
        self._inspection: Inspection | None = None
        self._text_encoder: TextEncoder | None = None
        self._whole: dict[str, SplitRows] = {}
        self._repairs: dict[str, dict[str, int]] = {}
        self._encoded: dict[str, EncodedSplit] = {}
        self.resume_at = (0, 0)
        """Epoch to begin with, and how many of its micro-batches to leave out."""

    @property
    def task(self) -> LoadedTask:
        """The task with the rows that are used."""
        return _known(self._loaded)

    @property
    def spec(self) -> TaskSpec:
        """The task without rows."""
        return self.task.spec

    @property
    def inspection(self) -> Inspection:
        """What was found in the data."""
        return _known(self._inspection)

    @property
    def text_encoder(self) -> TextEncoder:
        """What made the token ids."""
        return _known(self._text_encoder)

    def prepare_data(self) -> None:
        """Download from the Hub on one process of a machine; files need nothing."""
        if self.task_name != OWN_TASK and not self.folder:
            stage = self.trainer.state.fn if self.trainer is not None else None
            self._load("fit" if stage is None else stage.value)

    def follow_classifier(self, labels: tuple[str, ...], segments: SegmentRule) -> None:
        """Give rows as a trained classifier needs them; to be called before `setup`.

        Args:
            labels: Its classes, which own files must then have; empty: it gives scores.
            segments: Its segment rule, unless another one than auto was asked for.
        """
        self._trained_labels = labels
        if self.segments == "auto":
            self.segments = segments

    def setup(self, stage: str) -> None:
        """Load and encode what a stage needs, once; then look at it.

        Args:
            stage: fit (everything with labels), validate or test.
        """
        self._load(stage)
        evaluated = {
            "fit": ("train", *self.task.validation_splits, *self.task.test_splits),
            "validate": self.task.validation_splits,
            "test": self.task.test_splits,
        }.get(stage, ())
        missing = [name for name in evaluated if name not in self._encoded]
        for name in missing:
            self._encoded[name] = self._encode(name, self.task.splits[name])
        if missing or self._inspection is None:
            self._inspection = inspect_task(
                self.task,
                {name: split.texts for name, split in self._encoded.items()},
                max_len=self.max_len,
                whole=self._whole,
                repairs=self._repairs,
            )
            self._whole = {}  # of a large task, the texts of a subset alone stay in memory

    def accumulation(self, num_devices: int) -> int:
        """Return the micro-batches each of num_devices devices accumulates per optimiser step.

        Raises:
            ValueError: The global batch has less than one row for each device.
        """
        return accumulation_steps(self.global_batch_size, self.micro_batch_size, num_devices)

    def train_dataloader(self) -> DataLoader[TaskBatch]:
        """Return this rank's micro-batches; the trainer must accumulate `accumulation` of them."""
        split = self._encoded["train"]
        num_devices, rank = self._devices()
        sampler = BucketBatchSampler(
            split.texts.lengths,
            global_batch_size=self.global_batch_size,
            micro_batch_size=self.micro_batch_size,
            num_devices=num_devices,
            rank=rank,
            seed=self.seed,
            resume_at=self.resume_at,
        )
        return self._loader(split, sampler)

    def val_dataloader(self) -> list[DataLoader[TaskBatch]]:
        """Return a loader per validation split, in the order of `task.validation_splits`."""
        return [self._evaluation_loader(name) for name in self.task.validation_splits]

    def test_dataloader(self) -> list[DataLoader[TaskBatch]]:
        """Return a loader per labelled test split, in the order of `task.test_splits`.

        Raises:
            ValueError: There is none.
        """
        if not self.task.test_splits:
            raise ValueError(
                f"{self.spec.title} has no test rows with labels: its test labels are not public; "
                "use `submit`"
                if any(name.startswith("test") for name in self.task.splits)
                or (self.spec.hub and "test" in self.spec.hub.unlabelled)
                else f"{self.spec.title} has no test split here; give one, or use `validate`"
            )
        return [self._evaluation_loader(name) for name in self.task.test_splits]

    def transfer_batch_to_device(
        self, batch: TaskBatch, device: torch.device, dataloader_idx: int
    ) -> TaskBatch:
        """Return the batch on the device."""
        return batch.to(device)

    def _check_options(self) -> None:
        for name in ("max_train_rows", "max_eval_rows", "num_workers", "fold", "repeat"):
            if getattr(self, name) < 0:
                raise ValueError(f"data.{name} is {getattr(self, name)}; 0 or more is needed")
        if self.eval_batch_size < 1:
            raise ValueError(f"data.eval_batch_size is {self.eval_batch_size}; give 1 or more")
        self.accumulation(1)
        is_own = self.task_name == OWN_TASK
        has_files = bool(self.train or self.validation or self.test)
        if not is_own and has_files:
            raise ValueError(
                f"data.task is {self.task_name} but own files are given too; leave out data.train, "
                f"data.validation and data.test, or set data.task={OWN_TASK}"
            )
        defaults = _OF_NAMED_TASKS if is_own else _OF_OWN_FILES
        unused = [f"data.{key}" for key, value in defaults.items() if getattr(self, key) != value]
        if unused:
            raise ValueError(
                f"data.task is {self.task_name}, which has no use for {', '.join(unused)}; leave "
                "it out, or give another data.task"
            )

    def _load(self, stage: str) -> None:
        if self._stages & {stage, "fit"}:
            return
        self._text_encoder = self._text_encoder or self._new_text_encoder()
        loaded = self._load_rows(stage)
        rule = loaded.spec.segments if self.segments == "auto" else self.segments
        self._text_encoder.segments = rule
        self._whole |= loaded.splits
        used = {name: self._subset(name, split) for name, split in loaded.splits.items()}
        earlier = {} if self._loaded is None or stage == "fit" else self._loaded.splits
        self._loaded = LoadedTask(
            spec=replace(loaded.spec, segments=rule), splits={**earlier, **used}
        )
        self._stages.add(stage)

    def _load_rows(self, stage: str) -> LoadedTask:
        own = None
        if self.task_name == OWN_TASK:
            own = OwnFiles(
                train=self.train,
                validation=self.validation,
                test=self.test,
                text=self.text,
                text_pair=self.text_pair,
                label=self.label,
                kind=self.kind,
                validation_fraction=self.validation_fraction,
                score=() if self.score == "auto" else (self.score,),
                positive_label=self.positive_label,
                segments=self._own_segments(),
                labels=self._trained_labels,
            )
        return load_task(
            self.task_name,
            folder=self.folder,
            own=own,
            fold=self.fold,
            repeat=self.repeat,
            stage=stage,
        )

    def _own_segments(self) -> SegmentRule:
        if self.segments != "auto":
            return self.segments
        return "separators" if self.max_len <= LONGEST_PLAIN_TEXT else "sentences"

    def _new_text_encoder(self) -> TextEncoder:
        if not self.encoder:
            raise ValueError(
                "no encoder is given; set model.encoder to a bundle, or to a run folder that holds "
                "one: its tokenizer.json is needed"
            )
        return TextEncoder(tokenizer_file(self.encoder), max_len=self.max_len)

    def _subset(self, name: str, split: SplitRows) -> SplitRows:
        most = self.max_train_rows if name == "train" else self.max_eval_rows
        places = stratified_subset(split.rows, most)
        return replace(split, rows=tuple(split.rows[place] for place in places))

    def _encode(self, name: str, split: SplitRows) -> EncodedSplit:
        encoder = self.text_encoder
        before = encoder.counters.copy()
        texts = encoder.encode_packed(split.rows, split.source)
        self._repairs[name] = dict(encoder.counters - before)
        targets = targets_of(self.spec, split.rows)
        return EncodedSplit(texts, targets, pad_id=encoder.info.pad_id)

    def _evaluation_loader(self, name: str) -> DataLoader[TaskBatch]:
        split = self._encoded[name]
        num_devices, rank = self._devices()
        if len(split) < num_devices:
            raise ValueError(
                f"the {name} split has {len(split)} rows but {num_devices} devices evaluate it; "
                f"use {len(split)} devices or fewer"
            )
        batches = evaluation_shard(
            split.texts.lengths,
            num_ranks=num_devices,
            rank=rank,
            batch_size=self.eval_batch_size,
            equal_lengths=self.equal_lengths,
        )
        return self._loader(split, [[(row, 1.0) for row in batch] for batch in batches])

    def _loader(
        self, split: EncodedSplit, batches: BucketBatchSampler | list[list[WeightedRow]]
    ) -> DataLoader[TaskBatch]:
        """Return a loader whose sampler yields whole batches; Lightning calls its set_epoch."""
        return DataLoader(
            split,
            batch_size=None,
            sampler=batches,
            collate_fn=_as_it_is,
            num_workers=self.num_workers,
            worker_init_fn=ignore_signals_in_worker,
            persistent_workers=False,
        )

    def _devices(self) -> tuple[int, int]:
        """Return the number of processes and which one this is."""
        if self.trainer is None:
            return 1, 0
        return self.trainer.world_size, self.trainer.global_rank


def _as_it_is(batch: Any) -> Any:
    return batch


def _known(value: _T | None) -> _T:
    if value is None:
        raise RuntimeError("the data module is not set up yet; call setup() first")
    return value
