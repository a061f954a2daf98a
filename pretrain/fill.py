"""`fill`: the most likely words at each [MASK] of a text, from a bundle.

The input has the format of pretraining: [CLS], the sentences, [SEP], every sentence a segment.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

MASK = "[MASK]"


class Guess(NamedTuple):
    """One candidate for one [MASK]."""

    word: str
    probability: float


def run_fill(arguments: Sequence[str]) -> None:
    """`fill BUNDLE TEXT [TEXT ...]`."""
    parser = argparse.ArgumentParser("ponet-pretrain fill", description=__doc__)
    parser.add_argument("bundle", type=Path, help="bundle folder, for instance runs/default/bundle")
    parser.add_argument("texts", nargs="+", metavar="TEXT", help="text with at least one [MASK]")
    parser.add_argument("--top", type=int, default=5, help="words to show per [MASK] (default: 5)")
    options = parser.parse_args(arguments)
    for text, guesses in zip(
        options.texts, fill(options.bundle, options.texts, top=options.top), strict=True
    ):
        print(text)
        for position, candidates in enumerate(guesses, start=1):
            shown = ", ".join(f"{guess.word} {guess.probability:.1%}" for guess in candidates)
            print(f"  [MASK] {position}: {shown}")


def fill(
    bundle_folder: str | Path, texts: Sequence[str], *, top: int = 5
) -> list[list[list[Guess]]]:
    """The `top` most likely words, with probabilities, for each [MASK] of each text.

    Args:
        bundle_folder: A bundle with a tokenizer.
        texts: Each holds at least one [MASK] and fits into the encoder's positions.
        top: Candidates per [MASK], from 1 to the size of the vocabulary.

    Returns:
        Per text, per [MASK] in order, `top` guesses, most likely first.

    Raises:
        ValueError: A text has no [MASK] or is too long, or the bundle has no tokenizer.
    """
    from tokenizers import Tokenizer

    from ponet import load_bundle

    bundle = load_bundle(bundle_folder)
    if bundle.tokenizer_path is None:
        raise ValueError(
            f"{bundle_folder} has no tokenizer.json: text cannot be turned into tokens"
        )
    vocab_size = bundle.model.config.vocab_size
    if not 1 <= top <= vocab_size:
        raise ValueError(f"top is {top}; it must be from 1 to the vocabulary's {vocab_size}")
    tokenizer = Tokenizer.from_file(str(bundle.tokenizer_path))
    return [_fill_one(bundle.model, tokenizer, text, top) for text in texts]


def _fill_one(model: Any, tokenizer: Any, text: str, top: int) -> list[list[Guess]]:
    import torch

    if MASK not in text:
        raise ValueError(f"the text has no {MASK}: {text!r}")
    ids, segments = _encode(tokenizer, text)
    limit = model.config.max_positions
    if len(ids) > limit:
        raise ValueError(f"the text has {len(ids)} tokens, the encoder {limit} positions: {text!r}")
    positions = [i for i, token in enumerate(ids) if token == tokenizer.token_to_id(MASK)]
    if not positions:
        raise ValueError(f"the bundle's tokenizer does not take {MASK} for one token")
    batch = _single_batch(ids, segments)
    with torch.inference_mode():
        logits = model.forward_masked(batch, torch.tensor([positions])).mlm_logits[0]
    probabilities, tokens = logits.float().softmax(-1).topk(top, dim=-1)
    return [
        [Guess(tokenizer.id_to_token(t), p) for t, p in zip(*row, strict=True)]
        for row in zip(tokens.tolist(), probabilities.tolist(), strict=True)
    ]


def _encode(tokenizer: Any, text: str) -> tuple[list[int], list[int]]:
    """Token ids with [CLS] and [SEP], and the segment of each token."""
    from data_prep.config import SentencesConfig
    from data_prep.sentences import split_sentences

    sentences = split_sentences(text.strip(), SentencesConfig(headings="keep"), Counter())
    ids, segments = [tokenizer.token_to_id("[CLS]")], [0]
    for number, sentence in enumerate(sentences, start=1):
        tokens = tokenizer.encode(sentence, add_special_tokens=False).ids
        ids += tokens
        segments += [number] * len(tokens)
    return [*ids, tokenizer.token_to_id("[SEP]")], [*segments, len(sentences) + 1]


def _single_batch(ids: list[int], segments: list[int]) -> Any:
    import torch

    from ponet import EncoderBatch

    special = torch.zeros(1, len(ids), dtype=torch.bool)
    special[0, [0, -1]] = True
    return EncoderBatch(
        input_ids=torch.tensor([ids]),
        mask=torch.ones(1, len(ids), dtype=torch.bool),
        token_type_ids=torch.zeros(1, len(ids), dtype=torch.int64),
        segment_ids=torch.tensor([segments]),
        special_mask=special,
        segments_are_runs=True,
        has_padding=False,
    )
