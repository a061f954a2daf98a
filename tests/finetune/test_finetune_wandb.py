"""Fine-tuning in Weights & Biases: result, lineage, and runs that know nothing of each other."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from finetune_runs import result_of, run_fit
from wandb_reading import files_of, keep_wandb_in, offline_logs, read_offline_run

from data_prep.manifest import file_sha256
from finetune.callbacks import use_artifact
from training.tracking import TrackingRecord, own_tracking

OFFLINE = ["--run.wandb", "offline", "--trainer.max_epochs", "1"]


@pytest.fixture(autouse=True)
def wandb_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep W&B's own files inside the test's folder."""
    keep_wandb_in(tmp_path / "home", monkeypatch)


def tracked_bundle(bundle: Path, folder: Path, *, sha256: str = "") -> Path:
    """A run's folder whose bundle was logged as an artifact."""
    shutil.copytree(bundle, folder / "bundle")
    digest = sha256 or file_sha256(bundle / "model.safetensors")
    artifact = {"artifact": "ponet/bundle-abc:sha256-1", "run": "abc", "sha256": digest}
    TrackingRecord(bundle=artifact).save(folder)
    return folder


def test_an_offline_run_reads_back_with_its_result_and_its_lineage(
    bundle: Path, tmp_path: Path
) -> None:
    encoder = tracked_bundle(bundle, tmp_path / "pretrained")
    options = [*OFFLINE, "--run.wandb_artifacts", "true", "--run.wandb_tags", "[toy]"]
    assert run_fit(encoder, tmp_path, "x", *options, test=True) == 0
    (log,) = offline_logs(tmp_path / "x")
    read, result = read_offline_run(log), result_of(tmp_path / "x")
    assert read.run["job_type"] == "finetune" and read.run["tags"] == ["toy"]
    assert read.config["model.optimizer.lr"] == 5e-3
    assert read.config["lineage.encoder_artifact"] == "ponet/bundle-abc:sha256-1"
    assert read.config["lineage.encoder_run"] == "abc"
    assert "offline" in read.config["lineage.not_noted"]
    assert read.config["lineage.encoder_sha256"] == result["encoder"]["digest"]
    assert any("train/loss" in item for item in read.history)
    for split, values in result["evaluation"].items():
        for metric, value in values.items():
            if metric != "num_rows":
                assert read.summary[f"best/{split}/{metric}"] == pytest.approx(value)
    assert read.summary["best_epoch"] == 1 and read.summary["diverged"] is False
    logged = read.artifacts[f"result-{read.run['run_id']}"]
    assert files_of(logged) == {"result.json"} and logged["type"] == "result"
    check_table(log, result)


def check_table(log: Path, result: dict[str, Any]) -> None:
    (table,) = log.parent.glob("files/media/table/result_*.json")
    content = json.loads(table.read_text())
    rows = [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]
    assert {row["split"] for row in rows} == set(result["evaluation"])
    for row in rows:
        scores, majority = result["evaluation"][row["split"]], result["majority"][row["split"]]
        assert row["value"] == pytest.approx(scores[row["metric"]])
        assert row["rows"] == scores["num_rows"] and row["majority"] == majority.get(row["metric"])


def test_seeds_share_a_group_and_two_fits_of_a_process_are_two_runs(
    bundle: Path, tmp_path: Path
) -> None:
    # Weights of another bundle than the logged one have no lineage but their own digest.
    encoder = tracked_bundle(bundle, tmp_path / "pretrained", sha256="0" * 64)
    found = []
    for name, more in (
        ("a", ["--seed_everything", "1"]),
        ("b", []),
        ("c", ["--data.max_len", "9"]),
    ):
        assert run_fit(encoder, tmp_path, name, *OFFLINE, "--run.test", "false", *more) == 0
        found.append(read_offline_run(offline_logs(tmp_path / name)[0]))
    first, second, other = found
    assert first.run["run_group"] == second.run["run_group"] != other.run["run_group"]
    assert len({read.run["run_id"] for read in found}) == 3
    assert "lineage.encoder_artifact" not in first.config
    assert len(first.config["lineage.encoder_sha256"]) == 64
    assert not any(name.startswith("result-") for name in first.artifacts)  # by default none


def test_a_run_of_somebody_else_is_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []

    def finish(*, exit_code: int) -> None:
        ended.append(exit_code)

    foreign = SimpleNamespace(run="foreign", finish=finish, Error=RuntimeError)
    monkeypatch.setitem(sys.modules, "wandb", foreign)
    with own_tracking():
        pass
    assert not ended
    with pytest.raises(ValueError), own_tracking():
        foreign.run = "own"
        raise ValueError
    assert ended == [1]


def test_an_artifact_that_wandb_does_not_have_is_no_reason_to_stop() -> None:
    from wandb.errors import CommError

    def missing(name: str) -> None:
        raise CommError(f"no artifact {name}")

    assert "no artifact p/b:1" in use_artifact(
        SimpleNamespace(offline=False, use_artifact=missing), "p/b:1"
    )
    used: list[str] = []
    online = SimpleNamespace(offline=False, use_artifact=used.append)
    assert use_artifact(online, "p/b:1") == "" and used == ["p/b:1"]


def test_nothing_of_wandb_is_imported_or_written_while_it_is_off(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    assert run_fit(bundle, tmp_path, "x", "--trainer.max_epochs", "1") == 0
    assert "wandb" not in sys.modules
    assert not list(tmp_path.rglob("*wandb*"))
