"""Options of the sweep commands: the fields of a frozen dataclass, their docstrings as help."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, NoReturn

from data_prep.cli import field_help


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one message, with one option per field of a dataclass."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong as a ValueError."""
        raise ValueError(f"{message} ({self.prog} --help lists the options)")

    def add_options(
        self,
        config_class: type[Any],
        *,
        skip: Sequence[str] = (),
        choices: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Add an option per field; its default says of what type it is.

        Args:
            config_class: Dataclass whose fields all have defaults. A tuple is an option that may
                be repeated; a yes-or-no option alone means yes. `--dry-run` is `--dry_run` too.
            skip: Fields that are no options.
            choices: Field -> allowed values.
        """
        texts = field_help(config_class)
        for field in fields(config_class):
            if field.name in skip:
                continue
            shared: dict[str, Any] = {"dest": field.name, "help": texts[field.name]}
            shared["help"] = shared["help"].replace("%", "%%")
            default = field.default
            if isinstance(default, bool):
                shared |= {"type": yes_or_no, "nargs": "?", "const": True, "default": default}
                shared["metavar"] = "true|false"
            elif isinstance(default, tuple):
                shared |= {"action": "append", "default": []}
            else:
                shared |= {"type": type(default), "default": default}
            if choices and field.name in choices:
                shared["choices"] = choices[field.name]
            spellings = dict.fromkeys((f"--{field.name}", f"--{field.name.replace('_', '-')}"))
            self.add_argument(*spellings, **shared)


def yes_or_no(text: str) -> bool:
    """The value of a switch: true or false.

    Raises:
        argparse.ArgumentTypeError: It is neither.
    """
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
