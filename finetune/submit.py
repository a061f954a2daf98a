"""`submit`: the files of the GLUE leaderboard, from finished runs.

Invariant: the archive is complete and every file has exactly the rows the leaderboard knows, in its
order, or nothing is written; what an incomplete archive lacks is said.
"""

import io
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from data_prep.files import write_atomic
from finetune.artifact import LoadedClassifier, classifier_folder, load_classifier
from finetune.predict import Predictor
from finetune.tasks.registry import MissingSplit, load_task, task_named
from finetune.tasks.spec import SplitRows, TaskSpec
from training.parsing import parse_options

HEADER = "index\tprediction"
CHUNK_ROWS = 8192
"""Rows encoded at once; the largest test split has 390,965."""
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the same predictions are the same archive


@dataclass(frozen=True, kw_only=True)
class LeaderboardFile:
    """One file of a submission."""

    name: str
    """What the leaderboard calls it."""
    task: str
    """Task its rows are from."""
    model: str
    """Task its model was trained on."""
    split: str = "test"
    """Split its rows are."""
    has_words: bool = False
    """Whether a class is written by its name instead of its number."""


def _file(name: str, task: str, *, has_words: bool = False) -> LeaderboardFile:
    return LeaderboardFile(name=name, task=task, model=task, has_words=has_words)


LEADERBOARD: tuple[LeaderboardFile, ...] = (
    _file("CoLA.tsv", "cola"),
    _file("SST-2.tsv", "sst2"),
    _file("MRPC.tsv", "mrpc"),
    _file("STS-B.tsv", "stsb"),
    _file("MNLI-m.tsv", "mnli", has_words=True),
    LeaderboardFile(
        name="MNLI-mm.tsv", task="mnli", model="mnli", split="test_mismatched", has_words=True
    ),
    _file("QNLI.tsv", "qnli", has_words=True),
    _file("QQP.tsv", "qqp"),
    _file("RTE.tsv", "rte", has_words=True),
    _file("WNLI.tsv", "wnli"),
    LeaderboardFile(name="AX.tsv", task="ax", model="mnli", has_words=True),
)
"""All files. Source: the names and values that jiant, by GLUE's authors, and T5 write."""


@dataclass(frozen=True, kw_only=True)
class SubmitConfig:
    """Write the files of the GLUE leaderboard from finished runs."""

    model: list[str] = field(default_factory=list)
    """Folder of a run, or of its classifier/; one for each task, so give it several times."""
    output: str = "submission.zip"
    """Archive to write, ending in .zip; one already there is replaced."""
    folder: str = ""
    """Folder with the GLUE tasks as originally distributed (CoLA/, SST-2/, ...); empty: the Hub."""
    partial: bool = False
    """Write what there is when tasks are missing; the leaderboard wants all of them."""
    max_len: int = 0
    """Most tokens of an example; 0: as in training."""
    batch_size: int = 64
    """Examples computed at once, >= 1; changes speed and memory, not the result."""

    def __post_init__(self) -> None:
        """Check what was given."""
        if not self.model:
            raise ValueError("no model is given; name a run with --model FOLDER, once per task")
        if Path(self.output).suffix != ".zip":
            raise ValueError(f"output is {self.output!r}; the leaderboard takes a .zip file")
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; it must be 1 or more")


def run_submit(arguments: Sequence[str]) -> Path:
    """Write the archive and return it, after one printed line per file.

    Args:
        arguments: Options of the command line.

    Raises:
        ValueError: A task is missing or given twice, a model is of no GLUE task, or a split does
            not have the rows that the leaderboard knows. Nothing is written then.
    """
    config = parse_options(
        SubmitConfig, arguments, program="ponet-finetune submit", repeated=("model",)
    )
    folders = models_by_task(config.model, max_len=config.max_len)
    wanted = [file for file in LEADERBOARD if file.model in folders]
    missing = {
        file.name: f"no --model of {'its task' if file.task == file.model else file.model}"
        for file in LEADERBOARD
        if file.model not in folders
    }
    _refuse_missing(missing, config.partial)
    rows: dict[str, SplitRows] = {}  # all are read and checked before the first one is computed
    for file in wanted:
        try:
            rows[file.name] = leaderboard_rows(file, config.folder)
        except MissingSplit as error:
            missing[file.name] = str(error)
    _refuse_missing(missing, config.partial)
    if not rows:
        raise ValueError(f"{config.output}: would be empty: {_listed(missing)}")
    contents = _contents(config, folders, rows)
    output = Path(config.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(output, zip_archive(contents))
    print(f"{len(contents)} of {len(LEADERBOARD)} files: {output}")
    if missing:
        print(f"the leaderboard will miss {_listed(missing)}")
    return output


def _listed(missing: Mapping[str, str]) -> str:
    reasons: dict[str, list[str]] = {}
    for name, reason in missing.items():
        reasons.setdefault(reason, []).append(name)
    return "; ".join(f"{', '.join(names)} ({reason})" for reason, names in reasons.items())


def _refuse_missing(missing: Mapping[str, str], is_partial: bool) -> None:
    if missing and not is_partial:
        raise ValueError(
            f"a submission is incomplete without {_listed(missing)}; add what is missing, or write "
            "the rest with --partial true"
        )


def models_by_task(paths: Sequence[str], *, max_len: int = 0) -> dict[str, Path]:
    """Return task -> folder of its classifier, every one of which loads.

    Raises:
        ValueError: A classifier is damaged, of no GLUE task or of other labels; or two are of one.
    """
    tasks = list(dict.fromkeys(file.model for file in LEADERBOARD))
    found: dict[str, Path] = {}
    for path in paths:
        folder = classifier_folder(path)
        info = load_classifier(folder, max_len=max_len).info
        if info.task not in tasks:
            raise ValueError(
                f"{path}: was trained on {info.task!r}; the leaderboard has {', '.join(tasks)}"
            )
        if info.task in found:
            raise ValueError(f"{found[info.task]} and {folder}: both are of {info.task}; give one")
        labels = task_named(info.task).labels
        if info.labels != labels:
            raise ValueError(
                f"{path}: has the labels {list(info.labels)}, but {info.task} has {list(labels)}; "
                "train it with this version"
            )
        found[info.task] = folder
    return found


def leaderboard_rows(file: LeaderboardFile, folder: str) -> SplitRows:
    """Return the rows of one file.

    Args:
        file: Which one.
        folder: Local copy in the original layout; empty: the Hub.

    Raises:
        MissingSplit: They are not there.
        ValueError: They are not as many as the leaderboard knows, or are in another order.
    """
    split = load_task(file.task, folder=folder, splits=[file.split]).splits[file.split]
    expected = task_named(file.task).sizes[file.split]
    if len(split.rows) != expected:
        raise ValueError(
            f"{split.source}: has {len(split.rows):,} rows, but {file.name} needs {expected:,}; "
            "get the whole original file"
        )
    for number, row in enumerate(split.rows):
        if row.id != str(number):
            raise ValueError(
                f"{split.source}, line {row.line}: the index is {row.id!r} where {number} is "
                "expected; get the original file, in its order"
            )
    return split


def _contents(
    config: SubmitConfig, folders: Mapping[str, Path], rows: Mapping[str, SplitRows]
) -> dict[str, str]:
    contents: dict[str, str] = {}
    for task, folder in folders.items():
        classifier = load_classifier(folder, max_len=config.max_len)
        for file in LEADERBOARD:
            if file.model != task or file.name not in rows:
                continue
            split = rows[file.name]
            outputs_NC, num_cut = _outputs(classifier, split, config.batch_size)
            if not outputs_NC.isfinite().all():
                raise ValueError(f"{folder}: an output for {file.name} is not a finite number")
            spec = task_named(file.task)
            contents[file.name] = file_text(predictions(spec, outputs_NC, words=file.has_words))
            print(f"{file.name:12}{len(split.rows):8,} rows   {_summary(spec, outputs_NC)}")
            notes = Counter(split.repairs)
            notes[f"cut to {classifier.encoder.max_len} tokens"] = num_cut
            for what, number in notes.items():
                if number:
                    print(f"{'':12}{number:8,} {what}")
    return {file.name: contents[file.name] for file in LEADERBOARD if file.name in contents}


def _outputs(classifier: LoadedClassifier, split: SplitRows, batch_size: int) -> tuple[Tensor, int]:
    """Return logits or scores (N, C) and how many texts were cut."""
    predictor = Predictor(classifier, source=split.source, batch_size=batch_size)
    outputs, num_cut = [], 0
    for start in range(0, len(split.rows), CHUNK_ROWS):
        texts = classifier.encoder.encode(split.rows[start : start + CHUNK_ROWS], split.source)
        outputs.append(predictor.outputs(texts))
        num_cut += sum(text.is_truncated for text in texts)
    return torch.cat(outputs), num_cut


def predictions(spec: TaskSpec, outputs_NC: Tensor, *, words: bool) -> list[str]:
    """Return what the leaderboard reads for each row.

    Args:
        spec: The task.
        outputs_NC: float32 (N, C), logits, or scores (N, 1).
        words: Whether classes are named; else their numbers are given. Scores are clipped to the
            task's range and have three decimals.
    """
    if spec.is_regression:
        assert spec.score_range is not None
        scores_N = outputs_NC[:, 0].clamp(*spec.score_range)
        return [f"{score:.3f}" for score in scores_N.tolist()]
    classes = outputs_NC.argmax(-1).tolist()
    return [spec.labels[number] if words else str(number) for number in classes]


def file_text(values: Sequence[str]) -> str:
    """Return the TSV file of predictions, numbered from 0."""
    return "\n".join([HEADER, *(f"{row}\t{value}" for row, value in enumerate(values))]) + "\n"


def _summary(spec: TaskSpec, outputs_NC: Tensor) -> str:
    if spec.is_regression:
        assert spec.score_range is not None
        low, high = spec.score_range
        num_clipped = int(((outputs_NC < low) | (outputs_NC > high)).sum())
        mean = float(outputs_NC.clamp(low, high).mean())
        return f"mean {mean:.2f}, {num_clipped:,} clipped to [{low:g}, {high:g}]"
    counts = outputs_NC.argmax(-1).bincount(minlength=len(spec.labels)).tolist()
    shares = zip(spec.labels, counts, strict=True)
    return ", ".join(f"{label} {count / len(outputs_NC):.1%}" for label, count in shares)


def zip_archive(contents: Mapping[str, str]) -> bytes:
    """Return a zip archive with the files at its root."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in contents.items():
            entry = zipfile.ZipInfo(name, _ZIP_TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, text.encode("utf-8"))
    return stream.getvalue()
