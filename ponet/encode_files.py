"""`encode`: a file of texts to a file of vectors, a few thousand texts at a time.

Invariant: row i of the output belongs to row i of the input, and the output has its name only when
it is complete.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

STDIN = "-"
_BLOCK_TEXTS = 4096


def run_encode(arguments: Sequence[str]) -> None:
    """`encode BUNDLE INPUT --output FILE`."""
    options = _parser().parse_args(arguments)
    if options.output.suffix not in (".npy", ".jsonl"):
        raise ValueError(f"--output {options.output}: the name must end in .npy or .jsonl")
    from ponet.checkpoint import load_bundle

    bundle = load_bundle(options.bundle)
    bundle.model.to(options.device)
    write = _write_npy if options.output.suffix == ".npy" else _write_jsonl
    source = options.input

    def vectors(texts: list[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        encoded = bundle.encode(
            texts,
            pooling=options.pooling,
            batch_size=options.batch_size,
            max_len=options.max_len,
            long_texts=options.long_texts,
        )
        array: np.ndarray[Any, np.dtype[np.float32]] = encoded.numpy()
        return array

    with _input(source) as lines:
        texts = read_texts(lines, source=source, field=options.field)
        blocks = _blocks(texts, vectors)
        num_rows = write(blocks, options.output, width=bundle.model.config.hidden_size)
    print(f"{num_rows:,} vectors of {bundle.model.config.hidden_size} numbers: {options.output}")


def read_texts(lines: IO[bytes], *, source: str, field: str) -> Iterator[str]:
    """Yield the texts of a file, one for each line.

    Args:
        lines: The open file; UTF-8, with or without a byte order mark.
        source: Its name; .jsonl means an object in every line, any other name plain text, where
            an empty line is an empty text.
        field: Which value of an object is the text.

    Raises:
        ValueError: If a line is not UTF-8, or holds no object or no such text; the message names
            the line.
    """
    is_json = source.endswith(".jsonl")
    for number, raw in enumerate(lines, start=1):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{source}:{number} is not UTF-8 ({error}); convert the file"
            ) from error
        if not is_json:
            yield line.rstrip("\r\n")
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{source}:{number} is not valid JSON ({error})") from error
        if not isinstance(row, dict) or not isinstance(row.get(field), str):
            raise ValueError(
                f"{source}:{number} has no text under {field!r}; name its key by --field"
            )
        yield row[field]


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


@contextmanager
def _input(source: str) -> Iterator[IO[bytes]]:
    if source == STDIN:
        yield sys.stdin.buffer
        return
    if not Path(source).is_file():
        raise ValueError(f"{source} does not exist; give a file of texts, or - for stdin")
    with Path(source).open("rb") as file:
        yield file


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "ponet encode",
        description="One vector for each text of a file. Texts are cut into sentences, the "
        "segments of pretraining, and may have any length.",
    )
    parser.add_argument("bundle", type=Path, help="bundle folder")
    parser.add_argument(
        "input", help="one text in a line; .jsonl: one object in a line; - : lines from stdin"
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help=".npy (float32, texts x width) or .jsonl ({row, embedding})",
    )
    parser.add_argument("--field", default="text", help="key of the text in .jsonl (default: text)")
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
