"""What must not stand in one table of results: other weights, rows or experiments."""

from pathlib import Path

import pytest
import yaml
from grid_fakes import make_result, write

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
