"""How a run is tracked in Weights & Biases: its options, and the rows and names that are logged.

Invariant: nothing here imports wandb; `training.wandb_run` does, where a run is tracked.
"""

import json
import math
import secrets
import string
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from data_prep.files import write_atomic

RECORD_FILE = "wandb_runs.json"
FORMAT_VERSION = 1
_MOST_TAG, _MOST_GROUP = 64, 128
_LOWER_IS_BETTER = ("loss", "perplexity")
_ID_LETTERS = string.ascii_lowercase + string.digits


def check_run_name(name: str) -> None:
    """Refuse the name of a run that is no folder below the root of the runs.

    Letters of any script will do, with their marks, in either of Unicode's forms.

    Raises:
        ValueError: Says what is wrong with it.
    """
    if any(0xD800 <= ord(letter) <= 0xDFFF for letter in name):
        raise ValueError(
            f"run.name {ascii(name)} has letters that Python cannot read in this locale; set "
            "LC_ALL=C.UTF-8 or PYTHONUTF8=1, or use a name of ASCII letters"
        )
    parts = name.split("/")
    if not all(part and all(map(_is_of_name, part)) for part in parts) or {".", ".."} & set(parts):
        raise ValueError(
            f"run.name {name!r} is not a folder name: use letters, digits, '.', '_', '-' and '/' "
            "between them"
        )


def _is_of_name(letter: str) -> bool:
    return letter.isalnum() or letter in "._-" or unicodedata.category(letter).startswith("M")


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Whether and how a run is tracked in Weights & Biases."""

    wandb: Literal["off", "offline", "online"] = "off"
    """Weights & Biases: off (nothing is imported or written), offline (kept in the run's folder;
    `wandb sync` uploads it later) or online."""
    wandb_project: str = "ponet"
    """W&B project."""
    wandb_group: str = ""
    """W&B group; empty: one group for all seeds of a configuration, named after it."""
    wandb_tags: tuple[str, ...] = ()
    """W&B tags, each of 1 to 64 characters, as a list: [baseline, long]."""
    wandb_artifacts: bool = False
    """Give W&B the artifacts of the run: the trained model or the scores, and the manifest of the
    data (never the data itself). Offline, the model's files are read when the run is synced."""

    def __post_init__(self) -> None:
        """Check what W&B would refuse later."""
        for tag in self.wandb_tags:
            if not 1 <= len(tag) <= _MOST_TAG:
                raise ValueError(
                    f"run.wandb_tags holds a tag of {len(tag)} characters: {tag!r}; W&B takes 1 to "
                    f"{_MOST_TAG}"
                )
        if len(self.wandb_group) > _MOST_GROUP:
            raise ValueError(
                f"run.wandb_group has {len(self.wandb_group)} characters; W&B takes up to "
                f"{_MOST_GROUP}: give a shorter one"
            )


@dataclass(frozen=True, kw_only=True)
class TrackedStart:
    """One W&B run that a run folder was tracked with."""

    id: str
    """W&B's run id."""
    mode: str
    """offline or online."""
    project: str
    """W&B project."""
    group: str
    """W&B group."""


@dataclass(kw_only=True)
class TrackingRecord:
    """What a run's folder knows about its W&B runs: `wandb_runs.json`."""

    runs: list[TrackedStart] = field(default_factory=list)
    """Every W&B run of the folder, oldest first; offline, each start is a run of its own."""
    bundle: dict[str, str] = field(default_factory=dict)
    """The bundle's artifact: `artifact` (project/name:alias), `run` (id), `sha256` of its weights;
    empty: none was logged."""

    def save(self, folder: Path) -> None:
        """Write it at once."""
        content = {"format_version": FORMAT_VERSION, **asdict(self)}
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(content, indent=2) + "\n"
        write_atomic(folder / RECORD_FILE, text.encode("utf-8"))

    @classmethod
    def load(cls, folder: Path) -> "TrackingRecord":
        """Return the record of a run's folder; an empty one where there is none.

        Raises:
            ValueError: The file is damaged or of another version.
        """
        path = folder / RECORD_FILE
        if not path.is_file():
            return cls()
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format_version"] != FORMAT_VERSION:
                raise ValueError(f"format_version is {content['format_version']}")
            runs = [TrackedStart(**run) for run in content["runs"]]
            return cls(runs=runs, bundle=dict(content["bundle"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: is damaged or of another version ({error}); remove it, and the run is "
                "tracked as a new W&B run"
            ) from error


def next_start(
    record: TrackingRecord, tracking: TrackingConfig, *, group: str, continues: bool, run_id: str
) -> TrackedStart:
    """Return the W&B run that a start of a run is tracked with.

    A run that goes on stays in its group, also where its configuration has changed. Online it goes
    on in its W&B run; offline runs cannot be continued, so there it is a new run.

    Args:
        record: What the folder knows.
        tracking: The options.
        group: The configuration's group, for where none is given.
        continues: Whether the run goes on from a checkpoint.
        run_id: The id that `wandb agent` gives; empty: none.
    """
    before = record.runs[-1] if continues and record.runs else None
    group = tracking.wandb_group or (before.group if before else group)
    mode, project = tracking.wandb, tracking.wandb_project
    online = (run for run in reversed(record.runs) if (run.mode, run.project) == (mode, project))
    known = next(online, None) if continues and mode == "online" else None
    chosen = run_id or (known.id if known else new_id())
    return TrackedStart(id=chosen, mode=mode, project=project, group=group)


def new_id() -> str:
    """Return an unused W&B run id; no seeded generator is touched."""
    return "".join(secrets.choice(_ID_LETTERS) for _ in range(8))


def best_values(rows: Sequence[Mapping[str, float]], *, stage: str = "val") -> dict[str, float]:
    """Return `best/<metric>` and `best/<metric>_step` of every metric of a stage.

    Losses and perplexities are best when lowest, everything else when highest; the earliest of
    equals counts, and a NaN never does.

    Args:
        rows: Lines of metrics.jsonl.
        stage: What the metrics' names begin with.
    """
    best: dict[str, float] = {}
    for row in rows:
        for name, value in row.items():
            if not name.startswith(f"{stage}/") or math.isnan(value):
                continue
            key = f"best/{name}"
            lower = name.endswith(_LOWER_IS_BETTER)
            if key not in best or (value < best[key] if lower else value > best[key]):
                best |= {key: value, f"{key}_step": row["step"]}
    return best


PREDICTION_COLUMNS = (
    *("example", "position", "context", "truth", "p of truth"),
    *(name for place in (1, 2, 3) for name in (f"guess {place}", f"p {place}")),
)


def masked_context(words: Sequence[str], position: int, *, width: int = 8) -> str:
    """Return what the model sees around a position, which is marked with guillemets.

    Args:
        words: Tokens of the example as shown to the model; `##` pieces are joined to what precedes.
        position: Index of the token in question.
        width: Tokens shown on either side.
    """
    first, last = max(0, position - width), min(len(words), position + width + 1)
    parts = [
        f" »{word}«" if place == position else _joined(word)
        for place, word in enumerate(words[first:last], start=first)
    ]
    return "".join(parts).strip()


def _joined(word: str) -> str:
    return word.removeprefix("##") if word.startswith("##") else f" {word}"


def result_rows(result: Mapping[str, Any]) -> tuple[tuple[str, ...], list[list[Any]]]:
    """Return columns and rows of a fine-tuning result as a table: one row per split and metric.

    Args:
        result: As in result.json: `evaluation` and `majority` are split -> metric -> value.
    """
    columns = ("task", "split", "rows", "metric", "value", "majority")
    rows = [
        [
            result["task"],
            split,
            values.get("num_rows"),
            metric,
            float(value),
            result["majority"].get(split, {}).get(metric),
        ]
        for split, values in result["evaluation"].items()
        for metric, value in values.items()
        if metric != "num_rows"
    ]
    return columns, rows
