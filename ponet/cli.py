"""The `ponet` command: checkpoints in and out, masks filled, texts encoded.

Invariant: a user's mistake ends in one line on stderr and exit code 2, never in a traceback.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from data_prep.command import EXIT_MISTAKE, CommandParser, mistake, quiet_output
from data_prep.stopping import sigterm_interrupts, stopped_by

HELP = """usage: ponet COMMAND ...     (also: python -m ponet COMMAND ...)

  import     a checkpoint as a bundle: the released PoNet, BERT, FNet, a .ckpt file, a Hub id
  export     a model for others or smaller: --format huggingface|onnx|bits8|onnx-bits8
  fill       fill the [MASK]s of your own sentences
  encode     a file of texts (lines, JSONL, CSV, TSV) to vectors (.npy or JSONL)

`ponet COMMAND --help` lists the options of a command. PONET_TRACEBACK=1 shows where an error comes
from. In Python: ponet.load_bundle(FOLDER).encode([...]), .score([...]) and .fill("... [MASK] ...").
How likely texts are, and which of two sentences: `python -m pretrain score`.

exit codes:
    0  done
    2  a mistake in the command or its input
  130  Ctrl-C
  141  nobody reads the output any more
  143  SIGTERM
"""
COMMANDS = {"import": "ponet.cli", "export": "ponet.hub.export", "fill": "ponet.cli",
            "encode": "ponet.encode_files"}  # fmt: skip
"""Modules with a `run_<command>` each, imported when it is called."""


@quiet_output
def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0 if arguments else EXIT_MISTAKE
    try:
        with sigterm_interrupts():
            _dispatch(arguments[0], arguments[1:])
    except KeyboardInterrupt as stop:
        what, code = stopped_by(stop)
        print(f"stopped by {what}; nothing was written", file=sys.stderr)
        return code
    except (ValueError, OSError, ModuleNotFoundError) as error:  # the last: an extra is missing
        return mistake(error)
    return 0


def _dispatch(command: str, arguments: list[str]) -> None:
    if command not in COMMANDS:
        raise ValueError(f"unknown command {command!r}; the commands are {', '.join(COMMANDS)}")
    getattr(importlib.import_module(COMMANDS[command]), f"run_{command}")(arguments)


def run_import(arguments: Sequence[str]) -> None:
    """`import SOURCE --output BUNDLE`."""
    options = _import_parser().parse_args(arguments)
    from ponet.bundle_import import example_lines, import_bundle, report_lines

    imported = import_bundle(
        options.source,
        options.output,
        revision=options.revision,
        tokenizer=options.tokenizer,
        lowercase=None if options.lowercase is None else options.lowercase == "true",
        language=options.language,
        drop=options.drop,
        add_missing_heads=options.add_missing_heads,
    )
    for line in report_lines(imported, with_names=options.names):
        print(line)
    for line in example_lines(imported):
        print(line)
    print(f"bundle      {options.output}")


def _import_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        "ponet import",
        description="A checkpoint of another code base, or of our own training, as a bundle: the "
        "released PoNet (also from ModelScope), BERT and FNet in the layout of transformers, a "
        "folder of `ponet export --format huggingface`, a .ckpt file. Every weight is mapped, or "
        "the command ends with an error and writes nothing.",
    )
    add = parser.add_argument
    add("source", help="folder, weights file, .ckpt file, or a Hub id: chtan/ponet-base-uncased")
    add("--output", type=Path, required=True, help="folder of the bundle")
    add("--revision", help="branch, tag or commit on the Hub (default: main)")
    add("--tokenizer", metavar="FILE",
        help="tokenizer.json or vocab.txt (default: the source's), or none")  # fmt: skip
    add("--lowercase", choices=("true", "false"),
        help="for a vocab.txt (default: as the tokenizer_config.json beside it says, else true)",
    )  # fmt: skip
    add("--language", help="code, to find sentences (default: the source's, or en)")
    add("--drop", action="append", default=[], metavar="PATTERN",
        help="leave out weights whose name matches, such as 'classifier.*'; may be repeated",
    )  # fmt: skip
    add("--add-missing-heads", action="store_true",
        help="give heads that the source lacks fresh values; the bundle then says so")  # fmt: skip
    add("--names", action="store_true", help="print the names of all weights")
    return parser


def run_fill(arguments: Sequence[str]) -> None:
    """`fill BUNDLE TEXT [TEXT ...]`."""
    parser = CommandParser(
        "ponet fill",
        description="Fill the [MASK]s of sentences from a bundle. The text is read as in "
        "pretraining: [CLS], sentences, [SEP], every sentence a segment.",
    )
    parser.add_argument("bundle", type=Path, help="bundle folder, for instance runs/default/bundle")
    parser.add_argument("texts", nargs="+", metavar="TEXT", help="text with at least one [MASK]")
    parser.add_argument("--top", type=int, default=5, help="words to show per [MASK] (default: 5)")
    options = parser.parse_args(arguments)
    from ponet.bundle import load_bundle
    from ponet.bundle_import import guess_lines

    bundle = load_bundle(options.bundle)
    for text in options.texts:
        guesses = bundle.fill(text, top=options.top)
        print(text)
        for line in guess_lines(guesses):
            print(line)
