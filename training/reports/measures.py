"""What pretraining runs are measured by, and which of their numbers answer the same question.

Invariant: answers to different questions are never held against each other.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.reports.figures import Measure
from training.reports.runs import CONSTANT_METRIC, SPEED_METRIC, TASK_METRIC, Run
from training.statistics import Estimate


@dataclass(frozen=True, kw_only=True)
class Logged(Measure):
    """A number that runs logged, under the name that `Run.last` takes, and who guesses what.

    `scale` leads from the logged value to the one in cells.
    """

    metric: str
    scale: float = 1.0
    is_lower_better: bool = False
    baseline: str = ""
    guesser: str = ""

    @property
    def training_metric(self) -> str:
        """The same while training."""
        return self.metric.replace("val/", "train/")

    def read(self, run: Run) -> float | None:
        """A run's value, in the measure's unit; None: it was not measured."""
        value = run.last(self.metric)
        return None if value is None else self.scale * value

    def levels(self, runs: Sequence[Run]) -> list[float]:
        """The different scores of guessing, sorted."""
        return sorted({level for run in runs if (level := self.level(run)) is not None})

    def level(self, run: Run) -> float | None:
        """What guessing scores in a run, in the measure's unit."""
        value = run.last(self.baseline) if self.baseline else None
        return None if value is None or not math.isfinite(value) else self.scale * value

    def is_one_question(self, runs: Sequence[Run]) -> bool:
        """Whether the numbers of some runs may be compared."""
        return not self.unlike(runs)

    def unlike(self, runs: Sequence[Run]) -> str:
        """In words, what makes the numbers of some runs answers to different questions, if any.

        Whether they were scored on the same text and tokens is seen by what guessing scores.
        """
        levels = self.levels(runs)
        tolerance = 1e-3 if self.guesser == _CHANCE else 0.05
        if levels and levels[-1] - levels[0] > tolerance * abs(levels[-1]):
            ends = " to ".join(map(self.text, (levels[0], levels[-1])))
            return f"{self.guesser} differs, {ends} {self.unit}"
        splits = {str(found) for run in runs if (found := self._downstream(run).get("split"))}
        return f"split differs, {' and '.join(sorted(splits))}" if len(splits) > 1 else ""

    def _downstream(self, run: Run) -> Mapping[str, Any]:
        """What a run's study says of the task, if this is the score of one."""
        if not self.metric.startswith(TASK_METRIC):
            return {}
        return run.downstream.get(self.metric.removeprefix(TASK_METRIC), {})

    def spread_text(self, found: Estimate) -> str:
        """Spread and number of seeds, in words that fit a cell."""
        if found.half_width is None:
            return "one seed: no spread"
        if found.n == 2:
            return f"{self.text(found.minimum)} to {self.text(found.maximum)}, n 2"
        return f"± {self.text(found.half_width)}, n {found.n}"


def _share(title: str, metric: str, baseline: str, guesser: str) -> Logged:
    return Logged(title=title, metric=metric, scale=100, baseline=baseline, guesser=guesser)


_UNIGRAM, _CHANCE = "unigram guesser", "chance"
_WORDS = ("baseline/unigram_accuracy", _UNIGRAM)
_PAIRS = ("baseline/pair_chance", _CHANCE)
ACCURACY = _share("Masked-LM accuracy", "val/mlm_accuracy", *_WORDS)
LOSS = Logged(
    title="Masked-LM loss",
    unit="nats",
    digits=3,
    metric="val/mlm_loss",
    is_lower_better=True,
    baseline="baseline/unigram_loss",
    guesser=_UNIGRAM,
)
PAIRS = _share("Pair accuracy", "val/pair_accuracy", *_PAIRS)
CURVES = (LOSS, ACCURACY, PAIRS)
WHOLE_SPLIT = (
    _share("Masked-LM accuracy, whole split", "test/mlm_accuracy", *_WORDS),
    _share("Pair accuracy, whole split", "test/pair_accuracy", *_PAIRS),
)
SPEED = Logged(
    title="Training speed", unit="tokens/s", digits=0, metric=SPEED_METRIC, limits=(0, math.inf)
)


def task_score(task: str) -> Logged:
    """What fine-tuning scored on a task, as a run's study says."""
    return _share(task, TASK_METRIC + task, CONSTANT_METRIC + task, "constant answer")
