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
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning.callbacks import Callback

from benchmarks.charts import bar_chart
from benchmarks.corpora import synthetic_folder
from benchmarks.fits import kill, last_step, start_fit
from benchmarks.harness import Sample, in_turn, interleaved, spread, times
from benchmarks.pretraining import PRECISIONS, be_quiet, fit, make_module
from benchmarks.report import CONFIGS, Options, Target, finish, grid, make_parser
from benchmarks.report import target as claim
from benchmarks.rivals import Rival
from data_prep.shards import TokenShards
from pretrain.callbacks import dropout_seed, step_loss
from pretrain.datamodule import PretrainDataModule
from pretrain.objectives import OBJECTIVES
from pretrain.packing import PackingConfig
from pretrain.sampler import SampleStream
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


class Stopwatch:
    """Adds up the seconds inside methods of callbacks."""

    def __init__(self, callbacks: Sequence[Callback], names: Sequence[str]) -> None:
        self.seconds = 0.0
        for callback in callbacks:
            for name in names:
                setattr(callback, name, self._timed(getattr(callback, name)))

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start

        return timed


def train(shards: Path, folder: Path, encoder: str, options: Options) -> dict[str, list[Sample]]:
    """Return seconds per step of every protection, round by round, and those of its own hooks."""
    vocab_size = TokenShards.open(shards).manifest.tokenizer.vocab_size
    rival = Rival(kind="ponet", precision=options.precision)
    form = Options(**vars(options), vocab_size=vocab_size, dropout=0.1, warmup=2)
    form.encoder, form.tokens_per_step = encoder, options.batch_size * options.max_len
    module = make_module(rival, options.max_len, form)
    samples: dict[str, list[Sample]] = {name: [] for name in protections(folder, options)}
    for number in range(options.rounds):
        for name in in_turn(list(samples), number):
            callbacks = protections(folder, options)[name]
            hooks = Stopwatch(callbacks, ("on_train_batch_start", "on_train_batch_end"))
            io = [VerifiedCheckpointIO(asynchronous=name == ASYNC)]
            found = fit(
                module, rival, shards, options.max_len, form, callbacks=callbacks, plugins=io
            )
            own_s = hooks.seconds / (form.warmup + form.steps)
            samples[name].append({**found, "own_s": own_s})
    return samples


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


def table(content: dict[str, Any]) -> list[str]:
    """Return one line per part of what protection costs."""
    head = ("", "", *(f"{way.replace('_', ' ')}, ms (%)" for way in WAYS))
    body = []
    for encoder, found in content["encoders"].items():
        for name, part in found["parts"].items():
            cells = [(part[way]["ms"]["median"], part[way]["percent"]["median"]) for way in WAYS]
            shares = [f"{ms:.3f} ({percent:.2f} %)" for ms, percent in cells]
            body.append([encoder, name, *shares])
    return grid(head, body)


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
    stream = SampleStream(TokenShards.open(shards), OBJECTIVES["mlm_sso"], packing, seed=42)
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
    found = [
        claim(f"{name}: all protection together, % of a step, {way.replace('_', ' ')}",
              costs["together_percent"][way], at_most=2.0)
        for name, costs in encoders.items()
        for way in WAYS
    ]  # fmt: skip
    for kind, figures in started["seconds"].items():
        if kind != "fresh":
            found.append(claim(f"start-up, {kind}: x fresh", figures["ratio"], at_most=1.3))
    return found


def report(shards: Path, folder: Path, options: Options) -> None:
    started = start_up(shards, folder, options.encoder[0], options)
    encoders = {}
    for encoder in options.encoder:
        samples = train(shards, folder / encoder, encoder, options)
        encoders[encoder] = costs(samples, folder / encoder, options)
    targets = claims(encoders, started)
    content = {"encoders": encoders, "start_up": started, "targets": targets}
    finish("resilience", content, options, table)
    panels = {
        f"{name}: % of a bare step": {
            way.replace("_", " "): {p: part[way]["percent"] for p, part in found["parts"].items()}
            for way in WAYS
        }
        for name, found in encoders.items()
    }
    panels["command to first step, seconds"] = {"start-up": started["seconds"]}
    bar_chart(panels, options.output / "resilience.png", unit="")


def main(arguments: list[str] | None = None) -> None:
    parser = make_parser(__doc__, rounds=7, device=True)
    parser.add_argument("--folder", type=Path, help="shards made by `python -m data_prep build`")
    parser.add_argument("--sentences", type=int, default=1_000_000, help="of the synthetic corpus")
    parser.add_argument("--encoder", nargs="+", default=["small", "nano"], help="PoNet sizes")
    parser.add_argument("--max_len", type=int, default=128)
    parser.add_argument("--batch_size", type=int, default=32, help="examples per device and step")
    parser.add_argument("--num_workers", type=int, default=1)
    parser.add_argument("--precision", choices=tuple(PRECISIONS), default="32")
    parser.add_argument("--poll_every_n_steps", type=int, default=1)
    parser.add_argument("--every_n_steps", type=int, default=100, help="steps per checkpoint")
    parser.add_argument("--steps", type=int, default=20, help="timed at once; guards look every 10")
    parser.add_argument("--start_ups", type=int, default=5, help="of each kind")
    options = parser.parse_args(arguments)
    if options.short:
        options.encoder, options.sentences = ["nano"], 100_000
        options.rounds, options.start_ups, options.steps = 2, 1, 10
    be_quiet()
    torch.set_num_threads(options.threads)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # of the commands that are started
    with tempfile.TemporaryDirectory() as temporary:
        folder, count = Path(temporary), options.sentences
        made = {"num_sentences": count, "validation_sentences": count // 20, "vocab_size": 8192}
        shards = options.folder or synthetic_folder(folder / "shards", **made)
        report(shards, folder, options)


if __name__ == "__main__":
    main()
