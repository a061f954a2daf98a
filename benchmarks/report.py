"""What every measurement has: options, JSON file, Markdown tables, claims, plots."""

import argparse
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from data_prep.command import counted
from data_prep.files import write_json
from training.utilisation import cpu_has_fast_bf16

REPOSITORY = Path(__file__).resolve().parent.parent
CONFIGS = REPOSITORY / "configs"
Options = argparse.Namespace
Row = dict[str, Any]
Content = dict[str, Any]
Target = dict[str, Any]
Spread = Mapping[str, float]
STYLES = ("-", "--", ":", "-.")
LETTER, HANDLE, LEGEND_LINE = 0.062, 0.75, 0.17
"""Inches that a letter, the sign beside a name, and a line of a legend take at most."""
TICKS = (1, 2, 5)
"""Of a decade of a logarithmic axis."""


class Option(NamedTuple):
    """One option; a list takes several values, and False is a flag."""

    default: Any
    help: str = ""
    choices: Sequence[str] = ()
    cuda: Any = None
    """The default on CUDA, where it is another one."""
    short: Any = None
    """The default with `--short`, where it is another one."""
    kind: Any = None
    """Type of a value, where the default does not show it."""

    def add_to(self, parser: argparse.ArgumentParser, name: str) -> None:
        """Add it, without a default: that depends on other options."""
        form: dict[str, Any] = {"help": self.help or " "}
        if isinstance(self.default, bool):
            parser.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, **form)
            return
        some = self.default
        if isinstance(some, list):
            form["nargs"], some = "+", some[0]
        form |= {"type": self.kind or type(some), "choices": self.choices or None}
        shown = {"": self.default, " on CUDA": self.cuda, " with --short": self.short}
        defaults = ", ".join(f"{v}{k}" for k, v in shown.items() if v is not None) or "none"
        form["help"] = f"{self.help} (default: {defaults})".replace("%", "%%")
        parser.add_argument(f"--{name}", **form)

    def value(self, options: Options) -> Any:
        """Return the default in the face of the other options."""
        if options.short and self.short is not None:
            return self.short
        on_cuda = getattr(options, "device", "") == "cuda" and self.cuda is not None
        return self.cuda if on_cuda else self.default


OUTPUT = Option(Path("benchmarks/results"), "folder of the JSON file and the plot")
ROUNDS = "in which all rivals are timed, each in another order"
DEVICE = {
    "device": Option("cpu", choices=("cpu", "cuda")),
    "threads": Option(1, "of the CPU"),
}


def parse(
    doc: str | None, given: Mapping[str, Option], arguments: Sequence[str] | None, rest: str = ""
) -> Options:
    """Return the options of a measurement, threads set; `rest` names what may follow `--`."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="a quick look: small and few rounds")
    every = {**given, "output": OUTPUT}
    for name, option in every.items():
        option.add_to(parser, name)
    if rest:
        parser.add_argument(rest, nargs="*", help="after --")
    options = parser.parse_args(arguments)
    for name, option in every.items():
        if getattr(options, name) is None:
            setattr(options, name, option.value(options))
    if "lengths" in every:
        options.lengths = sorted(set(options.lengths))
    torch.set_num_threads(getattr(options, "threads", torch.get_num_threads()))
    return options


def machine() -> Row:
    """Return what a reader needs to judge the numbers.

    Without AMX (`amx_bf16`) a bf16 product may be no faster than an fp32 one (some Xeons) or 2 to 3
    times as fast (AMD Zen 4); None: it is not known whether this CPU has it.
    """
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    flags = set(" ".join(lines).split())
    return {
        "cpu": (names or [platform.processor()])[0] or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        **{name: name in flags if flags else None for name in ("amx_bf16", "avx512_bf16")},
    }


def lacks_fast_bf16() -> str:
    """Return what a CPU lacks whose bf16 products are hardly faster than those in fp32, or ""."""
    return "" if cpu_has_fast_bf16() else "fast bf16"


def write(name: str, content: Row, options: Options) -> Row:
    """Write `<output>/<name>.json` and return what it holds: machine, options, content.

    Long measurements do so after every part, so that a cut one loses a part and not all.
    """
    shown = {k: v for k, v in vars(options).items() if k not in ("output", "short", "name")}
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in shown.items()}
    whole: Row = {"machine": machine(), "torch": torch.__version__, "settings": settings}
    if settings.get("device") == "cuda":
        whole["gpu"] = torch.cuda.get_device_name()
    whole |= content
    options.output.mkdir(parents=True, exist_ok=True)
    write_json(options.output / f"{name}.json", whole)
    return whole


def finish(name: str, content: Row, options: Options, *, kind: str = "") -> str:
    """Write `<output>/<name>.json`; print its tables and claims.

    The tables, which are returned, are those of a kind, the name where none is given.
    """
    whole = write(name, content, options)
    shown_tables = tables(kind or name, whole)
    print(f"{options.output / name}.json\n\n{shown_tables}\n")
    for entry in whole.get("targets", []):
        measured = "-" if entry["measured"] is None else f"{entry['measured']:.4g}"
        print(f"{verdict(entry)}: {entry['claim']}: {measured}, target {entry['target']}")
    return shown_tables


def template(name: str) -> Any:
    """Return a template of this folder."""
    from jinja2 import Environment, FileSystemLoader

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {"where": where, "heading": heading, "grouped": grouped}
    environment.globals |= {"spread": spread_cell, "bold": bold, "counted": counted}
    return environment.get_template(name)


def tables(kind: str, content: Content) -> str:
    """Return the Markdown tables of a measurement."""
    return str(getattr(template("tables.md.j2").module, kind)(content)).strip()


def where(content: Content) -> str:
    """Return the machine in one line."""
    machine, settings = content["machine"], content.get("settings", {})
    parts = [source["gpu"] for source in (content, machine) if "gpu" in source]
    parts.append(f"{machine['cpu']}, {machine['cores']} cores")
    if "amx_bf16" in machine:
        parts.append("with AMX" if machine["amx_bf16"] else "without AMX")
    if settings.get("device") == "cpu":
        parts.append(counted(settings["threads"], "thread(s)"))
    if "torch" in content:
        parts.append(f"PyTorch {content['torch']}")
    load = ", ".join(f"{value:g}" for value in machine["load_average"])
    return f"{'; '.join(parts)}; load average at the end {load}."


def spread_cell(found: Spread | None) -> str:
    """Return median, lowest and highest."""
    return f"{found['median']:.2f} ({found['min']:.2f} to {found['max']:.2f})" if found else "-"


def bold(name: str, chosen: str) -> str:
    """Return a name in bold if it is the chosen one."""
    return f"**{name}**" if name == chosen else name


def heading(row: Row) -> str:
    """Return what the rows of one setting have in common."""
    precision = "fp32" if row["precision"] == "32" else row["precision"]
    return f"{row['part']}, {row['mode']}, {row['size']}, {precision}"


def grouped(rows: Iterable[Row], key: str | Callable[[Row], str]) -> list[tuple[str, list[Row]]]:
    """Return the rows by what a key or function says of them, in their order."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[key] if isinstance(key, str) else key(row), []).append(row)
    return list(groups.items())


def find(rows: Iterable[Row], *path: str, **wanted: Any) -> Any:
    """Return what lies at a path in the row with these values; None where anything is missing."""
    found: Any = next((r for r in rows if all(r.get(k) == v for k, v in wanted.items())), None)
    for key in path:
        found = (found or {}).get(key)
    return found


def target(
    claim: str, measured: float | None, *, at_least: float | None = None,
    at_most: float | None = None, lacks: str = "",
) -> Target:  # fmt: skip
    """Return a claim held against a median, and against one of the two bounds.

    `met` is None where nothing was measured, or where this machine lacks what the claim takes for
    granted, such as fast bf16: the figure is shown then, and not judged.
    """
    bound, sign = (at_most, "<=") if at_least is None else (at_least, ">=")
    assert bound is not None, "one bound is needed"
    is_judged = measured is not None and not lacks
    met = (measured >= bound if sign == ">=" else measured <= bound) if is_judged else None
    text = f"{sign} {bound:g}"
    return {"claim": claim, "target": text, "measured": measured, "met": met, "lacks": lacks}


def verdict(entry: Target) -> str:
    """Return met, MISSED, not judged or not measured."""
    if entry.get("lacks") and entry["measured"] is not None:
        return f"not judged: no {entry['lacks']} here"
    return {True: "met", False: "MISSED", None: "not measured"}[entry["met"]]


def only(value: float) -> Spread:
    """Return the spread of a single figure."""
    return {"median": value, "min": value, "max": value}


def of_seeds(found: Row) -> Spread:
    """Return what is drawn of an `Estimate` that stands in a row: its mean between the extremes."""
    return {"median": found["mean"], "min": found["minimum"], "max": found["maximum"]}


def panels_of(rows: Iterable[Row], keys: Mapping[str, str]) -> dict[str, Any]:
    """Return a panel per key: its title -> rival -> (tokens of a text, value) of the rows."""
    panels: dict[str, Any] = {title: {} for title in keys.values()}
    for row in rows:
        for key, title in keys.items():
            line, value = panels[title].setdefault(row["rival"], []), row.get(key)
            if value:
                found = value if isinstance(value, Mapping) else only(value)
                line.append((row["num_tokens"], found))
    return panels


def bar_chart(
    panels: Mapping[str, Mapping[str, Mapping[str, Spread]]], path: Path, *, unit: str
) -> None:
    """Draw a panel per title (series -> name -> spread); thin lines go from lowest to highest."""
    from pandas import DataFrame

    longest = max(len(names) for series in panels.values() for names in series.values())
    most = max(len(series) for series in panels.values())
    figure, axes = _axes(len(panels), 1.4 + 0.25 * longest * (1 + most), len(panels))
    for axis, (title, series) in zip(axes, panels.items(), strict=True):
        found = {label: _reach(list(bars.values())) for label, bars in series.items()}
        frame = DataFrame({k: v[0] for k, v in found.items()}, next(iter(series.values())))
        reach = [v[1] or [[0.0] * len(frame)] * 2 for v in found.values()]
        form = {"title": title, "xlabel": unit, "legend": len(series) > 1, "ecolor": "0.3"}
        frame.plot.barh(ax=axis, xerr=reach, width=0.8, **form)
        for bars in axis.containers:
            if hasattr(bars, "datavalues"):
                axis.bar_label(bars, fmt=_figure_text, padding=3, fontsize=8)
        axis.invert_yaxis()
        axis.margins(x=0.15)
    _save(figure, path)


def line_chart(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, Spread]]]],
    path: Path,
    *,
    title: str,
    xlabel: str = "tokens per text",
    spans: Sequence[tuple[float, float]] = (),
    is_linear: bool = False,
    is_share: bool = False,
) -> None:
    """Draw a panel per title, both axes logarithmic; without bars where all three figures agree.

    Shares have a linear y axis from 0 to 1.

    What stands before the comma of a line's name decides its colour. Spans of the x axis are
    shaded; the axes are linear then, or if so asked.
    """
    lines = -(-len(panels) // min(3, len(panels)))
    figure, axes = _axes(min(3, len(panels)), 4.0 * lines + 0.8, len(panels))
    labels = list(dict.fromkeys(name for drawn in panels.values() for name in drawn))
    kin: dict[str, list[str]] = {}
    for name in labels:
        kin.setdefault(name.split(",")[0], []).append(name)
    legend = {}
    for axis, (heading, drawn) in zip(axes, panels.items(), strict=True):
        for name, points in drawn.items():
            base = name.split(",")[0]
            medians, reach = _reach([value for _, value in points])
            legend[name] = axis.errorbar(
                [x for x, _ in points], medians, reach, label=name, marker="o", ms=4, lw=1.4,
                capsize=2, ls=STYLES[kin[base].index(name) % len(STYLES)],
                color=f"C{list(kin).index(base)}",
            )  # fmt: skip
        for first, last in spans:
            axis.axvspan(first, last, color="crimson", alpha=0.2)
        axis.set_title(heading, fontsize=10)
        axis.set_xlabel(xlabel)
        axis.grid(alpha=0.3)
        places = sorted({x for points in drawn.values() for x, _ in points})
        if places and not (spans or is_linear):
            _make_logarithmic(axis, places, is_share=is_share)
    width, height = figure.get_size_inches()
    fitting = int(width / (LETTER * max(map(len, labels), default=0) + HANDLE))
    columns = max(1, min(5 if len(panels) > 1 else 3, fitting))
    form = {"loc": "lower center", "frameon": False, "fontsize": 8}
    figure.legend(legend.values(), legend, ncols=columns, **form)
    figure.suptitle(title)
    needed = LEGEND_LINE * (-(-len(labels) // columns) + 1) / height
    _save(figure, path, rect=(0, max(0.14 / lines, needed), 1, 1))


def _figure_text(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _axes(columns: int, height: float, panels: int) -> tuple[Any, Sequence[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(8.0, 5.0 * columns), height))
    grid = -(-panels // columns), columns
    return figure, [figure.add_subplot(*grid, number + 1) for number in range(panels)]


def _reach(found: Sequence[Spread]) -> tuple[list[float], list[list[float]] | None]:
    """Return the medians, and how far the lowest and the highest figure are from them."""
    medians = [each["median"] for each in found]
    reach = [[each["median"] - each["min"] for each in found],
             [each["max"] - each["median"] for each in found]]  # fmt: skip
    return medians, reach if any(map(any, reach)) else None


def _make_logarithmic(axis: Any, places: list[float], *, is_share: bool) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_xscale("log", base=2)
    axis.set_xticks(places, [f"{place:g}" for place in places], fontsize=8)
    if is_share:
        axis.set_ylim(-0.02, 1.02)
        return
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=TICKS))
    marks = [tick * 10.0**power for power in range(-9, 16) for tick in TICKS]
    # Out to the next ticks: with two alone a reader takes it for linear.
    low, high = axis.get_ylim()
    axis.set_ylim(max(m for m in marks if m <= low), min(m for m in marks if m >= high))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _save(figure: Any, path: Path, **layout: Any) -> None:
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout(**layout)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    print(path)
