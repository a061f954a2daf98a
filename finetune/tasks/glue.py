"""The ten tasks of GLUE, from the TSV files of the original download.

Invariant: a row has the same texts, label and name from a folder and from the Hub. The leaderboard
hides the test labels, so they are never read, wherever a copy has them.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from finetune.tasks.rows import TableFolder
from finetune.tasks.spec import Columns, HubSource, TaskSpec

PUBLISHED_SOURCE = (
    "GLUE validation sets. PoNet-Base: ModelScope card damo/nlp_ponet_fill-mask_english-base "
    "(arXiv 2110.02442, Table 3), best of 20 settings, one seed; FNet-Base: Hugging Face card "
    "google/fnet-base (arXiv 2105.03824), other pretraining data and tokenizer. For tasks with two "
    "metrics neither says which one it prints."
)
HIDDEN = ("test", "test_mismatched")
_SPLITS = ("train", "validation", "test")
_MATCHED = {"validation": "validation_matched", "test": "test_matched"}
_PAIR = Columns(text="sentence1", text_pair="sentence2")
_NLI_ON_HUB = Columns(text="premise", text_pair="hypothesis")
_NLI = ("entailment", "neutral", "contradiction")
_ENTAILMENT = ("entailment", "not_entailment")
_NUMBERS = ("0", "1")


def _task(
    name: str,
    title: str,
    labels: tuple[str, ...],
    columns: Columns,
    *,
    sizes: tuple[int, int, int] | Mapping[str, int],
    hub_columns: Columns | None = None,
    tables: Mapping[str, Any] | None = None,
    **others: Any,
) -> TaskSpec:
    """Return a task of GLUE.

    Args:
        name: What `--data.task` calls it.
        title: What tables call it, and mostly its folder.
        labels: Classes in the order of the Hub; empty: a score.
        columns: Of the TSV files; without labels these are named as on the Hub.
        sizes: Rows of train, validation and test, or of each split.
        hub_columns: Of the texts on the Hub and in .jsonl files, where they differ.
        tables: Fields of its `TableFolder`.
        others: Further fields of the task.
    """
    sizes = dict(zip(_SPLITS, sizes, strict=True)) if isinstance(sizes, tuple) else sizes
    columns = replace(columns, labels=columns.labels or labels)
    on_hub = hub_columns or Columns(text=columns.text, text_pair=columns.text_pair)
    kept: dict[str, Any] = {"score_range": columns.score_range}
    on_hub = replace(
        on_hub, labels=labels, has_places=True, allows_gaps=columns.allows_gaps, **kept
    )
    layout = {"folder": title, "stems": {"validation": "dev"}, "unlabelled_id": "index"}
    return TaskSpec(
        name=name,
        title=title,
        labels=labels,
        segments="separators",
        sizes=sizes,
        read_folder=TableFolder(
            title=title,
            columns={".tsv": columns, ".jsonl": on_hub},
            unlabelled=HIDDEN,
            **{**layout, **(tables or {})},
        ),
        hub=HubSource(
            id="nyu-mll/glue",
            config=name,
            revision="bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c",
            splits=_MATCHED if "test_mismatched" in sizes else {},
            columns=on_hub,
            unlabelled=HIDDEN,
        ),
        has_pair=bool(columns.text_pair),
        published_source=PUBLISHED_SOURCE if "published" in others else "",
        **{"score": ("accuracy",), **kept, **others},
    )


def _both(ponet: float, fnet: float) -> dict[str, float]:
    return {"PoNet-Base": ponet, "FNet-Base": fnet}


GLUE_TASKS: tuple[TaskSpec, ...] = (
    _task(
        "cola",
        "CoLA",
        ("unacceptable", "acceptable"),
        Columns(text="sentence", labels=_NUMBERS),
        sizes=(8_551, 1_043, 1_063),
        tables={"header": ("source", "label", "star", "sentence")},
        score=("matthews",),
        published={"PoNet-Base": 45.36},  # FNet's card gives an accuracy
    ),
    _task(
        "sst2",
        "SST-2",
        ("negative", "positive"),
        Columns(text="sentence", labels=_NUMBERS),
        sizes=(67_349, 872, 1_821),
        published=_both(89.22, 95.0),
    ),
    _task(
        "mrpc",
        "MRPC",
        ("not_equivalent", "equivalent"),
        Columns(text="#1 String", text_pair="#2 String", label="Quality", labels=_NUMBERS),
        hub_columns=_PAIR,
        sizes=(3_668, 408, 1_725),
        score=("accuracy", "f1"),
        published=_both(81.76, 76.0),
    ),
    _task(
        "stsb",
        "STS-B",
        (),
        replace(_PAIR, label="score", score_range=(0.0, 5.0)),
        sizes=(5_749, 1_500, 1_379),
        score=("pearson", "spearman"),
        published=_both(84.57, 79.0),
    ),
    _task(
        "qqp",
        "QQP",
        ("not_duplicate", "duplicate"),
        Columns(
            text="question1",
            text_pair="question2",
            label="is_duplicate",
            labels=_NUMBERS,
            allows_gaps=True,
        ),
        sizes=(363_846, 40_430, 390_965),
        tables={"unlabelled_id": "id", "has_cut_rows": True},
        score=("accuracy", "f1"),
        published=_both(87.55, 83.0),
    ),
    _task(
        "mnli",
        "MNLI",
        _NLI,
        replace(_PAIR, label="gold_label"),
        hub_columns=_NLI_ON_HUB,
        sizes={
            "train": 392_702,
            "validation": 9_815,
            "validation_mismatched": 9_832,
            "test": 9_796,
            "test_mismatched": 9_847,
        },
        tables={
            "stems": {
                "validation": "dev_matched",
                "validation_mismatched": "dev_mismatched",
                "test": "test_matched",
            }
        },
        published={
            "PoNet-Base": 76.99,
            "PoNet-Base (mismatched)": 77.21,
            "FNet-Base": 72.0,
            "FNet-Base (mismatched)": 73.0,
        },
    ),
    _task(
        "qnli",
        "QNLI",
        _ENTAILMENT,
        Columns(text="question", text_pair="sentence"),
        sizes=(104_743, 5_463, 5_463),
        published=_both(84.33, 80.0),
    ),
    _task(
        "rte",
        "RTE",
        _ENTAILMENT,
        _PAIR,
        sizes=(2_490, 277, 3_000),
        published=_both(64.26, 63.0),
    ),
    _task(
        "wnli",
        "WNLI",
        ("not_entailment", "entailment"),
        replace(_PAIR, labels=_NUMBERS),
        sizes=(635, 71, 146),
        warning="its validation pairs contradict training pairs; the papers leave it out",
    ),
    _task(
        "ax",
        "AX",
        _NLI,
        _PAIR,
        hub_columns=_NLI_ON_HUB,
        sizes={"test": 1_104},
        tables={"folder": "diagnostic", "stems": {"test": "diagnostic"}},
        warning="a diagnostic test set without training rows, answered by a model for mnli",
    ),
)
