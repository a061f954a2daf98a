"""Write docs/performance.md from the results of the benchmarks.

    python -m benchmarks.page             (after benchmarks with --output docs/results)
    python -m benchmarks.page --check     (1 if the page is not what it would write)

No number on the page is typed by hand: every one comes from a JSON file in docs/results. The
measurements show the same tables when they end.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2

from benchmarks.report import REPOSITORY, Row, Target, find, grid, target, verdict
from benchmarks.rivals import OTHER_PASSES, POOLING_PASSES

Content = dict[str, Any]
COMPARED = ("official PoNet", "BERT", "FNet")
RESULTS = REPOSITORY / "docs" / "results"


def where(content: Content) -> str:
    """Return the machine in one line."""
    machine, settings = content["machine"], content.get("settings", {})
    parts = [source["gpu"] for source in (content, machine) if "gpu" in source]
    parts.append(f"{machine['cpu']}, {machine['cores']} cores")
    if "amx_bf16" in machine:
        parts.append("with AMX" if machine["amx_bf16"] else "without AMX")
    if settings.get("device") == "cpu":
        parts.append(f"{settings['threads']} thread{'s' * (settings['threads'] > 1)}")
    if "torch" in content:
        parts.append(f"PyTorch {content['torch']}")
    load = ", ".join(f"{value:g}" for value in machine["load_average"])
    return f"{'; '.join(parts)}; load average at the end {load}."


def spread_cell(found: dict[str, float] | None) -> str:
    """Return median, lowest and highest."""
    return f"{found['median']:.2f} ({found['min']:.2f} to {found['max']:.2f})" if found else "-"


def heading(row: Row) -> str:
    """Return what the rows of one setting have in common."""
    precision = "fp32" if row["precision"] == "32" else row["precision"]
    return f"{row['part']}, {row['mode']}, {row['size']}, {precision}"


def grouped(rows: Iterable[Row], key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    """Return the rows by what a function says of them, in their order."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def encoders(content: Content) -> list[str]:
    """Return tables of time, ratios and memory for every setting."""
    mine, rounds = content["ours"], content["settings"]["rounds"]
    lines = [where(content), "", f"{rounds} rounds. **{mine}** is what a user gets here."]
    for title, rows in grouped(content["rows"], heading).items():
        by_rival = grouped(rows, lambda row: row["rival"])
        own, known = by_rival[mine], [name for name in by_rival if name in (mine, *COMPARED)]
        key = "further_mib" if "further_mib" in rows[0] else "peak_mib"
        name = "MiB, each further one" if key == "further_mib" else "MiB"
        body = [[f"**{r}**" if r == mine else r, *map(_time_cell, by_rival[r])] for r in by_rival]
        for other in (r for r in by_rival if r != mine and r.startswith(("PoNet", *COMPARED))):
            ratios = (row["times_as_fast_as"].get(other) for row in own)
            body.append([f"speed, x {other}", *map(spread_cell, ratios)])
        body += [[f"{name}: {r}", *(f"{row[key]:,.0f}" for row in by_rival[r])] for r in known]
        if "share_of_bound" in own[0]:
            shares = (f"{row['share_of_bound']:.0%}" for row in own)
            body.append([f"share of the bound: {mine}", *shares])
        head = ["ms a step (share of the product rate)"]
        head += [f"{row['num_texts']} x {row['num_tokens']}" for row in own]
        lines += ["", f"**{title}**", "", *grid(head, body)]
    return lines


def _time_cell(row: Row) -> str:
    return f"{1e3 * row['s']['median']:,.1f} ({row['share_of_product']:.0%})"


def pretraining(content: Content) -> list[str]:
    """Return the table of whole steps."""
    mine, settings = content["ours"], content["settings"]
    peaks = "; ".join(dict.fromkeys(row["peak"] for row in content["rows"]))
    about = (
        f"Encoder {settings['encoder']}, {settings['tokens_per_step']:,} tokens a step, dropout "
        f"{settings['dropout']:g}, {settings['num_workers']} loader workers, "
        f"{settings['rounds']} rounds of {settings['steps']} steps. MFU is a share of: {peaks}."
    )
    body = []
    for row in content["rows"]:
        rival, one = row["rival"], {"median": 1.0, "min": 1.0, "max": 1.0}
        cells = [str(row["num_tokens"]), f"**{rival}**" if rival == mine else rival]
        cells += [f"{1e3 * row['s']['median']:,.1f}", f"{row['positions_per_s']:,.0f}"]
        cells += [f"{row['mfu']:.1%}", f"{row['waiting_share']['median']:.2%}"]
        body.append([*cells, spread_cell(row["times_as_fast_as"].get(mine, one))])
    head = ("tokens", "rival", "ms", "positions/s", "MFU", "waiting for data", f"x {mine}")
    return [where(content), "", about, "", *grid(head, body)]


def steps(content: Content, *, against: str) -> list[str]:
    """Return steps per second, ratios to one rival and memory, by length."""

    def cell(row: Row) -> str:
        if row["over"]:
            return f"over {row['over']}"
        times = find([row], "times_as_fast_as", against, "median")
        ratio = f" ({times:.2f} x)" if times else ""
        return f"{1 / row['s']['median']:.2f}{ratio}, {row['peak_mib']:,.0f} MiB"

    by_rival = grouped(content["rows"], lambda row: row["rival"])
    head = [f"measured: steps/s (x {against})", *map(str, content["settings"]["lengths"])]
    return grid(head, [[name, *map(cell, rows)] for name, rows in by_rival.items()])


def lra_table2(content: Content) -> list[str]:
    """Return measured steps per second and memory, and the published figures."""
    published = content["published"]
    body = []
    for rival, speeds in published["steps_per_s"].items():
        pairs = zip(speeds, published["peak_gb"][rival], strict=True)
        body.append([rival, *(f"{a}, {b} GB" if a else "out of memory" for a, b in pairs)])
    head = ["**published**, not measured here: steps/s, unnamed GPU"]
    lines = [where(content), "", f"{content['settings']['num_texts']} texts a step.", ""]
    lines += steps(content, against="Transformer, plain attention")
    return [*lines, "", *grid([*head, *map(str, published["lengths"])], body)]


def long_documents(content: Content) -> list[str]:
    """Return steps per second and memory of classifiers, by length."""
    return [where(content), "", *steps(content, against="BERT")]


def loader(content: Content) -> list[str]:
    """Return examples per second by length."""
    names = list(dict.fromkeys(n for f in content["lengths"].values() for n in f["examples_per_s"]))
    body = []
    for length, found in content["lengths"].items():
        rates = (found["examples_per_s"].get(name) for name in names)
        cells = [f"{rate['median']:,.0f}" if rate else "-" for rate in rates]
        waits = found["consumer"]
        waiting = f"{waits['waiting_share']['median']:.2%} at {waits['examples_per_s']:,.0f}/s"
        body.append([length, *cells, waiting])
    head = ["tokens, examples/s", *names, "waiting of a consumer, 1 worker"]
    return [where(content), "", *grid(head, body)]


def text(content: Content) -> list[str]:
    """Return megabytes per second by way."""
    medians = content["median_mb_per_s_and_core"]
    library = medians["encode_batch_fast"]
    body = [[n.replace("_", " "), f"{v:.2f}", f"{v / library:.2f}"] for n, v in medians.items()]
    return [where(content), "", *grid(("way", "MB/s and core", "x encode_batch_fast"), body)]


def triton_kernels(content: Content) -> list[str]:
    """Return the share of the copy rate and the speed beside the eager kernels."""
    body = []
    for row in content["rows"]:
        cells = [str(row["num_tokens"]), str(row["segment_len"]), row["way"]]
        cells += [f"{1e3 * row['s']['median']:.3f}", f"{row['share_of_copy']['median']:.0%}"]
        body.append([*cells, spread_cell(row["times_as_fast_as"]["eager"])])
    head = ("tokens", "per segment", "", "ms", "of the copy rate", "speed, x PoNet eager")
    return [where(content), "", *grid(head, body)]


KINDS: dict[str, tuple[str, Callable[[Content], list[str]]]] = {
    "encoders": ("Mixer, layer, model", encoders),
    "pretraining": ("The whole pretraining step", pretraining),
    "lra_table2": ("Long texts, the paper's Table 2", lra_table2),
    "triton_kernels": ("Triton kernels", triton_kernels),
    "loader": ("The loader", loader),
    "text": ("Text to token ids", text),
}
"""Beginning of a file's name -> heading, text. The name of the module is the same."""


def loader_targets(content: Content) -> list[Target]:
    """Return what is claimed of the loader, with what was measured."""
    ours = "ours, one process (CPU time)"
    rate = find([content], "lengths", "512", "examples_per_s", ours, "median")
    waiting = find([content], "lengths", "512", "consumer", "waiting_share", "median")
    return [
        target("loader, 512 tokens: examples per second and core", rate, at_least=20_000),
        target("loader: waiting of a consumer of 4,000 examples/s", waiting, at_most=0.02),
    ]


def claims(results: dict[str, tuple[str, Content]]) -> list[str]:
    """Return the table of all claims that were measured, and of the others by name."""
    found: dict[tuple[str, str], list[tuple[str, ...]]] = {}
    for name, (kind, content) in results.items():
        targets = loader_targets(content) if kind == "loader" else content.get("targets", [])
        for entry in targets:
            cells = found.setdefault((entry["claim"], entry["target"]), [])
            if entry["measured"] is not None:
                cells.append((f"{entry['measured']:.4g}", verdict(entry), f"`{name}.json`"))
    rows = [
        (*claim, *(", ".join(dict.fromkeys(column)) for column in zip(*cells, strict=True)))
        for claim, cells in found.items()
        if cells
    ]
    missing = [f"{claim} ({bound})" for (claim, bound), cells in found.items() if not cells]
    lines = grid(("claim", "target", "measured", "", "from"), rows)
    return [*lines, "", "Not measured: " + "; ".join(missing) + "."] if missing else lines


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
    sections = []
    for kind, (title, render) in KINDS.items():
        shown = []
        for name, content in ((n, c) for n, (its, c) in results.items() if its == kind):
            first, *rest = render(content)
            plot = f"results/{name}.png" if content.get("has_plot") else ""
            shown.append({"name": name, "first": first, "plot": plot, "rest": "\n".join(rest)})
        sections.append((kind, title, shown))
    template = (Path(__file__).parent / "performance.md.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(trim_blocks=True)
    text = environment.from_string(template).render(
        claims="\n".join(claims(results)) if results else "",
        has_gpu=any("gpu" in part for _, c in results.values() for part in (c, c["machine"])),
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
