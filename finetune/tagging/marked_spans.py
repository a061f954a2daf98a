"""Spans of characters in a JSONL row of tagged texts, as annotation tools write them.

Invariant: a span gives its words tags, is a counted repair, or is an error with its place.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

CUT_SPANS = "spans whose border lies inside a word; the whole word is taken"
NO_WORD = "spans left out: they hold no word"
OVERLAPS = "spans left out: they share a word with a longer span, or an earlier one as long"
_SPANS = ("entities", "spans", "label")


class Marked(NamedTuple):
    """Characters [start, end) of a text that are one thing of a kind."""

    start: int
    end: int
    label: str


def marked_spans(place: str, values: Mapping[str, Any]) -> list[Marked] | None:
    """Return the spans of a row; None: it has no `text`, or no list of them.

    They are a list under `entities`, `spans` or `label`, each `[start, end, label]` or an object
    with these keys (or `start_offset`, `end_offset`).

    Raises:
        ValueError: A span is none, lies outside the text or has no label, or two keys have some.
    """
    if not has_spans(values):
        return None
    text = values["text"]
    lists = {key: values[key] for key in _SPANS if isinstance(values.get(key), list)}
    filled = [key for key, spans in lists.items() if spans]
    if len(filled) > 1:
        raise ValueError(f"{place}: {' and '.join(filled)} both hold spans; keep one of them")
    return [_marked(f"{place}: {key}", span, len(text)) for key in filled for span in lists[key]]


def has_spans(values: Mapping[str, Any]) -> bool:
    """Return whether a row has a text and a list of its spans, right or not."""
    is_text = isinstance(values.get("text"), str)
    return is_text and any(isinstance(values.get(key), list) for key in _SPANS)


def span_tags(
    spans: Sequence[Marked], offsets: Sequence[tuple[int, int]], repairs: Counter[str]
) -> list[str]:
    """Return BIO tags of words; of spans that share a word the longest is kept.

    Args:
        spans: Of the words' text.
        offsets: Characters [start, end) of every word.
        repairs: Counts the spans that were widened or left out.
    """
    tags = ["O"] * len(offsets)
    for start, end, label in sorted(spans, key=lambda span: (span.start - span.end, span.start)):
        inside = [place for place, (a, b) in enumerate(offsets) if max(a, start) < min(b, end)]
        if not inside:
            repairs[NO_WORD] += 1
            continue
        if any(tags[number] != "O" for number in inside):
            repairs[OVERLAPS] += 1
            continue
        if offsets[inside[0]][0] < start or offsets[inside[-1]][1] > end:
            repairs[CUT_SPANS] += 1
        for number in inside:
            tags[number] = f"{'B' if number == inside[0] else 'I'}-{label}"
    return tags


def _marked(place: str, span: object, length: int) -> Marked:
    parts: list[Any] = list(span) if isinstance(span, list) else []
    if isinstance(span, dict):
        start, end = (span.get(key, span.get(f"{key}_offset")) for key in ("start", "end"))
        parts = [start, end, span.get("label")]
    if len(parts) == 3 and type(parts[0]) is type(parts[1]) is int and isinstance(parts[2], str):
        found = Marked(parts[0], parts[1], parts[2].strip())
        if 0 <= found.start <= found.end <= length and found.label:
            return found
    raise ValueError(
        f"{place} holds {span!r:.120}; [start, end, label] or an object with these keys is needed: "
        f"characters of the text with 0 <= start <= end <= {length}, and a name"
    )
