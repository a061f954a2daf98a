"""What a wheel and a source archive hold, and that versions are written down once."""

import ast
import configparser
import importlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

tomllib: Any = pytest.importorskip("tomllib", reason="part of Python from 3.11 on")
PACKAGES = ("ponet", "data_prep", "training", "pretrain", "finetune")


@pytest.fixture(scope="module")
def pyproject(repository: Path) -> dict[str, Any]:
    return dict(tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8")))


def modules(repository: Path) -> set[str]:
    """Every module of the packages, as its place in a wheel."""
    return {
        path.relative_to(repository).as_posix()
        for package in PACKAGES
        for path in (repository / package).rglob("*.py")
    }


def test_every_folder_with_modules_is_a_package_that_setuptools_finds(
    repository: Path, pyproject: dict[str, Any]
) -> None:
    patterns = pyproject["tool"]["setuptools"]["packages"]["find"]["include"]
    for name in modules(repository):
        folder = Path(name).parent
        assert (repository / folder / "__init__.py").is_file(), f"{folder} has no __init__.py"
        assert any(fnmatch(folder.as_posix().replace("/", "."), pattern) for pattern in patterns)


def test_every_typed_package_says_so_and_the_marker_is_packed(
    repository: Path, pyproject: dict[str, Any]
) -> None:
    packed = pyproject["tool"]["setuptools"]["package-data"]
    for package in PACKAGES:
        if (repository / package / "py.typed").exists():
            assert "py.typed" in packed[package]
    assert {"ponet", "data_prep"} <= set(packed)


def test_commands_name_functions_that_exist(repository: Path, pyproject: dict[str, Any]) -> None:
    scripts = pyproject["project"]["scripts"]
    assert {"ponet-data", "ponet-pretrain", "ponet-finetune"} <= set(scripts)
    for target in scripts.values():
        module, function = target.split(":")
        tree = ast.parse((repository / f"{module.replace('.', '/')}.py").read_text("utf-8"))
        assert function in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}, target


def test_the_version_is_the_same_in_the_package_and_its_description(
    repository: Path, pyproject: dict[str, Any]
) -> None:
    text = (repository / "ponet/__init__.py").read_text(encoding="utf-8")
    version = pyproject["project"]["version"]
    assert f'__version__ = "{version}"' in text
    assert f"ponet-{version}-py3-none-any.whl" in (repository / "docs/install.md").read_text(
        "utf-8"
    )


@pytest.fixture
def tool(repository: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(repository / "tools"))
    return importlib.import_module("minimum_versions")


def test_the_table_of_oldest_versions_is_that_of_the_description(
    repository: Path, tool: ModuleType
) -> None:
    page = (repository / "docs/install.md").read_text(encoding="utf-8")
    between = page.split(tool.BEGIN)[1].split(tool.END)[0].strip()
    assert between == tool.table(tool.minimums()), (
        "run python tools/minimum_versions.py --table docs/install.md"
    )


def test_oldest_versions_become_constraints(tool: ModuleType) -> None:
    lines = tool.constraints({"always": {"b": "2.0"}, "x": {"a": "1"}})
    assert lines == "a==1\nb==2.0\n"
    assert tool.minimum("jsonargparse[signatures]>=4.53,<5") == ("jsonargparse", "4.53")


@pytest.mark.parametrize("requirement", ["torch", "torch<3", "torch==2.1"])
def test_a_requirement_without_a_lower_bound_is_refused(tool: ModuleType, requirement: str) -> None:
    with pytest.raises(ValueError, match="lower bound"):
        tool.minimum(requirement)


def test_the_tested_versions_are_not_older_than_the_oldest(
    repository: Path, tool: ModuleType
) -> None:
    lines = (repository / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tested = {
        name.lower().replace("_", "-"): version.split(";")[0].strip()
        for name, _, version in (line.partition("==") for line in lines)
        if version
    }

    def numbers(version: str) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", version)]

    for versions in tool.minimums().values():
        for name, version in versions.items():
            found = tested[name.lower().replace("_", "-")]
            assert numbers(found) >= numbers(version), f"{name} {found} is below {version}"


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile with what follows them, comments and line ends removed."""
    lines = [
        line for line in dockerfile.read_text(encoding="utf-8").splitlines() if line[:1] != "#"
    ]
    joined = "\n".join(lines).replace("\\\n", " ")
    words = (line.partition(" ") for line in joined.splitlines() if line.strip())
    return [(word, rest) for word, _, rest in words]


def test_the_image_has_a_pinned_base_constraints_and_no_root(repository: Path) -> None:
    found = instructions(repository / "Dockerfile")
    assert [word for word, _ in found][0] == "FROM"
    base = found[0][1]
    assert re.fullmatch(r"nvidia/cuda:\d+\.\d+\.\d+-\w+-ubuntu\d\d\.04", base), base
    installs = [rest for word, rest in found if word == "RUN" and "pip install" in rest]
    assert installs and all("--constraint constraints.txt" in rest for rest in installs)
    assert [rest for word, rest in found if word == "USER"][-1] not in ("root", "0")
    assert [word for word, _ in found][-2:] == ["USER", "CMD"]
    text = (repository / "Dockerfile").read_text(encoding="utf-8")
    assert not re.search(r"(?i)(token|password|api_key|secret)\s*=", text)
    assert not any(word == "ADD" for word, _ in found)


def test_the_linter_of_dockerfiles_has_nothing_to_say(repository: Path) -> None:
    linter = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if linter is None:
        pytest.skip("hadolint is not installed; on Linux the extra dev has it")
    command = [linter, "--no-color", str(repository / "Dockerfile")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_gets_no_file_that_it_does_not_name(repository: Path) -> None:
    ignore = (repository / ".dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = {line[1:] for line in ignore if line.startswith("!")}
    copied = {
        source
        for word, rest in instructions(repository / "Dockerfile")
        if word == "COPY"
        for source in rest.split()[:-1]
    }
    assert "*" in ignore and copied == allowed
    for source in copied:
        assert (repository / source).exists(), source


def copy_of_the_tree(repository: Path, target: Path) -> Path:
    """What a fresh clone holds, so that a build leaves nothing behind in the checkout."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=repository, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in listed.splitlines():
        if (repository / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(repository / name, target / name)
    return target


@pytest.mark.slow
def test_wheel_and_source_archive_hold_everything(
    repository: Path, pyproject: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("build", reason="needs pip install build setuptools wheel")
    tree = copy_of_the_tree(repository, tmp_path / "tree")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path / "dist")]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,), (source,) = (
        list((tmp_path / "dist").glob(ending)) for ending in ("*.whl", "*.tar.gz")
    )
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        info = next(name for name in names if name.endswith("entry_points.txt"))
        commands = configparser.ConfigParser()
        commands.read_string(archive.read(info).decode())
    assert modules(tree) <= names and {"ponet/py.typed", "data_prep/py.typed"} <= names
    assert dict(commands["console_scripts"]) == pyproject["project"]["scripts"]
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == set(PACKAGES)
    with tarfile.open(source) as archive:
        packed = {name.split("/", 1)[-1] for name in archive.getnames()}
    wanted = {path.relative_to(tree).as_posix() for path in (tree / "configs").rglob("*.yaml")}
    assert wanted | {"constraints.txt", "Makefile", "README.md", "LICENSE"} <= packed
    assert modules(tree) <= packed and not any("__pycache__" in name for name in packed)


@pytest.mark.slow
def test_the_installed_wheel_has_commands_that_answer(repository: Path, tmp_path: Path) -> None:
    pytest.importorskip("build", reason="needs pip install build setuptools wheel")
    tree = copy_of_the_tree(repository, tmp_path / "tree")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    target = tmp_path / "installed"
    subprocess.run([*pip, "--target", str(target), str(tree)], check=True, cwd=tmp_path)
    for module in ("pretrain.cli", "data_prep.cli", "finetune.cli"):
        code = (
            f"import sys; sys.path.insert(0, {str(target)!r})\nimport {module} as cli\n"
            f"assert cli.__file__.startswith({str(target)!r}), cli.__file__\n"
            "sys.exit(cli.main(['--help']))"
        )
        command = [sys.executable, "-I", "-c", code]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and "usage" in done.stdout, done.stderr


PYTHONS = ("3.10", "3.11", "3.12", "3.13")
"""The Python versions that README names."""


def pins(repository: Path) -> list[Any]:
    requirements = pytest.importorskip("packaging.requirements")
    lines = (repository / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [requirements.Requirement(line) for line in lines if not line.startswith("#")]


def test_readme_and_pyproject_name_the_same_pythons(
    repository: Path, pyproject: dict[str, Any]
) -> None:
    oldest, newest = PYTHONS[0], PYTHONS[-1]
    assert pyproject["project"]["requires-python"] == f">={oldest}"
    readme = (repository / "README.md").read_text(encoding="utf-8")
    assert f"Python {oldest} to {newest}" in readme


@pytest.mark.parametrize("python", PYTHONS)
def test_every_python_that_readme_names_has_one_pin_of_every_package(
    repository: Path, python: str
) -> None:
    names = [
        pin.name.lower()
        for pin in pins(repository)
        if pin.marker is None
        or pin.marker.evaluate({"python_version": python, "platform_system": "Linux"})
    ]
    assert len(names) == len(set(names))
    only_before_311 = {"async-timeout", "coloredlogs", "exceptiongroup", "humanfriendly"}
    only_before_311 |= {"pytz", "six", "tomli"}
    expected = {pin.name.lower() for pin in pins(repository)}
    assert expected - set(names) == (set() if python == "3.10" else only_before_311)


def test_no_pin_is_for_a_python_that_its_release_has_left(repository: Path) -> None:
    """The releases that are installed say which Python they need: pip would refuse the pin."""
    metadata = importlib.import_module("importlib.metadata")
    specifiers = pytest.importorskip("packaging.specifiers")
    compared = 0
    for pin in pins(repository):
        try:
            found = metadata.distribution(pin.name)
        except metadata.PackageNotFoundError:
            continue
        if not pin.specifier.contains(found.version, prereleases=True):
            continue
        needed = specifiers.SpecifierSet(found.metadata.get("Requires-Python") or "")
        compared += 1
        for python in PYTHONS:
            if pin.marker is None or pin.marker.evaluate({"python_version": python}):
                assert needed.contains(f"{python}.13"), f"{pin} needs Python {needed}"
    assert compared > 20
