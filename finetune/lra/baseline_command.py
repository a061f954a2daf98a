"""`lra baseline`: an answer without an encoder, as a run that reports show beside the others."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from finetune.baselines.command import NOTHING_TO_SET, Computed, compute_run, untrained_part
from finetune.data.overview import overview_lines
from finetune.lra.baselines import BASELINES
from finetune.lra.facts import task_part
from finetune.lra.selection import LraSelection
from training.command_line import parse_options
from training.run_config import RunPlace


@dataclass(frozen=True, kw_only=True)
class LraBaselineOptions:
    """Answer a task of Long Range Arena without an encoder, in seconds to minutes on one core."""

    data: LraSelection
    """Which samples."""
    name: str = ""
    """listops: root, root_digits; text: bytes, byte_pairs; retrieval: tfidf; image, pathfinder32:
    nearest."""
    run: RunPlace = RunPlace()  # noqa: RUF009 (frozen)
    """Where the result is written."""

    def __post_init__(self) -> None:
        self.data.check_selection()
        known = BASELINES[self.data.task]
        if self.name not in known:
            text = ", ".join(known) or "none but the majority class, which every table has"
            raise ValueError(f"name is {self.name!r}; {self.data.task} has {text}")


def run_lra_baseline(arguments: Sequence[str]) -> None:
    """`lra baseline --data.task TASK --name NAME --run.name NAME`; prints the scores."""
    options = parse_options(LraBaselineOptions, arguments, program="ponet-finetune lra baseline")
    compute_run(options.run, asdict(options), compute=lambda: compute(options), lines=_lines)


def compute(options: LraBaselineOptions) -> Computed:
    """Return the content of result.json, and what was read; prints what is in it."""
    started, selection = time.monotonic(), options.data
    data, inspection = selection.load()
    print("\n".join(overview_lines(inspection)))
    baseline = BASELINES[selection.task][options.name]
    began = time.process_time()
    others = {name: data.splits[name] for name in ("validation", "test")}
    answers = baseline.answer(data.splits["train"], others)
    cpu_s = time.process_time() - began
    evaluation = {}
    for name, split in others.items():
        share = float(np.mean(answers[name] == split.labels))
        evaluation[name] = {"accuracy": share, "score": share, "num_rows": len(split)}
    spec, num_features = selection.task_spec(), baseline.num_features
    result = {
        **task_part(spec, inspection),
        **untrained_part(
            options.name,
            name=baseline.title,
            num_parameters=num_features and (num_features + 1) * len(spec.labels),
            num_features=num_features,
            cpu_s=cpu_s,
        ),
        "settings": {
            **NOTHING_TO_SET,
            "segments": "none",
            "max_len": spec.length,
            "max_train_rows": selection.max_train_rows,
            "max_eval_rows": selection.max_eval_rows,
            "targets": "both",
            "languages": "",
            "fold": 0,
            "repeat": 0,
        },
        "evaluation": evaluation,
        "data": inspection,
        "elapsed_s": round(time.monotonic() - started, 3),
    }
    return result, data.inputs


def _lines(result: Mapping[str, Any]) -> list[str]:
    found = result["evaluation"]
    scores = ", ".join(f"{split} {values['accuracy']:.4f}" for split, values in found.items())
    return [f"{result['title']}: {result['encoder']['name']}: accuracy {scores}"]
