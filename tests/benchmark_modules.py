"""Import of the benchmarks' modules, which live in a folder and not in a package."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import data_prep  # noqa: F401 (the package, before a benchmark of the same name can be found)

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def benchmark_module(name: str) -> ModuleType:
    """Return `benchmarks/<name>.py` as a module; the search path is as before afterwards."""
    before = list(sys.path)
    sys.path.append(str(BENCHMARKS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path[:] = before
