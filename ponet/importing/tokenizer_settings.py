"""What stands beside a tokenizer: its class, settings, added tokens; followed or refused.

Invariant: a setting that changes which ids a text gets is never passed over.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ponet.weight_files import CONFIG_NAME, read_json

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
