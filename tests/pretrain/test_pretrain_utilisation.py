"""Throughput figures: peak rates, memory, the wait for data, and their place in a run's log."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ponet import BertConfig, PoNetConfig, ProjectionConfig
from pretrain.cli import main
from pretrain.module import PretrainModule
from pretrain.run_config import RunConfig
from training import utilisation
from training.utilisation import (
    FETCH,
    FetchClock,
    automatic_precision,
    corrected_rate,
    known_tflops,
    measured_rate,
    memory_gib,
    operand_type,
    peak_rate,
    use_tensor_cores,
)

CPU = torch.device("cpu")


def rows_of(root: Path, key: str) -> list[dict[str, float]]:
    lines = (root / "tiny" / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if key in row]


@pytest.mark.parametrize(
    ("has_amx", "has_products", "ratio", "expected"),
    [
        (True, True, 0.0, "bf16-mixed"),
        (False, True, 2.4, "bf16-mixed"),
        (False, True, 1.1, "32-true"),
        (False, False, 9.0, "32-true"),
    ],
)
def test_a_cpu_gets_bfloat16_where_its_products_are_much_faster(
    has_amx: bool,
    has_products: bool,
    ratio: float,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_amx)
    monkeypatch.setattr(utilisation, "cpu_has_bf16_products", lambda: has_products)
    rates = {torch.bfloat16: 1e10 * ratio, torch.float32: 1e10}
    monkeypatch.setattr(utilisation, "measured_rate", lambda device, dtype: rates[dtype])
    assert automatic_precision() == expected


@pytest.mark.parametrize(("accelerator", "is_new", "expected"), [
    ("auto", True, "bf16-mixed"),
    ("cuda", False, "32-true"),  # emulated before Ampere, and slower than float32
    ("cpu", True, "32-true"),  # the GPU is not asked for
])  # fmt: skip
def test_the_device_that_is_asked_for_says_what_it_multiplies_fast(
    accelerator: str, is_new: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return is_new or including_emulation

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(utilisation, "cpu_has_fast_bf16", lambda: False)
    assert automatic_precision(accelerator) == expected


def test_a_run_keeps_the_precision_it_began_with(
    tiny_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def recorded() -> object:
        return yaml.safe_load((tmp_path / "tiny/run_config.yaml").read_text())["trainer"]

    monkeypatch.setattr("training.cli.automatic_precision", lambda device: "bf16-mixed")
    options = [*tiny_run, "--run.auto_precision", "true"]
    assert main(["fit", *options, "--trainer.max_steps", "2"]) == 0
    assert recorded()["precision"] == "bf16-mixed"
    monkeypatch.setattr("training.cli.automatic_precision", lambda device: "32-true")
    assert main(["fit", *options, "--trainer.max_steps", "3"]) == 0
    assert recorded()["precision"] == "bf16-mixed" and recorded()["max_steps"] == 3
    assert main(["fit", *options, "--run.overwrite", "true"]) == 0
    assert recorded()["precision"] == "32-true"


@pytest.mark.parametrize(
    ("precision", "expected"), [("bf16-mixed", "high"), ("32-true", "highest")]
)
def test_float32_products_are_rounded_only_beside_products_of_16_bits(
    precision: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    try:
        use_tensor_cores(precision)
        assert torch.get_float32_matmul_precision() == expected
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize(
    ("name", "bf16", "tf32", "fp32"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4, 494.7, 66.9),
        ("NVIDIA H100 PCIe", 756.0, 378.0, 51.2),
        ("NVIDIA H100 NVL", 835.5, 417.5, 60.0),
        ("NVIDIA H200", 989.4, 494.7, 66.9),
        ("NVIDIA A100-SXM4-80GB", 312.0, 156.0, 19.5),
        ("NVIDIA L40S", 362.0, 183.0, 91.6),
        ("NVIDIA L4", 121.0, 60.0, 30.3),
        ("NVIDIA GeForce RTX 4090", 165.2, 82.6, 82.6),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None, None, None),
        ("NVIDIA A1000", None, None, None),
        ("Some Other GPU", None, None, None),
    ],
)
def test_gpus_are_known_by_their_names_and_by_nothing_less(
    name: str, bf16: float | None, tf32: float | None, fp32: float | None
) -> None:
    assert known_tflops(name, torch.bfloat16, tf32=False) == bf16
    assert known_tflops(name, torch.float16, tf32=False) == bf16
    assert known_tflops(name, torch.float32, tf32=True) == tf32
    assert known_tflops(name, torch.float32, tf32=False) == fp32
    assert known_tflops(name, torch.float64, tf32=True) is None


def test_precisions_name_the_type_of_the_matrix_products() -> None:
    names = {"bf16-mixed": torch.bfloat16, "bf16-true": torch.bfloat16, "16-mixed": torch.float16}
    names |= {"32-true": torch.float32, "64-true": torch.float64}
    assert {name: operand_type(name) for name in names} == names


def test_a_peak_rate_says_where_it_comes_from() -> None:
    given = peak_rate(CPU, "32-true", tflops=1.5)
    assert given == (1.5e12, "given by run.peak_tflops", False)
    before = torch.random.get_rng_state()
    found = peak_rate(CPU, "32-true")
    assert found.source == "measured here, float32 product"
    assert 1e8 < found.flops_per_s < 1e16
    assert found.flops_per_s == measured_rate(CPU, torch.float32)  # once in a process
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_cpu_that_was_busy_when_measured_is_measured_again() -> None:
    found = peak_rate(CPU, "32-true")
    slow = found._replace(flops_per_s=found.flops_per_s / 1e6)
    reached = slow.flops_per_s * 2
    again = corrected_rate(slow, reached, CPU, "32-true")
    assert again.is_measured and again.flops_per_s > 100 * reached
    assert again.flops_per_s == measured_rate(CPU, torch.float32)
    assert corrected_rate(again, again.flops_per_s / 2, CPU, "32-true") is again
    beyond = corrected_rate(again, 1e17, CPU, "32-true")
    assert beyond.flops_per_s == 1e17  # what was reached was possible
    given = peak_rate(CPU, "32-true", tflops=1e-6)
    assert corrected_rate(given, 1e17, CPU, "32-true") is given


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
def test_an_impossible_peak_rate_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="peak_tflops must be >= 0"):
        RunConfig(peak_tflops=wrong)


def test_memory_grows_with_what_a_process_holds() -> None:
    before = memory_gib(CPU)
    kept = torch.ones(2**25)
    assert 0.1 < memory_gib(CPU) - before < 1.0
    assert kept.sum() > 0


def test_only_the_fetching_of_training_batches_counts_as_waiting() -> None:
    clock = FetchClock()
    for action, seconds in ((FETCH, 0.02), ("[_EvaluationLoop].val_next", 0.5), (FETCH, 0.01)):
        with clock.profile(action):
            time.sleep(seconds / 10)
    assert 0.003 <= clock.seconds < 0.05


def test_a_step_s_operations_are_those_of_its_shapes() -> None:
    sizes = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "ffn_size": 64}
    module = PretrainModule(BertConfig(vocab_size=65, **sizes), "mlm", sparse_last_block=False)
    batch = {"input_ids": torch.zeros(4, 32), "masked_positions": torch.zeros(4, 5)}
    layers = 2 * 4 * 32 * (72 * 16**2 + 12 * 32 * 16)
    assert module.batch_flops(batch) == layers + 6 * 4 * 5 * 16 * (16 + 65)
    module.model.encoder.sparse_last_block = True
    spared = 4 * (32 - 6) * (60 * 16**2 + 12 * 32 * 16)  # all but keys and values
    assert module.batch_flops(batch) == layers - spared + 6 * 4 * 5 * 16 * (16 + 65)


def test_a_pooler_that_reads_every_token_has_the_whole_last_block_counted() -> None:
    sizes = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "ffn_size": 64}
    hashed = PoNetConfig(vocab_size=65, projection=ProjectionConfig(feature_size=8), **sizes)
    batch = {"input_ids": torch.zeros(4, 32), "masked_positions": torch.zeros(4, 5)}
    for objective, is_spared in (("mlm_sso", False), ("mlm", True)):
        sparse, whole = (
            PretrainModule(hashed, objective, sparse_last_block=choice).batch_flops(batch)
            for choice in (True, False)
        )
        assert (sparse < whole) == is_spared


def test_every_line_of_a_run_has_its_throughput(
    tiny_run: list[str], tmp_path: Path, capfd: Any
) -> None:
    main(["fit", *tiny_run, "--run.peak_tflops", "0.001"])
    rows = rows_of(tmp_path, "train/loss")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    for row in rows:
        assert 0 < row["train/data_wait_share"] < 1
        assert 0.05 < row["train/memory_gib"] < 100
    # Two micro-batches of 4 x 32 positions, whatever their number of real tokens.
    rates = [row["train/mfu"] * 1e9 / row["train/tokens_per_s"] for row in rows]
    assert min(rates) > 0 and max(rates) / min(rates) < 1.5
    shown = capfd.readouterr().err
    assert "what share of 0.001 TFLOP/s a device uses (given by run.peak_tflops)" in shown
    assert "mfu=" in shown and "GiB=" in shown and "wait=" in shown


def test_a_profiler_of_the_user_is_left_in_its_place(tiny_run: list[str], tmp_path: Path) -> None:
    main(["fit", *tiny_run, "--trainer.profiler", "simple", "--run.peak_tflops", "1"])
    rows = rows_of(tmp_path, "train/mfu")
    assert len(rows) == 4 and not rows_of(tmp_path, "train/data_wait_share")
