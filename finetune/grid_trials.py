"""One trial of a grid: its YAML, how far it is, and which classifiers stay.

Invariant: a trial that was done with other settings, data or weights is never taken for done.
"""

import contextlib
import io
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from data_prep.files import file_lock, write_atomic
from finetune.run_config import differences
from training.command_line import merged
from training.configuration import changed_inputs, flatten
from training.parsing import ALLOW
from training.result import read_result
from training.run_config import CLASSIFIER_FOLDER, RESULT_FILE, TRIAL_CONFIG_FILE
from training.studies.trials import LOCK_FILE, Likeness, State, Trial

if TYPE_CHECKING:
    from training.cli import RunCLI

_HEADER = "# One trial of a grid; `fit` or `baseline` with --config <this file> repeats it.\n"


@dataclass(frozen=True, kw_only=True)
class GridTrial(Trial):
    """One fit of a grid."""

    settings: Mapping[str, Any]
    """The options of its `fit`, nested as in its YAML files."""
    keep: str = "all"
    """Which classifiers stay; see `remove_classifiers`."""

    @property
    def likeness(self) -> Likeness:
        """Return what says how long it takes: a baseline says nothing of a fit."""
        kind = "fit" if "fit" in self.command else "baseline"
        return (kind, str(self.parameters["task"]), str(self.parameters["encoder"]))

    def state(self) -> State:
        """Return how far it is; a failure under other settings, data or weights does not count."""
        differing = self._differences()
        if not (self.folder / RESULT_FILE).is_file():
            return "failed" if super().state() == "failed" and not differing else "open"
        if differing:
            raise ValueError(
                f"{self.folder / RESULT_FILE} was found with other settings or files "
                f"({'; '.join(differing[:3])}): give another --output, or remove {self.folder} "
                "to train it anew"
            )
        return "done"

    def _differences(self) -> list[str]:
        path = self.folder / TRIAL_CONFIG_FILE
        if not path.is_file():
            return []
        stored = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return [*differences(stored, self.settings), *changed_inputs(self.folder)]

    def write_start(self) -> None:
        """Write the YAML of its fit, which goes on from what is there unless that differs."""
        settings = merged(self.settings, {"run": {"overwrite": bool(self._differences())}})
        write_atomic(self.folder / TRIAL_CONFIG_FILE, _yaml_of(settings))
        super().write_start()

    def write_end(self, exit_code: int, *, interrupted: bool) -> str:
        """Note how its process ended; a fit that diverged has its result too."""
        has_result = (self.folder / RESULT_FILE).is_file()
        return super().write_end(0 if has_result else exit_code, interrupted=interrupted)

    def conclude(self) -> None:
        """Remove the classifiers that are not to stay."""
        if not (self.folder / RESULT_FILE).is_file():
            raise ValueError(f"the fit ended without {RESULT_FILE}")
        remove_classifiers(self.folder.parent, keep=self.keep)

    def found(self) -> str:
        """Return its scores on validation, in words."""
        from finetune.metrics import metric_title

        result = read_result(self.folder / RESULT_FILE)
        scores, label = result["evaluation"].get("validation", {}), result["data"].get("f1_label")
        names = [name for name in result["score"] if scores.get(name) is not None]
        texts = (f"{metric_title(name, label or '')} {scores[name]:.4f}" for name in names)
        start = "DIVERGED " if result["diverged"] else ""
        return f"{start}{', '.join(texts) or 'no score'} (validation)"


def refuse_decided(fit: Mapping[str, Any], decided_by: Mapping[str, str], task: str) -> None:
    """Refuse options of `fit` for a task that would be overwritten without a word.

    Args:
        fit: The options, nested.
        decided_by: Dotted key -> option of the grid that decides it.
        task: Whose options they are.
    """
    for group in sorted({key.partition(".")[0] for key in decided_by if "." in key}):
        if not isinstance(fit.get(group, {}), Mapping):
            raise ValueError(
                f"fit (or task_fit of {task}) has {group} {fit[group]!r}; give options, nested as "
                "in the files of `fit`"
            )
    for key in flatten(fit):
        if key in decided_by:
            raise ValueError(
                f"fit (or task_fit of {task}) sets {key}, which the grid decides: set "
                f"{decided_by[key]} instead"
            )


def with_modules(trials: Sequence[GridTrial], allowed: Sequence[str]) -> list[GridTrial]:
    """Return trials whose fits may use classes of further modules; a YAML file cannot allow them.

    Args:
        trials: Of a grid.
        allowed: Prefixes of dotted paths.
    """
    words = (ALLOW, ",".join(allowed)) if allowed else ()
    return [replace(t, command=(*t.command, *words)) if "fit" in t.command else t for t in trials]


def check_fits(trials: Sequence[GridTrial], cli_class: "type[RunCLI]") -> None:
    """Parse the options of one fit of each task, without running any.

    Args:
        trials: Of a grid; baselines among them are passed over.
        cli_class: What parses the options of the fits.

    Raises:
        ValueError: An option that there is not, or a value that it cannot have.
    """
    from training.cli import run_cli  # loads torch

    fits = {t.parameters["task"]: t for t in trials if "fit" in t.command}
    with tempfile.TemporaryDirectory() as folder:
        for number, (task, trial) in enumerate(fits.items()):
            path = Path(folder) / f"{number}.yaml"
            path.write_bytes(_yaml_of(trial.settings))
            behind = trial.command[trial.command.index("--config") + 2 :]
            words = ["fit", "--config", str(path), *behind, "--print_config"]
            try:
                with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
                    run_cli(cli_class, words)
            except ValueError as error:
                raise ValueError(f"fits of {task}: {error}") from error


def _yaml_of(settings: Mapping[str, Any]) -> bytes:
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    return (_HEADER + text).encode("utf-8")


def remove_classifiers(folder: Path, *, keep: str) -> None:
    """Remove classifiers of finished trials below the folder of a task and encoder.

    Args:
        folder: `<grid>/<task>/<encoder>`.
        keep: best: all but the one with the best validation score; none: all of them.
    """
    with file_lock(folder / LOCK_FILE, wait=True):
        scores: dict[Path, float] = {}
        for path in sorted(folder.glob(f"*/{RESULT_FILE}")):
            if keep != "all" and (path.parent / CLASSIFIER_FOLDER).is_dir():
                result = json.loads(path.read_text(encoding="utf-8"))
                found = result["evaluation"].get("validation", {}).get("score", -float("inf"))
                scores[path.parent / CLASSIFIER_FOLDER] = float(found)
        best = max(scores, key=scores.__getitem__, default=None)
        for classifier in scores:
            if keep == "none" or classifier != best:
                shutil.rmtree(classifier)
