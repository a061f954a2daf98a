"""Rows to predict, as a stream, from a user's own file.

Invariant: a row that cannot be labelled costs nothing but itself.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.table_rows import file_lines, named_ending, place_of, reached, read_table
from finetune.sentences.tasks import row_of_sentences
from finetune.tagging.files import has_lines, has_plain_texts
from finetune.tagging.predictions import read_texts, row_of_text, row_of_words
from finetune.tasks.rows import (
    EMPTY_ROWS,
    column_value,
    is_empty_row,
    name_it,
    row_texts,
    with_whole_texts,
)
from finetune.tasks.spec import Columns, Row, Unit

PLAIN = "lines of the .txt were read as a text each; name a file of words with tags .conll"
TAGGED = "texts of the .txt were read as words with tags: CoNLL columns or another known layout"


def check_input(given: str, *, text: str, text_pair: str) -> None:
    """Refuse an input that cannot be read twice, and columns that are named for a .txt file.

    Args:
        given: `--input`.
        text: `--text`.
        text_pair: `--text_pair`.
    """
    path = Path(given).expanduser()
    is_stream = path.exists() and not (path.is_file() or path.is_dir())
    if is_stream or given in ("-", "/dev/stdin"):
        raise ValueError(
            f"--input {given} is a stream, but the input is read twice, first to check it: write "
            "it to a file and name that"
        )
    for option, name in (("text", text), ("text_pair", text_pair)):
        if name and has_lines(path):
            raise ValueError(
                f"--{option} {name} would do nothing: {given} holds a text in every line; columns "
                "are in .jsonl, .csv, .tsv and .parquet files"
            )


class BadRow(NamedTuple):
    """A row of the input that cannot be labelled."""

    line: int
    reason: str


class InputRow(NamedTuple):
    """A row of the input, with the columns that are carried over."""

    row: Row | BadRow
    kept: dict[str, Any]
    """None where the row has no such column."""


class _KeptColumns:
    """The columns to keep of one row after the other, and which of them no row has had yet.

    Rows below a header all have its columns, so the first one tells; of others all do together.
    """

    def __init__(self, path: str, names: Sequence[str]) -> None:
        self._path, self._names, self._missing = path, names, list(names)
        self._has_header = named_ending(Path(path)) != ".jsonl"
        self._shown = ""

    def of(self, line: int, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return name -> value, None where the row has none."""
        if self._missing:
            self._missing = [n for n in self._missing if reached(values, n, missing=self) is self]
            for name in self._missing if self._has_header else ():
                if name.partition(".")[0] not in values:
                    column_value(values, name, place_of(self._path, line), name_it("keep"))
            self._shown = self._shown or ", ".join(repr(column[:60]) for column in values)
        return {name: reached(values, name) for name in self._names}

    def check(self) -> None:
        """Refuse a column that no row had."""
        if self._missing and self._shown:
            raise ValueError(
                f"{self._path}: no row has a column {self._missing[0]!r}; the first one has "
                f"{self._shown}. {name_it('keep')}"
            )


@dataclass(frozen=True)
class InputReader:
    """Where new rows come from."""

    path: str
    """The file, or a folder of tagged texts; a .txt file holds a text in every line."""
    columns: Columns
    """Of a table."""
    kept: Sequence[str] = ()
    """Columns that are carried over; a row may lack them, but not every row."""
    tags: Sequence[str] = ()
    """The model's, where the rows are texts as words or as sentences."""
    unit: Unit = "word"
    """Which of both."""
    has_words: bool = False
    """Whether the model was trained on texts of words with tags; without `tags` it answers the
    texts alone."""
    language: str = "en"
    """By whose rules a raw text is cut into sentences."""

    def rows(self, notes: Counter[str] | None = None) -> Iterator[InputRow]:
        """Yield the rows in order, those that cannot be labelled as `BadRow`.

        Args:
            notes: As for `read_table`, with the empty rows that are left out; and as what the texts
                of a .txt were read where they may be words with tags.

        Raises:
            ValueError: The file cannot be read to its end, or has no such columns to keep.
        """
        path = Path(self.path).expanduser()
        has_words = self.has_words or (bool(self.tags) and self.unit == "word")
        is_plain = has_plain_texts(path, self.tags) if has_words else has_lines(path)
        texts = read_texts(path) if has_words and not is_plain else None
        if not is_plain and texts is None:
            yield from self._table(notes)
        elif self.kept:
            raise ValueError(f"{self.path} has no columns to keep; leave out --keep")
        elif texts is None:
            for row in self._lines(path):
                if has_words and notes is not None:
                    notes[PLAIN] += 1
                yield row
        else:
            if has_lines(path) and notes is not None:
                notes[TAGGED] += len(texts)
            for text in texts:
                yield InputRow(text if self.tags else text._replace(tagged=None), {})

    def _lines(self, path: Path) -> Iterator[InputRow]:
        for line, text in file_lines(path):
            try:
                row = self._row(line, {self.columns.text: text.rstrip("\r\n")})
                yield InputRow(row, {})
            except ValueError as error:
                yield InputRow(BadRow(line, str(error).removeprefix(": ")), {})

    def _table(self, notes: Counter[str] | None) -> Iterator[InputRow]:
        bad: list[InputRow] = []
        none = dict.fromkeys(self.kept)
        counts = Counter[str]() if notes is None else notes
        columns = _KeptColumns(self.path, self.kept)
        table = read_table(
            self.path,
            is_own=True,
            notes=notes,
            bad=lambda line, why: bad.append(InputRow(BadRow(line, why), none)),
        )
        for line, values in table:
            yield from bad
            bad.clear()
            if len(values) > 1 and is_empty_row(values):  # one alone is a text that is empty
                counts[EMPTY_ROWS] += 1
                continue
            carried = columns.of(line, values)
            try:
                texts = with_whole_texts(self.columns, values, counts)
                yield InputRow(self._row(line, texts), carried)
            except ValueError as error:
                yield InputRow(BadRow(line, str(error).removeprefix(": ")), carried)
        yield from bad
        columns.check()

    def _row(self, line: int, values: Mapping[str, Any]) -> Row:
        if self.tags and self.unit == "sentence":
            return row_of_sentences(self.columns, line, values, language=self.language)
        if self.tags:
            return row_of_words(self.columns, line, values)
        if self.has_words:
            return row_of_text(self.columns, line, values)
        return Row(line, str(line), *row_texts(self.columns, values, ""), None)
