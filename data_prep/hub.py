"""Rows of Hugging Face data sets to raw documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from data_prep.config import HubSource
from data_prep.readers import DamagedInput
from data_prep.text_rows import wikitext_documents


def load_rows(source: HubSource) -> Any:
    """Return the data set, pinned to its revision.

    Raises:
        ValueError: It cannot be loaded, or has no such column.
    """
    import datasets

    try:
        rows = datasets.load_dataset(
            source.id,
            source.name or None,
            revision=source.revision,
            data_files=list(source.data_files) or None,
            split=source.split,
            streaming=source.streaming,
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ValueError(
            f"source hub {source.id} (name '{source.name}', revision {source.revision}, split "
            f"{source.split}): cannot be loaded: {reason} Check the id, name and revision and the "
            "network; data sets made of scripts need their parquet revision refs/convert/parquet."
        ) from error
    columns = rows.column_names
    if columns is not None and source.text_field not in columns:
        raise ValueError(
            f"source hub {source.id}: has no column '{source.text_field}'; it has "
            f"{', '.join(columns)}. Set text_field."
        )
    return rows


def row_texts(rows: Any, source: HubSource, counters: Counter[str]) -> Iterator[str]:
    """Yield the text of every row.

    Raises:
        DamagedInput: A row without text, unless the source says skip.
    """
    number = 0
    for batch in rows.select_columns([source.text_field]).iter(batch_size=256):
        for text in batch[source.text_field]:
            number += 1
            if isinstance(text, str):
                yield text
            elif source.on_error == "skip":
                counters["damaged_rows"] += 1
            else:
                raise DamagedInput(
                    f"source hub {source.id}, row {number}: '{source.text_field}' is "
                    f"{type(text).__name__}, not a text; set on_error: skip to leave it out."
                )


def group_rows(texts: Iterable[str], source: HubSource) -> Iterator[str]:
    """Yield documents: single rows, so many rows together, or WikiText articles."""
    if source.wikitext_headings:
        yield from wikitext_documents(texts)
        return
    group: list[str] = []
    for text in texts:
        group.append(text)
        if len(group) == source.rows_per_document:
            yield "\n\n".join(group)
            group = []
    if group:
        yield "\n\n".join(group)
