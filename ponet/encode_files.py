"""`encode`: a file of texts to a file of vectors, a few thousand texts at a time.

Invariant: row i of the output belongs to row i of the input, and the output has its name only when
it is complete. A file is read as what its name says or refused; every error names file and line.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeVar, cast

import numpy as np

from data_prep.command import CommandParser
from data_prep.files import new_file
from data_prep.readers import ReadLog, open_binary
from data_prep.table_rows import place_of, reached, read_table
from data_prep.text_lines import numbered_lines

STDIN = "-"
DEFAULT_FIELD = "text"
_LINES, _TABLES = (".txt", ".text", ""), (".jsonl", ".csv", ".tsv", ".parquet")
_BLOCK_TEXTS = 4096
ValueT = TypeVar("ValueT")


def run_encode(arguments: Sequence[str]) -> None:
    """`encode BUNDLE INPUT --output FILE`."""
    options = _parser().parse_args(arguments)
    output = options.output
    texts = TextFile(options.input, field=options.field)
    check_output("--output", output, options.input, endings=(".npy", ".jsonl"))
    from ponet.bundle import load_bundle
    from ponet.inference import Progress

    bundle = load_bundle(options.bundle)
    bundle.model.to(device_named(options.device))
    # Read once before the work begins: a bad last line must not cost what stands before it.
    progress = Progress(None if texts.is_stream else sum(1 for _ in texts))
    names = ("pooling", "batch_tokens", "max_len", "long_texts", "precision")
    form = {name: getattr(options, name) for name in names}
    width = bundle.model.config.hidden_size
    blocks = in_blocks(texts, _BLOCK_TEXTS)
    vectors = (bundle.encode(block, progress=progress, **form).numpy() for block in blocks)
    with new_file(output) as path:
        write = _write_npy if output.suffix == ".npy" else _write_jsonl
        num_rows = write(vectors, path, width)
    print(f"{num_rows:,} vectors of {width} numbers: {output}")


def in_blocks(values: Iterable[ValueT], size: int) -> Iterator[list[ValueT]]:
    """Yield all values in lists of `size`; the last one may be shorter."""
    remaining = iter(values)
    while block := list(islice(remaining, size)):
        yield block


def check_output(option: str, output: Path, source: str, *, endings: Sequence[str]) -> None:
    """Refuse the name of a file that cannot be written, before the work begins.

    Args:
        option: What the file was given by, for messages.
        output: The file.
        source: The input of the command.
        endings: Of which its name needs one.
    """
    if output.suffix not in endings:
        raise ValueError(f"{option} {output}: the name must end in {' or '.join(endings)}")
    if output.is_dir():
        raise ValueError(f"{option} {output} is a folder; name a file")
    if source != STDIN and output.exists() and output.samefile(source):
        raise ValueError(f"{option} {output} is the input itself; choose another name")


def device_named(name: str) -> Any:
    """Return a device that is there."""
    import torch

    there = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        there.append("mps")
    if name not in (*there, *(["cuda"] if "cuda:0" in there else [])):
        raise ValueError(f"--device {name} is not on this machine, which has {', '.join(there)}")
    return torch.device(name)


def _write_npy(blocks: Iterable[Any], path: Path, width: int) -> int:
    """Write a .npy file of unknown length: its header has room for the number of rows."""
    num_rows = 0
    with path.open("wb") as file:
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


def _write_jsonl(blocks: Iterable[Any], path: Path, width: int) -> int:
    """Write one object for each text: its row in the input, from 0, and its vector."""
    num_rows = 0
    with path.open("w", encoding="utf-8") as file:
        for vector in (vector for block in blocks for vector in block.tolist()):
            file.write(json.dumps({"row": num_rows, "embedding": vector}) + "\n")
            num_rows += 1
    return num_rows


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        "ponet encode",
        description="One vector for each text of a file. Texts are cut into sentences, the "
        "segments of pretraining, and may have any length.",
    )
    add = parser.add_argument
    add("bundle", type=Path, help="folder of a bundle, or of a run that holds one")
    add("input", help=".txt: one text in a line; .jsonl: one object in a line; .csv or .tsv: a "
        "row, with names in the first line; .parquet: a row; also .gz or .zst; - : lines from "
        "stdin")  # fmt: skip
    add("--output", type=Path, required=True,
        help=".npy (float32, texts x width) or .jsonl ({row, embedding})")  # fmt: skip
    add("--field",
        help=f"key or column of the text in a table (default: {DEFAULT_FIELD}); meta.text is the "
        "text inside of meta")  # fmt: skip
    add("--pooling", choices=("mean", "cls"), default="mean", help="default: mean over all tokens")
    add("--batch-tokens", type=int,
        help="tokens of a batch, which memory grows with (default: 65,536 on a GPU, 4,096 a thread "
        "on a CPU, up to four)")  # fmt: skip
    add("--precision", choices=("32", "bf16"), default="32",
        help="bf16: faster on a GPU or a CPU with AMX or AVX512-BF16, to two digits")  # fmt: skip
    add("--max-len", type=int, help="longest row in tokens (default: as in pretraining)")
    add("--long-texts", choices=("windows", "tile", "cut"), default="windows",
        help="longer texts: several windows pooled together (default), one row with repeated "
        "positions, or the beginning alone")  # fmt: skip
    add("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    return parser


class TextFile:
    """The texts of one file, in order; iterating reads it from its beginning.

    Args:
        source: .txt or no ending: a text in every line, also an empty one. .jsonl: an object in
            every line; .csv, .tsv: a row, with the columns' names in the first one (separator and
            quotes are found out, as for `finetune`); blank lines are left out; .parquet: a row.
            Each also .gz or .zst. "-": lines from stdin.
        field: Key or column of the text, where there are any, `meta.text` for one inside of
            another; None: "text".

    Raises:
        ValueError: If there is no such file, its kind is not known, or it has no fields and one is
            named; while it is read, if it is damaged or a line is no row with such a text.
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
        bare = path.with_suffix("") if path.suffix.lower() in (".gz", ".zst") else path
        self._kind = "" if self.is_stream else bare.suffix.lower()
        if self._kind not in (*_LINES, *_TABLES):
            allowed = ", ".join(filter(None, (*_LINES, *_TABLES)))
            raise ValueError(
                f"{source}: {self._kind} files are not read; give {allowed} (also .gz or .zst), or "
                "lines by stdin: -"
            )
        if field is not None and self._kind not in _TABLES:
            raise ValueError(
                f"--field {field} would do nothing: {source} holds a text in every line; fields "
                f"are in {', '.join(_TABLES)} files"
            )
        self.field = field or DEFAULT_FIELD

    def __iter__(self) -> Iterator[str]:
        """Yield the texts."""
        if self._kind in _LINES:
            return (line.rstrip("\r\n") for _, line in self._lines())
        return self._column()

    def _lines(self) -> Iterator[tuple[int, str]]:
        """Yield number and text of every line, with its end; CR ends lines where no LF does."""
        with ExitStack() as stack:
            yield from numbered_lines(self._open(stack), self.source)

    def _open(self, stack: ExitStack) -> BinaryIO:
        if self.source == STDIN:
            return sys.stdin.buffer
        log = ReadLog()
        stream = open_binary(Path(self.source), log)
        stack.callback(cast(BinaryIO, log.raw).close)
        return stream

    def _column(self) -> Iterator[str]:
        """Yield the text of every row."""
        for line, row in read_table(self.source, is_own=True, bad=self._refuse):
            text = reached(row, self.field)
            if not isinstance(text, str):
                there = ", ".join(map(repr, row)) or "none"
                reason = f"has no text under {self.field!r}; it has {there}. Name its key or column"
                self._refuse(line, f"{reason} by --field")
            else:
                yield text

    def _refuse(self, line: int, reason: str) -> None:
        raise ValueError(f"{place_of(self.source, line)}: {reason}")
