"""What every measurement has: options, machine, JSON file, Markdown tables, claims."""

import argparse
import json
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

REPOSITORY = Path(__file__).resolve().parent.parent
CONFIGS = REPOSITORY / "configs"
RESULTS = Path("benchmarks/results")
Options = argparse.Namespace
Target = dict[str, Any]


def make_parser(doc: str | None, *, rounds: int = 0, device: bool = False) -> Any:
    """Return a parser with the options that measurements share.

    Args:
        doc: Of the module; becomes the help.
        rounds: Default of `--rounds`; 0: there is no such option.
        device: Whether there are `--device` and `--threads`.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if rounds:
        parser.add_argument("--rounds", type=int, default=rounds)
    if device:
        parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
        parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--short", action="store_true", help="a quick look: small and few rounds")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder")
    return parser


def fill(options: Options, defaults: Mapping[str, tuple[Any, Any]]) -> None:
    """Give options that are None their default: (on a CPU, on CUDA)."""
    for name, (on_cpu, on_cuda) in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, on_cuda if options.device == "cuda" else on_cpu)


def machine() -> dict[str, Any]:
    """Return what a reader needs to judge the numbers.

    Without AMX (`amx_bf16`) a bf16 product is no faster than an fp32 one, or slower; None: it is
    not known whether this CPU has it.
    """
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    names = [line for line in text.splitlines() if line.startswith("model name")]
    cpu = names[0].split(":", 1)[1].strip() if names else platform.processor()
    flags = set(text.split())
    return {
        "cpu": cpu or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        **{name: name in flags if text else None for name in ("amx_bf16", "avx512_bf16")},
    }


def save(name: str, content: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """Write `<output>/<name>.json`: machine, options and content; return the whole."""
    shown = {k: v for k, v in vars(options).items() if k not in ("output", "short", "name")}
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in shown.items()}
    whole: dict[str, Any] = {"machine": machine(), "torch": torch.__version__, "settings": settings}
    if settings.get("device") == "cuda":
        whole["gpu"] = torch.cuda.get_device_name()
    whole |= content
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"{name}.json"
    path.write_text(json.dumps(whole, indent=2) + "\n")
    print(path)
    return whole


def finish(
    name: str,
    content: Mapping[str, Any],
    options: Options,
    render: Callable[[dict[str, Any]], list[str]],
) -> None:
    """Write the JSON file; print its tables and what became of the claims."""
    whole = save(name, content, options)
    print("\n".join(["", *render(whole), ""]))
    for entry in whole.get("targets", []):
        measured = "-" if entry["measured"] is None else f"{entry['measured']:.4g}"
        print(f"{verdict(entry)}: {entry['claim']}: {measured}, target {entry['target']}")


def grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]


def target(
    claim: str,
    measured: float | None,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    lacks: str = "",
) -> Target:
    """Return a claim held against a measurement.

    Args:
        claim: What is claimed, with its sizes.
        measured: Median; None if this run does not cover it.
        at_least: The bound, or
        at_most: the bound.
        lacks: What the claim takes for granted and this machine has not, such as "AMX"; the
            figure is shown then, and not judged.

    Returns:
        claim, bound as text, measured, `met`: True, False or None (not measured, or not judged),
        and `lacks`.
    """
    assert (at_least is None) != (at_most is None), "one bound is needed"
    bound = f">= {at_least:g}" if at_least is not None else f"<= {at_most:g}"
    met = None
    if measured is not None and not lacks:
        met = measured >= at_least if at_least is not None else measured <= (at_most or 0.0)
    return {"claim": claim, "target": bound, "measured": measured, "met": met, "lacks": lacks}


def verdict(entry: Target) -> str:
    """Return met, MISSED, not judged or not measured."""
    if entry.get("lacks") and entry["measured"] is not None:
        return f"not judged: no {entry['lacks']} here"
    return {True: "met", False: "MISSED", None: "not measured"}[entry["met"]]
