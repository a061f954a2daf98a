"""What is claimed of the whole pretraining step, and whether what was measured bears it out."""

from benchmarks import report
from benchmarks.report import Options, Row, Target
from benchmarks.rivals import SAVINGS


def claims(rows: list[Row], options: Options) -> list[Target]:
    """Return what is claimed of whole steps, with what was measured."""

    def claim(text: str, other: str, length: int, bound: float, lacks: str = "") -> Target:
        wanted = {"rival": mine, "num_tokens": length}
        speed = report.find(rows, "times_as_fast_as", other, "median", **wanted)
        return report.target(text, speed, at_least=bound, lacks=lacks)

    cpu = options.device == "cpu"
    form = "fp32" if cpu else options.precision
    mine = "PoNet, bf16" if cpu else f"PoNet, compiled, {form}"
    name = "step, 512 tokens: x official arrangement, eager"
    if cpu:
        name = f"{options.encoder} step, 512 tokens: PoNet bf16 x official arrangement fp32"
    lacks = report.lacks_fast_bf16() if cpu else ""
    bound, official = 2.5 if cpu else 2.3, "official PoNet"
    every = f"{official}, head at every position, {form}"
    found = [
        claim(f"{name}, head at every position", every, 512, bound, lacks),
        claim(f"{name}, head at masked positions", f"{official}, {form}", 512, bound, lacks),
    ]
    if cpu:
        text = f"{options.encoder} step, 512 tokens: x BERT, both bf16"
        return [*found, claim(text, "BERT, bf16", 512, 1.35, lacks)]
    for rival, bounds in (
        ("BERT", {512: 1.1, 4096: 2.0, 16_384: 5.0}),
        ("FNet", dict.fromkeys(options.lengths, 1.0)),
    ):
        for length, bound in bounds.items():
            text, other = f"step, {length} tokens: x {rival} compiled", f"{rival}, compiled, {form}"
            found.append(claim(text, other, length, bound))
    for row in (row for row in rows if row["rival"] == mine):
        name, waiting = f"step, {row['num_tokens']} tokens", row["waiting_share"]["median"]
        found.append(report.target(f"{name}: model FLOP utilisation", row["mfu"], at_least=0.45))
        found.append(
            report.target(f"{name}: share of time waiting for data", waiting, at_most=0.02)
        )
    return found


def savings_claims(rows: list[Row], options: Options) -> list[Target]:
    """Return what is claimed of the savings at 512 tokens, with what was measured."""
    form = "fp32" if options.device == "cpu" else options.precision
    wanted = {"rival": f"PoNet, both savings, {form}", "num_tokens": 512}
    by_size = {"small": (1.12, 1.12, 1.25), "base": (1.04, 1.12, 1.16)}
    ratios = [("last block", "last block where read"), ("joined", "joined texts"), ("both", "both")]
    found = []
    for (saving, name), bound in zip(ratios, by_size.get(options.encoder, ()), strict=False):
        own = f"PoNet{SAVINGS[saving]}, {form}"
        path = ("times_as_fast_as", f"PoNet, no savings, {form}", "median")
        speed = report.find(rows, *path, **{**wanted, "rival": own})
        text = f"{options.encoder} step, 512 tokens: {name} x neither"
        found.append(report.target(text, speed, at_least=bound))
    speed = report.find(rows, "times_as_fast_as", f"BERT, both savings, {form}", "median", **wanted)
    name = f"{options.encoder} step, 512 tokens"
    found.append(report.target(f"{name}: x BERT, both with both savings", speed, at_least=1.35))
    fill = report.find(rows, "fill", "median", **wanted)
    found.append(report.target(f"{name}: real tokens of joined rows", fill, at_least=0.97))
    return found


def length_claims(rows: list[Row], options: Options) -> list[Target]:
    """Return what is claimed of the longest texts against the shortest, with what was measured."""
    wanted = {"rival": rows[0]["rival"], "num_tokens": options.lengths[-1]}
    cost = report.find(rows, "cost_to_shortest", "median", **wanted)
    text = f"{options.encoder} step: cost of a token, {options.lengths[-1]} to {options.lengths[0]}"
    return [report.target(f"{text} tokens", cost, at_most=1.15)]
