"""Tagged texts as tasks: MTOP, ATIS, SNIPS, MultiATIS++ and a user's own files.

Invariant: tags and labels are those of the training rows (or of the model that is scored); one
that training never saw is kept, is counted, and can only be answered wrongly.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from data_prep.table_rows import COMPRESSIONS, find_file, place_of
from finetune.tagging.files import read_tagged
from finetune.tasks.rows import MissingSplit, below
from finetune.tasks.spec import (
    UNSEEN,
    LoadedTask,
    MetricName,
    Row,
    SplitRows,
    Targets,
    TaskSpec,
    Wanted,
)

UNSEEN_TAGS = "words with a tag that training never saw: they count as errors"
UNSEEN_LABELS = "texts with a label that training never saw: they count as errors"
_STEMS = {
    "train": ("train",),
    "validation": ("eval", "validation", "valid", "dev"),
    "test": ("test",),
}
"""Split -> what its file or folder may be called."""


def tagged_rows(paths: Sequence[Path]) -> SplitRows:
    """Return the rows of one file or `seq.in` folder, or of one for each language."""
    repairs: Counter[str] = Counter()
    texts = [text for path in paths for text in read_tagged(path, repairs)]
    rows = tuple(Row(text.line, text.id, text.text, "", None, text) for text in texts)
    source = ", ".join(map(str, paths))
    return SplitRows(source=source, rows=rows, repairs=dict(repairs), files=tuple(paths))


def settled(task: LoadedTask, wanted: Wanted) -> LoadedTask:
    """Return a task of tagged texts whose spec has its tags and labels and whose rows have targets.

    Args:
        task: Rows as `tagged_rows` gives them.
        wanted: Labels of texts alone make it a classification.

    Raises:
        ValueError: A row lacks what it must have, or a language has no rows; names the place.
    """
    if wanted.languages:
        languages = wanted.languages
        only = {name: of_languages(split, languages) for name, split in task.splits.items()}
        task = replace(task, splits=only)
    targets, tags, labels = wanted.targets, wanted.tags, wanted.labels
    if tags is None or labels is None:
        train = task.splits["train"]
        tags = tuple(
            sorted({tag for row in train.rows for tag in _tags(row, train.source, targets)})
        )
        labels = tuple(_labels(train, targets))
        if targets == "label" and len(labels) < 2:
            raise ValueError(
                f"{train.source}: all texts have the label {labels[0]!r}; two or more are needed"
            )
    score = task.spec.score or _automatic(bool(tags), bool(labels))
    found = {row.tagged.language for row in next(iter(task.splits.values())).rows if row.tagged}
    spec = replace(
        task.spec,
        tags=tags,
        labels=labels,
        is_tagging=bool(tags),
        has_words=True,
        score=score,
        sizes=task.spec.sizes if found <= {"", "en"} else dict.fromkeys(task.spec.sizes, 0),
    )
    splits = {name: _with_targets(spec, split, targets) for name, split in task.splits.items()}
    return LoadedTask(spec=spec, splits=splits)


def _automatic(has_tags: bool, has_labels: bool) -> tuple[MetricName, ...]:
    if not has_tags:
        return ("accuracy",)
    return ("frame_em",) if has_labels else ("slot_em",)


def _tags(row: Row, source: str, targets: Targets) -> Sequence[str]:
    assert row.tagged is not None
    if targets == "label":
        return ()
    if row.tagged.tags is None:
        raise ValueError(
            f"{place_of(source, row.line)}: the text has no tags; every word needs one (JSONL: "
            "under tags or ner_tags)"
        )
    return row.tagged.tags


def _labels(train: SplitRows, targets: Targets) -> list[str]:
    """Return the labels of the texts, sorted; none where no text has one or none is wanted."""
    found = [row.tagged.label for row in train.rows if row.tagged]
    if targets == "tags" or (targets == "both" and set(found) == {None}):
        return []
    return sorted({_label(row, train.source) for row in train.rows})


def _label(row: Row, source: str) -> str:
    """Return the label of a text, where texts have one."""
    assert row.tagged is not None
    if row.tagged.label is None:
        raise ValueError(
            f"{place_of(source, row.line)}: the text has no label but others have; give every text "
            "one, or leave them out in training with --data.targets tags"
        )
    return row.tagged.label


def _with_targets(spec: TaskSpec, split: SplitRows, targets: Targets) -> SplitRows:
    """Return rows with targets; for labels alone they are plain texts, as for any classifier."""
    places = {label: place for place, label in enumerate(spec.labels)}
    known, repairs = set(spec.tags), Counter(split.repairs)
    rows = []
    for row in split.rows:
        assert row.tagged is not None
        tags = _tags(row, split.source, targets)
        repairs[UNSEEN_TAGS] += sum(tag not in known for tag in tags)
        target = float(places.get(_label(row, split.source), UNSEEN)) if spec.labels else 0.0
        repairs[UNSEEN_LABELS] += target == UNSEEN
        kept = None if targets == "label" else row.tagged
        rows.append(row._replace(target=target, tagged=kept))
    counts = {what: count for what, count in repairs.items() if count}
    return replace(split, rows=tuple(rows), repairs=counts)


def of_languages(split: SplitRows, languages: Sequence[str]) -> SplitRows:
    """Return the rows in some languages.

    Raises:
        ValueError: A language has no rows; says which there are.
    """
    counts = Counter(row.tagged.language for row in split.rows if row.tagged)
    missing = [language for language in languages if language not in counts]
    if missing:
        raise ValueError(
            f"{split.source}: no rows in {', '.join(missing)}; there are "
            f"{', '.join(sorted(counts)) or 'none'}"
        )
    kept = [row for row in split.rows if row.tagged and row.tagged.language in languages]
    return replace(split, rows=tuple(kept))


def _read(folder: Path, split: str, *, find: Callable[[Path, str], list[Path]]) -> SplitRows:
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give the one in the original layout")
    names = list(_STEMS[split])
    paths = next((paths for name in names if (paths := find(folder, name))), [])
    if not paths:
        raise MissingSplit(f"{folder}: has nothing called {' or '.join(names)} for {split}")
    return tagged_rows(paths)


def _mtop_files(folder: Path, name: str) -> list[Path]:
    """Return the file of every language folder (`en`, `de`, ...), or that of the folder itself."""
    inner = below(folder, "mtop")
    folders = [path for path in sorted(inner.iterdir()) if path.is_dir() and len(path.name) == 2]
    patterns = [
        f"{name}{middle}.{ending}{packed}"
        for middle in ("", ".*")
        for ending in ("txt", "tsv")
        for packed in COMPRESSIONS
    ]
    found = [
        next((path for pattern in patterns for path in sorted(place.glob(pattern))), None)
        for place in folders or [inner]
    ]
    return [path for path in found if path]


def _multiatis_files(folder: Path, name: str) -> list[Path]:
    return sorted(path for packed in COMPRESSIONS for path in folder.glob(f"{name}_*.tsv{packed}"))


def _seq_folders(folder: Path, name: str) -> list[Path]:
    return [folder / name] if find_file(folder / name, "seq.in") else []


def _task(
    name: str, title: str, sizes: Mapping[str, int], find: Callable[[Path, str], list[Path]]
) -> TaskSpec:
    return TaskSpec(
        name=name,
        title=title,
        labels=(),
        is_tagging=True,
        score=(),
        segments="separators",
        sizes=sizes,
        read_folder=partial(_read, find=find),
    )


MTOP = replace(
    _task("mtop", "MTOP", {"train": 15_667, "validation": 2_235, "test": 4_386}, _mtop_files),
    published={
        "pNLP-Mixer X-SMALL": 77.4,
        "pNLP-Mixer SMALL": 79.9,
        "pNLP-Mixer BASE": 81.8,
        "pNLP-Mixer LARGE": 81.9,
        "pNLP-Mixer X-LARGE": 83.4,
        "pNLP-Mixer X-SMALL (validation)": 76.9,
        "pNLP-Mixer BASE (validation)": 80.8,
        "pNLP-Mixer X-LARGE (validation)": 82.3,
        "pNLP-Mixer BASE, ternary projection (validation)": 77.6,
        "no mixer, window 4 (validation)": 76.5,
        "LSTM (validation)": 73.9,
        "Transformer (validation)": 79.4,
    },
    published_metric="token_accuracy",
    published_source=(
        "arXiv 2202.04350: English test, 8 bit, from table 5; validation from tables 1, 2 and 4; "
        "called exact match there, but their values are near the share of tagged words that are "
        "right in every run of ours"
    ),
)
ATIS = _task("atis", "ATIS", {"train": 4_478, "validation": 500, "test": 893}, _seq_folders)
SNIPS = _task("snips", "SNIPS", {"train": 13_084, "validation": 700, "test": 700}, _seq_folders)
MULTIATIS = replace(
    _task(
        "multiatis",
        "MultiATIS++",
        {"train": 4_488, "validation": 490, "test": 893},
        _multiatis_files,
    ),
    published={
        "pNLP-Mixer X-SMALL": 90.0,
        "pNLP-Mixer SMALL": 91.8,
        "pNLP-Mixer BASE": 92.1,
        "pNLP-Mixer X-LARGE": 91.3,
        "mBERT": 92.6,
    },
    published_metric="intent_accuracy",
    published_source="arXiv 2202.04350, table 6: mean of nine languages, in 8 bit",
)
TAGGED_TASKS = (MTOP, ATIS, SNIPS, MULTIATIS)
