"""What the parsers of `fit` share: short errors, near names, strict YAML, and allowed classes.

Invariant: a mistake is one line that names what was given; nothing given is lost without a word.
A `class_path` is code: the module it names is imported before the type of the class is looked at.
While `only_allowed_modules` is active, no value makes jsonargparse import a module outside of the
list, nor use an object that such a module defines, whatever allowed name it is reached by. What an
allowed class does with its own arguments is not covered.
"""

import argparse
import atexit
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import jsonargparse
import yaml
from jsonargparse import get_loader, set_loader, set_parsing_settings

from data_prep.command import check_keys
from training.command_line import CONFIG_OPTIONS, with_near_name

# No whole `torch` and no whole Lightning: torch.load, torch.hub.load, torch.utils.cpp_extension and
# pytorch_lightning.cli.instantiate_class run whatever code their arguments name.
_OF_LIGHTNING = ("accelerators", "callbacks", "loggers", "plugins", "profilers", "strategies")
_OF_TORCH = ("nn", "optim", "profiler", "dtype", "device", "bfloat16", "float16", "float32")
_OF_DISTRIBUTED = ("algorithms", "device_mesh", "fsdp", "tensor")
DEFAULT_ALLOWED = (
    *("ponet", "pretrain", "data_prep", "finetune", "training"),
    *(f"pytorch_lightning.{part}" for part in _OF_LIGHTNING),
    *(f"lightning_fabric.{part}" for part in ("accelerators", "plugins", "strategies")),
    *(f"torch.{part}" for part in (*_OF_TORCH, "float64")),
    *(f"torch.distributed.{part}" for part in _OF_DISTRIBUTED),
)
ALLOW = "--allow_modules"
_POLICY = ("import_path_verdicts", "import_paths_enforced", "instantiate_subclass_spec_in_any")
_REFUSAL = re.compile(r"Importing '([^']+)' is not allowed, denied by")
_PLACE = re.compile(r'Parser key "([^"]+)"|^(--\S+?): Importing')
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
    """What `--help` is asked of, for instance `ponet-pretrain COMMAND`."""
    decided: tuple[str, ...] = ()
    """Keys that follow from others: not printed, because they are refused when they are given."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what is wrong as a ValueError."""
        hint = f"({self.command} --help lists the options)"
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


class OwnHelp:
    """For a LightningCLI: the `--help` of a command says what holds here, and no more.

    Lightning's words are about its Trainer, not about a run: where an option is refused because
    another one decides it, or a command has no use for it, they would be wrong.
    """

    decided_by: ClassVar[Mapping[str, str]]
    does: ClassVar[Mapping[str, str]] = {}
    """Subcommand -> what it does, the first line of its help."""
    unused: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Subcommand -> options, and groups of them, that it takes and has no use for: not shown."""
    means: ClassVar[Mapping[str, str]] = {}
    """Option that Lightning adds -> what it means here."""

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> Any:
        kwargs["description"] = self.does[subcommand]
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)  # type: ignore[misc]
        refused = [name for name in self.decided_by if name.startswith("trainer.")]
        unused = (*refused, *self.unused.get(subcommand, ()))
        for action in parser._actions:
            if any(f"{action.dest}.".startswith(f"{name}.") for name in unused):
                action.help = argparse.SUPPRESS
            elif action.dest in self.means:
                action.help = self.means[action.dest]
        for group in parser._action_groups:
            if any(action.dest in self.means for action in group._group_actions):
                group.title = self.does[subcommand].rstrip(".")
        return parser


def shortened(message: str) -> str:
    """Return a message of jsonargparse in one line, without its account of every type tried.

    For classes that account stays, and where an import is refused: it says why.
    """
    found = None if "Importing" in message else _NO_SUBTYPE.search(message)
    if found is not None and not re.search(r"<class '\w+\.", found["types"]):
        message = f"{found['key']} is {found['value'].strip()!r}; allowed: {found['types']}"
    message = re.sub(r"typing\.Literal\[([^\]]*)\]|<class '(\w+)'>", r"\1\2", message)
    message = re.sub(r"(arguments are required: )(?:fit|validate|test|predict)\.", r"\1--", message)
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
        path = Path(value)
        is_pipe = value and path.exists() and not path.is_file() and not path.is_dir()
        if name in CONFIG_OPTIONS and is_pipe:
            text = str(_copied(path))
        elif name.startswith("--trainer.") and value == "None":
            text = "null"
        else:
            continue
        result[here] = f"{name}={text}" if equals else text
    if sys.argv[1:] == list(arguments):
        sys.argv[1:] = result
    return result


def _copied(path: Path) -> Path:
    number, name = tempfile.mkstemp(prefix="ponet-config-", suffix=".yaml")
    with os.fdopen(number, "wb") as file:
        file.write(path.read_bytes())
    atexit.register(lambda: Path(name).unlink(missing_ok=True))
    return Path(name)


@contextmanager
def only_allowed_modules(extra: Sequence[str] = ()) -> Iterator[None]:
    """While active, values given to a jsonargparse parser may name allowed modules only.

    Args:
        extra: Further prefixes, in whole parts of a dotted path: `a.b` allows `a.b.c`, not `a.bc`.
            A class must be allowed under the path that names it and under the one that defines it.
    """
    for prefix in extra:
        parts = prefix.split(".")
        if not all(part.isidentifier() for part in parts) or parts[0] == "jsonargparse":
            raise ValueError(
                f"{ALLOW} {prefix!r} is no module to be allowed: give dotted names, with commas "
                f"between them, for instance {ALLOW} my_package,other.module"
            )
    settings = jsonargparse._common.parsing_settings
    before = {key: settings[key] for key in _POLICY}
    allowed = [*DEFAULT_ALLOWED, *extra]
    set_parsing_settings(
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
        found, path = _PLACE.search(str(error)), refused[1]
        place = f"{found[1] or found[2]}: " if found else ""
        raise ValueError(
            f"{place}{path!r} is not in an allowed module, and a class path runs code when it is "
            f"imported. Allowed: {', '.join(allowed)}. If you trust it, add {ALLOW} "
            f"{path.rpartition('.')[0] or path} to the command line (a YAML file cannot)."
        ) from error
    finally:
        settings.update(before)


def with_allowed_modules(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the prefixes of all `--allow_modules a,b`, and the command line without them."""
    allowed, others, words = [], [], list(arguments)
    while words:
        name, equals, value = words.pop(0).partition("=")
        if name.replace("-", "_") != f"__{ALLOW[2:]}":
            others.append(f"{name}{equals}{value}")
            continue
        if not equals and (not words or words[0].startswith("--")):
            raise ValueError(f"{ALLOW} has no value; give dotted names, with commas between them")
        value = value if equals else words.pop(0)
        allowed += [part.strip() for part in value.split(",")]
    return allowed, others
