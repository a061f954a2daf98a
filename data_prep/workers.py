"""The work done on one chunk or part, as functions that any process of any machine can run.

Tasks carry what they need and results come back as values: only the process that started the
build reads and writes its files. The one exception, training the tokenizer, runs beside it.
"""

from __future__ import annotations

import contextlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
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


@dataclass(frozen=True, kw_only=True)
class CleanTask:
    """Clean one chunk into one text part."""

    chunk: Chunk
    config: CleaningConfig


def clean_chunk(task: CleanTask) -> Part:
    """Return the text part of a chunk."""
    counters = Counter(task.chunk.counters)
    texts: list[str] = []
    for raw in _raw_documents(task.chunk, counters):
        counters["documents_read"] += 1
        text = clean_document(raw, task.config, counters)
        if not text:
            counters["documents_empty"] += 1
        elif len(text) < task.config.min_document_chars:
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


@dataclass(frozen=True, kw_only=True)
class TrainTask:
    """Train the tokenizer on the chosen documents of the text parts."""

    parts: list[Path]
    chosen: list[npt.NDArray[np.bool_]]
    config: TokenizerConfig
    path: Path
    parallel: bool


def train_tokenizer(task: TrainTask) -> None:
    """Write the trained `tokenizer.json`."""

    def texts() -> Iterator[str]:
        for path, chosen in zip(task.parts, task.chosen, strict=True):
            if not chosen.any():
                continue
            documents = unpack_texts(load_part(path)[0])
            picked = (text for text, pick in zip(documents, chosen, strict=True) if pick)
            yield from iterate_limited(picked)

    with _tokenizer_threads(task.parallel):
        save_tokenizer(train_wordpiece(texts, task.config), task.path)


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


@dataclass(frozen=True, kw_only=True)
class EncodeTask:
    """Cut the documents of one text part into sentences and token ids."""

    texts: Arrays
    fates: npt.NDArray[np.uint8]
    config: SentencesConfig
    tokenizer: str
    info: TokenizerInfo


@lru_cache(maxsize=1)
def _encoder(tokenizer: str, info: TokenizerInfo) -> SentenceEncoder:
    return SentenceEncoder.from_text(tokenizer, info)


def encode_part(task: EncodeTask) -> Part:
    """Return the token part of a text part."""
    info = task.info
    encoder = _encoder(task.tokenizer, info)
    counters: Counter[str] = Counter()
    arrays: Arrays = {}
    documents = unpack_texts(task.texts)
    _count_lost_marks(documents, encoder, counters)
    for split, code in SPLIT_CODES.items():
        chosen = [text for text, fate in zip(documents, task.fates, strict=True) if fate == code]
        with _tokenizer_threads(parallel=False):
            encoded = encode_documents(chosen, encoder, task.config, counters)
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
