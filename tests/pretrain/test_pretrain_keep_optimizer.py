"""A phase that begins with the optimiser of a checkpoint as well as with its weights."""

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from pretrain_corpora import tiny_options
from pretrain_faults import Killed, assert_same_story, fault_options, final_state
from strategy_ranks import job, run_jobs
from test_pretrain_start import bigger_shards, bundle_of, mistake, without_encoder

from ponet import load_bundle
from pretrain.cli import main
from training.checkpoints.storage import load_checkpoint, saved_checkpoints
from training.metrics_file import read_metrics, series

SECOND, LAST = "checkpoints/step-00000002.ckpt", "checkpoints/step-00000004.ckpt"
STABLE = ("--model.optimizer.schedule", "constant", "--model.optimizer.warmup_steps", "0")
KEEP = ("--checkpoints.keep_every_n_steps", "2")
ONE = ("--trainer.max_steps", "1")
MUON = ("--model.optimizer.matrices", "muon")


@pytest.fixture(scope="module")
def stable(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps at a constant rate, which keeps the steps 0, 2 and 4."""
    root = tmp_path_factory.mktemp("stable")
    assert main(["fit", *tiny_options(tiny_shards, root), *STABLE, *KEEP]) == 0
    return root / "tiny"


@pytest.fixture
def options(tiny_shards: Path, tmp_path: Path) -> list[str]:
    """Options of a branch, but for what it begins with."""
    given = [*without_encoder(tiny_options(tiny_shards, tmp_path)), *STABLE, *KEEP]
    return [*given, "--model.keep_optimizer", "true"]


def begin_with(source: Path) -> tuple[str, str]:
    return ("--model.start_from", str(source))


def moments(checkpoint: Path) -> dict[str, dict[str, Any]]:
    """What an ordinary checkpoint of AdamW has kept, by the names of the weights."""
    content = load_checkpoint(checkpoint)
    weights = load_bundle(checkpoint.parent.parent).model.named_parameters()
    shapes = {name: weight.ndim for name, weight in weights}
    names = [n for n in shapes if shapes[n] >= 2] + [n for n in shapes if shapes[n] < 2]
    stored = content["optimizer_states"][0]["state"]
    return {name: stored[number] for number, name in enumerate(names) if number in stored}


def assert_same_moments(ours: dict[str, Any], theirs: dict[str, Any], *, but: str = "") -> None:
    for name, kept in theirs.items():
        assert but and name.startswith(but) or ours[name].keys() == kept.keys(), name
        for kind in kept if name in ours else ():
            assert torch.equal(ours[name][kind], kept[kind]), (name, kind)


@pytest.mark.parametrize("matrices", ["adamw", "muon"])
def test_a_branch_that_reads_on_is_the_run_that_went_on_to_the_bit(
    matrices: str,
    options: list[str],
    tiny_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = [*options, "--model.optimizer.matrices", matrices, "--model.optimizer.beta1", "0.8"]
    root, longer = tmp_path / "first", tiny_options(tiny_shards, tmp_path / "first")
    own = ["--model.optimizer.matrices", matrices, "--model.optimizer.beta1", "0.8"]
    assert main(["fit", *longer, *STABLE, *KEEP, *own]) == 0
    # As if a guard had skipped the batches that the first two steps were made of.
    monkeypatch.setattr("pretrain.lightning_cli.skipped_windows", lambda folder: (0, 1))
    options += [*begin_with(root / "tiny" / SECOND), "--trainer.max_steps", "2"]
    assert main(["fit", *options]) == 0
    branch, whole = final_state(tmp_path / "tiny"), final_state(root / "tiny")
    assert int(branch.pop("step")) == 2 and int(whole.pop("step")) == 4
    assert branch.keys() == whole.keys()
    assert [name for name in whole if not torch.equal(branch[name], whole[name])] == []
    anew = [*options, "--model.keep_optimizer", "false", "--run.name", "anew"]
    assert main(["fit", *anew]) == 0
    weights = [final_state(tmp_path / name)["model.mlm_head.bias"] for name in ("anew", "tiny")]
    assert not torch.equal(*weights)


def test_moments_go_over_and_rates_and_decay_do_not(
    options: list[str], stable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["lr", "0.002", "weight_decay", "0.3", "beta2", "0.98", "eps", "1e-7"]
    own += ["warmup_steps", "4", "schedule", "linear"]
    for name, value in zip(own[::2], own[1::2], strict=True):
        options += [f"--model.optimizer.{name}", value]
    options += ["--data.masking.mask_prob", "0.3", "--seed_everything", "5"]
    assert main(["fit", *options, *begin_with(stable)]) == 0  # a run: its newest checkpoint
    folder = tmp_path / "tiny"
    begun = folder / "checkpoints" / "step-00000000.ckpt"
    assert_same_moments(moments(begun), moments(stable / LAST))
    assert {float(kept["step"]) for kept in moments(begun).values()} == {4.0}
    groups = load_checkpoint(begun)["optimizer_states"][0]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    for group in groups:
        assert (group["betas"], group["eps"], group["initial_lr"]) == ((0.9, 0.98), 1e-7, 0.002)
    rates = series(read_metrics(folder / "metrics.jsonl"), "train/lr")
    assert rates == ([1, 2, 3, 4], pytest.approx([0.0005, 0.001, 0.0015, 0.002]))
    for told in (
        load_checkpoint(folder / LAST)["ponet_run"]["started_from"],
        load_bundle(folder).metadata["started_from"],
    ):
        assert told["kept_optimizer"] is True and told["source"] == str(stable)
        assert told["metadata"]["steps"] == 4
    said = capsys.readouterr().err
    assert f"the weights are those of {stable / LAST}" in said
    assert "what its optimiser remembers after 4 steps" in said


@pytest.mark.parametrize("new_words", ["pieces", "normal"])
def test_moments_follow_the_rows_of_their_tables(
    new_words: str, options: list[str], stable: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    shards = bigger_shards(tiny_shards, tmp_path / "more", ["w1c0", "zzz"])
    options += ["--data.folder", str(shards), "--data.max_len", "80"]
    options += ["--model.new_words", new_words, *begin_with(stable / LAST), *ONE]
    assert main(["fit", *options]) == 0
    before = moments(stable / LAST)
    after = moments(tmp_path / "tiny" / "checkpoints" / "step-00000000.ckpt")
    place, table = "encoder.embeddings.position.weight", "encoder.embeddings.word.weight"
    grown = (place, table, "mlm_head.bias")
    assert_same_moments({n: after[n] for n in after if n not in grown}, before, but=grown)
    for kind in ("exp_avg", "exp_avg_sq"):
        old = before[place][kind]
        assert torch.equal(after[place][kind], torch.cat([old, old, old[:16]]))
        for name in grown[1:]:
            old, new = before[name][kind], after[name][kind]
            assert torch.equal(new[:5], old[:5]) and torch.equal(new[7:], old[5:])
            fresh = old.mean(0) if kind == "exp_avg_sq" else torch.zeros_like(old[0])
            pieces = (old[6] + old[59]) / 2  # w1 and ##c0
            assert torch.allclose(new[5], pieces if new_words == "pieces" else fresh)
            assert torch.allclose(new[6], fresh)  # no piece of it is known
    assert {float(kept["step"]) for kept in after.values()} == {4.0}


def test_a_head_that_is_new_begins_anew_and_one_that_is_left_out_leaves_nothing(
    options: list[str], stable: Path, tmp_path: Path
) -> None:
    before, begun = moments(stable / LAST), "checkpoints/step-00000000.ckpt"
    for objective in ("mlm_nsp", "mlm"):
        name = ["--model.objective", objective, "--run.name", objective, *ONE]
        assert main(["fit", *options, *name, *begin_with(stable / LAST)]) == 0
        after = moments(tmp_path / objective / begun)
        lost = {"pair_head.weight", "pair_head.bias"}
        lost |= {"pooler.dense.weight", "pooler.dense.bias"} if objective == "mlm" else set()
        assert before.keys() - after.keys() == lost
        assert_same_moments(after, {name: before[name] for name in after})


@pytest.mark.parametrize(("hook", "step"), [("save", 0), ("train_batch_end", 3)])
def test_a_killed_branch_goes_on_to_the_bit_without_what_it_began_with(
    hook: str, step: int, options: list[str], stable: Path, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(stable, tmp_path / "source", symlinks=True))
    options += [*begin_with(source), "--trainer.max_steps", "6"]
    options += ["--checkpoints.every_n_steps", "1"]
    assert main(["fit", *options, "--run.name", "twin"]) == 0
    with pytest.raises(Killed):
        main(["fit", *options, *fault_options(hook, step)])
    if hook != "save":
        shutil.rmtree(source)
    assert main(["fit", *options, *fault_options(hook, step)]) == 0
    assert_same_story(tmp_path / "tiny", tmp_path / "twin")
    newest = saved_checkpoints(tmp_path / "tiny" / "checkpoints")[-1].path
    assert load_checkpoint(newest)["ponet_run"]["started_from"]["kept_optimizer"] is True


def test_a_branch_that_is_stopped_before_its_first_step_has_it_already(
    options: list[str], stable: Path, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(stable, tmp_path / "source", symlinks=True))
    options += begin_with(source)
    assert main(["fit", *options, "--run.name", "twin"]) == 0
    stopped = [*options, *fault_options("train_start", 0, kind="SIGTERM")]
    assert main(["fit", *stopped]) == 75
    shutil.rmtree(source)
    assert main(["fit", *stopped]) == 0
    assert_same_story(tmp_path / "tiny", tmp_path / "twin")


def test_a_branch_does_not_go_on_without_the_optimiser_it_began_with(
    options: list[str], stable: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options += [*begin_with(stable), *ONE]
    assert main(["fit", *options]) == 0
    said = mistake(["fit", *options, "--model.keep_optimizer", "false"], capsys)
    assert "keep_optimizer: checkpoint True, command line False" in said


def test_what_has_no_optimiser_to_keep_is_refused_before_anything_is_written(
    options: list[str], stable: Path, tiny_shards: Path, tmp_path: Path, capsys
) -> None:
    said = mistake(["fit", *tiny_options(tiny_shards, tmp_path), *options[-2:]], capsys)
    assert "begins with fresh weights" in said and "--model.start_from CHECKPOINT" in said
    bundle = bundle_of(tmp_path / "given", tiny_shards)
    for source in (bundle, stable / "bundle", tmp_path / "none.ckpt", Path("owner/name")):
        said = mistake(["fit", *options, *begin_with(source)], capsys)
        assert f"{source} is neither a run with checkpoints nor one of them" in said
    fresh = stable / "checkpoints" / "step-00000000.ckpt"
    said = mistake(["fit", *options, *begin_with(fresh)], capsys)
    assert f"{fresh} (step 0) has no state of an optimiser" in said
    said = mistake(["fit", *options, *MUON, *begin_with(stable)], capsys)
    assert "model.optimizer.matrices is muon" in said and "by adamw" in said
    (sharded := tmp_path / "zero.ckpt" / "state").mkdir(parents=True)
    said = mistake(["fit", *options, *begin_with(sharded.parent)], capsys)
    assert "--checkpoint FILE.ckpt" in said
    assert not (tmp_path / "tiny").exists()


def test_two_ranks_begin_with_it_as_one_device_does(
    options: list[str], stable: Path, tmp_path: Path
) -> None:
    options += [*begin_with(stable / LAST), "--data.micro_batch_size", "2"]
    assert main(["fit", *options]) == 0
    names = ["ddp", "fsdp", *(["deepspeed_zero1"] if find_spec("deepspeed") else [])]
    jobs = [job(name, *options, "--run.name", name) for name in names]
    unlike = [*options, *begin_with(stable), "--run.name", "unlike"]
    results = run_jobs(tmp_path, [job("ddp", *unlike, unreadable_on=1), *jobs])
    codes = [[rank["code"] for rank in result["ranks"]] for result in results]
    said = [result["ranks"][0]["stderr"] for result in results]
    assert codes == [[2, 2], [0, 0], [0, 0], [2, 2]][: len(results)], said
    assert "rank 0: step-00000004.ckpt; rank 1: step-00000002.ckpt" in said[0]
    assert said[3:] == [] or "ZeRO takes over no optimiser of another run" in said[3]
    losses = series(read_metrics(tmp_path / "tiny" / "metrics.jsonl"), "train/loss")[1]
    for name in names[:2]:
        begun = tmp_path / name / "checkpoints" / "step-00000000.ckpt"
        assert_same_moments(moments(begun), moments(stable / LAST))
        found = series(read_metrics(tmp_path / name / "metrics.jsonl"), "train/loss")[1]
        assert found == pytest.approx(losses, abs=1e-5)
