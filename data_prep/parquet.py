"""Rows of Parquet files, plain or packed, as streams.

Invariant: a file is read to its end, or what is wrong with it is told with file and row.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data_prep.files import DiskFull, is_disk_full
from data_prep.readers import (
    BLOCK,
    DamagedInput,
    ReadLog,
    UnsupportedInput,
    decode,
    open_binary,
    shown,
)

_BATCH_ROWS = 256


def parquet_rows(path: Path, text_field: str, log: ReadLog) -> Iterator[str]:
    """Yield the text of every row."""

    def damaged(reason: str) -> None:
        log.damaged(reason, "damaged_rows" if log.number else "truncated_files")

    log.place, log.number = f"{shown(path)}, row", 0
    with _faults(path, damaged), contextlib.ExitStack() as stack:
        table = _table(path, log, stack)
        _check_column(path, text_field, table.schema_arrow)
        for batch in table.iter_batches(batch_size=_BATCH_ROWS, columns=[text_field]):
            for text in _column_texts(batch, text_field, log):
                log.number += 1
                if isinstance(text, str):
                    yield text
                else:
                    log.damaged(f"column '{text_field}' is empty", "damaged_rows")


def numbered_values(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (number from 1, column -> value) for every row; categories are their values.

    Raises:
        ValueError: A column's name occurs twice, or the file is damaged.
    """

    def damaged(reason: str) -> None:
        raise ValueError(
            f"{shown(path)}: cannot be read as Parquet ({' '.join(reason.split())}); write the "
            "file again"
        )

    number = 0
    with _faults(path, damaged), contextlib.ExitStack() as stack:
        table = _table(path, ReadLog(), stack)
        names = table.schema_arrow.names
        if len(set(names)) < len(names):
            raise ValueError(f"{shown(path)}: a column name occurs twice: {names}")
        for batch in table.iter_batches(batch_size=_BATCH_ROWS):
            pairs = zip(names, batch.columns, strict=True)
            columns = [_values(column, name, path, number + 1) for name, column in pairs]
            for values in zip(*columns, strict=True):
                number += 1
                yield number, dict(zip(names, values, strict=True))


def _values(column: Any, name: str, path: Path, first: int) -> list[Any]:
    """Return the values of a column of a batch whose first row has this number."""
    try:
        return list(column.to_pylist())
    except ValueError:  # of which UnicodeDecodeError is one
        for number, value in enumerate(column, first):
            try:
                value.as_py()
            except ValueError as error:
                raise ValueError(
                    f"{shown(path)}, row {number}: {name!r} cannot be read ({error}); write it "
                    "again, texts in UTF-8"
                ) from None
        raise


@contextlib.contextmanager
def _faults(path: Path, damaged: Callable[[str], None]) -> Iterator[None]:
    """Call `damaged` with what ends the reading of a file too early.

    Raises:
        UnsupportedInput: The file is whole, but cannot be read here.
        OSError: The file cannot be read, whatever is in it.
    """
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, EOFError, OSError, zlib.error) as error:
        if isinstance(error, DiskFull) or (isinstance(error, OSError) and error.errno):
            raise
        unknown = isinstance(error, pa.ArrowNotImplementedError | pa.ArrowMemoryError)
        if unknown or "encrypt" in str(error).lower():
            raise UnsupportedInput(
                f"{shown(path)}: cannot be read by this pyarrow "
                f"({' '.join(str(error).split())}); write it again with a usual compression "
                "(snappy, zstd) and without encryption."
            ) from error
        damaged(str(error))


def _table(path: Path, log: ReadLog, stack: contextlib.ExitStack) -> Any:
    import pyarrow.parquet as pq

    return pq.ParquetFile(_seekable(path, log, stack))


def _seekable(path: Path, log: ReadLog, stack: contextlib.ExitStack) -> Any:
    """Return what pyarrow opens: the file, or its unpacked copy until the stack is closed."""
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


def _column_texts(batch: Any, text_field: str, log: ReadLog) -> list[Any]:
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

    kind: Any = None
    fields = list(schema)
    for part in [text_field] if text_field in schema.names else text_field.split("."):
        found = [item.type for item in fields if item.name == part]
        if len(found) != 1:
            fault, mend = f"no column '{text_field}'", "Set text_field."
            if found:
                fault, mend = f"the column '{part}' {len(found)} times", "Rename one of them."
            names = ", ".join(item.name for item in fields)
            raise DamagedInput(f"{shown(path)}: has {fault}; it has {names}. {mend}")
        kind = found[0]
        fields = list(kind) if pa.types.is_struct(kind) else []
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if str(value) not in ("string", "large_string", "string_view"):
        raise DamagedInput(
            f"{shown(path)}: column '{text_field}' holds {kind}, not text. Set text_field."
        )
