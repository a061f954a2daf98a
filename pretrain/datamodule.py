"""PretrainDataModule: shards -> batches of masked pairs, resumable at any optimiser step.

Invariant: the training stream depends on (shards, objective, packing, masking, seed), on the
optimiser steps done and on the windows a guard skipped, never on devices or workers. Evaluation
always hides 15 % of the tokens with fixed masks.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.trainer.states import TrainerFn
from torch.utils.data import DataLoader

from data_prep.manifest import MANIFEST_NAME, TOKENIZER_NAME, Manifest, is_wordpiece
from data_prep.shards import TokenShards, check_files
from ponet.config import EncoderConfig
from ponet.projection import PieceWords
from ponet.tokenizer import load_tokenizer
from pretrain.batches import Batch, PretrainDataset, SegmentConfig, keep_batch
from pretrain.comparison import EVALUATED, differences
from pretrain.loader import (
    BatchLoader,
    StreamBatchSampler,
    WholeBatches,
    accumulation_steps,
    evaluation_batches,
    first_examples,
    pack_batch,
)
from pretrain.masking import MaskingConfig
from pretrain.needles import NeedleConfig
from pretrain.objectives import HAS_PADDING, ObjectiveName, objective_named
from pretrain.packing import PackingConfig
from pretrain.plan import check_documents
from training.guards import window_of
from training.interruption import ignore_signals_in_worker
from training.ranks import SharedFiles

TRAIN_SPLIT = "train"
EVALUATION_SPLIT = "validation"
EVALUATION_SEED = 20_110_243
"""Seed of the validation plan and masks, the same for all runs so that they compare."""


class PretrainDataModule(SharedFiles):
    """Serves batches for training and evaluation from a folder of token shards."""

    differs_from_training: Sequence[str] = ()
    """Where an evaluation reads other data than its checkpoint was trained on, and how."""
    skipped_windows: tuple[int, ...] = ()
    """Windows of the stream that rollbacks leave out, ascending."""
    _words: PieceWords | None = None
    """Makes whole words of pieces, for encoders of hashed words."""

    def __init__(  # noqa: PLR0913 (each is one line of a YAML file)
        self,
        *,
        folder: str,
        build_config: str | None = None,
        objective: ObjectiveName = "mlm_sso",
        masking: MaskingConfig = MaskingConfig(),  # noqa: B008 (frozen)
        segments: SegmentConfig = SegmentConfig(),  # noqa: B008 (frozen)
        needles: NeedleConfig = NeedleConfig(),  # noqa: B008 (frozen)
        max_len: int = 512,
        short_prob: float = 0.1,
        global_batch_size: int = 192,
        micro_batch_size: int = 32,
        eval_batch_size: int = 32,
        eval_examples: int = 2048,
        num_workers: int = 1,
        verify_shards: bool = True,
        join_texts: bool = True,
        seed: int = 42,
    ) -> None:
        """Keep the settings; nothing is read before `setup`.

        Args:
            folder: Folder of token shards, made by `python -m data_prep build`.
            build_config: YAML file of data_prep; if the folder has no shards yet, they are built
                from it first.
            objective: Pair task beside masked tokens: mlm (none), mlm_nsp (BERT), mlm_sso (PoNet).
            masking: Which tokens are predicted in training; evaluation always uses 15 %, 80/10/10.
            segments: What a pooling segment is.
            needles: Facts put into the texts and asked for, in training and evaluation alike.
            max_len: Sequence length in tokens, [CLS] and two [SEP] included.
            short_prob: Share of examples with a short target length, drawn from [2, max_len - 3].
            global_batch_size: Examples per optimiser step over all devices.
            micro_batch_size: Examples per device and forward pass; accumulation follows from it.
            eval_batch_size: Examples per device and forward pass in evaluation.
            eval_examples: Number of validation examples that `validate` scores; `test` scores all.
            num_workers: Loader processes per device; 0 builds batches in the training process.
            verify_shards: Hash all shard files before the run (1 s per 500 MB); else sizes alone.
            join_texts: Training batches without padding, texts one after the other: the same losses
                and gradients up to rounding. FNet, HyperMixer, LSTM, hashed words: padded rows.
            seed: Seed of segmentation, pairs, order and masks of the training data.
        """
        super().__init__()
        if min(eval_batch_size, eval_examples, num_workers + 1) < 1:
            raise ValueError(
                f"eval_batch_size ({eval_batch_size}) and eval_examples ({eval_examples}) must be "
                f"at least 1, num_workers ({num_workers}) at least 0."
            )
        self.folder = Path(folder)
        self.build_config = build_config
        self.objective = objective_named(objective)
        self.masking, self.segments, self.needles = masking, segments, needles
        self.packing, self.max_len = PackingConfig(max_len=max_len, short_prob=short_prob), max_len
        self.global_batch_size, self.micro_batch_size = global_batch_size, micro_batch_size
        self.eval_batch_size, self.eval_examples = eval_batch_size, eval_examples
        self.num_workers, self.verify_shards = num_workers, verify_shards
        self.join_texts, self.seed = join_texts, seed
        accumulation_steps(global_batch_size, micro_batch_size, 1)
        self._datasets: dict[str, PretrainDataset] = {}
        self._plan_counts: dict[str, float] = {}

    def prepare(self) -> None:
        """Verify the shards, or build them if there are none and `build_config` says how."""
        exists = (self.folder / MANIFEST_NAME).is_file()
        if self.build_config is not None:
            self._build_or_compare(self.build_config, exists=exists)
        elif not exists:
            raise ValueError(
                f"folder {str(self.folder)!r} holds no token shards. Build them with `python -m "
                f"data_prep build --config configs/data/<corpus>.yaml --output {self.folder}`, or "
                "give data.build_config, the YAML file to build them from."
            )
        if exists and self.verify_shards:
            check_files(self.folder, Manifest.load(self.folder), hashes=True)

    def _build_or_compare(self, path: str, *, exists: bool) -> None:
        from data_prep.config import BuildConfig
        from data_prep.pipeline import build, changed_settings

        config = BuildConfig.from_yaml(path, {"output": str(self.folder)})
        if not exists:
            build(config)
        elif changed := changed_settings(self.folder, config):
            raise ValueError(
                f"the shards in {self.folder} were made with other settings than {path} gives now "
                f"({', '.join(changed)}). Name another data.folder, or make them anew with `python "
                f"-m data_prep build --config {path} --output {self.folder} --overwrite true`."
            )

    @property
    def tokenizer_path(self) -> Path:
        """The `tokenizer.json` beside the shards."""
        return self.folder / TOKENIZER_NAME

    @property
    def vocab_size(self) -> int:
        """Number of entries of the tokenizer."""
        return self.evaluation_dataset().shards.manifest.tokenizer.vocab_size

    @property
    def data_digest(self) -> str:
        """Hash over all that determines the shards' content."""
        return self.evaluation_dataset().shards.manifest.digest

    def setup(self, stage: str) -> None:
        """Open the shards, fix the accumulation, refuse what would not be reproducible."""
        super().setup(stage)
        self.evaluation_dataset()
        if self.trainer is not None:
            # Our samplers know ranks; Lightning's would replace them and repeat examples to pad.
            self.trainer._accelerator_connector.use_distributed_sampler = False
        if stage != TrainerFn.FITTING:
            return
        for split in (TRAIN_SPLIT, *([EVALUATION_SPLIT] if self.validates else [])):
            check_documents(self._dataset(split).shards, self.objective)
        if self.trainer is not None:
            self.trainer.accumulate_grad_batches = self.accumulation
            if self._limit_is_share:  # Lightning would take that share of the share again
                self.trainer.limit_train_batches = self.steps_per_epoch * self.accumulation

    @property
    def validates(self) -> bool:
        """Whether the run validates; a corpus of one document has nothing to validate on."""
        return self.trainer is None or self.trainer.limit_val_batches != 0

    def _dataset(self, split: str) -> PretrainDataset:
        if split not in self._datasets:
            trains = split == TRAIN_SPLIT
            self._datasets[split] = PretrainDataset(
                TokenShards.open(self.folder, split),
                self.objective,
                self.packing,
                masking=self.masking if trains else MaskingConfig(),
                segments=self.segments,
                needles=self.needles,
                seed=self.seed if trains else EVALUATION_SEED,
            )
            self._datasets[split].read_words(self._words)
        return self._datasets[split]

    def follow_encoder(self, encoder: EncoderConfig) -> None:
        """Serve what an encoder reads: pieces, or whole words with their features."""
        has_words = encoder.projection is not None
        if has_words and not is_wordpiece(self.tokenizer_path):
            raise ValueError(
                f"the pieces of {self.tokenizer_path} are not WordPiece's, which hashed words are "
                "made of in pretraining; build the shards with a WordPiece tokenizer"
            )
        self._words = (
            PieceWords(load_tokenizer(self.tokenizer_path), encoder) if has_words else None
        )
        for dataset in self._datasets.values():
            dataset.read_words(self._words)

    def evaluation_dataset(self) -> PretrainDataset:
        """Return the validation split with its fixed plan and fixed 15 % masks."""
        return self._dataset(EVALUATION_SPLIT)

    def _rank_of(self) -> tuple[int, int]:
        """Return this rank and the number of ranks."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    @property
    def accumulation(self) -> int:
        """Micro-batches per rank and optimiser step."""
        return accumulation_steps(self.global_batch_size, self.micro_batch_size, self._rank_of()[1])

    @property
    def _limit_is_share(self) -> bool:
        limit = self.trainer.limit_train_batches if self.trainer else None
        return isinstance(limit, float) and limit != 1.0

    @property
    def steps_per_epoch(self) -> int:
        """Global steps per Lightning epoch: the whole ones in epoch 0, or fewer by limit.

        A limit that is a share (a float) is one of these steps, rounded down to at least one.
        """
        dataset = self._dataset(TRAIN_SPLIT)
        examples = dataset.known_sizes[0] if dataset.known_sizes else len(dataset)
        steps = max(1, examples // self.global_batch_size)
        trainer = self.trainer
        limit = trainer.limit_train_batches if trainer else None
        if trainer is None or limit is None:
            return steps
        if isinstance(limit, float):
            return max(1, int(limit * steps))
        accumulation = self.accumulation
        rehearsal = bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
        if limit % accumulation and not rehearsal:
            raise ValueError(
                f"limit_train_batches {limit} is that many micro-batches, which ends inside an "
                f"optimiser step of {accumulation}; give a multiple of {accumulation}."
            )
        return max(1, min(steps, limit // accumulation))

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return the training loader: a sized view of an endless stream."""
        sampler = StreamBatchSampler(self)
        dataset = self._dataset(TRAIN_SPLIT)
        dataset.joins_texts, dataset.global_batch_size = self.join_texts, self.global_batch_size
        # Plan the epoch here: the workers share what is there when they start.
        dataset.rows(np.array([self.sample_range(self.steps_done)[0]]))
        return BatchLoader(dataset, batch_sampler=sampler, **self._loader_options())

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return the first `eval_examples` validation examples; the same in every run."""
        return self._evaluation_loader(min(self.eval_examples, self.split_examples))

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return the whole validation split."""
        return self._evaluation_loader(self.split_examples)

    predict_dataloader = test_dataloader

    def _evaluation_loader(self, size: int) -> DataLoader[Batch]:
        batches = evaluation_batches(size, self.eval_batch_size, *self._rank_of())
        dataset = WholeBatches(self.evaluation_dataset(), batches)
        return BatchLoader(dataset, batch_size=1, **self._loader_options())

    def _loader_options(self) -> dict[str, Any]:
        device = self.trainer.strategy.root_device if self.trainer else None
        is_on_gpu = device is not None and device.type == "cuda"
        return {
            "collate_fn": pack_batch if self.num_workers else keep_batch,
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": is_on_gpu,  # a run on the CPU beside a GPU pins nothing
            "worker_init_fn": ignore_signals_in_worker if self.num_workers else None,
        }

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Note whether there is padding while the batch is on the CPU: looking costs nothing."""
        # By numpy: PyTorch's threads would wake, and then spin beside the one that feeds the GPU.
        return {**batch, HAS_PADDING: not batch["mask"].numpy().all()}

    @property
    def steps_done(self) -> int:
        """Optimiser steps done: the place in the stream."""
        return self.trainer.global_step if self.trainer else 0

    def sample_range(self, step: int) -> tuple[int, int]:
        """Return the first and the last sample that optimiser step `step` (from 0) reads."""
        first = window_of(step, self.skipped_windows) * self.global_batch_size
        return first, first + self.global_batch_size - 1

    def first_sample_of(self, step: int, batch_idx: int) -> int:
        """Return the first sample of this rank's micro-batch.

        Args:
            step: Optimiser steps done.
            batch_idx: Micro-batches of this step, or of this Lightning epoch, done.
        """
        rank, world_size = self._rank_of()
        micro_batch = batch_idx % self.accumulation * world_size + rank
        return self.sample_range(step)[0] + micro_batch * self.micro_batch_size

    def fingerprint(self) -> dict[str, Any]:
        """Return everything that decides the training stream, as plain values."""
        manifest = self.evaluation_dataset().shards.manifest  # one of both splits
        needles = {"needles": asdict(self.needles)} if self.needles.facts else {}
        return {
            **needles,
            "tokenizer": manifest.tokenizer.digest,
            "data": manifest.digest,
            "objective": self.objective.name,
            "seed": self.seed,
            "max_len": self.max_len,
            "short_prob": self.packing.short_prob,
            "global_batch_size": self.global_batch_size,
            "masking": asdict(self.masking),
            "segments": asdict(self.segments),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the stream; what is planned only saves a resumed run its planning."""
        return {
            "samples_seen": self.sample_range(self.steps_done)[0],
            "skipped_windows": list(self.skipped_windows),
            "fingerprint": self.fingerprint(),
            "plan_sizes": self._dataset(TRAIN_SPLIT).known_sizes,
            "plan_counts": self.plan_counts(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the place in the stream of a saved run.

        The place itself follows from the trainer's step and the skipped windows: those of the saved
        run, and those that a guard added since. Other data or settings are refused by name, and in
        an evaluation shards of another tokenizer.
        """
        saved, own = state_dict["fingerprint"], self.fingerprint()
        if self.trainer is not None and self.trainer.state.fn != TrainerFn.FITTING:
            if saved["tokenizer"] != own["tokenizer"]:
                raise ValueError(
                    f"the shards in {self.folder} have another tokenizer than the checkpoint was "
                    f"trained with (digest {own['tokenizer'][:12]}, not {saved['tokenizer'][:12]}),"
                    " so its tokens mean other words. Give shards that were built with the run's "
                    "tokenizer (data_prep's --tokenizer.path, the tokenizer.json of its bundle)."
                )
            self.differs_from_training = differences(saved, own, EVALUATED)
            return
        if differing := "; ".join(differences(saved, own, {*own, "needles"})):
            raise ValueError(
                f"the checkpoint cannot be resumed with these data settings: {differing}. Use the "
                "saved values, or a new --run.name without --resume: --model.start_from CHECKPOINT "
                "begins it with these weights, --model.keep_optimizer true with their optimiser."
            )
        self._dataset(TRAIN_SPLIT).remember_sizes(list(state_dict["plan_sizes"]))
        self._plan_counts = dict(state_dict["plan_counts"])
        skipped = {*self.skipped_windows, *state_dict["skipped_windows"]}
        self.skipped_windows = tuple(sorted(skipped))

    def plan_counts(self) -> dict[str, float]:
        """Return where the tokens of the first epoch go: the fields of `PlanStats`, `coverage`."""
        if not self._plan_counts:
            stats = self._dataset(TRAIN_SPLIT).plan(0).stats
            counts = {name: float(value) for name, value in asdict(stats).items()}
            self._plan_counts = {**counts, "coverage": stats.coverage}
        return self._plan_counts

    def scored_examples(self, *, whole: bool = False) -> int:
        """Return how many of the first examples a validation scores, or a test, up to its limit.

        Args:
            whole: Whether a test is meant, which scores the whole split.
        """
        size = self.split_examples if whole else min(self.eval_examples, self.split_examples)
        if self.trainer is None:
            return size
        limit = self.trainer.limit_test_batches if whole else self.trainer.limit_val_batches
        return first_examples(size, self.eval_batch_size, self._rank_of()[1], limit)

    @property
    def split_examples(self) -> int:
        """Number of examples of the whole validation split."""
        return len(self.evaluation_dataset())

    def baselines(self, *, whole: bool = False) -> dict[str, float]:
        """Return what guessing scores on the examples of `scored_examples`; nothing of none."""
        if not (whole or self.validates):
            return {}
        return self.evaluation_dataset().baselines(self.scored_examples(whole=whole))
