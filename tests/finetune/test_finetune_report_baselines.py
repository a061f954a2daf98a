"""What a report says of linear models, which have no seed, and of tagged texts."""

import csv
from pathlib import Path

import pytest
from grid_fakes import make_baseline, make_result, make_tagging, write
from matplotlib.figure import Figure

from training.reports.command import write_files
from training.reports.finetuning import GridReport
from training.reports.trials import find_trials


def report_of(folder: Path, *, with_published: bool = True) -> GridReport:
    return GridReport(found=find_trials([folder]), with_published=with_published)


def write_seeds(folder: Path, scores: list[float], task: str = "cola") -> None:
    for seed, score in enumerate(scores, 1):
        write(folder, make_result(task, score=score, seed=seed))


def test_a_baseline_is_one_run_below_the_encoders_without_an_interval(tmp_path: Path) -> None:
    write(tmp_path, make_baseline(score=0.13))
    write_seeds(tmp_path, [0.2, 0.3, 0.25])
    text = report_of(tmp_path).text("md")
    assert "validation, n = 3 |" in text  # the baseline's one run does not count
    assert text.index("| ponet | 25.0 ±") < text.index("| TF-IDF + linear | 13.0 ○ |")
    assert "○ without an encoder: nothing in it is random, so one run says all" in text
    assert "| CoLA | TF-IDF + linear | words | 46,012 | 46,013 | 4.2 |" in text
    assert "| none | nothing was searched |" in text
    for wrong in ("unequal numbers of seeds", "n = 1:", "(n = 1)", "different numbers of settings"):
        assert wrong not in text
    assert "| lr 3e-05, batch 32 | 1 setting |" in text  # not every setting that it lacks


def test_what_is_no_linear_model_of_whole_texts_is_not_called_one(tmp_path: Path) -> None:
    found = make_baseline(score=0.13)
    found["settings"]["max_len"] = 0
    write(tmp_path, found)
    write_seeds(tmp_path, [0.2, 0.3])
    assert "They read whole texts." in report_of(tmp_path).text("md")
    found["encoder"] |= {"num_features": 0, "num_parameters": 0}
    found["settings"]["max_len"] = 4096
    write(tmp_path, found)
    text = report_of(tmp_path).text("md")
    assert "| CoLA | TF-IDF + linear | words | – | – | 4.2 |" in text
    assert "whole texts" not in text


def test_an_encoder_of_several_sizes_has_both_and_one_of_own_inputs_no_digest(
    tmp_path: Path,
) -> None:
    for task, size in (("cola", 2_898), ("rte", 19_706)):
        found = make_result(task, score=0.2, seed=1)
        found["encoder"] |= {"num_parameters": size, "digest": "own inputs: 0123456789abcdef"}
        found["settings"]["dropout_prob"] = "of its own"
        write(tmp_path, found)
    text = report_of(tmp_path).text("md")
    assert "| 2,898 to 19,706 | own inputs |" in text
    assert "dropout of its own" in text


def test_encoders_are_held_against_the_baseline_with_every_seed(tmp_path: Path) -> None:
    write(tmp_path, make_baseline(score=0.13))
    write_seeds(tmp_path, [0.24, 0.26, 0.25])
    found = report_of(tmp_path).numbers()["comparisons"]
    assert [(item["first"], item["second"]) for item in found] == [("ponet", "TF-IDF + linear")]
    assert found[0]["difference"].n == 3 and found[0]["num_unpaired"] == 0
    assert found[0]["difference"].mean == pytest.approx(0.12)
    assert found[0]["verdict"] == "separable"


def test_the_folds_of_a_baseline_are_paired_by_fold(tmp_path: Path) -> None:
    for fold, score in enumerate((0.7, 0.8, 0.6)):
        write(
            tmp_path, make_baseline("hyperpartisan", score=score, test=score, fold=fold), f"{fold}"
        )
        result = make_result("hyperpartisan", score=0.9, test=score + 0.1, seed=fold + 5, fold=fold)
        write(tmp_path, result)
    report = report_of(tmp_path)
    (gap,) = (item["difference"] for item in report.numbers()["comparisons"])
    assert gap.n == 3 and gap.mean == pytest.approx(0.1) and gap.has_no_spread
    assert "| TF-IDF + linear | 3 | 70.0 |" in report.text("md")
    assert "4.2 (mean of 3 folds)" in report.text("md")


def test_a_baseline_that_lacks_a_task_takes_none_out_of_the_average(tmp_path: Path) -> None:
    for task in ("cola", "rte"):
        write_seeds(tmp_path, [0.4, 0.5], task)
    write(tmp_path, make_baseline("cola", score=0.1))
    report = report_of(tmp_path)
    average = report.averages["GLUE"]
    assert average["columns"] == ["CoLA", "RTE"] and list(average["encoders"]) == ["ponet"]
    assert "| TF-IDF + linear | 10.0 ○ | – | – |" in report.text("md")
    write(tmp_path, make_baseline("rte", score=0.3))
    assert report_of(tmp_path).averages["GLUE"]["encoders"]["TF-IDF + linear"].mean == 0.2


def test_baselines_alone_make_a_report(tmp_path: Path) -> None:
    write(tmp_path, make_baseline(score=0.13))
    report = report_of(tmp_path)
    write_files(report, tmp_path / "report")
    text = (tmp_path / "report" / "table.md").read_text()
    assert "| TF-IDF + linear | 13.0 ○ |" in text and "n = 1:" not in text
    assert "Baselines (○) have fixed settings: nothing was chosen on any split" in text
    for wrong in ("0 epochs", "flatter", "chose the epoch"):
        assert wrong not in text
    (row,) = csv.DictReader((tmp_path / "report" / "table.csv").read_text().splitlines())
    assert (row["num_features"], row["cpu_s"]) == ("46012", "4.25")
    assert "cpu_s" in row and "weights (sha256)" not in text


def write_tagging(folder: Path) -> None:
    for seed, frame in ((1, 0.5), (2, 0.6)):
        result = make_tagging("mixer", frame_em=frame, intent_accuracy=0.9, seed=seed)
        facts = {"published": {"Theirs": 81.8, "Small (validation)": 76.9}}
        result["task_facts"] |= {**facts, "published_metric": "token_accuracy"}
        write(folder, result)


def test_every_score_of_tagged_texts_stands_in_a_table_of_its_own(tmp_path: Path) -> None:
    write_tagging(tmp_path)
    text = report_of(tmp_path).text("md")
    heads = "|  | slot EM | frame EM | span F1 | token accuracy | intent accuracy |"
    row = "| mixer<br>1,000 parameters, cpu<br>4 epochs; n = 2, seeds 1, 2 "
    row += "| 50.0 (all equal) | 55.0 ± 63.5 | 70.0 (all equal) |"
    assert text.count(heads) == text.count(row) == 2
    assert text.index("*MTOP, validation*") < text.index("*MTOP, test*")


def test_a_seed_that_diverged_is_in_the_means_of_every_score_or_said_to_be_left_out(
    tmp_path: Path,
) -> None:
    for seed, frame in ((1, 0.5), (2, 0.6)):
        write(tmp_path, make_tagging("mixer", frame_em=frame, seed=seed))
    lost = make_tagging("mixer", seed=3) | {"evaluation": {}, "diverged": True, "reason": "nan"}
    guess = {"slot_em": 0.2, "frame_em": 0.1, "token_accuracy": 0.2, "span_f1": 0.1, "score": 0.1}
    write(tmp_path, {**lost, "majority": {"validation": guess, "test": guess}})
    text = report_of(tmp_path).text("md")
    row = "4 epochs; n = 3, seeds 1, 2, 3<br>1 diverged seed as the majority answer | 40.0 ± 43.0 |"
    assert text.count(row) == 2 and text.count("| 40.0 ± 65.7 |") == 2  # and in the main table
    write(tmp_path, {**lost, "majority": {"validation": guess, "test": {"score": 0.1}}})
    text = report_of(tmp_path).text("md")
    assert "1 diverged seed left out where n is less | 50.0 (all equal) (n = 2) |" in text


def test_what_the_newest_result_knows_to_be_published_stands_there(tmp_path: Path) -> None:
    old, new = make_result("imdb", score=0.7, seed=1), make_result("imdb", score=0.7, seed=2)
    old["task_facts"]["published"] = {"PoNet-Base": 93.0}
    write(tmp_path, old)
    write(tmp_path, new)
    assert "*pNLP-Mixer X-SMALL (accuracy), published* | 81.9" in report_of(tmp_path).text("md")


def test_a_published_score_stands_in_the_column_and_split_it_belongs_to(tmp_path: Path) -> None:
    write_tagging(tmp_path)
    report = report_of(tmp_path)
    validation, test = report.text("md").split("*MTOP, validation*")[1].split("*MTOP, test*")
    assert "| *Small, published* | – | – | – | 76.9 | – |" in validation
    assert "Theirs" not in validation
    assert "| *Theirs, published* | – | – | – | 81.8 | – |" in test and "Small," not in test
    assert report.entries[0].task.published == {}  # of another metric than the task's score
    assert "Theirs" not in report_of(tmp_path, with_published=False).text("md")


def test_languages_have_rows_below_their_average(tmp_path: Path) -> None:
    result = make_tagging("mixer", **{"frame_em/de": 0.3, "frame_em/en": 0.5, "slot_em/de": 0.35})
    write(tmp_path, result)
    text = report_of(tmp_path).text("md")
    assert "| mixer, de | 35.0 | 30.0 | – | – |" in text
    assert text.index("| 50.0 | 40.0 |") < text.index("mixer, de") < text.index("mixer, en")


def test_tags_without_labels_have_no_columns_for_them(tmp_path: Path) -> None:
    result = make_tagging("mixer")
    for values in result["evaluation"].values():
        del values["frame_em"]
    write(tmp_path, {**result, "score": ["slot_em"]})
    text = report_of(tmp_path).text("md")
    assert "|  | slot EM | span F1 | token accuracy |\n" in text


def test_tags_and_labels_of_one_task_do_not_stand_in_one_table(tmp_path: Path) -> None:
    write(tmp_path, make_tagging("mixer"))
    write(tmp_path, {**make_result("mtop", "other", score=0.9), "score": ["accuracy"]})
    with pytest.raises(ValueError, match="chosen by frame_em and accuracy: report their folders"):
        find_trials([tmp_path])


def test_a_table_without_tagged_texts_or_baselines_says_nothing_of_them(tmp_path: Path) -> None:
    write_seeds(tmp_path, [0.4, 0.5])
    text = report_of(tmp_path).text("md")
    assert "Tagged texts" not in text and "linear model" not in text


def test_settings_are_counted_where_the_same_rows_chose_and_are_reported(tmp_path: Path) -> None:
    write(tmp_path, make_result("cola"))
    for lr in (1e-4, 3e-5):
        write(tmp_path, make_result("imdb", test=0.7, lr=lr))
    text = report_of(tmp_path).text("md")
    assert "CoLA. The same rows chose the epoch, so these scores flatter" in text
    write(tmp_path, make_result("cola", lr=1e-4))
    text = report_of(tmp_path).text("md")
    assert "The same rows chose the setting, from up to 2, and the epoch" in text


def test_the_mismatched_half_of_mnli_chose_nothing(tmp_path: Path) -> None:
    result = make_result("mnli", score=0.6)
    for group in ("evaluation", "majority"):
        result[group]["validation_mismatched"] = {**result[group]["validation"], "score": 0.65}
    write(tmp_path, result)
    text = report_of(tmp_path).text("md")
    assert "scored: MNLI m. The same rows chose the epoch, so these scores flatter." in text
    assert "MNLI mm: validation rows of their own, which chose neither setting nor epoch." in text
    assert "Reported on test" not in text


@pytest.mark.parametrize("score", [-0.9, -2.5])
def test_a_share_of_variance_below_zero_is_drawn_like_any_other(
    tmp_path: Path, score: float
) -> None:
    for seed in (1, 2):
        found = make_result("cola", score=score + 0.1 * seed, seed=seed)
        write(tmp_path, {**found, "score": ["r2"]})
    (column,), (panel,) = (made := report_of(tmp_path)).columns, made.dots()
    axis = Figure().subplots()
    panel.draw(axis)
    low, high = axis.get_xlim()
    assert low < 100 * column.cells["ponet"].estimate.mean < high
