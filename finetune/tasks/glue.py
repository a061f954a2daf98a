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
_PAIR = ("sentence1", "sentence2")
_NLI_PAIR = ("premise", "hypothesis")
_ENTAILMENT = ("entailment", "not_entailment")
_NLI = ("entailment", "neutral", "contradiction")
_NUMBERS = ("0", "1")
_SPLITS = ("train", "validation", "test")
_STEMS = {"validation": "dev"}
_MATCHED = {"validation": "validation_matched", "test": "test_matched"}


def _task(  # noqa: PLR0913
    name: str,
    title: str,
    columns: tuple[str, ...],
    labels: tuple[str, ...],
    *,
    sizes: tuple[int, int, int] | Mapping[str, int],
    hub_columns: tuple[str, ...] = (),
    label: str = "label",
    file_labels: tuple[str, ...] = (),
    folder: str = "",
    stems: Mapping[str, str] = _STEMS,
    header: tuple[str, ...] = (),
    id_column: str = "index",
    allows_gaps: bool = False,
    **others: Any,
) -> TaskSpec:
    """Return a task of GLUE.

    Args:
        name: What `--data.task` calls it.
        title: What tables call it.
        columns: Of the text, or the two texts, in the TSV files.
        labels: Classes in the order of the Hub; empty: a score in [0, 5].
        sizes: Rows of train, validation and test, or of each split.
        hub_columns: Of the texts on the Hub and in .jsonl files, where they differ.
        label: Column of the label in the TSV files.
        file_labels: Classes as the TSV files write them; empty: as `labels`.
        folder: Its folder, where it is not called as the title.
        stems: See `TableFolder`.
        header: Columns of train and dev files without a header line.
        id_column: Column that names the rows of the test files.
        allows_gaps: See `TaskSpec.allows_gaps`; such files also have rows that are cut.
        others: Further fields of the task.
    """
    kept: dict[str, Any] = {"score_range": None if labels else (0.0, 5.0)}
    kept["allows_gaps"] = allows_gaps
    in_files, on_hub = (
        Columns(text=texts[0], text_pair="".join(texts[1:]))
        for texts in (columns, hub_columns or columns)
    )
    sizes = dict(zip(_SPLITS, sizes, strict=True)) if isinstance(sizes, tuple) else sizes
    return TaskSpec(
        name=name,
        title=title,
        labels=labels,
        segments="separators",
        sizes=sizes,
        read_folder=TableFolder(
            title=title,
            folder=folder or title,
            stems=stems,
            columns={
                ".tsv": replace(in_files, label=label, labels=file_labels or labels, **kept),
                ".jsonl": replace(on_hub, labels=labels, has_places=True, **kept),
            },
            header=header,
            unlabelled=HIDDEN,
            unlabelled_id=id_column,
            has_cut_rows=allows_gaps,
        ),
        hub=HubSource(
            id="nyu-mll/glue",
            config=name,
            revision="bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c",
            splits=_MATCHED if "test_mismatched" in sizes else {},
            columns=on_hub,
            unlabelled=HIDDEN,
        ),
        has_pair=len(columns) > 1,
        published_source=PUBLISHED_SOURCE if "published" in others else "",
        **{"score": ("accuracy",), **kept, **others},
    )


def _both(ponet: float, fnet: float) -> dict[str, float]:
    return {"PoNet-Base": ponet, "FNet-Base": fnet}


GLUE_TASKS: tuple[TaskSpec, ...] = (
    _task(
        "cola",
        "CoLA",
        ("sentence",),
        ("unacceptable", "acceptable"),
        file_labels=_NUMBERS,
        header=("source", "label", "star", "sentence"),
        sizes=(8_551, 1_043, 1_063),
        score=("matthews",),
        published={"PoNet-Base": 45.36},  # FNet's card gives an accuracy
    ),
    _task(
        "sst2",
        "SST-2",
        ("sentence",),
        ("negative", "positive"),
        file_labels=_NUMBERS,
        sizes=(67_349, 872, 1_821),
        published=_both(89.22, 95.0),
    ),
    _task(
        "mrpc",
        "MRPC",
        ("#1 String", "#2 String"),
        ("not_equivalent", "equivalent"),
        file_labels=_NUMBERS,
        hub_columns=_PAIR,
        label="Quality",
        sizes=(3_668, 408, 1_725),
        score=("accuracy", "f1"),
        published=_both(81.76, 76.0),
    ),
    _task(
        "stsb",
        "STS-B",
        _PAIR,
        (),
        label="score",
        sizes=(5_749, 1_500, 1_379),
        score=("pearson", "spearman"),
        published=_both(84.57, 79.0),
    ),
    _task(
        "qqp",
        "QQP",
        ("question1", "question2"),
        ("not_duplicate", "duplicate"),
        file_labels=_NUMBERS,
        label="is_duplicate",
        sizes=(363_846, 40_430, 390_965),
        score=("accuracy", "f1"),
        id_column="id",
        allows_gaps=True,
        published=_both(87.55, 83.0),
    ),
    _task(
        "mnli",
        "MNLI",
        _PAIR,
        _NLI,
        hub_columns=_NLI_PAIR,
        label="gold_label",
        sizes={
            "train": 392_702,
            "validation": 9_815,
            "validation_mismatched": 9_832,
            "test": 9_796,
            "test_mismatched": 9_847,
        },
        stems={
            "validation": "dev_matched",
            "validation_mismatched": "dev_mismatched",
            "test": "test_matched",
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
        ("question", "sentence"),
        _ENTAILMENT,
        sizes=(104_743, 5_463, 5_463),
        published=_both(84.33, 80.0),
    ),
    _task(
        "rte", "RTE", _PAIR, _ENTAILMENT, sizes=(2_490, 277, 3_000), published=_both(64.26, 63.0)
    ),
    _task(
        "wnli",
        "WNLI",
        _PAIR,
        ("not_entailment", "entailment"),
        file_labels=_NUMBERS,
        sizes=(635, 71, 146),
        warning="its validation pairs contradict training pairs; the papers leave it out",
    ),
    _task(
        "ax",
        "AX",
        _PAIR,
        _NLI,
        hub_columns=_NLI_PAIR,
        sizes={"test": 1_104},
        stems={"test": "diagnostic"},
        folder="diagnostic",
        warning="a diagnostic test set without training rows, answered by a model for mnli",
    ),
)
