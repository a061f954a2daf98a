"""Write docs/performance.md from the results of the benchmarks.

    python -m benchmarks.page             (after benchmarks with --output docs/results)
    python -m benchmarks.page --check     (1 if the page is not what it would write)

No number in its tables is typed by hand: every one comes from a JSON file in docs/results. Its text
is performance.md.j2, its tables are in tables.md.j2; the measurements show the same when they end.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import REPOSITORY, Content, Target, find, tables, target, template, verdict
from benchmarks.rivals import OTHER_PASSES, POOLING_PASSES

RESULTS = REPOSITORY / "docs" / "results"
KINDS = {
    "encoders": "Mixer, layer, model",
    "pretraining": "The whole pretraining step",
    "inference": "Encoding texts",
    "long_pretraining": "What length buys: masked words",
    "needle": "What length buys: facts",
    "gpu": "On a GPU",
    "lra_table2": "Long texts, the paper's Table 2",
    "triton_kernels": "Triton kernels",
    "projection": "Hashed words",
    "loader": "The loader",
    "text": "Text to token ids",
}
"""Name of a measurement, with which its files begin -> heading."""


def loader_targets(content: Content) -> list[Target]:
    """Return what is claimed of the loader, with what was measured."""
    ours = "ours, one process (CPU time)"
    rate = find([content], "lengths", "512", "examples_per_s", ours, "median")
    waiting = find([content], "lengths", "512", "consumer", "waiting_share", "median")
    return [
        target("loader, 512 tokens: examples per second and core", rate, at_least=20_000),
        target("loader: waiting of a consumer of 4,000 examples/s", waiting, at_most=0.02),
    ]


def claims(results: dict[str, tuple[str, Content]]) -> dict[tuple[str, str], list[Any]]:
    """Return (claim, bound) -> what was measured, verdicts, and files; nothing: not measured."""
    found: dict[tuple[str, str], list[Any]] = {}
    for name, (kind, content) in results.items():
        targets = loader_targets(content) if kind == "loader" else content.get("targets", [])
        for entry in targets:
            cells = found.setdefault((entry["claim"], entry["target"]), [])
            if entry["measured"] is not None:
                cells.append((f"{entry['measured']:.4g}", verdict(entry), f"`{name}.json`"))
    return {claim: list(zip(*cells, strict=True)) for claim, cells in found.items()}


def read_results(folder: Path) -> dict[str, tuple[str, Content]]:
    """Return name -> (kind, content) of all files that the page shows, in the page's order."""
    found = {}
    for kind in KINDS:
        for path in sorted(folder.glob(f"{kind}*.json")):
            content = json.loads(path.read_text())
            content["has_plot"] = path.with_suffix(".png").is_file()
            found[path.stem] = (kind, content)
    return found


def page(results: dict[str, tuple[str, Content]]) -> str:
    """Return the whole page."""
    sections = {
        kind: [
            {"name": name, "text": tables(kind, content), "has_plot": content.get("has_plot")}
            for name, (its, content) in results.items()
            if its == kind
        ]
        for kind in KINDS
    }
    text = template("performance.md.j2").render(
        claims=claims(results),
        has_gpu=any("gpu" in part for _, c in results.values() for part in (c, c["machine"])),
        titles=KINDS,
        sections=sections,
        pooling_passes=POOLING_PASSES,
        other_passes=OTHER_PASSES,
    )
    return text.rstrip() + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=RESULTS.parent / "performance.md")
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args(arguments)
    written = page(read_results(options.results))
    if options.check:
        is_same = options.page.is_file() and options.page.read_text() == written
        print(f"{options.page} is {'up to date' if is_same else 'not what would be written'}")
        return 0 if is_same else 1
    options.page.write_text(written)
    print(options.page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
