"""Write docs/performance.md and docs/performance/*.md from the results of the benchmarks.

    python -m benchmarks.page             (after benchmarks with --output docs/results)
    python -m benchmarks.page --check     (1 if a page is not what it would write)

No number in their tables is typed by hand: every one comes from a JSON file in docs/results. Their
text is performance.md.j2, one macro for each; the tables, which the measurements show too, are in
tables.md.j2.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import answers
from benchmarks.report import REPOSITORY, Content, Target, find, tables, target, template, verdict
from benchmarks.rivals import OTHER_PASSES, POOLING_PASSES

DOCS = REPOSITORY / "docs"
RESULTS = DOCS / "results"
FIRST = "performance.md"
PAGES = {
    "training": {"pretraining": "The whole pretraining step"},
    "encoding": {"inference": "Encoding texts"},
    "gpu": {"gpu": "On a GPU", "triton_kernels": "Triton kernels"},
    "long_texts": {
        "needle": "What length buys: facts",
        "long_pretraining": "What length buys: masked words",
        "lra_table2": "Long texts, the paper's Table 2",
    },
    "parts": {
        "encoders": "Mixer, layer, model",
        "projection": "Hashed words",
        "loader": "The loader",
        "text": "Text to token ids",
    },
    "method": {},
}
"""Page -> name of a measurement, with which its files begin -> heading."""
KINDS = [kind for kinds in PAGES.values() for kind in kinds]


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
    """Return name -> (kind, content) of all files that the pages show, in their order."""
    found = {}
    for kind in KINDS:
        for path in sorted(folder.glob(f"{kind}*.json")):
            content = json.loads(path.read_text())
            content["has_plot"] = path.with_suffix(".png").is_file()
            found[path.stem] = (kind, content)
    return found


def pages(results: dict[str, tuple[str, Content]]) -> dict[str, str]:
    """Return the path of every page below docs -> its text."""
    shown: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for name, (kind, content) in results.items():
        plot = {"name": name, "has_plot": content.get("has_plot")}
        shown[kind].append({**plot, "text": tables(kind, content)})
    values = {
        "answers": answers,
        "claims": claims(results),
        "facts": answers.facts(results),
        "has_gpu": any("gpu" in part for _, c in results.values() for part in (c, c["machine"])),
        "shown": shown,
        "pooling_passes": POOLING_PASSES,
        "other_passes": OTHER_PASSES,
    }
    macros = template("performance.md.j2").make_module(values)
    texts = {FIRST: macros.short()}
    texts |= {f"performance/{page}.md": getattr(macros, page)(PAGES[page]) for page in PAGES}
    return {path: str(text).strip() + "\n" for path, text in texts.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the pages")
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args(arguments)
    are_same = True
    for name, written in pages(read_results(options.results)).items():
        path = options.docs / name
        is_same = path.is_file() and path.read_text() == written
        are_same &= is_same
        if options.check:
            print(f"{path} is {'up to date' if is_same else 'not what would be written'}")
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(written)
        print(path)
    return 1 if options.check and not are_same else 0


if __name__ == "__main__":
    sys.exit(main())
