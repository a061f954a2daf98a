"""What determines the content of a shard folder, and the digest of all that."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

from data_prep.config import BuildConfig
from data_prep.manifest import FORMAT_VERSION, digest_of
from data_prep.tokenizer import load_tokenizer

LABELS = ("licence", "date")
_RULES = "2"
"""Raised when the same text and settings give other sentences, documents or splits than before."""
_SINCE_FORMAT: dict[str, dict[str, Any]] = {
    "sentences": {"split": "language"},
    "tokenizer": {"strip_accents": True},
}
"""Settings that came later, with the value older folders were made with: left out where equal."""
_NOT_CONTENT = ("output", "num_workers", "overwrite", "chunk_megabytes", "check_disk")


def content_settings(config: BuildConfig) -> dict[str, Any]:
    """Return the settings that determine the content: no paths, no workers."""
    settings = {key: value for key, value in config.to_dict().items() if key not in _NOT_CONTENT}
    for source in settings["sources"]:
        for name in ("path", "streaming", *LABELS):
            source.pop(name, None)
    settings["sources"] = list(settings["sources"])
    for group, later in _SINCE_FORMAT.items():
        for name, before in later.items():
            if settings[group][name] == before:
                del settings[group][name]
    settings["tokenizer"]["loaded"] = bool(settings["tokenizer"].pop("path"))
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain


def content_digest(config: BuildConfig, sources: list[dict[str, Any]]) -> str:
    """Return the digest of versions, settings, what is read, and a loaded tokenizer."""
    loaded = ""
    if config.tokenizer.path:
        loaded = digest_of(load_tokenizer(config.tokenizer).to_str())
    return digest_of([versions(), content_settings(config), sources, loaded])


def versions() -> dict[str, str]:
    """Return the versions of what the content depends on."""
    tools = {name: version(name) for name in ("sentencex", "tokenizers")}
    return {"format": str(FORMAT_VERSION), "rules": _RULES, **tools}
