"""The folder of one trial of a grid: what is to be run, and how it ended.

Invariant: a trial is done when its result.json is there; one that was done with other settings,
data or weights is never taken for done.
"""

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from data_prep.file_lock import file_lock
from data_prep.files import write_atomic
from finetune.run_config import differences
from training.inputs import changed_inputs
from training.studies.study import RESULT_FILE
from training.studies.trials import State, Trial

TRIAL_FILE, FAILED_FILE, CLASSIFIER_FOLDER = "trial.yaml", "failed.json", "classifier"
FIT_COMMAND = (sys.executable, "-m", "finetune", "fit", "--config")
_HEADER = "# One trial of a grid; python -m finetune fit --config <this file> repeats it.\n"


@dataclass(frozen=True, kw_only=True)
class GridTrial(Trial):
    """One fit of a grid, whose record are the files that `finetune report` reads."""

    log_file: ClassVar[str] = "log.txt"
    lock_file: ClassVar[str] = ".lock"

    settings: Mapping[str, Any]
    """The options of its `fit`, nested as in its YAML files."""
    keep: str = "all"
    """Which classifiers stay; see `remove_classifiers`."""

    @property
    def group(self) -> str:
        """Its task and encoder."""
        return f"{self.parameters['task']} {self.parameters['encoder']}"

    def state(self) -> State:
        """Return how far it is; a failure under other settings, data or weights does not count.

        Raises:
            ValueError: It was done with other settings, data or weights.
        """
        done = (self.folder / RESULT_FILE).is_file()
        differing = self._differences()
        if done and differing:
            raise ValueError(
                f"{self.folder / RESULT_FILE} was found with other settings or files "
                f"({'; '.join(differing[:3])}): give another --output, or remove {self.folder} "
                "to train it anew"
            )
        if done:
            return "done"
        return "failed" if (self.folder / FAILED_FILE).is_file() and not differing else "open"

    def _differences(self) -> list[str]:
        path = self.folder / TRIAL_FILE
        if not path.is_file():
            return []

        stored = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return [*differences(stored, self.settings), *changed_inputs(self.folder)]

    def error(self) -> str:
        """Return why it failed in an earlier start."""
        content = json.loads((self.folder / FAILED_FILE).read_text(encoding="utf-8"))
        return str(content["error"])

    def write_start(self) -> None:
        """Write the YAML of its fit, which goes on from what is there unless that differs."""
        (self.folder / FAILED_FILE).unlink(missing_ok=True)
        run = {**self.settings["run"], "overwrite": bool(self._differences())}
        text = yaml.safe_dump({**self.settings, "run": run}, sort_keys=False, allow_unicode=True)
        write_atomic(self.folder / TRIAL_FILE, (_HEADER + text).encode("utf-8"))

    def write_end(self, exit_code: int, *, interrupted: bool) -> str:
        """Note how its process ended; returns why it failed, or nothing."""
        if interrupted:
            return self.end("")
        reason = self.exit_reason(exit_code) if exit_code else ""
        return self.end(reason or f"the fit ended without {RESULT_FILE}")

    def end(self, reason: str) -> str:
        """Note how it ended; returns why it failed, or nothing.

        Args:
            reason: Why it has failed if there is no result; empty: it is to be gone on with.
        """
        if (self.folder / RESULT_FILE).is_file():
            if self.keep != "all":
                remove_classifiers(self.folder.parent, keep=self.keep)
            return ""
        if reason:
            content = {"format_version": 1, "error": reason, "log": self.log_file}
            text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            write_atomic(self.folder / FAILED_FILE, text.encode("utf-8"))
        return reason

    def found(self) -> str:
        """Return its scores on validation, in words."""
        from finetune.metrics import metric_title
        from training.result import read_result

        result = read_result(self.folder / RESULT_FILE)
        scores = result["evaluation"].get("validation", {})
        f1_label = result["data"].get("f1_label", "")
        metrics = ", ".join(
            f"{metric_title(name, f1_label)} {_number(scores.get(name))}"
            for name in result["score"]
        )
        return f"{'DIVERGED ' if result['diverged'] else ''}{metrics} (validation)"


def _number(value: Any) -> str:
    return "none" if value is None else f"{value:.4f}"


def validation_score(result: Mapping[str, Any]) -> float:
    """Return the score on the first validation split; minus infinity where there is none."""
    return float(result["evaluation"].get("validation", {}).get("score", -float("inf")))


def remove_classifiers(folder: Path, *, keep: str) -> None:
    """Remove classifiers of finished trials below the folder of a task and encoder.

    Args:
        folder: `<grid>/<task>/<encoder>`.
        keep: best: all but the one with the best validation score; none: all of them.
    """
    with file_lock(folder / GridTrial.lock_file, wait=True):
        found = []
        for path in sorted(folder.glob(f"*/{RESULT_FILE}")):
            if (path.parent / CLASSIFIER_FOLDER).is_dir():
                result = json.loads(path.read_text(encoding="utf-8"))
                found.append((validation_score(result), path.parent / CLASSIFIER_FOLDER))
        best = max(found, key=lambda entry: entry[0], default=None)
        for entry in found:
            if keep == "none" or entry is not best:
                shutil.rmtree(entry[1])
