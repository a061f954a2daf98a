"""Durations, signal names and exit codes: what a user may write, and what a mistake says."""

import signal
import time

import pytest

from pretrain.cli import main
from training.interruption import (
    EXIT_CODES,
    EXIT_INTERRUPT,
    EXIT_STOPPED,
    StopRequest,
    parse_duration,
    signal_named,
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
