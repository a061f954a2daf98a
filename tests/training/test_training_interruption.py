"""Durations, signal names and exit codes: what a user may write, and what a mistake says."""

import os
import re
import signal
import time
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from pretrain.cli import main
from training.interruption import (
    EXIT_CODES,
    EXIT_INTERRUPT,
    EXIT_STOPPED,
    StopRequest,
    ignore_signals_in_worker,
    parse_duration,
    signal_named,
    signals_held,
)


@pytest.mark.parametrize(
    "text, seconds",
    [("01:02:03:04", 93784), ("23:30:00", 84600), ("90m", 5400), ("1.5h", 5400), ("2d", 172800)],
)
def test_durations_are_clocks_or_numbers_with_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "0s", "1:2", "soon", "-5m"])
def test_other_durations_are_refused_with_the_forms_that_are_allowed(text: str) -> None:
    with pytest.raises(ValueError, match=r"HH:MM:SS.*90m"):
        parse_duration(text)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSTOP", "SIGINT", "SIGNOTHING", "15"])
def test_signals_that_cannot_ask_for_a_stop_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="SIGTERM"):
        signal_named(name)


def test_a_stop_request_takes_notes_and_gives_the_signals_back() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    stop = StopRequest(["SIGTERM"])
    stop.install()
    assert stop.exit_code == 0
    signal.raise_signal(signal.SIGTERM)
    assert stop.exit_code == EXIT_STOPPED and stop.reason == "SIGTERM was received"
    signal.raise_signal(signal.SIGINT)
    assert stop.exit_code == EXIT_INTERRUPT
    signal.raise_signal(signal.SIGTERM)  # Ctrl-C stays what counts
    assert stop.exit_code == EXIT_INTERRUPT
    stop.uninstall()
    assert {number: signal.getsignal(number) for number in before} == before


def test_a_time_budget_counts_from_the_start_that_was_given() -> None:
    assert StopRequest(budget_s=60, started=time.monotonic() - 61).exit_code == EXIT_STOPPED
    assert StopRequest(budget_s=60, started=time.monotonic() - 1).exit_code == 0


def test_the_help_lists_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    for code, meaning in EXIT_CODES.items():
        assert f"{code:3d}  {meaning}" in printed


def test_the_page_of_guarantees_lists_the_same_exit_codes() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "guarantees.md"
    listed = re.findall(r"^\| (\d+) \| ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert [int(code) for code in listed] == list(EXIT_CODES)


class Numbers(Dataset[int]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        return index


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_while_a_data_worker_starts_does_not_end_it(number: int, tmp_path: Path) -> None:
    """torch has set its own handler of SIGTERM by then, which would end the worker."""

    def start(worker_id: int) -> None:
        (tmp_path / "pid").write_text(str(os.getpid()))
        while not (tmp_path / "sent").exists():
            time.sleep(0.01)
        ignore_signals_in_worker(worker_id)

    with signals_held():
        batches = iter(DataLoader(Numbers(), num_workers=1, worker_init_fn=start))
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
    while not (pid := (tmp_path / "pid").read_text() if (tmp_path / "pid").exists() else ""):
        time.sleep(0.01)
    for _ in range(2):  # before its worker_init_fn, and after it
        os.kill(int(pid), number)
        (tmp_path / "sent").touch()
        assert len(next(batches)) == 1
    assert len(list(batches)) == 2
