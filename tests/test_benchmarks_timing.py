"""What the benchmarks measure is measured in rounds, and claims are held to the bound."""

import pytest
import torch
from benchmark_modules import benchmark_module

timing = benchmark_module("_timing")
targets = benchmark_module("_targets")
CLOCK = timing.Clock(device="cpu", threads=1)


@pytest.fixture(autouse=True)
def short_samples(monkeypatch) -> None:
    monkeypatch.setitem(timing.SHORTEST_S, "cpu", 0.0)
    monkeypatch.setattr(timing.gc, "collect", lambda: 0)  # half a second with all that is imported


def test_every_rival_runs_once_per_round_in_changing_order() -> None:
    calls: list[str] = []
    steps = {name: lambda name=name: calls.append(name) for name in "abcd"}
    samples = timing.run_rounds(steps, rounds=6, clock=CLOCK)
    warm_up, timed = calls[:8], calls[8:]
    assert sorted(warm_up) == sorted("aabbccdd")
    rounds = [tuple(timed[n : n + 4]) for n in range(0, 24, 4)]
    assert all(sorted(order) == list("abcd") for order in rounds)
    assert len(set(rounds)) > 1
    assert {name: len(found) for name, found in samples.items()} == dict.fromkeys("abcd", 6)


def test_slow_rivals_are_left_out_of_every_second_round() -> None:
    samples = timing.run_rounds({"a": lambda: None}, rounds=4, clock=CLOCK, slow_s=-1.0)
    assert [sample is None for sample in samples["a"]] == [False, True, False, True]


def test_a_ratio_is_formed_within_rounds_and_then_the_median_is_taken() -> None:
    slow = [{"cpu_s": 2.0}, {"cpu_s": 9.0}, None, {"cpu_s": 4.0}]
    fast = [{"cpu_s": 1.0}, {"cpu_s": 3.0}, {"cpu_s": 1.0}, {"cpu_s": 1.0}]
    assert timing.ratio(slow, fast, "cpu_s") == {"median": 3.0, "min": 2.0, "max": 4.0}
    assert timing.ratio([None], [{"cpu_s": 1.0}], "cpu_s") is None


def test_one_cpu_thread_is_timed_by_cpu_time_and_several_by_wall_time() -> None:
    assert CLOCK.deciding == "cpu_s"
    assert timing.Clock(device="cpu", threads=2).deciding == "wall_s"
    assert timing.Clock(device="cuda", threads=1).deciding == "device_s"


def test_peak_memory_is_the_height_and_not_the_sum() -> None:
    def step() -> None:
        first = torch.empty(1_000)
        second = torch.empty(2_000)
        del first
        third = torch.empty(500)
        del second, third

    assert timing.peak_bytes(step, "cpu") == 12_000


def test_peak_memory_leaves_out_what_was_there_before() -> None:
    kept = [torch.empty(5_000)]

    def step() -> None:
        kept.clear()
        kept.append(torch.empty(1_000))

    assert timing.peak_bytes(step, "cpu") == 4_000


@pytest.mark.parametrize(
    ("measured", "bound", "met"),
    [
        (2.2, {"at_least": 2.2}, True),
        (2.19, {"at_least": 2.2}, False),
        (1.0, {"at_most": 1.0}, True),
        (1.01, {"at_most": 1.0}, False),
        (None, {"at_most": 1.0}, None),
    ],
)
def test_a_claim_is_met_missed_or_not_measured(measured, bound, met) -> None:
    assert targets.target("claim", measured, **bound)["met"] is met


def test_a_claim_is_not_judged_where_its_premise_is_not_given() -> None:
    entry = targets.target("fast in bf16", 1.0, at_least=2.0, lacks="AMX")
    assert entry["met"] is None and entry["measured"] == 1.0
    assert targets.verdict(entry) == "not judged: no AMX here"
    nothing = targets.target("fast in bf16", None, at_least=2.0, lacks="AMX")
    assert targets.verdict(nothing) == "not measured"


def test_the_table_of_claims_names_what_was_missed() -> None:
    entries = [targets.target("fast", 1.0, at_least=2.0), targets.target("small", 1.0, at_most=2.0)]
    lines = targets.targets_table(entries).splitlines()
    assert "MISSED" in lines[1]
    assert "MISSED" not in lines[2]
