"""The tokenizer of a checkpoint as tokenizer.json: copied, or built from a vocab.txt.

Invariant: a setting beside it (its class, options, added tokens) that changes which ids a text gets
is followed or refused, never passed over.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.tokenizer import wordpiece_from_vocab
from ponet.tokenizer import load_tokenizer, num_ids
from ponet.weight_files import CONFIG_NAME, TOKENIZER_NAME, read_json

NO_TOKENIZER = "none"
SETTINGS_NAME = "tokenizer_config.json"
SPECIAL_TOKENS_NAME = "special_tokens_map.json"
ADDED_NAME = "added_tokens.json"
_WORDPIECE = ("Bert", "DistilBert", "Electra", "MobileBert", "ConvBert", "SqueezeBert", "PoNet")
_IN_FILE = (*_WORDPIECE, "FNet", "Albert", "PreTrained", "TokenizersBackend")
"""Classes, without "Tokenizer" and "Fast", that take tokenizer.json for all that they do."""
_ROLES = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]",
          "mask_token": "[MASK]"}  # fmt: skip
_USED_ROLES = ("cls_token", "sep_token", "mask_token")
_BERT_SETTINGS = {"do_lower_case": "lowercase", "strip_accents": "strip_accents",
                  "tokenize_chinese_chars": "handle_chinese_chars"}  # fmt: skip
_ADVICE = "; give a tokenizer.json that does the same by --tokenizer FILE, or --tokenizer none"


@dataclass(frozen=True, kw_only=True)
class TokenizerSettings:
    """The files beside a tokenizer, as far as they say which ids a text gets."""

    folder: Path
    """Where they are."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """tokenizer_config.json and special_tokens_map.json together."""
    class_name: str | None = None
    """tokenizer_class of tokenizer_config.json or config.json."""
    added: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Added token -> its id and the flags of tokenizers.AddedToken."""

    def check(self, *, has_file: bool) -> None:
        """Refuse what is not WordPiece on words, or names special tokens that are not known here.

        Args:
            has_file: There is a tokenizer.json, which says most of it itself.

        Raises:
            ValueError: If a setting cannot be followed; names it.
        """
        kind = (self.class_name or "Bert").removesuffix("Fast").removesuffix("Tokenizer")
        if kind not in (_IN_FILE if has_file else _WORDPIECE):
            raise ValueError(
                f"{self.folder} is for a {self.class_name}, which is not known here (known are "
                f"BertTokenizer and those that do the same){_ADVICE}"
            )
        refused = ["word_tokenizer_type", "subword_tokenizer_type"]
        refused += [] if has_file else ["never_split"]
        found = [name for name in refused if self.values.get(name)]
        if "AutoTokenizer" in (self.values.get("auto_map") or ()):
            found.append("auto_map")
        if not has_file and self.values.get("do_basic_tokenize") is False:
            found.append("do_basic_tokenize")
        if found:
            raise ValueError(
                f"{self.folder / SETTINGS_NAME} has {found[0]}={self.values[found[0]]!r}, which "
                f"is not known here{_ADVICE}"
            )
        for role in _USED_ROLES if has_file else _ROLES:
            name = _content(self.values.get(role))
            if name not in (None, _ROLES[role]):
                raise ValueError(
                    f"{self.folder} has {name!r} for its {role}; {_ROLES[role]} is needed{_ADVICE}"
                )

    def check_normalizer(self, normalizer: Mapping[str, Any] | None) -> None:
        """Refuse a tokenizer.json whose BERT normaliser does not do what its settings say.

        Raises:
            ValueError: If they contradict each other; names the setting.
        """
        if not normalizer or normalizer.get("type") != "BertNormalizer":
            return
        for theirs, ours in _BERT_SETTINGS.items():
            value = self.values.get(theirs)
            if value is not None and value != normalizer.get(ours):
                raise ValueError(
                    f"{self.folder}: {SETTINGS_NAME} says {theirs} {value}, but tokenizer.json "
                    f"{ours} {normalizer.get(ours)}; give the right tokenizer.json by --tokenizer"
                )

    def add_to(self, tokenizer: Any) -> int:
        """Give a tokenizer the added tokens that it lacks; returns how many.

        Raises:
            ValueError: If a token cannot have the id that the files give it.
        """
        from tokenizers import AddedToken

        known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
        new = sorted(self.added.keys() - known, key=lambda name: int(self.added[name]["id"]))
        for name in new:
            own = {key: value for key, value in self.added[name].items() if key != "id"}
            tokenizer.add_tokens([AddedToken(name, **own)])
        for name, flags in self.added.items():
            found = tokenizer.token_to_id(name)
            if found != flags["id"]:
                raise ValueError(
                    f"{self.folder}: the added token {name!r} has the id {flags['id']} in the "
                    f"files beside the tokenizer, where the tokenizer has {found}{_ADVICE}"
                )
        for extra in ("additional_special_tokens", "extra_special_tokens"):
            for token in self.values.get(extra) or ():
                if tokenizer.token_to_id(_content(token)) is None:
                    raise ValueError(
                        f"{self.folder} names {_content(token)!r} in {extra}, but no file gives "
                        f"it an id{_ADVICE}"
                    )
        return len(new)


def read_settings(folder: Path) -> TokenizerSettings:
    """Return what the files of a folder say about its tokenizer; nothing where there are none.

    Raises:
        ValueError: If a file is damaged.
    """
    settings, special, added, model = (
        read_json(folder / name) if (folder / name).is_file() else {}
        for name in (SETTINGS_NAME, SPECIAL_TOKENS_NAME, ADDED_NAME, CONFIG_NAME)
    )
    values = {**special, **settings}
    return TokenizerSettings(
        folder=folder,
        values=values,
        class_name=settings.get("tokenizer_class") or model.get("tokenizer_class"),
        added=_added_tokens(values, added, folder),
    )


def _added_tokens(
    values: Mapping[str, Any], listed: Mapping[str, Any], folder: Path
) -> dict[str, dict[str, Any]]:
    special = {_content(values.get(role)) for role in _ROLES}
    for extra in ("additional_special_tokens", "extra_special_tokens"):
        special |= {_content(token) for token in values.get(extra) or ()}
    found: dict[str, dict[str, Any]] = {}
    for name, number in listed.items():
        is_special = name in special
        found[name] = {"id": number, "special": is_special, "normalized": not is_special}
    for number, flags in (values.get("added_tokens_decoder") or {}).items():
        token = _content(flags)
        if token is None or not str(number).isdigit():
            raise ValueError(f"{folder / SETTINGS_NAME}: added_tokens_decoder has no token {flags}")
        if token in found and found[token]["id"] != int(number):
            raise ValueError(
                f"{folder}: {ADDED_NAME} gives {token!r} the id {found[token]['id']}, "
                f"{SETTINGS_NAME} {number}; restore the files"
            )
        names = ("single_word", "lstrip", "rstrip", "normalized", "special")
        own = flags if isinstance(flags, dict) else {}
        found[token] = {"id": int(number), **{key: own[key] for key in names if key in own}}
    return found


def _content(token: Any) -> str | None:
    """Return the text of a token as files write it: a string, or an object with its flags."""
    return token.get("content") if isinstance(token, dict) else token


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
