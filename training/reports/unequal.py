"""Where the encoders of a task did not have the same chances: other rows or settings.

Invariant: nothing is refused here, as a learning curve is a fair question; whoever reads a
difference between two encoders is told what else they differ in.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from training.reports.alike import Facts, differences, facts_of
from training.reports.choice import Entry
from training.reports.trials import grouped, may_be_one
from training.result import SETTINGS

_TOLD_ELSEWHERE = (*SETTINGS, "global_batch_size")
"""Last words of settings that stand beside every number or in the list of what fits share."""

ByFold = Mapping[tuple[int, ...], Mapping[str, Any]]
"""Fold and repeat -> what is known of the rows."""


def unequal_notes(entries: Sequence[Entry]) -> list[str]:
    """What the encoders of each task differ in beside their weights, in sentences."""
    notes: list[str] = []
    for columns in grouped(entries, lambda entry: entry.task.name).values():
        several = [entry for entry in columns if entry.task is columns[0].task]
        facts = [facts_of(entry.runs[0].path) for entry in several]
        found = [*_training_rows(several, facts), *_scored_rows(several)]
        found += _other_settings(several, facts)
        notes += [f"{several[0].runs[0].title}: {text}." for text in found]
    return notes


def _training_rows(entries: Sequence[Entry], facts: Sequence[Facts]) -> list[str]:
    """Which encoder saw how many rows of which file, where they were not the same, fold by fold."""
    files = [_train_files(digests) for _, digests in facts]
    seen = [{run.repetition[1:]: run.split_facts("train") for run in e.runs} for e in entries]
    has_other_files = len({*files} - {""}) > 1
    if not has_other_files and not any(_differ(*pair) for pair in combinations(seen, 2)):
        return []
    told = []
    for entry, by_fold, file in zip(entries, seen, files, strict=True):
        told.append(f"{entry.encoder} {_counts(by_fold)}")
        told[-1] += f" (file {file})" if has_other_files and file else ""
    return [
        f"not all were trained on the same rows, but {', '.join(told)}: a difference between them "
        "is one of training data, too"
    ]


def _scored_rows(entries: Sequence[Entry]) -> list[str]:
    """On how many rows each was scored, where they differ: fits may score whole batches alone."""
    split = entries[0].task.split
    scored = [[run for run in entry.runs if run.has_scores] for entry in entries]
    seen = [{r.repetition[1:]: r.result["evaluation"][split] for r in runs} for runs in scored]
    if not any(_differ(*pair) for pair in combinations(seen, 2)):
        return []
    told = [f"{entry.encoder} {_counts(rows)}" for entry, rows in zip(entries, seen, strict=True)]
    return [f"not all were scored on as many rows, but {', '.join(told)}"]


def _train_files(digests: Mapping[str, str]) -> str:
    """The beginnings of the digests of what was read for training; nothing: not known."""
    read = [digest for name, digest in digests.items() if name.startswith("the train file")]
    return "+".join(digest[:8] for digest in read)


def _differ(first: ByFold, second: ByFold) -> bool:
    """Whether there is a fold of which two encoders saw other rows, as far as is known."""
    shared = [(first[fold], second[fold]) for fold in first.keys() & second.keys()]
    return any(
        one and other and (one["num_rows"] != other["num_rows"] or not may_be_one(one, other))
        for one, other in shared
    )


def _counts(by_fold: ByFold) -> str:
    counts = sorted({found["num_rows"] for found in by_fold.values() if found})
    ends = dict.fromkeys((*counts[:1], *counts[-1:]))
    return " to ".join(f"{count:,}" for count in ends) or "unknown"


def _other_settings(entries: Sequence[Entry], facts: Sequence[Facts]) -> list[str]:
    """What was set otherwise for an encoder than for the first, the model's own aside."""
    fits = [pair for pair in zip(entries, facts, strict=True) if not pair[0].is_baseline]
    found = []
    for entry, known in fits[1:]:
        settings = [
            text
            for text in differences(fits[0][1], known)
            if text.startswith(("data.", "trainer."))
            and text.split()[0].rpartition(".")[2] not in _TOLD_ELSEWHERE
        ]
        both = f"{fits[0][0].encoder} and {entry.encoder}"
        found += [f"{both} differ in {', '.join(settings)}"] if settings else []
    return found
