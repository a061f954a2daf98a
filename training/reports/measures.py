"""What pretraining runs are measured by, and which of their numbers answer the same question.

Invariant: answers to different questions are never held against each other.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
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

        Whether they were scored on the same tokens is seen by what guessing scores, and by the
        shards and how these are read. Guesses on the same documents differ by 2 % between
        objectives, whose pairs cut them otherwise: that is one question.
        """
        levels = self.levels(runs)
        tolerance = 1e-3 if self.guesser == _CHANCE else 0.05
        if levels and levels[-1] - levels[0] > tolerance * abs(levels[-1]):
            ends = " to ".join(map(self.text, (levels[0], levels[-1])))
            return f"{self.guesser} differs, {ends} {self.unit}"
        if self.metric.startswith(("val/", "test/")) and (text := self._unlike_text(runs)):
            return text
        splits = {str(split) for run in runs if (split := self._downstream(run).get("split"))}
        return f"split differs, {' and '.join(sorted(splits))}" if len(splits) > 1 else ""

    def _unlike_text(self, runs: Sequence[Run]) -> str:
        """The same of the text that was scored, as far as runs say what it was."""
        if len({_digest(run) for run in runs} - {None}) > 1:
            return "validation text differs"
        folders: dict[bool, set[Path]] = {True: set(), False: set()}
        for run in (run for run in runs if "data.folder" in run.settings):
            folders[_digest(run) is None].add(Path(str(run.settings["data.folder"])).absolute())
        if len(folders[True]) > 1 or (folders[False] and folders[True] - folders[False]):
            return "validation text differs"
        scored = {run.last("baseline/eval_examples") for run in runs}
        is_part = self.metric.startswith("val/") and (len(scored) > 1 or None in scored)
        asks = any(run.settings.get("data.needles.facts") for run in runs)
        for key in (*_READ_BY, *(_ASKED_BY if asks else ()), *([_SCORED] if is_part else [])):
            values = {_said(run, key) for run in runs if key in run.settings}
            if len(values) > 1:
                return f"{key.rpartition('.')[2]} differs, {' and '.join(sorted(values))}"
        return ""

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


_READ_BY = ("data.max_len", "data.short_prob", "data.needles.facts")
"""Settings that decide which text is scored, beside the shards."""
_SPAN = "data.needles.span"
_ASKED_BY = ("data.needles.questions", _SPAN)
"""The same where needles are asked for."""
_SCORED = "data.eval_examples"
"""The same of how much of it, where the split has more."""


def _said(run: Run, key: str) -> str:
    """Return a setting as text; a span of needles as long as the text is none, which is 0."""
    value = run.settings[key]
    is_whole = key == _SPAN and value == run.settings.get("data.max_len")
    return "0" if is_whole else str(value)


def _digest(run: Run) -> Any:
    """Digest of the shards that a run was trained and validated on; None: not known."""
    return run.metadata.get("data_digest")


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
    _share("Masked-LM accuracy, whole split", "test/mlm_accuracy", f"test_{_WORDS[0]}", _UNIGRAM),
    _share("Pair accuracy, whole split", "test/pair_accuracy", f"test_{_PAIRS[0]}", _CHANCE),
)
SPEED = Logged(
    title="Training speed", unit="tokens/s", digits=0, metric=SPEED_METRIC, limits=(0, math.inf)
)


def task_score(task: str) -> Logged:
    """What fine-tuning scored on a task, as a run's study says."""
    return _share(task, TASK_METRIC + task, CONSTANT_METRIC + task, "constant answer")
