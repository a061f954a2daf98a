"""What is odd about the names of classes.

Invariant: nothing is changed; a label is what the file says.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence

_MISSING = {"nan", "na", "n/a", "#n/a", "<na>", "none", "null", "nil", "-", "?"}
_MOST_HINTS = 5


def label_hints(labels: Sequence[str]) -> tuple[str, ...]:
    """Return a sentence for labels that look like one label, like none, or like several.

    Args:
        labels: The classes; none for a regression.
    """
    hints = []
    for same, how in (
        (lambda label: unicodedata.normalize("NFKC", label), "look the same (Unicode forms)"),
        (_spelling, "differ in case or white space alone"),
        (_number, "are the same number"),
    ):
        hints += _alike(labels, same, how)
    hints += [
        f"the label {label!r} is what programs write for a missing value; take such rows out, if "
        "they have no label"
        for label in labels
        if label.casefold() in _MISSING
    ]
    known = set(labels)
    hints += [
        f"the label {label!r} looks like several; a text has one label here"
        for label in labels
        if len(parts := re.split(r"\s*[,;|]\s*", label)) > 1 and known & set(parts)
    ]
    return tuple(hints[:_MOST_HINTS])


def _alike(labels: Sequence[str], same: Callable[[str], str | float], how: str) -> list[str]:
    groups: dict[str | float, list[str]] = defaultdict(list)
    for label in labels:
        groups[same(label)].append(label)
    return [
        f"the labels {', '.join(map(repr, group))} {how}; they count as {len(group)} classes"
        for group in groups.values()
        if len(group) > 1
    ]


def _spelling(label: str) -> str:
    return " ".join(label.casefold().split())


def _number(label: str) -> str | float:
    try:
        return float(label)
    except ValueError:
        return label
