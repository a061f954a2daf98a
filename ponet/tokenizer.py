"""The one reader of tokenizer.json, and whether it is the tokenizer that a model knows.

Invariant: a tokenizer that was read neither pads nor cuts, whatever its file stores: lengths and
padding are the caller's business, and a stored setting would change what a text gets.
"""

from pathlib import Path
from typing import Any, NamedTuple

from data_prep.manifest import SPECIAL_ROLES, digest_of, read_tokenizer, read_vocab
from ponet.weight_files import read_json

_DECIDES_IDS = ("normalizer", "pre_tokenizer", "model", "added_tokens")


def load_tokenizer(path: Path) -> Any:
    """Return the tokenizer of a tokenizer.json, of any kind, without stored padding or truncation.

    Raises:
        ValueError: If the file is missing or broken.
    """
    import tokenizers

    read_tokenizer(path)  # says what is wrong with the file
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:
        if type(error) is not Exception:  # that very class is all that the library raises
            raise
        raise ValueError(
            f"{path} cannot be read by tokenizers {tokenizers.__version__} ({error}); a newer "
            "version may have written it"
        ) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def special_names(tokenizer: Any, where: str) -> dict[str, str]:
    """Return role -> token of a tokenizer; a mask token and one for unknown words may be missing.

    Raises:
        ValueError: If there is none to begin, end or pad a sequence.
    """
    found = {}
    for role, names in SPECIAL_ROLES.items():
        known = [name for name in names if tokenizer.token_to_id(name) is not None]
        if known:
            found[role] = known[0]
        elif role in ("cls_token", "sep_token", "pad_token"):
            raise ValueError(f"{where} has no {role}; one of {', '.join(names)} is needed")
    return found


class TokenizerFacts(NamedTuple):
    """What a reader of texts needs to know of a tokenizer of any kind."""

    digest: str
    """`ids_digest` of its file."""
    vocab_size: int
    """Rows of word embeddings that it needs."""
    cls_id: int
    """Begins a sequence."""
    sep_id: int
    """Ends each text."""
    pad_id: int
    """Fills rows up to a common length."""
    unk_id: int
    """Stands for what the tokenizer does not know; sep_id where it has nothing for that."""


def tokenizer_facts(tokenizer: Any, path: Path) -> TokenizerFacts:
    """Return the facts of a tokenizer that `load_tokenizer` read from a file.

    Raises:
        ValueError: If it has no token to begin, end or pad a sequence.
    """
    names = special_names(tokenizer, str(path))
    names.setdefault("unk_token", names["sep_token"])
    roles = ("cls_token", "sep_token", "pad_token", "unk_token")
    return TokenizerFacts(
        ids_digest(path), num_ids(path), *(tokenizer.token_to_id(names[role]) for role in roles)
    )


def num_ids(path: Path) -> int:
    """Return how many rows of word embeddings a tokenizer.json needs: its largest id plus one."""
    return max(read_vocab(path).values(), default=-1) + 1


def ids_digest(path: Path) -> str:
    """Return the sha256 over all that decides which ids a tokenizer.json gives to a text."""
    content = read_json(path)
    return digest_of({key: content.get(key) for key in _DECIDES_IDS})


def check_tokenizer(path: Path, *, vocab_size: int, digest: str | None = None) -> None:
    """Refuse a tokenizer.json that is not the one of a model.

    Args:
        path: The file.
        vocab_size: Rows of the model's word embeddings; fewer entries are allowed.
        digest: `ids_digest` of the tokenizer that the model was stored with, where it is known.

    Raises:
        ValueError: If the file is broken, has an id beyond the embeddings, or another digest.
    """
    size = num_ids(path)
    if size > vocab_size:
        raise ValueError(
            f"{path} has {size} entries, but the model's word embeddings have {vocab_size} rows; "
            "put the tokenizer of this model there"
        )
    if digest is not None and ids_digest(path) != digest:
        raise ValueError(
            f"{path} is not the tokenizer that this model was stored with (another digest), so "
            "its ids would mean other words; put that file back"
        )
