"""Shared by the benchmarks: machine description, interleaved medians, JSON and a bar chart."""

import json
import platform
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

RESULTS = Path("benchmarks/results")


def machine() -> dict[str, Any]:
    """Return what a reader needs to judge the numbers."""
    import os

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].split(":", 1)[1].strip() if names else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def interleaved(
    rivals: Mapping[str, Callable[[], float]], *, rounds: int
) -> dict[str, dict[str, Any]]:
    """Measure every rival once per round, in turn, so that a disturbance hits them all.

    Args:
        rivals: Name -> function that runs once and returns a rate.
        rounds: How often; a first round is thrown away.

    Returns:
        Name -> median, lowest and highest rate and all rates.
    """
    rates: dict[str, list[float]] = {name: [] for name in rivals}
    for number in range(rounds + 1):
        for name, run in rivals.items():
            rate = run()
            if number:
                rates[name].append(rate)
    return {
        name: {
            "median": statistics.median(values),
            "min": min(values),
            "max": max(values),
            "all": values,
        }
        for name, values in rates.items()
    }


def save(name: str, content: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Write `<folder>/<name>.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path


def bar_chart(
    name: str, bars: Mapping[str, float], *, title: str, unit: str, folder: Path = RESULTS
) -> Path:
    """Write `<folder>/<name>.png`, one horizontal bar per entry with its number."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(figsize=(8.0, 1.2 + 0.45 * len(bars)))
    drawn = axes.barh(list(bars), list(bars.values()))
    axes.bar_label(drawn, fmt=lambda value: f"{value:,.0f}", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set(title=title, xlabel=unit)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    path = folder / f"{name}.png"
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path
