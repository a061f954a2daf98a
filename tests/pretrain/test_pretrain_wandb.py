"""Pretraining in Weights & Biases: what an offline run holds, and how runs go on there."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pretrain_corpora import tiny_options
from pretrain_faults import injected
from pytorch_lightning.utilities import rank_zero_only
from wandb_reading import files_of, keep_wandb_in, offline_logs, read_offline_run

from pretrain.cli import main
from pretrain.records import PREDICTION_COLUMNS
from pretrain.run_config import RunConfig
from training.interruption import EXIT_STOPPED
from training.metrics_file import last_value, read_metrics
from training.run_config import RECORD_FILE
from training.tracking import STEP_KEY, TrackingRecord, wandb_logger

OFFLINE = ["--run.wandb", "offline", "--trainer.enable_progress_bar", "false"]


@pytest.fixture(scope="module", autouse=True)
def wandb_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep W&B's own files out of the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        keep_wandb_in(tmp_path_factory.mktemp("home"), patch)
        yield


@pytest.fixture(scope="module")
def tracked(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory, wandb_home: None) -> Path:
    """The folder of a finished offline run of four steps."""
    root = tmp_path_factory.mktemp("tracked")
    tags = ["--run.wandb_tags", "[baseline, long]", "--run.wandb_artifacts", "true"]
    assert main(["fit", *tiny_options(tiny_shards, root), *OFFLINE, *tags]) == 0
    return root / "tiny"


def test_an_offline_run_reads_back_as_what_was_logged(tracked: Path) -> None:
    folder, log = tracked, offline_logs(tracked)[0]
    read = read_offline_run(log)
    assert read.run["project"] == "ponet" and read.run["job_type"] == "pretrain"
    assert read.run["tags"] == ["baseline", "long"] and read.run["display_name"] == "tiny"
    assert read.run["run_group"].startswith("ponet-mlm_sso-") and read.exit_code == 0
    config = read.config
    assert config["model.optimizer.lr"] == 0.01 and config["model.encoder.hidden_size"] == 16
    assert config["model.encoder"] == "ponet.PoNetConfig" and config["trainer.max_steps"] == 4
    rows = read_metrics(folder / "metrics.jsonl")
    for name in ("train/mlm_loss", "val/mlm_loss", "train/grad_norm", "baseline/unigram_loss"):
        logged = [(i[STEP_KEY], i[name]) for i in read.history if name in i]
        assert logged == [(row["step"], pytest.approx(row[name])) for row in rows if name in row]
    losses = {row["val/mlm_loss"]: row["step"] for row in rows if "val/mlm_loss" in row}
    assert read.summary["val/mlm_loss"] == pytest.approx(last_value(rows, "val/mlm_loss"))
    assert read.summary["best/val/mlm_loss"] == pytest.approx(min(losses))
    assert read.summary["best/val/mlm_loss_step"] == losses[min(losses)]
    assert read.summary["data/samples_seen"] == 32
    assert 32 * 10 < read.summary["data/tokens_seen"] < 32 * 32
    check_media(folder, read.history, log)
    check_artifacts(folder, read.artifacts, config, read.summary["model/num_parameters"])


def check_media(folder: Path, history: list[dict], log: Path) -> None:
    media = {key for item in history for key in item if key.endswith("._type")}
    assert media >= {"curves._type", "predictions._type"}
    (table,) = log.parent.glob("files/media/table/predictions_*.json")
    content = json.loads(table.read_text())
    assert tuple(content["columns"]) == PREDICTION_COLUMNS
    assert content["data"]
    for example in content["data"]:
        row = dict(zip(PREDICTION_COLUMNS, example, strict=True))
        assert row["context"].count("»") == 1 and row["truth"].startswith(("w", "##"))
        assert 1 >= row["p 1"] >= row["p 2"] >= row["p 3"] >= 0 and row["p of truth"] <= row["p 1"]
    (image,) = log.parent.glob("files/media/images/curves_*.png")
    assert image.read_bytes() == (folder / "curves.png").read_bytes()


def check_artifacts(folder: Path, artifacts: dict, config: dict, num_parameters: int) -> None:
    record = TrackingRecord.load(folder)
    bundle = artifacts[f"bundle-{record.runs[0].id}"]
    assert bundle["type"] == "model"
    assert files_of(bundle) == {"config.json", "model.safetensors", "tokenizer.json"}
    assert json.loads(bundle["metadata"])["sha256"] == record.bundle["sha256"]
    assert set(bundle["aliases"]) == {"latest", record.bundle["artifact"].rpartition(":")[2]}
    (data,) = (artifact for artifact in artifacts.values() if artifact["type"] == "dataset")
    assert files_of(data) == {"manifest.json"}
    assert json.loads(data["metadata"])["digest"] == config["lineage.data_digest"]
    assert config["lineage.data_artifact"].startswith(f"ponet/{data['name']}:")
    assert num_parameters > 1000


def test_a_resumed_offline_run_is_a_new_run_of_the_same_group_with_the_whole_runs_best_values(
    tracked: Path, tiny_shards: Path
) -> None:
    more = ["--trainer.max_steps", "4000", "--max_time", "1s"]
    options = [*tiny_options(tiny_shards, tracked.parent), *OFFLINE, *more]
    assert main(["fit", *options]) == EXIT_STOPPED
    first, second = map(read_offline_run, offline_logs(tracked))
    assert first.run["run_id"] != second.run["run_id"]
    assert first.run["run_group"] == second.run["run_group"]
    assert second.exit_code == EXIT_STOPPED and "preempting" in second.kinds
    rows = read_metrics(tracked / "metrics.jsonl")
    best = min(row["val/mlm_loss"] for row in rows if "val/mlm_loss" in row)
    assert second.summary["best/val/mlm_loss"] == pytest.approx(best)
    assert all(item[STEP_KEY] > 4 for item in second.history)
    assert not second.artifacts
    assert [run.id for run in TrackingRecord.load(tracked).runs] == [
        first.run["run_id"],
        second.run["run_id"],
    ]


@pytest.mark.slow
def test_a_rollback_goes_on_in_the_same_run_and_its_steps_come_again(
    tiny_run: list[str], tmp_path: Path
) -> None:
    poison = ("Poison", {"first": 28, "last": 28, "kind": "gradient"})
    guards = ["--guards.action", "rollback", "--guards.skip_steps", "2"]
    often = ["--guards.every_n_steps", "1", "--checkpoints.every_n_steps", "2"]
    more = [*guards, *often, "--trainer.max_steps", "6", *injected(poison)]
    assert main(["fit", *tiny_run, *OFFLINE, *more]) == 0
    (log,) = offline_logs(tmp_path / "tiny")
    read = read_offline_run(log)
    steps = [item[STEP_KEY] for item in read.history if "train/lr" in item]
    assert sorted(set(steps)) == [1, 2, 3, 4, 5, 6]
    assert len(TrackingRecord.load(tmp_path / "tiny").runs) == 1 and read.exit_code == 0
    assert {"predictions._type", "curves._type"} <= {key for item in read.history for key in item}


def options_of(folder: Path, *, continues: bool) -> dict:
    run = RunConfig(name="a", root=str(folder), wandb="online")
    return wandb_logger(run, {"seed_everything": 1}, continues=continues)._wandb_init


def test_online_a_run_that_goes_on_keeps_its_id_and_one_started_anew_does_not(
    tmp_path: Path,
) -> None:
    first = options_of(tmp_path, continues=False)
    second = options_of(tmp_path, continues=True)
    assert second["id"] == first["id"] and second["resume"] == "allow" and "mode" not in second
    assert options_of(tmp_path, continues=False)["id"] != first["id"]
    assert len(TrackingRecord.load(tmp_path / "a").runs) == 2


def test_under_wandbs_agent_the_id_is_the_agents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "agents1")
    assert options_of(tmp_path, continues=False)["id"] is None
    assert TrackingRecord.load(tmp_path / "a").runs[0].id == "agents1"


def test_only_the_first_rank_records_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert options_of(tmp_path, continues=False)["id"] is None
    assert not (tmp_path / "a" / RECORD_FILE).exists()


def test_nothing_of_wandb_is_imported_or_written_while_it_is_off(
    tiny_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    assert main(["fit", *tiny_run]) == 0
    assert "wandb" not in sys.modules
    assert not list(tmp_path.rglob("*wandb*"))


@pytest.mark.slow
def test_the_commands_of_both_packages_start_without_wandb(repository: Path) -> None:
    code = (
        "import sys\nimport pretrain.lightning_cli, finetune.lightning_cli\n"
        "sys.exit('imported wandb' if 'wandb' in sys.modules else 0)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
