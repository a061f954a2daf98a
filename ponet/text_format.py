"""Texts to the input of an encoder, in the format of pretraining: [CLS], sentences, [SEP].

[CLS], every sentence (or what else pretraining took) and [SEP] are one pooling segment each. A text
that does not fit becomes several windows, each with its own [CLS] and [SEP], cut between sentences
where that is possible.
Invariant: the windows of a text hold each of its tokens once and in order, unless it is cut; the
sentences are those of data preparation, with headings kept.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from data_prep.config import SentencesConfig
from data_prep.manifest import SPECIAL_ROLES, continuations
from data_prep.sentences import split_sentences
from data_prep.words import in_running_text, space_between
from ponet.batch import EncoderBatch
from ponet.config import EncoderConfig
from ponet.projection import PieceWords
from ponet.tokenizer import load_tokenizer

MASK = "[MASK]"
LongTexts = Literal["windows", "tile", "cut"]
_NUM_DELIMITERS = 2
_SENTENCES = {"rule": "sentence"}
_BLANK_LINE = re.compile(r"\n\s*\n")
_SURROGATE = re.compile("[\ud800-\udfff]")


def sentences_of(text: str, *, language: str = "en") -> list[str]:
    """Return the sentences of a text in order; nothing but white space is lost.

    Args:
        text: Paragraphs are parted by blank lines; other line breaks count as spaces. A lone
            surrogate, which is half a character, counts as U+FFFD.
        language: Language code; one that is not known is cut by the rules of English.
    """
    parts = _BLANK_LINE.split(_SURROGATE.sub("\ufffd", text))
    paragraphs = [" ".join(part.split()) for part in parts if part.strip()]
    try:
        config = SentencesConfig(language=language)
    except ValueError:
        config = SentencesConfig()
    return split_sentences("\n\n".join(paragraphs), config, Counter()) if paragraphs else []


class Window(NamedTuple):
    """One row of input."""

    text: int
    """Number of the text in the sequence that was given."""
    ids: list[int]
    """Token ids with [CLS] and [SEP]."""
    segments: list[int]
    """Pooling segment of each token, from 0."""


class TextFormat:
    """A tokenizer, and how its tokens are laid out.

    Args:
        tokenizer_json: File of the tokenizers library.
        language: Language code of sentencex.
        segments: `rule` of pretraining: "sentence" (also where nothing is said), "text" = all of a
            row between [CLS] and [SEP] is one, or "fixed" = every `tokens_per_segment` tokens.
    """

    def __init__(
        self,
        tokenizer_json: Path,
        *,
        language: str = "en",
        segments: Mapping[str, Any] = _SENTENCES,
    ) -> None:
        """Load the tokenizer; it must have [CLS] and [SEP]."""
        self._path = tokenizer_json
        self._tokenizer = load_tokenizer(tokenizer_json)
        self._space = space_between(self._tokenizer)
        self._language, self._segments = language, {**_SENTENCES, **segments}
        self._cls, self._sep = (self.token_id(token) for token in ("[CLS]", "[SEP]"))

    def token_id(self, token: str) -> int:
        """Return the id of a special token, which the tokenizer must have."""
        number: int | None = self._tokenizer.token_to_id(token)
        if number is None:
            raise ValueError(f"the tokenizer has no {token}; import or train one that has it")
        return number

    def word(self, token_id: int) -> str:
        """Return the token of an id; a number in <> where the tokenizer is the smaller one."""
        token: str | None = self._tokenizer.id_to_token(token_id)
        return f"<{token_id}>" if token is None else token

    def unknown_id(self) -> int | None:
        """Return the id of what stands for text that the tokenizer lacks, if it has one."""
        numbers = map(self._tokenizer.token_to_id, SPECIAL_ROLES["unk_token"])
        return next((number for number in numbers if number is not None), None)

    def continuations(self) -> set[int]:
        """Return the ids of the pieces that continue a word; see `data_prep.manifest`.

        Raises:
            ValueError: If the tokenizer does not say where words begin.
        """
        return continuations(self._path)

    def words(self, config: EncoderConfig) -> PieceWords | None:
        """Return what makes batches of whole words, for an encoder of hashed words."""
        return PieceWords(self._tokenizer, config) if config.projection is not None else None

    def windows(
        self,
        texts: Sequence[str],
        *,
        max_len: int,
        long_texts: LongTexts = "windows",
        has_masks: bool = False,
    ) -> list[Window]:
        """Return the rows of some texts, at least one for each, in order.

        Args:
            texts: Any text, also an empty one.
            max_len: Longest row in tokens, [CLS] and [SEP] included, >= 3.
            long_texts: A longer text becomes several windows, or is cut; "tile": rows may be
                longer than max_len.
            has_masks: "[MASK]" in a text is the token; otherwise six characters like any others.
        """
        self._tokenizer.encode_special_tokens = not has_masks
        split = [sentences_of(text, language=self._language) for text in texts]
        flat = [text for sentences in split for text in in_running_text(sentences, self._space)]
        if has_masks:  # which stand for a word with the space before it
            mask = self._space + MASK
            flat = [text.lstrip() if text.startswith(mask) else text for text in flat]
        encodings = iter(self._tokenizer.encode_batch(flat, add_special_tokens=False))
        rows: list[Window] = []
        for number, sentences in enumerate(split):
            tokens = [list(next(encodings).ids) for _ in sentences]
            for piece in _laid_out(tokens, max_len - _NUM_DELIMITERS, long_texts):
                ids = [self._cls, *(token for ids in piece for token in ids), self._sep]
                segments = self._segment_ids([len(ids) for ids in piece])
                rows.append(Window(number, ids, [0, *segments, max(segments, default=0) + 1]))
        return rows

    def _segment_ids(self, lengths: Sequence[int]) -> list[int]:
        """Return the segment, from 1, of each token of sentences of these lengths."""
        rule, size = self._segments["rule"], self._segments.get("tokens_per_segment", 1)
        if rule == "sentence":
            return [n for n, length in enumerate(lengths, start=1) for _ in range(length)]
        return [1 + (place // size) * (rule == "fixed") for place in range(sum(lengths))]


def window_batch(windows: Sequence[Window]) -> EncoderBatch:
    """Return some rows, one or more, as one batch, padded to the longest of them by zeros."""
    lengths_B = torch.tensor([len(window.ids) for window in windows])
    longest = int(lengths_B.max())
    place_L = torch.arange(longest)
    mask_BL = place_L < lengths_B[:, None]
    input_ids, segment_ids = torch.zeros_like(mask_BL).long(), torch.zeros_like(mask_BL).long()
    # Through numpy, which reads a list of numbers several times faster than torch does.
    input_ids[mask_BL] = torch.from_numpy(np.concatenate([window.ids for window in windows]))
    segment_ids[mask_BL] = torch.from_numpy(np.concatenate([w.segments for w in windows]))
    return EncoderBatch(
        input_ids=input_ids,
        mask=mask_BL,
        token_type_ids=torch.zeros_like(input_ids),
        segment_ids=segment_ids,
        special_mask=(place_L == 0) | (place_L == lengths_B[:, None] - 1),
        segments_are_runs=True,
        has_padding=not bool(mask_BL.all()),
    )


def _laid_out(
    sentences: Sequence[list[int]], room: int, long_texts: LongTexts
) -> Iterator[list[list[int]]]:
    """Yield the sentences of each window of one text; sentences without tokens are left out."""
    sentences = [tokens for tokens in sentences if tokens]
    if long_texts == "tile":
        yield sentences
        return
    window: list[list[int]] = []
    used = 0
    for whole, start in ((ids, n) for ids in sentences for n in range(0, len(ids), room)):
        tokens = whole[start : start + room]
        if used + len(tokens) > room:
            if long_texts == "cut":
                if used < room:
                    window.append(tokens[: room - used])
                break
            yield window
            window, used = [], 0
        window.append(tokens)
        used += len(tokens)
    yield window
