"""The tokenizer of a checkpoint as tokenizer.json: copied, or built from a vocab.txt."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.tokenizer import wordpiece_from_vocab
from ponet.importing.tokenizer_settings import SETTINGS_NAME, TokenizerSettings, read_settings
from ponet.tokenizer import load_tokenizer, num_ids
from ponet.weight_files import TOKENIZER_NAME, read_json

NO_TOKENIZER = "none"


@dataclass(frozen=True, kw_only=True)
class TokenizerFile:
    """A tokenizer.json ready to be copied into a bundle."""

    path: Path
    """The file."""
    description: str
    """Where it comes from, its kind and size."""


def prepare_tokenizer(
    folder: Path, staging: Path, *, given: str | None, lowercase: bool | None, vocab_size: int
) -> TokenizerFile | None:
    """Return the tokenizer of a checkpoint, put into a folder of its own.

    Args:
        folder: The checkpoint's; searched for tokenizer.json, then for vocab.txt.
        staging: Empty folder that gets the file.
        given: A file to take instead, or "none" for a bundle without one.
        lowercase: For a vocab.txt: lowercase and strip accents; None: as tokenizer_config.json
            says, else yes, which is what transformers and ModelScope assume.
        vocab_size: Rows of the word embeddings; the tokenizer may have fewer entries.

    Raises:
        ValueError: If there is none, or it does not fit the model.
    """
    if given == NO_TOKENIZER:
        return None
    path = Path(given).expanduser() if given else _search(folder)
    target = staging / TOKENIZER_NAME
    has_file = path.suffix != ".txt"
    # A tokenizer.json that the user names says all by itself.
    settings = (
        TokenizerSettings(folder=path.parent) if has_file and given else read_settings(path.parent)
    )
    settings.check(has_file=has_file)
    how = path.name
    if has_file:
        if lowercase is not None:
            raise ValueError(f"--lowercase is for a vocab.txt; {path} says itself what it does")
        tokenizer = load_tokenizer(path)
        content = read_json(path)
        settings.check_normalizer(content.get("normalizer"))
        stored = [name for name in ("padding", "truncation") if content.get(name)]
        how += "".join(f"; stored {name} left out" for name in stored)
    else:
        options = _wordpiece_options(settings, lowercase)
        tokenizer = wordpiece(read_vocab(path), **options)
        how += f" -> {TOKENIZER_NAME}; " + "; ".join(
            f"{name} {str(value).lower()}" for name, value in options.items()
        )
    num_added = settings.add_to(tokenizer)
    how += f"; {num_added} added tokens" if num_added else ""
    if has_file and not stored and not num_added:
        shutil.copyfile(path, target)
    else:
        tokenizer.save(str(target))
    fit = _checked_size(tokenizer, target, where=str(path), vocab_size=vocab_size)
    return TokenizerFile(path=target, description=f"{how}; {type(tokenizer.model).__name__}, {fit}")


def _checked_size(tokenizer: Any, file: Path, *, where: str, vocab_size: int) -> str:
    """Return how many entries a tokenizer has, in words, if it fits the model."""
    missing = [name for name in ("[CLS]", "[SEP]", "[MASK]") if tokenizer.token_to_id(name) is None]
    if missing:
        raise ValueError(f"{where}: the tokenizer lacks {', '.join(missing)}")
    size = num_ids(file)
    if size > vocab_size:
        raise ValueError(
            f"{where} has {size} entries, but the model's word embeddings have {vocab_size} rows; "
            "give the tokenizer of this model by --tokenizer"
        )
    unused = f" for {vocab_size:,} rows of embeddings" if size < vocab_size else ""
    return f"{size:,} entries{unused}"


def read_vocab(path: Path) -> dict[str, int]:
    """Return the pieces of a vocab.txt, one in a line, with their numbers.

    Raises:
        ValueError: If the file is missing, not UTF-8, or repeats a piece.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give the path of a vocab.txt")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}); convert it") from error
    pieces = [line.rstrip("\r") for line in (lines if lines[-1] else lines[:-1])]
    vocab: dict[str, int] = {}
    for number, piece in enumerate(pieces):
        if piece in vocab:
            raise ValueError(
                f"{path}:{number + 1}: {piece!r} stands in line {vocab[piece] + 1} too, so the "
                "numbers of the pieces are not clear; give the unchanged file"
            )
        vocab[piece] = number
    return vocab


def wordpiece(
    vocab: Mapping[str, int],
    *,
    lowercase: bool = True,
    strip_accents: bool | None = None,
    chinese_chars: bool = True,
) -> Any:
    """Return a `tokenizers.Tokenizer` that does what BERT's tokenizer does.

    Args:
        vocab: Piece -> id.
        lowercase: Whether to lowercase text.
        strip_accents: None: as lowercase.
        chinese_chars: Whether every Chinese character is a word.

    Raises:
        ValueError: If a special token is missing.
    """
    from tokenizers import normalizers

    tokenizer = wordpiece_from_vocab(dict(vocab), lowercase=lowercase)
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=lowercase, strip_accents=strip_accents, handle_chinese_chars=chinese_chars
    )
    return tokenizer


def _search(folder: Path) -> Path:
    for name in (TOKENIZER_NAME, "vocab.txt"):
        if (folder / name).is_file():
            return folder / name
    advice = "give one by --tokenizer FILE, or --tokenizer none for a bundle without one"
    if (folder / "spiece.model").is_file():
        advice = (
            "its spiece.model must be converted first: AutoTokenizer.from_pretrained(FOLDER)"
            ".save_pretrained(FOLDER), with transformers and sentencepiece, writes tokenizer.json"
        )
    raise ValueError(f"{folder} has neither {TOKENIZER_NAME} nor vocab.txt; {advice}")


def _wordpiece_options(settings: TokenizerSettings, lowercase: bool | None) -> dict[str, Any]:
    """Return the settings of a vocab.txt from the tokenizer_config.json beside it."""
    values = settings.values
    own = values.get("do_lower_case")
    if lowercase is not None and own is not None and lowercase != own:
        raise ValueError(
            f"--lowercase {str(lowercase).lower()} contradicts "
            f"{settings.folder / SETTINGS_NAME}, which says {own}"
        )
    chosen = lowercase if lowercase is not None else own
    return {
        "lowercase": True if chosen is None else bool(chosen),
        "strip_accents": values.get("strip_accents"),
        "chinese_chars": bool(values.get("tokenize_chinese_chars", True)),
    }
