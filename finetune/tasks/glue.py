"""The ten tasks of GLUE, from the TSV files of the original download.

Invariant: a row has the same texts, label and name from a folder and from the Hub. The leaderboard
hides the test labels, so they are never read, wherever a copy has them.
"""

from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from finetune.tasks.rows import MissingSplit, RowReader, find_file
from finetune.tasks.spec import HubSource, MetricName, Recipe, SplitRows, TaskSpec
from finetune.tasks.tables import read_table

PUBLISHED_SOURCE = (
    "GLUE validation sets. PoNet-Base: ModelScope card damo/nlp_ponet_fill-mask_english-base "
    "(arXiv 2110.02442, Table 3), best of 20 settings, one seed; FNet-Base: Hugging Face card "
    "google/fnet-base (arXiv 2105.03824), other pretraining data and tokenizer. For tasks with two "
    "metrics neither says which one it prints."
)
RECIPE = Recipe(
    lrs=(3e-5, 5e-5, 1e-4, 3e-4),
    batch_sizes=(8, 16, 32, 64, 128),
    epochs=4,
    max_len=128,
    source="lxchtan/PoNet, 2-GLUE.sh",
)
REVISION = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
ENTAILMENT = ("entailment", "not_entailment")
NLI = ("entailment", "neutral", "contradiction")
MNLI_FILES = {
    "train": "train",
    "validation": "dev_matched",
    "validation_mismatched": "dev_mismatched",
    "test": "test_matched",
    "test_mismatched": "test_mismatched",
}
HIDDEN = ("test", "test_mismatched")
WRONG_WIDTH = "rows with a wrong number of columns left out"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the original download holds a task."""

    folder: str
    """Its folder below glue_data."""
    reader: RowReader
    """Columns of the TSV files and how they write the classes; `labels` empty: a score."""
    hub: RowReader
    """Columns of the Hub, which .jsonl files may also have."""
    stems: dict[str, str]
    """Split -> file name without its ending."""
    header_free: tuple[str, ...] = ()
    """Columns of train and dev files without a header line."""


def read_split(layout: Layout, folder: Path, split: str) -> SplitRows:
    """Return a split from glue_data or from the folder of the task itself.

    Raises:
        MissingSplit: The split has no file.
        ValueError: No such folder, or a damaged row; names file and line.
    """
    if split not in layout.stems:
        raise MissingSplit(f"{layout.folder} has no split {split}; it has {list(layout.stems)}")
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give the one that holds {layout.folder}/")
    own = folder / layout.folder
    stem = layout.stems[split]
    what = f"{layout.folder}'s split {split}"
    names_of_file = [f"{stem}.tsv", f"{stem}.jsonl"]
    if split != stem:  # what `datasets` writes is called as the split
        names_of_file.append(f"{split}.jsonl")
    path = find_file(own if own.is_dir() else folder, names_of_file, what)
    is_tsv = ".tsv" in path.suffixes
    reader = layout.reader if is_tsv else layout.hub
    if split in HIDDEN:
        id_column = reader.id_column if is_tsv else ""
        reader = replace(reader, label="", id_column=id_column)
        names: tuple[str, ...] = ()
    else:
        reader = replace(reader, id_column="")
        names = layout.header_free
    repairs: Counter[str] = Counter()

    def leave_out(line: int, why: str) -> None:
        repairs[WRONG_WIDTH] += 1

    is_lenient = is_tsv and reader.allows_gaps and split not in HIDDEN
    table = read_table(path, names=names, bad=leave_out if is_lenient else None)
    return reader.split(table, str(path), repairs)


@dataclass(frozen=True, kw_only=True)
class _Task:
    title: str
    labels: tuple[str, ...]
    """Classes in the order of the Hub; empty: a score in [0, 5]."""
    file_labels: tuple[str, ...]
    """The same as the TSV files write them."""
    columns: tuple[str, ...]
    """Columns of the text (pair) in the TSV files."""
    hub_columns: tuple[str, ...] = ()
    """The same on the Hub, where they differ."""
    label: str = "label"
    """Column of the label in the TSV files."""
    sizes: dict[str, int]
    score: tuple[MetricName, ...] = ("accuracy",)
    published: dict[str, float] | None = None
    stems: dict[str, str] | None = None
    folder: str = ""
    """Its folder, where it is not called as the title."""
    header_free: tuple[str, ...] = ()
    id_column: str = "index"
    allows_gaps: bool = False
    warning: str = ""


def _reader(task: _Task, columns: tuple[str, ...], label: str, *, is_hub: bool) -> RowReader:
    return RowReader(
        text=columns[0],
        text_pair=columns[1] if len(columns) > 1 else "",
        label=label,
        labels=task.labels if is_hub else task.file_labels,
        score_range=None if task.labels else (0.0, 5.0),
        id_column="" if is_hub else task.id_column,
        allows_gaps=task.allows_gaps,
        hint="Is this the original GLUE download?",
    )


def _hub_splits(task: _Task) -> dict[str, str]:
    has_two_genres = "validation_mismatched" in task.sizes
    matched = {"validation": "validation_matched", "test": "test_matched"} if has_two_genres else {}
    return {split: matched.get(split, split) for split in task.sizes}


def _spec(name: str, task: _Task) -> TaskSpec:
    columns = task.hub_columns or task.columns
    stems = task.stems or {"train": "train", "validation": "dev", "test": "test"}
    layout = Layout(
        folder=task.folder or task.title,
        reader=_reader(task, task.columns, task.label, is_hub=False),
        hub=_reader(task, columns, "label", is_hub=True),
        stems=stems,
        header_free=task.header_free,
    )
    return TaskSpec(
        name=name,
        title=task.title,
        labels=task.labels,
        score=task.score,
        segments="separators",
        sizes=task.sizes,
        recipe=RECIPE,
        read_folder=partial(read_split, layout),
        hub=HubSource(
            id="nyu-mll/glue",
            config=name,
            revision=REVISION,
            splits=_hub_splits(task),
            text=columns[0],
            text_pair=columns[1] if len(columns) > 1 else "",
            unlabelled=HIDDEN,
        ),
        has_pair=len(columns) > 1,
        score_range=None if task.labels else (0.0, 5.0),
        allows_gaps=task.allows_gaps,
        warning=task.warning,
        published=task.published or {},
        published_source=PUBLISHED_SOURCE if task.published else "",
    )


def _sizes(train: int, validation: int, test: int) -> dict[str, int]:
    return {"train": train, "validation": validation, "test": test}


_PAIR = ("sentence1", "sentence2")
_TASKS = {
    "cola": _Task(
        title="CoLA",
        labels=("unacceptable", "acceptable"),
        file_labels=("0", "1"),
        columns=("sentence",),
        header_free=("source", "label", "star", "sentence"),
        sizes=_sizes(8_551, 1_043, 1_063),
        score=("matthews",),
        published={"PoNet-Base": 45.36},  # FNet's card gives an accuracy
    ),
    "sst2": _Task(
        title="SST-2",
        labels=("negative", "positive"),
        file_labels=("0", "1"),
        columns=("sentence",),
        sizes=_sizes(67_349, 872, 1_821),
        published={"PoNet-Base": 89.22, "FNet-Base": 95.0},
    ),
    "mrpc": _Task(
        title="MRPC",
        labels=("not_equivalent", "equivalent"),
        file_labels=("0", "1"),
        columns=("#1 String", "#2 String"),
        hub_columns=_PAIR,
        label="Quality",
        sizes=_sizes(3_668, 408, 1_725),
        score=("accuracy", "f1"),
        published={"PoNet-Base": 81.76, "FNet-Base": 76.0},
    ),
    "stsb": _Task(
        title="STS-B",
        labels=(),
        file_labels=(),
        columns=_PAIR,
        label="score",
        sizes=_sizes(5_749, 1_500, 1_379),
        score=("pearson", "spearman"),
        published={"PoNet-Base": 84.57, "FNet-Base": 79.0},
    ),
    "qqp": _Task(
        title="QQP",
        labels=("not_duplicate", "duplicate"),
        file_labels=("0", "1"),
        columns=("question1", "question2"),
        label="is_duplicate",
        sizes=_sizes(363_846, 40_430, 390_965),
        score=("accuracy", "f1"),
        id_column="id",
        allows_gaps=True,
        published={"PoNet-Base": 87.55, "FNet-Base": 83.0},
    ),
    "mnli": _Task(
        title="MNLI",
        labels=NLI,
        file_labels=NLI,
        columns=_PAIR,
        hub_columns=("premise", "hypothesis"),
        label="gold_label",
        sizes={
            "train": 392_702,
            "validation": 9_815,
            "validation_mismatched": 9_832,
            "test": 9_796,
            "test_mismatched": 9_847,
        },
        stems=MNLI_FILES,
        published={
            "PoNet-Base": 76.99,
            "PoNet-Base (mismatched)": 77.21,
            "FNet-Base": 72.0,
            "FNet-Base (mismatched)": 73.0,
        },
    ),
    "qnli": _Task(
        title="QNLI",
        labels=ENTAILMENT,
        file_labels=ENTAILMENT,
        columns=("question", "sentence"),
        sizes=_sizes(104_743, 5_463, 5_463),
        published={"PoNet-Base": 84.33, "FNet-Base": 80.0},
    ),
    "rte": _Task(
        title="RTE",
        labels=ENTAILMENT,
        file_labels=ENTAILMENT,
        columns=_PAIR,
        sizes=_sizes(2_490, 277, 3_000),
        published={"PoNet-Base": 64.26, "FNet-Base": 63.0},
    ),
    "wnli": _Task(
        title="WNLI",
        labels=("not_entailment", "entailment"),
        file_labels=("0", "1"),
        columns=_PAIR,
        sizes=_sizes(635, 71, 146),
        warning="its validation pairs contradict training pairs; the papers leave it out",
    ),
    "ax": _Task(
        title="AX",
        labels=NLI,
        file_labels=NLI,
        columns=_PAIR,
        hub_columns=("premise", "hypothesis"),
        sizes={"test": 1_104},
        stems={"test": "diagnostic"},
        folder="diagnostic",
        warning="a diagnostic test set without training rows, answered by a model for mnli",
    ),
}

GLUE_TASKS: dict[str, TaskSpec] = {name: _spec(name, task) for name, task in _TASKS.items()}
