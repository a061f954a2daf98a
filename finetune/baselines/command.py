"""`baseline`: what a linear model makes of a task, as a run that reports show beside the others.

Invariant: nothing is searched and nothing is drawn by lot, so one run says all; every split with
labels is scored once.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import yaml

from data_prep.files import write_atomic
from finetune.baselines.scoring import SentenceModel, answer_task, evaluate
from finetune.data.inspection import inspect_task
from finetune.data.overview import overview_lines
from finetune.outcome import constants_of, evaluation_lines
from finetune.run_config import RUN_FILES, check_kind, earlier_run
from finetune.tasks.registry import task_facts
from finetune.tasks.selection import Selection
from finetune.tasks.spec import TaskSpec
from training.command_line import parse_options
from training.configuration import write_inputs
from training.interruption import say
from training.result import (
    BASELINE,
    FORMAT_VERSION,
    SETTINGS,
    has_thresholds,
    read_result,
    write_result,
)
from training.run_config import CONFIG_FILE, RESULT_FILE, RunPlace
from training.run_folder import replacing, sole_writer

Letters = Literal["auto", "with", "without"]
Computed = tuple[dict[str, Any], dict[str, Path]]
"""Content of result.json, and what was read by its name."""
_NAMES: Mapping[Letters, str] = {
    "auto": "TF-IDF + linear",
    "with": "TF-IDF with letters + linear",
    "without": "TF-IDF without letters + linear",
}
_LETTERS: Mapping[Letters, bool | None] = {"auto": None, "with": True, "without": False}
NOTHING_TO_SET = {
    **dict.fromkeys(SETTINGS, "none"),
    **dict.fromkeys(("lr", "warmup_share", "weight_decay", "dropout_prob", "gradient_clip"), 0.0),
    **dict.fromkeys(("batch_size", "epochs", "max_len", "seed", "freeze"), 0),
    "precision": "64-true",
}
"""Settings of a fit that a linear model has not, for its result; texts are never cut."""
_SELECTED = ("targets", "languages", "fold", "repeat", "max_train_rows", "max_eval_rows")
TAGGER = "perceptron tagger"
_DOCUMENTS: Mapping[SentenceModel, str] = {
    "linear": "TF-IDF of 3 sentences + linear",
    "dips": "TF-IDF cosine dips",
}


@dataclass(frozen=True, kw_only=True)
class BaselineOptions:
    """Score a linear model on a task: what comes for free, in seconds to minutes on one core.

    Classes by support vectors, several labels by one against the rest, scores by ridge regression,
    over counted words and word pairs; tags by an averaged perceptron over a chain. It has no seed
    and searches nothing but thresholds. `report` shows the
    run as a row of its own.
    """

    data: Selection = field(default_factory=Selection)
    """Which rows."""
    run: RunPlace = field(default_factory=RunPlace)
    """Where the result is written."""
    letters: Letters = "auto"
    """Whether pieces of 2 to 5 letters are counted too; auto: for single texts, if half of those to
    train on have at most 50 words."""
    sentences: SentenceModel = "linear"
    """How sentences of documents get labels: linear: support vectors over the words of each and
    its neighbours; dips: a border where the words before and behind it are least alike, without
    any training but the length of the blocks and how deep a dip must be (TextTiling). Where labels
    are two both are cut where validation scores best."""


def run_baseline(arguments: Sequence[str]) -> None:
    """`baseline --data.task NAME --data.folder DIR --run.name NAME`; prints the scores."""
    options = parse_options(BaselineOptions, arguments, program="ponet-finetune baseline")
    compute_run(
        options.run,
        asdict(options),
        compute=lambda: compute(options),
        lines=_lines,
        defaults=lambda: asdict(BaselineOptions()),
    )


def compute_run(
    run: RunPlace,
    settings: Mapping[str, Any],
    *,
    compute: Callable[[], Computed],
    lines: Callable[[Mapping[str, Any]], list[str]],
    defaults: Callable[[], Mapping[str, Any]] = dict,
) -> None:
    """Write the folder of a run that trains nothing, unless it is complete; print what it found.

    Args:
        run: Where.
        settings: All options, as they are kept in the folder.
        compute: Computes it.
        lines: What is printed of its result.
        defaults: See `earlier_run`.
    """
    folder = run.folder
    check_kind(folder)
    with sole_writer(folder, own=RUN_FILES, doing="baseline"):
        is_complete = earlier_run(run, settings, defaults=defaults) == "finished"
        if is_complete:
            result = read_result(folder / RESULT_FILE)
        else:
            result, inputs = compute()
            with replacing(folder, own=RUN_FILES):
                text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
                write_atomic(folder / CONFIG_FILE, text.encode("utf-8"))
                write_inputs(folder, inputs)
                write_result(folder / RESULT_FILE, result)
        print("\n".join([*lines(result), f"run: {folder}"]))
        if is_complete:
            say(f"{folder} is complete: --run.overwrite true computes it anew")


def untrained_part(
    path: str, *, name: str, num_parameters: int, num_features: int, cpu_s: float
) -> dict[str, Any]:
    """Return what result.json says of any answer that no steps of training found.

    Args:
        path: What is counted, or the baseline's own name.
        name: What tables call it.
        num_parameters: Weights.
        num_features: Different things that are counted.
        cpu_s: CPU time in seconds.
    """
    return {
        "encoder": {
            "path": path,
            "kind": BASELINE,
            "name": name,
            "num_parameters": num_parameters,
            "random_init": False,
            "digest": "",
            "num_features": num_features,
            "cpu_s": round(cpu_s, 3),
        },
        **dict.fromkeys(("best_epoch", "best_step", "total_steps"), 0),
        "diverged": False,
        "reason": "",
        "device": "cpu",
    }


def compute(options: BaselineOptions) -> Computed:
    """Return the content of result.json, and the files that were read; prints what is in them."""
    started, data = time.monotonic(), options.data
    data.check_selection()
    whole = data.load_rows("fit")
    _check_use(whole.spec, options)
    used = replace(whole, splits=data.used_rows(whole))
    inspection = inspect_task(used, {}, max_len=0, whole=whole.splits)
    print("\n".join(overview_lines(inspection)))
    began = time.process_time()
    answers = answer_task(used, letters=_LETTERS[options.letters], sentences=options.sentences)
    cpu_s = time.process_time() - began
    spec = used.spec
    result = {
        "format_version": FORMAT_VERSION,
        "task": spec.name,
        "title": spec.title,
        "kind": spec.kind,
        **untrained_part(
            answers.counted,
            name=_name(spec, options),
            num_parameters=answers.num_weights,
            num_features=answers.num_features,
            cpu_s=cpu_s,
        ),
        "settings": {
            **NOTHING_TO_SET,
            "segments": spec.segments,
            **{name: getattr(data, name) for name in _SELECTED},
        },
        "score": list(spec.score),
        "evaluation": evaluate(used, answers),
        "majority": inspection["majority"],
        "data": inspection,
        "elapsed_s": round(time.monotonic() - started, 3),
        "versions": {name: version(name) for name in ("ponet", "scikit-learn")},
        "task_facts": task_facts(spec),
    }
    return result, {f"the {name} file": Path(s.source) for name, s in whole.splits.items()}


def _check_use(spec: TaskSpec, options: BaselineOptions) -> None:
    """Refuse an option that does nothing for what is answered."""
    wanted = {
        "letters": (spec.num_outputs > 0, "it is for labels and scores of whole texts"),
        "sentences": (spec.labels_sentences, "it is for --data.kind sentences"),
    }
    for name, (has_use, what_for) in wanted.items():
        given = getattr(options, name)
        if given != getattr(BaselineOptions, name) and not has_use:
            raise ValueError(
                f"--{name} is {given}, but {spec.title} is a task of {spec.kind} here, which has "
                f"no use for it; leave it out ({what_for})"
            )


def _name(spec: TaskSpec, options: BaselineOptions) -> str:
    """What tables call it."""
    letters = options.letters
    if spec.labels_sentences:
        return _DOCUMENTS[options.sentences]
    if not spec.is_tagging:
        return _NAMES[letters]
    return f"{_NAMES[letters]}, {TAGGER}" if spec.labels else TAGGER


def _lines(result: Mapping[str, Any]) -> list[str]:
    """What is printed at the end."""
    data, encoder = result["data"], result["encoder"]
    is_cut = has_thresholds(result)
    searched = "thresholds were chosen on validation" if is_cut else "nothing was searched"
    return [
        "",
        *evaluation_lines(
            encoder["name"],
            result["evaluation"],
            constants_of(result),
            classes=list(data["splits"]["train"]["labels"]),
            f1_label=data["f1_label"],
        ),
        f"{encoder['num_features']:,} features, {encoder['num_parameters']:,} weights, "
        f"{encoder['cpu_s']:.1f} s of CPU time; {searched} and nothing is drawn "
        "by lot: this is one run, and another would say the same",
    ]
