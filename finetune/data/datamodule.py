"""Rows of a task to batches: loaded once, tokenised once, looked at, then dealt out by length.

Invariant: an optimiser step sees the same rows on any number of devices, and evaluation sees every
row exactly once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pytorch_lightning as pl
from torch.utils.data import DataLoader

from finetune.data.batches import (
    NO_TAG,
    BucketBatchSampler,
    EncodedSplit,
    SplitLoader,
    TaskBatch,
    WeightedRow,
    accumulation_steps,
    evaluation_shard,
)
from finetune.data.encoding import TextEncoder
from finetune.data.hashed import text_encoder
from finetune.data.inspection import Inspection, inspect_task
from finetune.encoder_file import language_of, sizes_of, tokenizer_file
from finetune.sentences.windows import Window, in_windows
from finetune.tasks.own import OWN_TASK
from finetune.tasks.selection import Selection
from finetune.tasks.spec import LoadedTask, Row, SegmentRule, SplitRows, TaskSpec
from training.interruption import ignore_signals_in_worker

LONGEST_PLAIN_TEXT = 512
"""Longer texts of an own task are cut into sentences by default."""
WINDOWS = "windows more than documents, as these are longer than data.max_len; answered once each"


@dataclass(kw_only=True, eq=False)
class TaskDataModule(Selection, pl.LightningDataModule):
    """One task for a Trainer.

    After `setup`: `loaded` (the rows that are used), `spec` (with the segment rule that is used),
    `text_encoder`, and `inspection`. For `validate` and `test` only the rows that are scored are
    read, and the training rows where folds, carving or labels need them.
    """

    segments: Literal["auto", "separators", "sentences", "paragraphs"] = "auto"
    """Pooling segment: the whole text (separators), its sentences or its paragraphs. auto: what the
    task says; for own files sentences above 512 tokens, else separators."""
    max_len: int = 128
    """Most tokens of an example, special tokens included."""
    global_batch_size: int = 32
    """Examples per optimiser step over all devices."""
    micro_batch_size: int = 32
    """Most examples per device and forward pass; the rest is accumulated."""
    eval_batch_size: int = 64
    """Most examples per device and forward pass of an evaluation; changes speed and memory, not the
    scores."""
    num_workers: int = 0
    """Processes that assemble batches beside the main one."""
    join_texts: bool = True
    """Lay the texts of a training batch one after the other, without padding: the same losses and
    gradients up to rounding, for less work. Labels within texts, and encoders in which texts would
    see each other, get padded rows."""
    seed: int = 42
    """Seed of the order of the training rows."""
    encoder: str = ""
    """Bundle, or run folder that holds one, whose tokenizer.json is used; or an encoder's .yaml."""
    tokenizer: str = ""
    """tokenizer.json for an encoder that comes without one."""

    def __post_init__(self) -> None:
        """Check the options."""
        pl.LightningDataModule.__init__(self)
        self._check_options()
        self.equal_lengths = False
        """Whether a batch of an evaluation holds texts of one length; the model says so."""
        self.resume_at = (0, 0)
        """Epoch to begin with, and how many of its micro-batches to leave out."""
        self.loaded: LoadedTask
        self.windows: dict[str, list[Window]] = {}
        """Split -> what stands in its encoded rows, of documents whose sentences have labels."""
        self.inspection: Inspection
        self.text_encoder: TextEncoder
        self._trained_labels: tuple[str, ...] | None = None
        self._trained_tags: tuple[str, ...] | None = None
        self._stages: set[str] = set()
        self._whole: dict[str, SplitRows] = {}
        self._encoded: dict[str, EncodedSplit] = {}

    @property
    def spec(self) -> TaskSpec:
        """The task without rows."""
        return self.loaded.spec

    @property
    def segment_rule(self) -> str:
        """What a pooling segment is, and of sentences the language, if it is not English."""
        language = self.text_encoder.language
        is_cut_otherwise = self.spec.segments == "sentences" and language != "en"
        return f"sentences ({language})" if is_cut_otherwise else self.spec.segments

    def prepare_data(self) -> None:
        """Download from the Hub on one process of a machine; files need nothing."""
        if self.task != OWN_TASK and not self.folder:
            stage = self.trainer.state.fn if self.trainer is not None else None
            self._load("fit" if stage is None else stage.value)

    def follow_classifier(
        self,
        labels: tuple[str, ...],
        tags: tuple[str, ...],
        segments: SegmentRule,
        *,
        language: str = "en",
    ) -> None:
        """Give rows with labels (none: scores), tags and segments of a model; before `setup`.

        Own texts are also cut by its language, unless another one is given.
        """
        self._trained_labels, self._trained_tags = labels, tags
        if self.segments == "auto":
            self.segments = segments
        if self.task == OWN_TASK and not self.language:
            self.language = language

    def setup(self, stage: str) -> None:
        """Load and encode what a stage (fit: all with labels) needs, once; then look at it."""
        self._load(stage)
        evaluated = {
            "fit": ("train", *self.loaded.validation_splits, *self.loaded.test_splits),
            "validate": self.loaded.validation_splits,
            "test": self.loaded.test_splits,
        }.get(stage, ())
        missing = [name for name in evaluated if name not in self._encoded]
        for name in missing:
            self._encoded[name] = self._encode(name, self.loaded.splits[name])
        if missing or not hasattr(self, "inspection"):
            encoded = {name: split.texts for name, split in self._encoded.items()}
            found = inspect_task(self.loaded, encoded, max_len=self.max_len, whole=self._whole)
            self.inspection = {**found, "segments": self.segment_rule}
            self._whole = {}  # of a large task, the texts of a subset alone stay in memory

    def accumulation(self, num_devices: int) -> int:
        """Return the micro-batches each of num_devices devices accumulates per optimiser step."""
        return accumulation_steps(self.global_batch_size, self.micro_batch_size, num_devices)

    def train_dataloader(self) -> DataLoader[TaskBatch]:
        """Return this rank's micro-batches; the trainer must accumulate `accumulation` of them."""
        split = self._encoded["train"]
        split.joins_texts = self.join_texts and not self.spec.is_tagging
        num_devices, rank = self._devices()
        sampler = BucketBatchSampler(
            lengths=split.texts.lengths,
            global_batch_size=self.global_batch_size,
            micro_batch_size=self.micro_batch_size,
            num_devices=num_devices,
            rank=rank,
            seed=self.seed,
            resume_at=self.resume_at,
        )
        return self._loader(split, sampler)

    def training_texts(self) -> Iterator[TaskBatch]:
        """Yield the training rows once, in their order, whatever the number of devices."""
        split, size = self._encoded["train"], self.eval_batch_size
        for first in range(0, len(split), size):
            yield split[[(row, 1.0) for row in range(first, min(first + size, len(split)))]]

    def val_dataloader(self) -> list[DataLoader[TaskBatch]]:
        """Return a loader per validation split, in the order of `loaded.validation_splits`."""
        return [self._evaluation_loader(name) for name in self.loaded.validation_splits]

    def test_dataloader(self) -> list[DataLoader[TaskBatch]]:
        """Return a loader per labelled test split, one or more, as in `loaded.test_splits`."""
        if not self.loaded.test_splits:
            hidden = self.spec.hub.unlabelled if self.spec.hub else ()
            title = self.spec.title
            is_hidden = any(name.startswith("test") for name in (*self.loaded.splits, *hidden))
            raise ValueError(
                f"{title} has no test rows with labels: its test labels are not public; use "
                "`submit`"
                if is_hidden
                else f"{title} has no test split here; give one, or use `validate`"
            )
        return [self._evaluation_loader(name) for name in self.loaded.test_splits]

    def _check_options(self) -> None:
        self.check_selection()
        if self.num_workers < 0:
            raise ValueError(f"data.num_workers is {self.num_workers}; 0 or more is needed")
        if self.eval_batch_size < 1:
            raise ValueError(f"data.eval_batch_size is {self.eval_batch_size}; give 1 or more")
        self.accumulation(1)

    def _load(self, stage: str) -> None:
        if self._stages & {stage, "fit"}:
            return
        if not hasattr(self, "text_encoder"):
            tokenizer_json = tokenizer_file(self.encoder, self.tokenizer)
            sizes = sizes_of(self.encoder, tokenizer_json=tokenizer_json, max_len=self.max_len)
            if self.task == OWN_TASK and not self.language:
                self.language = language_of(self.encoder)
            self.text_encoder = text_encoder(
                tokenizer_json, sizes, max_len=self.max_len, language=self.language or "en"
            )
        loaded = self.load_rows(stage, labels=self._trained_labels, tags=self._trained_tags)
        rule = self._rule(loaded.spec)
        self.text_encoder.segments = rule
        self._whole |= loaded.splits
        earlier = self.loaded.splits if self._stages and stage != "fit" else {}
        spec = replace(loaded.spec, segments=rule)
        self.loaded = LoadedTask(spec=spec, splits={**earlier, **self.used_rows(loaded)})
        self._stages.add(stage)

    def _rule(self, spec: TaskSpec) -> SegmentRule:
        if spec.labels_sentences and self.segments not in ("auto", spec.segments):
            raise ValueError(
                f"data.segments is {self.segments}, but sentences are labelled, which are the "
                "segments; leave it out"
            )
        if self.segments != "auto":
            return self.segments
        is_long = self.task == OWN_TASK and self.max_len > LONGEST_PLAIN_TEXT
        return "sentences" if is_long else spec.segments

    def _encode(self, name: str, split: SplitRows) -> EncodedSplit:
        rows: Sequence[Row] = split.rows
        if self.spec.labels_sentences:
            rows, self.windows[name] = in_windows(rows, self.text_encoder)
            self._say_windows(name, split, len(rows))
        texts = self.text_encoder.encode_packed(rows, split.source)
        targets, tags = self.spec.targets_of(rows), None
        if self.spec.is_tagging:
            places = {tag: place for place, tag in enumerate(self.spec.tags)}
            tags = [
                np.array([places.get(tag, NO_TAG) for tag in row.tagged.tags or ()], np.int32)
                for row in rows
                if row.tagged
            ]
        return EncodedSplit(texts, targets, batch=self.text_encoder.batch, tags=tags)

    def _say_windows(self, name: str, split: SplitRows, num_windows: int) -> None:
        """Count what longer documents are read in, where all repairs stand."""
        num_more = num_windows - len(split.rows)
        repairs = {**split.repairs, **({WINDOWS: num_more} if num_more else {})}
        splits = {**self.loaded.splits, name: replace(split, repairs=repairs)}
        self.loaded = replace(self.loaded, splits=splits)

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
        return SplitLoader(
            split,
            batch_size=None,
            sampler=batches,
            num_workers=self.num_workers,
            worker_init_fn=ignore_signals_in_worker,
        )

    def _devices(self) -> tuple[int, int]:
        """Return the number of processes and which one this is."""
        if self.trainer is None:
            return 1, 0
        return self.trainer.world_size, self.trainer.global_rank
