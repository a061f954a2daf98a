"""`lra baseline`: an answer without an encoder, as a run that reports show beside the others."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import yaml

from data_prep.files import write_atomic
from finetune.baselines.command import NOTHING_TO_SET
from finetune.data.inspection import overview_lines
from finetune.lra.baselines import BASELINES
from finetune.lra.facts import task_part
from finetune.lra.selection import LraSelection
from finetune.run_config import RUN_FILES, earlier_run
from training.command_line import parse_options
from training.configuration import write_inputs
from training.interruption import say
from training.result import BASELINE, read_result, write_result
from training.run_config import CONFIG_FILE, RESULT_FILE, RunPlace
from training.run_folder import replacing, sole_writer


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
    folder, settings = options.run.folder, asdict(options)
    with sole_writer(folder, own=RUN_FILES, doing="baseline"):
        if earlier_run(options.run, settings) == "finished":
            print("\n".join(_lines(read_result(folder / RESULT_FILE))))
            say(f"{folder} is complete: --run.overwrite true computes it anew")
            return
        result, source = compute(options)
        with replacing(folder, own=RUN_FILES):
            text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
            write_atomic(folder / CONFIG_FILE, text.encode("utf-8"))
            write_inputs(folder, {"the data": source})
            write_result(folder / RESULT_FILE, result)
    print("\n".join([*_lines(result), f"run: {folder}"]))


def compute(options: LraBaselineOptions) -> tuple[dict[str, Any], Any]:
    """Return the content of result.json, and the folder that was read; prints what is in it."""
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
    result = {
        **task_part(selection.task_spec(), inspection),
        "encoder": {
            "path": options.name,
            "kind": BASELINE,
            "name": baseline.title,
            "num_parameters": 0,
            "random_init": False,
            "digest": "",
            "num_features": 0,
            "cpu_s": round(cpu_s, 3),
        },
        "settings": {
            **NOTHING_TO_SET,
            "segments": "none",
            "max_len": selection.task_spec().length,
            "max_train_rows": selection.max_train_rows,
            "max_eval_rows": selection.max_eval_rows,
            "targets": "both",
            "languages": "",
            "fold": 0,
            "repeat": 0,
        },
        **dict.fromkeys(("best_epoch", "best_step", "total_steps"), 0),
        "evaluation": evaluation,
        "diverged": False,
        "reason": "",
        "data": inspection,
        "elapsed_s": round(time.monotonic() - started, 3),
        "device": "cpu",
    }
    return result, data.source


def _lines(result: Mapping[str, Any]) -> list[str]:
    found = result["evaluation"]
    scores = ", ".join(f"{split} {values['accuracy']:.4f}" for split, values in found.items())
    return [f"{result['title']}: {result['encoder']['name']}: accuracy {scores}"]
