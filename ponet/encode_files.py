"""`encode`: a file of texts to a file of vectors, a few thousand texts at a time.

Invariant: row i of the output belongs to row i of the input, and the output has its name only when
it is complete.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from ponet.text_files import DEFAULT_FIELD, STDIN, TextFile

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
