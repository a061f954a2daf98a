"""A user's own CSV, TSV, JSONL and Parquet files as a task, without writing code.

Invariant: the labels are those of the training rows, or of the classifier that is scored; another
one is an error.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

from data_prep.config import check_language
from data_prep.table_rows import Lined, place_of, read_table
from finetune.sentences.tasks import document_rows
from finetune.tagging.tasks import tagged_rows
from finetune.tasks.rows import (
    EMPTY_ROWS,
    MissingSplit,
    is_empty_row,
    label_names,
    name_it,
    rows_of,
)
from finetune.tasks.spec import Columns, Marks, MetricName, SplitRows, TaskSpec

OWN_TASK = "own"


@dataclass(kw_only=True, eq=False)
class OwnFiles:
    """Where a user's own rows are."""

    train: str = ""
    """Own training file, .csv, .tsv, .jsonl or .parquet, also .gz or .zst; with kind tags a file or
    folder of tagged texts (JSONL or Parquet with words and tags or with spans of characters, CoNLL
    columns, seq.in, MTOP, MultiATIS++); with kind sentences .jsonl or .parquet with sentences and
    labels, or a file of WikiSection or MUG."""
    validation: str = ""
    """Own validation file."""
    test: str = ""
    """Own test file with labels; empty: none."""
    text: str = "text"
    """Column of the text in own files; `meta.text` is the field `text` inside of `meta`. A list of
    strings is read as its paragraphs."""
    text_pair: str = ""
    """Column of the second text in own files; empty: none."""
    label: str = "label"
    """Column of the label or score in own files; of several labels `labels`, if not given: a list
    of names in .jsonl and .parquet, in a table a JSON list or names parted by |."""
    kind: Literal["classification", "regression", "multilabel", "tags", "sentences"] = (
        "classification"
    )
    """Whether the label of own files is a class or a number, a text may have several labels, or
    every word has a tag, or every sentence of a document a label."""
    marks: Marks = "labels"
    """What labels of sentences mark: the first or last sentences of segments (begins, ends: borders
    are scored too), the sections that sentences are of (sections: a border lies where the label
    changes), key sentences, or nothing of the kind (labels)."""
    validation_fraction: float = 0.0
    """Share of the own training rows that becomes the validation split, in (0, 1), stratified, by a
    hash of the text; 0: there is a validation file."""
    num_folds: int = 0
    """Cut all rows of the own training file into so many folds, 3 or more, for a cross-validation
    without other files: fold data.fold is the test split, the next one validation, the rest is
    trained on. Rows with one text share a fold. Classes have equal shares in all folds; scores are
    dealt in their order, several labels by the rarest one of the text, tagged words by the label of
    the whole text, documents at random. 0: no folds."""
    score: Literal[MetricName, Literal["auto"]] = "auto"
    """Metric of own files that chooses the epoch. auto: accuracy; the mean of pearson and spearman;
    of several labels micro_f1; of tags frame_em, without labels of the texts slot_em; of sentences
    border_f1 where borders are marked, else f1 of two labels, macro_f1 of more."""
    positive_label: str = ""
    """Of two own classes the one that F1 is of; empty: the second one in order, of sentences the
    one that is rarer in training."""
    language: str = ""
    """Language of own texts, a code such as de, by whose rules they are cut into sentences; empty:
    that of the encoder's pretraining, en if it is not known."""

    @property
    def given(self) -> tuple[str, ...]:
        """The splits that have a file."""
        return tuple(s for s in ("train", "validation", "test") if getattr(self, s))

    def file(self, split: str) -> str:
        """Return the file of a split, or raise MissingSplit."""
        if split not in self.given:
            carve = ", carve it with --data.validation_fraction" * (split == "validation")
            cut = f"{carve}, or cut all rows into folds with --data.num_folds" * (split != "train")
            raise MissingSplit(f"no {split} file; name it with --data.{split}{cut}")
        return str(getattr(self, split))


def own_task(
    own: OwnFiles, needed: Sequence[str], *, labels: tuple[str, ...] | None
) -> tuple[TaskSpec, Callable[[str], SplitRows]]:
    """Return the task, whose labels are sorted, whole numbers by size, and what reads a split.

    Args:
        own: The files.
        needed: Splits that must be there.
        labels: Classes of a classifier that is scored, empty for a regression; None: those of the
            training rows, two or more.
    """
    _check(own, needed, labels)
    if own.kind in ("tags", "sentences"):
        return _tagged_task(own)
    is_regression, is_multilabel = own.kind == "regression", own.kind == "multilabel"
    columns = Columns(
        text=own.text,
        text_pair=own.text_pair,
        label="labels" if is_multilabel and own.label == "label" else own.label,
        several=is_multilabel,
        advice=name_it("data.{}"),
    )

    @cache
    def table(split: str) -> tuple[list[Lined], Counter[str]]:
        return _table(own.file(split))

    if not (is_regression or labels):
        labels = _labels(columns, own.train, table("train")[0])
    labels = labels or ()
    if own.positive_label and (len(labels) != 2 or own.positive_label not in labels):
        raise ValueError(
            f"data.positive_label is {own.positive_label!r}; it must be one of two labels, and "
            f"there are {', '.join(map(repr, labels)) or 'scores'}"
        )
    automatic: tuple[MetricName, ...] = ("pearson", "spearman") if is_regression else ("accuracy",)
    automatic = ("micro_f1",) if is_multilabel else automatic
    spec = TaskSpec(
        name=OWN_TASK,
        title=OWN_TASK,
        labels=labels,
        is_multilabel=is_multilabel,
        score=automatic if own.score == "auto" else (own.score,),
        segments="separators",
        sizes={},
        has_pair=bool(own.text_pair),
        positive_label=own.positive_label,
        standardises=True,
        carve_validation=own.validation_fraction,
        num_folds=own.num_folds,
    )

    def read(split: str) -> SplitRows:
        rows, repairs = table(split)
        return rows_of(replace(columns, labels=labels), rows, own.file(split), repairs)

    return spec, read


def _tagged_task(own: OwnFiles) -> tuple[TaskSpec, Callable[[str], SplitRows]]:
    has_sentences = own.kind == "sentences"
    spec = TaskSpec(
        name=OWN_TASK,
        title=OWN_TASK,
        labels=(),
        is_tagging=True,
        unit="sentence" if has_sentences else "word",
        marks=own.marks,
        positive_label=own.positive_label,
        score=() if own.score == "auto" else (own.score,),
        segments="sentences" if has_sentences else "separators",
        sizes={},
        carve_validation=own.validation_fraction,
        num_folds=own.num_folds,
    )

    def read(split: str) -> SplitRows:
        path = Path(own.file(split)).expanduser()
        if not has_sentences:
            return tagged_rows([path])
        return document_rows(path, own.marks, language=own.language or "en")

    return spec, read


def _check(own: OwnFiles, needed: Sequence[str], labels: tuple[str, ...] | None) -> None:
    is_tagged, columns_given = (
        own.kind in ("tags", "sentences"),
        (own.text, own.text_pair, own.label),
    )
    if is_tagged and columns_given != ("text", "", "label"):
        raise ValueError(
            f"data.kind is {own.kind}: leave out data.text, data.text_pair and data.label; the "
            f"files say which {'words and tags' if own.kind == 'tags' else 'sentences and labels'} "
            "they hold"
        )
    for option, kinds in (
        ("positive_label", ("classification", "regression", "sentences")),
        ("marks", ("sentences",)),
    ):
        given = getattr(own, option)
        if given != getattr(OwnFiles, option) and own.kind not in kinds:
            raise ValueError(
                f"data.{option} is {given!r}, but data.kind is {own.kind}, which has no use for "
                "it; leave it out"
            )
    if not is_tagged and labels is not None and (own.kind == "regression") == bool(labels):
        gives = f"the labels {', '.join(labels)}" if labels else "scores"
        raise ValueError(f"data.kind is {own.kind} but the classifier gives {gives}; leave it out")
    if own.language:
        check_language(own.language, "data.language")
    if not 0 <= own.validation_fraction < 1:
        raise ValueError(
            f"data.validation_fraction is {own.validation_fraction:g}; it must be in [0, 1)"
        )
    if own.validation_fraction and own.validation:
        raise ValueError(
            "data.validation and data.validation_fraction are both given; leave one of them out"
        )
    others = [name for name in ("validation", "test", "validation_fraction") if getattr(own, name)]
    if own.num_folds and others:
        raise ValueError(
            f"data.num_folds is {own.num_folds}, which cuts data.train into all splits; leave out "
            f"{', '.join(f'data.{name}' for name in others)} (what else is to be cut belongs into "
            "that file; new texts are labelled by `predict`)"
        )
    for split in needed:
        is_cut = own.num_folds or (split == "validation" and own.validation_fraction)
        own.file("train" if is_cut else split)


def _table(path: str) -> tuple[list[Lined], Counter[str]]:
    """Return the rows of a file, and how many hold nothing, as spreadsheets leave them."""
    repairs: Counter[str] = Counter()
    table = []
    for line, values in read_table(path, is_own=True, notes=repairs):
        if is_empty_row(values):
            repairs[EMPTY_ROWS] += 1
        else:
            table.append((line, values))
    if not table:
        raise ValueError(f"{path}: has no rows; one or more are needed")
    return table, repairs


def _labels(columns: Columns, path: str, table: list[Lined]) -> tuple[str, ...]:
    names = {
        name
        for line, values in table
        for name in label_names(columns, values, place_of(path, line))
    }
    if len(names) < 2:
        found = f"the label {names.pop()!r}" if names else "no label"
        raise ValueError(f"{path}: all rows have {found}; two or more classes are needed")
    if all(re.fullmatch(r"-?\d+", name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))  # "1" and "01" may be two
    return tuple(sorted(names))
