"""`submit`: the files of the GLUE leaderboard, from finished runs.

Invariant: the archive is complete and every file has exactly the rows the leaderboard knows, in its
order, or nothing is written; what an incomplete archive lacks is said.
"""

import io
import math
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from data_prep.files import write_atomic
from finetune.artifact import load_classifier
from finetune.predict import Predictor
from finetune.prediction_files import Prediction
from finetune.tasks.registry import MissingSplit, load_task, task_named
from finetune.tasks.spec import SplitRows, TaskSpec
from training.command_line import parse_options

_ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the same predictions are the same archive


class LeaderboardFile(NamedTuple):
    """One file of a submission."""

    name: str
    """What the leaderboard calls it."""
    task: str
    """Task its rows are from."""
    has_words: bool = False
    """Whether a class is written by its name instead of its number."""
    split: str = "test"
    """Split its rows are."""

    @property
    def model(self) -> str:
        """Task its model was trained on."""
        return "mnli" if self.task == "ax" else self.task


LEADERBOARD = (
    LeaderboardFile("CoLA.tsv", "cola"),
    LeaderboardFile("SST-2.tsv", "sst2"),
    LeaderboardFile("MRPC.tsv", "mrpc"),
    LeaderboardFile("STS-B.tsv", "stsb"),
    LeaderboardFile("MNLI-m.tsv", "mnli", has_words=True),
    LeaderboardFile("MNLI-mm.tsv", "mnli", has_words=True, split="test_mismatched"),
    LeaderboardFile("QNLI.tsv", "qnli", has_words=True),
    LeaderboardFile("QQP.tsv", "qqp"),
    LeaderboardFile("RTE.tsv", "rte", has_words=True),
    LeaderboardFile("WNLI.tsv", "wnli"),
    LeaderboardFile("AX.tsv", "ax", has_words=True),
)
"""All files. Source: the names and values that jiant, by GLUE's authors, and T5 write."""


@dataclass(frozen=True, kw_only=True)
class SubmitConfig:
    """Write the files of the GLUE leaderboard from finished runs."""

    model: tuple[str, ...] = ()
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

    Raises:
        ValueError: A task is missing or given twice, a model is of no GLUE task, or a split does
            not have the rows that the leaderboard knows. Nothing is written then.
    """
    config = parse_options(
        SubmitConfig, arguments, program="ponet-finetune submit", repeated=("model",)
    )
    folders = models_by_task(config.model, max_len=config.max_len)
    missing, rows = dict[str, str](), dict[str, SplitRows]()
    for file in LEADERBOARD:
        if file.model not in folders:
            missing[file.name] = f"no --model of {'its task' if file.task != 'ax' else 'mnli'}"
    _refuse_missing(missing, config.partial)
    for file in LEADERBOARD:  # all are read and checked before the first one is computed
        if file.model in folders:
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
    """Return task -> folder of its classifier, every one of which loads and fits its task."""
    tasks = list(dict.fromkeys(file.model for file in LEADERBOARD))
    found: dict[str, Path] = {}
    for path in paths:
        info = load_classifier(path, max_len=max_len).info
        if info.task not in tasks:
            raise ValueError(
                f"{path}: was trained on {info.task!r}; the leaderboard has {', '.join(tasks)}"
            )
        if info.task in found:
            raise ValueError(f"{found[info.task]} and {path}: both are of {info.task}; give one")
        labels = task_named(info.task).labels
        if info.labels != labels:
            raise ValueError(
                f"{path}: has the labels {list(info.labels)}, but {info.task} has {list(labels)}; "
                "train it with this version"
            )
        found[info.task] = Path(path)
    return found


def leaderboard_rows(file: LeaderboardFile, folder: str) -> SplitRows:
    """Return the rows of one file, as many as the leaderboard knows and in its order.

    They come from a local copy in the original layout, or from the Hub if `folder` is empty.
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
    """Return file -> its text, in the leaderboard's order, after a printed line for each."""
    contents: dict[str, str] = {}
    for task, folder in folders.items():
        classifier = load_classifier(folder, max_len=config.max_len)
        for file in LEADERBOARD:
            if file.model != task or file.name not in rows:
                continue
            split, spec = rows[file.name], task_named(file.task)
            predictor = Predictor(classifier, source=split.source, batch_size=config.batch_size)
            found = list(predictor.stream(split.rows))
            answers = [prediction for prediction, _ in found]
            for answer in answers:
                _check(answer, split.source, f"{folder}: an output for {file.name}")
            lines = enumerate(written_answers(spec, answers, words=file.has_words))
            contents[file.name] = "".join(
                ["index\tprediction\n", *(f"{row}\t{value}\n" for row, value in lines)]
            )
            print(f"{file.name:12}{len(answers):8,} rows   {_summary(spec, answers)}")
            notes = Counter(split.repairs)
            notes[f"cut to {classifier.encoder.max_len} tokens"] = sum(cut for _, cut in found)
            for what, number in notes.items():
                if number:
                    print(f"{'':12}{number:8,} {what}")
    return {file.name: contents[file.name] for file in LEADERBOARD if file.name in contents}


def _check(answer: Prediction, source: str | Path, what: str) -> None:
    if "error" in answer:
        raise ValueError(f"{source}, line {answer['line']}: {answer['error']}")
    values = answer["probabilities"].values() if "label" in answer else [answer["score"]]
    if not all(map(math.isfinite, values)):
        raise ValueError(f"{what} is not a finite number")


def written_answers(spec: TaskSpec, answers: Sequence[Prediction], *, words: bool) -> list[str]:
    """Return what the leaderboard reads for each row: names or numbers of classes, or scores.

    Scores are clipped to the task's range and have three decimals.
    """
    if spec.score_range is not None:
        low, high = spec.score_range
        return [f"{min(max(answer['score'], low), high):.3f}" for answer in answers]
    labels = [answer["label"] for answer in answers]
    return labels if words else [str(spec.labels.index(label)) for label in labels]


def _summary(spec: TaskSpec, answers: Sequence[Prediction]) -> str:
    if spec.score_range is None:
        counts = Counter(answer["label"] for answer in answers)
        shares = (f"{label} {counts[label] / len(answers):.1%}" for label in spec.labels)
        return ", ".join(shares)
    low, high = spec.score_range
    scores = [answer["score"] for answer in answers]
    clipped = [min(max(score, low), high) for score in scores]
    num_clipped = sum(one != two for one, two in zip(scores, clipped, strict=True))
    mean = sum(clipped) / len(clipped)
    return f"mean {mean:.2f}, {num_clipped:,} clipped to [{low:g}, {high:g}]"


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
