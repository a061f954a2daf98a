"""What is printed about the data of a run before it trains.

Invariant: every line is made of an `Inspection`; nothing is looked at again.
"""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from finetune.data.inspection import (
    DUPLICATES,
    LENGTH_EDGES,
    Inspection,
    LengthInspection,
    SplitInspection,
)
from finetune.metrics import is_of_one_class, metric_title, value_text

_LABELS_SHOWN = 11


def overview_lines(inspection: Inspection) -> list[str]:
    """Return what is printed before training."""
    lines = [
        f"{'task':<12}{inspection.title} ({inspection.task}); at most {inspection.max_len:,} "
        f"tokens; segments: {inspection.segments}"
    ]
    for name, split in inspection.splits.items():
        lines += _split_lines(name, split)
    lines += [f"{'ROWS':<12}{sentence}" for sentence in inspection.unlike_published]
    lines.append(_overlap_line(inspection))
    f1_label = inspection.f1_label
    lines += _baseline_lines(inspection.majority, inspection.majority_answer, f1_label)
    lines += _baseline_lines(inspection.best_constant, inspection.best_constant_answer, f1_label)
    lines += [f"{'hint':<12}{sentence}" for sentence in inspection.hints]
    if inspection.warning:
        lines.append(f"{'warning':<12}{inspection.warning}")
    return lines


def _baseline_lines(
    metrics: Mapping[str, Mapping[str, float]], answer: str, f1_label: str
) -> list[str]:
    lines = []
    for name, found in metrics.items():
        values = ", ".join(
            f"{metric_title(key, f1_label)} {value_text(value)}"
            for key, value in found.items()
            if not is_of_one_class(key)
        )
        lines.append(f"{'baseline':<12}{name}, always {answer}: {values}")
    return lines


def _split_lines(name: str, split: SplitInspection) -> list[str]:
    subset = f" of {split.num_rows_whole:,}" if split.num_rows < split.num_rows_whole else ""
    parts = [f"{split.num_rows:,}{subset} rows"]
    if split.labels:
        shown = Counter(split.labels).most_common(_LABELS_SHOWN)
        parts.append(", ".join(f"{label} {n / split.num_rows:.1%}" for label, n in shown))
        if len(split.labels) > len(shown):
            parts[-1] += f", {len(split.labels) - len(shown)} labels more"
    elif split.target_mean is not None:
        parts.append(f"score {split.target_mean:.3f} ± {split.target_std:.3f}")
    else:
        parts.append("no labels")
    lines = [f"{name:<12}" + "; ".join(parts)]
    if split.lengths:
        lines.append(f"{'':<12}" + _length_text(split.lengths))
    lines += [f"{'':<12}{count:,} x {what}" for what, count in split.repairs.items()]
    return lines


def _length_text(lengths: LengthInspection) -> str:
    shares = np.cumsum(lengths.histogram) / sum(lengths.histogram)
    edges = [*LENGTH_EDGES[1:], None]
    shown = [
        f"<{edge:,} {share:.0%}"
        for edge, share in zip(edges, shares, strict=True)
        if edge and 0.005 <= share < 0.995
    ]
    segments = f"; {lengths.segments_median:g} segments" if lengths.segments_median else ""
    histogram = f" ({', '.join(shown)})" if shown else ""
    return (
        f"tokens: median {lengths.median:g}, 95 % up to {lengths.percentile_95:.0f}, longest "
        f"{lengths.longest:,}{histogram}; {lengths.share_truncated:.1%} truncated{segments}"
    )


def _overlap_line(inspection: Inspection) -> str:
    found = []
    for name, count in inspection.overlaps.items():
        if count and name != DUPLICATES:
            num_rows = inspection.splits[name.split(" in ")[0]].num_rows_whole
            found.append(f"{count:,} of {num_rows:,} {name} ({count / num_rows:.1%})")
    num_duplicates = inspection.overlaps.get(DUPLICATES, 0)
    duplicates = f"; {num_duplicates:,} duplicates in train" if num_duplicates else ""
    if not found:
        return f"{'overlap':<12}none between splits{duplicates}"
    return f"{'OVERLAP':<12}{', '.join(found)}: scores on them flatter{duplicates}"
