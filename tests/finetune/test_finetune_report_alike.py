"""What must not stand in one table of results, and what must be said of what does."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from grid_fakes import make_baseline, make_result, write

from training.reports.finetuning import GridReport
from training.reports.trials import find_trials


def write_one(folder: Path, seed: int = 1, **changed) -> None:
    write(folder, make_result(score=0.4, seed=seed, **changed))


def test_results_that_must_not_stand_together_are_errors(tmp_path: Path) -> None:
    write_one(tmp_path / "a")
    write_one(tmp_path / "b", 2, digest="other weights")
    with pytest.raises(ValueError, match="started from different weights"):
        find_trials([tmp_path / "a", tmp_path / "b"])
    write_one(tmp_path / "c", 2, num_rows=500)
    with pytest.raises(ValueError, match="were scored on 1000 and 500 rows of validation"):
        find_trials([tmp_path / "a", tmp_path / "c"])
    for seed, beta1 in ((1, 0.9), (2, 0.5)):
        write_one(tmp_path / "d", seed)
        config = {"model": {"optimizer": {"beta1": beta1}}}
        (trial,) = (tmp_path / "d").rglob(f"*seed{seed}")
        (trial / "run_config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(
        ValueError, match=r"differ in model.optimizer.beta1 \(0.9 and 0.5\): report"
    ):
        find_trials([tmp_path / "d"])
    for name, num_folds in (("none", 0), ("five", 5), ("ten", 10)):
        result = make_result(score=0.4)
        write(
            tmp_path / name,
            {**result, "task_facts": {**result["task_facts"], "num_folds": num_folds}},
        )
    for name, said in (("none", "no and 5"), ("ten", "10 and 5")):
        with pytest.raises(ValueError, match=f"are both of cola, but with {said} folds: report"):
            find_trials([tmp_path / name, tmp_path / "five"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no result.json of a fit that has ended"):
        find_trials([tmp_path / "empty"])


def test_other_rows_under_one_task_and_setting_are_no_duplicate(tmp_path: Path) -> None:
    """Every user's own data are the task `own`: without a look at the rows one is left out."""
    known = {"labels": {"no": 400, "yes": 600}}, {"target_mean": 2.5, "labels": {}}
    others = {"labels": {"no": 600, "yes": 400}}, {"target_mean": 2.6, "labels": {}}
    for number, facts in enumerate([*known, *others]):
        result = make_result(score=0.4)
        result["data"]["splits"]["validation"] |= facts
        write(tmp_path / str(number), result)
    for first, second in (("0", "2"), ("1", "3")):
        with pytest.raises(ValueError, match="on other rows of validation, both of the task cola"):
            find_trials([tmp_path / first, tmp_path / second])
    result = make_result(score=0.5, seed=2)  # a label that its smaller training file lacked
    result["data"]["splits"]["validation"] |= {"labels": {"no": 400}}
    write(tmp_path / "4", result)
    assert len(find_trials([tmp_path / "0", tmp_path / "4"]).runs) == 2


def text_of(folder: Path) -> str:
    return GridReport(found=find_trials([folder])).text("md")


def trained_on(num_rows: int, result: dict[str, Any], labels: dict[str, int] | None = None) -> Any:
    train = {"num_rows": num_rows, "num_rows_whole": num_rows, "labels": labels or {}}
    result["data"]["splits"]["train"] |= train
    return result


def test_encoders_that_saw_other_training_rows_are_named_with_how_many(tmp_path: Path) -> None:
    for seed, score in ((1, 0.7), (2, 0.71)):
        write(tmp_path, trained_on(500, make_result(score=score, seed=seed)))
        result = make_result(encoder="bert", score=score + 0.1, seed=seed)
        write(tmp_path, trained_on(50_000, result))
    write(tmp_path, trained_on(500, make_baseline(score=0.6)))
    said = (
        "CoLA: not all were trained on the same rows, but bert 50,000, ponet 500, "
        "TF-IDF + linear 500: a difference between them is one of training data, too."
    )
    assert said in text_of(tmp_path)


def test_training_rows_are_compared_by_fold_label_and_file(tmp_path: Path) -> None:
    for fold in (0, 1):  # folds differ by a row
        for encoder in ("ponet", "bert"):
            result = make_result("hyperpartisan", encoder, test=0.5, fold=fold, seed=fold)
            write(tmp_path / "folds", trained_on(381 + fold, result))
    assert "the same rows" not in text_of(tmp_path / "folds")
    for encoder, positive in (("ponet", 400), ("bert", 600)):
        labels = {"no": 1000 - positive, "yes": positive}
        write(tmp_path / "labels", trained_on(1000, make_result(encoder=encoder), labels))
    assert "the same rows, but bert 1,000, ponet 1,000:" in text_of(tmp_path / "labels")
    for encoder, digest in (("ponet", "a"), ("bert", "b")):
        path = write(tmp_path / "files", make_result(encoder=encoder))
        inputs = {"the train file": {"path": "absent.csv", "sha256": 64 * digest}}
        (path.parent / "inputs.json").write_text(json.dumps(inputs))
    text = text_of(tmp_path / "files")
    assert "bert 8,000 (file bbbbbbbb), ponet 8,000 (file aaaaaaaa):" in text


def test_settings_that_no_result_has_are_named_where_encoders_differ(tmp_path: Path) -> None:
    for encoder, pair in (("ponet", [False, 5]), ("bert", [True, 9])):
        path = write(tmp_path, make_result(encoder=encoder))
        config = {"model": {"dropout": pair[1]}, "data": {"windows": pair[0], "max_len": pair[1]}}
        (path.parent / "run_config.yaml").write_text(yaml.safe_dump(config))
    assert "CoLA: bert and ponet differ in data.windows (True and False)." in text_of(tmp_path)


def test_a_baseline_that_was_scored_on_more_rows_is_named(tmp_path: Path) -> None:
    """Fits of Long Range Arena, as published, score whole batches alone."""
    for seed in (1, 2):
        write(tmp_path, make_result(score=0.7, seed=seed, num_rows=1984))
    write(tmp_path, make_baseline(score=0.6, num_rows=2000))
    said = "CoLA: not all were scored on as many rows, but ponet 1,984, TF-IDF + linear 2,000."
    assert said in text_of(tmp_path)
    assert "Rows scored: CoLA 1,984." in text_of(tmp_path)
