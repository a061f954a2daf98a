"""The oldest versions that pyproject.toml accepts: as a table, as constraints, as an environment.

    python tools/minimum_versions.py --table docs/install.md
    python tools/minimum_versions.py --constraints minimum.txt
    python tools/minimum_versions.py --install .venv-minimum

Invariant: every number comes from pyproject.toml; nothing is written down twice.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import tomllib

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
BEGIN, END = "<!-- minimum versions: begin -->", "<!-- minimum versions: end -->"
EXTRAS = ("deepspeed", "ray", "hub", "onnx", "baselines")
_REQUIREMENT = re.compile(r"^(?P<name>[A-Za-z0-9_.\-]+)(\[[^\]]*\])?(?P<versions>[^;]*)(;.*)?$")


def minimum(requirement: str) -> tuple[str, str]:
    """Return the name of a requirement and the oldest version that it accepts.

    Raises:
        ValueError: The requirement has no lower bound.
    """
    match = _REQUIREMENT.match(requirement.replace(" ", ""))
    bounds = re.findall(r">=([^,]+)", match["versions"]) if match else []
    if match is None or len(bounds) != 1:
        raise ValueError(
            f"{requirement!r} in {PYPROJECT.name}: give one lower bound, name>=version"
        )
    return match["name"], bounds[0]


def minimums(pyproject: Path = PYPROJECT) -> dict[str, dict[str, str]]:
    """Return the group ("always" or the name of an extra) -> package -> oldest version."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    groups = {"always": project["dependencies"]}
    groups |= {name: project["optional-dependencies"][name] for name in EXTRAS}
    return {group: dict(map(minimum, listed)) for group, listed in groups.items()}


def table(groups: dict[str, dict[str, str]]) -> str:
    """Return the versions as a Markdown table."""
    lines = ["| package | at least | needed |", "|---|---|---|"]
    for group, versions in groups.items():
        needed = group if group == "always" else f"for `.[{group}]`"
        lines += [f"| {name} | {version} | {needed} |" for name, version in versions.items()]
    return "\n".join(lines)


def put_table(page: Path, text: str) -> None:
    """Replace what stands between the two markers of a page.

    Raises:
        ValueError: The page lacks the markers.
    """
    content = page.read_text(encoding="utf-8")
    if content.count(BEGIN) != 1 or content.count(END) != 1:
        raise ValueError(f"{page}: needs one line {BEGIN} and one line {END}")
    before, rest = content.split(BEGIN)
    after = rest.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def constraints(groups: dict[str, dict[str, str]]) -> str:
    """Return a constraints file for pip that holds every package at its oldest version."""
    pinned = {name: version for versions in groups.values() for name, version in versions.items()}
    return "".join(f"{name}=={version}\n" for name, version in sorted(pinned.items()))


def install(folder: Path, pinned: str) -> None:
    """Make an environment with the package, its test tools, and the oldest versions."""
    python = folder / "bin" / "python"
    venv.create(folder, with_pip=True)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "minimum.txt"
        file.write_text(pinned, encoding="utf-8")
        pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "-c", str(file)]
        subprocess.run([*pip, "torch"], check=True)
        subprocess.run([*pip, "-e", f"{PYPROJECT.parent}[dev]"], check=True)


def main() -> int:
    """Do what the options say; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--table", type=Path, metavar="PAGE", help="write the table into a page")
    parser.add_argument("--constraints", type=Path, metavar="FILE", help="write constraints")
    parser.add_argument("--install", type=Path, metavar="FOLDER", help="make an environment")
    options = parser.parse_args()
    groups = minimums()
    if options.table:
        put_table(options.table, table(groups))
    if options.constraints:
        options.constraints.write_text(constraints(groups), encoding="utf-8")
    if options.install:
        install(options.install, constraints(groups))
    if not any((options.table, options.constraints, options.install)):
        print(table(groups))
    return 0


if __name__ == "__main__":
    sys.exit(main())
