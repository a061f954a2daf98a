"""What is said of the time that the trials of a study still take."""

from pathlib import Path

import pytest

from training.studies.progress import Progress
from training.studies.runner import LocalRunner
from training.studies.trials import Likeness, Outcome, Trial


class Kind(Trial):
    """A trial whose name says what it is like."""

    @property
    def likeness(self) -> Likeness:
        return tuple(self.name.split("/"))[:-1]

    def found(self) -> str:
        return ""


def said(
    spent: dict[str, float], waiting: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> str:
    """The last line about a trial that has ended."""
    trials = [Kind(name=n, folder=folder / n, command=("run",)) for n in [*spent, *waiting]]
    progress = Progress(trials, folder, LocalRunner())
    ended = zip(trials, spent.values(), strict=False)
    progress.run((trial, Outcome("done", elapsed_s=seconds)) for trial, seconds in ended)
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")][-1]


@pytest.mark.parametrize(("spent", "waiting", "text"), [
    ({"fit/a/1": 40, "fit/b/1": 10}, ["fit/a/2", "fit/b/2"], "2 left, about 50 s"),
    ({"fit/a/1": 40, "fit/b/1": 10, "fit/a/2": 60}, ["fit/a/3"], "1 left, about 50 s"),
    ({"fit/a/1": 40, "fit/b/1": 10}, ["fit/c/1"], "1 left, about 25 s"),  # the mean of the fits
    ({"baseline/a/1": 9}, ["fit/a/1"], "1 left"),  # says nothing of a fit
    ({"baseline/a/1": 9, "fit/a/1": 40}, ["fit/a/2"], "1 left, about 40 s"),
])  # fmt: skip
def test_the_time_that_is_left_is_that_of_trials_like_those_that_are_left(
    spent: dict[str, float], waiting: list[str], text: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert said(spent, waiting, tmp_path, capsys).endswith(f" s; {text}")
