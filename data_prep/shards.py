"""The token-shard format: one streaming writer and one memory-mapped reader.

A split is three raw little-endian files: tokens, sentence offsets (in tokens) and document
offsets (in sentences). Every sentence has at least one token, every document one sentence.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.files import write_atomic
from data_prep.manifest import (
    MANIFEST_NAME,
    TOKENIZER_NAME,
    FileRecord,
    Manifest,
    ShardError,
    SplitCounts,
    TokenizerInfo,
    continuations,
    digest_of,
    file_sha256,
)

TOKENS = "tokens.bin"
SENTENCE_OFFSETS = "sentence_offsets.bin"
DOCUMENT_OFFSETS = "document_offsets.bin"
TOKEN_COUNTS = "token_counts.bin"
_SPLIT_FILES = (TOKENS, SENTENCE_OFFSETS, DOCUMENT_OFFSETS)
OFFSET_DTYPE = np.dtype("<i8")
COUNT_DTYPE = np.dtype("<u8")

TokenArray = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
IntArray = npt.NDArray[np.int64]


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Return the dtype that stores ids of such a vocabulary: uint16 below 65,536, else uint32."""
    return np.dtype("<u2") if vocab_size < 65536 else np.dtype("<u4")


class SplitWriter:
    """Appends documents to one split; memory does not grow with the corpus."""

    def __init__(self, folder: str | Path, split: str, *, vocab_size: int) -> None:
        """Open the three files of `<folder>/<split>` for writing.

        Args:
            folder: The shard folder.
            split: Name of the split, also its sub-folder.
            vocab_size: Number of entries of the tokenizer; chooses the token dtype.
        """
        target = Path(folder) / split
        target.mkdir(parents=True, exist_ok=True)
        self.split = split
        self.token_counts = np.zeros(vocab_size, COUNT_DTYPE)
        """(V,) how often each id occurs."""
        self.counts = SplitCounts(documents=0, sentences=0, tokens=0)
        """What has been appended."""
        self._dtype = token_dtype(vocab_size)
        self._files = [open(target / name, "wb") for name in _SPLIT_FILES]
        for file in self._files[1:]:
            file.write(np.zeros(1, OFFSET_DTYPE).tobytes())

    def append(
        self,
        tokens: npt.NDArray[Any],
        sentence_lens: npt.NDArray[Any],
        document_sentences: npt.NDArray[Any],
    ) -> None:
        """Append whole documents.

        Args:
            tokens: (T,) any integer dtype, ids in [0, vocab_size).
            sentence_lens: (S,) tokens per sentence, each >= 1, sum T.
            document_sentences: (D,) sentences per document, each >= 1, sum S.
        """
        assert sentence_lens.sum() == tokens.size
        assert document_sentences.sum() == sentence_lens.size
        vocab_size = self.token_counts.size
        counts = np.bincount(tokens, minlength=vocab_size)
        if counts.size > vocab_size:
            raise ShardError(f"token id {counts.size - 1} is outside the {vocab_size} entries.")
        self.token_counts += counts.astype(COUNT_DTYPE)
        before = self.counts
        sentence_ends = np.cumsum(sentence_lens, dtype=OFFSET_DTYPE) + before.tokens
        document_ends = np.cumsum(document_sentences, dtype=OFFSET_DTYPE) + before.sentences
        values = (np.ascontiguousarray(tokens, self._dtype), sentence_ends, document_ends)
        for file, array in zip(self._files, values, strict=True):
            file.write(array.tobytes())
        self.counts = SplitCounts(
            documents=before.documents + document_sentences.size,
            sentences=before.sentences + sentence_lens.size,
            tokens=before.tokens + tokens.size,
        )

    def close(self) -> None:
        """Close the files, once they would survive a loss of power."""
        for file in self._files:
            with file:
                file.flush()
                os.fsync(file.fileno())


def finish_shards(
    folder: Path, writers: Sequence[SplitWriter], *, digest: str = "", **told: Any
) -> None:
    """Close the files of a folder that holds its tokenizer, and write its manifest.

    Args:
        folder: The shard folder.
        writers: Of all splits, `train` among them.
        digest: What determines the content; empty: a digest of the files.
        told: Other fields of the manifest.
    """
    names = [TOKENIZER_NAME, TOKEN_COUNTS]
    for writer in writers:
        writer.close()
        names += [f"{writer.split}/{name}" for name in _SPLIT_FILES]
        if writer.split == "train":
            write_atomic(folder / TOKEN_COUNTS, writer.token_counts.tobytes())
    files = {
        name: FileRecord(size=(folder / name).stat().st_size, sha256=file_sha256(folder / name))
        for name in names
    }
    Manifest(
        tokenizer=TokenizerInfo.from_file(folder / TOKENIZER_NAME),
        splits={writer.split: writer.counts for writer in writers},
        files=files,
        digest=digest or digest_of({name: record.sha256 for name, record in files.items()}),
        **told,
    ).save(folder)


class TokenShards:
    """One split of a shard folder, memory-mapped and read-only; picklable (it opens again)."""

    def __init__(self, folder: Path, split: str, manifest: Manifest) -> None:
        """Map the files; use `TokenShards.open`, which checks them first."""
        self.folder = folder
        self.split = split
        self.manifest = manifest
        dtype = token_dtype(manifest.tokenizer.vocab_size)
        self.tokens: TokenArray = _map(folder / split / TOKENS, dtype)
        """(T,) uint16 or uint32, no special tokens."""
        self.sentence_offsets: IntArray = _map(folder / split / SENTENCE_OFFSETS, OFFSET_DTYPE)
        """(S+1,) int64, token index where each sentence starts; the last is T."""
        self.document_offsets: IntArray = _map(folder / split / DOCUMENT_OFFSETS, OFFSET_DTYPE)
        """(D+1,) int64, sentence index where each document starts; the last is S."""

    @classmethod
    def open(
        cls, folder: str | Path, split: str = "train", *, verify_hashes: bool = False
    ) -> TokenShards:
        """Return one split after checking it against the manifest.

        Args:
            folder: A folder made by `python -m data_prep build`.
            split: `train` or `validation`.
            verify_hashes: Also re-hash every file (reads everything once) and the tokenizer's
                content.
        """
        folder = Path(folder)
        manifest = Manifest.load(folder)
        if split not in manifest.splits:
            raise ShardError(
                f"{folder}: has no split '{split}'; it has {', '.join(sorted(manifest.splits))}."
            )
        check_files(folder, manifest, hashes=verify_hashes)
        _check_names(folder, manifest)
        _check_tokenizer(
            folder, manifest, digest="" if verify_hashes else manifest.tokenizer.digest
        )
        shards = cls(folder, split, manifest)
        shards._check_ends()
        return shards

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as folder and split, never as data."""
        return (TokenShards.open, (str(self.folder), self.split))

    @property
    def num_tokens(self) -> int:
        """Number of tokens of the split."""
        return int(self.tokens.size)

    @property
    def num_sentences(self) -> int:
        """Number of sentences of the split."""
        return int(self.sentence_offsets.size) - 1

    @property
    def num_documents(self) -> int:
        """Number of documents of the split."""
        return int(self.document_offsets.size) - 1

    @cached_property
    def is_continuation(self) -> npt.NDArray[np.bool_]:
        """(V,) bool, True for pieces that continue a word; see `manifest.continuations`."""
        table = np.zeros(self.manifest.tokenizer.vocab_size, np.bool_)
        table[sorted(continuations(self.folder / TOKENIZER_NAME))] = True
        return table

    @cached_property
    def token_counts(self) -> npt.NDArray[np.uint64]:
        """(V,) uint64, how often each id occurs in the train split."""
        return np.fromfile(self.folder / TOKEN_COUNTS, COUNT_DTYPE)

    def _check_ends(self) -> None:
        given = SplitCounts(
            documents=self.num_documents, sentences=self.num_sentences, tokens=self.num_tokens
        )
        if (
            given != self.manifest.splits[self.split]
            or self.sentence_offsets[-1] != given.tokens
            or self.document_offsets[-1] != given.sentences
        ):
            raise ShardError(
                f"{self.folder / self.split}: holds {given}, the manifest and the offsets say "
                "otherwise; build the folder again with --overwrite true."
            )


def verify_folder(folder: str | Path, *, hashes: bool = True) -> None:
    """Compare what the manifest of a folder says with what is there.

    Args:
        folder: A folder made by `python -m data_prep build`.
        hashes: Of the files, which are read for it; False: their sizes.

    Raises:
        ShardError: A file, a count or what is said of the tokenizer differs.
    """
    shards = TokenShards.open(folder, "train", verify_hashes=hashes)
    for split in shards.manifest.splits.keys() - {shards.split}:
        TokenShards.open(folder, split)
    if (counted := int(shards.token_counts.sum())) != shards.num_tokens:
        raise ShardError(
            f"{shards.folder / TOKEN_COUNTS}: counts {counted:,} tokens, the split train has "
            f"{shards.num_tokens:,}; build the folder again with --overwrite true."
        )


def _check_names(folder: Path, manifest: Manifest) -> None:
    """Refuse a manifest that lacks a file of its splits, or has one too many."""
    wanted = {TOKENIZER_NAME, TOKEN_COUNTS}
    wanted.update(f"{split}/{name}" for split in manifest.splits for name in _SPLIT_FILES)
    if wrong := sorted(wanted ^ set(manifest.files)):
        raise ShardError(
            f"{folder / MANIFEST_NAME}: is damaged: its files are not those of its splits "
            f"{', '.join(sorted(manifest.splits))} (missing or too many: {', '.join(wrong)}); "
            "build the folder again with --overwrite true."
        )


def _check_tokenizer(folder: Path, manifest: Manifest, *, digest: str) -> None:
    """Refuse a manifest that says something else of the tokenizer than the tokenizer's file."""
    found = asdict(TokenizerInfo.from_file(folder / TOKENIZER_NAME, digest=digest))
    given = asdict(manifest.tokenizer)
    for name, value in found.items():
        if given[name] != value:
            raise ShardError(
                f"{folder / MANIFEST_NAME}: is damaged: it says {name} {given[name]}, and "
                f"{TOKENIZER_NAME} has {value}; build the folder again with --overwrite true."
            )


def check_files(folder: Path, manifest: Manifest, *, hashes: bool) -> None:
    """Refuse a folder of which a file is missing, or has another size or (`hashes`) content."""
    for name, record in sorted(manifest.files.items()):
        path = folder / name
        if not path.is_file():
            raise ShardError(f"{path}: is missing; build the folder again with --overwrite true.")
        size = path.stat().st_size
        if size != record.size:
            raise ShardError(
                f"{path}: has {size} bytes, the manifest says {record.size}; the file is damaged, "
                "build the folder again with --overwrite true."
            )
        if hashes and file_sha256(path) != record.sha256:
            raise ShardError(
                f"{path}: its content differs from the manifest's sha256; build the folder again "
                "with --overwrite true."
            )


def _map(path: Path, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    if path.stat().st_size == 0:
        return np.zeros(0, dtype)
    return np.memmap(path, dtype=dtype, mode="r")
