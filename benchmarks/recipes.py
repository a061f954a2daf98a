"""Pretraining recipes on real text, each against the loss that a recipe of `configs` ends with.

    python -m benchmarks.recipes --folder SHARDS --device cuda --jobs 4
    python -m benchmarks.recipes --folder SHARDS --device cuda --rounds 3
    python -m benchmarks.recipes --folder SHARDS --study pairs --recipes base AdamW --seeds 1 2 3

Every recipe is the base with what `benchmarks.recipe_table` says. A run writes its JSON into
`--root` as it ends; a study that was cut goes on with what is missing. Runs side by side slow each
other: a step of each recipe is timed by another call, with `--rounds`, in one process and in turn.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import yaml
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks import report
from benchmarks.harness import interleaved
from benchmarks.pretraining import StepWindow
from benchmarks.recipe_summary import content_of, draw, without_share
from benchmarks.recipe_table import STUDIES, Recipe, with_own_objectives
from benchmarks.report import CONFIGS, Option, Options, Row
from benchmarks.rivals import CONFIG_CLASSES
from benchmarks.runs import bare_trainer, end_with_parent, told_of
from data_prep.files import write_json
from ponet.config import PoolingConfig
from ponet.poolers import ChannelAttentionPooler
from ponet.pooling.mix import KernelName
from pretrain.batches import Batch, PretrainDataset, SegmentConfig
from pretrain.callbacks import dropout_seed
from pretrain.datamodule import TRAIN_SPLIT, PretrainDataModule
from pretrain.loader import BatchLoader, StreamBatchSampler
from pretrain.masking import Masker, MaskingConfig
from pretrain.module import PretrainModule
from pretrain.sums import LossSums
from training.callbacks.steps import EvaluationInterval, StepSeeds
from training.utilisation import FetchClock

OPTIONS = {
    "folder": Option(Path("data/wiki"), "shards of real text"),
    "study": Option("loss", "of the loss of masked words, or of pairs", tuple(STUDIES)),
    "base": Option("", "recipe of configs/pretrain; default: small, of pairs quickstart"),
    "recipes": Option([""], "names; default: those of the study"),
    "seeds": Option([1, 2, 3], short=[1]),
    "steps": Option(0, "of the base; 0: as its file says", short=4),
    "jobs": Option(1, "runs side by side; 0: none, report what is there"),
    "device": Option("cpu", choices=("cpu", "cuda")),
    "kernels": Option("auto", "of PoNet's pools and loss", get_args(KernelName)),
    "threads": Option(1, "of the CPU, for each run"),
    "validations": Option(8, "of a run", short=2),
    "eval_examples": Option(4096, "of a validation", short=64),
    "rounds": Option(0, "in which a step of each recipe is timed; no recipe is run then"),
    "timed_steps": Option(12, "of a round; Muon that waits for 2, 3 or 4 steps needs a multiple"),
    "root": Option(Path("runs/recipes"), "folder of the runs' files"),
    "name": Option("", "of the files; default: recipes_<study>"),
}


class DecayingMasker:
    """Hides fewer tokens from part to part of a run; a function of the sample numbers."""

    def __init__(self, maskers: Sequence[Masker], num_samples: int) -> None:
        self._maskers, self._num_samples = maskers, num_samples
        self.config = maskers[0].config

    def mask(self, ids_BL: Any, text_BL: Any, example_ids_B: Any) -> Any:
        """Hide tokens as the masker of this part of the run does."""
        part = int(example_ids_B[0]) * len(self._maskers) // self._num_samples
        masker = self._maskers[min(part, len(self._maskers) - 1)]
        self.config = masker.config
        return masker.mask(ids_BL, text_BL, example_ids_B)


class Stream(StreamBatchSampler):
    """Yields steps of as many samples as the data module gives each."""

    def __iter__(self) -> Any:
        """Yield lists of sample numbers."""
        for step in range(self._data.steps_done, self._data.trainer.max_steps):
            first, last = self._data.sample_range(step)
            yield list(range(first, last + 1))


class StudyData(PretrainDataModule):
    """Batches that grow, and masking rates that fall, over a run."""

    first_samples: Any = None
    """First sample of every step, and the end of the last, where batches grow."""
    rates: Sequence[float] = ()
    joins_first: bool = False

    def _dataset(self, split: str) -> PretrainDataset:
        is_new = split not in self._datasets
        dataset = super()._dataset(split)
        if is_new and self.joins_first:
            ids_of = dataset._segment_ids
            dataset._segment_ids = lambda *given: np.maximum(ids_of(*given) - 1, 0)  # type: ignore[method-assign]
        return dataset

    def sample_range(self, step: int) -> tuple[int, int]:
        """Return the first and the last sample of a step."""
        if self.first_samples is None:
            return super().sample_range(step)
        return int(self.first_samples[step]), int(self.first_samples[step + 1]) - 1

    @property
    def steps_per_epoch(self) -> int:
        """Return the steps of the run: batches that grow make no epochs."""
        return super().steps_per_epoch if self.first_samples is None else self.trainer.max_steps

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return the loader, with what this run changes."""
        loader, dataset = super().train_dataloader(), self._dataset(TRAIN_SPLIT)
        dataset.global_batch_size = 0  # every step is one batch, whose hidden tokens are its own
        if self.rates:
            form: dict[str, Any] = {
                "max_len": self.max_len, "tokenizer": dataset.shards.manifest.tokenizer,
                "is_continuation_V": dataset.shards.is_continuation, "seed": self.seed,
            }  # fmt: skip
            each = [dataclasses.replace(self.masking, mask_prob=rate) for rate in self.rates]
            num_samples = self.trainer.max_steps * self.global_batch_size
            maskers = DecayingMasker([Masker(masking, **form) for masking in each], num_samples)
            dataset._masker = maskers  # type: ignore[assignment]
        if self.first_samples is None:
            return loader
        return BatchLoader(dataset, batch_sampler=Stream(self), **self._loader_options())


@dataclass
class ValidationCurve(Callback):
    """Keeps every validation with what was spent until then, validations left out."""

    rows: list[Row] = field(default_factory=list)
    _seconds: float = 0.0
    _flops: float = 0.0
    _tokens: Any = 0.0
    _start: float = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._start = time.perf_counter()

    def on_train_batch_end(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, PretrainModule)
        self._flops += pl_module.batch_flops(batch)
        self._tokens = self._tokens + LossSums(*outputs["sums"]).tokens

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._tokens = float(self._tokens)  # waits for the device
        self._seconds += time.perf_counter() - self._start

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        found = {
            name.removeprefix("val/"): float(v) for name, v in trainer.callback_metrics.items()
        }
        found = {name: v for name, v in found.items() if name.startswith(("mlm_", "pair_"))}
        spent = {"seconds": self._seconds, "tokens": self._tokens, "flops": self._flops}
        self.rows.append({"step": trainer.global_step, **spent, **found})
        self._start = time.perf_counter()


def settings_of(base: str, steps: int = 0) -> dict[str, Any]:
    """Return what a recipe of `configs/pretrain` says: optimizer, module, data, encoder, steps."""
    content = yaml.safe_load((CONFIGS / f"pretrain/{base}.yaml").read_text(encoding="utf-8"))
    model, data, trainer = content["model"], content["data"], content["trainer"]
    return {
        "optimizer": model.pop("optimizer"),
        "encoder": model.pop("encoder", {}).get("init_args", {}),
        "module": model,
        "data": {k: v for k, v in data.items() if k not in ("folder", "build_config")},
        "steps": steps or trainer["max_steps"],
        "clip": trainer["gradient_clip_val"],
    }


def make_data(
    recipe: Recipe, settings: Mapping[str, Any], seed: int, options: Options
) -> StudyData:
    """Return the data of a run."""
    given = {**settings["data"], **recipe.data}
    for name, config in (("masking", MaskingConfig), ("segments", SegmentConfig)):
        if name in given:
            given[name] = config(**given[name])
    data = StudyData(
        folder=str(options.folder), objective={**settings["module"], **recipe.module}["objective"],
        seed=seed, eval_examples=options.eval_examples, eval_batch_size=64, num_workers=0,
        verify_shards=False, **given,
    )  # fmt: skip
    data.rates, data.joins_first = recipe.masking, recipe.joins_first
    if recipe.batches:
        num_samples = settings["steps"] * recipe.share * data.global_batch_size
        sizes = [
            size for share, size in recipe.batches for _ in range(int(share * num_samples / size))
        ]
        data.first_samples = np.cumsum([0, *sizes])
    return data


@with_own_objectives
def make_run(
    name: str, seed: int, options: Options
) -> tuple[PretrainModule, StudyData, dict[str, Any]]:
    """Return module, data and settings of a run."""
    settings, recipe = settings_of(options.base, options.steps), STUDIES[options.study][name]
    data = make_data(recipe, settings, seed, options)
    steps = max(2, round(settings["steps"] * recipe.share))
    if recipe.batches:
        steps = len(data.first_samples) - 1
    warmup = settings["optimizer"]["warmup_steps"] * min(1.0, steps / settings["steps"])
    chosen = {**settings["optimizer"], "warmup_steps": round(warmup), **recipe.optimizer}
    torch.manual_seed(seed)
    sizes = {"vocab_size": data.vocab_size, "max_positions": data.max_len}
    size = {**settings["encoder"], **sizes, **recipe.encoder}
    preset: Any = options.base if options.base == "small" else "nano"
    if recipe.wide_init:
        size["init_range"] = CONFIG_CLASSES[recipe.kind].preset(preset).hidden_size ** -0.5
    config = CONFIG_CLASSES[recipe.kind].preset(preset, **size)
    if isinstance(config, PoolingConfig):
        config = dataclasses.replace(config, kernels=options.kernels)
    module = PretrainModule(
        config, optimizer=recipe.schedule(**chosen), **{**settings["module"], **recipe.module}
    )
    if recipe.pools_all:
        module.model.pooler = ChannelAttentionPooler(config)
    return module, data, {**settings, "steps": steps}


def fit(
    module: PretrainModule, data: StudyData, settings: Mapping[str, Any], options: Options,
    *callbacks: Callback, **more: Any,
) -> Trainer:  # fmt: skip
    """Train, and write nothing."""
    trainer = bare_trainer(
        options.device, max_steps=settings["steps"], gradient_clip_val=settings["clip"],
        enable_checkpointing=False, num_sanity_val_steps=0, default_root_dir=options.root,
        callbacks=[StepSeeds(dropout_seed), *callbacks], **more,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    return trainer


@with_own_objectives
def train(name: str, seed: int, options: Options) -> Row:
    """Return the curve of a run, and what its pairs were taken for in the end."""
    module, data, settings = make_run(name, seed, options)
    curve, every = ValidationCurve(), max(1, -(-settings["steps"] // options.validations))
    fit(module, data, settings, options, EvaluationInterval(every), curve)
    pairs = confusion(module, data, options.device)
    return {"recipe": name, "seed": seed, "curve": curve.rows, "pairs": pairs}


@torch.inference_mode()
def confusion(module: PretrainModule, data: StudyData, device: str) -> list[list[int]]:
    """Return how often a pair of each relation (row) was taken for each (column)."""
    num = module.objective.num_pair_classes
    counts = torch.zeros(num * num, dtype=torch.int64)
    module.to(device).eval()
    for batch in data.val_dataloader():
        moved: dict[str, Tensor] = {k: v.to(device) for k, v in batch.items()}
        logits = module(moved).pair_logits
        assert logits is not None
        found = batch["pair_labels"] * num + logits.argmax(-1).cpu()
        counts += found.bincount(minlength=num * num)
    result: list[list[int]] = counts.view(num, num).tolist()
    return result


def prepare_process(options: Options) -> None:
    """Set what is of a process, which ends with the study."""
    end_with_parent()
    torch.set_num_threads(options.threads)
    if options.device == "cuda":
        torch.set_float32_matmul_precision("high")


def file_of(name: str, seed: int, options: Options) -> Path:
    """Return where a run is written."""
    words = "".join(c if c.isalnum() or c in ".-" else "_" for c in name)
    return Path(options.root) / f"{options.study}-{words}-{seed}.json"


def run_and_write(name: str, seed: int, options: Options) -> str:
    """Make a run and write its file, whole or not at all; return a line about it."""
    begin, path = time.perf_counter(), file_of(name, seed, options)
    row = train(name, seed, options)
    row |= {"wall_s": time.perf_counter() - begin, "made": made(options)}
    write_json(path, row)
    last = row["curve"][-1]
    keys = ("step", "mlm_loss", "pair_accuracy", "seconds")
    return f"{path.name}: " + ", ".join(f"{key} {last[key]:.4g}" for key in keys)


def made(options: Options) -> Row:
    """Return where a run was made."""
    found = {"machine": report.machine(), "torch": torch.__version__}
    found |= {
        name: getattr(options, name) for name in ("device", "jobs", "threads", "base", "kernels")
    }
    return found | ({"gpu": torch.cuda.get_device_name()} if options.device == "cuda" else {})


def run_missing(names: Sequence[str], options: Options) -> int:
    """Make the runs that have no file yet, seed by seed; return how many failed."""
    runs = [(name, seed) for seed in options.seeds for name in names]
    missing = [run for run in runs if not file_of(*run, options).exists()]
    failed, context = 0, get_context("spawn")
    start: dict[str, Any] = {"initializer": prepare_process, "initargs": (options,)}
    start |= {"max_tasks_per_child": 1}  # an error of a GPU stays with the process
    with ProcessPoolExecutor(options.jobs, context, **start) as pool:
        waiting = {pool.submit(run_and_write, *run, options): run for run in missing}
        for done in as_completed(waiting):
            error = done.exception()
            failed += error is not None
            path = file_of(*waiting[done], options).with_suffix(".error")
            print(told_of(error, path) if error else done.result(), flush=True)
    return failed


@with_own_objectives
def step_times(names: Sequence[str], options: Options) -> dict[str, Any]:
    """Return the spread of the seconds of a step of each recipe, by rounds over all.

    On a CPU seconds of the CPU: other processes then change little.
    """
    prepare_process(options)

    def timed(name: str) -> float:
        module, data, settings = parts[name]
        window = StepWindow(2, options.timed_steps, FetchClock())
        short = {**settings, "steps": 2 + options.timed_steps}
        trainer = fit(module, data, short, options, window, limit_val_batches=0)
        trainer.optimizers = []
        return window.found["wall_s" if options.device == "cuda" else "cpu_s"]

    parts = {name: make_run(name, 1, options) for name in names}
    rivals: Any = {name: lambda name=name: timed(name) for name in names}
    return interleaved(rivals, rounds=options.rounds)


def main(arguments: Sequence[str] | None = None) -> int:
    options = report.parse(__doc__, OPTIONS, arguments)
    options.base = options.base or {"loss": "small", "pairs": "quickstart"}[options.study]
    names = [name for name in options.recipes if name] or list(STUDIES[options.study])
    if unknown := [name for name in names if name not in STUDIES[options.study]]:
        known = ", ".join(STUDIES[options.study])
        raise SystemExit(f"recipes {', '.join(unknown)} are not known; choose among: {known}")
    failed = 0
    Path(options.root).mkdir(parents=True, exist_ok=True)
    if options.rounds:
        kinds = [without_share(name, options.study) for name in names]
        alone = [name for n, name in enumerate(names) if kinds[n] not in kinds[:n]]
        times = Path(options.root) / f"times-{options.study}-{options.device}.json"
        write_json(times, step_times(alone, options))
    elif options.jobs:
        failed = run_missing(names, options)
    report_on(options)
    return failed


def report_on(options: Options) -> None:
    """Write JSON, page and plot of the runs that have ended."""
    content = content_of(options.root, options.study)
    if not content["rows"]:
        return
    for key, value in content.pop("options").items():
        setattr(options, key, value)
    name = options.name or f"recipes_{options.study}"
    options.root, options.folder = Path(options.root).name, Path(options.folder).name
    shown = report.finish(name, content, options, kind="recipes")
    page = f"# Recipes: {options.study}\n\n{shown}\n"
    (options.output / f"{name}.md").write_text(page, encoding="utf-8")
    draw(content, options.output / f"{name}.png")


if __name__ == "__main__":
    raise SystemExit(main())
