"""What protection costs: milliseconds per optimiser step, and seconds until a resumed run steps.

    python -m benchmarks.resilience                  (PoNet small and nano, one CPU thread)
    python -m benchmarks.resilience --encoder base --device cuda --precision bf16

Steps: a few steps are trained again and again, each time with the callbacks of one rival, in a new
order every round; each is compared with the bare steps of its round, in wall time and in CPU time
of the process. A second bare rival, "nothing", shows what such differences mean. Beside them stands
the time spent in a part's own hooks: exact on one CPU, an upper bound elsewhere, where a look of
the guards waits for the GPU, as the next step would have done. A save is spread over
`--every_n_steps` steps.

Start-up: the command `pretrain fit`, from its start to the metrics line of its first new step,
fresh, resumed, and resumed in the third epoch over the corpus. For that the same checkpoint gets a
later step number, so that the run has to plan that epoch.
"""

import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.callbacks import Callback

from benchmarks import report
from benchmarks.harness import Sample, in_rounds, interleaved, spread, times
from benchmarks.pretraining import fit, make_module
from benchmarks.report import CONFIGS, DEVICE, ROUNDS, Option, Options, Target
from benchmarks.rivals import PRECISIONS, Rival
from benchmarks.runs import kill, last_step, shards_in, start_fit
from data_prep.shards import TokenShards
from pretrain.batches import PretrainDataset
from pretrain.callbacks import dropout_seed, step_loss
from pretrain.datamodule import PretrainDataModule
from pretrain.objectives import OBJECTIVES
from pretrain.packing import PackingConfig
from training.callbacks.steps import StepSeeds
from training.callbacks.watchdog import Watchdog
from training.checkpoints.io import VerifiedCheckpointIO
from training.checkpoints.schedule import RunCheckpoints
from training.checkpoints.storage import (
    STATE_FILE,
    checkpoint_path,
    load_checkpoint,
    saved_checkpoints,
    write_checkpoint,
)
from training.guards import GuardConfig, Guards
from training.interruption import StopRequest
from training.run_config import CheckpointConfig

WAYS = ("own_hooks", "cpu_difference", "wall_difference")
BARE, NOTHING, ALL = "bare", "nothing (a second bare)", "poll, guards, watchdog, seeds"
SYNC, ASYNC = "checkpoint", "checkpoint, asynchronous"
OPTIONS = {
    **DEVICE,
    "rounds": Option(7, ROUNDS, short=2),
    "folder": Option(None, "shards made by `python -m data_prep build`", kind=Path),
    "sentences": Option(1_000_000, "of the synthetic corpus", short=100_000),
    "encoder": Option(["small", "nano"], "PoNet sizes", short=["nano"]),
    "max_len": Option(128, "tokens of an example"),
    "batch_size": Option(32, "examples per device and step"),
    "num_workers": Option(1, "of the loader"),
    "precision": Option("32", "", tuple(PRECISIONS)),
    "poll_every_n_steps": Option(1),
    "every_n_steps": Option(100, "steps per checkpoint"),
    "steps": Option(20, "timed at once; guards look every 10", short=10),
    "start_ups": Option(5, "of each kind", short=1),
}


def protections(folder: Path, options: Options) -> dict[str, list[Callback]]:
    """Everything off, each part alone, and everything on; guards as by default, with spikes."""
    guards = GuardConfig(spike_factor=3.0)

    def checkpoints(every_n_steps: int = 0) -> RunCheckpoints:
        return RunCheckpoints(
            folder,
            config=CheckpointConfig(
                every_n_minutes=0, every_n_steps=every_n_steps, at_validation=False
            ),
            stop=StopRequest(budget_s=1e6),
            poll_every_n_steps=options.poll_every_n_steps,
            eval_every_n_steps=10**9,
            before_save=Guards(guards, step_loss).check_before_save,
            before_stop=lambda trainer, pl_module: None,
        )

    def watchdog() -> Watchdog:
        return Watchdog(guards.watchdog_minutes)

    return {
        BARE: [],
        NOTHING: [],
        "preemption poll": [checkpoints()],
        "guards": [Guards(guards, step_loss)],
        "watchdog": [watchdog()],
        "step seeds": [StepSeeds(dropout_seed)],
        ALL: [StepSeeds(dropout_seed), watchdog(), Guards(guards, step_loss), checkpoints()],
        SYNC: [checkpoints(options.steps)],
        ASYNC: [checkpoints(options.steps)],
    }


def timed(callbacks: Sequence[Callback]) -> list[float]:
    """Make the hooks of callbacks add their seconds to the list that is returned."""
    seconds: list[float] = []

    def timing(method: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                seconds.append(time.perf_counter() - start)

        return run

    for callback in callbacks:
        for name in ("on_train_batch_start", "on_train_batch_end"):
            setattr(callback, name, timing(getattr(callback, name)))
    return seconds


def train(shards: Path, folder: Path, encoder: str, options: Options) -> dict[str, list[Sample]]:
    """Return seconds per step of every protection, round by round, and those of its own hooks."""
    vocab_size = TokenShards.open(shards).manifest.tokenizer.vocab_size
    rival = Rival(kind="ponet", precision=options.precision)
    form = Options(**vars(options), vocab_size=vocab_size, dropout=0.1, warmup=2)
    form.encoder, form.tokens_per_step = encoder, options.batch_size * options.max_len
    module = make_module(rival, options.max_len, form)

    def fitted(name: str) -> Sample:
        callbacks = protections(folder, options)[name]
        seconds, io = timed(callbacks), [VerifiedCheckpointIO(asynchronous=name == ASYNC)]
        more: Any = {"callbacks": callbacks, "plugins": io}
        found = fit(module, rival, shards, options.max_len, form, **more)
        return {**found, "own_s": sum(seconds) / (form.warmup + form.steps)}

    names = protections(folder, options)
    tried = {name: lambda name=name: fitted(name) for name in names}
    return in_rounds(tried, options.rounds, note=encoder)


def costs(samples: dict[str, list[Sample]], folder: Path, options: Options) -> dict[str, Any]:
    """What each part costs per step and all of them together, in ms and % of a bare step."""
    bare = samples[BARE]
    step_ms = 1e3 * times(bare, "wall_s")["median"]

    def share(values_s: list[float]) -> dict[str, Any]:
        ms = {key: 1e3 * value for key, value in spread(values_s).items()}
        return {"ms": ms, "percent": {key: 100 * value / step_ms for key, value in ms.items()}}

    parts: dict[str, Any] = {}
    for name in (name for name in samples if name != BARE):
        # A fit has one save, but only one in `every_n_steps` steps is to be paid for.
        part = options.steps / options.every_n_steps if name in (SYNC, ASYNC) else 1.0
        pairs = [(own, other) for own, other in zip(samples[name], bare, strict=True)]
        parts[name] = {"own_hooks": share([part * own["own_s"] for own, _ in pairs])} | {
            f"{way}_difference": share([part * (a[f"{way}_s"] - b[f"{way}_s"]) for a, b in pairs])
            for way in ("cpu", "wall")
        }
    saves = parts[SYNC]["own_hooks"]["percent"]["median"]
    return {
        "bare_step_ms": step_ms,
        "checkpoint_mib": (saved_checkpoints(folder)[-1].path / STATE_FILE).stat().st_size / 2**20,
        "parts": parts,
        "together_percent": {way: parts[ALL][way]["percent"]["median"] + saves for way in WAYS},
        "how": f"'{ALL}', plus one synchronous save divided by {options.every_n_steps} steps",
    }


def fit_options(shards: Path, encoder: str, options: Options) -> list[str]:
    """Return the options of the fits whose start-up is timed."""
    given = {
        "config": CONFIGS / "pretrain" / "small.yaml",
        "data.folder": shards.resolve(),
        "model.encoder.vocab_size": TokenShards.open(shards).manifest.tokenizer.vocab_size,
        "data.max_len": options.max_len,
        "data.global_batch_size": options.batch_size,
        "data.micro_batch_size": options.batch_size,
        "trainer.log_every_n_steps": 1,
        "trainer.max_steps": 10**6,
        "trainer.accelerator": "gpu" if options.device == "cuda" else "cpu",
        "trainer.precision": PRECISIONS[options.precision],
        "trainer.devices": 1,
        "checkpoints.every_n_steps": 2,
    }
    encoder_file = ["--config", str(CONFIGS / "encoder" / f"ponet_{encoder}.yaml")]
    return [*encoder_file, *(text for k, v in given.items() for text in (f"--{k}", str(v)))]


def kill_when(done: Callable[[], bool], command: list[str], root: Path, name: str) -> float:
    """Start a fit, kill it as soon as `done()`; return the seconds until then."""
    process, begin = start_fit(command, root, name), time.perf_counter()
    while not done():
        if process.poll() is not None:
            log = (root / f"{name}.log").read_text()
            raise SystemExit(f"the run ended too early:\n{log[-3000:]}")
        time.sleep(0.005)
    seconds = time.perf_counter() - begin
    kill(process)
    return seconds


def in_third_epoch(run: Path, target: Path, shards: Path, options: Options) -> int:
    """Copy a run and give its checkpoint the step it would have in the third epoch; that step."""
    packing = PackingConfig(max_len=options.max_len)
    stream = PretrainDataset(TokenShards.open(shards), OBJECTIVES["mlm_sso"], packing, seed=42)
    examples = len(stream.plan(0)) + len(stream.plan(1))
    step = examples // options.batch_size // 1000 * 1000 + 1001  # no validation is due there
    stream.locate(np.array([examples]))
    shutil.copytree(run, target, symlinks=True)
    folder = target / "checkpoints"
    content = load_checkpoint(saved_checkpoints(folder)[-1].path)
    content["global_step"] = step
    content["lr_schedulers"][0]["last_epoch"] = step
    content[PretrainDataModule.__name__]["plan_sizes"] = stream.known_sizes
    write_checkpoint(content, checkpoint_path(folder, step))
    return step


def start_up(shards: Path, root: Path, encoder: str, options: Options) -> dict[str, Any]:
    """Seconds from the command to the end of its first new step: fresh and resumed."""
    command = fit_options(shards, encoder, options)
    folder = root / "saved" / "checkpoints"
    kill_when(lambda: len(saved_checkpoints(folder)) > 1, command, root, "saved")
    later = in_third_epoch(root / "saved", root / "later", shards, options)
    origins = {"resumed": root / "saved", "resumed in the third epoch": root / "later"}

    def seconds(kind: str) -> float:
        run = root / "tried"
        shutil.rmtree(run, ignore_errors=True)
        if kind in origins:
            shutil.copytree(origins[kind], run, symlinks=True)
        kept = saved_checkpoints(run / "checkpoints")
        step = kept[-1].step if kept else 0
        return kill_when(lambda: last_step(run) > step, command, root, "tried")

    kinds = {kind: lambda kind=kind: seconds(kind) for kind in ("fresh", *origins)}
    found = interleaved(kinds, rounds=options.start_ups)
    for figures in found.values():
        figures["ratio"] = figures["median"] / found["fresh"]["median"]
    return {"encoder": encoder, "later_step": later, "seconds": found}


def claims(encoders: dict[str, Any], started: dict[str, Any]) -> list[Target]:
    """Return what protection may cost, with what was measured."""
    found = []
    for name, of_encoder in encoders.items():
        for way, percent in of_encoder["together_percent"].items():
            text = f"{name}: all protection together, % of a step, {way.replace('_', ' ')}"
            found.append(report.target(text, percent, at_most=2.0))
    for kind, figures in started["seconds"].items():
        if kind != "fresh":
            text = f"start-up, {kind}: x fresh"
            found.append(report.target(text, figures["ratio"], at_most=1.3))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    options = report.parse(__doc__, OPTIONS, arguments)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # of the commands that are started
    count, encoders = options.sentences, {}
    made = {"num_sentences": count, "validation_sentences": count // 20, "vocab_size": 8192}
    with shards_in(options.folder, **made) as (shards, folder):
        started = start_up(shards, folder, options.encoder[0], options)
        for encoder in options.encoder:
            samples = train(shards, folder / encoder, encoder, options)
            encoders[encoder] = costs(samples, folder / encoder, options)
    content = {"encoders": encoders, "start_up": started, "targets": claims(encoders, started)}
    report.finish("resilience", content, options)
    panels = {
        f"{name}: % of a bare step": {
            way.replace("_", " "): {p: part[way]["percent"] for p, part in found["parts"].items()}
            for way in WAYS
        }
        for name, found in encoders.items()
    }
    panels["command to first step, seconds"] = {"start-up": started["seconds"]}
    report.bar_chart(panels, options.output / "resilience.png", unit="")


if __name__ == "__main__":
    main()
