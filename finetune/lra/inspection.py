"""What is looked at before training, in the form that tables of results read."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from finetune.data.inspection import LENGTH_EDGES
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
        "overlaps": _overlaps(data.splits),
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
    return {
        "num_rows": len(split),
        "num_rows_whole": num_whole,
        "labels": dict(zip(spec.labels, counts, strict=True)),
        "target_mean": None,
        "target_std": None,
        "lengths": {
            "median": float(np.median(lengths)),
            "percentile_95": float(np.percentile(lengths, 95)),
            "longest": int(lengths.max()),
            "histogram": np.histogram(lengths, bins=[*LENGTH_EDGES, np.inf])[0].tolist(),
            "share_truncated": 0.0 if spec.is_pixels else float(np.mean(lengths >= spec.kept)),
            "segments_median": 0.0,
        },
        "repairs": dict(split.repairs),
    }


def _overlaps(splits: Mapping[str, LraSplit]) -> dict[str, int]:
    """How many samples of a split are also in another one."""
    keys = {name: _keys(split) for name, split in splits.items()}
    known = {name: set(found) for name, found in keys.items()}
    pairs = (("validation", "train"), ("test", "train"), ("test", "validation"))
    return {
        **{f"{one} in {other}": sum(k in known[other] for k in keys[one]) for one, other in pairs},
        "duplicates in train": len(keys["train"]) - len(known["train"]),
    }


def _keys(split: LraSplit) -> list[int]:
    others = [b""] * len(split) if split.other_ids is None else split.other_ids
    return [
        hash((ids.tobytes(), bytes(other))) for ids, other in zip(split.ids, others, strict=True)
    ]
