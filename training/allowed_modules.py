"""Which modules a command line or YAML file may name: the allow-list of class paths.

A `class_path` is code: the module it names is imported before the type of the class is looked at.
Invariant: while the list is active, no value makes jsonargparse import a module outside of it, nor
use an object that such a module defines, whatever allowed name it is reached by.

Not covered: what an allowed class does with its own arguments (a logger writes to the folder it is
given, a data module may build shards), and installed packages that Lightning loads by itself.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import jsonargparse

from training.command_line import OneLineParser

# No whole `torch` and no whole Lightning: torch.load, torch.hub.load, torch.utils.cpp_extension and
# pytorch_lightning.cli.instantiate_class run whatever code their arguments name.
DEFAULT_ALLOWED = (
    "ponet",
    "pretrain",
    "data_prep",
    "finetune",
    "training",
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
    """
    for prefix in extra:
        _check_prefix(prefix)
    settings = jsonargparse._common.parsing_settings
    before = {key: settings[key] for key in _POLICY_KEYS}
    jsonargparse.set_parsing_settings(
        import_path_denylist=["*"],
        import_path_allowlist=[*DEFAULT_ALLOWED, *extra],
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


def _check_prefix(prefix: str) -> None:
    parts = prefix.split(".")
    if not all(part.isidentifier() for part in parts) or parts[0] == "jsonargparse":
        raise ValueError(
            f"{OPTION} {prefix!r} is no module to be allowed: give dotted names, with commas "
            f"between them, for instance {OPTION} my_package,other.module"
        )


def _refusal(path: str, message: str, extra: Sequence[str]) -> str:
    found = _PLACE.search(message)
    place = f"{found[1] or found[2]}: " if found else ""
    return (
        f"{place}{path!r} is not in an allowed module, and a class path runs code when it is "
        f"imported. Allowed: {', '.join([*DEFAULT_ALLOWED, *extra])}. If you trust it, add "
        f"{OPTION} {path.rpartition('.')[0] or path} to the command line (a YAML file cannot)."
    )


def with_allowed_modules(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the prefixes of all `--allow_modules a,b`, and the command line without them.

    Raises:
        ValueError: The option stands without a value.
    """
    parser = OneLineParser("the command", add_help=False, allow_abbrev=False)
    parser.add_argument(OPTION, OPTION.replace("_", "-"), action="append", default=[])
    found, others = parser.parse_known_args(list(arguments))
    return [name.strip() for value in found.allow_modules for name in value.split(",")], others
