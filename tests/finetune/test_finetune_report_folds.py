"""What a report chooses and says where a task is cross-validated."""

from pathlib import Path

from grid_fakes import make_result, write

from training.reports.finetuning import GridReport
from training.reports.trials import find_trials
from training.studies.trials import downstream_scores

VALIDATION = {1e-4: (0.9, 0.5, 0.8), 3e-5: (0.6, 0.7, 0.7)}
TEST = {1e-4: (0.50, 0.51, 0.52), 3e-5: (0.60, 0.61, 0.62)}


def write_folds(folder: Path, seeds: tuple[int, ...] = (1,)) -> None:
    """Two settings on three folds; the first is best on the mean, and on all folds but one."""
    for lr, scores in VALIDATION.items():
        for fold, score in enumerate(scores):
            for seed in seeds:
                found = {"score": score, "test": TEST[lr][fold], "lr": lr, "seed": 10 * fold + seed}
                result = make_result("hyperpartisan", fold=fold, **found)
                write(folder, result, f"{lr}-{fold}-{seed}")


def test_every_fold_has_the_setting_that_is_best_on_its_own_validation_rows(
    tmp_path: Path,
) -> None:
    write_folds(tmp_path)
    report = GridReport(found=find_trials([tmp_path]))
    (entry,) = report.entries
    assert list(entry.by_seed.values()) == [0.50, 0.61, 0.52]
    assert entry.numbers["setting"]["lr"] == 1e-4
    counts = [(c["setting"]["lr"], c["num_folds"]) for c in entry.numbers["chosen_settings"]]
    assert counts == [(1e-4, 2), (3e-5, 1)]
    text = report.text("md")
    said = "| lr 0.0001, batch 32 (2 of 3 folds); lr 3e-05, batch 32 (1 of 3 folds) | 2 settings |"
    assert said in text and "Every fold has the setting that was best on its own" in text
    found = downstream_scores(tmp_path)["hyperpartisan"]
    assert found["scores"] == [0.50, 0.61, 0.52] and found["num_chosen_settings"] == 2


def test_the_seeds_of_a_fold_choose_together(tmp_path: Path) -> None:
    write_folds(tmp_path, seeds=(1, 2))
    lucky = make_result("hyperpartisan", score=1.0, test=0.9, fold=0, lr=3e-5, seed=1)
    write(tmp_path, lucky, f"{3e-5}-0-1")  # 0.8 with the other seed, below 0.9
    (entry,) = GridReport(found=find_trials([tmp_path])).entries
    assert list(entry.by_seed.values()) == [0.50, 0.50, 0.61, 0.61, 0.52, 0.52]


def test_one_setting_is_said_as_ever(tmp_path: Path) -> None:
    for fold in (0, 1):
        write(tmp_path, make_result("hyperpartisan", test=0.5, fold=fold, seed=fold), f"{fold}")
    text = GridReport(found=find_trials([tmp_path])).text("md")
    assert "per task and encoder, and per fold of a cross-validation, by mean" in text
    assert "| lr 3e-05, batch 32 | 1 setting |" in text and "Every fold has" not in text
