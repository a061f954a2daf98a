"""Builds in processes of their own, which can be killed: helpers of the tests."""

import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TOPICS = ["river", "engine", "garden", "market", "planet", "violin", "winter", "bridge"]
MARK = "PONET_TEST_MARK"

_DRIVER = """
import json, os, signal, sys, time
from pathlib import Path
from data_prep import cli, files, pipeline, workers

plan = json.loads(sys.argv.pop(1))
calls = {}
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it


def around(module, name, before, after):
    original = getattr(module, name)

    def wrapper(*arguments, **options):
        calls[name] = calls.get(name, 0) + 1
        if before and calls[name] == plan["call"]:
            act()
        result = original(*arguments, **options)
        if after and calls[name] == plan["call"]:
            act()
        return result

    setattr(module, name, wrapper)


def act():
    if plan["signal"]:
        os.kill(os.getpid(), plan["signal"])
    else:
        Path(plan["reached"]).write_text("")
        time.sleep(600)


if plan.get("name"):
    module = {"os": os, "files": files, "pipeline": pipeline, "workers": workers}[plan["module"]]
    around(module, plan["name"], not plan["after"], plan["after"])
if plan.get("record"):
    publish = files.publish

    def recording(final, output):
        parts = {str(p): p.stat().st_ino for p in sorted(final.parent.rglob("*.npz"))}
        Path(plan["record"]).write_text(json.dumps(parts))
        publish(final, output)

    files.publish = recording
code = cli.main(sys.argv[1:])
if plan.get("count"):
    Path(plan["count"]).write_text(json.dumps(calls))
sys.exit(code)
"""


def story(number):
    """A document whose neighbouring sentences share words, as in running text."""
    lines = [f"Story number {number}"]
    for k in range(12):
        here, there = TOPICS[(number + k) % 8], TOPICS[(number + k + 1) % 8]
        lines.append(f"The {here} of year {number}{k} stood by a {there}. It was a fine {there}!")
    return "\n\n".join(lines)


def write_corpus(folder, documents):
    folder.mkdir()
    rows = (json.dumps({"text": story(number)}) + "\n" for number in range(documents))
    (folder / "a.jsonl").write_text("".join(rows))


def config_file(tmp_path, **changes):
    values = {
        "output": str(tmp_path / "expected"),
        "source": {"kind": "local", "path": str(tmp_path / "texts")},
        "tokenizer": {"vocab_size": 150},
        "validation_fraction": 0.2,
        "chunk_megabytes": 0.008,
        "num_workers": 1,
    }
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({**values, **changes}))
    return path


def content(folder):
    files = (path for path in Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def parts_of(output):
    """Path -> inode of the parts that an unfinished build has made."""
    work = output.with_name(output.name + ".building")
    return {str(path): path.stat().st_ino for path in work.rglob("*.npz")}


def run_build(config, output, *options, plan=None, new_group=False):
    """Start a build; `plan` says where it is hit by a signal, and what it notes down."""
    command = ["-m", "data_prep"] if plan is None else ["-c", _DRIVER, json.dumps(plan)]
    process = subprocess.Popen(
        [sys.executable, *command, "build", "--config", str(config), "--output", str(output)]
        + ["--quiet", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        start_new_session=new_group,
        env={**os.environ, MARK: (mark := uuid.uuid4().hex), "OMP_NUM_THREADS": "1"},
    )
    process.mark = mark
    return process


def finish(config, output, *options, plan=None):
    """Run a build to its end, by itself or by a signal."""
    process = run_build(config, output, *options, plan=plan)
    out, err = process.communicate(timeout=120)
    return process, out, err


def marked_processes(process, patience_s=15.0):
    """Return the processes that a build left behind, after giving them time to end."""
    deadline = time.monotonic() + patience_s
    mark = f"{MARK}={process.mark}".encode()
    while True:
        found = [pid for pid in Path("/proc").glob("[0-9]*") if mark in _environment(pid)]
        if not found or time.monotonic() > deadline:
            return [(pid.name, _command(pid)) for pid in found]
        time.sleep(0.05)


def _environment(pid):
    try:
        return (pid / "environ").read_bytes()
    except OSError:
        return b""


def _command(pid):
    try:
        return (pid / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
