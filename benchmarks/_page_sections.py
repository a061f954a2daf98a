"""Markdown of docs/performance.md, one function per kind of result."""

from collections.abc import Iterable, Sequence
from typing import Any

from _lra_published import PUBLISHED_PEAK_GB, PUBLISHED_STEPS_PER_S
from _targets import Target, target, verdict

Content = dict[str, Any]
Row = dict[str, Any]


def grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]


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


def loading_targets(content: Content) -> list[Target]:
    """Return what is claimed of the loader, with what data_loading.py measured."""
    found = content["lengths"].get("512")
    rate = waiting = None
    if found:
        rate = found["examples_per_s"]["ours, one process (CPU time)"]["median"]
        waiting = found["consumer"]["waiting_share"]["median"]
    return [
        target("loader, 512 tokens: examples per second and core", rate, at_least=20_000),
        target("loader: waiting of a consumer of 4,000 examples/s", waiting, at_most=0.02),
    ]


def targets_of(kind: str, content: Content) -> list[Target]:
    """Return the claims of one file."""
    if kind == "data_loading":
        return loading_targets(content)
    found: list[Target] = content.get("targets", [])
    if kind == "triton_kernels":  # a share, with a bare number as its bound
        return [
            {**entry, "claim": entry["what"], "target": f">= {entry['target']:g}"}
            if "what" in entry
            else entry
            for entry in found
        ]
    return found


def claims(results: dict[str, tuple[str, Content]]) -> list[str]:
    """Return the table of all claims that were measured, and of the others by name."""
    found: dict[tuple[str, str], list[tuple[str, ...]]] = {}
    for name, (kind, content) in results.items():
        for entry in targets_of(kind, content):
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


def gpu_note(results: dict[str, tuple[str, Content]]) -> list[str]:
    """Return what is missing where no file is from a GPU."""
    sources = [part for _, found in results.values() for part in (found, found["machine"])]
    if any("gpu" in source for source in sources):
        return []
    return [
        "Nothing here is from a GPU yet. On one with bf16: `encoders.py`, `pretraining.py` and "
        "`lra_table2.py` in `benchmarks/` with `--device cuda --output docs/results`, and "
        "`triton_kernels.py --output docs/results`; then this page anew."
    ]


def encoders(content: Content) -> list[str]:
    """Return tables of time, ratios and memory for every setting of encoders.py."""
    mine, lines = content["ours"], [where(content)]
    rounds, compared = content["settings"]["rounds"], ("official PoNet", "BERT", "FNet")
    lines += ["", f"{rounds} rounds. **{mine}** is what a user gets here."]
    for rows in _settings(content["rows"]):
        first = rows[0]
        precision = "fp32" if first["precision"] == "32" else first["precision"]
        lines += ["", f"**{first['part']}, {first['mode']}, {first['size']}, {precision}**", ""]
        lengths = sorted({row["num_tokens"] for row in rows})
        shapes = {row["num_tokens"]: row["num_texts"] for row in rows}
        head = ["ms a step (share of the product rate)", *(f"{shapes[n]} x {n}" for n in lengths)]
        body = []
        for rival, found in _by_rival(rows).items():
            name = f"**{rival}**" if rival == mine else rival
            body.append([name, *(_time_cell(found[n]) for n in lengths)])
        own = _by_rival(rows)[mine]
        for other in dict.fromkeys(name for name in _by_rival(rows) if name != mine):
            if other.split(",")[0] not in compared and not other.startswith("PoNet"):
                continue
            ratios = [own[n]["times_as_fast_as"].get(other) for n in lengths]
            body.append([f"speed, x {other}", *(_spread_cell(found) for found in ratios)])
        body += _memory_rows(rows, mine, lengths)
        lines += grid(head, body)
    return lines


def _settings(rows: list[Row]) -> list[list[Row]]:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        key = (row["part"], row["mode"], row["size"], row["precision"])
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def _by_rival(rows: list[Row]) -> dict[str, dict[int, Row]]:
    found: dict[str, dict[int, Row]] = {}
    for row in rows:
        found.setdefault(row["rival"], {})[row["num_tokens"]] = row
    return found


def _time_cell(row: Row) -> str:
    return f"{1e3 * row['s']['median']:,.1f} ({row['share_of_product']:.0%})"


def _spread_cell(found: dict[str, float] | None) -> str:
    return f"{found['median']:.2f} ({found['min']:.2f} to {found['max']:.2f})" if found else "-"


def _memory_rows(rows: list[Row], mine: str, lengths: list[int]) -> list[list[str]]:
    """Return MiB of the rivals, and the share of the bound that our training layer reaches."""
    key = "further_mib" if "further_mib" in rows[0] else "peak_mib"
    name = "MiB, each further one" if key == "further_mib" else "MiB"
    body = [
        [f"{name}: {rival}", *(f"{found[n][key]:,.0f}" for n in lengths)]
        for rival, found in _by_rival(rows).items()
        if rival == mine or rival in ("official PoNet", "BERT", "FNet")
    ]
    own = _by_rival(rows)[mine]
    if "share_of_bound" in own[lengths[0]]:
        shares = [f"{own[n]['share_of_bound']:.0%}" for n in lengths]
        body.append([f"share of the bound: {mine}", *shares])
    return body


def pretraining(content: Content) -> list[str]:
    """Return the table of whole steps."""
    mine, settings = content["ours"], content["settings"]
    lines = [
        where(content),
        "",
        f"Encoder {settings['encoder']}, {settings['tokens_per_step']:,} tokens a step, dropout "
        f"{settings['dropout']:g}, {settings['num_workers']} loader workers, "
        f"{settings['rounds']} rounds of {settings['steps']} steps. MFU is a share of: "
        f"{'; '.join(dict.fromkeys(row['peak'] for row in content['rows']))}.",
        "",
    ]
    body = []
    for row in content["rows"]:
        against = row["times_as_fast_as"].get(mine)
        slower = {"median": 1.0, "min": 1.0, "max": 1.0} if against is None else against
        name = f"**{row['rival']}**" if row["rival"] == mine else row["rival"]
        cells = [str(row["num_tokens"]), name, f"{1e3 * row['s']['median']:,.1f}"]
        cells += [f"{row['positions_per_s']:,.0f}", f"{row['mfu']:.1%}"]
        body.append([*cells, f"{row['waiting_share']['median']:.2%}", _spread_cell(slower)])
    head = ("tokens", "rival", "ms", "positions/s", "MFU", "waiting for data", f"x {mine}")
    return [*lines, *grid(head, body)]


def lra_table2(content: Content) -> list[str]:
    """Return measured steps per second and memory, and the published figures."""
    lengths = content["settings"]["lengths"]
    plain = "Transformer, plain attention"
    lines = [where(content), "", f"{content['settings']['num_texts']} texts a step.", ""]
    body = []
    for rival in dict.fromkeys(row["rival"] for row in content["rows"]):
        cells = []
        for row in (row for row in content["rows"] if row["rival"] == rival):
            if row["over_memory"]:
                cells.append("over memory")
                continue
            times = row["times_as_fast_as"].get(plain)
            cells.append(
                f"{row['steps_per_s']:.2f}"
                + (f" ({times['median']:.2f} x)" if times else "")
                + f", {row['peak_mib']:,.0f} MiB"
            )
        body.append([rival, *cells])
    head = [f"measured: steps/s (x {plain})", *(f"{n}" for n in lengths)]
    lines += grid(head, body)
    columns = content["published"]["lengths"]
    body = []
    for rival, speeds in PUBLISHED_STEPS_PER_S.items():
        pairs = zip(speeds, PUBLISHED_PEAK_GB[rival], strict=True)
        body.append([rival, *(f"{a}, {b} GB" if a else "out of memory" for a, b in pairs)])
    head = ["**published**, not measured here: steps/s, unnamed GPU", *map(str, columns)]
    return [*lines, "", *grid(head, body)]


def data_loading(content: Content) -> list[str]:
    """Return examples per second by length."""
    names = list(dict.fromkeys(n for f in content["lengths"].values() for n in f["examples_per_s"]))
    body = []
    for length, found in content["lengths"].items():
        rates = [found["examples_per_s"].get(name) for name in names]
        cells = [f"{rate['median']:,.0f}" if rate else "-" for rate in rates]
        waits = found["consumer"]
        waiting = f"{waits['waiting_share']['median']:.2%} at {waits['examples_per_s']:,.0f}/s"
        body.append([length, *cells, waiting])
    head = ["tokens, examples/s", *names, "waiting of a consumer, 1 worker"]
    return [where(content), "", *grid(head, body)]


def data_prep(content: Content) -> list[str]:
    """Return megabytes per second by way."""
    medians = content["median_mb_per_s_and_core"]
    library = medians["encode_batch_fast"]
    body = [
        [name.replace("_", " "), f"{rate:.2f}", f"{rate / library:.2f}"]
        for name, rate in medians.items()
    ]
    return [where(content), "", *grid(("way", "MB/s and core", "x encode_batch_fast"), body)]


def triton_kernels(content: Content) -> list[str]:
    """Return the share of the copy rate and the speed beside the eager kernels."""
    body = [
        [
            str(case["tokens_per_text"]),
            str(case["tokens_per_segment"]),
            way,
            f"{1e3 * case[way]['seconds']['triton']['median']:.3f}",
            f"{case[way]['share']['median']:.0%}",
            _spread_cell(case[way]["eager_over_triton"]),
        ]
        for case in content["cases"]
        for way in content["passes"]
    ]
    head = ("tokens", "per segment", "", "ms", "of the copy rate", "speed, x PoNet eager")
    return [where(content), "", *grid(head, body)]
