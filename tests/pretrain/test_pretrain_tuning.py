"""The finders: what they choose from measurements, what they write, and what they leave alone."""

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from pytorch_lightning import Trainer

from pretrain.cli import main
from pretrain.datamodule import PretrainDataModule
from pretrain.tuning.batch_size import (
    BatchSizeSearch,
    MicroBatchTimer,
    SizeTrial,
    candidate_sizes,
    chosen_size,
    expected_memory,
)
from pretrain.tuning.cli import check_output, device_count
from pretrain.tuning.lr import LrSearch, lr_curve, moving_mean


def range_test(noise: float, *, steps: int = 100) -> tuple[list[float], list[float]]:
    """A loss that falls around 1e-3, is lowest near 1e-2 and rises after it."""
    lrs = np.geomspace(1e-7, 1.0, steps)
    fall = 3 / (1 + np.exp(-4 * (np.log10(lrs) + 3)))
    rise = 6 / (1 + np.exp(-6 * (np.log10(lrs) + 0.8)))
    drawn = np.random.default_rng(0).normal(0, noise, steps)
    return lrs.tolist(), (10 - fall + rise + drawn).tolist()


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.2])
def test_the_suggestion_is_the_steepest_fall_however_noisy_the_small_rates_are(
    noise: float,
) -> None:
    curve = lr_curve(*range_test(noise))
    assert 2e-4 < curve.suggestion < 5e-3
    assert curve.suggestion < curve.lrs[curve.lowest] and not curve.still_falling


def test_a_curve_ends_before_the_first_loss_that_is_not_finite() -> None:
    lrs, losses = range_test(0.05)
    losses[90:] = [float("nan"), *[1.0] * 9]
    curve = lr_curve(lrs, losses)
    assert len(curve.losses) == 90 and 2e-4 < curve.suggestion < 5e-3


def test_a_loss_that_never_falls_gives_no_learning_rate() -> None:
    lrs, _ = range_test(0.0)
    flat = 10 + np.random.default_rng(0).normal(0, 0.1, 100)
    with pytest.raises(ValueError, match="widen --min_lr and --max_lr"):
        lr_curve(lrs, flat.tolist())
    with pytest.raises(ValueError, match="only 0 steps had a finite loss"):
        lr_curve(lrs, [float("nan")] * 100)


def test_a_loss_that_still_falls_at_the_end_is_recognised() -> None:
    lrs, _ = range_test(0.0)
    assert lr_curve(lrs, np.linspace(10, 8, 100).tolist()).still_falling


def test_the_moving_mean_does_not_lag() -> None:
    line = np.linspace(0, 1, 20)
    assert moving_mean(line, 3) == pytest.approx(line)
    assert moving_mean(np.array([0.0, 3.0, 0.0]), 1).tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("per_device", "largest", "sizes"),
    [
        (192, 0, [1, 2, 3, 6, 12, 24, 48, 96, 192]),
        (192, 100, [1, 2, 3, 6, 12, 24, 48, 96]),
        (7, 0, [1, 7]),
        (7, 3, [1]),
        (1, 0, [1]),
        (12, 5, [1, 2, 3, 4]),
    ],
)
def test_sizes_divide_the_global_batch_of_a_device(
    per_device: int, largest: int, sizes: list[int]
) -> None:
    assert candidate_sizes(per_device, largest) == sizes


def test_the_choice_is_the_smallest_of_the_fast_sizes_or_the_largest_that_fits() -> None:
    trials = [
        SizeTrial(size=1, examples_per_s=50),
        SizeTrial(size=2, examples_per_s=97),
        SizeTrial(size=4, examples_per_s=100),
        SizeTrial(size=8, examples_per_s=70),
        SizeTrial(size=16, examples_per_s=400, problem="above the memory limit"),
    ]
    assert chosen_size(trials, "fastest").size == 2
    assert chosen_size(trials, "largest").size == 8
    with pytest.raises(ValueError, match="not even a micro-batch of 16 fits"):
        chosen_size(trials[-1:], "fastest")


def test_expected_memory_follows_the_last_two_sizes_and_never_shrinks() -> None:
    assert expected_memory([(0, 100), (1, 110), (2, 130)], 4) == 170
    assert expected_memory([(0, 100), (1, 100)], 4) == 100


def test_the_time_of_a_step_counts_its_micro_batches() -> None:
    timer = MicroBatchTimer()
    timer.seconds = [50.0, 50.0, 1.0, 3.0, 1.0, 3.0, 9.0, 7.0]
    assert timer.step_seconds(4) == 6.0
    timer.seconds = [50.0, 3.0, 3.0, 9.0]
    assert timer.step_seconds(1) == 3.0


@pytest.mark.parametrize(
    ("given", "count"), [(2, 2), ("4", 4), ([0, 3], 2), ("0,1,2", 3), ("[0,1]", 2)]
)
def test_devices_are_counted_as_lightning_reads_them(given: object, count: int) -> None:
    assert device_count(given) == count


@pytest.mark.parametrize(
    "build",
    [
        lambda: LrSearch(min_lr=1.0, max_lr=0.1),
        lambda: LrSearch(num_steps=5),
        lambda: LrSearch(stop_factor=1.0),
        lambda: BatchSizeSearch(max_batch_size=-1),
        lambda: BatchSizeSearch(memory_share=0.0),
        lambda: BatchSizeSearch(steps_per_size=1),
    ],
)
def test_impossible_searches_are_refused(build: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="must be"):
        build()


LR_OPTIONS = [
    *("--num_steps", "40", "--min_lr", "1e-4", "--max_lr", "3"),
    *("--data.global_batch_size", "32", "--model.encoder.dropout_prob", "0.0"),
    *("--data.micro_batch_size", "32"),
]


def test_the_found_learning_rate_is_a_config_of_fit_and_no_run_is_touched(
    tiny_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "tiny"
    for name in ("metrics.jsonl", "checkpoints/last.ckpt/weights", "bundle/config.json"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("earlier\n")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    found = tmp_path / "found" / "lr.yaml"
    overwriting = [*tiny_run, "--run.overwrite", "true", "--run.wandb", "offline"]
    assert main(["tune", "lr", *overwriting, *LR_OPTIONS, "--output", str(found)]) == 0
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["found", "tiny"]
    assert sorted(path.name for path in found.parent.iterdir()) == ["lr.png", "lr.yaml"]
    assert f"use it:  python -m pretrain fit ... --config {found}" in capsys.readouterr().out
    text = found.read_text()
    assert text.startswith("# Found by `python -m pretrain tune lr`: the loss fell most steeply at")
    content = yaml.safe_load(text)
    rate = content["model"]["optimizer"]["lr"]
    assert content == {"model": {"optimizer": {"lr": rate}}} and 1e-4 < rate < 1
    place = tiny_run.index("--model.optimizer.lr")
    capsys.readouterr()
    options = [*tiny_run[:place], *tiny_run[place + 2 :], "--print_config"]
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(found), *options])
    written = yaml.safe_load(capsys.readouterr().out)
    assert written["model"]["optimizer"]["lr"] == rate


def test_the_learning_rate_search_sees_whole_global_batches_at_the_swept_rates(
    tiny_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[float], list[float]]] = []

    def recorded(lrs: list[float], losses: list[float]) -> object:
        seen.append((lrs, losses))
        return lr_curve(*range_test(0.0))

    monkeypatch.setattr("pretrain.tuning.lr.lr_curve", recorded)
    options = [*tiny_run, *LR_OPTIONS, "--stop_factor", "100", "--num_steps", "20", "--output"]
    small = [*options[:-1], "--data.micro_batch_size", "8", "--output"]
    for number, given in enumerate((options, small)):
        assert main(["tune", "lr", *given, str(tmp_path / f"{number}.yaml")]) == 0
    (lrs, losses), (_, of_small) = seen
    assert len(lrs) == len(losses) == 20  # neither our warm-up nor max_steps 4 cuts in
    assert lrs[0] == pytest.approx(1e-4) and lrs[-1] == pytest.approx(3)
    assert np.diff(np.log(lrs)) == pytest.approx(np.log(lrs[1] / lrs[0]))
    assert losses[0] == pytest.approx(np.log(65) + np.log(3), abs=0.3)  # not halved, not divided
    assert of_small[:10] == pytest.approx(losses[:10], abs=0.02)


def test_the_found_micro_batch_size_keeps_the_global_batch(
    tiny_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = tmp_path / "size.yaml"
    options = [*tiny_run, "--choose", "largest", "--max_batch_size", "5", "--output", str(found)]
    assert main(["tune", "batch_size", *options]) == 0
    assert yaml.safe_load(found.read_text()) == {"data": {"micro_batch_size": 4}}
    assert "global batch 8 on 1 device(s)" in found.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["size.png", "size.yaml"]
    printed = capsys.readouterr()
    assert "a CPU has no out-of-memory error to find" in printed.out + printed.err


def test_running_out_of_memory_ends_the_search_below_that_size(
    tiny_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit, lengths = Trainer.fit, []

    @functools.wraps(fit)  # the options of `fit` are read from its signature
    def limited(self: Trainer, *given: object, datamodule: PretrainDataModule) -> None:
        lengths.append(datamodule.packing.short_prob)
        if datamodule.micro_batch_size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        fit(self, *given, datamodule=datamodule)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "fit", limited)
    found = tmp_path / "size.yaml"
    options = [*tiny_run, "--choose", "largest", "--trainer.devices", "2", "--output", str(found)]
    assert main(["tune", "batch_size", *options]) == 0
    assert yaml.safe_load(found.read_text()) == {"data": {"micro_batch_size": 2}}
    assert set(lengths) == {0.0}  # texts as long as they can be, which need the most
    assert "global batch 8 on 2 device(s)" in found.read_text()


def test_a_cpu_does_not_try_sizes_that_will_not_fit(
    tiny_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peaks = iter([100, 200, 300])
    monkeypatch.setattr("pretrain.tuning.batch_size.peak_memory", lambda device: next(peaks))
    monkeypatch.setattr("pretrain.tuning.batch_size.total_memory", lambda device: 500)
    found = tmp_path / "size.yaml"
    options = [*tiny_run, "--choose", "largest", "--output", str(found)]
    assert (
        main(["tune", "batch_size", *options]) == 0
    )  # 4 examples would need 500, the limit is 450
    assert yaml.safe_load(found.read_text()) == {"data": {"micro_batch_size": 2}}


def test_results_go_neither_into_a_run_nor_over_a_file_of_another_origin(tmp_path: Path) -> None:
    other, own = tmp_path / "mine.yaml", tmp_path / "own.yaml"
    other.write_text("model: {}\n")
    own.write_text("# Found by `python -m pretrain tune lr`: before\n")
    run = tmp_path / "tiny"
    run.mkdir()
    (run / "metrics.jsonl").write_text("")
    for path, message in (
        (other, "was not written by tune"),
        (run / "below" / "lr.yaml", "lies in the folder of a run"),
        (tmp_path / "lr.txt", "ends in .yaml"),
    ):
        with pytest.raises(ValueError, match=message):
            check_output(path)
    check_output(own)


def test_a_checkpoint_for_a_finder_is_a_mistake(
    tiny_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*tiny_run, "--output", str(tmp_path / "lr.yaml")]
    assert main(["tune", "lr", *options, "--resume", "some.ckpt"]) == 2
    assert "reads no checkpoint" in capsys.readouterr().err
    assert main(["tune", "colour"]) == 2
    assert "lr or batch_size" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_help_of_tune_needs_neither_torch_nor_lightning() -> None:
    code = (
        "import sys; from pretrain.cli import main; code = main(['tune', '--help']); "
        "heavy = {'torch', 'pytorch_lightning'} & sys.modules.keys(); sys.exit(code or bool(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "tune lr|batch_size" in done.stdout
