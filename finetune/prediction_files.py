"""Predictions as JSON lines, or as a table with one column per label.

Invariant: every row is written when it is known; the columns of a table never change.
"""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

OUTPUT_FORMATS = (".jsonl", ".csv", ".tsv")


class PredictionFile:
    """Writes predictions in the format that the name asks for.

    Args:
        stream: Open for text, with newline="".
        path: Its name ends in one of `OUTPUT_FORMATS`.
        labels: The classes; none for a regression.
        kept: Columns of the input that are carried over.
    """

    def __init__(
        self, stream: TextIO, path: Path, *, labels: Sequence[str], kept: Sequence[str]
    ) -> None:
        self._stream, self._labels, self._kept = stream, labels, kept
        self._is_table = path.suffix.lower() != ".jsonl"
        if self._is_table:
            separator = "\t" if path.suffix.lower() == ".tsv" else ","
            self._writer = csv.writer(stream, delimiter=separator, lineterminator="\n")
            answers = ["label", *(f"probability {label}" for label in labels)]
            self._writer.writerow(["line", *kept, *(answers if labels else ["score"]), "error"])

    def write(self, prediction: dict[str, Any], kept: dict[str, Any]) -> None:
        """Write one row.

        Args:
            prediction: What `Predictor.stream` yields.
            kept: Column -> value of the input.
        """
        if not self._is_table:
            content = {"line": prediction["line"], **({"input": kept} if kept else {})}
            text = json.dumps({**content, **prediction}, ensure_ascii=False)
            self._stream.write(text + "\n")
            return
        if self._labels:
            shares = prediction["probabilities"] or {}
            answers = [prediction["label"], *(shares.get(label) for label in self._labels)]
        else:
            answers = [prediction["score"]]
        carried = [kept[name] for name in self._kept]
        self._writer.writerow([prediction["line"], *carried, *answers, prediction.get("error")])
