"""Data preparation under every fault: all kill points, signals, full disks, lost clusters."""

import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_prep.config import BuildConfig
from data_prep.pipeline import build

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no /proc here"),
]

REPOSITORY = Path(__file__).resolve().parents[2]
_SPEC = importlib.util.spec_from_file_location(
    "build_processes", REPOSITORY / "tests" / "data_prep" / "build_processes.py"
)
processes = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(processes)
content, finish = processes.content, processes.finish


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A config of a build of 16 parts, and the bytes it must give."""
    return setting(tmp_path_factory.mktemp("small"), documents=60)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A config of a build of about 400 parts, and the bytes it must give."""
    return setting(tmp_path_factory.mktemp("large"), documents=1500)


def setting(folder, documents):
    processes.write_corpus(folder / "texts", documents=documents)
    path = processes.config_file(folder)
    return path, content(build(BuildConfig.from_yaml(path), progress=False))


def is_newer(path, moment_ns):
    """Whether a file was opened for writing after a moment."""
    return path.exists() and path.stat().st_mtime_ns > moment_ns


def only_output(folder):
    return sorted(path.name for path in folder.glob("out*")) == ["out"]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("workers", [1, 4])
def test_killed_at_every_file_that_comes_into_place(workers, after, small, tmp_path):
    path, expected = small
    options = ["--num_workers", str(workers)]
    call = killed = 0
    while True:
        call += 1 if workers == 1 else 4
        output, record = tmp_path / f"{call}" / "out", tmp_path / "record.json"
        output.parent.mkdir()
        plan = {"module": "os", "name": "replace", "call": call, "after": after}
        process, _, err = finish(path, output, *options, plan={**plan, "signal": signal.SIGKILL})
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, err
        assert not processes.marked_processes(process)
        killed += 1
        kept = processes.parts_of(output) if not output.exists() else {}
        again = {**plan, "call": 0, "signal": signal.SIGKILL, "record": str(record)}
        record.write_text("{}")
        process, _, err = finish(path, output, *options, plan=again)
        assert process.returncode == 0, err
        assert content(output) == expected and only_output(output.parent)
        assert kept.items() <= json.loads(record.read_text()).items()
    assert killed >= (16 if workers == 1 else 4)


@pytest.mark.parametrize("workers", [1, 4])
def test_killed_ten_times_at_random_moments(workers, large, tmp_path):
    path, expected = large
    moments = random.Random(workers)
    output = tmp_path / "out"
    for _ in range(10):
        process = processes.run_build(path, output, "--num_workers", str(workers))
        time.sleep(moments.uniform(0.3, 1.5))
        process.kill()
        process.communicate()
        assert not processes.marked_processes(process)
    process, _, err = finish(path, output, "--num_workers", str(workers))
    assert process.returncode == 0, err
    assert content(output) == expected and only_output(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("to_group", [False, True], ids=["parent", "group"])
def test_stopped_at_random_moments_by_a_signal(number, to_group, large, tmp_path):
    path, expected = large
    moments = random.Random(int(number))
    output = tmp_path / "out"
    codes = {signal.SIGTERM: 143, signal.SIGINT: 130}
    stopped = 0
    for _ in range(4):
        begun = time.time_ns()
        process = processes.run_build(path, output, "--num_workers", "3", new_group=True)
        while process.poll() is None and not is_newer(tmp_path / "out.building" / "lock", begun):
            time.sleep(0.01)
        time.sleep(moments.uniform(0.0, 0.7))
        if process.poll() is not None:  # a quick machine was done before the signal
            break
        (os.killpg if to_group else os.kill)(process.pid, number)
        _, err = process.communicate(timeout=60)
        assert not processes.marked_processes(process)
        if process.returncode != 0:
            assert process.returncode == codes[number], err
            assert "run the same command again" in err and "Traceback" not in err, err
            stopped += 1
    assert stopped
    process, _, err = finish(path, output)
    assert process.returncode == 0, err
    assert content(output) == expected and only_output(tmp_path)


def test_workers_killed_from_outside_end_a_build_that_goes_on(large, tmp_path):
    path, expected = large
    output = tmp_path / "out"
    process = processes.run_build(path, output, "--num_workers", "3")
    found = []
    while process.poll() is None and not (len(found) >= 3 and len(processes.parts_of(output)) > 30):
        found = [
            int(pid)
            for pid, command in processes.marked_processes(process, patience_s=0)
            if "spawn_main" in command and int(pid) != process.pid
        ]
    os.kill(found[0], signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2 and "a worker process died" in err and "Traceback" not in err
    assert not processes.marked_processes(process)
    kept = processes.parts_of(output)
    record = tmp_path / "record.json"
    plan = {"module": "os", "name": "replace", "call": 0, "after": True, "signal": 0}
    process, _, err = finish(path, output, plan={**plan, "record": str(record)})
    assert process.returncode == 0, err
    assert content(output) == expected
    assert kept and kept.items() <= json.loads(record.read_text()).items()


def test_many_builds_of_one_folder_at_once_make_one(small, tmp_path):
    path, expected = small
    for attempt in range(3):
        output = tmp_path / f"{attempt}" / "out"
        output.parent.mkdir()
        running = [processes.run_build(path, output) for _ in range(5)]
        ended = [process.communicate(timeout=120)[1] for process in running]
        codes = [process.returncode for process in running]
        assert set(codes) <= {0, 2} and 0 in codes, ended
        refused = [err for code, err in zip(codes, ended, strict=True) if code]
        assert all("another build is at work" in err for err in refused), refused
        assert content(output) == expected and only_output(output.parent)


_ON_A_SMALL_DISK = """
mount -t tmpfs -o size=$1 ponet_test "$2" || exit 77
"$3" -m data_prep build --config "$4" --output "$2/out" --quiet --check_disk "$5" >&2; echo $?
ls "$2/out.building" 2>/dev/null | grep -c . ; find "$2" -name '*.tmp' | grep -c .
mount -o remount,size=64m "$2" || exit 77
"$3" -m data_prep build --config "$4" --output "$2/out" --quiet >&2; echo $?
cp -r "$2/out" "$6"; umount "$2"
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
@pytest.mark.parametrize(
    ("kilobytes", "check"), [*((size, "false") for size in (40, 80, 100, 120)), (400, "true")]
)
def test_a_disk_that_is_really_full_is_named_and_the_next_run_goes_on(
    kilobytes, check, small, tmp_path
):
    path, expected = small
    (tmp_path / "disk").mkdir()
    arguments = [f"{kilobytes}k", str(tmp_path / "disk"), sys.executable, str(path), check]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", _ON_A_SMALL_DISK, "sh", *arguments, str(tmp_path / "copy")],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
    )
    if done.returncode == 77 or not done.stdout:
        pytest.skip(f"no file system of its own can be mounted here: {done.stderr.strip()}")
    first, _, halves, second = done.stdout.split()
    assert (first, halves, second) == ("2", "0", "0"), done.stderr
    assert ("No space left on device" if check == "false" else "--check_disk false") in done.stderr
    assert "Traceback" not in done.stderr
    assert content(tmp_path / "copy") == expected


@pytest.fixture
def cluster():
    """Ray on this machine: a head node with one CPU, to which others are added."""
    cluster_utils = pytest.importorskip(
        "ray.cluster_utils", reason="Ray is not installed: pip install -e '.[ray]'"
    )
    started = cluster_utils.Cluster(
        initialize_head=True, head_node_args={**NODE, "include_dashboard": False}
    )
    yield started
    started.shutdown()


NODE = {"num_cpus": 1, "object_store_memory": 100 << 20}


def start_on(cluster, path, output):
    options = ["--engine", "ray", "--ray-address", cluster.address, "--num_workers", "0"]
    return processes.run_build(path, output, *options)


def wait_for_parts(output, count, process):
    deadline = time.monotonic() + 60
    while len(processes.parts_of(output)) < count:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)


def test_nodes_of_ray_that_come_and_go_change_no_byte(cluster, large, tmp_path):
    path, expected = large
    node = cluster.add_node(**NODE)
    process = start_on(cluster, path, tmp_path / "out")
    for parts in (5, 20, 35):
        wait_for_parts(tmp_path / "out", parts, process)
        process.send_signal(signal.SIGSTOP)  # or the build would be done before the next node is up
        cluster.remove_node(node, allow_graceful=False)
        node = cluster.add_node(**NODE)
        process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "Traceback" not in err and "raylet" not in err
    assert content(tmp_path / "out") == expected


@pytest.mark.parametrize("lost", ["kill_gcs_server", "kill_raylet"])
def test_a_cluster_that_is_lost_ends_in_one_message_and_the_work_goes_on_without_it(
    lost, cluster, large, tmp_path
):
    path, expected = large
    output = tmp_path / "out"
    process = start_on(cluster, path, output)
    wait_for_parts(output, 5, process)
    getattr(cluster.head_node, lost)()
    if lost == "kill_gcs_server":  # work goes on without it where it can: end that too
        time.sleep(1)
        cluster.head_node.kill_raylet()
    out, err = process.communicate(timeout=150)
    assert process.returncode == 2, (out, err)
    assert "the Ray cluster is lost" in err and "finished parts are kept" in err
    assert "Traceback" not in err and not out
    assert not processes.marked_processes(process)
    kept, record = processes.parts_of(output), tmp_path / "record.json"
    plan = {"module": "os", "name": "replace", "call": 0, "after": True, "signal": 0}
    process, _, err = finish(path, output, plan={**plan, "record": str(record)})
    assert process.returncode == 0, err
    assert content(output) == expected
    assert kept and kept.items() <= json.loads(record.read_text()).items()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_stopped_build_takes_the_ray_it_started_with_it(number, code, large, tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")
    path, expected = large
    output = tmp_path / "out"
    process = processes.run_build(path, output, "--engine", "ray", "--num_workers", "2")
    wait_for_parts(output, 5, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code and "Traceback" not in err, err
    assert not processes.marked_processes(process, patience_s=100)
    process, _, err = finish(path, output)
    assert process.returncode == 0, err
    assert content(output) == expected


def test_a_task_that_kills_every_worker_of_ray_ends_in_one_message():
    pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")
    code = (
        "import functools, os\nfrom data_prep.pool import RayPool\n"
        "try:\n"
        "    with RayPool(2) as pool: list(pool.results([functools.partial(os._exit, 3)]))\n"
        "except ValueError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        timeout=120,
    )
    assert "workers of the Ray cluster died" in done.stdout, done.stderr
    assert "Traceback" not in done.stderr and "(raylet)" not in done.stdout
