"""The table and the plot of encoders.py."""

from pathlib import Path
from typing import Any

Row = dict[str, Any]
COMPARED = ("official PoNet", "BERT", "FNet")
COLORS = {"ponet": "C0", "official": "C1", "bert": "C3", "fnet": "C2"}


def heading(row: Row) -> str:
    """Return what the rows of one setting have in common."""
    precision = "fp32" if row["precision"] == "32" else "bf16"
    return f"{row['part']}, {row['mode']}, {row['size']}, {precision}"


def table(rows: list[Row], rates: dict[str, float], *, our_label: str) -> str:
    """Return the lines of one setting for the screen; the rival that counts as ours has a star."""
    products = ", ".join(
        f"{name.removeprefix('product, ')} {rate / 1e9:,.0f}"
        for name, rate in rates.items()
        if name.startswith("product")
    )
    copy = f"{rates['copy'] / 1e9:,.1f} GB/s"
    lines = [
        f"\n{heading(rows[0])}; products in GFLOP/s: {products}; copy {copy}",
        f"{'':34}{'ms':>10}{'lowest':>10}{'highest':>10}{'tokens/s':>11}{'MiB':>8}{'product':>9}"
        + "".join(f"{'x ' + name.split()[0]:>12}" for name in COMPARED)
        + f"{'x 1st length':>14}",
    ]
    for row in rows:
        star = "*" if row["rival"] == our_label else " "
        name = f"{row['rival']}{star} {row['num_texts']} x {row['num_tokens']}"
        cells = "".join(f"{1e3 * row['s'][key]:10,.1f}" for key in ("median", "min", "max"))
        cells += (
            f"{row['tokens_per_s']:11,.0f}{row['peak_mib']:8,.0f}{row['share_of_product']:9.0%}"
        )
        ratios = [row["times_as_fast_as"].get(other) for other in COMPARED]
        cells += "".join(f"{found['median']:12.2f}" if found else f"{'':12}" for found in ratios)
        cost = row["token_cost_to_shortest"]
        lines.append(f"{name:34}{cells}{cost['median']:14.2f}" if cost else f"{name:34}{cells}")
    return "\n".join(lines)


def plot(rows: list[Row], our_label: str, path: Path) -> Path:
    """Draw, for each setting, the speed of the others as a share of ours over the length."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    titles = list(dict.fromkeys(heading(row) for row in rows))
    columns = min(3, len(titles))
    lines = -(-len(titles) // columns)
    size = (4.6 * columns, 3.6 * lines + 0.6)
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False)
    for axis in axes.flat[len(titles) :]:
        axis.remove()
    for axis, title in zip(axes.flat, titles, strict=False):
        _draw(axis, [row for row in rows if heading(row) == title], our_label)
        axis.set_title(title, fontsize=10)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4, frameon=False, fontsize=8)
    spread = "\n" if columns == 1 else " "  # one panel is narrower than the title
    text = f"{our_label}: speed as a multiple of each rival's,{spread}medians, lowest to highest"
    figure.suptitle(text, fontsize=10 if columns == 1 else None)
    figure.tight_layout(rect=(0, 0.1 if lines == 1 else 0.06, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def _draw(axis: Any, rows: list[Row], our_label: str) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    mine = [row for row in rows if row["rival"] == our_label]
    lengths = [row["num_tokens"] for row in mine]
    kinds = {row["rival"]: row["kind"] for row in rows}
    for rival, kind in kinds.items():
        points = [(row["num_tokens"], row["times_as_fast_as"].get(rival)) for row in mine]
        drawn = [(length, found) for length, found in points if found]
        if not drawn:
            continue
        medians = [found["median"] for _, found in drawn]
        errors = [
            [found["median"] - found["min"] for _, found in drawn],
            [found["max"] - found["median"] for _, found in drawn],
        ]
        style = "--" if "compiled" in rival or kind == "ponet" else "-"
        axis.errorbar([length for length, _ in drawn], medians, errors, label=rival, marker="o",
                      ms=4, lw=1.4, ls=style, color=COLORS[kind], capsize=2)  # fmt: skip
    axis.axhline(1.0, color="0.4", lw=0.8)
    axis.set_xscale("log", base=2)
    axis.set_xticks(lengths, [str(length) for length in lengths], fontsize=8)
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.tick_params(axis="y", labelsize=8)
    axis.set_xlabel("tokens per text", fontsize=8)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
