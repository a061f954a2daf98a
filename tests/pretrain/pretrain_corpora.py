"""Tiny token shards for the tests of the pretraining data, and how to read batches back."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from shard_files import write_shards

from data_prep.shards import TokenShards

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAD, UNK, CLS, SEP, MASK = range(5)
Documents = list[list[list[int]]]


def write_tokenizer(path: Path, *, vocab_size: int, num_continuations: int = 0) -> Path:
    """A WordPiece file whose last `num_continuations` entries are `##` pieces."""
    pieces = SPECIAL + [f"w{i}" for i in range(vocab_size - 5 - num_continuations)]
    pieces += [f"##c{i}" for i in range(num_continuations)]
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##"}
    model |= {"max_input_chars_per_word": 100, "vocab": {p: i for i, p in enumerate(pieces)}}
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    special = [{"id": i, "content": t, "special": True, **plain} for i, t in enumerate(SPECIAL)]
    splitter = {"type": "BertPreTokenizer"}
    content = {"version": "1.0", "normalizer": None, "pre_tokenizer": splitter, "model": model}
    content["added_tokens"] = special
    path.write_text(json.dumps(content))
    return path


def random_documents(
    num_documents: int,
    *,
    seed: int = 0,
    sentences: float = 12,
    sentence_len: float = 8,
    vocab_size: int = 200,
) -> Documents:
    """Documents with geometric numbers of sentences of geometric lengths and random ids."""
    random = np.random.default_rng(seed)
    return [
        [
            random.integers(5, vocab_size, random.geometric(1 / sentence_len)).tolist()
            for _ in range(random.geometric(1 / sentences))
        ]
        for _ in range(num_documents)
    ]


def make_folder(
    folder: Path,
    documents: Documents,
    *,
    validation: Documents | None = None,
    vocab_size: int = 200,
    num_continuations: int = 0,
) -> Path:
    """A shard folder; without validation documents, the train documents serve for both."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizer(
        folder / "made.json", vocab_size=vocab_size, num_continuations=num_continuations
    )
    splits = {"train": documents, "validation": documents if validation is None else validation}
    write_shards(folder / "shards", splits, tokenizer)
    return folder / "shards"


def make_shards(folder: Path, documents: Documents, **options: int) -> TokenShards:
    """The opened train split of `make_folder`."""
    return TokenShards.open(make_folder(folder, documents, **options), "train")


def document_of(shards: TokenShards, positions: Sequence[int] | np.ndarray) -> np.ndarray:
    """Document of each token position."""
    starts = np.asarray(shards.sentence_offsets)[np.asarray(shards.document_offsets)]
    return np.searchsorted(starts, positions, side="right") - 1


def tiny_corpus(folder: Path) -> Path:
    """Shards of 24 documents of 12 sentences over 60 words, ten words to a document."""
    rng = np.random.default_rng(0)

    def document(number: int) -> list[list[int]]:
        words = 5 + (number * 7 + np.arange(10)) % 54
        return [rng.choice(words, rng.integers(3, 9)).tolist() for _ in range(12)]

    splits = {
        "train": [document(i) for i in range(24)],
        "validation": [document(i) for i in range(9)],
    }
    folder.mkdir(parents=True, exist_ok=True)
    made = write_tokenizer(folder / "made.json", vocab_size=65, num_continuations=6)
    write_shards(folder / "shards", splits, made)
    return folder / "shards"


def tiny_options(shards: Path, root: Path) -> list[str]:
    """Options of a `fit` of four steps: a PoNet of 2 x 16, accumulation 2, dropout on."""
    encoder = json.dumps(
        {
            "class_path": "ponet.PoNetConfig",
            "init_args": {
                "vocab_size": 65,
                "hidden_size": 16,
                "num_layers": 2,
                "num_heads": 2,
                "ffn_size": 32,
                "max_positions": 32,
            },
        }
    )
    return [
        *("--model.encoder", encoder, "--model.optimizer.warmup_steps", "2"),
        *("--model.optimizer.lr", "0.01"),
        *("--data.folder", str(shards), "--data.max_len", "32", "--data.num_workers", "0"),
        *("--data.global_batch_size", "8", "--data.micro_batch_size", "4"),
        *("--data.eval_examples", "16", "--run.root", str(root), "--run.name", "tiny"),
        *("--run.eval_every_n_steps", "2", "--trainer.max_steps", "4"),
        *("--trainer.log_every_n_steps", "1", "--trainer.accelerator", "cpu"),
    ]
