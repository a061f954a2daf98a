"""The `ponet` command: checkpoints in and out, masks filled, texts encoded.

Invariant: a user's mistake ends in one line on stderr and exit code 2, never in a traceback.
"""

import os
import sys
from collections.abc import Sequence

from data_prep.quiet_output import output_is_closed, quiet_output

HELP = """usage: ponet COMMAND ...     (also: python -m ponet COMMAND ...)

  import     a checkpoint as a bundle: the released PoNet, BERT, FNet, a .ckpt file, a Hub id
  export     a bundle as a Hugging Face folder or an ONNX file: --format huggingface|onnx
  fill       fill the [MASK]s of your own sentences
  encode     a file of texts (lines or JSONL) to vectors (.npy or JSONL)

`ponet COMMAND --help` lists the options of a command. PONET_TRACEBACK=1 shows where an error comes
from. In Python: ponet.load_bundle(FOLDER).encode([...]) and .fill("... [MASK] ...").

exit codes:
    0  done
    2  a mistake in the command or its input
  130  Ctrl-C
"""
EXIT_MISTAKE, EXIT_INTERRUPT = 2, 130
COMMANDS = ("import", "export", "fill", "encode")


@quiet_output
def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0 if arguments else EXIT_MISTAKE
    try:
        _dispatch(arguments[0], arguments[1:])
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return EXIT_INTERRUPT
    except (ValueError, OSError, ModuleNotFoundError) as error:  # the last: an extra is missing
        if os.environ.get("PONET_TRACEBACK") or output_is_closed(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        return EXIT_MISTAKE
    return 0


def _dispatch(command: str, arguments: list[str]) -> None:
    if command == "import":
        from ponet.commands import run_import

        run_import(arguments)
    elif command == "export":
        from ponet.hub.export import run_export

        run_export(arguments)
    elif command == "fill":
        from ponet.commands import run_fill

        run_fill(arguments)
    elif command == "encode":
        from ponet.encode_files import run_encode

        run_encode(arguments)
    else:
        raise ValueError(f"unknown command {command!r}; the commands are {', '.join(COMMANDS)}")
