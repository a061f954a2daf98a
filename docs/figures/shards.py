"""The three files of a split, on a corpus of two documents and three sentences."""

from itertools import accumulate

from drawing import AMBER, BLUE, GREEN, MUTED, SOFT, Drawing

DOCUMENTS = ((("the", "cat", "sat", "."), ("it", "purred", ".")), (("dogs", "bark", "too", "."),))
CELL, LEFT = 53, 28


def offsets() -> tuple[list[int], list[int]]:
    """Return the sentence offsets (in tokens) and the document offsets (in sentences)."""
    sentence_lens = [len(sentence) for document in DOCUMENTS for sentence in document]
    document_lens = [len(document) for document in DOCUMENTS]
    return [0, *accumulate(sentence_lens)], [0, *accumulate(document_lens)]


def shards() -> Drawing:
    """Draw tokens with the two levels of offsets over them."""
    picture = Drawing(640, 336, "Tokens, sentence offsets and document offsets of a shard split")
    sentence_offsets, document_offsets = offsets()
    words = [word for document in DOCUMENTS for sentence in document for word in sentence]
    picture.text(LEFT, 36, "document_offsets.bin", size=16, anchor="start", bold=True, colour=GREEN)
    picture.text(612, 36, str(document_offsets), size=16, anchor="end", mono=True)
    for number, (first, last) in enumerate(
        zip(document_offsets, document_offsets[1:], strict=False)
    ):
        start, end = sentence_offsets[first], sentence_offsets[last]
        _span(picture, (start, end), 52, f"document {number}", GREEN)
    picture.text(
        LEFT, 130, "sentence_offsets.bin", size=16, anchor="start", bold=True, colour=AMBER
    )
    picture.text(612, 130, str(sentence_offsets), size=16, anchor="end", mono=True)
    for number, (start, end) in enumerate(
        zip(sentence_offsets, sentence_offsets[1:], strict=False)
    ):
        _span(picture, (start, end), 146, f"sentence {number}", AMBER)
    picture.text(LEFT, 224, "tokens.bin", size=16, anchor="start", bold=True, colour=BLUE)
    picture.text(
        612,
        224,
        "ids of two bytes each; four above 65,535 entries",
        size=15,
        anchor="end",
        colour=MUTED,
    )
    for number, word in enumerate(words):
        x = LEFT + CELL * number
        picture.box(x, 240, CELL - 5, 40, fill=SOFT[BLUE], line=BLUE)
        picture.text(x + (CELL - 5) / 2, 265, word, size=14)
        picture.text(x + (CELL - 5) / 2, 304, str(number), size=14, colour=MUTED, mono=True)
    return picture


def _span(picture: Drawing, tokens: tuple[int, int], y: float, words: str, colour: str) -> None:
    """A bar over the tokens from the first to before the last place."""
    start, end = tokens
    x, width = LEFT + CELL * start, CELL * (end - start) - 5
    picture.box(x, y, width, 36, fill=SOFT[colour], line=colour)
    picture.text(x + width / 2, y + 24, words, size=15)
