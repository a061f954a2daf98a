"""How threads wait is decided before torch is there, and never against the user."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from training.command_line import DECIDED_BY, SPINS, wait_briefly


@pytest.fixture
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(os, "environ", {k: v for k, v in os.environ.items() if k not in DECIDED_BY})
    return monkeypatch


def test_threads_spin_for_a_moment_only_unless_the_user_says_otherwise(
    nothing_set: pytest.MonkeyPatch,
) -> None:
    wait_briefly()
    assert os.environ["GOMP_SPINCOUNT"] == SPINS
    for name in DECIDED_BY:
        nothing_set.setattr(os, "environ", {name: "as I like it"})
        wait_briefly()
        assert os.environ == {name: "as I like it"}


@pytest.mark.parametrize("package", ["pretrain", "finetune"])
def test_a_command_decides_before_torch_is_imported(package: str, repository: Path) -> None:
    """OpenMP reads its settings when it is loaded: later nothing would change."""
    script = (
        f"import sys; import {package}.cli as cli; import training.command_line as commands\n"
        "seen = []\n"
        "commands.wait_briefly = lambda: seen.append('torch' in sys.modules)\n"
        "cli.main(['--help'])\n"
        "assert seen == [False], seen"
    )
    subprocess.run(
        [sys.executable, "-c", script], check=True, cwd=repository, stdout=subprocess.PIPE
    )
