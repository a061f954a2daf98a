"""`encode`: a file of texts to a file of vectors, a few thousand texts at a time.

Invariant: row i of the output belongs to row i of the input, and the output has its name only when
it is complete. A file is read as what its name says or refused; every error names file and line.
"""

import argparse
import csv
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import numpy as np

from data_prep.readers import ReadLog, open_binary

STDIN = "-"
DEFAULT_FIELD = "text"
_LINES, _TABLES = (".txt", ".text", ""), (".jsonl", ".csv", ".tsv")
_COMPRESSIONS = (".gz", ".zst")
_BLOCK_TEXTS = 4096


def run_encode(arguments: Sequence[str]) -> None:
    """`encode BUNDLE INPUT --output FILE`."""
    options = _parser().parse_args(arguments)
    _check_output(options.output, options.input)
    texts = TextFile(options.input, field=options.field)
    from ponet.bundle import load_bundle
    from ponet.inference import Progress

    bundle = load_bundle(options.bundle)
    bundle.model.to(_device(options.device))
    # Read once before the work begins: a bad last line must not cost what stands before it.
    progress = Progress(None if texts.is_stream else sum(1 for _ in texts))

    def vectors(block: list[str]) -> Array:
        return bundle.encode(
            block,
            pooling=options.pooling,
            batch_size=options.batch_size,
            max_len=options.max_len,
            long_texts=options.long_texts,
            progress=progress,
        ).numpy()

    write = _write_npy if options.output.suffix == ".npy" else _write_jsonl
    width = bundle.model.config.hidden_size
    num_rows = write(_blocks(iter(texts), vectors), options.output, width=width)
    print(f"{num_rows:,} vectors of {width} numbers: {options.output}")


def _check_output(output: Path, source: str) -> None:
    if output.suffix not in (".npy", ".jsonl"):
        raise ValueError(f"--output {output}: the name must end in .npy or .jsonl")
    if output.is_dir():
        raise ValueError(f"--output {output} is a folder; name a file")
    if source != STDIN and output.exists() and output.samefile(source):
        raise ValueError(f"--output {output} is the input itself; choose another name")


def _device(name: str) -> Any:
    """Return a device that is there."""
    import torch

    there = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        there.append("mps")
    if name not in (*there, *(["cuda"] if "cuda:0" in there else [])):
        raise ValueError(f"--device {name} is not on this machine, which has {', '.join(there)}")
    return torch.device(name)


Array = Any
"""float32 (rows, D)."""


def _blocks(texts: Iterator[str], vectors: Callable[[list[str]], Array]) -> Iterator[Array]:
    while block := list(islice(texts, _BLOCK_TEXTS)):
        yield vectors(block)


def _write_npy(blocks: Iterator[Array], output: Path, *, width: int) -> int:
    """Write a .npy file of unknown length: its header has room for the number of rows."""
    num_rows = 0
    with _put_in_place(output) as path, path.open("wb") as file:
        length = _npy_header(file, (0, width))
        for block in blocks:
            file.write(np.ascontiguousarray(block, dtype="<f4").tobytes())
            num_rows += len(block)
        file.seek(0)
        assert _npy_header(file, (num_rows, width)) == length
    return num_rows


def _npy_header(file: IO[bytes], shape: tuple[int, int]) -> int:
    """Write a header at the start of a file; its length is that of any other number of rows."""
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.tell()


def _write_jsonl(blocks: Iterator[Array], output: Path, *, width: int) -> int:
    """Write one object for each text: its row in the input, from 0, and its vector."""
    num_rows = 0
    with _put_in_place(output) as path, path.open("w", encoding="utf-8") as file:
        for block in blocks:
            for vector in block.tolist():
                file.write(json.dumps({"row": num_rows, "embedding": vector}) + "\n")
                num_rows += 1
    return num_rows


@contextmanager
def _put_in_place(output: Path) -> Iterator[Path]:
    """Give a temporary name beside the output, and rename it when all is written."""
    output.parent.mkdir(parents=True, exist_ok=True)
    path = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        yield path
        os.replace(path, output)
    finally:
        path.unlink(missing_ok=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "ponet encode",
        description="One vector for each text of a file. Texts are cut into sentences, the "
        "segments of pretraining, and may have any length.",
    )
    parser.add_argument("bundle", type=Path, help="folder of a bundle, or of a run that holds one")
    parser.add_argument(
        "input",
        help=".txt: one text in a line; .jsonl: one object in a line; .csv or .tsv: a row, with "
        "names in the first line; also .gz or .zst; - : lines from stdin",
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help=".npy (float32, texts x width) or .jsonl ({row, embedding})",
    )
    parser.add_argument(
        "--field", help=f"key or column of the text in a table (default: {DEFAULT_FIELD})"
    )
    parser.add_argument(
        "--pooling", choices=("mean", "cls"), default="mean", help="default: mean over all tokens"
    )
    parser.add_argument(
        "--batch-size", type=int, default=32, help="rows of --max-len tokens (default: 32)"
    )
    parser.add_argument(
        "--max-len", type=int, help="longest row in tokens (default: as in pretraining)"
    )
    parser.add_argument(
        "--long-texts",
        choices=("windows", "tile", "cut"),
        default="windows",
        help="longer texts: several windows pooled together (default), one row with repeated "
        "positions, or the beginning alone",
    )
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    return parser


class TextFile:
    """The texts of one file, in order; iterating reads it from its beginning.

    Args:
        source: .txt or no ending: a text in every line, also an empty one. .jsonl: an object in
            every line; .csv, .tsv: a row, with the columns' names in the first one (a .tsv has no
            quotes); blank lines are left out. Each also .gz or .zst. "-": lines from stdin.
        field: Key or column of the text, where there are any; None: "text".

    Raises:
        ValueError: If there is no such file, its kind is not known, or it has no fields and one is
            named.
    """

    def __init__(self, source: str, *, field: str | None = None) -> None:
        """Look at the name alone."""
        self.source = source
        path = Path(source)
        if source != STDIN and (path.is_dir() or not path.exists()):
            what = "is a folder" if path.is_dir() else "does not exist"
            raise ValueError(f"{source} {what}; give a file of texts, or - for stdin")
        self.is_stream = source == STDIN or not path.is_file()
        """It can be read once only."""
        self._kind, self._compression = _kind_of(source)
        if field is not None and self._kind not in _TABLES:
            raise ValueError(
                f"--field {field} would do nothing: {source} holds a text in every line; fields "
                f"are in {', '.join(_TABLES)} files"
            )
        self.field = field or DEFAULT_FIELD

    def __iter__(self) -> Iterator[str]:
        """Yield the texts.

        Raises:
            ValueError: If a line is not UTF-8 or is no row with such a text, or the file is
                damaged; names the line.
        """
        readers = {".jsonl": self._objects, ".csv": self._csv, ".tsv": self._tsv}
        yield from readers.get(self._kind, self._plain)()

    def _lines(self) -> Iterator[tuple[int, str]]:
        """Yield number and text of every line, with its end; only line feeds end lines."""
        with ExitStack() as stack:
            stream = self._open(stack)
            number = 0
            while True:
                number += 1
                try:
                    raw = stream.readline()
                except (EOFError, OSError, zlib.error) as error:
                    raise self._error(number, f"cannot be read ({error})") from error
                if not raw:
                    return
                try:
                    yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise self._error(
                        number, f"is not UTF-8 ({error}); convert the file with iconv"
                    ) from error

    def _open(self, stack: ExitStack) -> BinaryIO:
        if self.source == STDIN:
            return sys.stdin.buffer
        log = ReadLog()
        stream = open_binary(Path(self.source), log)
        stack.callback(cast(BinaryIO, log.raw).close)
        return stream

    def _plain(self) -> Iterator[str]:
        for _, line in self._lines():
            yield line.rstrip("\r\n")

    def _objects(self) -> Iterator[str]:
        for number, line in self._lines():
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise self._error(number, f"is not valid JSON ({error})") from error
            if not isinstance(row, dict) or not isinstance(row.get(self.field), str):
                raise self._error(
                    number, f"has no text under {self.field!r}; name its key by --field"
                )
            yield row[self.field]

    def _csv(self) -> Iterator[str]:
        csv.field_size_limit(sys.maxsize)  # the default refuses texts over 128 KiB
        reader = csv.reader((line for _, line in self._lines()), strict=True)

        def rows() -> Iterator[tuple[int, list[str]]]:
            while True:
                number = reader.line_num + 1
                try:
                    cells = next(reader, None)
                except csv.Error as error:
                    raise self._error(number, f"is not valid CSV ({error})") from error
                if cells is None:
                    return
                if cells:
                    yield number, cells

        return self._column(rows(), "quote texts that hold commas")

    def _tsv(self) -> Iterator[str]:
        rows = (
            (number, line.rstrip("\r\n").split("\t"))
            for number, line in self._lines()
            if line.strip(" \r\n")
        )
        return self._column(rows, "a .tsv has no quotes; save texts with tabs or lines as .csv")

    def _column(self, rows: Iterator[tuple[int, list[str]]], advice: str) -> Iterator[str]:
        number, header = next(rows, (1, []))
        place = self._place(number, header)
        for number, cells in rows:
            if len(cells) != len(header):
                raise self._error(
                    number,
                    f"has {len(cells)} columns, but the first line names {len(header)}; {advice}",
                )
            text = cells[place]
            if self._kind == ".tsv" and text.startswith('"') and text.count('"') % 2:
                if len(header) == 1:  # more columns would not fit where a quoted line break is
                    raise self._error(number, f"begins with a quote that is left open; {advice}")
            yield text

    def _place(self, number: int, header: Sequence[str]) -> int:
        names = [name.strip() for name in header]
        if names.count(self.field) == 1:
            return names.index(self.field)
        if self.field in names:
            raise self._error(number, f"names the column {self.field!r} more than once")
        separator = "a comma" if self._kind == ".csv" else "a tab"
        raise self._error(
            number,
            f"names no column {self.field!r}; it has {', '.join(map(repr, names)) or 'none'}. "
            f"Name the text's by --field; columns are separated by {separator}",
        )

    def _error(self, number: int, what: str) -> ValueError:
        return ValueError(f"{self.source}:{number} {what}")


def _kind_of(source: str) -> tuple[str, str]:
    """Return ending and compression of a name, both in lower case."""
    path = Path(source)
    if source == STDIN or not path.is_file():
        return "", ""
    compression = path.suffix.lower() if path.suffix.lower() in _COMPRESSIONS else ""
    kind = (path.with_suffix("") if compression else path).suffix.lower()
    if kind not in (*_LINES, *_TABLES):
        allowed = ", ".join(name for name in (*_LINES, *_TABLES) if name)
        raise ValueError(
            f"{source}: {kind} files are not read; give {allowed} (also .gz or .zst), or lines by "
            "stdin: -"
        )
    return kind, compression
