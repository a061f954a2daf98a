"""The two kinds of plot: bars for figures by name, lines for figures over the length of a text."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Spread = Mapping[str, float]
Bars = Mapping[str, Mapping[str, Spread]]
"""Series -> name of a bar -> median, lowest and highest."""
Lines = Mapping[str, Sequence[tuple[float, Spread]]]
"""Name of a line -> (x, median with lowest and highest)."""
STYLES = ("-", "--", ":", "-.")


def only(value: float) -> Spread:
    """Return the spread of a single figure."""
    return {"median": value, "min": value, "max": value}


def panels_of(rows: Iterable[Mapping[str, Any]], keys: Mapping[str, str]) -> dict[str, Any]:
    """Return a panel per key: its title -> rival -> (tokens of a text, value), where there is one.

    Args:
        rows: With `rival`, `num_tokens` and the keys, as figures or spreads.
        keys: Key -> title.
    """
    panels: dict[str, Any] = {title: {} for title in keys.values()}
    for row in rows:
        for key, title in keys.items():
            line, value = panels[title].setdefault(row["rival"], []), row.get(key)
            if value:
                found = value if isinstance(value, Mapping) else only(value)
                line.append((row["num_tokens"], found))
    return panels


def bar_chart(panels: Mapping[str, Bars], path: Path, *, unit: str) -> None:
    """Draw a panel per title; a thin line goes from the lowest to the highest figure."""
    longest = max(len(names) for series in panels.values() for names in series.values())
    most = max(len(series) for series in panels.values())
    figure, axes = _figure(len(panels), 1.4 + 0.25 * longest * (1 + most), len(panels))
    for axis, (title, series) in zip(axes, panels.items(), strict=False):
        height = 0.8 / len(series)
        for number, (label, bars) in enumerate(series.items()):
            places = [row + number * height for row in range(len(bars))]
            medians = [found["median"] for found in bars.values()]
            reach = _reach(list(bars.values()))
            drawn = axis.barh(
                places, medians, height=0.9 * height, xerr=reach, ecolor="0.3", label=label
            )
            axis.bar_label(drawn, fmt=_figure_text, padding=3, fontsize=8)
        names = list(next(iter(series.values())))
        axis.set_yticks([row + 0.4 - height / 2 for row in range(len(names))], names)
        axis.invert_yaxis()
        axis.margins(x=0.15)
        axis.set(title=title, xlabel=unit)
        if len(series) > 1:
            axis.legend(frameon=False, fontsize=8)
    _save(figure, path)


def line_chart(
    panels: Mapping[str, Lines],
    path: Path,
    *,
    title: str,
    xlabel: str = "tokens per text",
    spans: Sequence[tuple[float, float]] = (),
) -> None:
    """Draw a panel per title, both axes logarithmic; without bars where all three figures agree.

    Args:
        panels: Title -> lines. What stands before the comma of a name decides the colour.
        path: Of the PNG file.
        title: Of the figure.
        xlabel: What the length is.
        spans: From-to on the x axis, shaded; the axes are linear then.
    """
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = _figure(columns, 4.0 * lines + 0.8, len(panels))
    labels = list(dict.fromkeys(name for drawn in panels.values() for name in drawn))
    bases = list(dict.fromkeys(name.split(",")[0] for name in labels))
    for axis, (heading, drawn) in zip(axes, panels.items(), strict=False):
        for name, points in drawn.items():
            base = name.split(",")[0]
            kin = [other for other in labels if other.split(",")[0] == base]
            found = [value for _, value in points]
            axis.errorbar([x for x, _ in points], [value["median"] for value in found],
                          _reach(found), label=name, marker="o", ms=4, lw=1.4, capsize=2,
                          ls=STYLES[kin.index(name) % len(STYLES)],
                          color=f"C{bases.index(base)}")  # fmt: skip
        for first, last in spans:
            axis.axvspan(first, last, color="crimson", alpha=0.2)
        axis.set_title(heading, fontsize=10)
        axis.set_xlabel(xlabel)
        axis.grid(alpha=0.3)
        places = sorted({x for points in drawn.values() for x, _ in points})
        if places and not spans:
            _logarithmic(axis, places)
    keys = [axis.get_legend_handles_labels() for axis in axes]
    legend = {
        name: handle for handles, names in keys for handle, name in zip(handles, names, strict=True)
    }
    figure.legend(legend.values(), legend, loc="lower center", ncols=5, frameon=False, fontsize=8)
    figure.suptitle(title)
    _save(figure, path, rect=(0, 0.14 / lines, 1, 1))


def _figure_text(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _figure(columns: int, height: float, panels: int) -> tuple[Any, Sequence[Any]]:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = -(-panels // columns)
    size = (max(8.0, 5.0 * columns), height)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for axis in axes.flat[panels:]:
        axis.remove()
    return figure, list(axes.flat)[:panels]


def _reach(found: Sequence[Spread]) -> list[list[float]] | None:
    """Return how far the lowest and the highest figure are from the median."""
    reach = [
        [each["median"] - each["min"] for each in found],
        [each["max"] - each["median"] for each in found],
    ]
    return reach if any(map(any, reach)) else None


def _logarithmic(axis: Any, places: list[float]) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_xscale("log", base=2)
    axis.set_xticks(places, [f"{place:g}" for place in places], fontsize=8)
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _save(figure: Any, path: Path, **layout: Any) -> None:
    import matplotlib.pyplot as plt

    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout(**layout)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    print(path)
