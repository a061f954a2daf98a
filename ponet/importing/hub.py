"""The files of a checkpoint on the Hugging Face Hub, all of one commit."""

from collections.abc import Callable
from pathlib import Path

from ponet.importing.tokenizer_settings import ADDED_NAME, SETTINGS_NAME, SPECIAL_TOKENS_NAME
from ponet.weight_files import (
    CONFIG_NAME,
    INDEX_SUFFIX,
    PICKLE_NAME,
    TOKENIZER_NAME,
    WEIGHTS_NAME,
    index_parts,
    read_json,
)

_OPTIONAL = ("configuration.json", TOKENIZER_NAME, SETTINGS_NAME, SPECIAL_TOKENS_NAME, ADDED_NAME,
             "vocab.txt")  # fmt: skip
_COMMIT_LEN = 40


def download(repo: str, *, revision: str) -> Path:
    """Return the local folder with the configuration, weights and tokenizer of a repository.

    Of several forms of the weights one is fetched, safetensors first.

    Args:
        repo: "owner/name".
        revision: Branch, tag or commit; whatever it is, all files come from one commit.

    Raises:
        ValueError: If the Hub cannot be reached, or has no such repository, revision or weights.
    """
    fetch = _fetcher(repo)
    config = fetch(CONFIG_NAME, revision)
    if config is None:
        raise ValueError(
            f"{repo} has no {CONFIG_NAME} at revision {revision}, so it is no model that this "
            "command knows"
        )
    commit = config.parent.name if len(config.parent.name) == _COMMIT_LEN else revision
    for name in (WEIGHTS_NAME, PICKLE_NAME):
        if fetch(name, commit) is not None:
            break
        index = fetch(name + INDEX_SUFFIX, commit)
        if index is not None:
            for part in index_parts(read_json(index), str(index)):
                fetch(part, commit)
            break
    else:
        raise ValueError(f"{repo} holds neither {WEIGHTS_NAME} nor {PICKLE_NAME} at {commit}")
    for name in _OPTIONAL:
        fetch(name, commit)
    return config.parent


def _fetcher(repo: str) -> Callable[[str, str], Path | None]:
    """Return what fetches one file; None where the repository has no such file."""
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError
    except ImportError as error:
        raise ValueError(
            f"{repo} is no file here, and the Hub needs a package: pip install -e '.[hub]'"
        ) from error

    def fetch(name: str, revision: str) -> Path | None:
        try:
            return Path(hf_hub_download(repo, name, revision=revision))
        except (OSError, ValueError, EntryNotFoundError) as error:
            # Without a connection the class is EntryNotFoundError too, but also this one.
            if isinstance(error, EntryNotFoundError) and not isinstance(error, FileNotFoundError):
                return None
            raise ValueError(
                f"{repo} is neither a file or folder here nor to be had from the Hub at revision "
                f"{revision} ({type(error).__name__} at {name}); check the name, or download it "
                "elsewhere and give its folder"
            ) from error

    return fetch
