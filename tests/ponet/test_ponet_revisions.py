"""Checkpoints of a run as revisions of the Hub."""

import json
import shutil

import pytest
import torch
from ponet_hub_models import make_bundle

pytest.importorskip("transformers")

from ponet import load_bundle  # noqa: E402 (transformers may be missing)
from ponet.hub.export import run_export  # noqa: E402


def write_checkpoint(folder, model, *, step, shards):
    """What a run saves, as far as an export reads it."""
    folder.mkdir(parents=True)
    counts = {"tokens_total": 1000.0, "coverage": 0.9, "examples": 30.0}
    state = {f"model.{name}": value + step / 1000 for name, value in model.state_dict().items()}
    content = {
        "state_dict": state,
        "global_step": step,
        "ponet_run": {
            "objective": "mlm_sso",
            **model.config.to_dict(),
            "config": {"data": {"folder": str(shards)}},
        },
        "PretrainDataModule": {
            "samples_seen": step * 8,
            "plan_counts": counts,
            "fingerprint": {"max_len": 16},
        },
    }
    torch.save(content, folder / "state.pt")


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    make_bundle(folder / "bundle")
    model = load_bundle(folder).model
    for step in (0, 1000):
        place = folder / "checkpoints" / f"step-{step:08d}.ckpt"
        write_checkpoint(place, model, step=step, shards=folder / "bundle")
    (folder / "checkpoints" / "last.ckpt").symlink_to("step-00001000.ckpt")
    row = {"step": 1000, "val/mlm_loss": 2.5, "val/mlm_accuracy": 0.5}
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    return folder


def options(run, output, *more):
    return [str(run), "--format", "huggingface", "--revisions", "--output", str(output), *more]


def test_every_checkpoint_becomes_a_folder_that_transformers_loads_with_what_it_has_seen(
    run, tmp_path, capsys
):
    from transformers import AutoModel

    output = tmp_path / "revisions"
    run_export(options(run, output, "--name", "Small"))
    assert sorted(path.name for path in output.iterdir()) == [
        *("README.md", "revisions.json", "step0", "step1000")
    ]
    listed = json.loads((output / "revisions.json").read_text())["revisions"]
    assert [row["revision"] for row in listed] == ["step0", "step1000"]
    assert [row["samples_seen"] for row in listed] == [0, 8000]
    assert [row["tokens_seen"] for row in listed] == [0, 240_000]
    assert [row["mlm_loss"] for row in listed] == [None, 2.5]
    weights = [
        AutoModel.from_pretrained(output / name, trust_remote_code=True).state_dict()
        for name in ("step0", "step1000")
    ]
    name = next(key for key in weights[0] if key.endswith("word.weight"))
    assert torch.allclose(weights[1][name] - weights[0][name], torch.tensor(1.0))
    page = (output / "README.md").read_text()
    assert "| step1000 | 1,000 | 8,000 | 240,000 | 2.5000 | 0.5000 |" in page
    assert "hf upload OWNER/NAME step0 . --revision step0" in page
    settings = json.loads((output / "step0" / "tokenizer_config.json").read_text())
    assert settings["model_max_length"] == 16  # as long as the texts of the run
    assert "# Small, step1000" in (output / "step1000" / "README.md").read_text()
    assert "2 revisions" in capsys.readouterr().out


def test_the_card_of_a_revision_shows_no_validation_that_came_after_it(run, tmp_path):
    (run / "run_config.yaml").write_text("seed_everything: 42\n")
    run_export(options(run, tmp_path / "out"))
    cards = [(tmp_path / "out" / name / "README.md").read_text() for name in ("step0", "step1000")]
    assert "1 of 1 validations" in cards[1] and "| 1000 | 0.5 | 2.5 |" in cards[1]
    assert "Validation values are unknown" in cards[0] and "| 1000 |" not in cards[0]


@pytest.mark.parametrize("is_there", [False, True], ids=["empty", "with a model"])
def test_revisions_are_pushed_as_branches_and_the_last_one_where_none_is_named(
    is_there, run, tmp_path, monkeypatch, capsys
):
    import huggingface_hub

    calls = []

    class Api:
        def create_repo(self, repo, **given):
            calls.append(("repo", repo, given["private"]))

        def create_branch(self, repo, *, branch, exist_ok):
            calls.append(("branch", repo, branch, exist_ok))

        def file_exists(self, repo, name):
            return is_there and (repo, name) == ("me/model", "config.json")

        def upload_folder(self, *, repo_id, folder_path, revision="main"):
            calls.append(("upload", repo_id, folder_path, revision))
            return "https://hub/commit/1"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    run_export(options(run, tmp_path / "out", "--push", "me/model"))
    expected = [
        call
        for name in ("step0", "step1000")
        for call in (
            ("repo", "me/model", True),
            ("branch", "me/model", name, True),
            ("upload", "me/model", str(tmp_path / "out" / name), name),
        )
    ]
    last = ("upload", "me/model", str(tmp_path / "out" / "step1000"), "main")
    expected += [] if is_there else [("repo", "me/model", True), last]
    assert calls == expected
    assert ("main branch keeps the model" in capsys.readouterr().out) == is_there


def test_what_is_no_run_or_damaged_is_refused_and_nothing_is_written(run, tmp_path):
    with pytest.raises(ValueError, match="no checkpoints of steps"):
        run_export(options(run / "bundle", tmp_path / "out"))
    (run / "checkpoints" / "step-00000500.ckpt" / "state").mkdir(parents=True)
    with pytest.raises(ValueError, match="sharded checkpoint; gather it first"):
        run_export(options(run, tmp_path / "out"))
    shutil.rmtree(run / "checkpoints" / "step-00000500.ckpt")
    broken = run / "checkpoints" / "step-00001000.ckpt"
    (broken / "SHA256SUMS").write_text(f"{'0' * 64}  state.pt\n")
    with pytest.raises(ValueError, match="is damaged"):
        run_export(options(run, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="--revisions would do nothing"):
        run_export([*options(run, tmp_path / "out")[:2], "onnx", "--revisions", "--output", "x"])
