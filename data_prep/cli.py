"""Command line: `python -m data_prep build | inspect | verify` (console script `ponet-data`)."""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import inspect
import logging
import os
import signal
import sys
import textwrap
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from data_prep.config import (
    BuildConfig,
    CleaningConfig,
    HubSource,
    LocalSource,
    PythonDocsSource,
    SentencesConfig,
    TokenizerConfig,
)
from data_prep.manifest import Manifest, ShardError
from data_prep.quiet_output import output_is_closed, quiet_output

EXIT_SIGINT, EXIT_SIGTERM = 130, 143
_EXAMPLES = """\
examples:
  python -m data_prep build --source.path my_texts/ --output data/my_texts
  python -m data_prep build --config configs/data/python_docs.yaml
  python -m data_prep build --config configs/data/local_text.yaml \\
      --source.path my_texts/ --output data/my_texts
  python -m data_prep build --config configs/data/local_text.yaml --engine ray \
      --ray-address auto --source.path my_texts/ --output data/my_texts
  python -m data_prep inspect data/my_texts
  python -m data_prep verify data/my_texts
"""


def field_help(cls: type) -> dict[str, str]:
    """Return the text under every field of a config class."""
    found: dict[str, str] = {}
    for base in filter(dataclasses.is_dataclass, reversed(cls.__mro__)):
        name = ""
        tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        for node in getattr(tree.body[0], "body", []):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                name = node.target.id
            elif name and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                found[name] = " ".join(str(node.value.value).split())
                name = ""
    return found


def settings_help() -> str:
    """Return every setting with its meaning and default, group by group."""
    groups: list[tuple[str, Any]] = [
        ("", BuildConfig),
        *(("source.", cls) for cls in (LocalSource, HubSource, PythonDocsSource)),
        *(("cleaning.", CleaningConfig), ("sentences.", SentencesConfig)),
        ("tokenizer.", TokenizerConfig),
    ]
    lines = ["settings (in the YAML file, or as --NAME VALUE after it; lists: --sources.0.path):"]
    for prefix, cls in groups:
        lines += ["", f"{cls.__name__}: {(cls.__doc__ or '').strip()}"]
        texts = field_help(cls)
        for item in dataclasses.fields(cls):
            if dataclasses.is_dataclass(item.default):
                continue
            required = item.default is dataclasses.MISSING
            default = "required" if required else f"default {item.default!r}"
            lines.append(f"  --{prefix}{item.name} ({default})")
            lines.append(textwrap.indent(textwrap.fill(texts.get(item.name, ""), 88), "      "))
    return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    """The commands and their options; settings of `build` are parsed by `parse_overrides`."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="data_prep",
        description="Text to token shards.",
        epilog=_EXAMPLES,
        formatter_class=raw,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    build = commands.add_parser(
        "build",
        help="make a shard folder",
        epilog=settings_help(),
        formatter_class=raw,
        allow_abbrev=False,
    )
    build.add_argument(
        "--config", default="", help="YAML file, see configs/data; left out: the settings say all"
    )
    build.add_argument("--quiet", action="store_true", help="show no progress bars")
    build.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="run tasks in processes of this machine, or as tasks of Ray (pip install "
        "'ponet[ray]'); the result is the same bytes (default local)",
    )
    build.add_argument(
        "--ray-address",
        default="",
        metavar="ADDRESS",
        help="HOST:PORT of a running Ray cluster, or auto for the one this machine belongs to; "
        "left out: Ray is started on this machine alone",
    )
    look = commands.add_parser("inspect", help="show what a shard folder holds")
    look.add_argument("folder", help="a folder made by build")
    look.add_argument("--samples", type=int, default=5, help="number of decoded samples")
    check = commands.add_parser("verify", help="hash every file again; exit code 1 if one changed")
    check.add_argument("folder", help="a folder made by build")
    return parser


def parse_overrides(arguments: Sequence[str]) -> dict[str, str]:
    """Return `--key value` and `--key=value` pairs.

    Raises:
        ValueError: A word that is no `--key`, or a key without value.
    """
    overrides: dict[str, str] = {}
    remaining = list(arguments)
    key = ""
    while remaining:
        word = remaining.pop(0)
        if not word.startswith("--") or len(word) == 2:
            hint = f" --{key} takes one value: put a pattern or a list into quotes, so that the "
            hint += "shell does not expand it (--source.path 'texts/*.txt')."
            raise ValueError(
                f"'{word}' is not understood; settings are given as --KEY VALUE."
                + (hint if key else "")
            )
        key, equals, value = word[2:].partition("=")
        if not equals:
            if not remaining:
                raise ValueError(f"--{key} has no value; settings are given as --KEY VALUE.")
            value = remaining.pop(0)
        overrides[key] = value
    return overrides


@quiet_output
def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit code: 0, 1 (verify found damage), 2 (a mistake, or a file that cannot be read or
        written), 130 (stopped by Ctrl-C), 141 (nobody reads the output) or 143 (SIGTERM).
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options, rest = build_parser().parse_known_args(argv)
    try:
        if options.command == "build":
            with _stops_on_sigterm():
                return _build(options, parse_overrides(rest))
        if rest:
            raise ValueError(f"'{rest[0]}' is not understood; see --help.")
        if options.command == "inspect":
            return _inspect(options.folder, options.samples)
        return _verify(options.folder)
    except (ValueError, OSError) as error:
        if os.environ.get("PONET_TRACEBACK") or output_is_closed(error):
            raise
        print(f"data_prep {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        by_signal = isinstance(stop, _Terminated)
        name = "SIGTERM" if by_signal else "Ctrl-C"
        print(f"stopped by {name}; run the same command again to go on.", file=sys.stderr)
        return EXIT_SIGTERM if by_signal else EXIT_SIGINT


class _Terminated(KeyboardInterrupt):
    """SIGTERM has arrived."""


@contextlib.contextmanager
def _stops_on_sigterm() -> Iterator[None]:
    """Let SIGTERM stop a command as Ctrl-C does: workers are ended, finished parts are kept."""

    def stop(*_: object) -> None:
        raise _Terminated

    with contextlib.ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, stop))
        yield


def _build(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    from data_prep.pipeline import build
    from data_prep.summary import summary_lines

    folder = build(
        BuildConfig.from_yaml(options.config, overrides),
        progress=not options.quiet,
        engine=options.engine,
        ray_address=options.ray_address,
    )
    manifest = Manifest.load(folder)
    for split, counts in sorted(manifest.splits.items()):
        print(
            f"{split}: {counts.documents:,} documents, {counts.sentences:,} sentences, "
            f"{counts.tokens:,} tokens"
        )
    for line in summary_lines(manifest):
        print(line)
    print(f"shards: {folder}")
    return 0


def _inspect(folder: str, samples: int) -> int:
    from data_prep.inspection import inspect_lines

    for line in inspect_lines(folder, num_samples=samples):
        print(line)
    return 0


def _verify(folder: str) -> int:
    from pathlib import Path

    from data_prep.shards import check_files

    manifest = Manifest.load(folder)
    try:
        check_files(Path(folder), manifest, hashes=True)
    except ShardError as error:
        print(f"data_prep verify: {error}", file=sys.stderr)
        return 1
    print(f"{folder}: {len(manifest.files)} files agree with the manifest")
    return 0
