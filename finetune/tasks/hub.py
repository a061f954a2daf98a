"""Splits from the Hugging Face Hub, pinned to a revision.

Invariant: the same rows as from a folder in the original layout.
"""

from collections import Counter
from typing import Any

from finetune.tasks.rows import MissingSplit, RowReader
from finetune.tasks.spec import HubSource, SplitRows, TaskSpec


def read_hub(spec: TaskSpec, split: str) -> SplitRows:
    """Return a split of a task.

    Raises:
        MissingSplit: The data set has no such split.
        ValueError: The task is not on the Hub, the download fails, or a row is damaged.
    """
    hub = spec.hub
    if hub is None:
        raise ValueError(
            f"{spec.name} is not on the Hub in a form that can be loaded; get the original files "
            "and name their folder with --data.folder"
        )
    if split not in hub.splits:
        raise MissingSplit(f"{hub.id} has no split {split}; it has {list(hub.splits)}")
    source = f"{hub.id} {hub.config} {hub.splits[split]}"
    rows = _load(hub, hub.splits[split])
    reader = RowReader(
        text=hub.text,
        text_pair=hub.text_pair,
        label="" if split in hub.unlabelled else hub.label,
        labels=spec.labels,
        score_range=spec.score_range,
        id_column=hub.id_column,
        decode=hub.decode,
        allows_gaps=spec.allows_gaps,
        hint=f"Does revision {hub.revision} of {hub.id} still have the known columns?",
    )
    return reader.split(enumerate(rows, 1), source, Counter())


def _load(hub: HubSource, split: str) -> Any:
    """Return the rows of a split as dicts; the pinned commit makes them the same for ever."""
    import datasets

    if hub.files:
        root = f"hf://datasets/{hub.id}@{hub.revision}"
        files = {split: f"{root}/{hub.files.format(split=split)}"}
        arguments: dict[str, Any] = {"path": "parquet", "data_files": files}
    else:
        arguments = {"path": hub.id, "name": hub.config or None, "revision": hub.revision}
    try:
        return datasets.load_dataset(**arguments, split=split)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ValueError(
            f"{hub.id} (configuration {hub.config!r}, revision {hub.revision}, split {split}) "
            f"cannot be loaded from the Hub: {reason} Check the network, or name a folder with the "
            "original files with --data.folder."
        ) from error
