"""What a study of recipes found: rows, curves and claims of `benchmarks.recipes`."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import spread
from benchmarks.recipe_table import BASE, STUDIES, Recipe
from benchmarks.report import Content, Row, Target, line_chart, target
from training.reports import reach
from training.statistics import estimate, paired_difference

SPENT = ("step", "tokens", "flops")
ABOVE_CHANCE = 3.0
"""Standard errors."""
Runs = Mapping[str, Mapping[int, Row]]
"""Recipe -> seed -> what its file holds."""


def read_runs(root: Path, study: str) -> Runs:
    """Return the runs of a study that have ended, in the order of its recipes."""
    files = sorted(root.glob(f"{study}-*-*.json"))
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    return {
        name: found
        for name in STUDIES[study]
        if (found := {row["seed"]: row for row in rows if row["recipe"] == name})
    }


def reached(curve: Sequence[Row], loss: float) -> Row | None:
    """Return what was spent when the loss was reached, between validations along a line."""
    return reach.reached(curve, loss, key="mlm_loss", spent=SPENT)


def last_values(found: Mapping[int, Row], key: str) -> dict[int, float]:
    """Return a metric of each seed's last validation."""
    return {seed: row["curve"][-1][key] for seed, row in found.items()}


def shares(found: Mapping[int, Row], base: Mapping[int, Row], loss: float) -> dict[str, Any]:
    """Return which share of a base's steps, tokens and FLOPs was spent until its loss; by seeds."""
    until = {seed: reached(row["curve"], loss) for seed, row in found.items()}
    if any(spent is None for spent in until.values()):
        return dict.fromkeys(SPENT)
    whole = {key: sum(last_values(base, key).values()) / len(base) for key in SPENT}
    return {key: spread([s[key] / whole[key] for s in until.values() if s]) for key in SPENT}


def without_share(name: str, study: str) -> Recipe:
    """Return a recipe whatever its share of the steps: what decides the seconds of a step."""
    return dataclasses.replace(STUDIES[study][name], share=1.0)


def cost_of(name: str, study: str, times: Mapping[str, Any]) -> float | None:
    """Return the median seconds of a step, where all steps are alike and were timed."""
    recipe = without_share(name, study)
    same = [timed for timed in times if without_share(timed, study) == recipe]
    return None if recipe.batches or not same else float(times[same[0]]["median"])


def row_of(name: str, study: str, runs: Runs, times: Mapping[str, Any]) -> Row:
    """Return what is shown of a recipe."""
    found, base = runs[name], runs.get(BASE, {})
    row: Row = {"recipe": name, "n": len(found), "steps": found[min(found)]["curve"][-1]["step"]}
    for key in ("mlm_loss", "mlm_accuracy", "pair_accuracy"):
        values = last_values(found, key)
        change = paired_difference(values, last_values(base, key)) if name != BASE else None
        shown = {**dataclasses.asdict(change), "verdict": change.verdict} if change else None
        row[key] = {**dataclasses.asdict(estimate(list(values.values()))), "change": shown}
    row["s_per_step"] = {device: cost_of(name, study, known) for device, known in times.items()}
    if base:
        losses = last_values(base, "mlm_loss").values()
        row["share_of"] = shares(found, base, sum(losses) / len(losses))
        steps = row["share_of"]["step"]
        row["share_of_time"] = {
            device: steps["median"] * own / cost_of(BASE, study, times[device])
            for device, own in row["s_per_step"].items()
            if own and steps and cost_of(BASE, study, times[device])
        }
    return {**row, **pair_facts(found)}


def pair_facts(found: Mapping[int, Row]) -> Row:
    """Return how pairs were told apart in the end, over all seeds, and from when above chance."""
    tables = [row["pairs"] for row in found.values()]
    counts = [
        [sum(cells) for cells in zip(*rows, strict=True)] for rows in zip(*tables, strict=True)
    ]
    total, num = sum(map(sum, counts)), len(counts)
    chance = 1 / num
    error = (chance * (1 - chance) / (total / len(found))) ** 0.5
    first = []
    for row in found.values():
        curve = row["curve"]
        above = [r["pair_accuracy"] > chance + ABOVE_CHANCE * error for r in curve]
        until_end = next((n for n in range(len(curve)) if all(above[n:])), None)
        first.append(None if until_end is None else curve[until_end]["step"])
    return {
        "chance": chance, "pairs": total // len(found), "standard_error": error, "above_at": first,
        "recall": [row[n] / max(1, sum(row)) for n, row in enumerate(counts)], "taken_for": counts,
    }  # fmt: skip


def curves_of(runs: Runs, key: str) -> dict[str, list[tuple[float, dict[str, float]]]]:
    """Return the spread over seeds of a metric at the validations that all seeds have."""
    curves = {}
    for name, found in runs.items():
        tables = [{r["step"]: r[key] for r in row["curve"]} for row in found.values()]
        steps = sorted(set.intersection(*(set(table) for table in tables)))
        curves[name] = [(step, spread([table[step] for table in tables])) for step in steps]
    return curves


def claims(rows: Sequence[Row], study: str) -> list[Target]:
    """Return the claims of a study."""
    if study == "pairs":
        return []
    found = [row.get("share_of_time", {}) for row in rows if row["recipe"] != BASE]
    devices = dict.fromkeys(device for shares_of in found for device in shares_of)
    claim = "time of the fastest recipe to the base's last loss, share of the base's time"
    return [
        target(f"{claim}, {device}", min(s[device] for s in found if device in s), at_most=0.6)
        for device in devices
    ]


def content_of(root: Path, study: str) -> Content:
    """Return rows, curves and claims of the runs of a folder, and where and how they were made."""
    runs, times = read_runs(root, study), {}
    for path in sorted(root.glob(f"times-{study}-*.json")):
        times[path.stem.rpartition("-")[2]] = json.loads(path.read_text(encoding="utf-8"))
    rows = [row_of(name, study, runs, times) for name in runs]
    keys = ("mlm_loss", "pair_accuracy")
    curves = {key: curves_of(runs, key) for key in keys}
    newest = [list(found.values())[-1] for found in runs.values()][-1:]
    made = dict(newest[0]["made"]) if newest else {}
    where = {key: made.pop(key) for key in ("machine", "torch", "gpu") if key in made}
    found = {"study": study, "rows": rows, "curves": curves, "targets": claims(rows, study)}
    return {**where, **found, "options": made}


def draw(content: Content, path: Path) -> None:
    """Draw loss and pairs over steps, lowest to highest seed, of the recipes with most seeds."""
    titles = {"mlm_loss": "loss of masked words (nats)", "pair_accuracy": "pairs told apart"}
    most = max(row["n"] for row in content["rows"])
    drawn = {row["recipe"] for row in content["rows"] if row["n"] == most}
    panels = {
        titles[key]: {name: curve for name, curve in found.items() if name in drawn}
        for key, found in content["curves"].items()
    }
    pairs, chances = panels[titles["pair_accuracy"]], {row["chance"] for row in content["rows"]}
    steps = [step for curve in pairs.values() for step, _ in curve]
    for chance in chances if steps else ():
        ends = {min(steps), max(steps)}
        pairs[f"guessing, {chance:.0%}"] = [(step, spread([chance])) for step in sorted(ends)]
    line_chart(
        panels, path, title="validation; lowest to highest seed", xlabel="steps", is_linear=True
    )
