"""What made a shard folder: settings, tokenizer, counts, and a hash of every file.

Invariant: `manifest.json` is written last, so a folder without it does not exist for readers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from data_prep.files import write_atomic

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
TOKENIZER_NAME = "tokenizer.json"
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class ShardError(ValueError):
    """A shard folder is missing, incomplete, changed, or of another format."""


def digest_of(value: object) -> str:
    """Return the sha256 (hex) of a JSON-like value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def file_sha256(path: str | Path) -> str:
    """Return the sha256 (hex) of a file, read in blocks of 1 MiB."""
    sha = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def read_vocab(tokenizer_json: str | Path) -> dict[str, int]:
    """Return the piece-to-id table of a `tokenizer.json`."""
    model = _read_tokenizer(tokenizer_json)["model"]
    return {str(piece): int(index) for piece, index in model["vocab"].items()}


def _read_tokenizer(path: str | Path) -> dict[str, Any]:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise ShardError(f"{path}: is not a tokenizer.json ({error}).") from error
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
        raise ShardError(
            f"{path}: holds no WordPiece vocabulary; give a tokenizer.json of the `tokenizers` "
            "library with a WordPiece model."
        )
    return dict(content)


def _lowercases(normalizer: Any) -> bool:
    if not isinstance(normalizer, dict):
        return False
    if normalizer.get("type") == "Sequence":
        return any(map(_lowercases, normalizer.get("normalizers", [])))
    return normalizer.get("type") == "Lowercase" or bool(normalizer.get("lowercase"))


@dataclass(frozen=True, kw_only=True)
class TokenizerInfo:
    """Which tokenizer made the token ids."""

    digest: str
    """sha256 over vocabulary, normaliser and pre-tokeniser; not over the file's layout."""
    vocab_size: int
    """Number of entries, special tokens included."""
    pad_id: int
    """Id of [PAD]."""
    unk_id: int
    """Id of [UNK]."""
    cls_id: int
    """Id of [CLS]."""
    sep_id: int
    """Id of [SEP]."""
    mask_id: int
    """Id of [MASK]."""
    lowercase: bool
    """Whether text is lowercased before it is split."""

    @classmethod
    def from_file(cls, tokenizer_json: str | Path) -> TokenizerInfo:
        """Return the description of a `tokenizer.json`."""
        content = _read_tokenizer(tokenizer_json)
        vocab = content["model"]["vocab"]
        missing = [token for token in SPECIAL_TOKENS if token not in vocab]
        if missing:
            raise ShardError(
                f"{tokenizer_json}: the vocabulary lacks {', '.join(missing)}; "
                f"it must hold {', '.join(SPECIAL_TOKENS)}."
            )
        parts = {key: content.get(key) for key in ("normalizer", "pre_tokenizer", "model")}
        return cls(
            digest=digest_of(parts),
            vocab_size=max(map(int, vocab.values())) + 1,
            lowercase=_lowercases(content.get("normalizer")),
            **{f"{token[1:-1].lower()}_id": int(vocab[token]) for token in SPECIAL_TOKENS},
        )


@dataclass(frozen=True, kw_only=True)
class SplitCounts:
    """How much one split holds."""

    documents: int
    """Number of documents."""
    sentences: int
    """Number of sentences."""
    tokens: int
    """Number of tokens; no special tokens are stored."""


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """Size and hash of one file of the folder."""

    size: int
    """Size in bytes."""
    sha256: str
    """sha256 of the content, hex."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything a reader may trust about a shard folder."""

    tokenizer: TokenizerInfo
    """The tokenizer that made the ids."""
    splits: dict[str, SplitCounts]
    """Counts by split name."""
    files: dict[str, FileRecord]
    """Every file of the folder but the manifest, by path relative to the folder."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings that determine the content; not workers, not the output path."""
    sources: list[dict[str, Any]] = field(default_factory=list)
    """What was read: kind, and files with size and sha256, or id and revision."""
    counters: dict[str, int] = field(default_factory=dict)
    """What was repaired, dropped and kept."""
    digest: str = ""
    """sha256 over all that determines the content."""
    format_version: int = FORMAT_VERSION
    """Version of the folder layout."""

    def save(self, folder: str | Path) -> None:
        """Write `manifest.json` into the folder, at once and last of all files."""
        text = json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"
        write_atomic(Path(folder) / MANIFEST_NAME, text.encode("utf-8"))

    @classmethod
    def load(cls, folder: str | Path) -> Manifest:
        """Return the manifest of a shard folder."""
        path = Path(folder) / MANIFEST_NAME
        if not path.is_file():
            raise ShardError(
                f"{folder}: holds no {MANIFEST_NAME}, so it is not a finished shard folder; "
                "make it with `python -m data_prep build`."
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            version = content["format_version"]
            if version == FORMAT_VERSION:
                return cls._from_dict(content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ShardError(f"{path}: is damaged ({error}); build the folder again.") from error
        raise ShardError(
            f"{path}: has format version {version}, this program reads {FORMAT_VERSION}; "
            "build the folder again."
        )

    @classmethod
    def _from_dict(cls, content: Mapping[str, Any]) -> Manifest:
        parsed = {
            "tokenizer": TokenizerInfo(**content["tokenizer"]),
            "splits": {name: SplitCounts(**value) for name, value in content["splits"].items()},
            "files": {name: FileRecord(**value) for name, value in content["files"].items()},
        }
        return cls(**{**{item.name: content[item.name] for item in fields(cls)}, **parsed})
