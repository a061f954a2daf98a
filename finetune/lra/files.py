"""Files of Long Range Arena: the release, the pickles of its PyTorch ports, CIFAR-10.

Invariant: a file that a stranger made runs no code: pickles are read as numbers, lists and NumPy
arrays alone.
"""

import ast
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_prep.readers import ReadLog, read_lines
from data_prep.table_rows import file_lines
from finetune.lra.splits import Ids, LraSplit, byte_ids, padded, pixel_split

PAIR_LABELS = {"0": 0, "0.0": 0, "1": 1, "1.0": 1}
"""Spellings of the labels of Retrieval."""
LEVEL = "curv_contour_length_14"
"""Difficulty of Pathfinder and Path-X."""
_SAFE = {
    ("numpy", "ndarray"), ("numpy", "dtype"), ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"), ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"), ("_codecs", "encode"),
}  # fmt: skip
_DAMAGE = (pickle.UnpicklingError, AttributeError, EOFError, ImportError, LookupError, MemoryError,
           OverflowError, TypeError, ValueError)  # fmt: skip
"""What reading a damaged pickle may raise; a file that is not there is none of it."""


def release_folder(root: Path, name: str) -> Path:
    """Return the folder of a task in the unpacked release, whichever folder of it is given.

    Args:
        root: The release, its inner `lra_release`, or the folder itself.
        name: `listops-1000`, `tsv_data`, `pathfinder32` and the like.

    Raises:
        ValueError: It is not there, or in both nestings.
    """
    places = [root / "lra_release" / name, root / "lra_release" / "lra_release" / name, root / name]
    if root.name == name and root.is_dir():
        return root
    found = [place for place in places if place.is_dir()]
    if not found:
        raise ValueError(
            f"{root}: has no folder {name}; give the folder lra_release that the archive unpacks to"
        )
    if len(found) > 1:
        both = " and ".join(map(str, found))
        raise ValueError(
            f"{root}: holds {name} twice, {both}, whose contents differ in the release; give the "
            "inner one"
        )
    return found[0]


class _NumbersAlone(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _SAFE:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it wants {module}.{name}")


def read_pickle(path: Path, num_classes: int) -> LraSplit:
    """Return the samples of a pickle of the PyTorch ports (Nystromformer's, PoNet's).

    Raises:
        ValueError: It is damaged, holds more than arrays and numbers, or a label out of range.
    """
    try:
        with path.open("rb") as file:
            rows = _NumbersAlone(file).load()
    except _DAMAGE as error:
        raise ValueError(
            f"{path}: is no list of arrays and numbers ({error}); nothing of it was run"
        ) from error
    if not isinstance(rows, list) or not rows or any(not isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: holds no list of samples with input_ids_0 and label")
    names = [name for name in ("input_ids_0", "input_ids_1") if name in rows[0]]
    labels = []
    for number, row in enumerate(rows):
        place, label = f"{path}, sample {number}", np.asarray(row.get("label", ())).ravel()
        if not {"input_ids_0", *names} <= set(row) or len(label) != 1:
            raise ValueError(f"{place}: has no {' and '.join(names or ['input_ids_0'])} and label")
        if label.dtype.kind not in "iu":
            raise ValueError(f"{place}: label {label[0]!r}; a whole number is needed")
        _check_label(int(label[0]), num_classes, place)
        labels.append(int(label[0]))
    (ids, lengths), *other = (_stacked([row[name] for row in rows], path) for name in names)
    return LraSplit(ids, np.array(labels, np.uint8), lengths, *(other[0] if other else ()))


def _stacked(rows: list[Any], path: Path) -> tuple[NDArray[np.uint16], NDArray[np.int32]]:
    """Padded ids, and the number of places up to the last that is not 0."""
    sizes = {np.shape(row) for row in rows}
    if len(sizes) != 1 or len(next(iter(sizes))) != 1:
        raise ValueError(f"{path}: ids of shapes {sorted(sizes)[:3]}; one length is needed")
    ids = np.stack(rows)
    if ids.dtype.kind not in "iu":
        raise ValueError(f"{path}: ids of type {ids.dtype}; whole numbers are needed")
    if ids.min() < 0 or ids.max() >= 2**16:
        raise ValueError(f"{path}: ids from {ids.min()} to {ids.max()}; 0 to 65,535 are needed")
    real = ids != 0
    lengths = np.where(real.any(1), ids.shape[1] - real[:, ::-1].argmax(1), 0)
    return ids.astype(np.uint16), lengths.astype(np.int32)


def _check_label(label: int, num_classes: int, place: str) -> None:
    if not 0 <= label < num_classes:
        raise ValueError(f"{place}: label {label}; 0 to {num_classes - 1} are known")


def read_retrieval(path: Path, *, length: int, kept: int, decoded: bool = False) -> LraSplit:
    """Return the pairs of `new_aan_pairs.<split>.tsv`: label, two ids, two texts.

    Args:
        path: The file.
        length: Places of a padded text.
        kept: Ids that are kept of every text; longer ones are cut, as published.
        decoded: Read the texts, which the file holds as Python bytes literals (`b'...'`), as what
            they stand for; published models see the literals.

    Raises:
        ValueError: A row of other columns or label, or a text that is no literal.
    """
    pairs: tuple[list[Ids], list[Ids]] = ([], [])
    labels = []
    for line, row in file_lines(path):
        place, columns = f"{path}, line {line}", row.rstrip("\r\n").split("\t")
        if columns == [""]:
            continue
        if len(columns) != 5:
            raise ValueError(f"{place}: {len(columns)} columns; label, two ids and two texts")
        if columns[0] not in PAIR_LABELS:
            raise ValueError(f"{place}: label {columns[0]!r}; 0 and 1 are known")
        labels.append(PAIR_LABELS[columns[0]])
        for texts, text in zip(pairs, columns[3:], strict=True):
            if text[:2] not in ("b'", 'b"') or text[-1] != text[1] or len(text) < len("b''"):
                raise ValueError(f"{place}: no whole Python bytes literal: {text[:20]!r} ...")
            texts.append(byte_ids(_decoded(text, place) if decoded else text, kept))
    if not labels:
        raise ValueError(f"{path}: is empty")
    first, second = (padded(texts, length) for texts in pairs)
    return LraSplit(first[0], np.array(labels, np.uint8), first[1], *second)


def read_stand_in(
    papers: Path, path: Path, *, length: int, kept: int, decoded: bool = False
) -> LraSplit:
    """Return pairs whose ids stand in one file and whose papers, objects of id and text, in one.

    Args:
        papers: JSON lines.
        path: Label and two ids in every line.
        length: See `read_retrieval`.
        kept: Likewise.
        decoded: False: the texts as the bytes literals that the release has.

    Raises:
        ValueError: A line that is none of it.
    """
    texts = {}
    for number, line in enumerate(read_lines(papers, ReadLog()), 1):
        try:
            paper = json.loads(line)
            texts[str(paper["id"])] = str(paper["text"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{papers}, line {number}: no object with id and text ({error!r})"
            ) from error
    pairs: tuple[list[Ids], list[Ids]] = ([], [])
    labels = []
    for number, line in enumerate(read_lines(path, ReadLog()), 1):
        columns = line.rstrip("\r\n").split("\t")
        is_known = columns[0] in PAIR_LABELS and {*columns[1:]} <= texts.keys()
        if len(columns) != 3 or not is_known:
            raise ValueError(
                f"{path}, line {number}: 0 or 1 and two ids of {papers.name} are needed: "
                f"{line[:40]!r}"
            )
        labels.append(PAIR_LABELS[columns[0]])
        for side, paper_id in zip(pairs, columns[1:], strict=True):
            text = texts[paper_id]
            side.append(byte_ids(text if decoded else repr(text.encode()), kept))
    first, second = (padded(side, length) for side in pairs)
    return LraSplit(first[0], np.array(labels, np.uint8), first[1], *second)


def _decoded(text: str, place: str) -> bytes:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"{place}: no Python bytes literal ({error})") from None
    if not isinstance(value, bytes):
        raise ValueError(f"{place}: a {type(value).__name__} literal; bytes are needed")
    return value


def read_pathfinder(folder: Path) -> LraSplit:
    """Return all pictures of one difficulty, in the order of the metadata's numbers.

    Args:
        folder: `pathfinder32` or a larger one, or its sub-folder.

    Raises:
        ValueError: No metadata, a picture that is missing, empty, damaged or of another size, or a
            label other than 0 and 1.
    """
    root = folder if folder.name == LEVEL else folder / LEVEL
    tables = [path for path in (root / "metadata").glob("*.npy") if path.name[0] != "."]
    if not tables:
        raise ValueError(f"{root}: has no metadata/*.npy; imgs/ and metadata/ are needed")
    if others := [path for path in tables if not path.stem.isdecimal()]:
        raise ValueError(f"{others[0]}: is no metadata/<number>.npy; move it away")
    tables.sort(key=lambda path: int(path.stem))
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for table in tables:
        for place, row in _metadata(table):
            picture = root / row[0] / row[1]
            if picture.is_file() and not picture.stat().st_size:
                raise ValueError(f"{picture}: is empty; unpack it again")
            if row[3] not in ("0", "1"):
                raise ValueError(f"{place}: label {row[3]!r}; 0 and 1 are known")
            images.append(read_picture(picture, images[0].shape if images else None))
            labels.append(int(row[3]))
    return pixel_split(np.stack(images), labels)


def _metadata(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Rows of a metadata file: text under the name .npy in the release, or real NumPy."""
    if path.read_bytes()[:6] == b"\x93NUMPY":
        try:
            rows = [[str(value) for value in row] for row in np.load(path, allow_pickle=False)]
        except ValueError as error:
            raise ValueError(f"{path}: cannot be read as NumPy's rows of texts ({error})") from None
    else:
        rows = [line.split() for _, line in file_lines(path)]
    if not any(rows):
        raise ValueError(f"{path}: names no picture; unpack it again")
    for number, row in enumerate(rows, 1):
        if not row:
            continue
        if len(row) < 4:
            raise ValueError(f"{path}, line {number}: {len(row)} fields; four or more are needed")
        yield f"{path}, line {number}", row


def read_picture(
    path: Path, shape: tuple[int, ...] | None, mode: Literal["L", "RGB"] = "L"
) -> NDArray[np.uint8]:
    """Return the pixels of a picture file; `shape` is what they must have, if anything.

    Raises:
        ValueError: It is damaged, has pixels of more than 8 bits a channel, or another shape.
    """
    try:
        with Image.open(path) as image:
            stored, pixels = image.mode, np.asarray(image.convert(mode))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: cannot be read as a picture ({error})") from error
    if stored.startswith(("I", "F")):  # `convert` cuts what is above 255 off
        raise ValueError(
            f"{path}: its pixels are wider than a byte (mode {stored}); save it with 8 bits a "
            "channel"
        )
    if shape is not None and pixels.shape != shape:
        raise ValueError(f"{path}: {pixels.shape} pixels; {shape} are needed, as others have")
    return pixels


def read_mega(root: Path, split: str, num_classes: int) -> LraSplit:
    """Return a split of pixels in MEGA's text files, `input/<split>.src` and `label/<split>.label`.

    Raises:
        ValueError: A picture of another size, a pixel above 255, an unknown label, or files of
            different lengths.
    """
    path, label_path = root / "input" / f"{split}.src", root / "label" / f"{split}.label"
    if not label_path.is_file():
        raise ValueError(f"{label_path}: no such file, but {path} is there")
    pictures: list[NDArray[np.uint8]] = []
    for line, row in file_lines(path):
        try:
            pictures.append(np.array([int(word) for word in row.split()], np.uint8))
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{path}, line {line}: pixels from 0 to 255 are needed") from error
        if len(pictures[-1]) != len(pictures[0]):
            raise ValueError(f"{path}, line {line}: {len(pictures[-1])} pixels, not as the first")
    labels = []
    for line, row in file_lines(label_path):
        if not row.strip().isdecimal():
            raise ValueError(
                f"{label_path}, line {line}: label {row.strip()!r}; a number is needed"
            )
        _check_label(int(row), num_classes, f"{label_path}, line {line}")
        labels.append(int(row))
    if not labels or len(labels) != len(pictures):
        raise ValueError(f"{path}: {len(pictures)} pictures, but {len(labels)} labels")
    return pixel_split(np.stack(pictures)[:, None], labels)


def read_cifar(folder: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return pictures (N, 32, 32, 3) and labels (N,) of CIFAR-10's own files.

    Args:
        folder: `cifar-10-batches-bin` or `cifar-10-batches-py`, or the folder above it.
        split: `train` (50,000, in the order of the five batches) or `test` (10,000).

    Raises:
        ValueError: No batch files, or one of another size.
    """
    paths = cifar_files(folder, split)
    read = _cifar_binary if paths[0].suffix == ".bin" else _cifar_python
    batches = [read(path) for path in paths]
    pixels = np.concatenate([pixels for pixels, _ in batches])
    labels = np.concatenate([labels for _, labels in batches])
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def cifar_files(folder: Path, split: str) -> list[Path]:
    """Return the batch files that `read_cifar` reads.

    Raises:
        ValueError: There are none, or not all of them.
    """
    names = ["test_batch"] if split == "test" else [f"data_batch_{n}" for n in range(1, 6)]
    missing = []
    for place in (folder, folder / "cifar-10-batches-bin", folder / "cifar-10-batches-py"):
        for ending in (".bin", ""):
            paths = [place / f"{name}{ending}" for name in names]
            lacking = [path for path in paths if not path.is_file()]
            missing += lacking[:1] if len(lacking) < len(paths) else []
            if not lacking:
                return paths
    if missing:
        raise ValueError(f"{missing[0]}: no such file, but others of its kind are there")
    raise ValueError(f"{folder}: has no {names[0]} or {names[0]}.bin; unpack CIFAR-10 there")


def _cifar_binary(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    data = np.fromfile(path, np.uint8)
    if not len(data) or len(data) % 3073:
        raise ValueError(f"{path}: {len(data)} bytes; rows of 3,073 are needed, it may be cut")
    rows = data.reshape(-1, 3073)
    return rows[:, 1:], rows[:, 0]


def _cifar_python(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    try:
        with path.open("rb") as file:
            batch = _NumbersAlone(file, encoding="bytes").load()
        pixels, labels = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"])
    except _DAMAGE as error:
        raise ValueError(f"{path}: is no batch of CIFAR-10 ({error}); nothing was run") from error
    if pixels.shape != (labels.size, 3072) or labels.ndim != 1 or not labels.size:
        raise ValueError(f"{path}: data {pixels.shape} and labels {labels.shape} do not fit")
    return _bytes(pixels, 255, f"{path}: data"), _bytes(labels, 9, f"{path}: labels")


def _bytes(values: NDArray[Any], most: int, what: str) -> NDArray[np.uint8]:
    """Whole numbers up to a highest one, as bytes."""
    if values.dtype.kind not in "iu":
        found = f"of type {values.dtype}"
    elif values.min() < 0 or values.max() > most:
        found = f"from {values.min()} to {values.max()}"
    else:
        return values.astype(np.uint8)
    raise ValueError(f"{what} {found}; whole numbers from 0 to {most} are needed")
