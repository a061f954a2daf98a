"""Fixtures shared by all tests, and a network block: a test that opens a connection fails."""

import functools
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from docstring_parser.attrdoc import AttributeDocstrings

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root folder of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Reference numerics and real text beside the checkout; skips where they are missing."""
    folder = REPOSITORY.parent / "shared"
    if not (folder / "oracle").is_dir():
        pytest.skip(f"reference material not found: {folder} does not exist")
    return folder


@pytest.fixture(scope="session", autouse=True)
def help_texts_are_read_once() -> Iterator[None]:
    """Parse a class's source for help texts once, not in every command of this process."""
    read = AttributeDocstrings.get_attr_docs
    known = functools.cache(lambda component: read(AttributeDocstrings(), component))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AttributeDocstrings, "get_attr_docs", lambda _, component: known(component))
        yield


@pytest.fixture
def own_signals() -> Iterator[None]:
    """SIGINT and SIGTERM as a new program has them, whatever tests or the shell have set."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler if handler is not None else signal.SIG_DFL)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection that is not to this machine."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        local = self.family == socket.AF_UNIX or (
            isinstance(address, tuple) and address[0] in ("127.0.0.1", "localhost", "::1")
        )
        if not local:
            raise OSError(f"tests run offline, but something connected to {address!r}")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)
