"""Options of the sweep commands: the fields of a frozen dataclass, their docstrings as help."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from data_prep.command import field_help
from training.command_line import OneLineParser, yes_or_no


class FieldsParser(OneLineParser):
    """A parser with one option per field of a dataclass."""

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
