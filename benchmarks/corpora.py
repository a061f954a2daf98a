"""Shards of random tokens."""

import json
from pathlib import Path

import numpy as np

from data_prep.manifest import SPECIAL_TOKENS
from data_prep.shards import SplitWriter, finish_shards


def synthetic_folder(
    folder: Path,
    *,
    num_sentences: int,
    vocab_size: int = 30_522,
    validation_sentences: int = 0,
    words_per_document: int = 0,
) -> Path:
    """Write shards of random tokens: 25 per sentence, 40 sentences per document on average.

    Args:
        folder: Where to; is created.
        num_sentences: Of the training split.
        vocab_size: Word pieces, the special tokens included.
        validation_sentences: Of the validation split; 0: there is none.
        words_per_document: A document has so many different tokens, which can be learnt; 0: all.
    """
    random = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    pieces = [*SPECIAL_TOKENS, *(f"w{number}" for number in range(vocab_size - 5))]
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##"}
    model |= {"max_input_chars_per_word": 100, "vocab": {p: i for i, p in enumerate(pieces)}}
    content = {"version": "1.0", "normalizer": None, "pre_tokenizer": None, "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    writers = []
    for split, count in (("train", num_sentences), ("validation", validation_sentences)):
        if not count:
            continue
        lens = random.geometric(1 / 25, count)
        documents = random.geometric(1 / 40, count // 40)
        documents = documents[np.cumsum(documents) < count]
        documents = np.append(documents, count - documents.sum())
        tokens = random.integers(5, vocab_size, int(lens.sum()))
        if words_per_document:
            words = random.integers(5, vocab_size, (len(documents), words_per_document))
            places = np.repeat(np.repeat(np.arange(len(documents)), documents), lens)
            tokens = words[places, tokens % words_per_document]
        writer = SplitWriter(folder, split, vocab_size=vocab_size)
        writer.append(tokens, lens, documents)
        writers.append(writer)
    finish_shards(folder, writers)
    return folder
