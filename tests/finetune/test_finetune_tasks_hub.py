"""The Hub gives the same rows as a folder; its columns are those of the data sets' cards."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from finetune.tasks.registry import TASKS, MissingSplit, load_task

PAIR = ("sentence1", "sentence2")
# Columns by the data set cards: https://huggingface.co/datasets/nyu-mll/glue and the others.
HUB_COLUMNS = {
    "cola": ("sentence",),
    "sst2": ("sentence",),
    "mrpc": PAIR,
    "stsb": PAIR,
    "qqp": ("question1", "question2"),
    "mnli": ("premise", "hypothesis"),
    "qnli": ("question", "sentence"),
    "rte": PAIR,
    "wnli": PAIR,
    "ax": ("premise", "hypothesis"),
    "imdb": ("text",),
    "yelp5": ("text",),
    "arxiv": ("text",),
}
# Task -> (folder, columns of the texts in its TSV files, column of the label).
TSV = {
    "cola": ("CoLA", ("sentence",), "label"),
    "sst2": ("SST-2", ("sentence",), "label"),
    "mrpc": ("MRPC", ("#1 String", "#2 String"), "Quality"),
    "stsb": ("STS-B", PAIR, "score"),
    "rte": ("RTE", PAIR, "label"),
    "wnli": ("WNLI", PAIR, "label"),
    "qnli": ("QNLI", ("question", "sentence"), "label"),
}
FILES = {"train": "train", "validation": "dev", "test": "test"}


def tsv_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        names = None
        if path.parent.name == "CoLA" and path.name != "test.tsv":
            names = ["source", "label", "star", "sentence"]
        return list(csv.DictReader(file, names, delimiter="\t", quoting=csv.QUOTE_NONE))


def hub_label(task: str, value: str | None) -> Any:
    if value is None:
        return -1
    if task == "stsb":
        return float(value)
    return TASKS[task].labels.index(value) if task in ("rte", "qnli") else int(value)


def as_on_the_hub(task: str, glue: Path, split: str) -> list[dict[str, Any]]:
    folder, columns, label = TSV[task]
    hub_rows = []
    for number, row in enumerate(tsv_rows(glue / folder / f"{FILES[split]}.tsv")):
        texts = {hub: row[own] for hub, own in zip(HUB_COLUMNS[task], columns, strict=True)}
        hub_rows.append({**texts, "label": hub_label(task, row.get(label)), "idx": number})
    return hub_rows


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch):
    """Serve rows instead of a download; gives back the arguments it was asked with."""
    import datasets

    served: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []

    def load_dataset(**arguments: Any) -> Any:
        calls.append(arguments)
        rows = datasets.Dataset.from_list(served)
        if isinstance(served[0].get("label"), float):
            return rows.cast_column("label", datasets.Value("float32"))  # as STS-B's card says
        return rows

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return served, calls


QUICK = [
    (task, split)
    for task in TSV
    for split in FILES
    if (task, split) not in [("sst2", "train"), ("qnli", "train")]  # large, and not at hand
]


@pytest.mark.parametrize(("task", "split"), QUICK)
def test_hub_and_folder_give_the_same_rows(shared_dir: Path, hub, task, split) -> None:
    glue = shared_dir / "data" / "glue"
    served, calls = hub
    served.extend(as_on_the_hub(task, glue, split))
    from_hub = load_task(task, splits=[split]).splits[split].rows
    from_folder = load_task(task, folder=str(glue), splits=[split]).splits[split].rows
    assert [row[1:] for row in from_hub] == [row[1:] for row in from_folder]
    assert calls == [
        {
            "path": "nyu-mll/glue",
            "name": task,
            "revision": "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c",
            "split": split,
        }
    ]


@pytest.mark.parametrize("task", HUB_COLUMNS)
def test_the_columns_of_the_dataset_cards_are_read(hub, task) -> None:
    served, _ = hub
    label = 1.0 if task == "stsb" else 1
    texts = {column: f" {column} text " for column in HUB_COLUMNS[task]}
    served.append({**texts, "label": label, "idx": 0})
    split = "test" if task == "ax" else "train"
    if TASKS[task].carve_validation:
        served.append({"text": "another text", "label": 0})
    row = load_task(task, splits=[split]).splits[split].rows[0]
    assert row.text == f"{HUB_COLUMNS[task][0]} text"
    assert bool(row.text_pair) == (len(HUB_COLUMNS[task]) == 2)
    assert row.target == (None if task == "ax" else 1.0)


def test_labels_of_hidden_glue_tests_are_never_read(hub) -> None:
    hub[0].append({"sentence1": "a", "sentence2": "b", "label": 1, "idx": 0})
    task = load_task("mrpc", splits=["test"])  # the Hub has the labels, the leaderboard hides them
    assert task.splits["test"].rows[0].target is None


@pytest.mark.parametrize(
    ("task", "split", "asked"),
    [("mnli", "validation", "validation_matched"), ("mnli", "test_mismatched", "test_mismatched")],
)
def test_mnli_splits_are_named_as_on_the_hub(hub, task, split, asked) -> None:
    hub[0].append({"premise": "a", "hypothesis": "b", "label": 2, "idx": 0})
    load_task(task, splits=[split])
    assert hub[1][0]["split"] == asked


def test_arxiv_is_read_from_parquet_files_without_a_script(hub) -> None:
    hub[0].append({"text": "a paper", "label": 10})
    row = load_task("arxiv", splits=["test"]).splits["test"].rows[0]
    assert TASKS["arxiv"].labels[int(row.target or 0)] == "math.ST"
    assert hub[1][0]["path"] == "parquet"
    (pattern,) = hub[1][0]["data_files"].values()
    assert pattern.startswith("hf://datasets/ccdv/arxiv-classification@")
    assert pattern.endswith("/no_ref/test-*.parquet")


def test_yelp_escapes_are_undone(hub) -> None:
    hub[0].append({"text": 'first\\nsecond \\""quoted\\"" end', "label": 4})
    row = load_task("yelp5", splits=["test"]).splits["test"].rows[0]
    assert row.text == 'first\nsecond "quoted" end'


def test_glue_jsonl_with_hub_columns_is_a_split_too(tmp_path: Path) -> None:
    folder = tmp_path / "RTE"
    folder.mkdir()
    rows = [
        {"sentence1": "a", "sentence2": "b", "label": "not_entailment"},
        {"sentence1": "c", "sentence2": "d", "label": 0},
    ]
    for name in ("train", "dev"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = load_task("rte", folder=str(tmp_path))
    assert [row.target for row in task.splits["train"].rows] == [1, 0]
    assert list(task.splits) == ["train", "validation"]


def test_an_unlabelled_training_row_is_an_error(hub) -> None:
    hub[0].append({"sentence": "a", "label": -1, "idx": 0})
    with pytest.raises(ValueError, match="nyu-mll/glue sst2 train, line 1: unknown label -1"):
        load_task("sst2", splits=["train"])


def test_a_renamed_column_is_an_error_with_the_data_set(hub) -> None:
    hub[0].append({"text": "a", "label": 1})
    with pytest.raises(ValueError, match=r"nyu-mll/glue cola train, line 1: no column 'sentence'"):
        load_task("cola", splits=["train"])


def test_a_failed_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def offline(**arguments: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(ValueError, match=r"nyu-mll/glue .* no route .*--data\.folder"):
        load_task("cola")


def test_a_task_that_is_not_on_the_hub_asks_for_a_folder() -> None:
    with pytest.raises(ValueError, match=r"hyperpartisan is not on the Hub .* --data\.folder"):
        load_task("hyperpartisan")


def test_a_split_that_the_hub_lacks_is_named() -> None:
    with pytest.raises(
        MissingSplit, match="imdb has no split 'dev'; it has train, validation, test"
    ):
        load_task("imdb", splits=["dev"])
