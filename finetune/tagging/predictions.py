"""New texts for a model that tags words, and what a prediction says of their words.

Invariant: a span's characters are those of the text as it was given, white space included.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.tagging.files import has_tagged_layout, split_words, tagged
from finetune.tagging.marked_spans import has_spans
from finetune.tagging.own_rows import WORD_LISTS, has_tags, words_of
from finetune.tagging.scores import spans_of
from finetune.tagging.tasks import tagged_rows
from finetune.tasks.rows import row_texts
from finetune.tasks.spec import Columns, Row, TaggedText

WORDS = "words"
"""Column of a JSONL file that holds a text as a list of words."""
NO_ANSWER: dict[str, None] = {WORDS: None, "tags": None, "spans": None}
"""What a prediction says of words that have no tags."""


def read_texts(path: str | Path) -> tuple[Row, ...] | None:
    """Return the rows of a file or folder of tagged texts; None: it is a table with columns."""
    place = Path(path).expanduser()
    return tagged_rows([place]).rows if has_tagged_layout(place) else None


def row_of_words(columns: Columns, line: int, values: Mapping[str, Any]) -> Row:
    """Return a row of a table as words: its list `words` or `tokens`, else the words of its text.

    Words whose row has a text too are looked for in it, one after the other; without a text they
    are joined by spaces.

    Raises:
        ValueError: An empty text, or words that are none; the message names no place.
    """
    words = words_of(values)
    if words is None and WORDS in values:
        raise ValueError(f"{WORDS!r} is {values[WORDS]!r:.60}; a list of strings is needed")
    if words is None:
        row_texts(columns, values, "")
        return with_words(Row(line, str(line), values[columns.text], "", None))
    text = tagged(f"{WORDS!r}", line, str(line), words, None, None)
    if columns.text in values:
        row_texts(columns, values, "")
        text = _found_in(text, values[columns.text])
    return Row(line, text.id, text.text, "", None, text)


def row_of_text(columns: Columns, line: int, values: Mapping[str, Any]) -> Row:
    """Return a row of a table as a text alone, as training on labels of tagged texts reads it.

    Words are joined by spaces, also beside a text, unless that one has spans and they no tags.

    Raises:
        ValueError: See `row_of_words`.
    """
    if columns.text in values:
        reads_words = words_of(values) is not None and (has_tags(values) or not has_spans(values))
        left_out = (columns.text,) if reads_words else WORD_LISTS
        values = {name: value for name, value in values.items() if name not in left_out}
    return row_of_words(columns, line, values)._replace(tagged=None)


def with_words(row: Row) -> Row:
    """Return a row whose text is split into words, if it is not yet.

    Raises:
        ValueError: There are none; the message names no place.
    """
    if row.tagged is not None:
        return row
    found = split_words(row.text)
    if not found:
        raise ValueError("a text without a word; take the row out")
    words, offsets = zip(*found, strict=True)
    return row._replace(tagged=TaggedText(row.line, row.id, words, None, None, row.text, offsets))


def _found_in(words: TaggedText, text: str) -> TaggedText:
    offsets, end = [], 0
    for word in words.words:
        start = text.find(word, end)
        if start < 0:
            raise ValueError(f"the word {word!r} does not stand in the rest of the text")
        end = start + len(word)
        offsets.append((start, end))
    return words._replace(text=text, offsets=tuple(offsets))


def tag_answer(text: TaggedText, tags: Sequence[str]) -> dict[str, Any]:
    """Return `words`, `tags` and `spans`: kind, characters [start, end) and their text.

    Args:
        text: The words.
        tags: BIO tags of the first words; the others were cut off, and their tag is None.
    """
    spans = []
    for kind, first, end in spans_of(tags):
        start, stop = text.offsets[first][0], text.offsets[end - 1][1]
        characters = text.text[start:stop]
        spans.append({"kind": kind, "start": start, "end": stop, "text": characters})
    missing = [None] * (len(text.words) - len(tags))
    return {WORDS: list(text.words), "tags": [*tags, *missing], "spans": spans}


def num_cut(answer: Mapping[str, Any]) -> int:
    """Return how many words of a prediction were cut off."""
    return sum(tag is None for tag in answer.get("tags") or ())
