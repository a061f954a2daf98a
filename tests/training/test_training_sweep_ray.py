"""The Ray engine runs the same trials into the same folders as the local one."""

import subprocess
import sys
from pathlib import Path

import pytest
from sweep_files import REPOSITORY, record, start_sweep, starts, write_sweep


@pytest.mark.slow
def test_ray_runs_what_is_open_and_tells_what_failed(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")
    file = write_sweep(tmp_path, {"x": {"values": [1, 2]}, "end": {"values": ["0", "fail"]}})
    output = tmp_path / "out"
    printed = start_sweep(file, output, "--count", "1").communicate(timeout=60)[0]
    assert "trials done: 1 of 1" in printed
    ray = start_sweep(file, output, "--engine", "ray", "--jobs", "2", "--cpus_per_trial", "0.5")
    printed = ray.communicate(timeout=100)[0]
    assert ray.returncode == 2, printed
    assert "trials done: 2 of 4" in printed and "exit code 3: the reason" in printed
    assert set(starts(output).values()) == {1} and len(starts(output)) == 4
    assert record(output / "x-2--end-0")["metrics"]["val/mlm_accuracy"] == 2.0


def test_without_ray_the_message_says_what_to_install(tmp_path: Path) -> None:
    file = write_sweep(tmp_path, {"x": {"value": 1}})
    words = ["sweep", str(file), "--output", str(tmp_path / "out"), "--engine", "ray"]
    code = (
        "import sys\nsys.modules['ray'] = None\nfrom pretrain.cli import main\n"
        f"sys.exit(main({words!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "pip install -e '.[ray]'" in done.stderr
    assert not starts(tmp_path / "out")
