"""Tables of scores: how likely texts are by their length, how often the right sentence wins.

Invariant: an interval is over texts or pairs; columns of bundles are of the same ones, so their
differences are paired. Numbers that cannot be compared are left out, not guessed.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from data_prep.command import counted
from pretrain.minimal_pairs import Pair
from training.statistics import Estimate, mean_of_means, ratio

if TYPE_CHECKING:
    from ponet.scoring import TextScore

SHORTEST = 16
"""Tokens of the longest texts of the first line; every further one has texts twice as long."""
FEWEST = 10
"""Texts, or rows of pairs of one paradigm, that an interval needs: of fewer it would say next to
nothing, and reach beyond what an accuracy can be."""
NOTHING = "-"
Indices = Sequence[int]
Rows = Sequence[Indices]
"""The pairs of each row of some file."""


class Line(NamedTuple):
    """One line of a table."""

    kind: str
    """"paradigm", the name of a column that gathers paradigms, "length", or "all"."""
    name: str
    """Of the paradigm, of the group, or the greatest length in tokens."""
    counts: dict[str, int]
    """How many texts and tokens, or pairs and paradigms."""
    found: list[Estimate]
    """Of each bundle: nats a token, or accuracy in per cent."""
    differences: list[Estimate | None]
    """Of each bundle but the first: it minus the first; None: they cannot be compared."""
    ties: list[int]
    """Of each bundle: pairs without a winner."""


def outcome(good: float, bad: float) -> float:
    """Return 1 where the right sentence is likelier, 0 where the other is, 0.5 for a tie."""
    return 0.5 if good == bad else float(good > bad)


def pair_lines(pairs: Sequence[Pair], outcomes: Sequence[Sequence[float]]) -> list[Line]:
    """Return a line for each paradigm, each group of them, and all.

    Args:
        pairs: One or more.
        outcomes: Of each bundle, for each pair.
    """
    rows: dict[str, list[int]] = {}
    for number, pair in enumerate(pairs):
        rows.setdefault(pair.place, []).append(number)
    paradigms: dict[str, list[Indices]] = {}
    groups: dict[tuple[str, str], dict[str, list[Indices]]] = {}
    for of_row in rows.values():
        pair = pairs[of_row[0]]
        paradigms.setdefault(pair.paradigm, []).append(of_row)
        for column, value in pair.groups.items():
            members = groups.setdefault((column, value), {})
            members.setdefault(pair.paradigm, []).append(of_row)
    lines = [_pair_line("paradigm", name, [of], outcomes) for name, of in sorted(paradigms.items())]
    lines += [
        _pair_line(*key, list(members.values()), outcomes)
        for key, members in sorted(groups.items())
    ]
    return [*lines, _pair_line("all", "", list(paradigms.values()), outcomes)]


def _pair_line(
    kind: str, name: str, paradigms: Sequence[Rows], outcomes: Sequence[Sequence[float]]
) -> Line:
    """Return the mean over some paradigms, given by the pairs of their rows."""
    first = outcomes[0]
    gaps = [[own - base for own, base in zip(o, first, strict=True)] for o in outcomes[1:]]
    numbers = [number for of in paradigms for of_row in of for number in of_row]
    return Line(
        kind=kind,
        name=name,
        counts={"pairs": len(numbers), "paradigms": len(paradigms)},
        found=[_in_percent(values, paradigms) for values in outcomes],
        differences=[_in_percent(values, paradigms) for values in gaps],
        ties=[sum(values[number] == 0.5 for number in numbers) for values in outcomes],
    )


def _in_percent(values: Sequence[float], paradigms: Sequence[Rows]) -> Estimate:
    """Return the mean over paradigms; the pairs of a row are not independent and count as one."""
    return mean_of_means(
        [[100 * fmean(values[n] for n in of_row) for of_row in of] for of in paradigms],
        least_df=FEWEST - 1,
    )


def text_lines(
    scores: Sequence[Sequence["TextScore"]], is_comparable: Sequence[bool]
) -> list[Line]:
    """Return a line for texts of each length, and one for all; lengths are those of the first.

    Args:
        scores: Of each bundle, for each text.
        is_comparable: Whether a bundle cuts texts into the same tokens as the first.

    Raises:
        ValueError: No text has a token.
    """
    lengths = [score.num_tokens for score in scores[0]]
    there = [n for n in range(len(lengths)) if all(of[n].num_tokens for of in scores)]
    if not there:
        raise ValueError("no text has a token; a pseudo-perplexity is a mean over tokens")
    longest = {n: max(SHORTEST, 1 << (lengths[n] - 1).bit_length()) for n in there}
    lines = [
        _text_line("length", str(most), [n for n in there if longest[n] == most], scores,
                   is_comparable)
        for most in sorted(set(longest.values()))
    ]  # fmt: skip
    return [*lines, _text_line("all", "", there, scores, is_comparable)]


def _text_line(
    kind: str,
    name: str,
    texts: Indices,
    scores: Sequence[Sequence["TextScore"]],
    is_comparable: Sequence[bool],
) -> Line:
    lost = [[-of[n].log_likelihood for n in texts] for of in scores]
    lengths = [[float(of[n].num_tokens) for n in texts] for of in scores]
    differences: list[Estimate | None] = [
        _a_token([own - base for own, base in zip(of, lost[0], strict=True)], lengths[0])
        if is_same
        else None
        for of, is_same in zip(lost[1:], is_comparable[1:], strict=True)
    ]
    found = [_a_token(*pair) for pair in zip(lost, lengths, strict=True)]
    counts = {"texts": len(texts), "tokens": int(sum(lengths[0]))}
    return Line(kind, name, counts, found, differences, [0] * len(scores))


def _a_token(nats: Sequence[float], tokens: Sequence[float]) -> Estimate:
    found = ratio(nats, tokens)
    return found if found.n >= FEWEST else dataclasses.replace(found, low=None, high=None)


def pair_table(lines: Sequence[Line], names: Sequence[str]) -> Iterator[str]:
    """Yield what is printed of minimal pairs."""
    rows = [["paradigm", "pairs", *_columns(names)]]
    for line in lines:
        label = line.name if line.kind == "paradigm" else f"{line.kind}: {line.name}"
        if line.kind == "all":
            label = f"mean over {counted(line.counts['paradigms'], 'paradigm(s)')}"
        cells = [_with_interval(found, "") for found in line.found]
        cells += [_with_interval(found, "+") for found in line.differences]
        rows.append([label, f"{line.counts['pairs']:,}", *cells])
    yield from aligned(rows)
    yield "accuracy in per cent (guessing: 50.0), ± half of its 95 % interval over pairs, the"
    yield "paradigms held fixed; each of them counts once, whatever the number of its pairs; what"
    yield f"rests on fewer than {FEWEST} rows of the file has no interval"
    ties = (f"{name} {count:,}" for name, count in zip(names, lines[-1].ties, strict=True))
    yield f"ties, which count half: {', '.join(ties)}"


def text_table(lines: Sequence[Line], names: Sequence[str]) -> Iterator[str]:
    """Yield what is printed of texts."""
    rows = [["tokens of a text", "texts", "tokens", *_columns(names)]]
    for line in lines:
        most = int(line.name or 0)
        least = most // 2 + 1 if most > SHORTEST else 1
        label = f"{least:,} to {most:,}" if most else "all"
        cells = [_perplexity(found) for found in line.found]
        cells += [_with_interval(found, "+", digits=3) for found in line.differences]
        rows.append([label, *(f"{count:,}" for count in line.counts.values()), *cells])
    yield from aligned(rows)
    yield "pseudo-perplexity a token, in brackets its 95 % interval over texts" + (
        "; differences in nats a token" if len(names) > 1 else ""
    )
    yield f"fewer than {FEWEST} texts have no interval"


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield rows of cells as lines, the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *cells in rows:
        right = (f"  {cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
        yield f"{first:<{widths[0]}}{''.join(right)}"


def _columns(names: Sequence[str]) -> list[str]:
    return [*names, *(f"{name} - {names[0]}" for name in names[1:])]


def _with_interval(found: Estimate | None, sign: str, digits: int = 1) -> str:
    if found is None:
        return NOTHING
    mean = f"{found.mean:{sign}.{digits}f}"
    if found.half_width is None or found.has_no_spread:
        return mean
    return f"{mean} ± {found.half_width:.{digits}f}"


def _perplexity(found: Estimate) -> str:
    text = f"{math.exp(found.mean):,.2f}"
    if found.low is None or found.high is None or found.has_no_spread:
        return text
    return f"{text} ({math.exp(found.low):,.2f} to {math.exp(found.high):,.2f})"


def as_json(line: Line, names: Sequence[str], *, measure: str) -> dict[str, Any]:
    """Return a line for a file.

    Args:
        line: Of a table.
        names: Of the bundles.
        measure: What `found` is, with its unit.
    """
    of_bundles: dict[str, Any] = {}
    for name, found, ties in zip(names, line.found, line.ties, strict=True):
        of_bundles[name] = _interval(measure, found)
        if "pairs" in line.counts:
            of_bundles[name]["ties"] = ties
        else:
            of_bundles[name]["pseudo_perplexity"] = math.exp(found.mean)
    differences: Mapping[str, Any] = {
        name: None if found is None else {**_interval(measure, found), "verdict": found.verdict}
        for name, found in zip(names[1:], line.differences, strict=True)
    }
    named = {"name": line.name} if line.name else {}
    counts = {f"num_{what}": count for what, count in line.counts.items()}
    return {"kind": line.kind, **named, **counts, "bundles": of_bundles,
            f"minus_{names[0]}": differences}  # fmt: skip


def _interval(measure: str, found: Estimate) -> dict[str, Any]:
    is_known = not found.has_no_spread
    return {measure: found.mean, "low": found.low if is_known else None,
            "high": found.high if is_known else None}  # fmt: skip
