"""Scores of borders between the segments of a document. n sentences of a document.

Invariant: a border lies before a sentence other than the first; where a document begins or ends is
no border, whatever its labels say.
"""

from collections.abc import Sequence
from statistics import fmean

from finetune.tasks.spec import Marks

HAS_BORDERS: tuple[Marks, ...] = ("begins", "ends", "sections")
"""Marks that say where a segment begins or ends."""
Borders = list[int]
"""Numbers of the sentences, from 1 to n - 1, that begin a new segment, growing."""


def borders_of(labels: Sequence[str], marks: Marks, positive: str) -> Borders:
    """Return the borders that labels of sentences say.

    Args:
        labels: Of the sentences of one document.
        marks: begins: a positive sentence is the first of its segment; ends: the last; sections: a
            border lies wherever the label changes; else there are none.
        positive: The label that marks, of begins and ends.
    """
    places = range(1, len(labels))
    if marks == "begins":
        return [place for place in places if labels[place] == positive]
    if marks == "ends":
        return [place for place in places if labels[place - 1] == positive]
    if marks == "sections":
        return [place for place in places if labels[place] != labels[place - 1]]
    return []


def window_size(borders: Sequence[int], num_sentences: int) -> int:
    """Return k: half the mean length of the reference's segments, rounded; 2 to n - 1.

    Source: Beeferman et al. (Machine Learning 34, 1999); the least of 2 keeps both measures apart.
    """
    half = num_sentences / (len(borders) + 1) / 2
    return min(max(2, int(half + 0.5)), max(1, num_sentences - 1))


def pk(gold: Sequence[int], found: Sequence[int], num_sentences: int) -> float:
    """Return Pk, the share of wrong answers to one question; 0 is best.

    It is asked of every two sentences k apart: do they lie in one segment?

    Args:
        gold: Borders of the reference, which decides k (`window_size`).
        found: Borders that were found.
        num_sentences: n >= 2.

    Source: Beeferman et al. (1999).
    """
    k = window_size(gold, num_sentences)
    pairs = _between(gold, found, num_sentences, k)
    return fmean((one > 0) != (other > 0) for one, other in pairs)


def window_diff(gold: Sequence[int], found: Sequence[int], num_sentences: int) -> float:
    """Return WindowDiff: the share of windows of k sentences with another number of borders.

    Arguments as of `pk`. Source: Pevzner and Hearst (Computational Linguistics 28, 2002).
    """
    k = window_size(gold, num_sentences)
    return fmean(one != other for one, other in _between(gold, found, num_sentences, k))


def _between(
    gold: Sequence[int], found: Sequence[int], num_sentences: int, k: int
) -> list[tuple[int, int]]:
    """Return how many borders lie between sentence i and i + k, in both, for every i."""
    counts = []
    for borders in (gold, found):
        before = [0] * num_sentences
        for border in borders:
            before[border] = 1
        for place in range(1, num_sentences):
            before[place] += before[place - 1]
        counts.append([before[i + k] - before[i] for i in range(num_sentences - k)])
    return list(zip(*counts, strict=True))


def border_scores(
    gold: Sequence[Borders], found: Sequence[Borders], sizes: Sequence[int]
) -> dict[str, float]:
    """Return how well the borders of some documents were found.

    `border_precision`, `border_recall` and `border_f1` are over all documents together, `pk` and
    `windowdiff` are means over the documents of two sentences or more. Without any border, in gold
    and found, the first three are 1; without such a document the last two are 0.

    Args:
        gold: Of every document.
        found: Likewise.
        sizes: Sentences of every document.
    """
    pairs = list(zip(gold, found, sizes, strict=True))
    hits = sum(len(set(one) & set(other)) for one, other, _ in pairs)
    wanted, said = sum(map(len, gold)), sum(map(len, found))
    long = [pair for pair in pairs if pair[2] > 1]
    return {
        "border_precision": hits / said if said else float(not wanted),
        "border_recall": hits / wanted if wanted else float(not said),
        "border_f1": 2 * hits / (wanted + said) if wanted + said else 1.0,
        "pk": fmean(pk(*pair) for pair in long) if long else 0.0,
        "windowdiff": fmean(window_diff(*pair) for pair in long) if long else 0.0,
    }
