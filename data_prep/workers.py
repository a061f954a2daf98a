"""The work done on one chunk or part, as functions that any process of any machine can run.

Tasks carry what they need and results come back as values: only the process that started the
build reads and writes its files; training the tokenizer runs beside it. A part is a set of arrays
and counters in one file, written at once: one that exists is finished.

A clean document has no control characters, its paragraphs are separated by one blank line, and
its words by single spaces. It never spells a special token, so none can appear inside the ids.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import struct
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain, compress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.config import CleaningConfig, SentencesConfig, TokenizerConfig
from data_prep.files import write_atomic
from data_prep.manifest import SPECIAL_TOKENS, TokenizerInfo
from data_prep.python_docs import code_prose
from data_prep.sentences import split_sentences
from data_prep.shards import token_dtype
from data_prep.sources import Chunk
from data_prep.tokenizer import iterate_limited, save_tokenizer, train_wordpiece
from data_prep.words import SentenceEncoder, in_running_text

Arrays = dict[str, npt.NDArray[Any]]
Part = tuple[Arrays, dict[str, int]]

DROP, TRAIN, VALIDATION = 0, 1, 2
SPLIT_CODES = {"train": TRAIN, "validation": VALIDATION}
MARK_SAMPLE_CHARS = 200
"""So much of the start of every document is searched for accents that the tokenizer drops."""
_COUNTERS = "counters"
_THREADS = "TOKENIZERS_PARALLELISM"
_RARE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]")
_SEPARATOR = re.compile("[\x1c-\x1f]")  # of files, groups, records and units
_CONTROL = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_SPECIAL = re.compile("|".join(re.escape(token) for token in SPECIAL_TOKENS))
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n\s*")


def save_part(path: Path, arrays: Mapping[str, npt.NDArray[Any]], counters: object) -> None:
    """Write arrays and a JSON-like value into one file, at once.

    The disk is not waited for: a part that a loss of power damaged is found and made again.
    """
    encoded = np.frombuffer(json.dumps(counters).encode("utf-8"), np.uint8)
    stream = io.BytesIO()
    np.savez(stream, **{**arrays, _COUNTERS: encoded})  # type: ignore[arg-type]
    write_atomic(path, stream.getbuffer(), durable=False)


def load_part(path: Path, names: Sequence[str] | None = None) -> Part:
    """Return arrays (all, or those named) and counters of a finished part."""
    with np.load(path) as content:
        wanted = [name for name in content.files if name != _COUNTERS] if names is None else names
        counters = json.loads(content[_COUNTERS].tobytes())
        return {name: content[name] for name in wanted}, counters


def is_finished(path: Path) -> bool:
    """Return whether a part is there and readable to its end; remove a damaged one."""
    if not path.is_file():
        return False
    damage = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, KeyError)
    with contextlib.suppress(*damage, ValueError, RuntimeError), zipfile.ZipFile(path) as archive:
        if archive.testzip() is None:
            return True
    path.unlink()
    return False


def clean_chunk(chunk: Chunk, config: CleaningConfig) -> Part:
    """Return the text part of a chunk.

    Its arrays: `text`, zstd-compressed UTF-8, `byte_lens` and `char_lens`, int64 (D,), and
    `hashes`, uint64 (D, 2).
    """
    import zstandard

    counters = Counter(chunk.counters)
    texts: list[str] = []
    for raw in (*chunk.documents, *(code_prose(code, counters) for code in chunk.code)):
        counters["documents_read"] += 1
        text = clean_document(raw, config, counters)
        if not text:
            counters["documents_empty"] += 1
        elif len(text) < config.min_document_chars:
            counters["documents_short"] += 1
        else:
            texts.append(text)
    encoded = [text.encode("utf-8") for text in texts]
    blob = zstandard.ZstdCompressor(level=1).compress(b"".join(encoded))
    hashes = np.frombuffer(b"".join(map(document_hash, texts)), ">u8").reshape(-1, 2)
    arrays: Arrays = {
        "text": np.frombuffer(blob, np.uint8),
        "byte_lens": np.fromiter(map(len, encoded), np.int64, len(encoded)),
        "char_lens": np.fromiter(map(len, texts), np.int64, len(texts)),
        "hashes": hashes.astype(np.uint64),
    }
    return arrays, dict(counters)


def _texts_of(arrays: Mapping[str, npt.NDArray[Any]]) -> list[str]:
    """Return the documents of a text part."""
    import zstandard

    data = zstandard.ZstdDecompressor().decompress(arrays["text"].tobytes())
    ends = np.cumsum(arrays["byte_lens"]).tolist()
    return [data[start:end].decode("utf-8") for start, end in zip([0, *ends], ends, strict=False)]


def clean_document(text: str, config: CleaningConfig, counters: Counter[str]) -> str:
    """Return the clean text of a document; empty if nothing is left.

    Args:
        text: Any string, lone surrogates included.
        config: What to repair.
        counters: Gets the number of repairs by name.
    """
    if not text.replace("\n", " ").isprintable() and _RARE.search(text):
        text = _repair_rare(text, counters)
    if config.unicode_form != "none" and not unicodedata.is_normalized(config.unicode_form, text):
        text = unicodedata.normalize(config.unicode_form, text)
        counters["documents_unicode_normalised"] += 1
    if "[" in text:
        text, found = _SPECIAL.subn(lambda match: f"[ {match.group()[1:-1]} ]", text)
        counters["special_tokens_neutralised"] += found
    if config.line_breaks == "paragraph":
        paragraphs = text.split("\n")
    else:
        paragraphs = _BLANK_LINE.split(text)
    return "\n\n".join([clean for item in paragraphs if (clean := _single_spaced(item))])


def _single_spaced(paragraph: str) -> str:
    # The space is the only printable white space, and most paragraphs are as they should be.
    if (
        paragraph.isprintable()
        and "  " not in paragraph
        and not paragraph.startswith(" ")
        and not paragraph.endswith(" ")
    ):
        return paragraph
    return " ".join(paragraph.split())


def _repair_rare(text: str, counters: Counter[str]) -> str:
    counters["byte_order_marks"] += text.count("\ufeff")
    counters["carriage_returns"] += text.count("\r")
    counters["unicode_line_separators"] += sum(map(text.count, "\x85\u2028\u2029"))
    text = text.replace("\ufeff", "").replace("\r\n", "\n").replace("\r", "\n")
    text = text.replace("\u2029", "\n\n").replace("\u2028", "\n").replace("\x85", "\n")
    text, separators = _SEPARATOR.subn(" ", text)
    text, found = _CONTROL.subn("", text)
    counters["control_characters"] += separators + found
    text, found = _SURROGATE.subn("\ufffd", text)
    counters["lone_surrogates"] += found
    return text


def document_hash(text: str) -> bytes:
    """Return 16 bytes that are equal for texts equal up to letter case and white space.

    Args:
        text: A clean document, as `clean_document` returns it: paragraphs parted by one blank line
            and words by one space, so that nothing but the blank lines is left to even out.
    """
    key = " ".join([paragraph.casefold() for paragraph in text.split("\n\n")])
    return hashlib.blake2b(key.encode("utf-8"), digest_size=16).digest()


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
                yield from iterate_limited(compress(_texts_of(load_part(part)[0]), picks))

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
        del os.environ[_THREADS]
        if before is not None:
            os.environ[_THREADS] = before


@lru_cache(maxsize=1)
def _encoder(tokenizer: str, info: TokenizerInfo) -> SentenceEncoder:
    return SentenceEncoder(tokenizer, info)


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
    documents = _texts_of(texts)
    _count_lost_marks(documents, encoder, counters)
    dtypes = {"tokens": token_dtype(info.vocab_size)}
    for split, code in SPLIT_CODES.items():
        chosen = list(compress(documents, fates == code))
        with _tokenizer_threads(parallel=False):
            encoded = encode_documents(chosen, encoder, config, counters)
        counters["tokens_unknown"] += int(np.count_nonzero(encoded["tokens"] == info.unk_id))
        for name, values in encoded.items():
            arrays[f"{split}.{name}"] = values.astype(dtypes.get(name, np.int32))
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
    found = [split_sentences(document, config, counters) for document in documents]
    counters["special_tokens_neutralised"] += encoder.count_spelled(chain.from_iterable(found))
    running = (in_running_text(sentences, encoder.space) for sentences in found)
    tokens, lens = encoder.encode(list(chain.from_iterable(running)))
    counts = np.fromiter(map(len, found), np.int64, len(found))
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
