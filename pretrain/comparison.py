"""Data settings side by side: those of a checkpoint or a bundle, and those of a command."""

from collections.abc import Iterable, Mapping
from typing import Any

EVALUATED = ("data", "max_len", "short_prob", "segments", "needles")
"""Entries of a fingerprint that decide what an evaluation reads, once the model is the same."""
_SENTENCES = {"rule": "sentence"}
"""What a bundle says nothing about: sentences are the segments."""


def differences(
    saved: Mapping[str, Any], given: Mapping[str, Any], names: Iterable[str]
) -> list[str]:
    """Return in words which of the named entries of two fingerprints differ."""
    return [
        f"{name} was {_shown(saved.get(name))}, now {_shown(given.get(name))}"
        for name in sorted(names)
        if saved.get(name) != given.get(name)
    ]


def differences_from_bundle(metadata: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Return in words where data differ from what the weights of a bundle were trained on.

    Of settings that bundles do not keep nothing is said.

    Args:
        metadata: Of the bundle; that of released and converted weights says nothing of data.
        given: Fingerprint of the data.
    """
    saved = {
        "data": metadata.get("data_digest"),
        "max_len": metadata.get("max_len"),
        "segments": metadata.get("segments") or _SENTENCES,
    }
    if given["segments"]["rule"] == "sentence":
        given = {**given, "segments": _SENTENCES}
    unknown = [name for name, value in saved.items() if value is None]
    known = differences(saved, given, saved.keys() - {*unknown})
    return [*known, *(f"{name} is not known of the weights" for name in unknown)]


def _shown(value: Any) -> str:
    """Return a value as it is written; of a digest (SHA-256, hex) the beginning, and what it is."""
    is_digest = isinstance(value, str) and len(value) == 64
    return f"of digest {value[:12]}" if is_digest else repr(value)
