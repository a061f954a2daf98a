"""The commands: help, what is refused, scoring a finished run, and many runs in one process."""

import json
import re
import signal
from pathlib import Path

import pytest
import yaml
from finetune_runs import fit_arguments, json_lines, result_of, run_fit

from finetune.cli import COMMANDS, TRAINS, main
from finetune.lightning_cli import run_command, with_run_config


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Path:
    """A folder with the finished run `one`, which did not look at its test rows."""
    folder = tmp_path_factory.mktemp("cli")
    assert run_fit(bundle, folder, "one", "--run.test", "false", test=True) == 0
    return folder


def fails(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    capsys.readouterr()
    assert main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def scored(
    runs: Path, capsys: pytest.CaptureFixture[str], command: str, *options: str
) -> dict[str, float]:
    """The first table that the command prints."""
    capsys.readouterr()
    start = [command, "--run.root", str(runs), "--run.name", "one"]
    assert main([*start, "--trainer.enable_progress_bar", "false", *options]) == 0
    heading, values, *_ = capsys.readouterr().out.strip().splitlines()
    names = heading.split("rows")[1].replace(" (yes)", "").split()
    numbers = [float(value) for value in values.split()[-len(names) :]]
    return dict(zip(names, numbers, strict=True))


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n  {command} " in printed for command in (*TRAINS[1], *COMMANDS))
    assert main([]) == 2


@pytest.mark.usefixtures("own_signals")
@pytest.mark.parametrize("command", ["predict", "explain"])
def test_sigterm_leaves_no_file_of_a_command_that_trains_nothing(
    command: str,
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def terminated(*args: object, **options: object) -> None:
        assert any(path.name.startswith(".new.") for path in tmp_path.iterdir())
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("finetune.predict.Predictor.answers", terminated)
    monkeypatch.setattr("finetune.deciding.Decider.__call__", terminated)
    (tmp_path / "in.txt").write_text("the film\n")
    options = ["--model", str(runs / "one"), "--input", str(tmp_path / "in.txt")]
    suffix = {"predict": "jsonl", "explain": "html"}[command]
    assert main([command, *options, "--output", str(tmp_path / f"new.{suffix}")]) == 143
    assert capsys.readouterr().err.splitlines()[-1] == "stopped by SIGTERM"
    assert [path.name for path in tmp_path.iterdir()] == ["in.txt"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_unknown_commands_and_missing_options_are_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "unknown command 'guess'; the commands are fit, validate" in fails(capsys, ["guess"])
    assert "encoder" in fails(capsys, ["fit"])
    assert "tasks takes no options" in fails(capsys, ["tasks", "cola"])


def test_validate_finds_the_scores_that_the_fit_wrote(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = result_of(runs / "one")["evaluation"]["validation"]
    found = scored(runs, capsys, "validate", "--data.eval_batch_size", "3")
    assert found == pytest.approx({k: wanted[k] for k in found}, abs=6e-5)
    assert len(json_lines(runs / "one" / "metrics.jsonl")) == 4  # a look adds nothing to the run
    (record,) = json_lines(runs / "one" / "evaluations.jsonl")
    assert record["command"] == "validate" and record["evaluation"]["validation"]["num_rows"] == 50
    assert record["data"] == {"validation": str(runs / "validation.csv")}


def test_test_scores_the_test_rows_and_other_rows_where_they_are_given(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(result_of(runs / "one")["evaluation"]) == ["validation"]
    assert scored(runs, capsys, "test")["accuracy"] > 0.5
    options = ["--data.test", str(runs / "validation.csv"), "--data.max_len", "40"]
    again = scored(runs, capsys, "test", *options)
    assert again["accuracy"] == pytest.approx(
        result_of(runs / "one")["evaluation"]["validation"]["accuracy"], abs=6e-5
    )


def test_a_run_is_scored_on_its_own_labels_only(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.csv").write_text("text,label\ngood,a\nbad,b\n")
    (tmp_path / "dev.tsv").write_text("sentence1\tsentence2\tlabel\na\tfilm\tentailment\n")
    start = ["validate", "--run.root", str(runs), "--run.name", "one"]
    message = fails(capsys, [*start, "--data.validation", str(tmp_path / "other.csv")])
    assert "other.csv, line 2: unknown label 'a'; allowed: 'no', 'yes'" in message
    named = ["--data.train=", "--data.validation=", "--data.test=", "--data.task=rte"]
    message = fails(capsys, [*start, *named, f"--data.folder={tmp_path}"])
    assert "with the labels no, yes; the data have entailment, not_entailment" in message


def test_rows_are_scored_without_the_training_file(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = scored(runs, capsys, "validate")
    validation = ["--data.train", "gone.csv", "--data.test", "gone.csv"]
    assert scored(runs, capsys, "validate", *validation) == found
    start = ["validate", "--run.root", str(runs), "--run.name", "one", *validation]
    capsys.readouterr()
    assert main(start) == 0
    share = result_of(runs / "one")["majority"]["validation"]["accuracy"]
    (line,) = [a for a in capsys.readouterr().out.splitlines() if "baseline (majority)" in a]
    assert f"{share:.4f}" in line


def test_a_run_that_does_not_exist_cannot_be_scored(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "needs --run.name" in fails(capsys, ["validate"])
    message = fails(capsys, ["test", "--run.root", str(runs), "--run.name=none"])
    assert "none/run_config.yaml: no such file" in message
    limited = ["test", "--run.root", str(runs), "--run.name", "one", "--max_time", "3h"]
    assert "--max_time ends a fit" in fails(capsys, limited)
    assert with_run_config(["test", "--help"]) == ["test", "--help"]


@pytest.mark.parametrize("config", ["data: {task: own}", "model: {}\ndata: {folder: shards}"])
def test_a_baseline_and_a_pretraining_run_are_not_scored_as_fits(
    config: str, tmp_path: Path
) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x/run_config.yaml").write_text(config)
    with pytest.raises(ValueError, match="x is no run of `finetune fit`"):
        with_run_config(["validate", "--run.root", str(tmp_path), "--run.name", "x"])


@pytest.mark.parametrize(
    ("option", "decisive"),
    [
        ("data.encoder", "model.encoder"),
        ("data.seed", "seed_everything"),
        ("trainer.accumulate_grad_batches", "data.global_batch_size"),
        ("trainer.default_root_dir", "run.root"),
    ],
)
def test_values_that_follow_others_are_refused(
    option: str, decisive: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = f"{option} follows {decisive}: set --{decisive} instead"
    assert message in fails(capsys, ["fit", f"--{option}", "2"])
    group, key = option.split(".")
    (tmp_path / "x.yaml").write_text(yaml.safe_dump({group: {key: 2}}))
    message = fails(capsys, ["fit", "--config", str(tmp_path / "x.yaml")])
    assert f"x.yaml: {option} follows {decisive}" in message
    assert "no such file" in fails(capsys, ["fit", "--config", str(tmp_path / "y.yaml")])
    (tmp_path / "x.yaml").write_text("data: [")
    assert "is not valid YAML" in fails(capsys, ["fit", "--config", str(tmp_path / "x.yaml")])


def test_class_paths_of_other_modules_are_refused(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = fit_arguments(bundle, tmp_path, "x", "--trainer.logger", "os.Evil")
    assert "'os.Evil' is not in an allowed module" in fails(capsys, arguments)


def test_many_runs_in_one_process_do_not_know_of_each_other(
    runs: Path, bundle: Path, tmp_path: Path
) -> None:
    options = ["--data.label", "same", "--data.text_pair", "text2", "--seed_everything", "5"]
    other = run_command(fit_arguments(bundle, tmp_path, "pair", *options))
    assert json.loads(json.dumps(other.result)) == result_of(tmp_path / "pair")
    assert not other.diverged
    again = fit_arguments(bundle, tmp_path, "again", "--run.test", "false", test=True)
    again = run_command(again).result
    assert again["evaluation"] == result_of(runs / "one")["evaluation"]


def test_the_known_tasks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    from finetune.tasks.registry import TASKS

    assert main(["tasks"]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n{name} " in printed for name in TASKS)
    assert "8,551 / 1,043 / 1,063" in printed and "leaky" in printed
    assert re.search(r"\nmtop +15,667 / 2,235 / 4,386 +frame_em ", printed)  # as all, a metric
    assert "\nimdb: 10% of the training rows are validation" in printed
    assert "\nhyperpartisan: all rows together" in printed and "are cut into 5 folds" in printed


def test_help_of_flat_commands_names_the_choices_and_the_file(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["baseline", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "One of classification, regression, multilabel, tags, sentences." in printed
    assert "--config YAML file" in printed


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_every_option_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert ("--max_len" if command == "predict" else "--model.encoder") in printed
    if command != "predict":
        assert ("\nTrain on a task" if command == "fit" else "\nScore a run's") in printed
        assert ("--max_time" in printed) == (command == "fit")
        assert "--trainer.max_time" not in printed and "--verbose" not in printed
