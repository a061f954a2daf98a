"""Speed, memory and losses of every strategy, on one device and on all of them.

    python -m benchmarks.scale_out              (a GPU machine: all GPUs, PoNet base, bf16-mixed)
    python -m benchmarks.scale_out --short      (a smoke test: two CPU processes, a tiny encoder)

Every strategy of configs/strategy/ trains on the same synthetic corpus by the ordinary command. The
run's own metrics file gives tokens per second (median over the later half) and the losses, which
are set beside DDP's on one device. Peak memory is PyTorch's on the first GPU, or the resident
memory of the first process on a CPU. GPU numbers: not yet run.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks import report
from benchmarks.report import CONFIGS, REPOSITORY, Option, Options, Row
from benchmarks.runs import shards_in
from training.metrics_file import read_metrics, series

STRATEGIES = ("ddp", "fsdp", "deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero2_offload")
TINY = {"vocab_size": 1000, "hidden_size": 64, "num_layers": 2, "num_heads": 2, "ffn_size": 128}
OPTIONS = {
    "strategies": Option(list(STRATEGIES), "", STRATEGIES),
    "devices": Option(0, "0: all GPUs, or two CPU processes"),
    "steps": Option(60, short=8),
    "batch_size": Option(192, "examples per optimiser step", short=16),
    "micro_batch_size": Option(24, "per device and pass", short=4),
    "precision": Option("bf16-mixed", short="32-true"),
}
# One process per rank: it reports its peak memory when it ends.
REPORTER = """
import json, os, resource, sys, atexit
target = sys.argv.pop(1)
def report():
    import torch
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    if os.environ.get("RANK", "0") == "0":
        open(target, "w").write(json.dumps(peak))
atexit.register(report)
from pretrain.cli import main
sys.exit(main(sys.argv[1:]))
"""


def options_of(options: Options, shards: Path, root: Path) -> list[str]:
    """Return what all runs have on their command lines."""
    max_len = 128 if options.short else 512
    given: dict[str, Any] = {"config": CONFIGS / "encoder" / "ponet_base.yaml"}
    if options.short:
        encoder = {"class_path": "ponet.PoNetConfig", "init_args": {**TINY, "max_positions": 128}}
        given = {"model.encoder": json.dumps(encoder), "model.encoder.dropout_prob": 0.0}
        given |= {"trainer.accelerator": "cpu"}
    given |= {
        "data.max_len": max_len,
        "data.folder": shards,
        "data.eval_examples": 64,
        "data.global_batch_size": options.batch_size,
        "data.micro_batch_size": options.micro_batch_size,
        "run.root": root,
        "run.eval_every_n_steps": options.steps,
        "trainer.max_steps": options.steps,
        "trainer.precision": options.precision,
        "trainer.log_every_n_steps": 1,
        "trainer.gradient_clip_val": 1.0,
        "trainer.enable_progress_bar": "false",
        "model.optimizer.warmup_steps": 5,
    }
    return [text for name, value in given.items() for text in (f"--{name}", str(value))]


def measure(strategy: str, devices: int, common: list[str], root: Path) -> dict[str, Any]:
    """Train once, the ranks started by torchrun; return speed, memory and losses."""
    name, peak = f"{strategy}-{devices}", root / f"{strategy}-{devices}.json"
    reporter = root / "reporter.py"
    reporter.write_text(REPORTER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={devices}", str(reporter), str(peak), "fit"]
    command += ["--config", str(CONFIGS / "strategy" / f"{strategy}.yaml"), *common]
    command += ["--trainer.devices", str(devices), "--run.name", name]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    if not torch.cuda.is_available():
        environment |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-12:]}
    rows = read_metrics(root / name / "metrics.jsonl")
    speeds = series(rows, "train/tokens_per_s")[1]
    return {
        "tokens_per_s": statistics.median(speeds[len(speeds) // 2 :]),
        "peak_memory_gib": json.loads(peak.read_text()) / 2**30,
        "losses": series(rows, "train/loss")[1],
        "val_loss": series(rows, "val/loss")[1][-1],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    options = report.parse(__doc__, OPTIONS, arguments)
    gpus = torch.cuda.device_count()
    all_devices = options.devices or (2 if options.short or not gpus else gpus)
    names = [n for n in options.strategies if "deepspeed" not in n or find_spec("deepspeed")]
    results: dict[str, Row] = {}
    count = 4000 if options.short else 80_000
    sizes = {"num_sentences": count, "validation_sentences": max(800, count // 50)}
    sizes |= {"vocab_size": TINY["vocab_size"] if options.short else 30_522}
    with shards_in(None, **sizes, words_per_document=200) as (shards, root):
        common = options_of(options, shards, root)
        for devices in sorted({1, all_devices}):
            for name in names:
                found = results[f"{name}, {devices}"] = measure(name, devices, common, root)
                print(f"{name}, {devices}: {found.get('tokens_per_s', found)}", flush=True)
    reference = results[f"{names[0]}, 1"].get("losses")
    for found in results.values():
        if reference and "losses" in found:
            pairs = zip(found["losses"], reference, strict=True)
            found["largest_loss_difference"] = max(abs(own - other) for own, other in pairs)
    kinds = [torch.cuda.get_device_name(number) for number in range(gpus)]
    report.finish("scale_out", {"gpus": kinds, "results": results}, options)
    speeds = {name: r["tokens_per_s"] for name, r in results.items() if "tokens_per_s" in r}
    bars = {name: report.only(speed) for name, speed in speeds.items()}
    panels = {"Pretraining tokens per second by strategy and devices": {"median": bars}}
    report.bar_chart(panels, options.output / "scale_out.png", unit="tokens/s")


if __name__ == "__main__":
    main()
