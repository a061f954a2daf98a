"""`fill`: what a bundle puts in place of each [MASK]; the same as `ponet fill`."""

from collections.abc import Sequence


def run_fill(arguments: Sequence[str]) -> None:
    """`fill BUNDLE TEXT [TEXT ...]`."""
    from ponet.cli import run_fill as run_ponet_fill

    run_ponet_fill(arguments, program="ponet-pretrain fill")
