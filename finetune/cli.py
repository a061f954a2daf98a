"""The `ponet-finetune` command: help, options and dispatch, without importing torch for help.

Invariant: a user's mistake ends in one line on stderr and exit code 2, never in a traceback.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NoReturn, TypeVar

from finetune.config import FinetuneConfig, PredictConfig

HELP = """usage: ponet-finetune COMMAND ...     (also: python -m finetune COMMAND ...)

  fit        train a classifier of texts or text pairs on your own CSV, TSV or JSONL files
  predict    label new texts with it

`ponet-finetune fit --help` lists every option of a command; --config FILE.yaml sets the same
options. Set PONET_TRACEBACK=1 to see where an error comes from.
"""

ConfigT = TypeVar("ConfigT")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0 done, 2 a mistake in the input)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0 if arguments else 2
    try:
        _dispatch(arguments[0], arguments[1:])
    except (ValueError, OSError) as error:
        if os.environ.get("PONET_TRACEBACK"):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _dispatch(command: str, options: list[str]) -> None:
    if command == "fit":
        fit_config = parse_config(FinetuneConfig, options, command=command)
        from finetune.fit import run_fit

        run_fit(fit_config)
    elif command == "predict":
        predict_config = parse_config(PredictConfig, options, command=command)
        from finetune.predict import run_predict

        run_predict(predict_config)
    else:
        raise ValueError(f"unknown command {command!r}; the commands are fit, predict")


def parse_config(config_class: type[ConfigT], options: list[str], *, command: str) -> ConfigT:
    """Return the configuration of options and `--config` files; the later one wins.

    Raises:
        ValueError: Unknown or missing option or key, wrong type, or a value out of range.
    """
    from jsonargparse import ArgumentParser, set_parsing_settings

    class OneLineParser(ArgumentParser):
        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            raise ValueError(f"{message} (ponet-finetune {command} --help lists the options)")

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = OneLineParser(prog=f"ponet-finetune {command}")
    parser.add_argument("--config", action="config", help="YAML file; may be repeated.")
    parser.add_class_arguments(config_class)
    names = [field.name for field in fields(config_class)]  # type: ignore[arg-type]
    values = parser.parse_args(_with_switch_values(config_class, options))
    return config_class(**{name: values[name] for name in names})


def _with_switch_values(config_class: type[Any], options: list[str]) -> list[str]:
    """Give `true` to every yes-or-no option that stands alone."""
    switches = {f"--{f.name}" for f in fields(config_class) if isinstance(f.default, bool)}
    result = []
    for option, following in zip(options, [*options[1:], "--"], strict=False):
        result.append(f"{option}=true" if option in switches and following[:2] == "--" else option)
    return result
