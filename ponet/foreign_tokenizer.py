"""The tokenizer of a checkpoint as tokenizer.json: copied, or built from a vocab.txt.

Invariant: a setting beside it (its class, options, added tokens) that changes which ids a text gets
is followed or refused, never passed over.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep.tokenizer import read_vocab_txt, wordpiece_from_vocab
from ponet.tokenizer import load_tokenizer, num_ids
from ponet.weight_files import CONFIG_NAME, TOKENIZER_NAME, read_json

NO_TOKENIZER = "none"
SETTINGS_NAME = "tokenizer_config.json"
SPECIAL_TOKENS_NAME = "special_tokens_map.json"
ADDED_NAME = "added_tokens.json"
_WORDPIECE = ("Bert", "DistilBert", "Electra", "MobileBert", "ConvBert", "SqueezeBert", "PoNet")
_IN_FILE = (*_WORDPIECE, "FNet", "Albert", "PreTrained", "TokenizersBackend")
"""Classes, without "Tokenizer" and "Fast", that take tokenizer.json for all that they do."""
_ROLES = {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]",
          "pad_token": "[PAD]", "unk_token": "[UNK]"}  # fmt: skip
_NUM_USED_ROLES = 3
_EXTRA = ("additional_special_tokens", "extra_special_tokens")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_BERT_SETTINGS = {"do_lower_case": "lowercase", "strip_accents": "strip_accents",
                  "tokenize_chinese_chars": "handle_chinese_chars"}  # fmt: skip


def prepare_tokenizer(
    folder: Path, target: Path, *, given: str | None, lowercase: bool | None, vocab_size: int
) -> str | None:
    """Write the tokenizer of a checkpoint and return what it is, in words; None: there is none.

    Args:
        folder: The checkpoint's; searched for tokenizer.json, then for vocab.txt.
        target: tokenizer.json to write.
        given: A file to take instead, or "none" for a bundle without one.
        lowercase: For a vocab.txt: lowercase and strip accents; None: as tokenizer_config.json
            says, else yes, which is what transformers and ModelScope assume.
        vocab_size: Rows of the word embeddings; the tokenizer may have fewer entries.
    """
    if given == NO_TOKENIZER:
        return None
    path = Path(given).expanduser() if given else _search(folder)
    has_file = path.suffix != ".txt"
    # A tokenizer.json that the user names says all by itself.
    settings = {} if has_file and given else _read_settings(path.parent)
    _check_settings(settings, path.parent, has_file=has_file)
    tokenizer, how = (_from_json if has_file else _from_vocab)(path, settings, lowercase)
    num_added = _add_tokens(tokenizer, settings, path.parent)
    how += f"; {num_added} added tokens" if num_added else ""
    if how == path.name:
        shutil.copyfile(path, target)
    else:
        tokenizer.save(str(target))
    missing = [name for name in ("[CLS]", "[SEP]", "[MASK]") if tokenizer.token_to_id(name) is None]
    if missing:
        raise ValueError(f"{path}: the tokenizer lacks {', '.join(missing)}")
    size = num_ids(target)
    if size > vocab_size:
        needed = f"but the model's word embeddings have {vocab_size} rows"
        raise ValueError(f"{path} has {size} entries, {needed}; give the right one by --tokenizer")
    unused = f" for {vocab_size:,} rows of embeddings" if size < vocab_size else ""
    return f"{how}; {type(tokenizer.model).__name__}, {size:,} entries{unused}"


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


def _read_settings(folder: Path) -> dict[str, Any]:
    """Return what the files beside a tokenizer say about it, one over the other.

    `added_tokens` of it is token -> its id and the flags of tokenizers.AddedToken.
    """
    model, special, settings, listed = (
        read_json(folder / name) if (folder / name).is_file() else {}
        for name in (CONFIG_NAME, SPECIAL_TOKENS_NAME, SETTINGS_NAME, ADDED_NAME)
    )
    values = {"tokenizer_class": model.get("tokenizer_class"), **special, **settings}
    names = {_content(values.get(role)) for role in _ROLES} | set(_extra_tokens(values))
    added: dict[str, dict[str, Any]] = {
        name: {"id": number, "special": name in names, "normalized": name not in names}
        for name, number in listed.items()
    }
    for number, flags in (values.get("added_tokens_decoder") or {}).items():
        token = _content(flags)
        if token is None or not str(number).isdigit():
            raise ValueError(f"{folder / SETTINGS_NAME}: added_tokens_decoder has no token {flags}")
        own = flags if isinstance(flags, dict) else {}
        added[token] = {"id": int(number), **{key: own[key] for key in _FLAGS if key in own}}
    return {**values, "added_tokens": added}


def _content(token: Any) -> str | None:
    """Return the text of a token as files write it: a string, or an object with its flags."""
    return token.get("content") if isinstance(token, dict) else token


def _extra_tokens(settings: Mapping[str, Any]) -> dict[str | None, str]:
    """Return extra special token -> the setting that names it."""
    return {_content(token): name for name in _EXTRA for token in settings.get(name) or ()}


def _check_settings(settings: Mapping[str, Any], folder: Path, *, has_file: bool) -> None:
    """Refuse what is not WordPiece on words, or names special tokens that are not known here.

    A tokenizer.json (`has_file`) says most of it itself.
    """
    name = settings.get("tokenizer_class") or "Bert"
    kind = name.removesuffix("Fast").removesuffix("Tokenizer")
    if kind not in (_IN_FILE if has_file else _WORDPIECE):
        raise _refused(f"{folder} is for a {name}; known is what does the same as BertTokenizer")
    refused = {
        "word_tokenizer_type": settings.get("word_tokenizer_type"),
        "subword_tokenizer_type": settings.get("subword_tokenizer_type"),
        "auto_map": "AutoTokenizer" in (settings.get("auto_map") or ()),
        "never_split": not has_file and settings.get("never_split"),
        "do_basic_tokenize": not has_file and settings.get("do_basic_tokenize") is False,
    }
    for option, is_set in refused.items():
        if is_set:
            raise _refused(f"{folder / SETTINGS_NAME} has {option}={settings[option]!r}")
    for role in list(_ROLES)[: _NUM_USED_ROLES if has_file else None]:
        token = _content(settings.get(role))
        if token not in (None, _ROLES[role]):
            raise _refused(f"{folder} has {token!r} for its {role}, not {_ROLES[role]}")


def _refused(what: str) -> ValueError:
    return ValueError(
        f"{what}; give a tokenizer.json that does the same by --tokenizer FILE, or --tokenizer none"
    )


def _from_json(path: Path, settings: Mapping[str, Any], lowercase: bool | None) -> tuple[Any, str]:
    """Return the tokenizer of a tokenizer.json, and its name with what was left out."""
    if lowercase is not None:
        raise ValueError(f"--lowercase is for a vocab.txt; {path} says itself what it does")
    tokenizer, content = load_tokenizer(path), read_json(path)
    normalizer = content.get("normalizer") or {}
    is_bert = normalizer.get("type") == "BertNormalizer"
    for theirs, ours in _BERT_SETTINGS.items() if is_bert else ():
        value, found = settings.get(theirs), normalizer.get(ours)
        if value not in (None, found):
            said = f"{path.parent / SETTINGS_NAME} says {theirs} {value}"
            raise _refused(f"{said}, but tokenizer.json {ours} {found}")
    stored = [name for name in ("padding", "truncation") if content.get(name)]
    return tokenizer, path.name + "".join(f"; stored {name} left out" for name in stored)


def _from_vocab(path: Path, settings: Mapping[str, Any], lowercase: bool | None) -> tuple[Any, str]:
    """Return the tokenizer of a vocab.txt and the settings beside it, and how it was made."""
    from tokenizers import normalizers

    own = settings.get("do_lower_case")
    if lowercase is not None and own is not None and lowercase != own:
        raise ValueError(f"--lowercase contradicts {path.parent / SETTINGS_NAME}, which says {own}")
    chosen = own if lowercase is None else lowercase
    lower = chosen is None or bool(chosen)
    strip = settings.get("strip_accents")
    chinese = bool(settings.get("tokenize_chinese_chars", True))
    tokenizer = wordpiece_from_vocab(read_vocab_txt(path), lowercase=lower)
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=lower, strip_accents=strip, handle_chinese_chars=chinese
    )
    how = f"lowercase {lower}; strip_accents {strip}; chinese_chars {chinese}".lower()
    return tokenizer, f"{path.name} -> {TOKENIZER_NAME}; {how}"


def _add_tokens(tokenizer: Any, settings: Mapping[str, Any], folder: Path) -> int:
    """Give a tokenizer the added tokens that it lacks; returns how many."""
    from tokenizers import AddedToken

    added = settings.get("added_tokens", {})
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    new = sorted(added.keys() - known, key=lambda name: int(added[name]["id"]))
    for name in new:
        flags = {key: value for key, value in added[name].items() if key != "id"}
        tokenizer.add_tokens([AddedToken(name, **flags)])
    for name, flags in added.items():
        if (found := tokenizer.token_to_id(name)) != flags["id"]:
            said = f"{folder}: the added token {name!r} has the id {flags['id']}"
            raise _refused(f"{said} beside the tokenizer, where the tokenizer has {found}")
    for name, setting in _extra_tokens(settings).items():
        if tokenizer.token_to_id(name) is None:
            raise ValueError(f"{folder} names {name!r} in {setting}, but no file gives it an id")
    return len(new)
