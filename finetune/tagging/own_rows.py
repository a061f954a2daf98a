"""What a JSONL row of tagged texts says, under the names that data sets use.

Invariant: a value that is not used as it stands is an error with its place.
"""

from collections.abc import Mapping
from typing import Any, TypeGuard

EXAMPLES = (
    '{"words": ["IBM", "hires"], "tags": ["B-ORG", "O"]}',
    '{"tokens": ["IBM", "hires"], "ner_tags": ["B-ORG", "O"]}',
    '{"text": "IBM hires", "label": [[0, 3, "ORG"]]}',
    '{"text": "IBM hires", "entities": [{"start": 0, "end": 3, "label": "ORG"}]}',
    '{"text": "IBM hires", "spans": [[0, 3, "ORG"]]}',
)
"""A whole line of every form that a row may have."""
WORD_LISTS = ("words", "tokens")
"""What the words of a row may be called."""
_TAGS = ("tags", "ner_tags")


def words_of(values: Mapping[str, Any]) -> list[str] | None:
    """Return the list of strings `words`, else `tokens`; None: the row has neither."""
    found = (values.get(name) for name in WORD_LISTS)
    return next((words for words in found if _are_strings(words)), None)


def has_tags(values: Mapping[str, Any]) -> bool:
    """Return whether a row says anything of the tags of its words."""
    return any(values.get(name) is not None for name in _TAGS)


def tags_of(place: str, values: Mapping[str, Any]) -> list[str] | None:
    """Return the names `tags`, else `ner_tags`, stripped; None: the words have no tags.

    Raises:
        ValueError: They are no list of names; numbers are told what to do.
    """
    name = next((name for name in _TAGS if values.get(name) is not None), "")
    tags = values.get(name)
    if tags is None:
        return None
    if _are_strings(tags):
        return [tag.strip() for tag in tags]
    message = f"{place}: {name} is {tags!r:.60}; a list of names is needed, such as O and B-city"
    if isinstance(tags, list) and {*map(type, tags)} == {int}:
        message += (
            ". Numbers are places in a list of names that stands in the features of the data set "
            f"(in datasets: names = dataset.features[{name!r}].feature.names; else in its card): "
            "write names[number] for each number"
        )
    raise ValueError(message)


def label_of(place: str, values: Mapping[str, Any]) -> str | None:
    """Return the label of the whole text; None: it has none.

    Raises:
        ValueError: It is no name and no whole number.
    """
    label = values.get("label")
    label = str(label).lower() if isinstance(label, int) else label  # true, false too
    if label is not None and not isinstance(label, str):
        raise ValueError(f"{place}: label is {label!r}; a name or a whole number is needed")
    return label if label is None else label.strip()


def _are_strings(values: object) -> TypeGuard[list[str]]:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)
