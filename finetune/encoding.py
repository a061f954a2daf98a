"""Texts to encoder input: tokenised once, cut to length, padded per batch. B batch, L tokens.

Invariant: [CLS], [SEP] and segments are known by position; a literal "[SEP]" in a text is text.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_prep.manifest import TokenizerInfo
from finetune.tables import TextRow
from ponet import EncoderBatch
from ponet.segments import segments_from_separators


class EncodedText(NamedTuple):
    """[CLS] text [SEP], or [CLS] text [SEP] pair [SEP]."""

    input_ids: np.ndarray
    """int32 (tokens,), special tokens included."""
    pair_start: int
    """Position of the second text's first token; the number of tokens if there is none."""
    is_truncated: bool
    """Whether tokens were cut off."""


class TextEncoder:
    """Turns rows into token ids, and token ids into batches.

    Args:
        tokenizer_json: WordPiece tokenizer in the `tokenizers` format.
        max_len: Most tokens of an example, special tokens included.

    Raises:
        ValueError: The file is missing, damaged, or lacks a special token.
    """

    def __init__(self, tokenizer_json: Path, *, max_len: int) -> None:
        from tokenizers import Tokenizer

        self.info = TokenizerInfo.from_file(tokenizer_json)
        self.max_len = max_len
        self._tokenizer = Tokenizer.from_file(str(tokenizer_json))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = True  # "[SEP]" in a text is four characters more

    def encode(self, rows: Sequence[TextRow], path: str | Path) -> list[EncodedText]:
        """Return the token ids of rows.

        Args:
            rows: Examples of one file; with a second text in all of them or in none.
            path: Their file, for messages.

        Raises:
            ValueError: A text has no token; names file and line.
        """
        first = self._token_ids([row.text for row in rows])
        second = self._token_ids([row.text_pair for row in rows])
        encoded = []
        for row, text, pair in zip(rows, first, second, strict=True):
            if not text or (row.text_pair and not pair):
                raise ValueError(
                    f"{path}, line {row.line}: a text has nothing that the tokenizer knows as a "
                    "character; take the row out"
                )
            encoded.append(self._assemble(text, pair))
        return encoded

    def _token_ids(self, texts: list[str]) -> list[list[int]]:
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def _assemble(self, text: list[int], pair: list[int]) -> EncodedText:
        room = self.max_len - (3 if pair else 2)
        num_text, num_pair = shortened_lengths(len(text), len(pair), room)
        ids = [self.info.cls_id, *text[:num_text], self.info.sep_id]
        pair_start = len(ids)
        if pair:
            ids += [*pair[:num_pair], self.info.sep_id]
        is_truncated = num_text + num_pair < len(text) + len(pair)
        return EncodedText(np.array(ids, dtype=np.int32), pair_start, is_truncated)

    def batch(self, texts: Sequence[EncodedText]) -> EncoderBatch:
        """Return a batch padded to its longest text; every text and separator is a segment.

        Source: released PoNet GLUE code, which passes no segments, so that separators bound them.
        """
        shape = (len(texts), max(len(text.input_ids) for text in texts))
        input_ids = torch.full(shape, self.info.pad_id, dtype=torch.int64)
        token_type_ids = torch.zeros(shape, dtype=torch.int64)
        mask = torch.zeros(shape, dtype=torch.bool)
        special_mask = torch.zeros(shape, dtype=torch.bool)
        for row, (ids, pair_start, _) in enumerate(texts):
            length = len(ids)
            input_ids[row, :length] = torch.from_numpy(ids)
            token_type_ids[row, pair_start:length] = 1
            mask[row, :length] = True
            special_mask[row, [0, pair_start - 1, length - 1]] = True
        return EncoderBatch(
            input_ids=input_ids,
            mask=mask,
            token_type_ids=token_type_ids,
            segment_ids=segments_from_separators(special_mask),
            special_mask=special_mask,
        )

    def labelled_batch(
        self, examples: Sequence[tuple[EncodedText, int]]
    ) -> tuple[EncoderBatch, Tensor]:
        """Return a batch and its labels, int64 (B,)."""
        labels = torch.tensor([label for _, label in examples], dtype=torch.int64)
        return self.batch([text for text, _ in examples]), labels


def shortened_lengths(num_text: int, num_pair: int, room: int) -> tuple[int, int]:
    """Return how many tokens of text and pair to keep: the longer one is cut first.

    Args:
        num_text: Tokens of the text, >= 0.
        num_pair: Tokens of the pair, >= 0.
        room: Most tokens of both together, >= 2.
    """
    if num_text + num_pair <= room:
        return num_text, num_pair
    if num_pair <= room // 2:
        return room - num_pair, num_pair
    if num_text <= room - room // 2:
        return num_text, room - num_text
    return room - room // 2, room // 2
