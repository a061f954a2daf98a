"""The splits of a task from whatever the user has: official files, generated, or a stand-in.

Invariant: every kind of data is named in what is returned, and a split that the publication does
not fix is the same for everyone: it depends on the files alone.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.readers import ReadLog, read_lines
from finetune.lra.files import (
    LEVEL,
    PAIR_LABELS,
    read_cifar,
    read_mega,
    read_pathfinder,
    read_pickle,
    read_picture,
    read_retrieval,
    release_folder,
)
from finetune.lra.generated import generated_folder, make_blocks, read_blocks
from finetune.lra.listops import read_listops
from finetune.lra.splits import (
    DataKind,
    Ids,
    LraSplit,
    byte_ids,
    grey,
    is_mostly_within,
    padded,
    pixel_split,
)
from finetune.lra.tasks import LraTask, Mode
from finetune.tasks.folds import carve
from finetune.tasks.long_documents import read_imdb
from finetune.tasks.spec import SplitRows

PICKLED = {"train": "train", "validation": "dev", "test": "test"}
STAND_IN_PAIRS = {"train": "train", "validation": "eval", "test": "test"}
CUTTABLE = ("text", "retrieval")
"""Tasks with an option for the length."""
_SEES_TEST = "validation is the test split, as published: the best of many looks at it"
_SPLIT_SEED = 42
PICTURES = (".png", ".jpg", ".jpeg")
_VALIDATION_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class LraData:
    """A task with its samples."""

    kind: DataKind
    """Where they are from."""
    splits: Mapping[str, LraSplit]
    """`train`, `validation` and `test`."""
    source: Path
    """Folder that they were read from."""
    notes: tuple[str, ...] = ()
    """What a reader of the scores must know of them, in sentences."""
    files: tuple[Path, ...] = ()
    """What of the folder was read, where it may hold more than this task; empty: all of it."""

    @property
    def inputs(self) -> dict[str, Path]:
        """What a file or folder that was read is -> where it lies."""
        return {f"the data's {path.name}": path for path in self.files} or {"the data": self.source}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which data."""

    task: LraTask
    folder: str
    """Of the user's files; empty: the data are made."""
    cache: str
    """Of made data."""
    mode: Mode
    generator_seed: int = 2021


def load_data(wanted: Wanted) -> LraData:
    """Return the samples of a task.

    Raises:
        ValueError: The folder holds no data of this task, or what it holds is damaged.
    """
    task = wanted.task
    if not wanted.folder:
        if not task.has_generator:
            raise ValueError(
                f"{task.title} cannot be made: give --data.folder, a folder of its files "
                "(docs/long_range_arena.md says where to get them)"
            )
        return _generated(wanted)
    root = Path(wanted.folder).expanduser()
    if not root.is_dir():
        raise ValueError(f"--data.folder {root}: no such folder")
    try:
        data = _read(root, wanted)
    except FileNotFoundError as error:
        raise ValueError(
            f"{error.filename}: no such file, though the others of {task.title} are there; see "
            "docs/long_range_arena.md for what a folder holds"
        ) from error
    for name, split in data.splits.items():
        _check(split, task, f"{data.source}, {name}")
    return data


def _read(root: Path, wanted: Wanted) -> LraData:
    """Return what a folder holds, by what lies in it."""
    task = wanted.task
    if pickles := _pickles(root, task):
        return _from_pickles(root, pickles, wanted)
    if task.is_pixels and (root / "input" / "train.src").is_file():
        return _from_mega(root, task)
    return _READERS[task.name](root, wanted)


def _check(split: LraSplit, task: LraTask, place: str) -> None:
    most = int(split.labels.max(initial=0))
    if most >= len(task.labels):
        raise ValueError(f"{place}: label {most}; {task.title} has 0 to {len(task.labels) - 1}")
    if (highest := max(int(ids.max(initial=0)) for ids, _ in split.sides)) > task.vocab_size - 2:
        raise ValueError(
            f"{place}: id {highest}; {task.title} has 0 to {task.vocab_size - 2}, and one that "
            "hides tokens in self-pretraining"
        )
    if task.is_pixels and split.ids.shape[1] != task.length:
        raise ValueError(
            f"{place}: pictures of {split.ids.shape[1]} pixels; {task.title} has {task.length}"
        )
    if task.has_pair != (split.other_ids is not None):
        raise ValueError(f"{place}: {task.title} has {1 + task.has_pair} texts a sample")


def _generated(wanted: Wanted) -> LraData:
    task, seed = wanted.task, wanted.generator_seed
    folder = generated_folder(Path(wanted.cache).expanduser(), task.name, seed)
    make_blocks(folder, task.name, seed, num_samples=sum(task.sizes.values()))
    splits, first = {}, 0
    for name, count in task.sizes.items():
        splits[name] = read_blocks(
            folder, first=first, num_samples=count, length=task.length, is_pixels=task.is_pixels
        )
        first += count
    note = f"made by this project's generator, seed {seed}, not the released files"
    return LraData(kind="generated", splits=splits, source=folder, notes=(note,))


def _pickles(root: Path, task: LraTask) -> dict[str, Path]:
    """The pickles of the PyTorch ports, if the folder holds them."""
    stem = f"{task.name}-{LEVEL}" if task.name == "pathfinder32" else task.name
    paths = {name: root / f"{stem}.{split}.pickle" for name, split in PICKLED.items()}
    found = [path for path in paths.values() if path.is_file()]
    missing = [path for path in paths.values() if path not in found]
    if found and missing:
        raise ValueError(f"{missing[0]}: no such file, but {found[0].name} is there")
    return paths if found else {}


def _from_pickles(root: Path, paths: Mapping[str, Path], wanted: Wanted) -> LraData:
    task, is_strict = wanted.task, wanted.mode == "strict"
    splits = {name: read_pickle(path, len(task.labels)) for name, path in paths.items()}
    if task.is_pixels:  # black pixels at the end are none the less pixels
        splits = {
            name: replace(split, lengths=np.full(len(split), split.ids.shape[1], np.int32))
            for name, split in splits.items()
        }
    else:
        splits = {name: _of_length(split, task, paths[name]) for name, split in splits.items()}
    notes = ["pickles of the PyTorch ports, whose makers have shuffled and split them"]
    if task.has_pair and _are_literals(splits["train"]):
        if is_strict:
            raise ValueError(
                f"{paths['train']}: its texts are Python bytes literals (b'...'), which mode "
                "strict decodes, and these are cut; give the release's tsv_data, or --data.mode "
                "published"
            )
        notes += ["texts are Python bytes literals, as published"]
    if is_mostly_within(splits["validation"], splits["test"]):
        if is_strict:
            parts = _parted(splits["train"], {"validation": 0.1, "train": 0.9}, seed=_SPLIT_SEED)
            splits |= parts
            notes += ["validation is a tenth of train: the pickled one is the test split"]
        else:
            notes += [_SEES_TEST]
    files = tuple(paths.values())
    return LraData(kind="official", splits=splits, source=root, notes=tuple(notes), files=files)


def _of_length(split: LraSplit, task: LraTask, path: Path) -> LraSplit:
    """Pickled texts, cut to the length that is wanted; shorter ones have another mean."""
    length = split.ids.shape[1]
    if length < task.length:
        is_cut = task.name in CUTTABLE
        how = f"give --data.max_len {length}" if is_cut else "they are of another task"
        raise ValueError(
            f"{path}: samples of {length:,} places; {task.title} has {task.length:,}: {how}"
        )
    ids, lengths = split.ids[:, : task.length], np.minimum(split.lengths, task.length)
    if split.other_ids is None or split.other_lengths is None:
        return LraSplit(ids, split.labels, lengths)
    other_lengths = np.minimum(split.other_lengths, task.length)
    return LraSplit(ids, split.labels, lengths, split.other_ids[:, : task.length], other_lengths)


def _are_literals(split: LraSplit) -> bool:
    """Whether all first texts begin as a Python bytes literal does."""
    starts = {bytes(row) for row in (split.ids[:, :2] - 1).astype(np.uint8)}
    return starts <= {b"b'", b'b"'}


def _from_mega(root: Path, task: LraTask) -> LraData:
    names = {"train": "train", "validation": "valid", "test": "test"}
    splits = {name: read_mega(root, file, len(task.labels)) for name, file in names.items()}
    note, files = "MEGA's text files, split by its makers", (root / "input", root / "label")
    return LraData(kind="official", splits=splits, source=root, notes=(note,), files=files)


def _listops(root: Path, wanted: Wanted) -> LraData:
    is_here = (root / "basic_train.tsv").is_file()
    folder, splits = root if is_here else release_folder(root, "listops-1000"), {}
    for name, released in (("train", "train"), ("validation", "val"), ("test", "test")):
        path = folder / f"basic_{released}.tsv"
        if not path.is_file():
            raise ValueError(f"{path}: no such file; basic_train, basic_val and basic_test.tsv")
        samples = list(read_listops(path))
        if not samples:
            raise ValueError(f"{path}: holds no samples below its header")
        ids, lengths = padded([ids for ids, _ in samples], wanted.task.length)
        splits[name] = LraSplit(ids, np.array([label for _, label in samples], np.uint8), lengths)
    return LraData(kind="official", splits=splits, source=folder)


def _text(root: Path, wanted: Wanted) -> LraData:
    train, test = (read_imdb(root, split) for split in ("train", "test"))
    notes: tuple[str, ...] = ()
    if wanted.mode == "published":
        validation = test
        notes = (_SEES_TEST,)
    else:
        validation, train = carve(train, _VALIDATION_SHARE)
    rows = {"train": train, "validation": validation, "test": test}
    splits = {name: _bytes_of(split, wanted.task) for name, split in rows.items()}
    return LraData(kind="official", splits=splits, source=Path(train.source).parent, notes=notes)


def _bytes_of(split: SplitRows, task: LraTask) -> LraSplit:
    labels = np.array([row.target for row in split.rows], np.uint8)
    ids, lengths = padded([byte_ids(row.text, task.kept) for row in split.rows], task.length)
    return LraSplit(ids, labels, lengths, repairs=dict(split.repairs))


def _retrieval(root: Path, wanted: Wanted) -> LraData:
    decoded = wanted.mode == "strict"
    note = "texts decoded" if decoded else "texts are Python bytes literals, as published"
    if (root / "papers.jsonl").is_file() or (root / "papers.jsonl.zst").is_file():
        splits = {
            name: _joined(root, file, wanted.task, decoded=decoded)
            for name, file in STAND_IN_PAIRS.items()
        }
        notes = (note, "pairs of the same kind from other papers, 4,224 to train on: a stand-in")
        return LraData(kind="stand_in", splits=splits, source=root, notes=notes)
    is_here = (root / "new_aan_pairs.train.tsv").is_file()
    folder = root if is_here else release_folder(root, "tsv_data")
    length, kept = wanted.task.length, wanted.task.kept
    splits = {
        name: read_retrieval(
            folder / f"new_aan_pairs.{file}.tsv", length=length, kept=kept, decoded=decoded
        )
        for name, file in STAND_IN_PAIRS.items()
    }
    return LraData(kind="official", splits=splits, source=folder, notes=(note,))


def _joined(root: Path, file: str, task: LraTask, *, decoded: bool) -> LraSplit:
    """Pairs of the stand-in: ids in one file, papers in another."""
    texts = {}
    name = "papers.jsonl" if (root / "papers.jsonl").is_file() else "papers.jsonl.zst"
    for number, line in enumerate(read_lines(root / name, ReadLog()), 1):
        try:
            paper = json.loads(line)
            texts[str(paper["id"])] = str(paper["text"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{root / name}, line {number}: no object with id and text ({error!r})"
            ) from error
    path = root / f"new_aan_pairs.{file}.only_ids.tsv"
    pairs: tuple[list[Ids], list[Ids]] = ([], [])
    labels = []
    for number, line in enumerate(read_lines(path, ReadLog()), 1):
        columns = line.rstrip("\r\n").split("\t")
        is_known = columns[0] in PAIR_LABELS and {*columns[1:]} <= texts.keys()
        if len(columns) != 3 or not is_known:
            raise ValueError(
                f"{path}, line {number}: 0 or 1 and two ids of {name} are needed: {line[:40]!r}"
            )
        labels.append(PAIR_LABELS[columns[0]])
        for side, paper_id in zip(pairs, columns[1:], strict=True):
            text = texts[paper_id]
            side.append(byte_ids(text if decoded else repr(text.encode()), task.kept))
    first, second = (padded(side, task.length) for side in pairs)
    return LraSplit(first[0], np.array(labels, np.uint8), first[1], *second)


def _image(root: Path, wanted: Wanted) -> LraData:
    if (root / "train" / wanted.task.labels[0]).is_dir():
        return _image_files(root, wanted.task)
    pixels, labels = read_cifar(root, "train")
    whole = pixel_split(grey(pixels), labels.tolist())
    test = read_cifar(root, "test")
    splits = _parted(whole, {"train": 0.9, "validation": 0.1}, seed=None)
    splits["test"] = pixel_split(grey(test[0]), test[1].tolist())
    files = (*root.glob("*_batch*"), *root.glob("cifar-10-batches-*/*_batch*"))
    return LraData(kind="official", splits=splits, source=root, files=files)


def _image_files(root: Path, task: LraTask) -> LraData:
    """CIFAR-10 as picture files, `{train,test}/<class>/*.{png,jpg,jpeg}`."""
    found, endings = {}, set()
    for name in ("train", "test"):
        images, labels = [], []
        for label, title in enumerate(task.labels):
            paths = sorted((root / name / title).glob("*"))
            paths = [path for path in paths if path.suffix.lower() in PICTURES]
            if not paths:
                raise ValueError(f"{root / name / title}: holds no {', '.join(PICTURES)} file")
            images += [read_picture(path, (32, 32, 3), "RGB") for path in paths]
            labels += [label] * len(paths)
            endings |= {path.suffix.lower() for path in paths}
        found[name] = pixel_split(grey(np.stack(images)), labels)
    splits = _parted(found["train"], {"train": 0.9, "validation": 0.1}, seed=_SPLIT_SEED)
    is_lossy = endings != {".png"}
    note = "picture files of CIFAR-10" + ", which a lossy format has changed" * is_lossy
    note += ", in an order of their own: a stand-in"
    splits["test"] = found["test"]
    return LraData(kind="stand_in", splits=splits, source=root, notes=(note,))


def _pathfinder(root: Path, wanted: Wanted) -> LraData:
    name = "pathfinder32" if wanted.task.name == "pathfinder32" else "pathfinder128"
    is_level = (root / "metadata").is_dir() and root.parent.name == name
    folder = root if is_level else release_folder(root, name)
    files = () if is_level else (folder / LEVEL,)
    shares = {"train": 0.8, "validation": 0.1, "test": 0.1}
    splits = _parted(read_pathfinder(folder), shares, seed=_SPLIT_SEED)
    note = "split 80/10/10 by a fixed shuffle: published ones are not known"
    return LraData(kind="official", splits=splits, source=folder, notes=(note,), files=files)


def _parted(
    split: LraSplit, shares: Mapping[str, float], *, seed: int | None
) -> dict[str, LraSplit]:
    """Cut a split by shares, in its own order or shuffled by a seed."""
    count = len(split)
    order = np.arange(count) if seed is None else np.random.default_rng(seed).permutation(count)
    ends = np.rint(np.cumsum([0.0, *shares.values()]) * count).astype(int).tolist()
    return {
        name: take(split, order[start:end])
        for name, start, end in zip(shares, ends[:-1], ends[1:], strict=True)
    }


def take(split: LraSplit, rows: NDArray[np.int64]) -> LraSplit:
    """Return some samples of a split."""
    return LraSplit(
        split.ids[rows],
        split.labels[rows],
        split.lengths[rows],
        None if split.other_ids is None else split.other_ids[rows],
        None if split.other_lengths is None else split.other_lengths[rows],
        split.repairs,
    )


_READERS: Mapping[str, Callable[[Path, Wanted], LraData]] = {
    "listops": _listops, "text": _text, "retrieval": _retrieval, "image": _image,
    "pathfinder32": _pathfinder, "path_x": _pathfinder,
}  # fmt: skip
