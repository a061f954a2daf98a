"""What an inspection found, as the lines that are printed before training."""

from collections import Counter
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from data_prep.command import counted
from finetune.data.inspection import DUPLICATES, LENGTH_EDGES, Inspection
from finetune.metrics import is_of_one_class, metric_title, value_text

_MOST_LABELS = 11


def overview_lines(found: Inspection) -> list[str]:
    """Return what is printed before training."""
    limit = f"at most {found['max_len']:,} tokens" if found["max_len"] else "whole texts"
    task = f"{found['title']} ({found['task']}); {limit}"
    lines = [("task", f"{task}; segments: {found['segments']}")]
    for name, split in found["splits"].items():
        lines += [(name, _split_text(split))]
        lines += [("", _length_text(split["lengths"]))] if split["lengths"] else []
        lines += [("", f"{count:,} x {what}") for what, count in split["repairs"].items()]
    lines += [("ROWS", sentence) for sentence in found["unlike_published"]]
    lines += [_overlap_line(found)]
    for constant in ("majority", "best_constant"):
        for name, values in found[constant].items():
            text = ", ".join(
                f"{metric_title(key, found['f1_label'])} {value_text(value)}"
                for key, value in values.items()
                if not is_of_one_class(key)
            )
            lines += [("baseline", f"{name}, always {found[f'{constant}_answer']}: {text}")]
    lines += [("hint", sentence) for sentence in found["hints"]]
    lines += [("warning", found["warning"])] if found["warning"] else []
    return [f"{head:<12}{text}" for head, text in lines]


def _split_text(split: Mapping[str, Any]) -> str:
    num_rows, num_whole, labels = split["num_rows"], split["num_rows_whole"], split["labels"]
    rows = counted(num_rows, "row(s)")
    rows = f"{num_rows:,} of {num_whole:,} rows" if num_rows < num_whole else rows
    if num_words := split.get("num_words"):
        share = split["num_tagged_words"] / num_words
        rows += f"; {counted(num_words, 'word(s)')}, {share:.1%} with a tag other than O"
        if not labels:
            return rows
    if split["target_mean"] is not None:
        found = f"score {split['target_mean']:.3f} ± {split['target_std']:.3f}"
    else:
        shown = Counter(labels).most_common(_MOST_LABELS)
        whole = split.get("num_sentences") or num_rows
        parts = [f"{label} {count / whole:.1%}" for label, count in shown] or ["unlabelled texts"]
        num_more = len(labels) - len(shown)
        found = ", ".join([*parts, *[counted(num_more, "label(s) more")] * bool(num_more)])
        found = f"{counted(whole, 'sentence(s)')}: {found}" if "num_sentences" in split else found
    return f"{rows}; {found}"


def _length_text(lengths: Mapping[str, Any]) -> str:
    counts, num_segments = lengths["histogram"], lengths["segments_median"]
    shares = [share / sum(counts) for share in accumulate(counts[:-1])]
    shown = [
        f"<{edge:,} {share:.0%}"
        for edge, share in zip(LENGTH_EDGES[1:], shares, strict=True)
        if 0.005 <= share < 0.995
    ]
    histogram = f" ({', '.join(shown)})" if shown else ""
    return (
        f"tokens: median {lengths['median']:g}, 95 % up to {lengths['percentile_95']:.0f}, longest "
        f"{lengths['longest']:,}{histogram}; "
        f"{lengths['share_truncated']:.1%} truncated"
        + f"; {num_segments:g} segments"
        * bool(num_segments)
    )


def _overlap_line(inspection: Inspection) -> tuple[str, str]:
    counts = dict(inspection["overlaps"])
    num_duplicates = counts.pop(DUPLICATES, 0)
    duplicates = f"; {num_duplicates:,} duplicates in train" * bool(num_duplicates)
    found = []
    for name, count in counts.items():
        num_rows = inspection["splits"][name.split(" in ")[0]]["num_rows_whole"]
        found += [f"{count:,} of {num_rows:,} {name} ({count / num_rows:.1%})"] if count else []
    if not found:
        return "overlap", f"none between splits{duplicates}"
    return "OVERLAP", f"{', '.join(found)}: scores on them flatter{duplicates}"
