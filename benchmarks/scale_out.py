"""Speed, memory and losses of every strategy, on one device and on all of them.

    python benchmarks/scale_out.py                 (a GPU machine: all GPUs, PoNet base, bf16-mixed)
    python benchmarks/scale_out.py --short         (a smoke test: two CPU processes, a tiny encoder)

Every strategy of configs/strategy/ trains on the same synthetic corpus by the ordinary command. The
run's own metrics file gives tokens per second (median over the later half) and the losses, which
are set beside DDP's on one device. Peak memory is PyTorch's on the first GPU, or the resident
memory of the first process on a CPU. GPU numbers: not yet run.
"""

# ruff: noqa: E402 (the search path is mended before the imports that need it)
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
# A benchmark beside this file is named like the package data_prep: this folder must come last.
sys.path[:] = [
    str(_HERE.parent),
    *(entry for entry in sys.path if Path(entry or ".").resolve() != _HERE),
    str(_HERE),
]

import numpy as np
import torch
from _common import RESULTS, bar_chart, machine, save

from data_prep.manifest import SPECIAL_TOKENS
from data_prep.shards import write_shards
from training.metrics_file import read_metrics, series

CONFIGS = _HERE.parent / "configs"
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


def synthetic_shards(folder: Path, *, vocab_size: int, num_documents: int) -> Path:
    """Write documents of sentences of 25 random tokens, drawn from 200 words per document."""
    random = np.random.default_rng(0)
    pieces = [*SPECIAL_TOKENS, *(f"w{number}" for number in range(vocab_size - 5))]
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##"}
    model |= {"max_input_chars_per_word": 100, "vocab": {p: i for i, p in enumerate(pieces)}}
    content = {"version": "1.0", "normalizer": None, "pre_tokenizer": None, "model": model}
    tokenizer = folder / "made.json"
    tokenizer.write_text(json.dumps(content))

    def document() -> list[list[int]]:
        words = random.integers(5, vocab_size, 200)
        return [random.choice(words, 25).tolist() for _ in range(40)]

    splits = {"train": num_documents, "validation": max(20, num_documents // 50)}
    documents = {name: [document() for _ in range(count)] for name, count in splits.items()}
    write_shards(folder / "shards", documents, tokenizer)
    return folder / "shards"


def options_of(arguments: argparse.Namespace, shards: Path, root: Path) -> list[str]:
    """Return what all runs have on their command lines."""
    if arguments.short:
        encoder = {"class_path": "ponet.PoNetConfig", "init_args": {**TINY, "max_positions": 128}}
        model = ["--model.encoder", json.dumps(encoder), "--trainer.accelerator", "cpu"]
        model += ["--data.max_len", "128", "--model.encoder.dropout_prob", "0.0"]
    else:
        model = ["--config", str(CONFIGS / "encoder" / "ponet_base.yaml"), "--data.max_len", "512"]
    return [
        *model,
        *("--data.folder", str(shards), "--run.root", str(root), "--data.eval_examples", "64"),
        *("--data.global_batch_size", str(arguments.batch_size)),
        *("--data.micro_batch_size", str(arguments.micro_batch_size)),
        *("--trainer.max_steps", str(arguments.steps), "--trainer.precision", arguments.precision),
        *("--run.eval_every_n_steps", str(arguments.steps), "--trainer.log_every_n_steps", "1"),
        *("--model.optimizer.warmup_steps", "5", "--trainer.gradient_clip_val", "1.0"),
        *("--trainer.enable_progress_bar", "false"),
    ]


def measure(strategy: str, devices: int, common: list[str], root: Path) -> dict[str, Any]:
    """Train once, the ranks started by torchrun; return speed, memory and losses."""
    name, peak = f"{strategy}-{devices}", root / f"{strategy}-{devices}.json"
    reporter = root / "reporter.py"
    reporter.write_text(REPORTER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={devices}", str(reporter), str(peak), "fit"]
    command += ["--config", str(CONFIGS / "strategy" / f"{strategy}.yaml"), *common]
    command += ["--trainer.devices", str(devices), "--run.name", name]
    environment = {**os.environ, "PYTHONPATH": str(_HERE.parent)}
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


def table(results: dict[str, dict[str, Any]]) -> str:
    """Return one line per run."""
    lines = [f"{'strategy, devices':32}{'tokens/s':>12}{'GiB':>8}{'last loss':>11}{'to DDP':>10}"]
    for name, result in results.items():
        if "error" in result:
            lines.append(f"{name:32}  failed: {result['error'][-1][:80]}")
            continue
        lines.append(
            f"{name:32}{result['tokens_per_s']:12,.0f}{result['peak_memory_gib']:8.2f}"
            f"{result['losses'][-1]:11.4f}{result.get('largest_loss_difference', 0):10.1e}"
        )
    return "\n".join(lines)


def report(arguments: argparse.Namespace) -> None:
    gpus = torch.cuda.device_count()
    all_devices = arguments.devices or (2 if arguments.short or not gpus else gpus)
    names = [n for n in arguments.strategies if "deepspeed" not in n or find_spec("deepspeed")]
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        shards = synthetic_shards(
            root,
            vocab_size=TINY["vocab_size"] if arguments.short else 30_522,
            num_documents=100 if arguments.short else 2000,
        )
        common = options_of(arguments, shards, root)
        for devices in sorted({1, all_devices}):
            for name in names:
                results[f"{name}, {devices}"] = measure(name, devices, common, root)
                print(table({f"{name}, {devices}": results[f"{name}, {devices}"]}).split("\n")[1])
    compare(results, f"{names[0]}, 1")
    print("\n" + table(results))
    kinds = [torch.cuda.get_device_name(number) for number in range(gpus)]
    settings = {k: v for k, v in vars(arguments).items() if k not in ("output", "short")}
    content = {"machine": machine(), "gpus": kinds, "settings": settings, "results": results}
    print(save("scale_out", content, arguments.output))
    bars = {k: r["tokens_per_s"] for k, r in results.items() if "tokens_per_s" in r}
    title = "Pretraining tokens per second by strategy and devices"
    print(bar_chart("scale_out", bars, title=title, unit="tokens/s", folder=arguments.output))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--devices", type=int, default=0, help="0: all GPUs, or two CPU processes")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch_size", type=int, default=192, help="examples per optimiser step")
    parser.add_argument("--micro_batch_size", type=int, default=24, help="per device and pass")
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--short", action="store_true", help="CPU, tiny encoder, 8 steps, float32")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.short:
        arguments.steps, arguments.precision = 8, "32-true"
        arguments.batch_size, arguments.micro_batch_size = 16, 4
    report(arguments)


if __name__ == "__main__":
    main()
