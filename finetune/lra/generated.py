"""Generated tasks: made once by seeded blocks, kept in a folder, checked by digest when read.

Invariant: a block is a function of task, version, seed and its number; what was interrupted goes on
with the blocks that are missing or not on record yet, and a block whose digest differs from its
record is an error.
"""

import hashlib
import io
import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from data_prep.files import file_lock, write_atomic, write_json
from data_prep.pool import WorkerPool
from finetune.lra.listops import BLOCK, draw_block
from finetune.lra.pathfinder import draw_pictures
from finetune.lra.splits import LraSplit, TaskName, padded, pixel_split

VERSION = 1
"""Of the generators; another number makes other folders."""
RECORD = "digests.json"


class Block(NamedTuple):
    """Samples as they are stored. T tokens of all of them, n samples."""

    tokens: NDArray[np.uint8]
    """(T,)."""
    lengths: NDArray[np.int32]
    """(n,)."""
    labels: NDArray[np.uint8]
    """(n,)."""


def listops_block(seed: int, number: int, count: int) -> Block:
    """Return one block of ListOps."""
    samples = draw_block(seed, number, count)
    tokens = np.frombuffer(b"".join(ids for ids, _ in samples), np.uint8)
    lengths = np.array([len(ids) for ids, _ in samples], np.int32)
    return Block(tokens, lengths, np.array([label for _, label in samples], np.uint8))


def pathfinder_block(seed: int, number: int, count: int) -> Block:
    """Return one block of Pathfinder pictures."""
    drawn = draw_pictures(count, seed, number)
    lengths = np.full(count, drawn.images[0].size, np.int32)
    return Block(drawn.images.reshape(-1), lengths, drawn.labels)


_MAKERS: Mapping[str, Callable[[int, int, int], Block]] = {
    "listops": listops_block,
    "pathfinder32": pathfinder_block,
}


def generated_folder(cache: Path, task: TaskName, seed: int) -> Path:
    """Return where the blocks of a task and seed lie."""
    return cache / f"{task}-v{VERSION}-seed{seed}"


def make_blocks(folder: Path, task: TaskName, seed: int, *, num_samples: int) -> int:
    """Make the blocks that are missing, on all cores, with a progress bar; how many they were.

    Args:
        folder: As `generated_folder` gives it; another process that makes them is waited for.
        task: What to generate.
        seed: Of the data set.
        num_samples: Samples that are needed.
    """
    sizes = block_sizes(num_samples)
    with file_lock(folder / ".lock", wait=True):
        paths, record = [_path(folder, *block) for block in enumerate(sizes)], read_record(folder)
        missing = [
            n for n, path in enumerate(paths) if path.name not in record or not path.is_file()
        ]
        if not missing:
            return 0
        tasks = [partial(_made, task, seed, number, sizes[number]) for number in missing]
        title = f"making {task}"
        with WorkerPool(0 if len(missing) > 20 else 1) as pool, tqdm(
            total=len(missing), desc=title, unit="block", disable=not sys.stderr.isatty()
        ) as bar:  # fmt: skip
            for number, data in zip(missing, pool.results(tasks), strict=True):
                assert data is not None
                write_atomic(paths[number], data)
                record[paths[number].name] = hashlib.sha256(data).hexdigest()
                write_json(folder / RECORD, record)
                bar.update()
    return len(missing)


def block_sizes(num_samples: int) -> list[int]:
    """Return the samples of every block."""
    whole, rest = divmod(num_samples, BLOCK)
    return [BLOCK] * whole + [rest] * bool(rest)


def _path(folder: Path, number: int, count: int) -> Path:
    return folder / f"block-{number:04d}-{count}.npz"


def _made(task: TaskName, seed: int, number: int, count: int) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **_MAKERS[task](seed, number, count)._asdict())
    return file.getvalue()


def read_record(folder: Path) -> dict[str, str]:
    """Return block -> its digest."""
    path = folder / RECORD
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def read_blocks(
    folder: Path, *, first: int, num_samples: int, length: int, is_pixels: bool
) -> LraSplit:
    """Return a split from its blocks.

    Args:
        folder: Where they lie.
        first: Number of the first sample, a multiple of 1,000.
        num_samples: How many.
        length: Places of a padded sample.
        is_pixels: Whether the tokens are pixels.

    Raises:
        ValueError: A block is not what was made.
    """
    record, start = read_record(folder), first // BLOCK
    blocks = []
    for number, count in enumerate(block_sizes(num_samples), start):
        path = _path(folder, number, count)
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != record.get(path.name):
            raise ValueError(f"{path}: is not what was made; remove the file, and it is made again")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            blocks.append(Block(*(arrays[name] for name in Block._fields)))
    tokens, lengths, labels = (np.concatenate(part) for part in zip(*blocks, strict=True))
    if is_pixels:
        side = int(length**0.5)
        return pixel_split(tokens.reshape(-1, side, side), labels)
    ids, lengths = padded(np.split(tokens, np.cumsum(lengths)[:-1]), length)
    return LraSplit(ids, labels, lengths)
