"""W&B that cannot be used is one line, before a run begins."""

import socket
import sys
from pathlib import Path

import pytest

from training.run_config import RunConfig
from training.tracking import check_tracking, own_tracking

wandb = pytest.importorskip("wandb")
ONLINE, OFFLINE = RunConfig(wandb="online"), RunConfig(wandb="offline")


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is logged in, and the server is a port where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    for name in ("WANDB_API_KEY", "WANDB_MODE", "http_proxy", "https_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    settings = wandb.Settings(base_url=f"http://127.0.0.1:{port}", api_key=None)

    class Setup:
        def __init__(self) -> None:
            self.settings = settings

    monkeypatch.setattr(wandb, "setup", Setup)


def test_without_a_key_the_line_says_how_to_log_in(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="nobody is logged in to W&B here; run `wandb login`"):
        check_tracking(ONLINE)
    check_tracking(OFFLINE)
    check_tracking(RunConfig())
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_tracking(ONLINE)


def test_a_server_that_does_not_answer_is_named(tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password secret\n")
    with pytest.raises(ValueError, match=r"server http://127.0.0.1:\d+ cannot be reached"):
        check_tracking(ONLINE)
    with socket.create_server(("127.0.0.1", 0)) as server:
        wandb.setup().settings.base_url = f"http://127.0.0.1:{server.getsockname()[1]}"
        check_tracking(ONLINE)


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match="needs wandb, which is not installed"):
        check_tracking(OFFLINE)


def test_what_wandb_refuses_later_is_one_line_too() -> None:
    with pytest.raises(ValueError, match="W&B: entity nobody not found") as raised, own_tracking():
        raise wandb.Error("entity nobody\n  not found")
    assert "\n" not in str(raised.value)
