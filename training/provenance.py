"""With what a run was started: its command line and the versions behind it."""

import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("ponet", "torch", "pytorch-lightning")


def provenance() -> dict[str, object]:
    """The command as it can be typed again, without the interpreter's folder, and versions."""
    words = list(sys.orig_argv)
    words[0] = words[0].replace("\\", "/").rsplit("/", 1)[-1]
    return {"command": shlex.join(words), "versions": versions()}


def versions() -> dict[str, str]:
    """Package -> installed version; Python's too."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
