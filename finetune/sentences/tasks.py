"""Documents with labelled sentences as tasks, and what a prediction says of them.

Invariant: labels are those of the training rows (or of the model that is scored); one that training
never saw is kept, is counted, and can only be answered wrongly.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.sentences.files import SENTENCES, document, read_documents, split_sentences
from finetune.sentences.scores import HAS_BORDERS, borders_of
from finetune.tasks.rows import row_texts
from finetune.tasks.spec import (
    Columns,
    LoadedTask,
    Marks,
    MetricName,
    Row,
    SplitRows,
    TaggedText,
    Wanted,
)

UNSEEN_LABELS = "sentences with a label that training never saw: they count as errors"


def document_rows(path: Path, marks: Marks, *, language: str) -> SplitRows:
    """Return the documents of a file as rows; see `read_documents`."""
    repairs: Counter[str] = Counter()
    texts = read_documents(path, marks, repairs, language=language)
    rows = tuple(Row(text.line, text.id, text.text, "", 0.0, text) for text in texts)
    return SplitRows(source=str(path), rows=rows, repairs=dict(+repairs))


def settled_documents(task: LoadedTask, wanted: Wanted) -> LoadedTask:
    """Return a task of documents whose spec has its labels, of two the positive one last.

    That is `spec.positive_label`, else the one that is rarer in training.

    Args:
        task: Rows as `document_rows` gives them.
        wanted: Labels of a model that is scored, as its tags.

    Raises:
        ValueError: Fewer than two labels, or more where two are needed.
    """
    spec, tags = task.spec, wanted.tags
    if tags is None:
        train = task.splits["train"]
        counts = Counter(tag for row in train.rows for tag in _tags(row))
        tags = _ordered(counts, spec.positive_label, train.source)
    if spec.marks in ("begins", "ends") and len(tags) != 2:
        raise ValueError(
            f"data.marks is {spec.marks}, which needs two labels of sentences, one that marks and "
            f"one that does not; there are {', '.join(tags)}"
        )
    automatic: MetricName = "f1" if len(tags) == 2 else "macro_f1"
    if spec.marks in HAS_BORDERS:
        automatic = "border_f1"
    spec = replace(spec, tags=tags, score=spec.score or (automatic,), positive_label="")
    known = set(tags)
    splits = {}
    for name, split in task.splits.items():
        unseen = sum(tag not in known for row in split.rows for tag in _tags(row))
        repairs = {**split.repairs, **({UNSEEN_LABELS: unseen} if unseen else {})}
        splits[name] = replace(split, repairs=repairs)
    return LoadedTask(spec=spec, splits=splits)


def _ordered(counts: Mapping[str, int], positive: str, source: str) -> tuple[str, ...]:
    if len(counts) < 2:
        raise ValueError(
            f"{source}: all sentences have the label {next(iter(counts))!r}; two or more are needed"
        )
    if positive and (len(counts) != 2 or positive not in counts):
        raise ValueError(
            f"data.positive_label is {positive!r}; it must be one of two labels of sentences, and "
            f"there are {', '.join(map(repr, sorted(counts)))}"
        )
    if len(counts) > 2:
        return tuple(sorted(counts))
    positive = positive or min(sorted(counts, reverse=True), key=counts.__getitem__)
    return (*(label for label in counts if label != positive), positive)


def _tags(row: Row) -> Sequence[str]:
    assert row.tagged is not None and row.tagged.tags is not None
    return row.tagged.tags


def label_counts(rows: Sequence[Row], tags: Sequence[str]) -> dict[str, int]:
    """Return label -> sentences that have it, in the order of the labels."""
    counts = Counter(tag for row in rows for tag in _tags(row))
    return {tag: counts[tag] for tag in tags}


def row_of_sentences(
    columns: Columns, line: int, values: Mapping[str, Any], *, language: str
) -> Row:
    """Return a row of a table as sentences: its list `sentences`, else those of its text.

    Raises:
        ValueError: None, or another content; the message names no place.
    """
    if SENTENCES in values:
        given = values[SENTENCES]
        text = document("", line, str(line), given, None)
        blanks = (place for place, sentence in enumerate(given) if not sentence.split())
        return _row(text._replace(blanks=tuple(blanks)))
    row_texts(columns, values, "")
    return with_sentences(Row(line, str(line), values[columns.text], "", None), language=language)


def with_sentences(row: Row, *, language: str) -> Row:
    """Return a row whose text is split into sentences, if it is not yet.

    Raises:
        ValueError: There are none; the message names no place.
    """
    if row.tagged is not None:
        return row
    sentences = split_sentences(row.text, language=language)
    return _row(document("", row.line, row.id, sentences, None))


def _row(text: TaggedText) -> Row:
    return Row(text.line, text.id, text.text, "", None, text)


def sentence_answer(text: TaggedText, labels: Sequence[str], marks: Marks, positive: str) -> Any:
    """Return `sentences` and `labels` and, where labels mark borders, `borders`.

    These are the numbers, from 0, of the sentences that begin a new segment, but the first. All is
    in the order of the list that was given: a blank sentence stands in its place, its label None.
    """
    words, names = list[str](text.words), list[str | None](labels)
    for place in text.blanks:
        words.insert(place, "")
        names.insert(place, None)
    said: dict[str, Any] = {SENTENCES: words, "labels": names}
    if marks in HAS_BORDERS:
        places = [place for place, name in enumerate(names) if name is not None]
        said["borders"] = [places[number] for number in borders_of(labels, marks, positive)]
    return said


def num_blank(answer: Mapping[str, Any]) -> int:
    """Return how many sentences of a prediction were blank and have no label."""
    return sum(label is None for label in answer.get("labels") or ())


def no_sentences(marks: Marks) -> dict[str, None]:
    """Return what a prediction says of a document that cannot be read."""
    borders = ["borders"] * (marks in HAS_BORDERS)
    return dict.fromkeys((SENTENCES, "labels", *borders))
