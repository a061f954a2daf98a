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
SPECIAL_ROLES = {
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "pad_token": ("[PAD]", "<pad>"),
    "mask_token": ("[MASK]", "<mask>"),
    "unk_token": ("[UNK]", "<unk>"),
}
"""Role -> names that tokenizers give it; the first one in the vocabulary counts."""
BEGINS_WORD = {"Metaspace": "\u2581", "ByteLevel": "\u0120"}
"""Pre-tokeniser -> what the pieces that begin a word begin with."""


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
    """Return the piece-to-id table of a `tokenizer.json`, added tokens included."""
    return _vocab_of(read_tokenizer(tokenizer_json))


def continuations(tokenizer_json: str | Path) -> set[int]:
    """Return the ids of the pieces that continue a word.

    Of WordPiece those with `##`; of pieces that say where a word begins (SentencePiece, byte-level
    BPE) all others, marks of punctuation too, but for special and added tokens. Such pieces also
    begin a document, where the tokenizer marks words by the space before them: no word stands
    before them there.

    Raises:
        ShardError: The file does not say where words begin.
    """
    content = read_tokenizer(tokenizer_json)
    vocab, added = _vocab_of(content), {token["content"] for token in _added(content)}
    if _model_type(content) == "WordPiece":
        return {index for piece, index in vocab.items() if piece[:2] == "##" and len(piece) > 2}
    kinds = part_types(content.get("pre_tokenizer"), "pretokenizers")
    marks = tuple(mark for kind, mark in BEGINS_WORD.items() if kind in kinds)
    if not marks:
        raise ShardError(
            f"{tokenizer_json}: nothing in its pieces says where a word begins; give a tokenizer "
            f"of WordPiece, or with the pre-tokeniser {' or '.join(BEGINS_WORD)}."
        )
    apart = added.union(*SPECIAL_ROLES.values())
    return {i for piece, i in vocab.items() if piece not in apart and not piece.startswith(marks)}


def part_types(part: Any, children: str) -> set[str | None]:
    """Return the types of a part of a `tokenizer.json` and of what it consists of."""
    if part is None:
        return {None}
    if part.get("type") == "Sequence":
        return set().union(*(part_types(child, children) for child in part.get(children, [])))
    return {part.get("type")}


def is_wordpiece(tokenizer_json: str | Path) -> bool:
    """Return whether a `tokenizer.json` holds a WordPiece model."""
    return _model_type(read_tokenizer(tokenizer_json)) == "WordPiece"


def _model_type(content: Mapping[str, Any]) -> str:
    listed = isinstance(content["model"]["vocab"], list)
    return str(content["model"].get("type") or ("Unigram" if listed else "WordPiece"))


def _added(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    return content.get("added_tokens") or []


def _vocab_of(content: Mapping[str, Any]) -> dict[str, int]:
    vocab = content["model"]["vocab"]
    if isinstance(vocab, list):  # of Unigram: pieces and scores
        vocab = {piece: index for index, (piece, _) in enumerate(vocab)}
    added = {token["content"]: token["id"] for token in _added(content)}
    return {str(piece): int(index) for piece, index in {**vocab, **added}.items()}


def read_tokenizer(path: str | Path) -> dict[str, Any]:
    """Return the content of a `tokenizer.json`.

    Raises:
        ShardError: It cannot be read, or holds no vocabulary.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise ShardError(f"{path}: is not a tokenizer.json ({error}).") from error
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict | list):
        raise ShardError(
            f"{path}: holds no vocabulary; give a tokenizer.json of the `tokenizers` library with "
            "a WordPiece, Unigram or BPE model."
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
    """sha256 over vocabulary, normaliser and pre-tokeniser, and added tokens where the vocabulary
    is not WordPiece; not over the file's layout."""
    vocab_size: int
    """Number of entries, special tokens included."""
    pad_id: int
    """Id of [PAD], or of what stands for it (`SPECIAL_ROLES`)."""
    unk_id: int
    """Likewise of [UNK]."""
    cls_id: int
    """Likewise of [CLS]."""
    sep_id: int
    """Likewise of [SEP]."""
    mask_id: int
    """Likewise of [MASK]."""
    lowercase: bool
    """Whether text is lowercased before it is split."""

    @classmethod
    def from_file(cls, tokenizer_json: str | Path, *, digest: str = "") -> TokenizerInfo:
        """Return the description of a `tokenizer.json`; `digest` if known, which takes longest."""
        content = read_tokenizer(tokenizer_json)
        vocab, found, missing = _vocab_of(content), dict[str, int](), list[str]()
        for role, names in SPECIAL_ROLES.items():
            known = [vocab[name] for name in names if name in vocab]
            found |= {f"{role.removesuffix('_token')}_id": index for index in known[:1]}
            missing += [] if known else [" or ".join(names)]
        if missing:
            raise ShardError(
                f"{tokenizer_json}: the vocabulary lacks {', '.join(missing)}; "
                f"it must hold {', '.join(' or '.join(names) for names in SPECIAL_ROLES.values())}."
            )
        decides = ["normalizer", "pre_tokenizer", "model"]
        if _model_type(content) != "WordPiece":  # whose special tokens are entries like others
            decides.append("added_tokens")
        parts = {key: content.get(key) for key in decides}
        return cls(
            digest=digest or digest_of(parts),
            vocab_size=max(vocab.values()) + 1,
            lowercase=_lowercases(content.get("normalizer")),
            **found,
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
            raise ShardError(
                f"{path}: is damaged ({error}); build the folder again with --overwrite true."
            ) from error
        raise ShardError(
            f"{path}: has format version {version}, this program reads {FORMAT_VERSION}; "
            "build the folder again with --overwrite true."
        )

    @classmethod
    def _from_dict(cls, content: Mapping[str, Any]) -> Manifest:
        parsed = {
            "tokenizer": TokenizerInfo(**content["tokenizer"]),
            "splits": {name: SplitCounts(**value) for name, value in content["splits"].items()},
            "files": {name: FileRecord(**value) for name, value in content["files"].items()},
        }
        return cls(**{**{item.name: content[item.name] for item in fields(cls)}, **parsed})
