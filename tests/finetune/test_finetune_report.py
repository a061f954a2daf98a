"""Tables from results: choice on validation only, all seeds, comparisons, notes, files."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
from grid_fakes import make_result, write

from finetune.grid_trials import remove_classifiers
from training.reports.choice import Entry
from training.reports.command import parse_finetuning, run_finetuning_report, write_files
from training.reports.finetuning import GridReport
from training.reports.trials import find_trials


def report_of(folder: Path, *, with_published: bool = True) -> GridReport:
    return GridReport(found=find_trials([folder]), with_published=with_published)


def markdown(report: GridReport) -> str:
    return report.text("md")


def entry_of(report: GridReport, encoder: str = "ponet", split: str = "") -> Entry:
    found = (e for e in report.entries if e.encoder == encoder)
    return next(e for e in found if not split or e.task.split == split)


def setting_of(entry: Entry) -> dict[str, Any]:
    return dict(entry.runs[0].setting)


def scores_of(entry: Entry) -> list[float]:
    return list(entry.by_seed.values())


def write_seeds(folder: Path, scores: dict[int, float], encoder: str = "ponet", **changed) -> None:
    for seed, score in scores.items():
        write(folder, make_result(encoder=encoder, score=score, seed=seed, **changed))


def test_the_setting_is_chosen_by_mean_validation_and_never_by_test(tmp_path: Path) -> None:
    for seed in (1, 2):
        write(tmp_path, make_result("imdb", score=0.80, test=0.70, lr=1e-4, seed=seed))
        write(tmp_path, make_result("imdb", score=0.79, test=0.99, lr=3e-5, seed=seed))
    entry = entry_of(report_of(tmp_path))
    assert setting_of(entry)["lr"] == 1e-4 and entry.numbers["num_settings"] == 2
    assert entry.task.split == "test" and scores_of(entry) == [0.70, 0.70]


def test_the_mean_decides_and_not_the_best_seed(tmp_path: Path) -> None:
    write_seeds(tmp_path, {1: 0.9, 2: 0.1}, lr=1e-4)
    write_seeds(tmp_path, {1: 0.6, 2: 0.6}, lr=3e-5)
    entry = entry_of(report_of(tmp_path))
    assert setting_of(entry)["lr"] == 3e-5 and scores_of(entry) == [0.6, 0.6]


def test_a_setting_with_fewer_seeds_cannot_win(tmp_path: Path) -> None:
    write_seeds(tmp_path, {1: 0.9}, lr=1e-4)
    write_seeds(tmp_path, {1: 0.5, 2: 0.5}, lr=3e-5)
    report = report_of(tmp_path)
    assert setting_of(entry_of(report))["lr"] == 3e-5
    assert "2 settings (1 with fewer or other seeds, not eligible)" in markdown(report)


def test_settings_are_compared_on_the_same_seeds_and_folds(tmp_path: Path) -> None:
    for lr, folds, easy in ((1e-4, (0, 1), 0.1), (2e-4, (2, 3), 0.0), (3e-4, (2, 3), 0.05)):
        for fold in folds:
            score = {"score": 0.7 + easy, "test": 0.6}
            write(tmp_path, make_result("hyperpartisan", seed=fold, fold=fold, lr=lr, **score))
    report = report_of(tmp_path)
    assert setting_of(entry_of(report))["lr"] == 3e-4
    assert entry_of(report).numbers["num_incomplete_settings"] == 1
    assert "3 settings (1 with fewer or other seeds, not eligible)" in markdown(report)


def test_mean_and_interval_are_students(tmp_path: Path) -> None:
    write_seeds(tmp_path, {1: 0.40, 2: 0.50, 3: 0.60})
    summary = entry_of(report_of(tmp_path)).estimate
    assert summary.mean == pytest.approx(0.5)
    assert summary.half_width == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)
    text = markdown(report_of(tmp_path))
    assert "validation, n = 3 |" in text and "| ponet | 50.0 ± 24.8 |" in text
    assert "| ponet | 3 | 50.0 | 25.2 to 74.8 | 40.0 to 60.0 |" in text


def test_one_seed_claims_no_spread_and_no_verdict(tmp_path: Path) -> None:
    write_seeds(tmp_path, {1: 0.4})
    write_seeds(tmp_path, {1: 0.3}, "bert")
    text = markdown(report_of(tmp_path))
    assert "validation, n = 1 |" in text and "| ponet | 40.0 |" in text
    assert "one pair: not judged" in text and "n = 1: one seed says nothing" in text


def test_two_seeds_are_reported_with_a_warning(tmp_path: Path) -> None:
    write_seeds(tmp_path, {1: 0.4, 2: 0.5})
    assert "n = 2: the interval is 12.7 standard errors" in markdown(report_of(tmp_path))


def test_encoders_are_compared_on_equal_seeds_only(tmp_path: Path) -> None:
    write_seeds(tmp_path, {1: 0.50, 2: 0.40, 3: 0.60, 4: 0.99})
    write_seeds(tmp_path, {1: 0.48, 2: 0.39, 3: 0.585}, "bert")
    comparison = report_of(tmp_path).numbers()["comparisons"][0]
    assert (comparison["first"], comparison["second"]) == ("bert", "ponet")
    assert comparison["difference"].n == 3 and comparison["num_unpaired"] == 1
    assert comparison["difference"].mean == pytest.approx(-0.015)
    assert comparison["verdict"] == "separable"
    text = markdown(report_of(tmp_path))
    assert "| bert − ponet | CoLA | 3 (+1 unpaired) | -1.5 |" in text and "**separable**" in text
    assert "unequal numbers of seeds for CoLA" in text and "± 2.4 (n = 3) |" not in text
    assert "(n = 3)" in text  # another number than the header's 4 stands in the cell


def test_folds_are_paired_by_fold_and_their_interval_is_wider(tmp_path: Path) -> None:
    for encoder, gain in (("ponet", 0.0), ("bert", 0.02)):
        for fold, score in enumerate((0.7, 0.8, 0.75)):
            result = make_result(
                "hyperpartisan", encoder, score=score, test=score + gain, seed=fold, fold=fold
            )
            result["data"]["splits"]["train"]["num_rows"] = 3000
            write(tmp_path, result)
    report = report_of(tmp_path)
    plain = 4.302653 * 0.05 / math.sqrt(3)
    expected = plain * math.sqrt((1 / 3 + 1 / 3) * 3)
    assert entry_of(report).estimate.half_width == pytest.approx(expected, rel=1e-6)
    assert report.numbers()["comparisons"][0]["difference"].n == 3
    text = markdown(report)
    assert "Hyperpartisan (3 of the 5 folds): the scores are of the folds of a" in text
    assert {row["num_folds"] for row in report.csv_rows()} == {5}
    assert "96.2" not in text and "leaky split" in text


def test_diverged_seeds_count_with_the_majority_score_and_are_flagged(tmp_path: Path) -> None:
    write_seeds(tmp_path, {1: 0.5, 2: 0.5}, majority=0.2)
    lost = make_result(seed=3, majority=0.2, diverged=True, reason="loss is nan", evaluation={})
    write(tmp_path, lost)
    report = report_of(tmp_path)
    entry = entry_of(report)
    assert scores_of(entry) == [0.5, 0.5, 0.2] and entry.num_diverged == 1
    text = markdown(report)
    assert "40.0 ± 43.0 †▽" in text and "| 1 of 3 |" in text
    assert "1 of 3 trials diverged, 1 of them in the chosen setting; they count with" in text
    assert "1 without any as the majority answer" in text


def test_a_setting_that_diverged_does_not_win_by_the_majority_score(tmp_path: Path) -> None:
    write_seeds(tmp_path, {1: 0.4}, lr=1.0, diverged=True)
    write_seeds(tmp_path, {1: 0.4}, lr=2.0)
    assert setting_of(entry_of(report_of(tmp_path)))["lr"] == 2.0


def test_scores_at_the_constant_answer_are_marked(tmp_path: Path) -> None:
    write_seeds(tmp_path, {1: 0.56, 2: 0.56}, task="wnli", majority=0.56, num_rows=71)
    report = report_of(tmp_path)
    assert entry_of(report).numbers["against_constant"] == "at or below"
    text = markdown(report)
    assert "56.0 (all equal) ▼" in text and "WNLI 71 (one row: 1.4 points)" in text


def test_equal_seeds_above_the_constant_answer_are_not_judged(tmp_path: Path) -> None:
    write_seeds(tmp_path, {1: 0.501, 2: 0.501}, task="rte", majority=0.5)
    text = markdown(report_of(tmp_path))
    assert "50.1 (all equal) △ |" in text and "△ above it, but all seeds are equal" in text
    assert "| all equal | 50.1 to 50.1 | above 50.0, no spread: not judged |" in text


def test_f1_is_held_against_always_answering_the_positive_class(tmp_path: Path) -> None:
    result = make_result("imdb", score=0.7, test=0.6, majority=0.0)
    result["data"]["best_constant"] = {"test": {"score": 2 / 3}}
    write(tmp_path, result)
    entry = entry_of(report_of(tmp_path))
    assert entry.numbers["constant_answer"] == pytest.approx(2 / 3)
    assert entry.numbers["against_constant"] == "at or below"


def test_the_label_that_f1_is_of_is_told(tmp_path: Path) -> None:
    result = make_result("imdb", score=0.7, test=0.6)
    result["data"]["f1_label"] = "fraud"
    write(tmp_path, result)
    assert "IMDb: F1 is that of the label 'fraud'." in markdown(report_of(tmp_path))


def test_mnli_has_a_column_for_each_half(tmp_path: Path) -> None:
    result = make_result("mnli", score=0.6)
    for group in ("evaluation", "majority"):
        result[group]["validation_mismatched"] = {**result[group]["validation"], "score": 0.65}
    write(tmp_path, result)
    report = report_of(tmp_path)
    assert [e.task.title for e in report.entries] == ["MNLI m", "MNLI mm"]
    assert scores_of(entry_of(report, split="validation_mismatched")) == [0.65]
    assert [dict(e.task.published)["PoNet-Base"] for e in report.entries] == [76.99, 77.21]


def test_averages_hold_tasks_that_all_encoders_have_and_leave_wnli_out(tmp_path: Path) -> None:
    for task, score in (("cola", 0.2), ("rte", 0.6), ("wnli", 0.5)):
        write_seeds(tmp_path, {1: score, 2: score + 0.02}, task=task)
        write_seeds(tmp_path, {1: score, 2: score}, "bert", task=task)
    write_seeds(tmp_path, {1: 0.9}, task="mrpc")
    average = report_of(tmp_path).averages["GLUE"]
    assert average["columns"] == ["CoLA", "RTE"]
    assert average["encoders"]["bert"].mean == pytest.approx(0.4)
    assert average["encoders"]["ponet"].n == 2
    assert average["encoders"]["ponet"].mean == pytest.approx(0.41)
    assert average["published_per_cent"]["PoNet-Base"] == pytest.approx((45.36 + 64.26) / 2)
    assert "bert has no result for MRPC" in markdown(report_of(tmp_path))


def test_a_mean_over_tasks_says_of_how_many_seeds_it_is(tmp_path: Path) -> None:
    for task in ("cola", "rte"):
        write_seeds(tmp_path, {1: 0.2, 2: 0.3, 3: 0.25}, task=task)
        write_seeds(tmp_path, {1: 0.2, 2: 0.3}, "bert", task=task)
        write_seeds(tmp_path, {1: 0.2, 2: 0.3, 3: 0.4 if task == "rte" else 0.5}, "new", task=task)
    write_seeds(tmp_path, {4: 0.6}, "new", task="rte")  # seeds that not all tasks share
    text = markdown(report_of(tmp_path))
    assert "| mean of 2<br>n = 3 |" in text and "| 25.0 ± 12.4 |\n" in text
    assert "| 25.0 ± 63.5 (n = 2) |\n" in text and "(n = 1) |\n" in text


def test_published_scores_are_marked_or_left_out_on_demand(tmp_path: Path) -> None:
    write_seeds(tmp_path, {1: 0.4})
    text = markdown(report_of(tmp_path))
    assert "*PoNet-Base, published* | 45.36" in text and "ModelScope card" in text
    assert "they show where the task stands, not who is better" in text
    assert "*FNet-Base" not in text  # its card has no Matthews of CoLA
    assert "45.36" not in markdown(report_of(tmp_path, with_published=False))


def test_notes_name_overlap_subsets_warnings_and_what_is_missing(tmp_path: Path) -> None:
    result = make_result("rte", score=0.6, test=0.6, num_rows=200)
    result["data"]["overlaps"] = {
        "test in train": 51,
        "duplicates in train": 3,
        "validation_mismatched in train": 7,
    }
    result["data"]["splits"]["test"]["lengths"]["share_truncated"] = 0.18
    result["data"]["splits"]["test"]["num_rows_whole"] = 400
    result["data"]["warning"] = "leaky"
    result["data"]["splits"]["train"]["num_rows_whole"] = 9000
    write(tmp_path, result)
    for name, files in (
        ("a", {"trial.yaml": "{}", "trial.json": '{"state": "failed"}'}),
        ("b", {"trial.yaml": "{}", "trial.json": '{"state": "running"}'}),
        ("c", {"trial.yaml": "{}"}),
    ):
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file).write_text(content)
    text = markdown(report_of(tmp_path))
    assert "RTE: leaky." in text
    assert "OVERLAP between splits, 51 of 400 rows (12.8 %) of test in train." in text
    assert "duplicates" not in text and "train is a fixed subset, 8,000 of 9,000 rows" in text
    assert "texts cut at the length above, 18 % of test." in text
    assert "failed, 1 trial(s): `a`." in text and "did not end, 2 trial(s): `b`, `c`." in text


def test_versions_devices_and_weights_stand_below_the_table(tmp_path: Path) -> None:
    write_seeds(tmp_path, {1: 0.4})
    write_seeds(tmp_path, {2: 0.4}, device="NVIDIA H100")
    text = markdown(report_of(tmp_path))
    assert "torch 2.13.0" in text and "cpu (1); NVIDIA H100 (1)" in text
    assert "| ponet | ponet | 1,000 | digest of po |" in text and "runs: 2, 0.0 hours" in text


def test_random_initialisation_is_an_encoder_of_its_own(tmp_path: Path) -> None:
    write_seeds(tmp_path, {1: 0.4})
    write(tmp_path, make_result(seed=1, random_init=True), "random")
    names = {entry.encoder for entry in report_of(tmp_path).entries}
    assert names == {"ponet", "ponet (random)"}


def test_the_csv_has_a_line_per_trial_and_split_and_every_metric(tmp_path: Path) -> None:
    write_seeds(tmp_path, {1: 0.4, 2: 0.5})
    write(tmp_path, make_result("imdb", score=0.8, test=0.7))
    write_files(report_of(tmp_path), tmp_path / "report")
    rows = list(csv.DictReader((tmp_path / "report" / "table.csv").read_text().splitlines()))
    assert [(r["task"], r["seed"], r["split"]) for r in rows] == [
        ("cola", "1", "validation"),
        ("cola", "2", "validation"),
        ("imdb", "42", "validation"),
        ("imdb", "42", "test"),
    ]
    assert rows[1]["matthews"] == "0.5" and rows[1]["f1"] == "" and rows[3]["f1"] == "0.7"
    assert all(row["num_train_rows"] == "8000" for row in rows)
    assert all(row["chosen"] == "True" and Path(row["path"]).is_dir() for row in rows)


def test_the_json_names_the_runs_behind_every_number(tmp_path: Path) -> None:
    write_seeds(tmp_path, {1: 0.4, 2: 0.5})
    write_files(report_of(tmp_path), tmp_path / "report")
    content = json.loads((tmp_path / "report" / "table.json").read_text())
    found = content["results"][0]
    assert found["scores"] == [0.4, 0.5] and len(found["runs"]) == 2
    assert found["best_run"].endswith("seed2") and found["setting"]["lr"] == 3e-5
    assert found["published_per_cent"] == {"PoNet-Base": 45.36}


def test_results_of_several_folders_stand_together_and_repeated_ones_once(tmp_path: Path) -> None:
    write_seeds(tmp_path / "a", {1: 0.4, 2: 0.5})
    write_seeds(tmp_path / "b", {2: 0.9, 3: 0.6})
    found = find_trials([tmp_path / "a", tmp_path / "b"])
    left_out = {tmp_path / f"{name}/cola/ponet/lr3e-05-bs32-seed2" for name in "ab"}
    assert len(found.runs) == 3 and {*found.duplicates, *found.duplicates.values()} == left_out
    report = GridReport(found=found, with_published=False)
    assert scores_of(entry_of(report)) == [0.4, 0.5, 0.6]
    text = markdown(report)
    assert "was found before: 1 result(s)" in text and f"seed2` (as `{tmp_path / 'a'}" in text


def test_the_command_writes_five_files_and_can_be_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_seeds(tmp_path, {1: 0.4, 2: 0.5, 3: 0.45})
    write_seeds(tmp_path, {1: 0.3, 2: 0.35}, "bert")
    write_files(report_of(tmp_path), tmp_path / "report")
    run_finetuning_report([str(tmp_path)])
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names == {"table.md", "table.csv", "table.json", "figure.png", "index.html"}
    assert (tmp_path / "report/figure.png").read_bytes().startswith(b"\x89PNG")
    assert "## Encoders compared" in capsys.readouterr().out
    assert parse_finetuning(["a", "b", "--published", "false"]).published is False


def test_the_named_best_run_is_the_one_whose_classifier_a_grid_keeps(tmp_path: Path) -> None:
    write_seeds(tmp_path, {1: 0.9, 2: 0.1}, lr=1e-4)
    write_seeds(tmp_path, {1: 0.6, 2: 0.7}, lr=3e-5)
    for path in list(tmp_path.rglob("result.json")):
        (path.parent / "classifier").mkdir()
    entry = entry_of(report_of(tmp_path))
    remove_classifiers(tmp_path / "cola" / "ponet", keep="best")
    assert setting_of(entry)["lr"] == 3e-5 and "lr0.0001" in entry.numbers["best_run"]
    assert [path.parent for path in tmp_path.rglob("classifier")] == [
        Path(entry.numbers["best_run"])
    ]


def test_only_what_differs_stands_beside_the_numbers(tmp_path: Path) -> None:
    write_seeds(tmp_path, {1: 0.4}, epochs=4)
    write(tmp_path, make_result(score=0.5, seed=1, epochs=20), "longer")
    write_seeds(tmp_path, {1: 0.5}, task="rte")
    text = markdown(report_of(tmp_path))
    assert "| lr 3e-05, batch 32, 20 epochs | 2 settings |" in text
    assert "Every fit of CoLA: length 128, no warm-up" in text
    assert "Every fit of RTE: 4 epochs, length 128, no warm-up" in text


def test_many_hundred_trials_are_no_trouble(tmp_path: Path) -> None:
    for number in range(600):
        lr, seed = 1e-5 * (1 + number // 60), number % 60
        write(tmp_path, make_result(score=0.3 + 1e-4 * number, lr=lr, seed=seed), str(number))
    entry = entry_of(report_of(tmp_path))
    assert entry.estimate.n == 60 and entry.numbers["num_settings"] == 10
    assert setting_of(entry)["lr"] == pytest.approx(1e-4)


def test_the_page_says_what_the_markdown_says(tmp_path: Path) -> None:
    write_seeds(tmp_path, {1: 0.4, 2: 0.5, 3: 0.45})
    write_seeds(tmp_path, {1: 0.3, 2: 0.35, 3: 0.30}, "bert")
    run_finetuning_report([str(tmp_path)])
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    for text in (
        "45.0 ± 12.4",
        "PoNet-Base, published",
        "<b>separable</b>",
        "best constant answer",
    ):
        assert text in page
    assert page.count("<svg") == 1 and "<script" not in page
