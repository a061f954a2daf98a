"""What a study is measured by: one column of its table each, and what may be compared in it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from training.reports.configurations import Configuration, Study
from training.reports.runs import Run
from training.statistics import Estimate, estimate, paired_difference

_SAME_DATA = 0.05
"""Relative difference of a unigram guesser's score above which two runs were scored on other text
or other tokens, so that their losses and accuracies do not compare."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One column."""

    title: str
    """Heading, with the unit in `unit`."""
    unit: str
    """Of the shown numbers: `%`, `nats`, `tokens/s`."""
    read: Callable[[Run], float | None]
    """The run's value, already in that unit; None: it was not measured."""
    better: Literal["higher", "lower"] = "higher"
    """Which direction is good."""
    digits: int = 1
    """Decimals shown."""
    baseline: str = ""
    """Metric of what a guesser scores; empty: the constant answer of the task called `title`."""
    baseline_title: str = ""
    """Who guesses."""
    scale: float = 1.0
    """Factor from the logged value to the shown one."""
    tolerance: float = _SAME_DATA
    """Relative difference of the guesser's score that still counts as the same question."""

    def level(self, run: Run) -> float | None:
        """What guessing scores in a run, in the measure's unit."""
        value = run.last(self.baseline) if self.baseline else run.constants.get(self.title)
        return None if value is None or not math.isfinite(value) else value * self.scale

    def text(self, value: float, *, signed: bool = False) -> str:
        """A value without its unit."""
        rounded = round(value, self.digits) + 0.0  # no minus before a zero
        return f"{rounded:{'+' if signed else ''},.{self.digits}f}"

    def spread_text(self, found: Estimate) -> str:
        """Spread and number of seeds, in words that fit a cell."""
        if found.half_width is None:
            return "one seed: no spread"
        if found.n == 2:
            return f"{self.text(found.minimum)} to {self.text(found.maximum)}, n 2"
        return f"± {self.text(found.half_width)}, n {found.n}"

    @property
    def difference_unit(self) -> str:
        """Unit of a difference."""
        return "points" if self.unit == "%" else self.unit


def _logged(metric: str, scale: float = 1.0) -> Callable[[Run], float | None]:
    def read(run: Run) -> float | None:
        value = run.last(metric)
        return None if value is None else value * scale

    return read


def _accuracy(metric: str, title: str, baseline: str, who: str, tolerance: float) -> Measure:
    return Measure(
        title=title,
        unit="%",
        read=_logged(metric, 100.0),
        baseline=baseline,
        baseline_title=who,
        scale=100.0,
        tolerance=tolerance,
    )


_UNIGRAM, _CHANCE = "unigram guesser", "chance"
ACCURACY = _accuracy(
    "val/mlm_accuracy",
    "Masked-LM accuracy",
    "baseline/unigram_accuracy",
    _UNIGRAM,
    _SAME_DATA,
)
LOSS = Measure(
    title="Masked-LM loss",
    unit="nats",
    read=_logged("val/mlm_loss"),
    better="lower",
    digits=3,
    baseline="baseline/unigram_loss",
    baseline_title=_UNIGRAM,
)
PAIRS = _accuracy("val/pair_accuracy", "Pair accuracy", "baseline/pair_chance", _CHANCE, 1e-3)
SPEED = Measure(
    title="Training speed", unit="tokens/s", read=lambda run: run.tokens_per_s, digits=0
)
WHOLE_SPLIT = (
    _accuracy(
        "test/mlm_accuracy",
        "Masked-LM accuracy, whole split",
        "baseline/unigram_accuracy",
        _UNIGRAM,
        _SAME_DATA,
    ),
    _accuracy(
        "test/pair_accuracy",
        "Pair accuracy, whole split",
        "baseline/pair_chance",
        _CHANCE,
        1e-3,
    ),
)


def measures_of(runs: Sequence[Run]) -> list[Measure]:
    """The measures that at least one run has, downstream tasks after those of pretraining."""
    tasks = dict.fromkeys(task for run in runs for task in run.downstream)
    everything = [ACCURACY, LOSS, PAIRS, *WHOLE_SPLIT, *map(_task, tasks), SPEED]
    return [m for m in everything if any(m.read(run) is not None for run in runs)]


def _task(task: str) -> Measure:
    def read(run: Run) -> float | None:
        value = run.downstream.get(task)
        return None if value is None else 100 * value

    return Measure(title=task, unit="%", read=read, baseline_title="constant answer", scale=100.0)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One configuration under one measure."""

    by_seed: Mapping[str, float]
    """Finite value by seed."""
    estimate: Estimate | None
    """Of those; None: there is none."""
    num_not_finite: int = 0
    """Runs whose value is NaN or infinite."""
    num_diverged: int = 0
    """Runs whose loss stopped being finite, though this value of theirs is finite and counted."""
    num_missing: int = 0
    """Counted runs without a value."""
    is_best: bool = False
    """Whether it is separably better than every other configuration."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One measure over all configurations."""

    measure: Measure
    """The measure."""
    cells: Sequence[Cell]
    """In the order of the configurations."""
    levels: Sequence[float]
    """The different scores of guessing, sorted."""

    @property
    def levels_text(self) -> str:
        """What guessing scores, in words."""
        measure = self.measure
        ends = dict.fromkeys([measure.text(self.levels[0]), measure.text(self.levels[-1])])
        return f"{measure.baseline_title} {' to '.join(ends)}"

    @property
    def is_comparable(self) -> bool:
        """Whether all configurations answered the same question."""
        return _is_one_question(self.measure, self.levels)

    def comparable(self, first: int, second: int, study: Study) -> bool:
        """Whether two configurations answered the same question."""
        runs = [*study.configurations[first].runs, *study.configurations[second].runs]
        return _is_one_question(self.measure, _levels(self.measure, runs))


def make_columns(study: Study) -> list[Column]:
    """All columns of a study's table, with the best cells marked."""
    columns = []
    for measure in measures_of(study.runs):
        cells = [_cell(measure, configuration) for configuration in study.configurations]
        column = Column(measure=measure, cells=cells, levels=_levels(measure, study.runs))
        best = _best(column, study)
        if best is not None:
            cells[best] = replace(cells[best], is_best=True)
        columns.append(column)
    return columns


def _is_one_question(measure: Measure, levels: Sequence[float]) -> bool:
    return not levels or levels[-1] - levels[0] <= measure.tolerance * abs(levels[-1])


def _levels(measure: Measure, runs: Sequence[Run]) -> list[float]:
    return sorted({level for run in runs if (level := measure.level(run)) is not None})


def _cell(measure: Measure, configuration: Configuration) -> Cell:
    counted = configuration.counted
    read = {run.name: measure.read(run) for run in counted}
    values = {name: value for name, value in read.items() if value is not None}
    finite = {name: value for name, value in values.items() if math.isfinite(value)}
    by_seed = configuration.by_seed(finite)
    return Cell(
        by_seed=by_seed,
        estimate=estimate(list(by_seed.values())) if by_seed else None,
        num_not_finite=len(values) - len(finite),
        num_diverged=sum(run.diverged_at is not None and run.name in finite for run in counted),
        num_missing=len(read) - len(values),
    )


def _best(column: Column, study: Study) -> int | None:
    """The configuration that is separably better than every other one; None: there is none.

    Runs that diverged or are not finished make nothing best.
    """
    sign = 1 if column.measure.better == "higher" else -1
    rated = {
        number: sign * cell.estimate.mean
        for number, cell in enumerate(column.cells)
        if cell.estimate
    }
    if len(rated) < 2 or not column.is_comparable:
        return None
    best = max(rated, key=lambda number: rated[number])
    cell = column.cells[best]
    if cell.num_not_finite or cell.num_diverged or not study.configurations[best].is_finished:
        return None
    differences = (
        paired_difference(cell.by_seed, column.cells[number].by_seed)
        for number in rated
        if number != best
    )
    return best if all(d and d.verdict == "separable" for d in differences) else None
