"""Command line: `python -m data_prep build | inspect | verify` (console script `ponet-data`)."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
import textwrap
import typing
from collections.abc import Sequence
from typing import Any

from data_prep import config
from data_prep.command import counted, field_help, mistake, quiet_output
from data_prep.manifest import Manifest, ShardError
from data_prep.stopping import sigterm_interrupts, stopped_by

_EXAMPLES = """\
examples:
  python -m data_prep build --source.path my_texts/ --output data/my_texts
  python -m data_prep build --config configs/data/python_docs.yaml
  python -m data_prep build --config configs/data/local_text.yaml \\
      --source.path my_texts/ --output data/my_texts
  python -m data_prep build --config configs/data/local_text.yaml --engine ray \\
      --ray-address auto --source.path my_texts/ --output data/my_texts
  python -m data_prep inspect data/my_texts
  python -m data_prep verify data/my_texts

`ponet-data` is the same command. A build that was stopped goes on when it is started again.

exit codes:
    0  done
    1  verify: a file is not as the manifest says
    2  a mistake in the options, files or data, or a file that cannot be written
  130  Ctrl-C
  141  nobody reads the output any more
  143  SIGTERM
"""


class _Once(argparse.Action):
    """An option of which argparse would keep the last value without a word."""

    def __call__(self, parser: argparse.ArgumentParser, *given: Any) -> None:
        """Set the value, unless there is one."""
        options, value, name = given
        if before := getattr(options, self.dest):
            parser.error(f"{name} is given twice, {before} and {value}; write one file of both")
        setattr(options, self.dest, value)


def settings_help() -> str:
    """Return every setting with its meaning and default, group by group."""
    groups: list[tuple[str, Any]] = [
        ("", config.BuildConfig),
        *(("source.", cls) for cls in typing.get_args(config.Source)),
        *(("cleaning.", config.CleaningConfig), ("sentences.", config.SentencesConfig)),
        ("tokenizer.", config.TokenizerConfig),
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
    exact: dict[str, Any] = {
        "formatter_class": argparse.RawDescriptionHelpFormatter,
        "allow_abbrev": False,
    }
    parser = argparse.ArgumentParser(
        prog="data_prep", description="Text to token shards.", epilog=_EXAMPLES, **exact
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    what = "make a shard folder, or go on with one that was stopped"
    build = commands.add_parser(
        "build", help=what, description=f"{what}.".capitalize(), epilog=settings_help(), **exact
    )
    build.add_argument(
        "--config",
        default="",
        action=_Once,
        help="YAML file, see configs/data; left out: the settings say all",
    )
    build.add_argument("--quiet", action="store_true", help="show no progress bars")
    build.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="run tasks in processes of this machine, or as tasks of Ray (pip install "
        "-c constraints.txt ray); the result is the same bytes (default local)",
    )
    build.add_argument(
        "--ray-address",
        default="",
        metavar="ADDRESS",
        help="HOST:PORT of a running Ray cluster, or auto for the one this machine belongs to; "
        "left out: Ray is started on this machine alone",
    )
    what = "show what a shard folder holds: counts, lengths, duplicates, order, samples"
    look = commands.add_parser("inspect", help=what, description=f"{what}.".capitalize())
    look.add_argument("folder", help="a folder made by build")
    look.add_argument(
        "--samples", type=int, default=5, help="number of decoded samples (default 5)"
    )
    what = "hash every file again; exit code 1 if one changed"
    check = commands.add_parser("verify", help=what, description=f"{what}.".capitalize())
    check.add_argument("folder", help="a folder made by build")
    return parser


def parse_overrides(arguments: Sequence[str]) -> dict[str, str]:
    """Return `--key value` and `--key=value` pairs, the later of two; anything else is refused.

    Of two places to read neither is meant to replace the other, so they are refused as well.
    """
    overrides: dict[str, str] = {}
    key = ""
    words = iter(arguments)
    for word in words:
        if not word.startswith("--") or len(word) == 2:
            hint = f" --{key} takes one value: put a pattern or a list into quotes, so that the "
            hint += "shell does not expand it (--source.path 'texts/*.txt')."
            raise ValueError(
                f"'{word}' is not understood; settings are given as --KEY VALUE."
                + (hint if key else "")
            )
        key, equals, value = word[2:].partition("=")
        found = value if equals else next(words, None)
        if found is None:
            raise ValueError(f"--{key} has no value; settings are given as --KEY VALUE.")
        if key == "source.path" and key in overrides:
            raise ValueError(
                f"--{key} is given twice, and one would be lost. Several places are a list, in "
                "place of `source` and of a --config with it: "
                f"--sources '[{{path: {overrides[key]}}}, {{path: {found}}}]'."
            )
        overrides[key] = found
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
            return _build(options, parse_overrides(rest))
        if rest:
            raise ValueError(f"'{rest[0]}' is not understood; see --help.")
        if options.command == "verify":
            return _verify(options.folder)
        if options.samples < 0:
            raise ValueError(
                f"--samples is {options.samples}; give the number of samples to show, 0 or more."
            )
        from data_prep.inspection import inspect_lines

        for line in inspect_lines(options.folder, num_samples=options.samples):
            print(line)
        return 0
    except (ValueError, OSError) as error:
        return mistake(error, f"data_prep {options.command}")
    except KeyboardInterrupt as stop:
        name, code = stopped_by(stop)
        print(f"stopped by {name}; run the same command again to go on.", file=sys.stderr)
        return code


def _build(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Build; SIGTERM stops it as Ctrl-C does: workers are ended, finished parts are kept."""
    from data_prep.inspection import summary_lines
    from data_prep.pipeline import build

    settings = config.BuildConfig.from_yaml(options.config, overrides)
    with sigterm_interrupts():
        folder = build(
            settings,
            progress=not options.quiet,
            engine=options.engine,
            ray_address=options.ray_address,
        )
    for line in (*summary_lines(Manifest.load(folder)), f"shards: {folder}"):
        print(line)
    return 0


def _verify(folder: str) -> int:
    from data_prep.shards import verify_folder

    manifest = Manifest.load(folder)
    try:
        verify_folder(folder)
    except ShardError as error:
        print(f"data_prep verify: {error}", file=sys.stderr)
        return 1
    print(f"{folder}: {counted(len(manifest.files), 'file(s)')} as the manifest says")
    return 0
