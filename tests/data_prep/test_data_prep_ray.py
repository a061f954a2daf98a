"""The Ray engine on a local cluster of two nodes, one of which is killed in the middle."""

import signal
import subprocess
import sys
import time

import pytest
from build_processes import (
    REPOSITORY,
    config_file,
    content,
    marked_processes,
    run_build,
    write_corpus,
)

from data_prep.config import BuildConfig
from data_prep.pipeline import build
from data_prep.pool import RayPool

STORE_BYTES = 100 << 20


@pytest.fixture(scope="module")
def cluster():
    cluster_utils = pytest.importorskip(
        "ray.cluster_utils", reason="Ray is not installed: pip install -e '.[ray]'"
    )
    node = {"num_cpus": 1, "object_store_memory": STORE_BYTES}
    started = cluster_utils.Cluster(
        initialize_head=True, head_node_args={**node, "include_dashboard": False}
    )
    yield started, started.add_node(**node)
    started.shutdown()


def run_pool(address, lines):
    """Run lines that use `pool`, a RayPool on a cluster, and `say`, in a process of their own."""
    head = (
        "import functools, sys\nfrom data_prep.pool import RayPool, code_signature\n"
        "SIGNATURE = code_signature()\nsay = functools.partial(print, file=sys.stdout)\n"
        f"with RayPool(0, {address!r}) as pool:\n"
    )
    body = "".join(f"    {line}\n" for line in lines)
    return subprocess.run(
        [sys.executable, "-c", head + body],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        timeout=120,
    )


def test_results_come_in_order_and_mistakes_reach_the_user_as_themselves(cluster):
    tasks = "[partial(int, str(i)) if i % 3 else None for i in range(40)]"
    lines = [
        "import data_prep.pool as module",
        "from functools import partial",
        f"say(list(pool.results({tasks})))",
        "try: list(pool.results([partial(int, '1'), partial(int, 'x')]))",
        "except ValueError as error: say(error)",
        "module.code_signature = lambda: {**SIGNATURE, 'Python': '2.7'}",
        "try: list(pool.results([partial(int, '1')]))",
        "except ValueError as error: say(error)",
    ]
    done = run_pool(cluster[0].address, lines)
    results, mistake, versions = done.stdout.splitlines()
    assert results == str([i if i % 3 else None for i in range(40)]), "None is work already done"
    assert mistake == "invalid literal for int() with base 10: 'x'"
    assert "machine" in versions and "of the Ray cluster has Python" in versions
    assert "(here 2.7); install the same versions" in versions


def test_a_node_killed_in_the_middle_changes_no_byte(cluster, tmp_path):
    write_corpus(tmp_path / "texts", documents=1500)
    path = config_file(tmp_path, chunk_megabytes=0.02)
    expected = content(build(BuildConfig.from_yaml(path), progress=False))
    output = tmp_path / "by_ray"
    options = ["--engine", "ray", "--ray-address", cluster[0].address, "--num_workers", "0"]
    process = run_build(path, output, *options)
    wait_for_parts(tmp_path / "by_ray.building", 8, process)
    process.send_signal(signal.SIGSTOP)  # or the build might be done before the node is dead
    cluster[0].remove_node(cluster[1], allow_graceful=False)
    process.send_signal(signal.SIGCONT)
    assert not list((tmp_path / "by_ray.building").glob("*/finished.json")), "killed too late"
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert content(output) == expected
    assert "raylet" not in out + err and "Ray: 2 nodes, 2 tasks" in err
    assert not marked_processes(process)


def wait_for_parts(work, count, process):
    deadline = time.monotonic() + 60
    while len(list(work.glob("*/*.npz"))) < count:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)


def test_without_ray_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[ray\]'"):
        RayPool(2)


def test_addresses_that_ray_cannot_use_are_refused_with_the_way_out(tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")
    with pytest.raises(ValueError, match="clients outside"):
        RayPool(2, "ray://somewhere:10001")
    with pytest.raises(ValueError, match="nothing answers there"), RayPool(2, "127.0.0.1:9"):
        pass
    write_corpus(tmp_path / "texts", documents=3)
    config = BuildConfig.from_yaml(config_file(tmp_path))
    with pytest.raises(ValueError, match="no effect without --engine ray"):
        build(config, ray_address="auto")
