"""The tasks on the real files: published sizes, labels, and splits that do not overlap."""

from collections import Counter
from pathlib import Path

import pytest

from finetune.tasks.registry import GLUE, TASKS, load_task, task_facts, task_named
from finetune.tasks.spec import LoadedTask

GLUE_AT_HAND = [
    *((task, split) for task in ("cola", "sst2", "mrpc", "stsb", "rte", "wnli")
      for split in ("train", "validation", "test")),
    ("qnli", "validation"),
    ("qnli", "test"),
    ("mnli", "validation"),
    ("ax", "test"),
]  # fmt: skip


@pytest.fixture(scope="module")
def data(shared_dir: Path) -> Path:
    return shared_dir / "data"


def keys(task: LoadedTask, split: str) -> set[str]:
    return {row.key for row in task.splits[split].rows}


@pytest.mark.parametrize(("name", "split"), GLUE_AT_HAND)
def test_every_glue_split_at_hand_has_its_published_size(data: Path, name, split) -> None:
    loaded = load_task(name, folder=str(data / "glue"), splits=[split])
    assert len(loaded.splits[split].rows) == TASKS[name].sizes[split]
    assert not loaded.splits[split].repairs


@pytest.mark.parametrize(
    ("name", "split", "positives"),
    [
        ("cola", "train", 6_023),
        ("cola", "validation", 721),
        ("sst2", "validation", 444),
        ("mrpc", "train", 2_474),
        ("mrpc", "validation", 279),
        ("wnli", "train", 312),
        ("wnli", "validation", 31),
        ("rte", "train", 2_490 - 1_249),
        ("qnli", "validation", 5_463 - 2_702),
    ],
)
def test_label_one_is_as_frequent_as_published(data: Path, name, split, positives) -> None:
    rows = load_task(name, folder=str(data / "glue"), splits=[split]).splits[split].rows
    assert sum(row.target == 1 for row in rows) == positives


def test_mnli_labels_keep_the_order_of_the_hub(data: Path) -> None:
    loaded = load_task("mnli", folder=str(data / "glue"), splits=["validation"])
    counts = Counter(row.target for row in loaded.splits["validation"].rows)
    assert counts == {0: 3_479, 1: 3_123, 2: 3_213}


def test_stsb_scores_have_the_published_mean(data: Path) -> None:
    loaded = load_task("stsb", folder=str(data / "glue"))
    means = {
        split: sum(row.target or 0 for row in loaded.splits[split].rows)
        / len(loaded.splits[split].rows)
        for split in ("train", "validation")
    }
    assert means == pytest.approx({"train": 2.701, "validation": 2.364}, abs=1e-3)


def test_glue_test_rows_are_unlabelled_and_named_from_zero(data: Path) -> None:
    loaded = load_task("rte", folder=str(data / "glue"))
    rows = loaded.splits["test"].rows
    assert [row.id for row in rows] == [str(number) for number in range(3_000)]
    assert loaded.test_splits == ()
    assert loaded.validation_splits == ("validation",)


def test_the_folder_of_the_task_itself_is_taken_too(data: Path) -> None:
    inside = load_task("cola", folder=str(data / "glue" / "CoLA"))
    assert inside.splits == load_task("cola", folder=str(data / "glue")).splits


def test_clean_hyperpartisan_has_no_text_on_two_sides(data: Path) -> None:
    for fold in range(5):
        task = load_task("hyperpartisan", folder=str(data / "hyperpartisan"), fold=fold)
        train, validation, test = (keys(task, split) for split in ("train", "validation", "test"))
        assert not (train & validation or train & test or validation & test)
        assert (
            len(train | validation | test) == 585 == sum(len(s.rows) for s in task.splits.values())
        )
        assert len(test) == len(validation) == 117


def test_legacy_hyperpartisan_is_the_leaky_release(data: Path) -> None:
    task = load_task("hyperpartisan_legacy", folder=str(data / "hyperpartisan"))
    assert {name: len(split.rows) for name, split in task.splits.items()} == task.spec.sizes
    rows = task.splits["test"].rows
    train, validation = keys(task, "train"), keys(task, "validation")
    assert sum(row.key in train for row in rows) == 51
    assert sum(row.key in validation for row in rows) == 7
    assert "leaky" in task.spec.warning


def test_imdb_validation_is_a_tenth_of_train_and_shares_no_text_with_it(data: Path) -> None:
    task = load_task("imdb", folder=str(data / "imdb"))
    counts = {name: Counter(r.target for r in split.rows) for name, split in task.splits.items()}
    assert counts == {
        "train": {0: 11_250, 1: 11_250},
        "validation": {0: 1_250, 1: 1_250},
        "test": {0: 12_500, 1: 12_500},
    }
    assert not keys(task, "train") & keys(task, "validation")
    assert task.test_splits == ("test",)


def test_the_names_of_tasks_are_known_and_others_are_an_error() -> None:
    assert len(GLUE) == 10
    assert set(TASKS) - set(GLUE) == {
        "imdb", "yelp5", "hyperpartisan", "hyperpartisan_legacy", "arxiv", "arxiv_with_label",
        "mtop", "atis", "snips", "multiatis",
    }  # fmt: skip
    with pytest.raises(ValueError, match="unknown task 'cloa'; allowed: cola, sst2"):
        task_named("cloa")


def test_a_task_whose_scores_mislead_counts_in_no_mean() -> None:
    apart = {name for name, spec in TASKS.items() if not task_facts(spec)["in_average"]}
    assert apart == {"wnli", "ax", "hyperpartisan_legacy", "arxiv_with_label"}


@pytest.mark.parametrize("spec", TASKS.values(), ids=lambda spec: spec.name)
def test_a_task_describes_itself_without_contradictions(spec) -> None:
    assert spec.name in TASKS and spec.read_folder is not None and spec.sizes
    assert bool(spec.labels) + bool(spec.score_range) + spec.is_tagging == 1
    assert bool(spec.published) <= bool(spec.published_source)
    assert all(0 < score <= 100 for score in spec.published.values())
    if spec.hub is not None:
        assert len(spec.hub.revision) == 40
        assert set(spec.hub.splits) <= set(spec.sizes)
        assert bool(spec.hub.columns.text_pair) == spec.has_pair
