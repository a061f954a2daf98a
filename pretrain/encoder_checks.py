"""Whether an encoder has an embedding and a position for every token that it will be given."""

from pathlib import Path

from pytorch_lightning.utilities import rank_zero_only

from training.interruption import say

MOST_UNUSED = 128
"""Vocabulary entries beyond the tokenizer's that may be there to round the number up."""


def check_vocab(vocab_size: int, tokenizer_size: int, folder: Path) -> None:
    """Check that an encoder has an embedding for every token; say if it has many more.

    Args:
        vocab_size: Of the encoder.
        tokenizer_size: Entries of the tokenizer beside the shards.
        folder: Of the shards.

    Raises:
        ValueError: The encoder's vocabulary is smaller than the tokenizer's.
    """
    if vocab_size < tokenizer_size:
        raise ValueError(
            f"the encoder has vocab_size {vocab_size}, but the tokenizer of {folder} has "
            f"{tokenizer_size} entries; set the encoder's vocab_size to {tokenizer_size} or more "
            f"(--model.encoder.vocab_size {tokenizer_size})."
        )
    unused = vocab_size - tokenizer_size
    if unused >= MOST_UNUSED:
        rank_zero_only(say)(
            f"the encoder has {vocab_size:,} vocabulary entries and the tokenizer of {folder} "
            f"{tokenizer_size:,}: {unused:,} are never used; --model.encoder.vocab_size "
            f"{tokenizer_size} leaves them out"
        )


def check_positions(max_positions: int, max_len: int) -> None:
    """Check that an encoder has a position for every token of a sequence.

    Raises:
        ValueError: It has fewer than the sequences have tokens.
    """
    if max_positions < max_len:
        raise ValueError(
            f"data.max_len is {max_len}, but the encoder has {max_positions} positions; give "
            f"--model.encoder.max_positions {max_len}, or a smaller --data.max_len"
        )
