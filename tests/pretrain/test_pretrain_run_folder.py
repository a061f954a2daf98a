"""What lies in a run's folder is touched by the one fit that goes on there, and by nothing else."""

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pretrain_corpora import make_folder, random_documents, tiny_options
from pretrain_faults import Killed, fault_options, story

from pretrain.cli import main
from pretrain.module import PretrainModule
from pretrain.run_config import RUN_FILES
from training.checkpoints.storage import load_checkpoint, saved_checkpoints
from training.metrics_file import own_test_rows, read_metrics
from training.run_folder import LOCK_FILE, sole_writer

OVERWRITE = ["--run.overwrite", "true"]
FORKS = ["--trainer.devices", "2", "--trainer.strategy"]
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
MISTAKES = [
    pytest.param(["--data.folder", "nowhere"], "holds no token shards", id="data folder"),
    pytest.param(["--model.encoder.vocab_size", "30"], "vocab_size", id="vocabulary"),
    pytest.param(["--trainer.accelerator", "gpu"], "", id="device", marks=needs_no_gpu),
    pytest.param(["--trainer.devices", "0"], "", id="no device"),
    pytest.param(["--trainer.strategy", "nonsense"], "nonsense", id="strategy"),
    pytest.param([*FORKS, "ddp_fork"], "configs/strategy", id="ddp_fork"),
    pytest.param([*FORKS, "ddp_spawn"], "configs/strategy", id="ddp_spawn"),
    pytest.param([*FORKS, "ddp_notebook"], "configs/strategy", id="ddp_notebook"),
    pytest.param(["--trainer.precision", "nonsense"], "", id="precision"),
    pytest.param(["--trainer.callbacks+=Nonsense"], "Nonsense", id="callback"),
    pytest.param(
        ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor", "val/nonsense"],
        "val/nonsense",
        id="monitor",
    ),
    pytest.param(["--trainer.logger+=Nonsense"], "Nonsense", id="logger"),
    pytest.param(["--trainer.limit_train_batches", "3"], "optimiser step", id="limit"),
    pytest.param(["--data.micro_batch_size", "3"], "micro_batch_size", id="batch size"),
    pytest.param(["--data.max_len", "64"], "max_positions 64", id="length"),
    pytest.param(["--data.build_config", "nowhere.yaml"], "nowhere.yaml", id="build config"),
    pytest.param(["--resume", "nowhere.ckpt"], "nowhere.ckpt", id="checkpoint"),
    pytest.param(["--max_time", "soon"], "soon", id="time"),
    pytest.param(["--preemption.requeue", "true"], "run.overwrite", id="requeue"),
    pytest.param(["--guards.spike_factor", "0.5"], "spike_factor", id="guards"),
]


def tree(folder: Path) -> dict[str, bytes | None]:
    """Names and bytes of all that is in a folder."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*")}
    return {name: path.read_bytes() if path.is_file() else None for name, path in found.items()}


@pytest.fixture(scope="module")
def finished(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the finished run `tiny`, and another run below its name."""
    root = tmp_path_factory.mktemp("finished")
    assert main(["fit", *tiny_options(tiny_shards, root)]) == 0
    shutil.copytree(root / "tiny", root / "nested", symlinks=True)
    (root / "tiny" / "a1").mkdir()
    (root / "nested").rename(root / "tiny" / "a1" / "seed-7")
    return root


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """The folder of the finished run, for one test."""
    return shutil.copytree(finished / "tiny", tmp_path / "tiny", symlinks=True)


@pytest.fixture
def untouched(run: Path) -> Iterator[Path]:
    """The same, to the byte, before and after the test."""
    before = tree(run)
    yield run
    assert tree(run) == before


@pytest.mark.parametrize("mistake, said", MISTAKES)
def test_a_mistake_leaves_an_earlier_run_to_the_byte(
    mistake: list[str],
    said: str,
    tiny_run: list[str],
    untouched: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["fit", *tiny_run, *OVERWRITE, *mistake]) == 2
    message = capsys.readouterr().err
    assert said in message and "Traceback" not in message


@pytest.mark.parametrize("mistake", [MISTAKES[0].values[0], MISTAKES[7].values[0]])
def test_a_refused_fit_leaves_no_new_folder(
    mistake: list[str], tiny_run: list[str], tmp_path: Path
) -> None:
    assert main(["fit", *tiny_run, *mistake, "--run.name", "new/one"]) == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change",
    [
        ["--model.encoder.num_layers", "3", "--trainer.max_steps", "6"],
        ["--data.max_len", "24", "--trainer.max_steps", "6"],
        ["--seed_everything", "7", "--trainer.max_steps", "6"],
        ["--resume", "never"],
    ],
)
def test_a_refused_resume_leaves_the_run_as_it_was_trained(
    change: list[str], tiny_run: list[str], untouched: Path
) -> None:
    assert main(["fit", *tiny_run, *change]) == 2


def test_a_fit_that_finds_nothing_to_do_leaves_the_run_as_it_was_trained(
    tiny_run: list[str], untouched: Path
) -> None:
    changed = ["--model.optimizer.lr", "0.5", "--run.wandb", "offline"]
    assert main(["fit", *tiny_run, *changed]) == 0


@pytest.mark.parametrize(
    "wandb, hook", [("off", "train_start"), ("off", "train_batch_start"), ("offline", "none")]
)
def test_a_failure_before_the_end_of_the_first_step_leaves_the_run_as_it_was_trained(
    wandb: str, hook: str, tiny_run: list[str], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if hook == "none":
        monkeypatch.setattr(PretrainModule, "training_step", lambda *_: 1 / 0)
    before = tree(run)
    with pytest.raises((Killed, ZeroDivisionError)):
        options = [*OVERWRITE, *fault_options(hook, 0), "--run.wandb", wandb]
        main(["fit", *tiny_run, *options])
    (run / ".struck-0.json").unlink(missing_ok=True)
    assert tree(run) == before


def test_a_resume_that_fails_in_its_first_step_leaves_the_configuration_as_it_was_trained(
    tiny_run: list[str], run: Path
) -> None:
    before = (run / "run_config.yaml").read_bytes()
    with pytest.raises(Killed):
        longer = ["--trainer.max_steps", "6", "--model.optimizer.lr", "0.5"]
        main(["fit", *tiny_run, *longer, *fault_options("train_batch_start", 4)])
    assert (run / "run_config.yaml").read_bytes() == before


def test_a_stop_before_the_first_step_begins_the_new_run_and_says_how_it_goes_on(
    tiny_run: list[str], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = fault_options("train_start", 0, kind="SIGTERM")
    assert main(["fit", *tiny_run, *OVERWRITE, *stopped]) == 75
    assert "the same command without --run.overwrite goes on" in capsys.readouterr().err
    assert [saved.step for saved in saved_checkpoints(run / "checkpoints")] == [0]
    assert (run / "run_config.yaml").exists() and not (run / "bundle").exists()


def test_a_full_disk_before_the_first_step_brings_the_earlier_run_back(
    tiny_run: list[str], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, before = os.fsync, tree(run)

    def full(descriptor: int) -> None:
        if "step-00000000" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    kept = ["--checkpoints.keep_every_n_steps", "100"]
    assert main(["fit", *tiny_run, *OVERWRITE, *kept]) == 74
    assert tree(run) == before


def test_wandb_that_cannot_begin_brings_the_earlier_run_back(
    tiny_run: list[str], untouched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(**options: object) -> None:
        raise ValueError("no server")

    monkeypatch.setattr("wandb.init", unreachable)
    for name in ("tiny", "new"):
        options = [*tiny_run, *OVERWRITE, "--run.wandb", "online", "--run.name", name]
        assert main(["fit", *options]) == 2
    assert not (untouched.parent / "new").exists()


def test_overwriting_replaces_the_runs_own_files_alone(tiny_run: list[str], run: Path) -> None:
    (run / "notes.txt").write_text("mine")
    assert main(["validate", *tiny_run]) == 0
    (run / "needles-rank0.json").write_text("{}")
    below = tree(run / "a1")
    assert main(["fit", *tiny_run, *OVERWRITE, "--trainer.max_steps", "2"]) == 0
    assert tree(run / "a1") == below and (run / "notes.txt").read_text() == "mine"
    assert [saved.step for saved in saved_checkpoints(run / "checkpoints")] == [2]
    events = [json.loads(line)["event"] for line in (run / "events.jsonl").open()]
    assert events == ["started", "finished"]
    assert max(row["step"] for row in read_metrics(run / "metrics.jsonl")) == 2
    assert not (run / "evaluations.jsonl").exists()
    left = {path.name for path in run.iterdir()}
    assert left <= {*RUN_FILES, "notes.txt", "a1"}


def test_the_export_of_a_run_names_its_newest_checkpoint(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run), "--output", str(tmp_path / "b")]) == 2
    last = run / "checkpoints" / "last.ckpt"
    assert f"a run's folder; give one of its checkpoints: {last}" in capsys.readouterr().err
    assert main(["export", str(last), "--output", str(tmp_path / "b")]) == 0


def test_a_second_fit_is_refused_by_name_of_the_first_and_touches_nothing(
    tiny_run: list[str], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(run)
    with sole_writer(run, own=RUN_FILES, doing="fit"):
        for options in (OVERWRITE, ["--trainer.max_steps", "9"], []):
            assert main(["fit", *tiny_run, *options]) == 2
            assert "tiny is in use: fit (process " in capsys.readouterr().err
        last, output = str(run / "checkpoints" / "last.ckpt"), str(run / "bundle")
        assert main(["export", last, "--output", output]) == 2
        assert "is in use" in capsys.readouterr().err
        assert main(["validate", *tiny_run, "--run.name", "tiny/a1/seed-7"]) == 0
        (run / "a1" / "seed-7" / "evaluations.jsonl").unlink()
        (run / LOCK_FILE).unlink()
    assert tree(run) == before


def test_only_the_first_of_several_processes_of_a_run_holds_its_folder(
    tiny_run: list[str], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODE_RANK", "1")
    with sole_writer(run, own=RUN_FILES, doing="fit"):
        assert main(["fit", *tiny_run]) == 0


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_shards_of_another_tokenizer_are_refused_for_evaluation(
    command: str,
    tiny_run: list[str],
    untouched: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = make_folder(tmp_path / "other", random_documents(9, vocab_size=60), vocab_size=60)
    assert main([command, *tiny_run, "--data.folder", str(other)]) == 2
    message = capsys.readouterr().err
    assert "another tokenizer than the checkpoint" in message and str(other) in message


def test_a_predict_that_is_stopped_leaves_the_earlier_predictions(
    tiny_run: list[str], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["predict", *tiny_run]) == 0
    predictions = run / "predictions-rank0.jsonl"
    before = predictions.read_bytes()
    monkeypatch.setattr(PretrainModule, "predict_step", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["predict", *tiny_run])
    assert before and predictions.read_bytes() == before


def test_predictions_of_more_ranks_do_not_outlive_those_of_fewer(
    tiny_run: list[str], run: Path
) -> None:
    for rank in (1, 2):
        (run / f"predictions-rank{rank}.jsonl").write_text("{}")
    assert main(["predict", *tiny_run]) == 0
    assert [path.name for path in run.glob("predictions-*")] == ["predictions-rank0.jsonl"]


def test_evaluations_of_other_text_are_kept_apart_and_say_so(
    tiny_run: list[str], run: Path, tmp_path: Path
) -> None:
    before = tree(run)
    documents = random_documents(9, vocab_size=60)
    other = make_folder(tmp_path / "other", documents, vocab_size=65, num_continuations=6)
    for command in ("validate", "test"):
        options = ["--data.folder", str(other), "--run.wandb", "offline"]
        assert main([command, *tiny_run, *options]) == 0
    found = read_metrics(run / "evaluations.jsonl")
    assert [record["command"] for record in found] == ["validate", "test"]
    for record in found:
        assert record["folder"] == str(other)
        (line,) = record["differs_from_training"]
        assert re.fullmatch(r"data was of digest \w{12}, now of digest \w{12}", line)
        assert record["checkpoint"].endswith("step-00000004.ckpt") and record["step"] == 4
    assert own_test_rows(run) == []
    (run / "evaluations.jsonl").unlink()
    assert tree(run) == before


def test_a_fine_tuning_run_and_a_run_without_its_checkpoints_are_never_begun_anew(
    tiny_run: list[str], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(run / "checkpoints")
    before = tree(run)
    assert main(["fit", *tiny_run]) == 2
    assert "finished run without its checkpoints" in capsys.readouterr().err
    assert tree(run) == before
    (run / "result.json").write_text("{}")
    assert main(["fit", *tiny_run, *OVERWRITE]) == 2
    assert "holds a fine-tuning run" in capsys.readouterr().err
    (run / "result.json").unlink()
    assert tree(run) == before


def test_checkpoints_of_every_so_many_steps_are_kept_for_good_step_0_among_them(
    tiny_run: list[str], tmp_path: Path
) -> None:
    steps = ["--trainer.max_steps", "8", "--run.eval_every_n_steps", "8"]
    keep = ["--checkpoints.keep_every_n_steps", "3", "--checkpoints.keep_last", "1"]
    assert main(["fit", *tiny_run, *steps, *keep]) == 0
    saved = saved_checkpoints(tmp_path / "tiny" / "checkpoints")
    assert [found.step for found in saved] == [0, 3, 6, 8]
    before, after = (load_checkpoint(found.path) for found in (saved[0], saved[-1]))
    assert before["global_step"] == 0 and not before["optimizer_states"][0]["state"]
    name = "model.encoder.embeddings.word.weight"
    assert not torch.equal(before["state_dict"][name], after["state_dict"][name])
    again = ["--run.name", "plain", "--checkpoints.every_n_steps", "3"]
    assert main(["fit", *tiny_run, *steps, *again]) == 0
    assert story(tmp_path / "tiny") == story(tmp_path / "plain")
