"""What is claimed of the encoders' speed and memory, held against the rows of encoders.py."""

from collections.abc import Iterable
from typing import Any

from _targets import Target, target

Row = dict[str, Any]
Ratio = dict[str, float] | None
OFFICIAL, BERT = "official PoNet", "BERT"
WIDTHS = {"base": 768, "small": 256}


def find(rows: Iterable[Row], **wanted: Any) -> Row | None:
    """Return the row with these values, None if it was not measured."""
    return next((row for row in rows if all(row[k] == v for k, v in wanted.items())), None)


def _speed(rows: list[Row], other: str, **wanted: Any) -> float | None:
    """Return the median of how many times as fast a row is as another rival's."""
    row = find(rows, **wanted)
    found: Ratio = row["times_as_fast_as"].get(other) if row else None
    return found["median"] if found else None


def claims(
    rows: list[Row], our_label: str, *, device: str, has_amx: bool | None = None
) -> list[Target]:
    """Return every claim with what these rows say of it; those for bf16 on a CPU are for AMX."""
    training = [row for row in rows if row["mode"] == "training"]
    found: list[Target] = []
    for size, width in WIDTHS.items():
        mine = {"rival": our_label, "size": size}
        if device == "cpu":
            found += _cpu_speed(training, mine, width, lacks="" if has_amx else "AMX")
        found += _memory_and_length(training, mine, width, device)
    return found


def _cpu_speed(rows: list[Row], mine: Row, width: int, *, lacks: str) -> list[Target]:
    found = []
    for length in (512, 8192):
        place = {**mine, "num_tokens": length}
        bounds = (("mixer", "32", 2.2), ("layer", "32", 1.4), ("layer", "bf16", 1.8))
        for part, precision, bound in bounds:
            form = "fp32" if precision == "32" else precision
            claim = f"{part}, {form}, width {width}, {length} tokens: x {OFFICIAL}"
            speed = _speed(rows, OFFICIAL, part=part, precision=precision, **place)
            needed = lacks if precision == "bf16" else ""
            found.append(target(claim, speed, at_least=bound, lacks=needed))
        claim = f"layer, fp32, width {width}, {length} tokens: x {BERT}"
        speed = _speed(rows, BERT, part="layer", precision="32", **place)
        found.append(target(claim, speed, at_least=1.2 if length == 512 else 3.5))
    return found


def _memory_and_length(rows: list[Row], mine: Row, width: int, device: str) -> list[Target]:
    """Memory against BERT's at 512 tokens, and memory and time per token of long texts."""
    precision = "32" if device == "cpu" else "bf16"
    place = {**mine, "part": "layer", "precision": precision}
    own, longest = find(rows, **place, num_tokens=512), find(rows, **place, num_tokens=16_384)
    bert = find(rows, **{**place, "rival": BERT}, num_tokens=512)
    alone = further = flat = cost = None
    if own and bert:
        alone = own["peak_mib"] / bert["peak_mib"]
        further = own["further_mib"] / bert["further_mib"]
    if own and longest:
        cost = longest["token_cost_to_shortest"]["median"]
        flat = _mib_per_token(longest) / _mib_per_token(own)
    name = f"layer, width {width}"
    return [
        # Half a percent for the tables of a batch, which do not grow with the width.
        target(f"{name}, 512 tokens: memory of one to BERT's", alone, at_most=1.005),
        target(f"{name}, 512 tokens: memory of a further one to BERT's", further, at_most=1.005),
        target(f"{name}: memory per token, 16384 to 512 tokens", flat, at_most=1.05),
        target(f"{name}: time per token, 16384 to 512 tokens", cost, at_most=1.15),
    ]


def _mib_per_token(row: Row) -> float:
    mib: float = row["peak_mib"] / (row["num_texts"] * row["num_tokens"])
    return mib
