"""What protection costs: milliseconds per optimiser step, and seconds until a resumed run steps.

    python -m benchmarks.resilience                  (PoNet small and nano, one CPU thread)
    python -m benchmarks.resilience --encoder base --accelerator gpu --precision bf16-mixed

Steps: one fit trains blocks of steps, each block with the callbacks of one rival, in a new order
every round; each is compared with the bare block of its round, in wall time and in CPU time of the
process. A second bare rival, "nothing", shows what such differences mean. Beside them stands the
time spent in a part's own hooks: exact on one CPU, an upper bound elsewhere, where a look of the
guards waits for the GPU and a poll for the slowest rank, as the next step would have done. A save
is timed by itself, and spread over `--every_n_steps` steps.

Start-up: the command `pretrain fit`, from its start to the metrics line of its first new step,
fresh, resumed, and resumed in the third epoch over the corpus. For that the same checkpoint gets a
later step number, so that the run has to plan that epoch.
"""

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.blocks import ALL, BARE, SYNC, Protection, train_blocks
from benchmarks.charts import bar_chart
from benchmarks.corpora import synthetic_folder
from benchmarks.fits import kill, last_step, start_fit
from benchmarks.harness import interleaved, spread
from benchmarks.report import CONFIGS, Options, Target, finish, grid, make_parser
from benchmarks.report import target as claim
from data_prep.shards import TokenShards
from pretrain.datamodule import PretrainDataModule
from pretrain.objectives import OBJECTIVES
from pretrain.packing import PackingConfig
from pretrain.sampler import SampleStream
from training.checkpoints.storage import (
    checkpoint_path,
    load_checkpoint,
    saved_checkpoints,
    write_checkpoint,
)

WAYS = ("own_hooks", "cpu_difference", "wall_difference")


def costs(measured: dict[str, Protection], folder: Path, options: Options) -> dict[str, Any]:
    """What each part costs per step and all of them together, in ms and % of a bare step."""
    bare, every = measured[BARE], options.every_n_steps
    step_ms = median(bare.steps_ms[1:])  # the first round is thrown away

    def share(values_ms: list[float]) -> dict[str, Any]:
        percent = {key: 100 * value / step_ms for key, value in spread(values_ms).items()}
        return {"ms": spread(values_ms), "percent": percent}

    def difference(ours: list[float], theirs: list[float], times: float) -> dict[str, Any]:
        return share([times * (a - b) for a, b in zip(ours[1:], theirs[1:], strict=True)])

    parts: dict[str, Any] = {}
    for name, part in measured.items():
        # A block has one save, but only one in `every` steps is to be paid for.
        times = options.block / every if part.saver else 1.0
        own_ms = [s * 1e3 / every for s in part.saves_s] if part.saver else part.own_ms
        parts[name] = {
            "own_hooks": share(own_ms[1:]),
            "cpu_difference": difference(part.cpu_ms, bare.cpu_ms, times),
            "wall_difference": difference(part.steps_ms, bare.steps_ms, times),
        }
        if part.saver:
            parts[name]["save_s"] = spread(part.saves_s[1:])
    del parts[BARE]
    saves = parts[SYNC]["own_hooks"]["percent"]["median"]
    return {
        "bare_step_ms": {**spread(bare.steps_ms[1:]), "all": bare.steps_ms[1:]},
        "checkpoint_mib": saved_checkpoints(folder / "sync")[-1].path.stat().st_size / 2**20,
        "parts": parts,
        "together_percent": {way: parts[ALL][way]["percent"]["median"] + saves for way in WAYS},
        "how": f"'{ALL}', from blocks of {options.block} steps, plus one synchronous save (wall "
        f"time of the verified write and of the look before it) divided by {every} steps",
    }


def table(content: dict[str, Any]) -> list[str]:
    """Return one line per part of what protection costs."""
    head = ("", "", *(f"{way.replace('_', ' ')}, ms (%)" for way in WAYS), "one save, s")
    body = []
    for encoder, found in content["encoders"].items():
        for name, part in found["parts"].items():
            cells = [(part[way]["ms"]["median"], part[way]["percent"]["median"]) for way in WAYS]
            save_s = f"{part['save_s']['median']:.3f}" if "save_s" in part else ""
            shares = [f"{ms:.3f} ({percent:.2f} %)" for ms, percent in cells]
            body.append([encoder, name, *shares, save_s])
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
        "trainer.accelerator": options.accelerator,
        "trainer.precision": options.precision,
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
    for times in found.values():
        times["ratio"] = times["median"] / found["fresh"]["median"]
    return {"encoder": encoder, "later_step": later, "seconds": found}


def claims(encoders: dict[str, Any], started: dict[str, Any]) -> list[Target]:
    """Return what protection may cost, with what was measured."""
    found = [
        claim(f"{name}: all protection together, % of a step, {way.replace('_', ' ')}",
              costs["together_percent"][way], at_most=2.0)
        for name, costs in encoders.items()
        for way in WAYS
    ]  # fmt: skip
    for kind, times in started["seconds"].items():
        if kind != "fresh":
            found.append(claim(f"start-up, {kind}: x fresh", times["ratio"], at_most=1.3))
    return found


def report(shards: Path, folder: Path, options: Options) -> None:
    first_rank = not int(os.environ.get("LOCAL_RANK", "0"))
    started = start_up(shards, folder, options.encoder[0], options) if first_rank else {}
    encoders = {}
    for encoder in options.encoder:
        measured = train_blocks(shards, folder / encoder, encoder, options)
        if first_rank:
            encoders[encoder] = costs(measured, folder / encoder, options)
    if not first_rank:
        return
    targets = claims(encoders, started)
    threads = {"threads": torch.get_num_threads()}
    content = {**threads, "encoders": encoders, "start_up": started, "targets": targets}
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
    parser = make_parser(__doc__, rounds=7)
    parser.add_argument("--folder", type=Path, help="shards made by `python -m data_prep build`")
    parser.add_argument("--sentences", type=int, default=1_000_000, help="of the synthetic corpus")
    parser.add_argument("--encoder", nargs="+", default=["small", "nano"], help="PoNet sizes")
    parser.add_argument("--max_len", type=int, default=128)
    parser.add_argument("--batch_size", type=int, default=32, help="examples per device and step")
    parser.add_argument("--num_workers", type=int, default=1)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--devices", type=int, default=1, help="of the steps; start-up takes one")
    parser.add_argument("--poll_every_n_steps", type=int, default=1)
    parser.add_argument("--every_n_steps", type=int, default=100, help="steps per checkpoint")
    parser.add_argument("--block", type=int, default=10, help="steps; the guards look every 10")
    parser.add_argument("--start_ups", type=int, default=5, help="of each kind")
    options = parser.parse_args(arguments)
    if options.short:
        options.encoder, options.sentences = ["nano"], 100_000
        options.rounds, options.start_ups = 2, 1
    if options.devices > 1 and len(options.encoder) > 1:
        parser.error("several devices are measured with one encoder at a time: --encoder small")
    if options.block % 10:
        parser.error(f"--block {options.block}: give a multiple of 10, so that each has its looks")
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    if options.accelerator == "cpu":
        torch.set_num_threads(1)
        os.environ["OMP_NUM_THREADS"] = "1"  # of the commands whose start-up is measured
    with tempfile.TemporaryDirectory() as temporary:
        folder, count = Path(temporary), options.sentences
        made = {"num_sentences": count, "validation_sentences": count // 20, "vocab_size": 8192}
        shards = options.folder or synthetic_folder(folder / "shards", **made)
        report(shards, folder, options)


if __name__ == "__main__":
    main()
