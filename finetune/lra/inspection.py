"""What is looked at before training, in the form that tables of results read."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from finetune.data.inspection import LENGTH_EDGES, length_facts, shared_rows
from finetune.lra.sources import LraData
from finetune.lra.splits import LraSplit, sample_keys
from finetune.lra.tasks import LraTask, Mode


def inspect_splits(
    spec: LraTask, data: LraData, *, mode: Mode, whole: Mapping[str, LraSplit]
) -> dict[str, Any]:
    """Return what `finetune.data.inspection.inspect_task` returns of other tasks.

    With `kind` (official, generated or stand_in) and `mode` beside it.

    Args:
        spec: The task.
        data: The samples that are used.
        mode: Strict or published.
        whole: The same before a part of the samples was drawn: overlaps are looked for here.
    """
    sizes = {name: len(split) for name, split in whole.items()}
    splits = {name: _inspect(spec, split, sizes[name]) for name, split in data.splits.items()}
    counts = list(splits["train"]["labels"].values())
    majority = int(np.argmax(counts))
    return {
        "task": spec.name,
        "title": spec.title,
        "kind": data.kind,
        "mode": mode,
        "warning": "; ".join(data.notes),
        "max_len": spec.length,
        "segments": f"{-(-spec.length // spec.segment_len):,} of {spec.segment_len} places",
        "splits": splits,
        "overlaps": shared_rows({name: sample_keys(split) for name, split in whole.items()}),
        "unlike_published": _unlike_published(spec, sizes, mode),
        "majority": {
            name: {"accuracy": share, "score": share}
            for name in ("validation", "test")
            for share in [float(np.mean(data.splits[name].labels == majority))]
        },
        "majority_answer": repr(spec.labels[majority]),
        "best_constant": {},
        "best_constant_answer": "",
        "f1_label": "",
        "hints": [],
        "length_edges": list(LENGTH_EDGES),
    }


def _unlike_published(spec: LraTask, sizes: Mapping[str, int], mode: Mode) -> list[str]:
    """A sentence for every split of another size; a validation split cut from train is train's."""
    found = dict(sizes)
    if "validation" not in spec.sizes and mode == "strict":
        found["train"] += found.pop("validation")
    return [
        f"{name} has {found[name]:,} samples, the published one {size:,}"
        for name, size in spec.sizes.items()
        if found[name] != size
    ]


def _inspect(spec: LraTask, split: LraSplit, num_whole: int) -> dict[str, Any]:
    counts = np.bincount(split.labels, minlength=len(spec.labels)).tolist()
    lengths = np.concatenate([lengths for _, lengths in split.sides])
    truncated = 0.0 if spec.is_pixels else float(np.mean(lengths >= spec.kept))
    return {
        "num_rows": len(split),
        "num_rows_whole": num_whole,
        "labels": dict(zip(spec.labels, counts, strict=True)),
        "target_mean": None,
        "target_std": None,
        "lengths": length_facts(lengths, share_truncated=truncated),
        "repairs": dict(split.repairs),
    }
