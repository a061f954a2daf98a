"""What counted words say of the sentences of documents: a linear model, and dips between blocks.

Invariant: models see training documents alone; what they are cut at is chosen by the caller, on
validation.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from finetune.baselines.models import FEW_TEXTS, TOKEN_PATTERN, extra

Document = Sequence[str]
BLOCKS = (1, 2, 3, 5, 8)
"""Sentences of a block that are tried."""
_FIELDS = (-1, 0, 1)
_WORD = re.compile(TOKEN_PATTERN)


class Said(NamedTuple):
    """What a model says of the sentences of some documents."""

    labels: list[list[str]]
    """The likeliest of each, in the order of the documents; empty: it gives margins alone."""
    margins: list[list[float]]
    """How much speaks for the second of two labels; empty: there are others."""
    num_features: int
    """Different things that it counts."""
    num_weights: int
    """Numbers that were fitted."""


def linear_labels(
    train: Sequence[Document], labels: Sequence[Sequence[str]], documents: Sequence[Document],
    *, positive: str = "",
) -> Said:  # fmt: skip
    """Return labels by linear support vectors over the words of a sentence and its two neighbours.

    A word of the sentence itself, of the one before and of the one behind are three features,
    weighted as `TF-IDF`.

    Args:
        train: Training documents.
        labels: Of their sentences.
        documents: What to label.
        positive: Of two labels the one that margins speak for; empty: there are more.

    Raises:
        ValueError: scikit-learn is not installed.
    """
    with extra("scikit-learn"):
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.svm import LinearSVC
    rows = [row for document in train for row in _with_neighbours(document)]
    counts = TfidfVectorizer(
        analyzer=_tokens, min_df=2 if len(rows) >= FEW_TEXTS else 1, sublinear_tf=True
    )
    model = LinearSVC(C=1.0, random_state=0)
    flat = [label for one in labels for label in one]
    model.fit(
        counts.fit_transform(rows), [label == positive for label in flat] if positive else flat
    )
    asked = counts.transform([row for document in documents for row in _with_neighbours(document)])
    sizes = [len(document) for document in documents]
    num_weights = int(np.size(model.coef_) + np.size(model.intercept_))
    if positive:
        margins = _parted(model.decision_function(asked).tolist(), sizes)
        return Said([], margins, len(counts.vocabulary_), num_weights)
    found = _parted([str(label) for label in model.predict(asked)], sizes)
    return Said(found, [], len(counts.vocabulary_), num_weights)


def dips(
    train: Sequence[Document], documents: Sequence[Document], *, block: int, begins: bool
) -> Said:
    """Return for every sentence how deep similarity dips at its border, in [0, 2].

    The words of `block` sentences before and behind a border are compared by the cosine of their
    TF-IDF vectors; the depth of a dip is how far the similarity rises to the nearest peak on
    either side, both together. No label is looked at.

    Args:
        train: Documents whose sentences say how rare a word is.
        documents: What to look at.
        block: Sentences, >= 1.
        begins: The border is that before a sentence; False: that behind it.

    Raises:
        ValueError: scikit-learn is not installed.

    Source: TextTiling (Hearst, Computational Linguistics 23, 1997), with sentences as its units
    and TF-IDF for counts.
    """
    with extra("scikit-learn"):
        from sklearn.feature_extraction.text import TfidfVectorizer
    counts = TfidfVectorizer(token_pattern=TOKEN_PATTERN, sublinear_tf=True)
    counts.fit([sentence for document in train for sentence in document])
    margins = []
    for document in documents:
        depths = _depths(_similarities(counts.transform(document), block))
        margins.append([0.0, *depths] if begins else [*depths, 0.0])
    return Said([], margins, len(counts.vocabulary_), len(counts.vocabulary_))


def _similarities(rows: Any, block: int) -> list[float]:
    """Return the cosine of the blocks before and behind every border of a document."""
    similarities = []
    for border in range(1, rows.shape[0]):
        before = np.asarray(rows[max(0, border - block) : border].sum(0)).ravel()
        behind = np.asarray(rows[border : border + block].sum(0)).ravel()
        norm = float(np.linalg.norm(before) * np.linalg.norm(behind))
        similarities.append(float(before @ behind) / norm if norm else 0.0)
    return similarities


def _depths(similarities: Sequence[float]) -> list[float]:
    return [
        _peak(similarities[place::-1]) + _peak(similarities[place:]) - 2 * here
        for place, here in enumerate(similarities)
    ]


def _peak(values: Sequence[float]) -> float:
    """Return the value from which a sequence that grows first falls."""
    peak = values[0]
    for value in values[1:]:
        if value < peak:
            break
        peak = value
    return peak


def _with_neighbours(document: Document) -> Iterator[tuple[str, str, str]]:
    padded = ["", *document, ""]
    return zip(padded, padded[1:], padded[2:], strict=False)


def _tokens(row: tuple[str, str, str]) -> Iterator[str]:
    for field, text in zip(_FIELDS, row, strict=True):
        yield from (f"{field} {word}" for word in _WORD.findall(text.lower()))


def _parted(values: list[Any], sizes: Sequence[int]) -> list[list[Any]]:
    """Return a flat list cut into parts of the given sizes."""
    ends = np.cumsum([0, *sizes]).tolist()
    return [values[begin:end] for begin, end in zip(ends, ends[1:], strict=False)]
