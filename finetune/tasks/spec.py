"""TaskSpec: everything the rest of the package needs to know about a task, as data.

Invariant: no code elsewhere asks for a task by name; what differs between tasks is a field here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

SegmentRule = Literal["separators", "sentences", "paragraphs"]
MetricName = Literal[
    Literal["accuracy", "f1", "micro_f1", "macro_f1", "matthews", "pearson", "spearman", "r2"],
    Literal["slot_em", "frame_em", "span_f1", "token_accuracy", "intent_accuracy"],
    Literal["exact_match", "border_f1"],
]
Targets = Literal["both", "tags", "label"]
Unit = Literal["word", "sentence"]
Marks = Literal["labels", "begins", "ends", "sections", "keys"]
UNSEEN = -100
"""Target of a label that training never saw: its rows count as errors and teach nothing."""


class TaggedText(NamedTuple):
    """One text as words with what is known of them."""

    line: int
    """Its first line in its file, counted from 1."""
    id: str
    """Its name in its distribution, else its number from 0."""
    words: tuple[str, ...]
    """At least one."""
    tags: tuple[str, ...] | None
    """BIO, one for every word; None: unlabelled."""
    label: str | None
    """Label of the whole text; None: unlabelled, or the task has none."""
    text: str
    """The text itself, where the file has it; else the words with spaces."""
    offsets: tuple[tuple[int, int], ...]
    """Characters [start, end) of every word in `text`."""
    language: str = ""
    """Two letters, where the distribution has several languages; else empty."""
    unit: Unit = "word"
    """What `words` are: sentences are each tokenised whole, and are the pooling segments."""
    blanks: tuple[int, ...] = ()
    """Places, in a list of sentences to label, of those without a character: not in `words`."""


class Row(NamedTuple):
    """One example as text."""

    line: int
    """First line of the row in its file, or its number in a Hub split, counted from 1."""
    id: str
    """Name of the row in its distribution, as a leaderboard wants it; else its number from 0."""
    text: str
    text_pair: str
    """Empty without a pair."""
    target: float | tuple[int, ...] | None
    """Place of the label in `TaskSpec.labels`, places of several, or the score of a regression;
    None: unlabelled. With tags alone 0, and `UNSEEN` for a label of a tagged text that training
    never saw."""
    tagged: TaggedText | None = None
    """The text as words, with their tags; None: no task of tags."""

    @property
    def key(self) -> str:
        """What two rows must share to count as the same: case and white space do not matter."""
        texts = (self.text, self.text_pair) if self.text_pair else (self.text,)
        return "\n".join(" ".join(text.casefold().split()) for text in texts)


@dataclass(frozen=True, kw_only=True)
class SplitRows:
    """The rows of one split, in the order of the distribution."""

    source: str
    """File, folder or Hub id they come from; messages name a row `<source>, line <line>`."""
    rows: tuple[Row, ...]
    """All rows that are examples."""
    repairs: Mapping[str, int] = field(default_factory=dict)
    """What was left out or mended and how often, in words; empty: nothing."""
    files: tuple[Path, ...] = ()
    """The files of `source`, where it names several."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What the columns of a table mean, whatever file or data set holds it."""

    text: str
    """Column of the text."""
    text_pair: str = ""
    """Column of the second text; empty: single texts."""
    label: str = "label"
    """Column of the label or score; empty: the rows are unlabelled."""
    labels: tuple[str, ...] = ()
    """Classes as the table writes them, in the order of the logits; empty: a score."""
    several: bool = False
    """Whether `label` holds any number of labels."""
    has_places: bool = False
    """Whether a whole number is a place in `labels`, as on the Hub; False: it is a name."""
    score_range: tuple[float, float] | None = None
    """Least and greatest allowed score."""
    id: str = ""
    """Column of the name, which labelled rows may lack; empty: their number from 0."""
    decode: Callable[[str], str] | None = None
    """What undoes the escapes of the distribution in a text."""
    allows_gaps: bool = False
    """Whether the distribution is known to have damaged or empty rows, which are counted: left out
    where they are labelled, read as a full stop where a prediction is wanted. False: an error."""
    advice: str = "Is this the original distribution?"
    """What a message about a missing column ends with; {} is text, text_pair or label."""


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """A data set on the Hugging Face Hub, pinned."""

    id: str
    """Repository, such as nyu-mll/glue."""
    config: str
    """Its configuration; empty: the default one."""
    revision: str
    """Commit, so that the data never change under a result."""
    columns: Columns
    """Of every split."""
    splits: Mapping[str, str] = field(default_factory=dict)
    """Our split name -> the Hub's, where it is another one."""
    files: str = ""
    """Pattern of the Parquet files of a split, with {split}, for a revision whose own
    configuration cannot be loaded (a dataset script); empty: as the repository says."""
    unlabelled: tuple[str, ...] = ()
    """Our splits whose labels are never read, because the original distribution hides them."""


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """One task."""

    name: str
    """What `--data.task` calls it."""
    title: str
    """What tables call it."""
    labels: tuple[str, ...]
    """Names of the classes, in the order of the logits; empty: regression, or tags alone."""
    score: tuple[MetricName, ...]
    """Metrics whose mean is the score of the task: what an epoch and a setting are chosen by."""
    segments: SegmentRule
    """What a pooling segment of the text is."""
    is_multilabel: bool = False
    """Whether any number of the labels may hold for a text."""
    is_tagging: bool = False
    """Whether every word has a tag; then the text may have a label too. Or every sentence."""
    tags: tuple[str, ...] = ()
    """BIO tags of the training words, or labels of sentences (of two the second one is positive),
    in the order of their logits, once rows are loaded."""
    unit: Unit = "word"
    """What has a tag."""
    has_words: bool = False
    """Whether the rows are texts of words with tags, also where labels of texts alone are wanted;
    known once rows are loaded."""
    marks: Marks = "labels"
    """What the labels of sentences mark."""
    sizes: Mapping[str, int]
    """Published number of rows of every split of the distribution."""
    read_folder: Callable[[Path, str], SplitRows] | None = None
    """(folder, split) -> rows, from a local copy in the original layout."""
    hub: HubSource | None = None
    """The same from the Hub."""
    has_pair: bool = False
    """Whether an example is two texts."""
    score_range: tuple[float, float] | None = None
    """Least and greatest score of a regression."""
    positive_label: str = ""
    """Of two labels the one that `f1` is of; empty: the second one."""
    standardises: bool = False
    """Whether a regression is trained on its scores less their mean, in standard deviations of the
    training rows. False: on the scores as they are, as the publications do."""
    carve_validation: float = 0.0
    """Share of the training rows that becomes the validation split, where there is none."""
    num_folds: int = 0
    """Folds of a repeated stratified cross-validation over all rows; 0: the splits are fixed."""
    warning: str = ""
    """What a reader of its scores must know; such a task counts in no mean over tasks."""
    published: Mapping[str, float] = field(default_factory=dict)
    """Model -> score of the publication, in per cent; its source stands in `published_source`.
    A score of validation_mismatched has the model's name with " (mismatched)", one of the
    validation split of a task that has a test split " (validation)"."""
    published_source: str = ""
    """Where the published scores stand and which metric they are."""
    published_metric: str = ""
    """The metric that published scores are held beside, where it is not the task's score."""

    @property
    def is_regression(self) -> bool:
        """Whether the target is a number."""
        return not (self.labels or self.is_tagging)

    @property
    def kind(self) -> str:
        """What is answered of a text, as results call it."""
        if self.is_tagging:
            return "sentences" if self.labels_sentences else "tagging"
        if self.is_multilabel:
            return "multilabel"
        return "regression" if self.is_regression else "classification"

    @property
    def labels_sentences(self) -> bool:
        """Whether every sentence has a label."""
        return self.is_tagging and self.unit == "sentence"

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels of what is scored one by one: texts, or sentences."""
        return self.tags if self.labels_sentences else self.labels

    @property
    def f1_class(self) -> int:
        """Place of the label that `f1` is of, where there are two."""
        return self.labels.index(self.positive_label) if self.positive_label else 1

    @property
    def f1_label(self) -> str:
        """The label that `f1` is of; empty where there are not two."""
        return self.classes[self.f1_class] if len(self.classes) == 2 else ""

    @property
    def num_outputs(self) -> int:
        """Logits for a text: one per class, one for a regression, none with tags alone."""
        return len(self.labels) or int(self.is_regression)

    def targets_of(self, rows: Sequence[Row]) -> NDArray[Any]:
        """Return the targets of labelled rows, (rows,): int64 classes or float32 scores.

        Of several labels a text float32 (rows, labels + 1), 1 where a label holds; last how many
        labels the text has that training never saw.
        """
        if self.is_multilabel:
            several = np.zeros((len(rows), len(self.labels) + 1), np.float32)
            for number, row in enumerate(rows):
                assert isinstance(row.target, tuple)
                several[number, [place for place in row.target if place != UNSEEN]] = 1.0
                several[number, -1] = row.target.count(UNSEEN)
            return several
        dtype = np.float32 if self.is_regression else np.int64
        return np.array([row.target for row in rows], dtype=dtype)


@dataclass(frozen=True, kw_only=True)
class LoadedTask:
    """A task with its rows."""

    spec: TaskSpec
    """With the labels filled in where they come from the training rows."""
    splits: Mapping[str, SplitRows]
    """The splits that exist, by our names; `train` and `validation` are there for a fit."""

    @property
    def validation_splits(self) -> tuple[str, ...]:
        """Splits that are scored after every epoch; the first one chooses."""
        return tuple(name for name in self.splits if name.startswith("validation"))

    @property
    def test_splits(self) -> tuple[str, ...]:
        """Test splits whose rows have labels."""
        return tuple(
            name
            for name, split in self.splits.items()
            if name.startswith("test") and split.rows[0].target is not None
        )


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What of a task's rows is answered."""

    labels: tuple[str, ...] | None = None
    """Classes of a model that is scored, empty for a regression; None: those of training."""
    tags: tuple[str, ...] | None = None
    """Its tags of words, empty for none; None: those of training."""
    targets: Targets = "both"
    """Of tagged texts: tags and labels of texts, or one of them."""
    languages: tuple[str, ...] = ()
    """Of a task that has several; empty: all."""
