"""Intermediate files of a build: arrays and counters in one file, written at once.

A part that exists is finished; a build that was stopped goes on with the parts it finds.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.files import write_atomic

Arrays = dict[str, npt.NDArray[Any]]
Part = tuple[Arrays, dict[str, int]]
_COUNTERS = "counters"
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError),
    *(KeyError, ValueError, NotImplementedError, RuntimeError),
)


def save_part(path: Path, arrays: Mapping[str, npt.NDArray[Any]], counters: object) -> None:
    """Write arrays and a JSON-like value into one file, at once.

    The disk is not waited for: a part that a loss of power damaged is found and made again.
    """
    encoded = np.frombuffer(json.dumps(counters).encode("utf-8"), np.uint8)
    stream = io.BytesIO()
    np.savez(stream, **{**arrays, _COUNTERS: encoded})  # type: ignore[arg-type]
    write_atomic(path, stream.getbuffer(), durable=False)


def load_part(path: Path, names: Sequence[str] | None = None) -> Part:
    """Return arrays (all, or those named) and counters of a part.

    Raises:
        OSError: The file is damaged or missing.
    """
    try:
        with np.load(path) as content:
            wanted = [name for name in content.files if name != _COUNTERS]
            arrays = {name: content[name] for name in (names if names is not None else wanted)}
            counters = json.loads(content[_COUNTERS].tobytes())
    except _DAMAGE as error:
        raise OSError(f"{path}: is damaged ({error})") from error
    return arrays, counters


def is_finished(path: Path) -> bool:
    """Return whether a part is there and readable to its end; remove a damaged one."""
    if not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is None:
                return True
    except (OSError, *_DAMAGE):
        pass
    path.unlink()
    return False


def pack_texts(texts: Sequence[str]) -> Arrays:
    """Return texts as arrays: `text`, zstd-compressed UTF-8, and `byte_lens`, int64 (D,)."""
    import zstandard

    encoded = [text.encode("utf-8") for text in texts]
    blob = zstandard.ZstdCompressor(level=1).compress(b"".join(encoded))
    lens = np.fromiter(map(len, encoded), np.int64, len(encoded))
    return {"text": np.frombuffer(blob, np.uint8), "byte_lens": lens}


def unpack_texts(arrays: Mapping[str, npt.NDArray[Any]]) -> list[str]:
    """Return the texts that `pack_texts` packed."""
    import zstandard

    data = zstandard.ZstdDecompressor().decompress(arrays["text"].tobytes())
    ends = np.cumsum(arrays["byte_lens"]).tolist()
    starts = [0, *ends][: len(ends)]
    return [data[start:end].decode("utf-8") for start, end in zip(starts, ends, strict=True)]
