"""result.json: what one fine-tuning run found, and all that a table of results needs to know.

Invariant: the file appears by a rename when the run is over, so a run that has one is complete.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep.files import write_json

FORMAT_VERSION = 1
_KEYS = {
    "the result": "format_version task title kind encoder settings score best_epoch best_step "
    "total_steps evaluation majority diverged reason data elapsed_s versions device task_facts",
    "encoder": "path kind name num_parameters random_init digest",
    "settings": "lr batch_size epochs max_len seed fold repeat warmup_share weight_decay schedule "
    "precision max_train_rows max_eval_rows positions segments dropout_prob gradient_clip "
    "class_weights targets languages decoder thresholds freeze",
    "task_facts": "family place num_folds in_average published published_source published_metric",
}
"""Of the whole, and of what stands below it. Facts of the task: the table it stands in and where,
the folds of a cross-validation (0: none), whether the family's average counts it, published scores
by model in per cent, where these stand, and their metric where it is not the task's score."""
_LATER = {"freeze": 0}
"""Settings that results of earlier versions lack, and what these were trained with."""
SETTINGS = tuple(_KEYS["settings"].split())
"""What every result says of how it was trained."""
BASELINE = "baseline"
"""Kind of the encoder of a run that trained none: a linear model without a seed."""
_OF_BASELINES = {"encoder": {"num_features", "cpu_s"}}
"""What a baseline has beside these: how much it counts, and seconds of CPU time in all."""


def write_result(path: str | Path, result: dict[str, Any]) -> None:
    """Write a result; NaN keeps Python's JSON spelling.

    Raises:
        ValueError: A key is missing or unknown.
        DiskFull: There is no room; what stood there before is intact.
    """
    _check(result, path)
    write_json(path, result)


def read_result(path: str | Path) -> dict[str, Any]:
    """Return what `write_result` wrote; what an earlier version did not say yet is added.

    Raises:
        ValueError: The file is missing, damaged, or of another version; names it.
    """
    try:
        result = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file; a fit writes it when it ends") from error
    except ValueError as error:
        raise ValueError(f"{path}: is not valid JSON ({error}); run the fit again") from error
    if isinstance(result, dict) and isinstance(settings := result.get("settings"), dict):
        settings |= {name: value for name, value in _LATER.items() if name not in settings}
    _check(result, path)
    return dict(result)


def has_thresholds(result: Mapping[str, Any]) -> bool:
    """Return whether thresholds were chosen: for several labels a text, or two of sentences."""
    if result["kind"] == "sentences":
        return len(result["data"]["splits"]["train"]["labels"]) == 2
    return bool(result["kind"] == "multilabel")


def _check(result: Any, path: str | Path) -> None:
    version = result.get("format_version") if isinstance(result, dict) else None
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path}: format_version is {version!r}; this version reads {FORMAT_VERSION}: "
            "run the fit again"
        )
    for name, keys in _KEYS.items():
        found = result if name == "the result" else result[name]
        known, given = set(keys.split()), set(found if isinstance(found, dict) else ())
        if result["encoder"].get("kind") == BASELINE:
            known |= _OF_BASELINES.get(name, set())
        missing, unknown = sorted(known - given), sorted(given - known)
        if missing or unknown:
            parts = [f"lacks {', '.join(missing)}"] if missing else []
            parts += [f"has the unknown {', '.join(unknown)}"] if unknown else []
            raise ValueError(f"{path}: {name} {' and '.join(parts)}; run the fit again")
