"""What W&B is told, as plain values: settings, groups, best values, contexts, records."""

import unicodedata
from pathlib import Path

import pytest

from pretrain.records import masked_context
from training.configuration import configuration_name, flatten
from training.run_config import RunConfig, check_run_name
from training.tracking import (
    RECORD_FILE,
    TrackedStart,
    TrackingRecord,
    best_values,
)

CONFIG = {
    "seed_everything": 42,
    "model": {"encoder": {"class_path": "ponet.PoNetConfig", "init_args": {"hidden_size": 8}}},
    "data": {"seed": 42, "fold": 0, "columns": [{"a": 1}], "nothing": {}},
    "run": {"name": "x", "wandb": "online"},
}


def test_settings_are_named_like_their_flags() -> None:
    flat = flatten(CONFIG)
    assert flat["model.encoder"] == "ponet.PoNetConfig" and flat["model.encoder.hidden_size"] == 8
    assert flat["data.columns"] == [{"a": 1}] and flat["data.nothing"] == {}


def test_a_configuration_has_one_name_for_all_its_seeds_and_folders() -> None:
    keys = {"label_keys": ("model.encoder", "model.objective")}
    flat = flatten(CONFIG)
    name = configuration_name(flat, **keys)
    assert name.startswith("ponet-") and len(name) == len("ponet-12345678")
    again = {**flat, "seed_everything": 7, "data.seed": 7, "run.name": "y", "run.root": "z"}
    assert configuration_name(again, **keys) == name
    assert configuration_name({**flat, "model.encoder.hidden_size": 16}, **keys) != name
    fold = {**flat, "data.fold": 3}
    assert configuration_name(fold, **keys) != name
    folds = {**keys, "also_without": ("data.fold",)}
    assert configuration_name(fold, **folds) == configuration_name(flat, **folds)


def test_the_best_value_is_the_lowest_loss_and_the_highest_accuracy_and_never_a_nan() -> None:
    rows = [
        {"step": 1, "val/mlm_loss": 3.0, "val/mlm_accuracy": 0.1, "train/loss": 0.0},
        {"step": 2, "val/mlm_loss": 2.0, "val/mlm_accuracy": 0.1},
        {"step": 3, "val/mlm_loss": float("nan"), "val/mlm_accuracy": float("nan")},
    ]
    assert best_values(rows) == {
        "best/val/mlm_loss": 2.0,
        "best/val/mlm_loss_step": 2,
        "best/val/mlm_accuracy": 0.1,
        "best/val/mlm_accuracy_step": 1,
    }


def test_a_masked_token_stands_marked_in_its_context() -> None:
    words = ["[CLS]", "play", "##ing", "[MASK]", "##s", "well"]
    assert masked_context(words, 3) == "[CLS] playing »[MASK]«s well"
    assert masked_context(words, 3, width=1) == "ing »[MASK]«s"


@pytest.mark.parametrize("tag", ["", "x" * 65])
def test_tags_that_wandb_would_refuse_are_refused_at_once(tag: str) -> None:
    with pytest.raises(ValueError, match="wandb_tags.*1 to 64"):
        RunConfig(wandb_tags=("fine", tag))


def test_a_group_that_wandb_would_refuse_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="wandb_group has 129"):
        RunConfig(wandb_group="x" * 129)


def start(record: TrackingRecord, config: RunConfig, **more: object) -> TrackedStart:
    given = {"group": "g", "continues": True, "run_id": "", **more}
    return record.next_start(config, **given)  # type: ignore[arg-type]


def test_a_run_that_goes_on_keeps_its_group_and_online_its_id() -> None:
    online, offline = RunConfig(wandb="online"), RunConfig(wandb="offline")
    first = start(TrackingRecord(), online)
    record = TrackingRecord(runs=[first])
    assert start(record, online, group="changed") == first
    between = start(record, offline, group="changed")
    assert between.group == "g" and between.id != first.id
    record.runs.append(between)
    assert start(record, online) == first
    assert start(record, offline).id != between.id
    assert start(record, online, continues=False, group="h").group == "h"
    elsewhere = RunConfig(wandb="online", wandb_project="other")
    assert start(record, elsewhere).id != first.id
    assert start(record, online, run_id="agents").id == "agents"


def test_the_record_survives_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    assert TrackingRecord.load(tmp_path) == TrackingRecord()
    runs = [TrackedStart(id="a", mode="online", project="p", group="g")]
    record = TrackingRecord(runs=runs, bundle={"artifact": "p/b:1"})
    record.save(tmp_path)
    assert TrackingRecord.load(tmp_path) == record
    (tmp_path / RECORD_FILE).write_text('{"format_version": 2}')
    with pytest.raises(ValueError, match=r"wandb_runs.json: is damaged .*remove it"):
        TrackingRecord.load(tmp_path)


def test_a_runs_name_may_have_letters_of_any_script_and_nothing_else() -> None:
    for name in (
        "a/b-1.2_c",
        "größe",
        unicodedata.normalize("NFD", "größe"),
        "हिन्दी",
        "2024",
        "中文",
    ):
        check_run_name(name)
    for name in ("", "/a", "a/", "../evil", "a/../b", ".", "a b", "a:b", "a\\b", "a\n"):
        with pytest.raises(ValueError, match="is not a folder name"):
            check_run_name(name)
    with pytest.raises(ValueError, match="cannot read in this locale; set LC_ALL=C.UTF-8"):
        check_run_name("gr\udcc3\udcb6")
