"""What protection costs: milliseconds per optimiser step, and seconds until a resumed run steps.

    python benchmarks/resilience.py                  (PoNet small and nano, one CPU thread)
    python benchmarks/resilience.py --encoder base --accelerator gpu --precision bf16-mixed

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

# ruff: noqa: E402 (the search path is mended before the imports that need it)
import argparse
import logging
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
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
from _blocks import ALL, ASYNC, BARE, SYNC, Rival, train_blocks
from _common import RESULTS, machine, save, spread, synthetic_folder
from _start_up import start_up

from training.checkpoints.storage import saved_checkpoints
from training.checkpoints.writing import STATE_FILE

TARGETS = {"overhead_percent": 2.0, "start_up_ratio": 1.3}
WAYS = ("own_hooks", "cpu_difference", "wall_difference")
Options = argparse.Namespace


def costs(rivals: dict[str, Rival], folder: Path, options: Options) -> dict[str, Any]:
    """What each part costs per step and all of them together, in ms and % of a bare step."""
    bare, every = rivals[BARE], options.every_n_steps
    step_ms = median(bare.steps_ms[1:])  # the first round is thrown away

    def share(values_ms: list[float]) -> dict[str, Any]:
        percent = {key: 100 * value / step_ms for key, value in spread(values_ms).items()}
        return {"ms": spread(values_ms), "percent": percent}

    def difference(ours: list[float], theirs: list[float], times: float) -> dict[str, Any]:
        return share([times * (a - b) for a, b in zip(ours[1:], theirs[1:], strict=True)])

    parts: dict[str, Any] = {}
    for name, rival in rivals.items():
        # A block has one save, but only one in `every` steps is to be paid for.
        times = options.block / every if rival.saver else 1.0
        own_ms = [s * 1e3 / every for s in rival.saves_s] if rival.saver else rival.own_ms
        parts[name] = {
            "own_hooks": share(own_ms[1:]),
            "cpu_difference": difference(rival.cpu_ms, bare.cpu_ms, times),
            "wall_difference": difference(rival.steps_ms, bare.steps_ms, times),
            "block_step_ms": rival.steps_ms[1:],
        }
        if rival.saver:
            parts[name]["save_s"] = spread(rival.saves_s[1:])
    del parts[BARE]
    saves = parts[SYNC]["own_hooks"]["percent"]["median"]
    return {
        "bare_step_ms": {**spread(bare.steps_ms[1:]), "all": bare.steps_ms[1:]},
        "checkpoint_mib": (saved_checkpoints(folder / "sync")[-1].path / STATE_FILE).stat().st_size
        / 2**20,
        "parts": parts,
        "together_percent": {way: parts[ALL][way]["percent"]["median"] + saves for way in WAYS},
        "how": f"'{ALL}', from blocks of {options.block} steps, plus one synchronous save (wall "
        f"time of the verified write and of the look before it) divided by {every} steps",
    }


def print_costs(encoder: str, found: dict[str, Any]) -> None:
    bare, parts = found["bare_step_ms"], found["parts"]
    print(f"{encoder}: bare step {bare['median']:.1f} ms [{bare['min']:.1f} .. {bare['max']:.1f}]")
    print(f"  {'':32s}" + "".join(f"{way.replace('_', ' '):>21s}" for way in WAYS))
    for name, part in parts.items():
        cells = [(part[way]["ms"]["median"], part[way]["percent"]["median"]) for way in WAYS]
        text = "".join(f"{ms:10.3f} ms{percent:6.2f} %" for ms, percent in cells)
        wall = part[WAYS[-1]]["ms"]
        print(f"  {name:32s}{text}  [{wall['min']:.3f} .. {wall['max']:.3f}]")
    together = "".join(f"{found['together_percent'][way]:19.2f} %" for way in WAYS)
    print(f"  {'together':32s}{together}  wanted: < {TARGETS['overhead_percent']:g} %")
    print(f"  together: {found['how']}")
    print(
        f"  one checkpoint of {found['checkpoint_mib']:.0f} MiB: "
        f"{parts[SYNC]['save_s']['median']:.3f} s; asynchronous: the run waits "
        f"{parts[ASYNC]['save_s']['median']:.3f} s"
    )


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw the parts' shares of a step for every encoder, and the start-up times."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    encoders = result["encoders"]
    figure, axes = plt.subplots(1, len(encoders) + 1, figsize=(5.5 * (len(encoders) + 1), 4.2))
    for axis, (encoder, found) in zip(axes, encoders.items(), strict=False):
        parts = found["parts"]
        own = [part["own_hooks"]["percent"]["median"] for part in parts.values()]
        axis.barh(list(parts), own, label="own hooks")
        for way, style in (("wall_difference", "ko"), ("cpu_difference", "C1s")):
            found_percent = [part[way]["percent"] for part in parts.values()]
            middle = np.array([each["median"] for each in found_percent])
            low, high = ([each[key] for each in found_percent] for key in ("min", "max"))
            span = [middle - low, high - middle]
            axis.errorbar(middle, list(parts), xerr=span, fmt=style, label=way.replace("_", " "))
        axis.axvline(TARGETS["overhead_percent"], color="crimson", label="wanted, together")
        axis.set(
            xlabel="% of a bare step",
            title=f"{encoder}: {found['bare_step_ms']['median']:.0f} ms a step",
        )
    axes[0].legend(frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.3, -0.14))
    times = result["start_up"]["seconds"]
    drawn = axes[-1].barh(list(times), [each["median"] for each in times.values()])
    axes[-1].bar_label(drawn, [f"x {each['ratio']:.2f}" for each in times.values()], padding=3)
    axes[-1].set(xlabel="s", title="command to first step")
    for axis in axes:
        axis.invert_yaxis()
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def report(shards: Path, folder: Path, options: Options) -> None:
    first_rank = not int(os.environ.get("LOCAL_RANK", "0"))
    result: dict[str, Any] = {
        "machine": machine(),
        "options": {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()},
        "threads": torch.get_num_threads(),
        "wanted": TARGETS,
        "encoders": {},
    }
    if first_rank:
        result["start_up"] = start_up(shards, folder, options.encoder[0], options)
    for encoder in options.encoder:
        rivals = train_blocks(shards, folder / encoder, encoder, options)
        if first_rank:
            result["encoders"][encoder] = costs(rivals, folder / encoder, options)
            print_costs(encoder, result["encoders"][encoder])
    if first_rank:
        result["machine"]["load_average_after"] = machine()["load_average"]
        path = save("resilience", result, options.output)
        plot(result, path.with_suffix(".png"))
        print(f"{path}\n{path.with_suffix('.png')}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
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
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--start_ups", type=int, default=5, help="of each kind")
    parser.add_argument("--short", action="store_true", help="a quick look: nano, 2 rounds")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
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
        folder = Path(temporary)
        shards = options.folder or synthetic_folder(
            folder / "shards",
            num_sentences=options.sentences,
            vocab_size=8192,
            validation_sentences=options.sentences // 20,
        )
        report(shards, folder, options)


if __name__ == "__main__":
    main()
