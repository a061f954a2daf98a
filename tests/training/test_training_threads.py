"""How threads wait is decided before torch is there, and never against the user."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from training.threads import DECIDED_BY, wait_asleep


@pytest.fixture
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(os, "environ", {k: v for k, v in os.environ.items() if k not in DECIDED_BY})
    return monkeypatch


def test_threads_sleep_while_they_wait_unless_the_user_says_otherwise(
    nothing_set: pytest.MonkeyPatch,
) -> None:
    wait_asleep()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    for name in DECIDED_BY:
        nothing_set.setattr(os, "environ", {name: "as I like it"})
        wait_asleep()
        assert os.environ == {name: "as I like it"}


@pytest.mark.parametrize("package", ["pretrain", "finetune"])
def test_a_command_decides_before_torch_is_imported(package: str, repository: Path) -> None:
    """OpenMP reads its settings when it is loaded: later nothing would change."""
    script = (
        f"import sys; import {package}.cli as cli; import training.commands as commands\n"
        "seen = []\n"
        "commands.wait_asleep = lambda: seen.append('torch' in sys.modules)\n"
        "cli.main(['--help'])\n"
        "assert seen == [False], seen"
    )
    subprocess.run(
        [sys.executable, "-c", script], check=True, cwd=repository, stdout=subprocess.PIPE
    )
