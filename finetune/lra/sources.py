"""The splits of a task from whatever the user has: official files, generated, or a stand-in.

Invariant: every kind of data is named in what is returned, and a split that the publication does
not fix is the same for everyone: it depends on the files alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finetune.lra.files import (
    LEVEL,
    cifar_files,
    read_cifar,
    read_mega,
    read_pathfinder,
    read_pickle,
    read_picture,
    read_retrieval,
    read_stand_in,
    release_folder,
)
from finetune.lra.generated import generated_folder, make_blocks, read_blocks
from finetune.lra.listops import read_listops
from finetune.lra.splits import (
    DataKind,
    LraSplit,
    are_literals,
    byte_ids,
    grey,
    is_mostly_within,
    padded,
    pixel_split,
)
from finetune.lra.tasks import LraTask, Mode
from finetune.tasks.folds import carve
from finetune.tasks.long_documents import IMDB_LABELS, read_imdb
from finetune.tasks.spec import SplitRows

PICKLED = {"train": "train", "validation": "dev", "test": "test"}
PAIR_FILES = {"train": "train", "validation": "eval", "test": "test"}
CUTTABLE = ("text", "retrieval")
"""Tasks with an option for the length."""
_UNPICKLED: Mapping[str, tuple[str, ...]] = {
    "listops": ("basic_train.tsv", "listops-1000"),
    "text": ("aclImdb", "train/neg", "train.jsonl"),
    "retrieval": ("new_aan_pairs.train.tsv", "tsv_data", "papers.jsonl", "papers.jsonl.zst"),
    "image": ("cifar-10-batches-bin", "cifar-10-batches-py", "data_batch_1.bin", "data_batch_1",
              "train/airplane"),
    "pathfinder32": ("pathfinder32", LEVEL),
    "path_x": ("pathfinder128", LEVEL),
}  # fmt: skip
"""What a folder holds of a task that is not pickled."""
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
    """Files and folders below `source` that were read; empty: all of it, which was made."""

    @property
    def inputs(self) -> dict[str, Path]:
        """What a file or folder that was read is -> where it lies."""
        names = [path.relative_to(self.source).as_posix() for path in self.files]
        found = {f"the data's {name}": path for name, path in zip(names, self.files, strict=True)}
        return found or {"the data": self.source}


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
        if others := [path for path in _beside(root, task) if path.exists()]:
            raise ValueError(
                f"{root}: holds {task.title} twice, {pickles['train']} and {others[0]}; give a "
                "folder that holds one of them"
            )
        return _from_pickles(root, pickles, wanted)
    if task.is_pixels and (root / "input" / "train.src").is_file():
        return _from_mega(root, task)
    return _READERS[task.name](root, wanted)


def _check(split: LraSplit, task: LraTask, place: str) -> None:
    if not len(split):
        raise ValueError(
            f"{place}: has no samples; one or more are needed, and the folder has too few of "
            f"{task.title} to be split"
        )
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


def _beside(root: Path, task: LraTask) -> list[Path]:
    """Where the other form of a task may lie, which pickles beside it would hide."""
    releases = (root, root / "lra_release", root / "lra_release" / "lra_release")
    return [release / name for release in releases for name in _UNPICKLED[task.name]]


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
    if task.has_pair and are_literals(splits["train"]):
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


def _from_mega(root: Path, task: LraTask) -> LraData:
    names = {"train": "train", "validation": "valid", "test": "test"}
    splits = {name: read_mega(root, file, len(task.labels)) for name, file in names.items()}
    note = "MEGA's text files, split by its makers"
    files = tuple(
        root / path
        for name in names.values()
        for path in (f"input/{name}.src", f"label/{name}.label")
    )
    return LraData(kind="official", splits=splits, source=root, notes=(note,), files=files)


def _listops(root: Path, wanted: Wanted) -> LraData:
    is_here = (root / "basic_train.tsv").is_file()
    folder, splits = root if is_here else release_folder(root, "listops-1000"), {}
    names = {"train": "train", "validation": "val", "test": "test"}
    paths = {name: folder / f"basic_{released}.tsv" for name, released in names.items()}
    for name, path in paths.items():
        if not path.is_file():
            raise ValueError(f"{path}: no such file; basic_train, basic_val and basic_test.tsv")
        samples = list(read_listops(path))
        if not samples:
            raise ValueError(f"{path}: holds no samples below its header")
        ids, lengths = padded([ids for ids, _ in samples], wanted.task.length)
        splits[name] = LraSplit(ids, np.array([label for _, label in samples], np.uint8), lengths)
    return LraData(kind="official", splits=splits, source=folder, files=(*paths.values(),))


def _text(root: Path, wanted: Wanted) -> LraData:
    train, test = (read_imdb(root, split) for split in ("train", "test"))
    sources = [Path(split.source) for split in (train, test)]
    files = tuple(
        path
        for source in sources
        for path in ([source / label for label in IMDB_LABELS] if source.is_dir() else [source])
    )
    notes: tuple[str, ...] = ()
    if wanted.mode == "published":
        validation = test
        notes = (_SEES_TEST,)
    else:
        validation, train = carve(train, _VALIDATION_SHARE)
    rows = {"train": train, "validation": validation, "test": test}
    splits = {name: _bytes_of(split, wanted.task) for name, split in rows.items()}
    folder = sources[0].parent
    return LraData(kind="official", splits=splits, source=folder, notes=notes, files=files)


def _bytes_of(split: SplitRows, task: LraTask) -> LraSplit:
    labels = np.array([row.target for row in split.rows], np.uint8)
    ids, lengths = padded([byte_ids(row.text, task.kept) for row in split.rows], task.length)
    return LraSplit(ids, labels, lengths, repairs=dict(split.repairs))


def _retrieval(root: Path, wanted: Wanted) -> LraData:
    decoded = wanted.mode == "strict"
    note = "texts decoded" if decoded else "texts are Python bytes literals, as published"
    papers = [path for path in (root / "papers.jsonl", root / "papers.jsonl.zst") if path.is_file()]
    is_here = papers or (root / "new_aan_pairs.train.tsv").is_file()
    folder = root if is_here else release_folder(root, "tsv_data")
    ending = ".only_ids.tsv" if papers else ".tsv"
    paths = {name: folder / f"new_aan_pairs.{file}{ending}" for name, file in PAIR_FILES.items()}
    read = partial(read_stand_in, papers[0]) if papers else read_retrieval
    splits = {
        name: read(path, length=wanted.task.length, kept=wanted.task.kept, decoded=decoded)
        for name, path in paths.items()
    }
    other = "pairs of the same kind from other papers, 4,224 to train on: a stand-in"
    return LraData(
        kind="stand_in" if papers else "official",
        splits=splits,
        source=folder,
        notes=(note, other) if papers else (note,),
        files=(*papers[:1], *paths.values()),
    )


def _image(root: Path, wanted: Wanted) -> LraData:
    if (root / "train" / wanted.task.labels[0]).is_dir():
        return _image_files(root, wanted.task)
    (pixels, labels), test = read_cifar(root, "train"), read_cifar(root, "test")
    whole = pixel_split(grey(pixels), labels.tolist())
    splits = _parted(whole, {"train": 0.9, "validation": 0.1}, seed=None)
    splits["test"] = pixel_split(grey(test[0]), test[1].tolist())
    files = (*cifar_files(root, "train"), *cifar_files(root, "test"))
    folder = root if len({path.parent for path in files}) > 1 else files[0].parent
    return LraData(kind="official", splits=splits, source=folder, files=files)


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
    files = tuple(root / name / title for name in found for title in task.labels)
    return LraData(kind="stand_in", splits=splits, source=root, notes=(note,), files=files)


def _pathfinder(root: Path, wanted: Wanted) -> LraData:
    name = "pathfinder32" if wanted.task.name == "pathfinder32" else "pathfinder128"
    is_level = (root / "metadata").is_dir() and root.parent.name == name
    folder = root if is_level else release_folder(root, name)
    level = folder if folder.name == LEVEL else folder / LEVEL
    files = (level / "imgs", level / "metadata")
    shares = {"train": 0.8, "validation": 0.1, "test": 0.1}
    splits = _parted(read_pathfinder(folder), shares, seed=_SPLIT_SEED)
    note = "split 80/10/10 by a fixed shuffle: published ones are not known"
    return LraData(kind="official", splits=splits, source=level, notes=(note,), files=files)


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
