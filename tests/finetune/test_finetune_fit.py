"""`fit`, from files to a run's folder: learning, choosing, repeating, diverging, mistakes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from finetune_runs import fit_arguments, json_lines, result_of, run_fit
from pytorch_lightning.trainer.states import TrainerFn
from safetensors.torch import load_file

from finetune.artifact import load_classifier
from finetune.callbacks import BestClassifier
from finetune.cli import main
from finetune.module import FinetuneModule
from finetune.outcome import fit_lines
from ponet.bundle import read_config
from training.result import read_result


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Path:
    folder = tmp_path_factory.mktemp("fit")
    assert run_fit(bundle, folder, "one", num_train=320, test=True) == 0
    return folder / "one"


def fails(capsys: pytest.CaptureFixture[str], arguments: list[str], *, code: int = 2) -> str:
    capsys.readouterr()
    assert main(arguments) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_a_separable_task_is_learnt_far_above_the_majority_guess(fitted: Path) -> None:
    result = result_of(fitted)
    found, guess = result["evaluation"]["validation"], result["majority"]["validation"]
    assert found["accuracy"] > 0.95 and found["macro_f1"] > 0.9
    assert guess["accuracy"] < 0.75 and guess["macro_f1"] < 0.5
    assert found["score"] == found["accuracy"] and result["score"] == ["accuracy"]


def test_the_run_folder_holds_what_a_table_needs(fitted: Path, bundle: Path) -> None:
    names = {path.name for path in fitted.iterdir()}
    assert names == {
        *("run_config.yaml", "inputs.json", "metrics.jsonl", "classifier", "result.json")
    }
    result = read_result(fitted / "result.json")
    assert result["encoder"]["name"] == bundle.parent.name and result["encoder"]["kind"] == "ponet"
    assert result["settings"]["lr"] == 5e-3 and result["settings"]["batch_size"] == 16
    assert result["settings"]["seed"] == 42 and result["settings"]["epochs"] == 2
    settings = result["settings"]
    assert (settings["dropout_prob"], settings["gradient_clip"]) == (0.1, 1.0)
    assert result["total_steps"] == 40 and result["best_step"] == 20 * result["best_epoch"]
    assert {name: values["num_rows"] for name, values in result["evaluation"].items()} == {
        "validation": 50,
        "test": 41,
    }
    assert read_config(fitted / "classifier")["metadata"] == {"max_len": 24}  # of pretraining
    assert result["diverged"] is False and result["data"]["splits"]["train"]["num_rows"] == 320


def test_another_metric_and_label_choose_and_are_named(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data.score", "f1", "--data.positive_label", "no", "--model.class_weights"]
    assert run_fit(bundle, tmp_path, "f", *options, "balanced") == 0
    printed, result = capsys.readouterr().out, result_of(tmp_path / "f")
    assert "f1 (no)" in printed and "was chosen on validation by f1 (no)" in printed
    assert result["settings"]["class_weights"] == "balanced"
    found = result["evaluation"]["validation"]
    assert result["score"] == ["f1"] and result["data"]["f1_label"] == "no"
    assert found["score"] == found["f1"] == found["f1/no"]
    assert main(["validate", "--run.root", str(tmp_path), "--run.name", "f"]) == 0
    assert "f1 (no)" in capsys.readouterr().out


def test_a_carved_validation_split_is_scored_again_with_the_same_rows(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = fit_arguments(bundle, tmp_path, "c", "--data.validation_fraction", "0.2")
    place = arguments.index("--data.validation")
    del arguments[place : place + 2]
    assert main(arguments) == 0
    found = result_of(tmp_path / "c")["evaluation"]["validation"]
    assert found["num_rows"] == 32
    capsys.readouterr()
    again = ["validate", "--run.root", str(tmp_path), "--run.name", "c"]
    assert main(again) == 0
    assert f" {found['accuracy']:.4f} " in capsys.readouterr().out
    train = arguments[arguments.index("--data.train") + 1]
    for spelling in (train, f"{tmp_path}/../{Path(train).relative_to(tmp_path.parent)}"):
        other = ("--data.train", spelling, "--data.validation_fraction", "0.5")
        message = fails(capsys, [*again, *other])
        assert "was trained with 0.2: rows that it was trained on would be scored" in message
    message = fails(capsys, ["test", *again[1:], "--data.repeat", "1"])
    assert "data.repeat is 1, but" in message and "was trained with 0" in message


def test_predictions_of_a_regression_are_on_the_scale_of_its_scores(
    bundle: Path, tmp_path: Path
) -> None:
    arguments = fit_arguments(bundle, tmp_path, "r", "--data.kind", "regression", num_train=320)
    for name in ("train.csv", "validation.csv"):
        text = (tmp_path / name).read_text()
        text = text.replace(",1.5\n", ",265000\n").replace(",-0.5\n", ",245000\n")
        (tmp_path / name).write_text(text)
    assert main([*arguments, "--data.label", "stars"]) == 0
    found = result_of(tmp_path / "r")["evaluation"]["validation"]
    assert found["r2"] > 0.5
    files = ["--input", str(tmp_path / "validation.csv"), "--output", str(tmp_path / "p.jsonl")]
    assert main(["predict", "--model", str(tmp_path / "r"), *files]) == 0
    scores = [row["score"] for row in json_lines(tmp_path / "p.jsonl")]
    assert all(230_000 < score < 280_000 for score in scores)
    text = (tmp_path / "train.csv").read_text().replace(",265000", ",245000")
    (tmp_path / "train.csv").write_text(text)
    again = [*arguments, "--data.label", "stars", "--run.name", "constant"]
    assert main(again) == 2 and not (tmp_path / "constant" / "classifier").exists()


def test_metrics_stand_at_the_optimiser_step_they_belong_to(fitted: Path) -> None:
    rows = json_lines(fitted / "metrics.jsonl")
    assert [row["step"] for row in rows if "train/loss" in row] == [10, 20, 30, 40]
    assert [row["step"] for row in rows if "val/score" in row] == [20, 40]
    assert [row["step"] for row in rows if "test/score" in row] == [40]
    assert [row["lr"] for row in rows if "lr" in row] == pytest.approx(
        [5e-3 * (40 - step) / 40 for step in (9, 19, 29, 39)]
    )


def test_the_test_split_is_scored_with_the_chosen_epochs_classifier(fitted: Path) -> None:
    from finetune.predict import Predictor
    from finetune.tasks.incoming import InputReader
    from finetune.tasks.spec import Columns

    path = fitted.parent / "test.csv"
    reader = InputReader(str(path), Columns(text="text"), ("label",))
    rows, kept = zip(*reader.rows(), strict=True)
    predictor = Predictor(load_classifier(fitted), source=str(path))
    answers = [answer["label"] for answer, _ in predictor.stream(iter(rows))]
    hits = [answer == row["label"] for answer, row in zip(answers, kept, strict=True)]
    accuracy = result_of(fitted)["evaluation"]["test"]["accuracy"]
    assert sum(hits) / len(hits) == pytest.approx(accuracy)


def test_the_same_seed_gives_the_same_run_and_another_one_does_not(
    fitted: Path, bundle: Path, tmp_path: Path
) -> None:
    config = fitted / "run_config.yaml"
    again = ["fit", "--config", str(config), "--run.root", str(tmp_path)]
    assert main([*again, "--run.name", "a"]) == 0
    assert main([*again, "--run.name", "b", "--seed_everything", "43"]) == 0
    runs = [fitted, tmp_path / "a", tmp_path / "b"]
    one, same, other = (load_file(run / "classifier/model.safetensors") for run in runs)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
    one, same = (result_of(run)["evaluation"] for run in runs[:2])
    assert one == same


def test_pairs_random_initialisation_and_a_constant_rate_train(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data.text_pair", "text2", "--data.label", "same", "--model.random_init", "true"]
    options += ["--model.optimizer.schedule", "constant", "--trainer.max_epochs", "1"]
    assert run_fit(bundle, tmp_path, "pairs", *options) == 0
    printed = capsys.readouterr().out
    assert "random initialisation" in printed and "baseline (majority)" in printed
    result = result_of(tmp_path / "pairs")
    assert result["encoder"]["random_init"] is True
    assert load_classifier(tmp_path / "pairs").info.has_pair


def test_scores_are_learnt_by_regression(bundle: Path, tmp_path: Path) -> None:
    options = ["--data.kind", "regression", "--data.label", "stars", "--trainer.max_epochs", "4"]
    assert run_fit(bundle, tmp_path, "stars", *options, num_train=320) == 0
    result = result_of(tmp_path / "stars")
    assert result["kind"] == "regression"
    assert result["evaluation"]["validation"]["pearson"] > 0.9
    assert result["majority"]["validation"]["score"] == 0.0


def validations(module: FinetuneModule, best: BestClassifier, found: list[Any]) -> Any:
    state = SimpleNamespace(fn=TrainerFn.FITTING)
    trainer = SimpleNamespace(
        global_step=0, current_epoch=0, is_global_zero=True, sanity_checking=False, state=state
    )
    for epoch, (score, loss) in enumerate(found):
        module.evaluation = {"validation": {"score": score, "loss": loss}}
        trainer.current_epoch, trainer.global_step = epoch, 5 * (epoch + 1)
        best.on_validation_end(trainer, module)  # type: ignore[arg-type]
    return trainer


def test_the_best_score_is_kept_and_ties_go_to_the_smaller_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    monkeypatch.setattr(BestClassifier, "_write", lambda self, module: written.append(self.epoch))
    best = BestClassifier(tmp_path)
    found = [(0.5, 1.0), (0.9, 0.7), (0.9, 0.6), (0.9, 0.6), (0.8, 0.1)]
    validations(FinetuneModule("unused"), best, found)
    assert written == [1, 2, 3]
    assert (best.epoch, best.step, best.evaluation["validation"]["loss"]) == (3, 15, 0.6)


def test_a_validation_loss_that_is_not_finite_is_never_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BestClassifier, "_write", lambda self, module: None)
    module, best = FinetuneModule("unused"), BestClassifier(tmp_path)
    trainer = validations(module, best, [(0.5, 1.0), (0.9, float("nan"))])
    assert best.epoch == 1 and trainer.should_stop
    assert module.diverged == "the validation loss is nan after step 10"


def test_diverged_training_stops_and_says_so(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model.optimizer.lr", "1e38", "--trainer.gradient_clip_val", "1e30"]
    message = fails(capsys, fit_arguments(bundle, tmp_path, "x", *options, test=True), code=77)
    assert "diverged: the training loss is nan at step" in message and "lr" in message
    result = result_of(tmp_path / "x")
    assert result["diverged"] is True and "not" not in result["reason"]
    assert result["best_epoch"] == 0 and result["evaluation"] == {}
    assert result["total_steps"] <= 10 and result["majority"]["validation"]
    assert not (tmp_path / "x" / "classifier").exists()


def test_a_run_that_diverges_later_keeps_what_was_best_before(
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = FinetuneModule.training_step

    def failing(self: FinetuneModule, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = step(self, batch, batch_idx)
        return loss * float("nan") if self.trainer.current_epoch else loss

    monkeypatch.setattr(FinetuneModule, "training_step", failing)
    assert "diverged" in fails(capsys, fit_arguments(bundle, tmp_path, "x", test=True), code=77)
    result = result_of(tmp_path / "x")
    assert result["best_epoch"] == 1 and result["diverged"] is True
    assert result["evaluation"]["test"]["num_rows"] == 41
    weights = load_file(tmp_path / "x/classifier/model.safetensors")
    assert all(bool(value.isfinite().all()) for value in weights.values())


def test_an_earlier_run_is_kept_unless_told_otherwise(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "trial.yaml").write_text("mine")
    (tmp_path / "x" / "metrics.jsonl").write_text("before")
    arguments = fit_arguments(bundle, tmp_path, "x", "--trainer.max_epochs", "1")
    assert "holds an earlier run" in fails(capsys, arguments)
    arguments += ["--run.overwrite", "true"]
    assert "max_len is 2" in fails(capsys, [*arguments, "--data.max_len", "2"])
    assert (tmp_path / "x" / "metrics.jsonl").read_text() == "before"
    assert main(arguments) == 0
    assert (tmp_path / "x" / "trial.yaml").read_text() == "mine"
    assert len(json_lines(tmp_path / "x" / "metrics.jsonl")) == 2
    (tmp_path / "x" / "bundle").mkdir()
    assert "is a pretraining run" in fails(capsys, arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.text", "review"], "train.csv, line 2: no column 'review'"),
        (["--model.optimizer.lr", "0"], "lr must be > 0, got 0.0"),
        (["--model.optimizer.lr", "fast"], "lr"),
        (["--model.learning_rate", "1"], "learning_rate"),
        (["--model.encoder", "nowhere"], "nowhere"),
        (["--data.task", "colaa"], "colaa"),
        (["--seed_everything", "true"], "seed_everything is True"),
        (["--ckpt_path", "x.ckpt"], "unrecognized arguments: --ckpt_path"),
        (["--run.name", "../x"], "is not a folder name"),
        (["--run.name", "."], "is not a folder name"),
        (["--trainer.max_epochs", "-1"], "the run has no end; give --trainer.max_epochs"),
        (["--trainer.max_epochs", "0"], "trainer.max_epochs is 0: nothing would be trained"),
        (["--trainer.max_steps", "0"], "trainer.max_steps is 0: nothing would be trained"),
        (["--trainer.limit_train_batches", "0"], "trainer.limit_train_batches is 0"),
        (["--trainer.limit_val_batches", "0"], "no epoch would be validated"),
        (["--trainer.overfit_batches", "2"], "use --data.max_train_rows, with the training file"),
        (["--trainer.precision", "bf16-true"], "fine-tuning has 32-true, bf16-mixed, 16-mixed"),
        (["--trainer.gradient_clip_val", "-1"], "gradient_clip_val is -1: give the largest norm"),
        (["--run.save_every_n_minutes", "-1"], "must be >= 0"),
        (
            ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/f2"],
            "EarlyStopping looks at a metric 'val/f2', which there is not; there are val/score, "
            "val/accuracy",
        ),
    ],
)
def test_a_wrong_option_is_one_line(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: Any, message: str
) -> None:
    assert message in fails(capsys, fit_arguments(bundle, tmp_path, "x", *options))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("options", "steps", "validated"),
    [
        (["--trainer.max_steps", "7"], 7, [7]),  # below an epoch of 10
        (["--trainer.max_epochs", "-1", "--trainer.max_steps", "13"], 13, [10, 13]),
        (["--trainer.limit_train_batches", "3"], 6, [3, 6]),
        (["--trainer.check_val_every_n_epoch", "3"], 20, [20]),
        (["--trainer.val_check_interval", "6"], 20, [6, 16, 20]),
    ],
)
def test_every_fit_ends_in_a_validation_of_its_last_step(
    bundle: Path, tmp_path: Path, options: list[str], steps: int, validated: list[int]
) -> None:
    assert run_fit(bundle, tmp_path, "x", *options) == 0
    rows = json_lines(tmp_path / "x" / "metrics.jsonl")
    assert [row["step"] for row in rows if "val/score" in row] == validated
    result = result_of(tmp_path / "x")
    assert result["total_steps"] == steps and result["best_step"] in validated
    per_epoch = 3 if "limit" in options[0] else 10
    assert result["best_epoch"] == -(-result["best_step"] // per_epoch)
    assert result["settings"]["epochs"] == pytest.approx(steps / per_epoch)
    assert (tmp_path / "x" / "classifier" / "model.safetensors").is_file()


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision_trains_with_clipped_gradients(
    bundle: Path, tmp_path: Path, precision: str
) -> None:
    options = ["--trainer.precision", precision, "--trainer.max_steps", "3"]
    assert run_fit(bundle, tmp_path, "x", *options) == 0
    settings = result_of(tmp_path / "x")["settings"]
    assert settings["gradient_clip"] == 1.0 and settings["precision"].endswith("-mixed")


def test_a_rehearsal_makes_a_step_and_a_validation_and_writes_nothing(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_fit(bundle, tmp_path, "x", "--trainer.fast_dev_run", "true", test=True) == 0
    assert "a rehearsal" in capsys.readouterr().out
    assert not (tmp_path / "x").exists()


def test_early_stopping_ends_the_fit_and_its_result_stands(bundle: Path, tmp_path: Path) -> None:
    stop = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/loss"]
    stop += ["--trainer.callbacks.patience=1", "--trainer.callbacks.mode=max"]
    assert run_fit(bundle, tmp_path, "x", *stop, "--trainer.max_epochs", "6") == 0
    result = result_of(tmp_path / "x")
    assert result["total_steps"] == 20 and result["best_epoch"] in (1, 2)
    last = {"best_epoch": 2, "best_step": 20, "evaluation": {"validation": {"score": 0.5}}}
    for epochs, is_told in ((6, False), (2, True)):  # more epochs than were allowed help nobody
        settings = {**result["settings"], "epochs": epochs}
        said = "\n".join(fit_lines({**result, **last, "settings": settings}, tmp_path))
        assert ("the last epoch is the best one" in said) == is_told


def test_a_fit_goes_on_from_a_fine_tuned_run_with_its_head_where_the_labels_are_equal(
    fitted: Path, bundle: Path, tmp_path: Path
) -> None:
    still = ["--model.optimizer.lr", "1e-12", "--trainer.max_steps", "1"]
    for number, start in enumerate((fitted, fitted / "classifier")):
        assert run_fit(bundle, tmp_path, f"x{number}", *still, "--model.encoder", str(start)) == 0
    before = load_file(fitted / "classifier/model.safetensors")
    after = load_file(tmp_path / "x1/classifier/model.safetensors")
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
    encoder = result_of(tmp_path / "x0")["encoder"]
    assert encoder == {**result_of(tmp_path / "x1")["encoder"], "path": str(fitted)}
    assert encoder["name"] == "one"
    scores = ["--data.kind", "regression", "--data.label", "stars", "--model.encoder", str(fitted)]
    assert run_fit(bundle, tmp_path, "y", *still, *scores) == 0
    new = load_file(tmp_path / "y/classifier/model.safetensors")
    assert new["classifier.weight"].shape == (1, 32)
    name = next(name for name in before if name.startswith("encoder.") and "position" not in name)
    assert torch.allclose(before[name], new[name], atol=1e-6)


def test_an_unknown_label_is_named_with_its_line(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = fit_arguments(bundle, tmp_path, "x")
    (tmp_path / "validation.csv").write_text("text,label\ngood,yes\nbad,maybe\n")
    message = fails(capsys, arguments)
    assert "validation.csv, line 3" in message and "'maybe'" in message
    assert not (tmp_path / "x").exists()


def test_the_precision_may_be_left_to_the_machine(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.cli.automatic_precision", lambda device: "bf16-mixed")
    assert run_fit(bundle, tmp_path, "auto", "--run.auto_precision", "true") == 0
    assert result_of(tmp_path / "auto")["settings"]["precision"] == "bf16-mixed"
