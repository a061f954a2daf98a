"""gpu.json, a table of at most 60 lines, and an archive of everything."""

import tarfile
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import report, triton_kernels
from benchmarks.gpu.cells import Log, Sizes
from benchmarks.report import Content, Row, Target, find, machine, verdict
from data_prep.files import write_json

MOST_LINES = 60
MOST_BYTES = 16 * 2**20


def write(folder: Path, stages: list[str], sizes: Sizes) -> Content:
    """Write `gpu.json`, the rows of every stage and what they say of the claims; return it."""
    rows = {stage: Log(folder, stage).rows() for stage in stages}
    content = {"machine": machine(), "torch": torch.__version__, "sizes": asdict(sizes)}
    content |= {"targets": claims(rows, sizes), "stages": rows}
    versions = find(rows["machine"], what="versions") or {}
    content |= {"gpu": versions["gpu"]} if "gpu" in versions else {}
    write_json(folder / "gpu.json", content, default=str)
    return content


def claims(rows: dict[str, list[Row]], sizes: Sizes) -> list[Target]:
    """Return what is claimed of a GPU, with what was measured."""
    steps, first, ours = rows["steps"], sizes.lengths[0], "PoNet, compiled, bf16"
    target = partial(report.target, lacks="GPU" if sizes.is_dry else "")
    found = []
    for preset, bound in ((sizes.encoder, 0.35), (sizes.small, 0.14)):
        wanted = {"encoder": preset, "num_tokens": first, "rival": ours}
        text = f"GPU, {preset} step, {first} tokens: model FLOP utilisation"
        found.append(target(text, find(steps, "mfu", **wanted), at_least=bound))
    for length, bound in zip(sizes.lengths, (1.0, 1.7, 4.0), strict=False):
        wanted = {"encoder": sizes.encoder, "num_tokens": length, "rival": ours}
        speed = over_best(find(steps, **wanted) or {}, "BERT")
        text = f"GPU, {sizes.encoder} step, {length} tokens: x BERT compiled, its best attention"
        found.append(target(text, speed, at_least=bound))
    long = {"encoder": sizes.encoder, "num_tokens": sizes.lengths[-1], "rival": ours}
    speed = over_best(find(steps, **long) or {}, "local/global")
    text = f"GPU, {sizes.encoder} step, {sizes.lengths[-1]} tokens: x local/global attention"
    found.append(target(f"{text}, compiled", speed, at_least=1.2))
    for way in triton_kernels.PASSES:
        shares = [r["share_of_copy"]["median"] for r in rows["kernels"] if r.get("way") == way]
        text = f"GPU, pools {way}: share of copy bandwidth, slowest case"
        found.append(target(text, min(shares, default=None), at_least=0.6))
    return found


def over_best(row: Row, name: str) -> float | None:
    """Return how many times as fast as the fastest compiled rival of a name a row is."""
    speeds = row.get("times_as_fast_as", {}).items()
    found = [s["median"] for r, s in speeds if s and r.startswith(name) and "compiled" in r]
    return min(found, default=None)


def pack(folder: Path) -> Path:
    """Write `gpu.tar.gz` of the files of the folder; profiles and logs are text and shrink."""
    path = folder / "gpu.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for file in sorted(
            (*folder.glob("*.json"), *folder.glob("*.jsonl"), *folder.glob("*.log"))
        ):
            if file.stat().st_size < MOST_BYTES:
                archive.add(file, arcname=file.name)
    if path.stat().st_size > MOST_BYTES:
        path.unlink()
        raise ValueError(f"{path} is larger than {MOST_BYTES:,} bytes; the files lie beside it")
    return path


def table(content: Content) -> list[str]:
    """Return failures, claims and the most telling figures, in at most 60 lines."""
    rows = content["stages"]
    wrong = [r for r in rows["correct"] if r.get("is_right") is False]
    lines = [f"WRONG {r['what']}: {r['name']}: {r.get('distances')}"[:110] for r in wrong]
    failed = [row for mine in rows.values() for row in mine if "error" in row]
    lines += [f"FAILED {r['stage']}, {r['what']}: {r['error'][:90]}" for r in failed[:12]]
    for entry in content["targets"]:
        shown = "-" if entry["measured"] is None else f"{entry['measured']:.3g}"
        lines.append(f"{verdict(entry)}: {entry['claim']}: {shown}, target {entry['target']}")
    for stage, line_of in LINES.items():
        lines += [line for row in rows[stage] if (line := line_of(row))]
    return lines[:MOST_LINES]


def _ms(row: Row) -> str:
    return f"{1e3 * row['s']['median']:9.3f} ms"


def _machine(row: Row) -> str:
    if row["what"] == "versions":
        return f"{row.get('nvidia_smi', '')}; torch {row['torch']}; FlashAttention {row['flash']}"
    if row["what"] == "rates" and "per_s" in row:
        return f"{row['name']}: {row['per_s'] / 1e12:.3g} T/s"
    if "kernels" in row:
        return f"{row['what']}, {row['name']}: {_ms(row)}, {', '.join(row['kernels'])[:70]}"
    return ""


def _correct(row: Row) -> str:
    if "repeats" not in row or "pools" in row["what"]:
        return ""
    return f"{row['name']}: right {row['is_right']}, repeats to the bit {row['repeats']}"


def _kernels(row: Row) -> str:
    if "sizes" in row:
        form = "/".join(str(value) for value in row["sizes"].values())
        both = ", ".join(f"{1e3 * row[f'{way}_s']:.3f}" for way in ("forward", "backward"))
        return f"tiles {form}: {both} ms"
    if "way" not in row or "copy" in row["way"]:
        return ""
    share = row["share_of_copy"]["median"]
    return f"pools, {row['num_tokens']}, {row['segment_len']}, {row['way']}: {share:.0%} of copy"


def _layers(row: Row) -> str:
    if "rival" not in row or "s" not in row:
        return ""
    rivals = row["times_as_fast_as"]
    shown = {name.split(",")[0]: rivals[name]["median"] for name in rivals if rivals[name]}
    fast = ", ".join(f"{name} {speed:.2f}" for name, speed in shown.items())
    place = f"{row.get('size', row.get('encoder', ''))} {row['num_tokens']:>5}"
    is_ours = row["rival"].startswith("PoNet, compiled") or row["rival"] == "PoNet"
    return f"{place} {row['rival']}: {_ms(row)}; x {fast}" if is_ours else ""


def _steps(row: Row) -> str:
    if "device_s" in row:
        times = f"{1e3 * row['device_s']:.1f} of {1e3 * row['profiled_s']:.1f} ms on the device"
        return f"{row['encoder']} {row['rival']}: {times}, {row['launches']:.0f} launches"
    if "mfu" not in row:
        return ""
    place = f"{row['encoder']} {row['num_tokens']:>5} {row['rival']}"
    rate = f"{row['positions_per_s']:,.0f} tokens/s"
    best = over_best(row, "BERT") if row["rival"].startswith("PoNet") else None
    fast = f", x best BERT {best:.2f}" if best else ""
    return f"{place}: {_ms(row)}, MFU {row['mfu']:.1%}, {rate}{fast}"


def _table_2(row: Row) -> str:
    if row.get("rival") != "PoNet" or "s" not in row:
        return ""
    return f"Table 2, {row['num_tokens']:>5}: {1 / row['s']['median']:.1f} steps/s"


def _fit(row: Row) -> str:
    if "differing" in row:
        return f"killed and resumed, {row['name']}: {row['differing']} of {row['weights']} differ"
    if "loss" not in row:
        return ""
    rates = f"{row['tokens_per_s']:,.0f} tokens/s, MFU {row['mfu']:.1%}"
    return f"step {row['step']}: loss {row['loss']:.3f}, {rates}" if row["step"] % 200 == 0 else ""


LINES: dict[str, Any] = {"machine": _machine, "correct": _correct, "steps": _steps,
                         "layers": _layers, "kernels": _kernels, "lra": _table_2,
                         "fit": _fit}  # fmt: skip
"""Stage -> line of a row, the most telling stages first: the table is cut at its end."""
