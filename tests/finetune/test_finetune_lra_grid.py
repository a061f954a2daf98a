"""Studies of Long Range Arena: their trials, the baselines beside them, and the table."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from finetune_runs import result_of
from lra_runs import run_fit, small_tasks, write_encoder

from finetune.cli import main
from finetune.grid_trials import with_modules
from finetune.lra.baselines import BASELINES, root_values
from finetune.lra.grid import expand, parse_lra_grid
from finetune.lra.inspection import inspect_splits
from finetune.lra.listops import TOKENS
from finetune.lra.sources import LraData, take
from finetune.lra.splits import LraSplit, byte_ids, padded, pixel_split
from finetune.lra.tasks import LISTOPS, TEXT

CONFIGS = sorted((Path(__file__).parents[2] / "configs/finetune").glob("lra_*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_study_expands_to_trials_of_its_own_folder(path, repository, monkeypatch):
    monkeypatch.chdir(repository)
    trials = expand(parse_lra_grid(["--config", str(path)]))
    assert len({trial.folder for trial in trials}) == len(trials) > 10
    seeds = [trial.parameters["seed"] for trial in trials]
    assert seeds == sorted(seeds)


def grid_of(folder: Path, *options: str):
    encoder = write_encoder(folder)
    return parse_lra_grid([
        "--tasks", "listops", "--encoder", str(encoder), "--output", str(folder / "grid"), *options,
    ])  # fmt: skip


@pytest.mark.parametrize(("options", "text"), [
    (("--tasks", "listop"), "unknown task"),
    (("--seeds", "1", "1"), "each once"),
    (("--fit.data.mode", "strict"), "set modes instead"),
    (("--fit.data", "3"), "has data 3; give options, nested"),
    (("--folder", "listops"), "TASK=DIR"),
])  # fmt: skip
def test_a_mistake_in_a_study_is_named(tmp_path, options, text):
    with pytest.raises(ValueError, match=text):
        expand(grid_of(tmp_path, *options))


def test_two_encoder_files_of_one_name_are_refused(tmp_path):
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match=r"both called 'ponet': rename"):
        expand(grid_of(tmp_path, "--encoder", str(write_encoder(tmp_path / "other"))))


def test_files_that_are_not_there_are_named_before_the_first_trial(tmp_path, capsys):
    encoder = str(write_encoder(tmp_path))
    for options, text in (((), "--folder text=DIR"), (("--folder", "text=here"), "no such folder")):
        given = ("--tasks", "text", "--encoder", encoder, "--dry_run", "true", *options)
        assert main(["lra", "grid", *given]) == 2
        assert text in capsys.readouterr().err


def test_a_dry_run_refuses_what_every_fit_would_refuse(tmp_path, capsys):
    given = ("--tasks", "listops", "--encoder", str(write_encoder(tmp_path)), "--dry_run")
    given = (*given, "--output", str(tmp_path / "runs"))
    assert main(["lra", "grid", *given]) == 0
    assert main(["lra", "grid", *given, "--fit.model.dropout", "0.1"]) == 2
    assert "fits of listops-strict: " in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_modules_are_allowed_on_the_command_line_of_the_grid_for_every_fit(tmp_path, capsys):
    given = ("--tasks", "listops", "--encoder", str(write_encoder(tmp_path)), "--dry_run")
    assert main(["lra", "grid", *given, "--allow_modules", "json,yaml"]) == 0
    trials = with_modules(expand(grid_of(tmp_path)), ["json", "yaml"])
    behind = {trial.command[-2:] for trial in trials if "fit" in trial.command}
    assert behind == {("--allow_modules", "json,yaml")}
    assert not any("--allow_modules" in t.command for t in trials if "baseline" in t.command)
    assert main(["lra", "grid", *given, "--fit.allow_modules", "json"]) == 2
    assert "'allow_modules' is not accepted" in capsys.readouterr().err


def test_self_pretraining_makes_rows_of_their_own(tmp_path):
    grid = grid_of(tmp_path, "--self_pretrain_steps", "0", "50", "--folder", "listops=here")
    fits = [trial for trial in expand(grid) if "fit" in trial.command]
    assert [trial.parameters["encoder"] for trial in fits] == ["ponet", "ponet-pretrained50"]
    assert {trial.settings["data"]["folder"] for trial in fits} == {"here"}


@pytest.mark.parametrize("mode", ["strict", "published"])  # which scores 16 of the 20
def test_runs_and_baselines_stand_in_one_table(tmp_path, monkeypatch, capsys, mode):
    small_tasks(monkeypatch)
    for seed in "12":
        options = ("--seed_everything", seed, "--data.mode", mode)
        assert run_fit(tmp_path, f"ponet{seed}", *options) == 0
    made = ("--data.task", "listops", "--data.mode", mode, "--data.cache", str(tmp_path / "made"))
    place = ("--run.root", str(tmp_path / "runs"), "--run.name", "root", "--name", "root")
    assert main(["lra", "baseline", *made, *place]) == 0
    assert main(["lra", "baseline", *made, *place]) == 0
    assert "is complete" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "runs"), "--output", str(tmp_path / "table")]) == 0
    page = (tmp_path / "table/table.md").read_text(encoding="utf-8")
    for text in ("Long Range Arena", f"ListOps, {mode}, generated data", "root operator", "37.8"):
        assert text in page
    rows = 20 if mode == "strict" else 16  # the baseline is scored on all
    assert f"Rows scored: ListOps, {mode}, generated data {rows} " in page
    assert "train has 32 samples, the published one 96,000" not in page
    path = tmp_path / "runs/ponet1/result.json"
    content = json.loads(path.read_text())
    content["data"]["unlike_published"] = ["train has 32 samples, the published one 96,000"]
    path.write_text(json.dumps(content))
    assert main(["report", str(tmp_path / "runs"), "--output", str(tmp_path / "table")]) == 0
    page = (tmp_path / "table/table.md").read_text(encoding="utf-8")
    assert f"ListOps, {mode}, generated data: train has 32 samples" in page
    found = result_of(tmp_path / "runs/root")
    assert found["encoder"]["kind"] == "baseline" and found["encoder"]["num_features"] == 0
    assert BASELINES["text"]["byte_pairs"].num_features == 4096
    assert 0 <= found["evaluation"]["test"]["accuracy"] <= 1


def write_listops(folder: Path) -> Path:
    folder.mkdir()
    rows = "".join(f"( ( [MAX {n} ) {n % 3} ) ]\t{max(n, n % 3)}\r\n" for n in range(8))
    for name in ("train", "val", "test"):
        (folder / f"basic_{name}.tsv").write_bytes(b"Source\tTarget\r\n" + rows.encode())
    return folder


def test_a_trial_is_done_once_and_its_data_are_watched(tmp_path):
    data = write_listops(tmp_path / "listops-1000")
    small = ("--fit.data.batch_size", "4", "--fit.trainer.max_steps", "2", "--fit.data.evaluations",
             "1", "--fit.trainer.accelerator", "cpu", "--folder", f"listops={data}")  # fmt: skip
    trials = expand(grid_of(tmp_path, *small))
    assert [trial.parameters["encoder"] for trial in trials] == ["root", "root_digits", "ponet"]
    for trial in trials:
        assert trial.state() == "open"
        trial.folder.mkdir(parents=True)
        trial.write_start()
        assert main(trial.command[3:]) == 0
        assert trial.write_end(0, interrupted=False) == ""
        assert trial.state() == "done"
        assert "accuracy" in trial.found()
    (data / "basic_test.tsv").write_bytes(b"Source\tTarget\r\n3\t3\r\n")
    with pytest.raises(ValueError, match="has changed"):
        trials[-1].state()


def test_a_baseline_that_there_is_not_is_refused(tmp_path, capsys):
    assert main(["lra", "baseline", "--data.task", "listops", "--name", "bytes"]) == 2
    assert "root_digits" in capsys.readouterr().err


def listops(*texts: str) -> LraSplit:
    samples = [np.array([TOKENS.index(t) for t in text.split()], np.uint8) for text in texts]
    ids, lengths = padded(samples, 16)
    return LraSplit(ids, np.zeros(len(texts), np.uint8), lengths)


def test_a_root_value_is_of_the_digits_right_below_it():
    split = listops("[MAX 3 [MIN 9 8 ] 5 ]", "[SM 7 6 ]", "[MED [MIN 1 2 ] [MIN 1 2 ] ]")
    operators = [TOKENS.index(text) * 11 for text in ("[MAX", "[SM", "[MED")]
    assert root_values(split).tolist() == [operators[0] + 5, operators[1] + 3, operators[2] + 10]


def test_digits_are_not_guessed_from_ids_of_another_vocabulary():
    split = replace(listops("[MAX 3 5 ]", "[MIN 3 5 ]"), labels=np.array([5, 3], np.uint8))
    answer = BASELINES["listops"]["root_digits"].answer
    assert answer(split, {"test": split})["test"].tolist() == [5, 3]
    drawn = np.array([0, *np.random.default_rng(0).permutation(15) + 1], np.uint8)
    other = replace(split, ids=drawn[split.ids])
    with pytest.raises(ValueError, match="another vocabulary"):
        answer(other, {"test": other})


def test_overlaps_are_looked_for_among_all_samples():
    whole = {name: listops("[MAX 3 ]", f"[MIN {n} ]") for n, name in enumerate(("train", "test"))}
    used = {name: take(split, np.array([1])) for name, split in whole.items()}
    data = LraData(kind="official", splits={**used, "validation": used["test"]}, source=Path())
    found = inspect_splits(
        LISTOPS, data, mode="strict", whole={**whole, "validation": whole["test"]}
    )
    assert found["overlaps"]["test in train"] == 1
    assert found["splits"]["test"]["num_rows_whole"] == 2


@pytest.mark.parametrize(("mode", "sizes", "said"), [
    ("strict", (18, 2, 20), 0), ("published", (20, 20, 20), 0), ("strict", (17, 2, 20), 1),
])  # fmt: skip
def test_a_part_of_text_is_said_to_be_one(mode, sizes, said):
    spec = replace(TEXT, sizes={"train": 20, "test": 20})
    splits = {
        name: listops(*["[MAX 3 ]"] * size)
        for name, size in zip(("train", "validation", "test"), sizes, strict=True)
    }
    data = LraData(kind="official", splits=splits, source=Path())
    found = inspect_splits(spec, data, mode=mode, whole=splits)["unlike_published"]
    assert found == ["train has 19 samples, the published one 20"] * said


def test_counted_bytes_tell_languages_of_other_letters_apart():
    generator = np.random.default_rng(0)
    texts = ["".join(generator.choice(list(letters), 30)) for letters in ("abcd", "cdef") * 40]
    ids, lengths = padded([byte_ids(text, 32) for text in texts], 32)
    split = LraSplit(ids, np.arange(80).astype(np.uint8) % 2, lengths)
    for name in ("bytes", "byte_pairs"):
        answers = BASELINES["text"][name].answer(split, {"test": split})["test"]
        assert np.mean(answers == split.labels) > 0.95


def test_the_nearest_picture_gives_its_label():
    pictures = np.random.default_rng(0).integers(1, 255, (6, 4, 4), dtype=np.uint8)
    split = pixel_split(pictures, [0, 1, 0, 1, 1, 0])
    answers = BASELINES["image"]["nearest"].answer(split, {"test": split})["test"]
    assert answers.tolist() == split.labels.tolist()


def test_pairs_that_share_words_are_found():
    pytest.importorskip("sklearn")
    same = ["the parser of trees", "speech and sound", "a corpus of news", "word sense"]
    sides = [[byte_ids(text, 32) for text in same + same],
             [byte_ids(text, 32) for text in same + same[1:] + same[:1]]]  # fmt: skip
    first, second = (padded(side, 32) for side in sides)
    split = LraSplit(first[0], np.array([1] * 4 + [0] * 4, np.uint8), first[1], *second)
    answers = BASELINES["retrieval"]["tfidf"].answer(split, {"test": split})["test"]
    assert answers.tolist() == split.labels.tolist()


def test_a_baseline_without_its_package_says_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    with pytest.raises(ValueError, match=r"scikit-learn, .*\[baselines\]"):
        BASELINES["retrieval"]["tfidf"].answer(None, {})
