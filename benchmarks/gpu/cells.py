"""What a stage measures, cell by cell, each written down as it ends.

A stage is a list of cells in order of worth. A cell is a function that returns rows. A line is
appended to `<output>/<stage>.jsonl`, and is on disk, before a cell starts, for each of its rows,
and when it has ended; so whatever ends the process costs the cell it was in, and the next call goes
on there. A cell that fails has ended: its line says how.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.harness import told, wait
from benchmarks.report import Row

BROKEN_DEVICE = 3
"""Exit code of a stage whose device answers no more: a new process goes on after it."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large everything is; the defaults are those for a GPU."""

    device: str = "cuda"
    """cuda, or cpu for a dry run."""
    encoder: str = "base"
    """Preset of most measurements."""
    small: str = "small"
    """Preset of the others."""
    lengths: tuple[int, ...] = (512, 4096, 16_384)
    """Tokens per text."""
    table_2: tuple[int, ...] = (512, 4096, 16_384, 1024, 2048, 8192)
    """Those of the paper's Table 2, the most telling first."""
    tokens: int = 65_536
    """Of a step, however long its texts are."""
    vocab_size: int = 30_522
    rounds: int = 3
    """In which rivals take turns."""
    copied_bytes: int = 2**30
    side: int = 8192
    """Of the largest square product."""
    table_2_texts: int = 32
    """Of a step, as published."""
    warmup: int = 3
    """Steps before the clock of a whole step starts."""
    steps: int = 8
    """Steps that are timed."""
    curve_steps: int = 600
    """Of the pretraining run with a curve."""
    twin_steps: int = 40
    """Of the runs of which one is killed."""
    sentences: int = 600_000
    """Of random tokens, that whole steps are trained on."""

    @property
    def is_dry(self) -> bool:
        """Whether this only shows that everything runs."""
        return self.device == "cpu"


GPU = Sizes()
DRY = Sizes(
    device="cpu", encoder="nano", small="nano", lengths=(16,), table_2=(16,), tokens=32,
    vocab_size=64, rounds=1, copied_bytes=4096, side=8, table_2_texts=1, warmup=1, steps=1,
    curve_steps=2, twin_steps=2, sentences=400,
)  # fmt: skip

Cell = tuple[str, Callable[[], Sequence[Row]]]
"""Name and what it measures."""


class Log:
    """The lines of one stage."""

    def __init__(self, folder: Path, stage: str) -> None:
        self.path = folder / f"{stage}.jsonl"
        self.stage = stage

    def add(self, row: Row) -> None:
        """Append a line that a kill does not take away."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps({"stage": self.stage, **row}, default=str) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def lines(self) -> list[Row]:
        """Return all lines; one that a kill has cut short counts for nothing."""
        found = []
        for line in self.path.read_text().splitlines() if self.path.exists() else []:
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return found

    def rows(self) -> list[Row]:
        """Return what was measured: of a cell that was started twice, what came of the last."""
        found: dict[str, list[Row]] = {}
        for line in self.lines():
            mine = found.setdefault(line["what"], [])
            if "started" in line:
                mine.clear()
            elif "ended_s" not in line or "error" in line:
                mine.append(line)
        return [row for mine in found.values() for row in mine]

    def ended(self) -> set[str]:
        """Return the cells that are done, or have failed."""
        return {line["what"] for line in self.lines() if "ended_s" in line}


def run_cells(cells: Sequence[Cell], log: Log, *, seconds: float) -> int:
    """Measure what is missing, until the time is over; return how many cells are still missing.

    Those that were started before and never ended come last: one of them may have been the reason.
    A device that answers no more ends the process.
    """
    over_at, ended = time.monotonic() + seconds, log.ended()
    starts = [line["what"] for line in log.lines() if "started" in line]
    missing = [(what, measure) for what, measure in dict(cells).items() if what not in ended]
    missing.sort(key=lambda cell: starts.count(cell[0]))
    for number, (what, measure) in enumerate(missing):
        if time.monotonic() >= over_at:
            return len(missing) - number
        print(f"{log.stage}: {what}", flush=True)
        log.add({"what": what, "started": True})
        begin, error = time.monotonic(), ""
        try:
            for row in measure():
                log.add({"what": what, **row})
        except Exception as failure:  # whatever a compiler or a driver raises
            error = told(failure)
            print(f"{log.stage}: {what}: {error}", flush=True)
        took = {"ended_s": round(time.monotonic() - begin, 2)}
        log.add({"what": what, **took, **({"error": error} if error else {})})
        if error and not device_answers():
            raise SystemExit(BROKEN_DEVICE)
    return 0


def device_answers() -> bool:
    """Return whether the device still works after an error; an illegal access ends it."""
    if not torch.cuda.is_available():
        return True
    try:
        wait("cuda")
        torch.cuda.empty_cache()
    except RuntimeError:
        return False
    return True


def distances(found: Sequence[Tensor], expected: Sequence[Tensor]) -> list[float]:
    """Return the distance of every tensor from what it should be, as a share of its norm."""
    pairs = zip(found, expected, strict=True)
    return [
        float((own.double() - true).norm() / true.norm().clamp(min=1e-30)) for own, true in pairs
    ]


def verdict(name: str, found: Sequence[Tensor], expected: Sequence[Tensor], most: float) -> Row:
    """Return a row that says how far off the results are, and whether that is near enough."""
    far = distances(found, expected)
    is_right = all(distance <= most for distance in far)  # never true of NaN
    return {"name": name, "is_right": is_right, "distances": far, "allowed": most}
