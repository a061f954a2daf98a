"""The one command for a GPU, as far as a CPU can tell: every part runs, and a cut run goes on."""

import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import harness, page
from benchmarks.gpu import __main__ as command
from benchmarks.gpu import cells, joined, summary


@pytest.fixture(autouse=True)
def short_samples(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threads = torch.get_num_threads()
    monkeypatch.setitem(harness.SHORTEST_S, "cpu", 0.0)
    monkeypatch.setattr(harness.gc, "collect", lambda: 0)  # half a second with all that is imported
    yield
    torch.set_num_threads(threads)


def test_a_dry_run_walks_every_cell_and_a_second_one_has_nothing_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A second for each: the profiler's.
    monkeypatch.setattr(harness, "peak_bytes", lambda step, _: len([step()]))
    assert command.main(["--dry_run", "--output", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "gpu.json").read_text())
    rows = content["stages"]
    assert list(rows) == list(command.STAGES) and all(rows.values())
    failed = [row for mine in rows.values() for row in mine if "error" in row]
    assert not failed
    right = [row["is_right"] for row in rows["correct"] if "is_right" in row]
    assert len(right) >= 10 and all(right)
    assert {row["differing"] for row in rows["fit"] if "differing" in row} == {0}
    assert {row["rival"] for row in rows["steps"]} >= {
        "PoNet, compiled, bf16",
        "FNet, compiled, bf16",
    }
    whole = [row for row in rows["steps"] if "device_s" in row]
    assert len(whole) == 3 and all(0 < row["device_s"] < row["profiled_s"] for row in whole)
    assert all(entry["measured"] is not None for entry in content["targets"])
    with tarfile.open(tmp_path / "gpu.tar.gz") as archive:
        assert {"gpu.json", "steps.jsonl"} <= set(archive.getnames())
    shown = capsys.readouterr().out
    assert "model FLOP utilisation" in shown
    assert len(summary.table(content)) <= summary.MOST_LINES
    shown = page.pages(page.read_results(tmp_path))["performance/gpu.md"]
    assert "| nano | 16 | PoNet, compiled, bf16 |" in shown
    assert "(plain) that was killed and resumed: 0 of" in shown
    sizes = {path.name: path.stat().st_size for path in tmp_path.glob("*.jsonl")}
    assert command.main(["--dry_run", "--output", str(tmp_path)]) == 0
    assert {path.name: path.stat().st_size for path in tmp_path.glob("*.jsonl")} == sizes


def test_a_cell_that_was_killed_costs_itself_alone_and_comes_last_the_next_time(
    tmp_path: Path,
) -> None:
    log, calls = cells.Log(tmp_path, "some"), []

    def cell(name: str, *, dies: bool = False) -> list[dict[str, str]]:
        calls.append(name)
        if dies:
            raise KeyboardInterrupt
        return [{"name": name}]

    def stage(*, dies: bool) -> list[cells.Cell]:
        return [
            ("a", lambda: cell("a")),
            ("b", lambda: cell("b", dies=dies)),
            ("c", lambda: cell("c")),
        ]

    with pytest.raises(KeyboardInterrupt):
        cells.run_cells(stage(dies=True), log, seconds=60)
    assert [row["name"] for row in log.rows()] == ["a"]
    with log.path.open("a") as file:
        file.write('{"what": "b", "na')  # cut short by the kill
        file.write("\n")
    assert cells.run_cells(stage(dies=False), log, seconds=60) == 0
    assert calls == ["a", "b", "c", "b"]
    assert [row["name"] for row in log.rows()] == ["a", "b", "c"]


def test_a_cell_that_fails_is_written_down_and_passed_over(tmp_path: Path) -> None:
    log = cells.Log(tmp_path, "some")

    def fails() -> list[dict[str, str]]:
        raise torch.OutOfMemoryError("too large")

    stage: list[cells.Cell] = [("a", fails), ("b", lambda: [{"name": "b"}])]
    assert cells.run_cells(stage, log, seconds=60) == 0
    assert [row.get("error", row.get("name")) for row in log.rows()] == [
        "OutOfMemoryError: too large", "b",
    ]  # fmt: skip
    assert log.ended() == {"a", "b"}


def test_no_cell_starts_when_the_time_is_over(tmp_path: Path) -> None:
    log = cells.Log(tmp_path, "some")
    stage: list[cells.Cell] = [("a", lambda: [{}]), ("b", lambda: [{}])]
    assert cells.run_cells(stage, log, seconds=-1) == 2
    assert not log.lines()


def test_a_device_that_answers_no_more_ends_the_process_but_not_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "device_answers", lambda: False)
    log = cells.Log(tmp_path, "some")

    def fails() -> list[dict[str, str]]:
        raise RuntimeError("an illegal memory access was encountered")

    stage: list[cells.Cell] = [("a", fails), ("b", lambda: [{"name": "b"}])]
    with pytest.raises(SystemExit, match=str(cells.BROKEN_DEVICE)):
        cells.run_cells(stage, log, seconds=60)
    assert cells.run_cells(stage, log, seconds=60) == 0
    assert log.ended() == {"a", "b"}


def test_stages_run_in_order_of_worth_and_only_while_there_is_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock, started = [0.0], []

    def start(stage: str, folder: Path, sizes: cells.Sizes, seconds: float, most: float) -> int:
        started.append((stage, seconds))
        assert clock[0] + most <= 60 * 9
        clock[0] += most  # its last cell goes on to the end
        return -9

    monkeypatch.setattr(command.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(command, "start_stage", start)
    command.run_all(tmp_path, list(command.STAGES), cells.GPU, 9.0)
    names = [stage for stage, _ in started]
    assert names == list(command.STAGES)[: len(names)] and "steps" in names
    assert clock[0] <= 60 * 9
    assert "machine: 130 s, exit code -9" in capsys.readouterr().out


def test_a_stage_beyond_its_time_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda _, **form: real(["sleep", "60"], **form))
    assert command.start_stage("machine", tmp_path, cells.DRY, 0.1, 0.2) == -9


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_counts_every_stage_as_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--output", str(tmp_path)]) == len(command.STAGES)
    assert "no CUDA device here; --dry_run" in capsys.readouterr().err


def test_steps_of_joined_texts_are_made(capsys: pytest.CaptureFixture[str]) -> None:
    precision = torch.get_float32_matmul_precision()
    joined.main()
    torch.set_float32_matmul_precision(precision)
    assert "16 steps of joined texts" in capsys.readouterr().out


def test_a_check_of_addresses_is_right_only_of_steps_that_were_looked_at() -> None:
    steps = ["========= COMPUTE-SANITIZER", "a step of 2000 tokens, torch.float32"]
    wrong = "========= Invalid __global__ read of size 4 bytes"
    assert joined.judged([*steps, "========= ERROR SUMMARY: 0 errors"], 0)["is_right"]
    cut = joined.judged(steps, -9)
    assert cut["is_right"] and cut["steps"] == 1
    found = joined.judged([*steps, wrong, "=========     at mix_forward"], 0)
    assert not found["is_right"] and found["output"][0] == wrong
    assert not joined.judged(steps[:1], 0)["is_right"]
    assert not joined.judged(steps, 1)["is_right"]
