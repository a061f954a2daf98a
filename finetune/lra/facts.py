"""What a result says of its task of Long Range Arena.

Invariant: data of another kind, or another mode, are another task to a table: their scores never
stand in one column.
"""

from collections.abc import Mapping
from typing import Any

from finetune.lra.tasks import SOURCE, TASKS, LraTask, Mode
from training.result import FORMAT_VERSION
from training.run_folder import versions

FAMILY = "Long Range Arena"


def task_part(spec: LraTask, inspection: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a result says of its task, and the versions."""
    kind, mode = inspection["kind"], inspection["mode"]
    return {
        "format_version": FORMAT_VERSION,
        "task": f"lra-{spec.name}-{mode}-{kind}",
        "title": f"{spec.title}, {mode}, {kind.replace('_', '-')} data",
        "kind": "classification",
        "score": ["accuracy"],
        "majority": inspection["majority"],
        "versions": {name.replace("-", "_"): number for name, number in versions().items()},
        "task_facts": _facts(spec, kind, mode),
    }


def _facts(spec: LraTask, kind: str, mode: Mode) -> dict[str, Any]:
    notes = [f"{SOURCE}; {spec.title}'s test accuracy has a standard error of {_error(spec):.1f}"]
    notes += ["their data are the official ones"] * (kind != "official")
    notes += ["their procedure is the published one"] * (mode != "published")
    return {
        "family": FAMILY,
        "place": 100 + list(TASKS).index(spec.name) + 0.5 * (mode == "published"),
        "num_folds": 0,
        "in_average": spec.name != "path_x",
        "published": {} if kind == "stand_in" else dict(spec.published),
        "published_source": "; ".join(notes),
        "published_metric": "",
    }


def _error(spec: LraTask) -> float:
    """Standard error of one published test accuracy, in points, at the PoNet score."""
    share = spec.published.get("PoNet", 50.0) / 100
    return float(100 * (share * (1 - share) / spec.sizes["test"]) ** 0.5)
