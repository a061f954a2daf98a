"""Claims held against measurements: what was to be reached, what was measured, met or not."""

from collections.abc import Sequence
from typing import Any

Target = dict[str, Any]


def target(
    claim: str, measured: float | None, *, at_least: float | None = None,
    at_most: float | None = None, lacks: str = "",
) -> Target:  # fmt: skip
    """Return one line of the list.

    Args:
        claim: What is claimed, with its sizes.
        measured: Median; None if this run does not cover it.
        at_least: The bound, or
        at_most: the bound.
        lacks: What the claim takes for granted and this machine has not, such as "AMX"; the
            figure is shown then, and not judged.

    Returns:
        claim, bound as text, measured, `met`: True, False or None (not measured, or not judged),
        and `lacks`.
    """
    assert (at_least is None) != (at_most is None), "one bound is needed"
    bound = f">= {at_least:g}" if at_least is not None else f"<= {at_most:g}"
    met = None
    if measured is not None and not lacks:
        met = measured >= at_least if at_least is not None else measured <= (at_most or 0.0)
    return {"claim": claim, "target": bound, "measured": measured, "met": met, "lacks": lacks}


def verdict(entry: Target) -> str:
    """Return met, MISSED, not judged or not measured."""
    if entry.get("lacks") and entry["measured"] is not None:
        return f"not judged: no {entry['lacks']} here"
    return {True: "met", False: "MISSED", None: "not measured"}[entry["met"]]


def targets_table(targets: Sequence[Target]) -> str:
    """Return one line per claim for the screen."""
    width = max((len(entry["claim"]) for entry in targets), default=0)
    lines = [f"{'claim':{width}}  {'target':>8}  {'measured':>9}"]
    for entry in targets:
        measured = "-" if entry["measured"] is None else f"{entry['measured']:.4g}"
        lines.append(
            f"{entry['claim']:{width}}  {entry['target']:>8}  {measured:>9}  {verdict(entry)}"
        )
    return "\n".join(lines)
