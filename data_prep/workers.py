"""The work done on one chunk or part, as functions that any process of any machine can run.

Tasks carry what they need and results come back as values: only the process that started the
build reads and writes its files. The one exception, training the tokenizer, runs beside it.
"""

from __future__ import annotations

import contextlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.cleaning import clean_document, document_hash
from data_prep.config import CleaningConfig, SentencesConfig, TokenizerConfig
from data_prep.encoding import SentenceEncoder
from data_prep.manifest import TokenizerInfo
from data_prep.parts import Arrays, Part, load_part, pack_texts, unpack_texts
from data_prep.python_docs import code_prose
from data_prep.sentences import split_sentences
from data_prep.shards import token_dtype
from data_prep.sources import Chunk
from data_prep.tokenizer import iterate_limited, save_tokenizer, train_wordpiece

_THREADS = "TOKENIZERS_PARALLELISM"
DROP, TRAIN, VALIDATION = 0, 1, 2
MARK_SAMPLE_CHARS = 200
"""So much of the start of every document is searched for accents that the tokenizer drops."""
SPLIT_CODES = {"train": TRAIN, "validation": VALIDATION}


def clean_chunk(chunk: Chunk, config: CleaningConfig) -> Part:
    """Return the text part of a chunk."""
    counters = Counter(chunk.counters)
    texts: list[str] = []
    for raw in _raw_documents(chunk, counters):
        counters["documents_read"] += 1
        text = clean_document(raw, config, counters)
        if not text:
            counters["documents_empty"] += 1
        elif len(text) < config.min_document_chars:
            counters["documents_short"] += 1
        else:
            texts.append(text)
    hashes = np.frombuffer(b"".join(map(document_hash, texts)), ">u8").reshape(-1, 2)
    arrays = pack_texts(texts)
    arrays["hashes"] = hashes.astype(np.uint64)
    arrays["char_lens"] = np.fromiter(map(len, texts), np.int64, len(texts))
    return arrays, dict(counters)


def _raw_documents(chunk: Chunk, counters: Counter[str]) -> Iterator[str]:
    yield from chunk.documents
    for code in chunk.code:
        yield code_prose(code, counters)


def train_tokenizer(
    parts: Sequence[Path],
    chosen: Sequence[npt.NDArray[np.bool_]],
    config: TokenizerConfig,
    path: Path,
    *,
    parallel: bool,
) -> None:
    """Train on the chosen documents of the text parts, and write the `tokenizer.json`."""

    def texts() -> Iterator[str]:
        for part, picks in zip(parts, chosen, strict=True):
            if picks.any():
                documents = unpack_texts(load_part(part)[0])
                yield from iterate_limited(compress(documents, picks))

    with _tokenizer_threads(parallel):
        save_tokenizer(train_wordpiece(texts, config), path)


@contextlib.contextmanager
def _tokenizer_threads(parallel: bool) -> Iterator[None]:
    """Let the `tokenizers` library use all cores, or one: workers share the cores already."""
    before = os.environ.get(_THREADS)
    os.environ[_THREADS] = "true" if parallel else "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_THREADS]
        else:
            os.environ[_THREADS] = before


@lru_cache(maxsize=1)
def _encoder(tokenizer: str, info: TokenizerInfo) -> SentenceEncoder:
    return SentenceEncoder.from_text(tokenizer, info)


def encode_part(
    texts: Arrays,
    fates: npt.NDArray[np.uint8],
    *,
    config: SentencesConfig,
    tokenizer: str,
    info: TokenizerInfo,
) -> Part:
    """Return the token part of a text part: its documents as sentences and token ids."""
    encoder = _encoder(tokenizer, info)
    counters: Counter[str] = Counter()
    arrays: Arrays = {}
    documents = unpack_texts(texts)
    _count_lost_marks(documents, encoder, counters)
    for split, code in SPLIT_CODES.items():
        chosen = list(compress(documents, fates == code))
        with _tokenizer_threads(parallel=False):
            encoded = encode_documents(chosen, encoder, config, counters)
        tokens = encoded["tokens"]
        counters["tokens_unknown"] += int(np.count_nonzero(tokens == info.unk_id))
        arrays[f"{split}.tokens"] = tokens.astype(token_dtype(info.vocab_size))
        arrays[f"{split}.sentence_lens"] = encoded["sentence_lens"].astype(np.int32)
        arrays[f"{split}.document_sentences"] = encoded["document_sentences"].astype(np.int32)
    return arrays, dict(counters)


def _count_lost_marks(
    documents: list[str], encoder: SentenceEncoder, counters: Counter[str]
) -> None:
    """Count accents and vowel signs that the tokenizer drops, at the start of every document."""
    for document in documents:
        start = document[:MARK_SAMPLE_CHARS]
        counters["sampled_characters"] += len(start)
        if not start.isascii():
            lost = _num_marks(start) - _num_marks(encoder.normalized(start))
            counters["sampled_marks_lost"] += max(0, lost)


def _num_marks(text: str) -> int:
    return sum(unicodedata.category(part) == "Mn" for part in unicodedata.normalize("NFD", text))


def encode_documents(
    documents: list[str],
    encoder: SentenceEncoder,
    config: SentencesConfig,
    counters: Counter[str],
) -> dict[str, npt.NDArray[Any]]:
    """Return the ids of clean documents; sentences and documents without ids are left out.

    Returns:
        `tokens` (T,), `sentence_lens` (S,), `document_sentences` (D,), all int64.
    """
    sentences: list[str] = []
    counts: list[int] = []
    for document in documents:
        found = split_sentences(document, config, counters)
        sentences.extend(found)
        counts.append(len(found))
    if not sentences:
        counters["documents_without_tokens"] += len(documents)
        empty = np.zeros(0, np.int64)
        return {"tokens": empty, "sentence_lens": empty, "document_sentences": empty}
    tokens, lens = encoder.encode(sentences)
    owners = np.repeat(np.arange(len(documents)), counts)
    kept = lens > 0
    per_document = np.bincount(owners[kept], minlength=len(documents))
    counters["sentences_without_tokens"] += int(np.count_nonzero(~kept))
    counters["documents_without_tokens"] += int(np.count_nonzero(per_document == 0))
    return {
        "tokens": tokens,
        "sentence_lens": lens[kept],
        "document_sentences": per_document[per_document > 0].astype(np.int64),
    }
