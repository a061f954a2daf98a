"""Who may import whom, and what start-up may cost."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = {"ponet", "data_prep", "training", "pretrain", "finetune"}
LIGHTNING = {"pytorch_lightning", "lightning"}
FORBIDDEN = {
    "ponet": {"training", "pretrain", "finetune", "datasets", "wandb", "transformers", *LIGHTNING},
    "data_prep": {*PROJECT - {"data_prep"}, "torch", "transformers", *LIGHTNING},
    "training": {"ponet", "pretrain", "finetune", "transformers"},
    "pretrain": {"finetune", "transformers"},
    "finetune": {"pretrain", "transformers"},
}

ALLOWED = {Path("ponet/hub"): {"transformers"}}
"""Folders that may import what the rest of their package may not."""

LONGEST_CHAIN = 15
"""Modules from a command down to one that imports none, each loaded by the one before."""


MODELS = ("config", "config_fields", "batch", "encoders", "pooling", "heads", "poolers",
          "dropout", "losses", "loss_kernels", "segments", "crf", "tagger", "flops", "names",
          "hub/configuration_ponet", "hub/modeling_ponet", "hub/modeling_ponet_tasks")  # fmt: skip
"""Modules and folders of ponet that know no text: they import torch and each other, in the hub
transformers too, and are copied beside exported weights. The others may import data_prep."""


def imported_packages(path: Path) -> dict[str, int]:
    """Top-level package -> line of its first import anywhere in a file."""
    found: dict[str, int] = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        else:
            continue
        for name in names:
            found.setdefault(name.split(".")[0], node.lineno)
    return found


def imported_modules(path: Path) -> set[str]:
    """Whole names of the modules that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [alias.name for alias in node.names] if node.module == "ponet" else [""]
            found |= {f"{node.module}.{name}".rstrip(".") for name in names}
    return found


@pytest.mark.parametrize("package", sorted(PROJECT))
def test_packages_import_only_what_they_may(package: str, repository: Path) -> None:
    files = sorted((repository / package).rglob("*.py"))
    assert files
    wrong = [
        f"{path.relative_to(repository)}:{line} imports {name}"
        for path in files
        for name, line in imported_packages(path).items()
        if name in FORBIDDEN[package] - ALLOWED.get(path.parent.relative_to(repository), set())
    ]
    assert not wrong, "\n".join(wrong)


def module_imports(repository: Path) -> dict[str, set[str]]:
    """Module -> modules of the project that it imports when it is loaded itself.

    A package stands for its `__init__`; what an import inside a function loads is left out.
    """
    paths = {
        ".".join(path.relative_to(repository).with_suffix("").parts): path
        for package in PROJECT
        for path in (repository / package).rglob("*.py")
    }
    modules = {name.removesuffix(".__init__"): path for name, path in paths.items()}
    found: dict[str, set[str]] = {}
    for module, path in modules.items():
        names: set[str] = set()
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                below = {f"{node.module}.{alias.name}" for alias in node.names}
                names |= (below & modules.keys()) or {node.module}
        found[module] = names & modules.keys() - {module}
    return found


def longest_chain(imports: dict[str, set[str]]) -> list[str]:
    """The longest chain of imports; fails at a circle."""
    chains: dict[str, list[str]] = {}

    def chain_from(module: str, above: tuple[str, ...]) -> list[str]:
        assert module not in above, f"a circle: {' -> '.join((*above, module))}"
        if module not in chains:
            below = [chain_from(name, (*above, module)) for name in sorted(imports[module])]
            chains[module] = [module, *max(below, key=len, default=[])]
        return chains[module]

    return max((chain_from(module, ()) for module in imports), key=len)


def test_no_import_circle_and_no_long_chain(repository: Path) -> None:
    longest = longest_chain(module_imports(repository))
    assert len(longest) <= LONGEST_CHAIN, " -> ".join(longest)


def test_the_models_import_torch_and_each_other(repository: Path) -> None:
    wrong, seen = [], 0
    for name in MODELS:
        place = repository / "ponet" / name
        for path in sorted(place.rglob("*.py")) or [place.with_suffix(".py")]:
            seen += 1
            allowed = {"torch", "triton", *sys.stdlib_module_names}
            allowed |= {"transformers"} if path.parent.name == "hub" else set()
            for module in imported_modules(path):
                package, _, inner = module.partition(".")
                is_model = inner.replace(".", "/").startswith(MODELS)
                if package not in allowed and not (package == "ponet" and is_model):
                    wrong.append(f"{path.relative_to(repository)} imports {module}")
    assert seen > 20 and not wrong, "\n".join(wrong)


def test_no_file_or_function_outgrows_its_room(repository: Path) -> None:
    wrong = []
    for package in (*PROJECT, "benchmarks", "tests"):
        for path in sorted((repository / package).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            if (lines := text.count("\n")) > 400:
                wrong.append(f"{path.relative_to(repository)}: {lines} lines")
            for node in ast.walk(ast.parse(text)) if package != "tests" else ():
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    length = (node.end_lineno or node.lineno) - node.lineno + 1
                    if length > 60:
                        place = f"{path.relative_to(repository)}:{node.lineno} {node.name}"
                        wrong.append(f"{place}: {length} lines")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", ["data_prep.cli", "pretrain.cli", "finetune.cli"])
def test_command_help_imports_neither_torch_nor_lightning(package: str, repository: Path) -> None:
    code = (
        f"import sys\nfrom {package} import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'pytorch_lightning', 'datasets', 'wandb'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout
