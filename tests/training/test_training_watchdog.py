"""The watchdog: what hangs is shown, the process ends, and nothing of it stays behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer

from pretrain.loader import BatchLoader
from training.callbacks import watchdog as watchdog_module
from training.callbacks.watchdog import Watchdog
from training.interruption import EXIT_WATCHDOG, descendants

LINUX = Path("/proc/self/stat").exists()
needs_proc = pytest.mark.skipif(not LINUX, reason="states of processes are read from /proc")
BOUND_S = 60.0
SHORT = 1.0 / 60  # minutes


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or a corpse that nobody has asked for yet."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] in "ZXx"


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for something that comes soon; the bound is generous, so that it never decides."""
    end = time.monotonic() + BOUND_S
    while not (result := condition()):
        assert time.monotonic() < end, f"still waiting: {what}"
        time.sleep(0.02)
    return result


class Child:
    """A forked process that runs a function with its stderr in a file."""

    def __init__(self, function: Callable[[], None], errors: Path) -> None:
        self.errors = errors
        self.pid = self.group = os.fork()
        if self.pid:
            return
        code = 1
        try:
            os.setsid()
            os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            torch.set_num_threads(1)
            function()
            code = 0
        except BaseException as error:  # noqa: BLE001 (a fork must never return into pytest)
            os.write(2, repr(error).encode())
        finally:
            os._exit(code)

    def exit_code(self) -> int:
        _, status = until(self._ended, f"the end of {self.pid}")
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def _ended(self) -> tuple[int, int] | None:
        done = os.waitpid(self.pid, os.WNOHANG)
        return done if done[0] else None

    def text(self) -> str:
        return self.errors.read_text(encoding="utf-8") if self.errors.exists() else ""

    def kill(self) -> None:
        with suppress(ProcessLookupError, PermissionError):  # what a failed test left of its group
            os.killpg(self.group, signal.SIGKILL)
        if self.pid:
            os.waitpid(self.pid, 0)


@pytest.fixture
def fork(tmp_path: Path) -> Iterator[Callable[[Callable[[], None]], Child]]:
    children: list[Child] = []

    def start(function: Callable[[], None]) -> Child:
        children.append(Child(function, tmp_path / f"stderr-{len(children)}"))
        return children[-1]

    yield start
    for child in children:
        child.kill()


class Numbers(torch.utils.data.Dataset[torch.Tensor]):
    """Twenty numbers, one of which never comes."""

    def __init__(self, missing: int | None = None) -> None:
        self.missing = missing

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == self.missing:
            time.sleep(1000)
        return torch.tensor([float(index)])


class Tiny(LightningModule):
    def __init__(self, step: Callable[[int], None] = lambda index: None) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.step = step

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        self.step(batch_idx)
        return self.layer(batch[0]).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(watchdog: Watchdog, module: LightningModule, missing: int | None = None, workers: int = 0):
    trainer = Trainer(
        accelerator="cpu",
        max_steps=12,
        callbacks=[watchdog],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    options = {"num_workers": workers, "persistent_workers": workers > 0, "collate_fn": list}
    trainer.fit(module, BatchLoader(Numbers(missing), **options))
    return trainer


def watch_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "watchdog" in thread.name]


@needs_proc
def test_a_run_whose_data_worker_hangs_is_ended_with_the_worker(tmp_path: Path, fork: Any) -> None:
    pids = tmp_path / "pids"

    def note_workers(index: int) -> None:
        pids.write_text(" ".join(map(str, descendants(os.getpid()))), encoding="utf-8")

    child = fork(lambda: fit(Watchdog(SHORT), Tiny(note_workers), missing=7, workers=2))
    assert child.exit_code() == EXIT_WATCHDOG
    assert "waits for data after step 7" in child.text() and "rank 0 (pid" in child.text()
    workers = pids.read_text(encoding="utf-8").split()
    assert len(workers) >= 2
    for pid in workers:
        until(lambda pid=pid: has_ended(int(pid)), f"the end of {pid}")


@needs_proc
def test_a_step_that_hangs_is_shown_with_its_stack_and_nothing_survives(
    tmp_path: Path, fork: Any
) -> None:
    ignores_signals = "import signal, time; signal.signal(15, 1); print(1, flush=True)"
    pids = tmp_path / "pids"

    def hang_in_a_named_function(index: int) -> None:
        if index == 4:
            command = [sys.executable, "-c", f"{ignores_signals}; time.sleep(1000)"]
            stubborn = subprocess.Popen(command, stdout=subprocess.PIPE)
            assert stubborn.stdout is not None and stubborn.stdout.readline()
            stopped = subprocess.Popen(["sleep", "1000"])
            os.kill(stopped.pid, signal.SIGSTOP)
            pids.write_text(f"{stubborn.pid} {stopped.pid}", encoding="utf-8")
            time.sleep(1000)

    child = fork(lambda: fit(Watchdog(SHORT), Tiny(hang_in_a_named_function), workers=1))
    assert child.exit_code() == EXIT_WATCHDOG
    assert "is inside step 5" in child.text() and "hang_in_a_named_function" in child.text()
    for pid in pids.read_text(encoding="utf-8").split():
        until(lambda pid=pid: has_ended(int(pid)), f"the end of {pid}")


@needs_proc
def test_processes_below_this_one_are_found() -> None:
    code = "import subprocess; subprocess.run(['sleep', '1000'])"
    child = subprocess.Popen([sys.executable, "-c", code])
    try:
        until(lambda: len(descendants(child.pid)) == 1, "its child")
        (grandchild,) = descendants(child.pid)
        assert {child.pid, grandchild} <= set(descendants(os.getpid()))
        os.kill(grandchild, signal.SIGKILL)
    finally:
        child.kill()
        child.wait()


def test_the_process_ends_even_if_nothing_can_be_said(fork: Any) -> None:
    def run() -> None:
        trainer, watchdog = fake_trainer(), Watchdog(SHORT)
        del trainer.global_rank
        watchdog.setup(trainer, None, "fit")  # type: ignore[arg-type]
        watchdog.on_train_batch_end(trainer, None, None, None, 0)  # type: ignore[arg-type]
        time.sleep(1000)

    assert fork(run).exit_code() == EXIT_WATCHDOG


def test_a_slow_start_and_a_slow_save_are_no_hang_and_a_finished_run_leaves_nothing(
    fork: Any,
) -> None:
    def run() -> None:
        watchdog = Watchdog(SHORT)
        slow = {0: 1.6, 5: 1.6}

        def step(index: int) -> None:
            if index == 0:
                time.sleep(slow[0])
            elif index == 5:
                with watchdog.saving(module.trainer):
                    time.sleep(slow[5])

        module = Tiny(step)
        assert fit(watchdog, module).global_step == 12
        until(lambda: not watch_threads(), "the end of the threads")

    child = fork(run)
    assert child.exit_code() == 0, child.text()


def test_a_failed_run_is_no_longer_watched_and_zero_minutes_watch_nothing() -> None:
    def fail(index: int) -> None:
        raise RuntimeError("mistake")

    with pytest.raises(RuntimeError, match="mistake"):
        fit(Watchdog(5.0), Tiny(fail))
    until(lambda: not watch_threads(), "the end of the threads")
    seen: list[list[str]] = []
    fit(Watchdog(0.0), Tiny(lambda index: seen.append(watch_threads())))
    assert seen == [[]] * 12


# --- when it fires, by a clock of the test ---------------------------------------------------


def fake_trainer(*, rank: int = 0, world_size: int = 1, step: int = 0) -> Any:
    return SimpleNamespace(
        global_rank=rank,
        world_size=world_size,
        global_step=step,
        validating=False,
        sanity_checking=False,
        fit_loop=SimpleNamespace(_combined_loader=None),
    )


class Clock:
    """Time that passes only when somebody waits: the event that the watching thread waits for."""

    def __init__(self) -> None:
        self.now, self.plan = 100.0, {}
        self.end = 1e9

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        for at in sorted(at for at in self.plan if at <= self.now):
            self.plan.pop(at)()
        return self.now >= self.end

    def is_set(self) -> bool:
        return False

    def jump(self, seconds: float) -> None:
        self.now += seconds


class Fired(Exception):
    pass


def fired_after(
    monkeypatch: pytest.MonkeyPatch,
    begin: Callable[[Watchdog, Any], None],
    plan: Callable[[Watchdog, Any, Clock], dict[float, Callable[[], None]]] = lambda *_: {},
) -> float | None:
    """Seconds (limit 60) until it fires, or None if it has not after an hour."""
    clock, trainer = Clock(), fake_trainer(step=3)
    monkeypatch.setattr(watchdog_module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    watchdog = Watchdog(1.0)

    def fire(trainer: Any, stalled_s: float) -> None:
        raise Fired

    monkeypatch.setattr(watchdog, "_end", fire)
    begin(watchdog, trainer)
    clock.plan = {100 + at: call for at, call in plan(watchdog, trainer, clock).items()}
    clock.end = 100 + 3600
    try:
        watchdog._watch(trainer, clock)  # type: ignore[arg-type]
    except Fired:
        return clock.now - 100
    return None


def started(watchdog: Watchdog, trainer: Any) -> None:
    watchdog.on_train_batch_end(trainer, None, None, None, 0)  # type: ignore[arg-type]


def starting(watchdog: Watchdog, trainer: Any) -> None:
    watchdog.on_train_batch_start(trainer, None, None, 0)  # type: ignore[arg-type]


def saving(watchdog: Watchdog, trainer: Any) -> None:
    started(watchdog, trainer)
    watchdog.on_save_checkpoint(trainer, None, {})  # type: ignore[arg-type]


def test_it_fires_at_the_limit_and_later_at_the_start_or_in_a_foreign_save(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert fired_after(monkeypatch, started) == pytest.approx(66)
    assert fired_after(monkeypatch, starting) == pytest.approx(306)
    assert fired_after(monkeypatch, saving) == pytest.approx(306)


def test_any_progress_puts_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def progress(watchdog: Watchdog, trainer: Any, clock: Clock) -> dict[float, Any]:
        return {
            50.0: lambda: watchdog.on_train_batch_start(trainer, None, None, 0),
            100.0: lambda: watchdog.on_validation_batch_start(trainer),
            150.0: lambda: watchdog.on_validation_batch_end(trainer),
        }

    assert fired_after(monkeypatch, started, progress) == pytest.approx(216, abs=6)


def test_it_never_fires_in_a_save_and_counts_again_from_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def save(watchdog: Watchdog, trainer: Any, clock: Clock) -> dict[float, Any]:
        context = watchdog.saving(trainer)
        return {10.0: context.__enter__, 2000.0: lambda: context.__exit__(None, None, None)}

    assert fired_after(monkeypatch, started, save) == pytest.approx(2066, abs=6)


def test_a_process_that_was_suspended_gets_its_whole_limit_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def suspend(watchdog: Watchdog, trainer: Any, clock: Clock) -> dict[float, Any]:
        return {30.0: lambda: clock.jump(1000)}

    assert fired_after(monkeypatch, started, suspend) == pytest.approx(1030 + 66, abs=6)
