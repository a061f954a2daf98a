"""What the parsers of both packages' `fit` share: short errors, near names, strict YAML, pipes.

Invariant: a mistake is one line that names what was given; nothing given is lost without a word.
"""

import atexit
import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import get_loader, set_loader

from data_prep.command import check_keys
from training.command_line import CONFIG_OPTIONS, with_near_name

_NO_SUBTYPE = re.compile(
    r'Parser key "(?P<key>[^"]+)":\s+Does not validate against any of the Union subtypes\s+'
    r"Subtypes: \[(?P<types>.*?)\]\s+Errors:.*?Given value type: .*?Given value: (?P<value>.*)$",
    re.DOTALL,
)


class ShortErrors:
    """For a parser of jsonargparse: one line per mistake, and a `--print_config` that can be read.

    Set `command` and `decided` on the class that takes it.
    """

    command = ""
    """What `--help` is asked of, for instance `ponet-pretrain`."""
    decided: tuple[str, ...] = ()
    """Keys that follow from others: not printed, because they are refused when they are given."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what is wrong as a ValueError."""
        hint = f"({self.command} COMMAND --help lists the options)"
        text = with_near_name(shortened(message), self)
        raise ValueError(text if hint in text else f"{text} {hint}") from ex

    def dump(self, cfg: Any, **kwargs: Any) -> str:
        """The configuration as YAML; for `--print_config` without the keys that are decided."""
        root: Any = self
        while hasattr(root, "parent_parser"):
            root = root.parent_parser
        if hasattr(root, "print_config"):
            cfg = cfg.clone()
            for key in self.decided:
                cfg.pop(key, None)
        text: str = super().dump(cfg, **kwargs)  # type: ignore[misc]
        return text


def shortened(message: str) -> str:
    """Return a message of jsonargparse in one line, without its account of every type tried.

    For classes that account stays, and where an import is refused: it says why.
    """
    found = None if "Importing" in message else _NO_SUBTYPE.search(message)
    if found is not None and not re.search(r"<class '\w+\.", found["types"]):
        message = f"{found['key']} is {found['value'].strip()!r}; allowed: {found['types']}"
    message = re.sub(r"typing\.Literal\[([^\]]*)\]|<class '(\w+)'>", r"\1\2", message)
    message = message.replace("NoneType", "null").replace("Expected a ", "expected ")
    return " ".join(message.split())


def use_strict_yaml() -> None:
    """Let jsonargparse refuse a key that stands twice, in files and on the command line."""
    load = get_loader("yaml")
    if getattr(load, "checks_keys", False):
        return

    def strict(text: str) -> Any:
        check_keys(text)
        return load(text)

    strict.checks_keys = True  # type: ignore[attr-defined]
    set_loader("yaml", strict, (yaml.YAMLError,))


def readable_arguments(arguments: Sequence[str]) -> list[str]:
    """Return a command line whose `--config` pipes are files, and `None` of the trainer's null.

    A pipe can be read once, but ranks and parsers read it again; `sys.argv`, which Lightning starts
    the ranks with, is changed alike. `None` is how W&B's agent writes a null.
    """
    result = list(arguments)
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        here = place if equals else place + 1
        value = value if equals else [*arguments[here:], ""][0]
        if name in CONFIG_OPTIONS and value and _is_pipe(Path(value)):
            text = str(_copied(Path(value)))
        elif name.startswith("--trainer.") and value == "None":
            text = "null"
        else:
            continue
        result[here] = f"{name}={text}" if equals else text
    if sys.argv[1:] == list(arguments):
        sys.argv[1:] = result
    return result


def _is_pipe(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


def _copied(path: Path) -> Path:
    number, name = tempfile.mkstemp(prefix="ponet-config-", suffix=".yaml")
    with os.fdopen(number, "wb") as file:
        file.write(path.read_bytes())
    atexit.register(_removed, name)
    return Path(name)


def _removed(name: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(name)
