"""`baseline`: what a linear model makes of a task, as a run that reports show beside the others.

Invariant: nothing is searched and nothing is drawn by lot, so one run says all; every split with
labels is scored once.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from data_prep.files import write_atomic
from finetune.baselines.models import Answers, are_short, classify_texts, predict_scores
from finetune.data.inspection import inspect_task, overview_lines
from finetune.metrics import scores
from finetune.outcome import evaluation_lines
from finetune.run_config import RUN_FILES, check_kind, earlier_run
from finetune.tasks.registry import task_facts
from finetune.tasks.selection import Selection
from finetune.tasks.spec import LoadedTask, Row, TaskSpec
from training.command_line import parse_options
from training.configuration import write_inputs
from training.interruption import say
from training.result import BASELINE, FORMAT_VERSION, read_result, write_result
from training.run_config import CONFIG_FILE, RESULT_FILE, RunPlace
from training.run_folder import replacing, sole_writer

Letters = Literal["auto", "with", "without"]
_NAMES: Mapping[Letters, str] = {
    "auto": "TF-IDF + linear",
    "with": "TF-IDF with letters + linear",
    "without": "TF-IDF without letters + linear",
}
_NOTHING_TO_SET = {
    **dict.fromkeys(("lr", "warmup_share", "weight_decay", "dropout_prob", "gradient_clip"), 0.0),
    **dict.fromkeys(("batch_size", "epochs", "max_len", "seed"), 0),
    **dict.fromkeys(("schedule", "positions", "class_weights"), "none"),
    "precision": "64-true",
}
"""Settings of a fit that a linear model has not, for its result; texts are never cut."""


@dataclass(frozen=True, kw_only=True)
class BaselineOptions:
    """Score a linear model on a task: what comes for free, in seconds to minutes on one core.

    Classes by support vectors, scores by ridge regression, over counted words and word pairs. It
    has no seed and searches nothing. `report` shows the run as a row of its own.
    """

    data: Selection = field(default_factory=Selection)
    """Which rows."""
    run: RunPlace = field(default_factory=RunPlace)
    """Where the result is written."""
    letters: Letters = "auto"
    """Whether pieces of 2 to 5 letters are counted too; auto: for single texts, if half of those to
    train on have at most 50 words."""


def run_baseline(arguments: Sequence[str]) -> None:
    """`baseline --data.task NAME --data.folder DIR --run.name NAME`; prints the scores."""
    options = parse_options(BaselineOptions, arguments, program="ponet-finetune baseline")
    folder, settings = options.run.folder, asdict(options)
    check_kind(folder)
    with sole_writer(folder, own=RUN_FILES, doing="baseline"):
        if earlier_run(options.run, settings) == "finished":
            result = read_result(folder / RESULT_FILE)
            print("\n".join(_lines(result, folder)))
            say(f"{folder} is complete: --run.overwrite true computes it anew")
            return
        result, inputs = compute(options)
        with replacing(folder, own=RUN_FILES):
            text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
            write_atomic(folder / CONFIG_FILE, text.encode("utf-8"))
            write_inputs(folder, inputs)
            write_result(folder / RESULT_FILE, result)
    print("\n".join(_lines(result, folder)))


def compute(options: BaselineOptions) -> tuple[dict[str, Any], dict[str, Path]]:
    """Return the content of result.json, and the files that were read; prints what is in them."""
    started = time.monotonic()
    used, whole = options.data.load()
    inspection = inspect_task(used, {}, max_len=0, whole=whole.splits)
    print("\n".join(overview_lines(inspection)))
    began = time.process_time()
    answers = _answers(used, letters=options.letters)
    cpu_s = time.process_time() - began
    spec, data = used.spec, options.data
    result = {
        "format_version": FORMAT_VERSION,
        "task": spec.name,
        "title": spec.title,
        "kind": "regression" if spec.is_regression else "classification",
        "encoder": {
            "path": "",
            "kind": BASELINE,
            "name": _NAMES[options.letters],
            "num_parameters": answers.num_weights,
            "random_init": False,
            "digest": "",
            "num_features": answers.num_features,
            "cpu_s": round(cpu_s, 3),
        },
        "settings": {
            **_NOTHING_TO_SET,
            "segments": spec.segments,
            **{k: getattr(data, k) for k in ("fold", "repeat", "max_train_rows", "max_eval_rows")},
        },
        "score": list(spec.score),
        **dict.fromkeys(("best_epoch", "best_step", "total_steps"), 0),
        "evaluation": _evaluation(used, answers.values),
        "majority": inspection["majority"],
        "diverged": False,
        "reason": "",
        "data": inspection,
        "elapsed_s": round(time.monotonic() - started, 3),
        "versions": {name: version(name) for name in ("ponet", "scikit-learn")},
        "device": "cpu",
        "task_facts": task_facts(spec),
    }
    return result, {f"the {name} file": Path(s.source) for name, s in whole.splits.items()}


def _scored(task: LoadedTask) -> dict[str, Sequence[Row]]:
    names = (*task.validation_splits, *task.test_splits)
    return {name: task.splits[name].rows for name in names}


def _answers(task: LoadedTask, *, letters: Letters) -> Answers:
    """What the linear model of the task's kind says of all scored rows, split after split."""
    spec, rows = task.spec, task.splits["train"].rows
    train, targets = [(row.text, row.text_pair) for row in rows], spec.targets_of(rows)
    texts = [(row.text, row.text_pair) for some in _scored(task).values() for row in some]
    counts_letters = letters == "with" or (letters == "auto" and are_short(train))
    if spec.is_regression:
        return predict_scores(train, targets.tolist(), texts, letters=counts_letters)
    labels = [spec.labels[target] for target in targets]
    return classify_texts(train, labels, texts, letters=counts_letters)


def _evaluation(task: LoadedTask, values: Sequence[Any]) -> dict[str, dict[str, float]]:
    spec, found, left = task.spec, {}, iter(values)
    for name, rows in _scored(task).items():
        outputs = torch.zeros(len(rows), spec.num_outputs)
        for place, value in zip(range(len(rows)), left, strict=False):
            if spec.is_regression:
                outputs[place, 0] = value
            else:
                outputs[place, spec.labels.index(value)] = 1.0
        targets = torch.from_numpy(spec.targets_of(rows))
        found[name] = {**scores(spec, outputs, targets), "num_rows": len(rows)}
    return found


def _lines(result: Mapping[str, Any], folder: Path) -> list[str]:
    """What is printed at the end."""
    data, encoder = result["data"], result["encoder"]
    spec = TaskSpec(
        name=result["task"],
        title=encoder["name"],
        labels=tuple(data["splits"]["train"]["labels"]),
        score=tuple(result["score"]),
        segments="separators",
        sizes={},
        positive_label=data["f1_label"],
    )
    constants = {"baseline (majority)": result["majority"]}
    if data["best_constant"]:
        constants[f"baseline (always {data['best_constant_answer']})"] = data["best_constant"]
    return [
        "",
        *evaluation_lines(spec, result["evaluation"], constants),
        f"{encoder['num_features']:,} features, {encoder['num_parameters']:,} weights, "
        f"{encoder['cpu_s']:.1f} s of CPU time; nothing was searched and nothing is drawn by lot: "
        "this is one run, and another would say the same",
        f"run: {folder}",
    ]
