"""What is looked at before training, in the form that tables of results read."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from finetune.data.inspection import LENGTH_EDGES, length_facts, shared_rows
from finetune.lra.sources import LraData
from finetune.lra.splits import LraSplit
from finetune.lra.tasks import LraTask, Mode


def inspect_splits(
    spec: LraTask, data: LraData, *, mode: Mode, whole: Mapping[str, int]
) -> dict[str, Any]:
    """Return what `finetune.data.inspection.inspect_task` returns of other tasks.

    With `kind` (official, generated or stand_in) and `mode` beside it.

    Args:
        spec: The task.
        data: The samples that are used.
        mode: Strict or published.
        whole: Split -> all its samples.
    """
    splits = {name: _inspect(spec, split, whole[name]) for name, split in data.splits.items()}
    counts = list(splits["train"]["labels"].values())
    majority = int(np.argmax(counts))
    return {
        "task": spec.name,
        "title": spec.title,
        "kind": data.kind,
        "mode": mode,
        "warning": "; ".join(data.notes),
        "max_len": spec.length,
        "segments": f"{spec.num_segments} by position",
        "splits": splits,
        "overlaps": shared_rows({name: _keys(split) for name, split in data.splits.items()}),
        "unlike_published": [
            f"{name} has {whole[name]:,} samples, the published one {size:,}"
            for name, size in spec.sizes.items()
            if name in whole and whole[name] != size and (name != "train" or spec.name != "text")
        ],
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


def _keys(split: LraSplit) -> list[int]:
    others = [b""] * len(split) if split.other_ids is None else split.other_ids
    return [
        hash((ids.tobytes(), bytes(other))) for ids, other in zip(split.ids, others, strict=True)
    ]
