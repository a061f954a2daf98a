"""What a prediction says, as a line of JSON or a row of a table."""

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from finetune.sentences.tasks import no_sentences
from finetune.tagging.predictions import NO_ANSWER

if TYPE_CHECKING:
    from finetune.artifact import ClassifierInfo

OUTPUT_FORMATS = (".jsonl", ".csv", ".tsv")
Prediction = dict[str, Any]
"""`{"line", "label", "probabilities": {label: probability}}`, `labels` for `label` where several
may hold, or `{"line", "score"}` of a regression; with tags also what `tag_answer` returns, or
`sentence_answer`. Where a row cannot be labelled, its answers are None and there is an `error`."""


def prediction_writer(
    stream: TextIO, ending: str, *, info: "ClassifierInfo", kept: Sequence[str]
) -> Callable[[Prediction, Mapping[str, Any]], None]:
    """Return what writes one prediction and the columns that are carried over.

    The ending is one of `OUTPUT_FORMATS`: JSON lines, or a table with a column per label, where
    what is said of words is JSON, and so are carried lists and objects. There a carried column that
    is called like one of these is `input` and its name: no two columns may be called the same.

    Raises:
        ValueError: That name is carried over too.
    """
    if ending == ".jsonl":

        def write_line(prediction: Prediction, carried: Mapping[str, Any]) -> None:
            kept = {"input": _finite(dict(carried))} if carried else {}
            content = {"line": 0, **kept, **prediction}
            stream.write(json.dumps(content, ensure_ascii=False, default=str) + "\n")

        return write_line
    separator = "\t" if ending == ".tsv" else ","
    table = csv.writer(stream, delimiter=separator, lineterminator="\n")
    names = [f"probability {label}" for label in info.labels]
    answers = ["label"] if info.labels else ["score"] * info.is_regression
    words = ["windows", *no_tags(info)] if info.labels_sentences else [*no_tags(info)]
    if info.is_multilabel:
        answers, words = [], ["labels"]
    own = ["line", *answers, *names, *words, "error"]
    carried_as = [f"input {name}" if name in own else name for name in kept]
    for name, known in zip(kept, carried_as, strict=True):
        if known != name and known in kept:
            raise ValueError(
                f"--keep {name},{known}: both would be the column {known!r} of the table; leave "
                "one out, rename it in the input, or write .jsonl"
            )
    table.writerow([own[0], *carried_as, *own[1:]])

    def write_row(prediction: Prediction, carried: Mapping[str, Any]) -> None:
        values = [prediction[name] for name in answers]
        values += map((prediction.get("probabilities") or {}).get, info.labels)
        values += [None if said is None else _as_json(said) for said in map(prediction.get, words)]
        cells = [carried[name] for name in kept]
        cells = [_as_json(cell) if isinstance(cell, dict | list) else cell for cell in cells]
        table.writerow([prediction["line"], *cells, *values, prediction.get("error")])

    return write_row


def _as_json(value: Any) -> str:
    return json.dumps(_finite(value), ensure_ascii=False, default=str)


def _finite(value: Any) -> Any:
    """Return a value that JSON has: None for numbers that are not finite, also inside of others."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def label_name(info: "ClassifierInfo") -> str:
    """Return what a prediction calls the label of a text, or its labels."""
    return "labels" if info.is_multilabel else "label"


def no_tags(info: "ClassifierInfo") -> dict[str, None]:
    """Return what a prediction says of words or sentences without tags; empty: of neither."""
    if info.labels_sentences:
        return no_sentences(info.marks)
    return NO_ANSWER if info.tags else {}
