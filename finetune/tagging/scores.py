"""Scores of tagged texts: exact matches, spans, words. Tags are BIO (`O`, `B-name`, `I-name`).

Invariant: a text that was not predicted whole, or a tag that training never saw, is an error and
is never left out.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Parse(NamedTuple):
    """What is said of one text, by the gold standard or by a model."""

    tags: tuple[str, ...]
    """One for every word."""
    label: str | None
    """Label of the whole text (its intent); None: the task has none."""


class Span(NamedTuple):
    """Words [start, end) that are one thing of a kind."""

    kind: str
    start: int
    end: int


def spans_of(tags: Sequence[str]) -> list[Span]:
    """Return the spans of BIO tags by the rules of conlleval.

    A span begins at B, and at an I that follows O or another kind; it ends before the next of
    these and before O.

    Raises:
        ValueError: A tag is neither O nor begins with B- or I-.
    """
    spans: list[Span] = []
    kind, start = "", 0
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-")
        if tag != "O" and (prefix not in ("B", "I") or not name):
            raise ValueError(f"tag {tag!r} of word {place} given; O, B-name or I-name is needed")
        goes_on = prefix == "I" and name == kind
        if kind and not goes_on:
            spans.append(Span(kind, start, place))
        if not goes_on:
            kind, start = name, place
    return spans


def tag_scores(gold: Sequence[Parse], predicted: Sequence[Parse]) -> dict[str, float]:
    """Return the scores of some texts as fractions.

    `slot_em`: all tags right. `token_accuracy`: share of the words with a gold tag other than O
    that are tagged right (what the public pNLP-Mixer code calls its score). `span_precision`,
    `span_recall`, `span_f1`: spans with both edges and kind right, over all texts together
    (conlleval). With labels also `intent_accuracy` and `frame_em`, label and all tags right, and
    where gold labels join several by `#`: `intent_first` compares the first of each,
    `intent_any` asks whether the first predicted is among the gold ones.

    Args:
        gold: What is right; a text without words counts by its label alone.
        predicted: For the same texts; fewer tags than words are errors at the words that lack one.

    Raises:
        ValueError: No texts, another number of predictions, or more tags than words.
    """
    if not gold or len(gold) != len(predicted):
        raise ValueError(f"{len(predicted)} predictions for {len(gold)} texts given")
    pairs = [(one.tags, _padded(one, other)) for one, other in zip(gold, predicted, strict=True)]
    exact = [tags == found for tags, found in pairs]
    scores = {"slot_em": _share(exact), "token_accuracy": _token_accuracy(pairs)}
    scores |= _span_scores(pairs)
    if gold[0].label is None:
        return scores
    labels = [
        (one.label or "", other.label or "") for one, other in zip(gold, predicted, strict=True)
    ]
    right = [wanted == found for wanted, found in labels]
    scores["intent_accuracy"] = _share(right)
    scores["frame_em"] = _share([both and tags for both, tags in zip(right, exact, strict=True)])
    if any("#" in wanted for wanted, _ in labels):
        parts = [(wanted.split("#"), found.split("#")[0]) for wanted, found in labels]
        scores["intent_first"] = _share([wanted[0] == found for wanted, found in parts])
        scores["intent_any"] = _share([found in wanted for wanted, found in parts])
    return scores


def _padded(gold: Parse, predicted: Parse) -> tuple[str, ...]:
    missing = len(gold.tags) - len(predicted.tags)
    if missing < 0:
        raise ValueError(
            f"{len(predicted.tags)} tags predicted for a text of {len(gold.tags)} words"
        )
    return (*predicted.tags, *[""] * missing)


def _share(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits)


def _token_accuracy(pairs: Sequence[tuple[tuple[str, ...], tuple[str, ...]]]) -> float:
    """1 where no word has a tag: nothing was missed."""
    words = [word for tags, other in pairs for word in zip(tags, other, strict=True)]
    hits = [wanted == found for wanted, found in words if wanted != "O"]
    return _share(hits) if hits else 1.0


def _span_scores(pairs: Sequence[tuple[tuple[str, ...], tuple[str, ...]]]) -> dict[str, float]:
    wanted = _numbered(tags for tags, _ in pairs)
    found = _numbered(tuple(tag or "O" for tag in tags) for _, tags in pairs)
    hits = len(wanted & found)
    precision = hits / len(found) if found else float(not wanted)
    recall = hits / len(wanted) if wanted else float(not found)
    total = len(wanted) + len(found)
    f1 = 2 * hits / total if total else 1.0
    return {"span_precision": precision, "span_recall": recall, "span_f1": f1}


def _numbered(texts: Iterable[tuple[str, ...]]) -> set[tuple[int, Span]]:
    return {(number, span) for number, tags in enumerate(texts) for span in spans_of(tags)}
