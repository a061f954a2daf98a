"""Documents longer than an encoder reads: windows of whole sentences that overlap.

Invariant: every sentence of a document is answered, and trained on, in exactly one window; its
neighbours there are context.
"""

from collections.abc import Sequence
from itertools import accumulate, groupby
from typing import NamedTuple

import torch

from finetune.answers import Answers
from finetune.data.encoding import TextEncoder
from finetune.tasks.spec import Row

NO_LABEL = ""
"""Tag of a sentence that is context; no label is empty."""
_OVERLAP = 4
"""A window shares about a quarter of its tokens with the next one."""


class Window(NamedTuple):
    """Which sentences of which document stand in a window, and which of them it answers."""

    row: int
    """Number of the document."""
    begin: int
    """Its first sentence."""
    end: int
    """The one behind its last sentence."""
    first: int
    """The first sentence that it answers."""
    stop: int
    """The one behind the last that it answers."""


def cut_windows(sizes: Sequence[int], room: int, *, row: int = 0) -> list[Window]:
    """Return the windows of a document, in order.

    A window holds as many whole sentences as fit; a sentence that is too long stands alone and is
    cut. The next one begins about a quarter of its tokens earlier, and what both hold is answered
    by the first up to its middle.

    Args:
        sizes: Tokens of every sentence, one or more sentences.
        room: Most tokens of a window, >= 1.
        row: Number of the document.
    """
    ends = [0, *accumulate(sizes)]
    spans = [(0, _reach(ends, 0, room))]
    while spans[-1][1] < len(sizes):
        begin, end = spans[-1]
        begin += 1
        while begin < end and (
            ends[end] - ends[begin] > room // _OVERLAP or ends[end + 1] - ends[begin] > room
        ):
            begin += 1
        spans.append((begin, _reach(ends, begin, room)))
    cuts = [0]
    for (_, end), (begin, _) in zip(spans, spans[1:], strict=False):
        cuts.append(max(cuts[-1] + 1, (begin + end + 1) // 2))
    stops = [*cuts[1:], len(sizes)]
    return [
        Window(row, *span, *own)
        for span, own in zip(spans, zip(cuts, stops, strict=True), strict=True)
    ]


def _reach(ends: Sequence[int], begin: int, room: int) -> int:
    """Return where a window that begins at a sentence ends: behind one sentence or more."""
    end = begin + 1
    while end + 1 < len(ends) and ends[end + 1] - ends[begin] <= room:
        end += 1
    return end


def in_windows(rows: Sequence[Row], encoder: TextEncoder) -> tuple[list[Row], list[Window]]:
    """Return documents as rows that the encoder reads whole, and what these are.

    Labels stand where a row is asked for them, `NO_LABEL` at its context.
    """
    made, windows = [], []
    for number, row in enumerate(rows):
        assert row.tagged is not None
        text = row.tagged
        found = cut_windows(encoder.sizes(text.words), encoder.room, row=number)
        windows += found
        for window in found:
            part = slice(window.begin, window.end)
            tags = text.tags and tuple(
                tag if window.first <= place < window.stop else NO_LABEL
                for place, tag in enumerate(text.tags[part], window.begin)
            )
            own = text._replace(words=text.words[part], tags=tags, offsets=text.offsets[part])
            made.append(row._replace(text=" ".join(own.words), tagged=own))
    return made, windows


def joined(answers: Answers, windows: Sequence[Window]) -> Answers:
    """Return the answers for documents from those for their windows, which are in order.

    Args:
        answers: For every window, in order.
        windows: All windows of some documents.
    """
    tags: list[list[int]] = []
    margins: list[list[float]] = []
    losses = []
    for _, group in groupby(enumerate(windows), lambda pair: pair[1].row):
        own = list(group)
        asked = [(place, w.first - w.begin, w.stop - w.begin) for place, w in own]
        tags.append([tag for place, a, b in asked for tag in answers.tags[place][a:b]])
        if answers.margins:
            margins.append([one for place, a, b in asked for one in answers.margins[place][a:b]])
        losses.append(answers.tag_losses[[place for place, _ in own]].sum(0))
    return Answers(
        torch.arange(len(tags)),
        answers.outputs.new_empty(len(tags), 0),
        answers.targets.new_zeros(len(tags)),
        torch.stack(losses),
        tags,
        margins,
    )
