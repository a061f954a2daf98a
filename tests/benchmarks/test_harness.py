"""What the benchmarks measure is measured in rounds, and claims are held to the bound."""

import argparse

import pytest
import torch

from benchmarks import harness, report

CLOCK = harness.Clock(device="cpu", threads=1)


@pytest.fixture(autouse=True)
def short_samples(monkeypatch) -> None:
    monkeypatch.setitem(harness.SHORTEST_S, "cpu", 0.0)
    monkeypatch.setattr(harness.gc, "collect", lambda: 0)  # half a second with all that is imported


def test_every_rival_runs_once_per_round_in_changing_order() -> None:
    calls: list[str] = []
    steps = {name: lambda name=name: calls.append(name) for name in "abcd"}
    samples = harness.run_rounds(steps, rounds=6, clock=CLOCK)
    warm_up, timed = calls[:8], calls[8:]
    assert sorted(warm_up) == sorted("aabbccdd")
    rounds = [tuple(timed[n : n + 4]) for n in range(0, 24, 4)]
    assert all(sorted(order) == list("abcd") for order in rounds)
    assert len(set(rounds)) > 1
    assert {name: len(found) for name, found in samples.items()} == dict.fromkeys("abcd", 6)


def test_slow_rivals_are_left_out_of_every_second_round() -> None:
    samples = harness.run_rounds({"a": lambda: None}, rounds=4, clock=CLOCK, slow_s=-1.0)
    assert [sample is None for sample in samples["a"]] == [False, True, False, True]


def test_a_ratio_is_formed_within_rounds_and_then_the_median_is_taken() -> None:
    slow = [{"cpu_s": 2.0}, {"cpu_s": 9.0}, None, {"cpu_s": 4.0}]
    fast = [{"cpu_s": 1.0}, {"cpu_s": 3.0}, {"cpu_s": 1.0}, {"cpu_s": 1.0}]
    assert harness.ratio(slow, fast, "cpu_s") == {"median": 3.0, "min": 2.0, "max": 4.0}
    assert harness.ratio([None], [{"cpu_s": 1.0}], "cpu_s") is None


def test_one_cpu_thread_is_timed_by_cpu_time_and_several_by_wall_time() -> None:
    assert CLOCK.deciding == "cpu_s"
    assert harness.Clock(device="cpu", threads=2).deciding == "wall_s"
    assert harness.Clock(device="cuda", threads=1).deciding == "device_s"


def test_peak_memory_is_the_height_and_not_the_sum() -> None:
    def step() -> None:
        first = torch.empty(1_000)
        second = torch.empty(2_000)
        del first
        third = torch.empty(500)
        del second, third

    assert harness.peak_bytes(step, "cpu") == 12_000


def test_peak_memory_leaves_out_what_was_there_before() -> None:
    kept = [torch.empty(5_000)]

    def step() -> None:
        kept.append(torch.empty(1_000))
        kept.pop()

    assert harness.peak_bytes(step, "cpu") == 4_000


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
    assert report.target("claim", measured, **bound)["met"] is met


def test_a_claim_is_not_judged_where_its_premise_is_not_given() -> None:
    entry = report.target("fast in bf16", 1.0, at_least=2.0, lacks="AMX")
    assert entry["met"] is None and entry["measured"] == 1.0
    assert report.verdict(entry) == "not judged: no AMX here"
    nothing = report.target("fast in bf16", None, at_least=2.0, lacks="AMX")
    assert report.verdict(nothing) == "not measured"


def test_a_step_beyond_its_limit_is_reported_and_not_timed() -> None:
    options = argparse.Namespace(device="cpu", threads=1, rounds=2, slow_s=10.0)
    limits = argparse.Namespace(**vars(options), limit_gib=0.5, limit_s=60.0)
    steps = {
        ("small", 8): lambda: torch.ones(1000),
        ("small", 16): lambda: torch.ones(1000),
        ("large", 8): lambda: torch.ones(2**30),
    }
    rows = harness.measure_steps(steps, limits)
    assert [row["over"] for row in rows] == ["", "", "memory"]
    assert rows[0]["peak_mib"] == 4000 / 2**20
    assert len(rows[0]["s"]["all"]) == 2
    assert rows[0]["times_as_fast_as"] == {}
    assert rows[0]["time_to_shortest"]["median"] == 1.0
