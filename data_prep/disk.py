"""How much room a build needs, looked at before it starts and before the files are merged."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

from data_prep.config import BuildConfig, HubSource, LocalSource, Source
from data_prep.files import free_bytes
from data_prep.find import find_files, text_format
from data_prep.python_docs import module_files

BYTES_PER_CHAR = 1.8
"""Disk per character of text at the worst moment, when packed texts, token parts and the result
lie there together. Measured with a vocabulary of 30,522: 1.37 (English Wikipedia), 1.47 (novels),
1.68 (Python's documentation)."""
CHARS_PER_BYTE = {"": 1.0, ".gz": 2.8, ".zst": 3.7, ".parquet": 2.5}
"""Characters of English text per byte of a file, by compression; a bit more than measured."""
PROSE_PER_BYTE = 0.1
"""Characters of documentation per byte of Python code; measured: 0.09."""
SPARE_BYTES = 32 << 20


def check_disk(config: BuildConfig, work: Path) -> None:
    """Check that an estimate of what a build writes fits beside what it has already written.

    Raises:
        ValueError: It does not.
    """
    chars = sum(map(_expected_chars, config.sources))
    done = sum(path.stat().st_size for path in work.rglob("*") if path.is_file())
    needed = chars * BYTES_PER_CHAR - done
    _require(needed, work, f"the build of about {chars / 1e6:,.1f} million characters of text")


def check_merge(parts: list[Path], work: Path) -> None:
    """Check that the final files fit beside the parts they are made of.

    Raises:
        ValueError: They do not.
    """
    _require(sum(path.stat().st_size for path in parts), work, "merging the parts")


def _require(needed: float, work: Path, what: str) -> None:
    free = free_bytes(work)
    if needed <= 0 or needed + SPARE_BYTES <= free:
        return
    raise ValueError(
        f"{what} needs about {_megabytes(needed + SPARE_BYTES)} MB, but {work.parent} has "
        f"{_megabytes(free)} MB free. Make room, name an output on another disk, or give "
        "--check_disk false to try all the same; finished parts are kept."
    )


def _megabytes(count: float) -> str:
    return f"{math.ceil(count / 1e6):,}"


def _expected_chars(source: Source) -> float:
    """Return about how many characters a source holds; 0 where nothing tells."""
    limit = source.max_megabytes * 1e6 or math.inf
    if isinstance(source, HubSource):  # its size is known after the download only
        return limit if math.isfinite(limit) else 0.0
    if isinstance(source, LocalSource):
        return min(limit, sum(map(_file_chars, find_files(source.path))))
    modules = (path for group in module_files(source, Counter()) for path in group)
    return min(limit, PROSE_PER_BYTE * sum(path.stat().st_size for path in modules))


def _file_chars(path: Path) -> float:
    suffix = ".parquet" if text_format(path) == ".parquet" else path.suffix.lower()
    return path.stat().st_size * CHARS_PER_BYTE.get(suffix, 1.0)
