"""Options of the commands that are not Lightning's: a flat dataclass, and `--config` files.

Invariant: nothing here imports torch or Lightning, so help and mistakes are quick.
"""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NoReturn, TypeVar

ConfigT = TypeVar("ConfigT")


def parse_config(config_class: type[ConfigT], options: Sequence[str], *, command: str) -> ConfigT:
    """Return the configuration of options and `--config` files; the later one wins.

    Args:
        config_class: Frozen dataclass; its fields are the options, their docstrings the help.
        options: What stands after the command. A yes-or-no option alone means yes.
        command: Its name, for help and messages.

    Raises:
        ValueError: Unknown or missing option or key, wrong type, or a value out of range.
    """
    from jsonargparse import ArgumentParser, set_parsing_settings

    class OneLineParser(ArgumentParser):
        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            raise ValueError(f"{message} (ponet-finetune {command} --help lists the options)")

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = OneLineParser(prog=f"ponet-finetune {command}", allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file; may be repeated.")
    parser.add_class_arguments(config_class)
    names = [field.name for field in fields(config_class)]  # type: ignore[arg-type]
    values = parser.parse_args(_with_switch_values(config_class, options))
    return config_class(**{name: values[name] for name in names})


def _with_switch_values(config_class: type[Any], options: Sequence[str]) -> list[str]:
    """Give `true` to every yes-or-no option that stands alone."""
    switches = {f"--{f.name}" for f in fields(config_class) if isinstance(f.default, bool)}
    result = []
    for option, following in zip(options, [*options[1:], "--"], strict=False):
        result.append(f"{option}=true" if option in switches and following[:2] == "--" else option)
    return result
