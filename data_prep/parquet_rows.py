"""Rows of parquet files to raw documents."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.config import LocalSource
from data_prep.files import DiskFull, is_disk_full
from data_prep.find import shown
from data_prep.readers import (
    BLOCK,
    DamagedInput,
    OnError,
    ReadLog,
    UnsupportedInput,
    decode,
    open_binary,
)


def parquet_rows(path: Path, source: LocalSource, log: ReadLog) -> Iterator[str]:
    """Yield the text of every row.

    Raises:
        DamagedInput: Damage, no such column or one without text, unless the source says skip.
        UnsupportedInput: The file is whole but encrypted or packed in a way unknown here.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    with contextlib.ExitStack() as stack:
        try:
            table = pq.ParquetFile(_seekable(path, log, stack))
            _check_column(path, source.text_field, table.schema_arrow)
            for batch in table.iter_batches(batch_size=256, columns=[source.text_field]):
                for text in _texts(batch, source.text_field, log):
                    row += 1
                    if isinstance(text, str):
                        yield text
                    else:
                        reason = f"column '{source.text_field}' is empty"
                        _parquet_damage(path, row, reason, source.on_error, log)
        except (pa.ArrowNotImplementedError, pa.ArrowMemoryError) as error:
            raise _unsupported(path, error) from error
        except (pa.ArrowException, EOFError, OSError, zlib.error) as error:
            if isinstance(error, DiskFull) or (isinstance(error, OSError) and error.errno):
                raise
            if "encrypt" in str(error).lower():
                raise _unsupported(path, error) from error
            _parquet_damage(path, row, str(error), source.on_error, log)


def _seekable(path: Path, log: ReadLog, stack: contextlib.ExitStack) -> Any:
    """Return what pyarrow opens: the file, or its unpacked copy until the stack is closed.

    Raises:
        DiskFull: There is no room for the copy.
    """
    if path.suffix.lower() not in (".gz", ".zst"):
        return path
    copy = stack.enter_context(tempfile.TemporaryFile())
    try:
        shutil.copyfileobj(stack.enter_context(open_binary(path, log)), copy, BLOCK)
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise DiskFull(
            f"{shown(path)} cannot be unpacked into {tempfile.gettempdir()}: "
            f"{error.strerror}. Make room there, or name another folder in TMPDIR."
        ) from error
    copy.seek(0)
    return copy


def _texts(batch: Any, text_field: str, log: ReadLog) -> list[Any]:
    """Return the values of a column, or of a field inside one of several fields."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = batch.column(0)
    for part in text_field.split(".")[1:] if pa.types.is_struct(column.type) else ():
        column = pc.struct_field(column, part)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        values = column.cast(pa.large_binary()).to_pylist()
        return [value if value is None else decode(value, log) for value in values]


def _check_column(path: Path, text_field: str, schema: Any) -> None:
    import pyarrow as pa

    fields = list(schema)
    name, *inner = [text_field] if text_field in schema.names else text_field.split(".")
    for part in (name, *inner):
        found = [item for item in fields if item.name == part]
        if len(found) != 1:
            names = ", ".join(item.name for item in fields)
            fault, mend = f"has no column '{text_field}'", "Set text_field."
            if found:
                fault, mend = f"has the column '{part}' {len(found)} times", "Rename one of them."
            raise DamagedInput(f"{shown(path)}: {fault}; it has {names}. {mend}")
        kind = found[0].type
        fields = list(kind) if pa.types.is_struct(kind) else []
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if str(value) not in ("string", "large_string", "string_view"):
        raise DamagedInput(
            f"{shown(path)}: column '{text_field}' holds {kind}, not text. Set text_field."
        )


def _unsupported(path: Path, error: Exception) -> UnsupportedInput:
    return UnsupportedInput(
        f"{shown(path)}: cannot be read by this pyarrow ({' '.join(str(error).split())}); write it "
        "again with a usual compression (snappy, zstd) and without encryption."
    )


def _parquet_damage(path: Path, row: int, reason: str, on_error: OnError, log: ReadLog) -> None:
    if on_error == "error":
        raise DamagedInput(
            f"{shown(path)}, row {row}: {' '.join(reason.split())}; repair the file, or set "
            "on_error: skip to leave out and count what is damaged."
        )
    log.counters["damaged_rows" if row else "truncated_files"] += 1
