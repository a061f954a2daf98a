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
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks.charts import bar_chart, only
from benchmarks.corpora import synthetic_folder
from benchmarks.report import CONFIGS, REPOSITORY, Options, finish, grid, make_parser
from training.metrics_file import read_metrics, series

STRATEGIES = ("ddp", "fsdp", "deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero2_offload")
TINY = {"vocab_size": 1000, "hidden_size": 64, "num_layers": 2, "num_heads": 2, "ffn_size": 128}
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


def compare(results: dict[str, dict[str, Any]], reference: str) -> None:
    """Add each run's largest difference of a training loss to the reference's."""
    base = results[reference].get("losses")
    for result in results.values():
        if base and "losses" in result:
            pairs = zip(result["losses"], base, strict=True)
            result["largest_loss_difference"] = max(abs(ours - theirs) for ours, theirs in pairs)


def table(results: dict[str, dict[str, Any]]) -> list[str]:
    """Return one line per run."""
    body = []
    for name, found in results.items():
        if "error" in found:
            body.append([name, f"failed: {found['error'][-1][:80]}", "", "", ""])
            continue
        difference = f"{found.get('largest_loss_difference', 0):.1e}"
        cells = [f"{found['tokens_per_s']:,.0f}", f"{found['peak_memory_gib']:.2f}"]
        body.append([name, *cells, f"{found['losses'][-1]:.4f}", difference])
    return grid(("strategy, devices", "tokens/s", "GiB", "last loss", "to DDP"), body)


def report(options: Options) -> None:
    gpus = torch.cuda.device_count()
    all_devices = options.devices or (2 if options.short or not gpus else gpus)
    names = [n for n in options.strategies if "deepspeed" not in n or find_spec("deepspeed")]
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        root, count = Path(folder), 4000 if options.short else 80_000
        vocab_size = TINY["vocab_size"] if options.short else 30_522
        sizes = {"num_sentences": count, "validation_sentences": max(800, count // 50)}
        sizes |= {"vocab_size": vocab_size, "words_per_document": 200}
        common = options_of(options, synthetic_folder(root / "shards", **sizes), root)
        for devices in sorted({1, all_devices}):
            for name in names:
                found = results[f"{name}, {devices}"] = measure(name, devices, common, root)
                print(f"{name}, {devices}: {found.get('tokens_per_s', found)}", flush=True)
    compare(results, f"{names[0]}, 1")
    kinds = [torch.cuda.get_device_name(number) for number in range(gpus)]
    content = {"gpus": kinds, "results": results}
    finish("scale_out", content, options, lambda whole: table(whole["results"]))
    bars = {k: only(r["tokens_per_s"]) for k, r in results.items() if "tokens_per_s" in r}
    panels = {"Pretraining tokens per second by strategy and devices": {"median": bars}}
    bar_chart(panels, options.output / "scale_out.png", unit="tokens/s")


def main(arguments: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--devices", type=int, default=0, help="0: all GPUs, or two CPU processes")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch_size", type=int, default=192, help="examples per optimiser step")
    parser.add_argument("--micro_batch_size", type=int, default=24, help="per device and pass")
    parser.add_argument("--precision", default="bf16-mixed")
    options = parser.parse_args(arguments)
    if options.short:
        options.steps, options.precision = 8, "32-true"
        options.batch_size, options.micro_batch_size = 16, 4
    report(options)


if __name__ == "__main__":
    main()
