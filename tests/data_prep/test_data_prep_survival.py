"""Builds hit by signals, dead workers, a full disk and a second build: nothing is lost."""

import errno
import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from build_processes import (
    config_file,
    content,
    finish,
    marked_processes,
    parts_of,
    run_build,
    write_corpus,
)

from data_prep import files
from data_prep.cli import main
from data_prep.config import BuildConfig
from data_prep.pipeline import build
from data_prep.pool import WorkerPool
from data_prep.workers import is_finished, save_part

needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no /proc here")


@pytest.fixture
def setting(tmp_path):
    """A config file, the bytes it must give, and a folder for outputs."""
    write_corpus(tmp_path / "texts", documents=60)
    path = config_file(tmp_path)
    return path, content(build(BuildConfig.from_yaml(path), progress=False)), tmp_path


def hit(module, name, call, *, after=False, by=signal.SIGKILL, **more):
    return {"module": module, "name": name, "call": call, "after": after, "signal": by, **more}


@needs_proc
@pytest.mark.parametrize(
    ("module", "name", "call", "workers"),
    [
        ("workers", "save_part", 4, 1),
        ("os", "replace", 3, 2),
        ("workers", "train_tokenizer", 1, 1),
        ("workers", "save_part", 10, 2),
        ("pipeline", "finish_shards", 1, 1),
        ("files", "publish", 1, 1),
        ("files", "discard", 1, 1),
    ],
)
def test_a_killed_build_keeps_finished_parts_and_goes_on_to_the_same_bytes(
    module, name, call, workers, setting
):
    path, expected, folder = setting
    output, record, count = folder / "out", folder / "record.json", folder / "count.json"
    options = ["--num_workers", str(workers)]
    process, _, err = finish(path, output, *options, plan=hit(module, name, call))
    assert process.returncode == -signal.SIGKILL, err
    assert not marked_processes(process), "workers end with their parent"
    assert output.exists() == (name == "discard")
    kept = parts_of(output)
    again = hit("workers", "save_part", 0, record=str(record), count=str(count))
    process, _, err = finish(path, output, *options, plan=again)
    assert process.returncode == 0, err
    assert content(output) == expected
    if name != "discard":
        used = json.loads(record.read_text())
        assert kept.items() <= used.items(), "finished parts are the same files as before"
        assert json.loads(count.read_text()).get("save_part", 0) == len(used) - len(kept)
    assert sorted(path.name for path in folder.glob("out*")) == ["out"]


@needs_proc
@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 130, "Ctrl-C")],
)
def test_a_signal_stops_a_build_with_one_line_and_a_code(number, code, word, setting):
    path, expected, folder = setting
    plan = hit("workers", "save_part", 5, by=number)
    process, out, err = finish(path, folder / "out", "--num_workers", "2", plan=plan)
    assert process.returncode == code, err
    assert err == f"stopped by {word}; run the same command again to go on.\n" and not out
    assert not marked_processes(process)
    assert main(["build", "--config", str(path), "--output", str(folder / "out"), "--quiet"]) == 0
    assert content(folder / "out") == expected


def test_two_builds_of_one_folder_do_not_mix_under_any_spelling(setting, capsys):
    path, expected, folder = setting
    (folder / "deep").mkdir()
    (folder / "link").symlink_to(folder / "out")
    reached = folder / "reached"
    plan = hit("workers", "save_part", 3, by=0, reached=str(reached))
    first = run_build(path, folder / "out", plan=plan)
    try:
        deadline = time.monotonic() + 60
        while not reached.exists():
            assert first.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        for spelling in (folder / "out", folder / "deep" / ".." / "out", folder / "link"):
            second, _, err = finish(path, spelling)
            assert second.returncode == 2 and "another build is at work" in err
    finally:
        first.kill()
        first.communicate()
    assert main(["build", "--config", str(path), "--output", str(folder / "link"), "--quiet"]) == 0
    assert content(folder / "out") == expected


def die(*_, **__):
    """Kill the worker."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_ends_the_build_and_the_same_command_goes_on(setting, monkeypatch):
    path, expected, folder = setting
    config = BuildConfig.from_yaml(path, {"output": str(folder / "out"), "num_workers": "2"})
    with monkeypatch.context() as patch:
        patch.setattr("data_prep.workers.encode_part", die)
        with pytest.raises(ValueError, match="a worker process died.*run the same command again"):
            build(config, progress=False)
    kept = parts_of(folder / "out")
    assert kept
    build(config, progress=False)
    assert content(folder / "out") == expected


def test_results_come_in_order_and_work_that_is_done_stays_none():
    for count in (1, 2):
        with WorkerPool(count) as pool:
            results = list(pool.results([None, *(partial(int, str(n)) for n in range(20))]))
        assert results == [None, *range(20)]


def test_what_a_killed_build_was_writing_is_removed(setting):
    path, expected, folder = setting
    stale = folder / "out.building" / "read-0-abc"
    stale.mkdir(parents=True)
    (stale.parent / "000001.npz.tmp").write_bytes(b"half")
    build(BuildConfig.from_yaml(path, {"output": str(folder / "out")}), progress=False)
    assert content(folder / "out") == expected
    assert sorted(path.name for path in folder.glob("out*")) == ["out"]


@pytest.mark.parametrize("damage", ["cut", "zeros", "empty", "flipped"])
def test_a_part_damaged_in_any_way_is_not_taken_for_finished(damage, tmp_path):
    import numpy as np

    path = tmp_path / "part.npz"
    save_part(path, {"x": np.arange(5000)}, {"n": 1})
    assert is_finished(path)
    data = bytearray(path.read_bytes())
    if damage == "cut":
        del data[20_000:]
    elif damage == "zeros":
        data[-4096:] = bytes(4096)
    elif damage == "empty":
        data.clear()
    else:
        data[15_000] ^= 1
    path.write_bytes(data)
    assert not is_finished(path) and not path.exists()


def test_a_build_that_cannot_fit_is_refused_before_it_starts(setting, monkeypatch):
    path, expected, folder = setting
    output = folder / "out"
    monkeypatch.setattr(files, "free_bytes", lambda _: 1_000_000)
    with pytest.raises(ValueError, match="1 MB free.*--check_disk false"):
        build(BuildConfig.from_yaml(path, {"output": str(output)}), progress=False)
    assert not output.exists() and not parts_of(output)
    overrides = {"output": str(output), "check_disk": "false"}
    build(BuildConfig.from_yaml(path, overrides), progress=False)
    assert content(output) == expected


@pytest.mark.parametrize("opened", [3, 12, 16])
def test_a_disk_that_fills_up_is_named_and_the_next_run_goes_on(
    opened, setting, monkeypatch, capsys
):
    path, expected, folder = setting
    arguments = ["build", "--config", str(path), "--output", str(folder / "out"), "--quiet"]
    calls = []

    class Full:
        def __init__(self, *_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def write(self, _):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def opening(name, mode, **options):
        calls.extend([name] * (mode == "wb"))  # not the lock
        return Full() if len(calls) >= opened else open(name, mode, **options)

    with monkeypatch.context() as patch:
        patch.setattr(files, "open", opening, raising=False)
        assert main(arguments) == 2
    message = capsys.readouterr().err
    assert "No space left on device" in message and str(folder / "out.building") in message
    assert "Make room and run the same command again" in message and "Traceback" not in message
    kept = parts_of(folder / "out")
    assert kept and not list((folder / "out.building").rglob("*.tmp"))
    assert main(arguments) == 0
    assert content(folder / "out") == expected


def test_a_full_temporary_folder_is_not_taken_for_damaged_input(tmp_path, monkeypatch):
    from data_prep import parquet
    from data_prep.readers import ReadLog

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "a.parquet.gz").write_bytes(b"x")
    monkeypatch.setattr(parquet.shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="Make room there"):
        list(parquet.parquet_rows(tmp_path / "a.parquet.gz", "text", ReadLog("skip")))


def test_stopping_leaves_the_handlers_of_signals_as_they_were(setting):
    path, _, folder = setting
    before = signal.getsignal(signal.SIGTERM)
    assert main(["build", "--config", str(path), "--output", str(folder / "x"), "--quiet"]) == 0
    assert signal.getsignal(signal.SIGTERM) is before and sys.stdout is not None


def test_json_is_written_whole_and_as_people_read_it(tmp_path):
    path = tmp_path / "found.json"
    files.write_json(path, {"name": "Müller", "loss": float("nan"), "at": Path("x")}, default=str)
    assert path.read_text(encoding="utf-8") == (
        '{\n  "name": "Müller",\n  "loss": NaN,\n  "at": "x"\n}\n'
    )
    with pytest.raises(TypeError):
        files.write_json(path, {"at": Path("y")})
    assert json.loads(path.read_text(encoding="utf-8"))["at"] == "x"


def test_a_new_file_has_its_name_once_it_is_whole(tmp_path):
    path = tmp_path / "out" / "rows.jsonl"
    with files.new_file(path) as temporary:
        temporary.write_text("first")
        assert not path.exists()
    with pytest.raises(OSError, match="no more"), files.new_file(path) as temporary:
        temporary.write_text("half")
        raise OSError("no more")
    assert path.read_text() == "first" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_while_a_task_is_made_comes_behind_the_results_before_it(count):
    def tasks():
        yield from (partial(int, number) for number in range(3))
        raise ValueError("line 4 is broken")

    with WorkerPool(count) as pool:
        results = pool.results(tasks())
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ValueError, match="line 4"):
            next(results)


@pytest.mark.parametrize("count", [1, 2])
def test_damage_beyond_the_limit_is_not_met_with_any_number_of_workers(count, tmp_path):
    rows = [json.dumps({"text": f"Document {i} is here. " * 40}) for i in range(12)]
    (tmp_path / "a.jsonl").write_text("\n".join([*rows, "{broken"]) + "\n")
    options = {"source.path": tmp_path / "a.jsonl", "source.max_documents": 10,
               "chunk_megabytes": 0.001, "num_workers": count, "tokenizer.vocab_size": 80,
               "output": tmp_path / "out"}  # fmt: skip
    assert main(["build", "--quiet", *(f"--{k}={v}" for k, v in options.items())]) == 0
