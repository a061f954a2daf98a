"""Which modules a command line or YAML file may name: the allow-list of class paths.

A `class_path` is code: the module it names is imported before the type of the class is looked at.
Invariant: while the list is active, no value makes jsonargparse import a module outside of it, nor
use an object that such a module defines, whatever allowed name it is reached by.

Not covered: what an allowed class does with its own arguments (a logger writes to the folder it is
given, a data module may build shards), and installed packages that Lightning loads by itself.
"""

import argparse
import inspect
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import jsonargparse

# No whole `torch` and no whole Lightning: torch.load, torch.hub.load, torch.utils.cpp_extension and
# pytorch_lightning.cli.instantiate_class run whatever code their arguments name.
DEFAULT_ALLOWED = (
    "ponet",
    "pretrain",
    "data_prep",
    "finetune",
    *(
        f"pytorch_lightning.{part}"
        for part in ("accelerators", "callbacks", "loggers", "plugins", "profilers", "strategies")
    ),
    *(f"lightning_fabric.{part}" for part in ("accelerators", "plugins", "strategies")),
    *(f"torch.{part}" for part in ("nn", "optim", "profiler", "dtype", "device")),
    *(f"torch.{name}" for name in ("bfloat16", "float16", "float32", "float64")),
    *(f"torch.distributed.{part}" for part in ("algorithms", "device_mesh", "fsdp", "tensor")),
)
OPTION = "--allow_modules"
_SPELLINGS = (OPTION, "--allow-modules")
_POLICY_KEYS = (
    "import_path_verdicts",
    "import_paths_enforced",
    "instantiate_subclass_spec_in_any",
)
_REFUSAL = re.compile(r"Importing '([^']+)' is not allowed, denied by")
_PLACE = re.compile(r'Parser key "([^"]+)"|^(--\S+?): Importing')


@contextmanager
def only_allowed_modules(extra: Sequence[str] = ()) -> Iterator[None]:
    """While active, values given to a jsonargparse parser may name allowed modules only.

    Args:
        extra: Further prefixes, in whole parts of a dotted path: `a.b` allows `a.b.c`, not `a.bc`.
            A class must be allowed under the path that names it and under the one that defines it.

    Raises:
        ValueError: A value names another module (nothing was imported then), or a prefix is not
            a dotted path. A parser that exits at an error exits with jsonargparse's own message.
        RuntimeError: This version of jsonargparse has no import policy; nothing is parsed.
    """
    settings = _policy_settings()
    for prefix in extra:
        _check_prefix(prefix)
    before = {key: settings[key] for key in _POLICY_KEYS}
    allowed = [*DEFAULT_ALLOWED, *extra]
    jsonargparse.set_parsing_settings(
        import_path_denylist=["*"],
        import_path_allowlist=allowed,
        instantiate_subclass_spec_in_any=False,
    )
    try:
        yield
    except (ValueError, TypeError, ImportError, argparse.ArgumentError) as error:
        refused = _REFUSAL.search(str(error))
        if refused is None:
            raise
        raise ValueError(_refusal(refused[1], str(error), extra)) from error
    finally:
        settings.update(before)


def _policy_settings() -> dict[str, Any]:
    parameters = inspect.signature(jsonargparse.set_parsing_settings).parameters
    settings: dict[str, Any] = getattr(jsonargparse._common, "parsing_settings", {})
    if "import_path_denylist" not in parameters or not settings.keys() >= set(_POLICY_KEYS):
        raise RuntimeError(
            f"jsonargparse {version('jsonargparse')} cannot restrict what a config imports, so "
            "nothing was read; install the version of constraints.txt (4.53)"
        )
    return settings


def _check_prefix(prefix: str) -> None:
    if not prefix or not all(part.isidentifier() for part in prefix.split(".")):
        raise ValueError(
            f"{OPTION} {prefix!r} is not a module: give dotted names with commas between them, "
            f"for instance {OPTION} my_package,other.module"
        )
    if prefix.split(".", maxsplit=1)[0] == "jsonargparse":
        raise ValueError(f"{OPTION} {prefix}: jsonargparse holds the policy itself, leave it out")


def _refusal(path: str, message: str, extra: Sequence[str]) -> str:
    found = _PLACE.search(message)
    place = f"{found[1] or found[2]}: " if found else ""
    return (
        f"{place}{path!r} is not in an allowed module, and a class path runs code when it is "
        f"imported. Allowed: {', '.join([*DEFAULT_ALLOWED, *extra])}. If you trust it, add "
        f"{OPTION} {path.rpartition('.')[0] or path} to the command line (a YAML file cannot)."
    )


def modules_from_arguments(arguments: Sequence[str]) -> list[str]:
    """The prefixes of all `--allow_modules a,b` on a command line, in order.

    Raises:
        ValueError: The option stands without a value.
    """
    values = (argument for given in _occurrences(arguments) for argument in given[1].split(","))
    return [value.strip() for value in values]


def without_modules(arguments: Sequence[str]) -> list[str]:
    """The command line without its `--allow_modules` options, as the parser gets it."""
    dropped = {place for places, _ in _occurrences(arguments) for place in places}
    return [argument for place, argument in enumerate(arguments) if place not in dropped]


def _occurrences(arguments: Sequence[str]) -> list[tuple[range, str]]:
    found = []
    for place, argument in enumerate(arguments):
        name, separator, value = argument.partition("=")
        if name not in _SPELLINGS:
            continue
        width = 1 if separator else 2
        if not separator:
            value = (arguments[place + 1 :] or ["-"])[0]
        if not value or value.startswith("-"):
            raise ValueError(f"{name} needs module prefixes, for instance {name} my_package")
        found.append((range(place, place + width), value))
    return found
