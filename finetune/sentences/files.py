"""Files of documents whose sentences have labels: own JSONL, layouts of WikiSection and MUG.

Invariant: a document is used as it stands, is an error with file and line, or is a counted repair.

WikiSection (arXiv 1902.04793) is one JSON list; of a document are read `text` and `annotations`,
each with `begin` and `length` in characters and `sectionLabel`. MUG (AliMeeting4MUG, ICASSP 2023)
has a JSON object for each meeting, a line of .jsonl or the column `content` of a table; read are
`sentences` (also called sentence_list: `id` and `s`) and `topic_segment_ids`, whose `id` is that of
a topic's last sentence and whose `candidate` entries name `key_sentence` ids. Both layouts are
taken from public code that reads these corpora, not from the corpora; other keys are not read.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from data_prep.table_rows import file_lines, is_table, place_of, read_table
from finetune.tasks.rows import encodable
from finetune.tasks.spec import Marks, TaggedText

SENTENCES, LABELS = "sentences", "labels"
BEGIN, END, INSIDE, KEY, OTHER = "begin", "end", "inside", "key", "other"
EMPTY = "sentences without any character left out, with their labels"
UNREAD = "documents whose own label is not read: --data.kind classification reads it"
LATE = "topics that end behind the last sentence; it ends them"
_ADVICE = {
    "WikiSection": ("begins", "ends", "sections"),
    "MUG": ("begins", "ends", "keys"),
}


def read_documents(
    path: Path, marks: Marks, repairs: Counter[str], *, language: str = "en"
) -> list[TaggedText]:
    """Return the documents of a file, each with its sentences as words and their labels as tags.

    Args:
        path: .jsonl (also .gz or .zst) with `sentences` and `labels`, or a file of WikiSection or
            MUG.
        marks: What labels mark; of the two layouts, what is made a label: `begin` or `end` at the
            first or last sentence of every section or topic but the document's own first or last,
            else `inside`; the section's label; `key` for a sentence that any annotator chose, else
            `other`.
        repairs: Counts what was mended.
        language: By whose rules texts of WikiSection are cut into sentences.

    Raises:
        ValueError: No such file, an unknown layout, a damaged document; names file and line.
    """
    texts = list(_documents(path, marks, repairs, language))
    if not texts:
        raise ValueError(f"{path}: has no documents; one or more are needed")
    return texts


def document(
    place: str,
    line: int,
    name: str,
    sentences: Any,
    labels: Any,
    repairs: Counter[str] | None = None,
) -> TaggedText:
    """Return a document of sentences, checked; those without a character are left out.

    Args:
        place: What messages begin with.
        line: Of the document.
        name: Of the document.
        sentences: List of strings.
        labels: List of as many names or whole numbers; None: unlabelled.
        repairs: Counts the sentences that were left out.

    Raises:
        ValueError: Another content; names the place.
    """
    if not isinstance(sentences, list) or not all(isinstance(one, str) for one in sentences):
        raise ValueError(f"{place}: {SENTENCES} is {sentences!r:.60}; a list of strings is needed")
    if labels is not None and not isinstance(labels, list):
        raise ValueError(f"{place}: {LABELS} is {labels!r:.60}; a list of names is needed")
    names = None if labels is None else [_name(label, place) for label in labels]
    if names is not None and len(names) != len(sentences):
        raise ValueError(
            f"{place}: {len(sentences)} sentences but {len(names)} labels; every sentence needs one"
        )
    cleaned = [" ".join(encodable(one, SENTENCES, place).split()) for one in sentences]
    kept = [number for number, one in enumerate(cleaned) if one]
    if not kept:
        raise ValueError(f"{place}: has no sentences; one or more are needed")
    if repairs is not None:
        repairs[EMPTY] += len(cleaned) - len(kept)
    words = tuple(cleaned[number] for number in kept)
    ends, start = [], 0
    for word in words:
        ends.append((start, start + len(word)))
        start += len(word) + 1
    tags = None if names is None else tuple(names[number] for number in kept)
    return TaggedText(
        line, name, words, tags, None, " ".join(words), tuple(ends), unit="sentence"
    )  # fmt: skip


def split_sentences(text: str, *, language: str = "en") -> list[str]:
    """Return the sentences of a raw text, as pooling segments are cut everywhere here."""
    from finetune.data.encoding import sentence_starts

    parts = (
        text[a:b].strip()
        for a, b in pairwise([*sentence_starts(text, language=language), len(text)])
    )
    return [part for part in parts if part]


def _name(label: Any, place: str) -> str:
    if isinstance(label, bool) or not isinstance(label, str | int) or not str(label).strip():
        raise ValueError(f"{place}: label {label!r}; a name or a whole number is needed")
    return encodable(str(label).strip(), LABELS, place)


def _documents(
    path: Path, marks: Marks, repairs: Counter[str], language: str
) -> Iterator[TaggedText]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    if not is_table(path):
        yield from _wikisection(path, marks, repairs, language)
        return
    for number, (line, row) in enumerate(read_table(path, is_own=True)):
        place = place_of(path, line)
        values = _content(row, place)
        if "topic_segment_ids" in values:
            yield _mug(place, line, values, _allowed(path, "MUG", marks), repairs)
            continue
        if SENTENCES not in values or LABELS not in values:
            raise ValueError(
                f"{place}: needs the keys {SENTENCES} and {LABELS}, two lists of one length; it "
                f"has {', '.join(map(repr, values))}"
            )
        repairs[UNREAD] += "label" in values
        name = str(values.get("id", number))
        yield document(place, line, name, values[SENTENCES], values[LABELS], repairs)


def _allowed(path: Path, layout: str, marks: Marks) -> Marks:
    if marks not in _ADVICE[layout]:
        raise ValueError(
            f"{path} is in the layout of {layout}, where data.marks may be "
            f"{', '.join(_ADVICE[layout])}; {marks!r} given"
        )
    return marks


def _content(values: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return a row, or the JSON object in its column `content`; of a table lists are JSON too."""
    try:
        if SENTENCES not in values and isinstance(values.get("content"), str):
            values = json.loads(values["content"])
        for key in (SENTENCES, LABELS):
            given = values.get(key)
            if isinstance(given, str) and given.startswith("["):
                values = {**values, key: json.loads(given)}
        return dict(values)
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{place}: has no JSON where it must ({error})") from None


def _borders(lengths: Sequence[int], marks: Marks) -> list[str]:
    """Return the labels of the sentences of segments; the document's own borders are none."""
    labels = []
    for number, length in enumerate(lengths):
        inside = [INSIDE] * length
        if marks == "begins" and number:
            inside[0] = BEGIN
        if marks == "ends" and number + 1 < len(lengths):
            inside[-1] = END
        labels += inside
    return labels


def _wikisection(
    path: Path, marks: Marks, repairs: Counter[str], language: str
) -> Iterator[TaggedText]:
    try:
        documents = json.loads("".join(text for _, text in file_lines(path)))
    except ValueError as error:
        raise ValueError(
            f"{path}: is neither .jsonl nor JSON ({error}); own documents are .jsonl with "
            f"{SENTENCES} and {LABELS}"
        ) from None
    is_list = isinstance(documents, list)
    if not is_list or any(SENTENCES in one for one in documents[:1] if isinstance(one, dict)):
        raise ValueError(
            f"{path}: is no JSON list of documents as WikiSection has it; own documents are .jsonl "
            f"with {SENTENCES} and {LABELS}, one a line"
        )
    marks = _allowed(path, "WikiSection", marks)
    for number, values in enumerate(documents):
        place = f"{path}, document {number + 1}"
        try:
            text, sections = values["text"], values["annotations"]
            spans = [(int(s["begin"]), int(s["length"]), str(s["sectionLabel"])) for s in sections]
            parts = [
                split_sentences(text[begin : begin + size], language=language)
                for begin, size, _ in spans
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{place}: needs text and annotations with begin, length and sectionLabel ({error})"
            ) from None
        filled = [(part, span[2]) for part, span in zip(parts, spans, strict=True) if part]
        labels = _borders([len(part) for part, _ in filled], marks)
        if marks == "sections":
            labels = [label for part, label in filled for _ in part]
        sentences = [sentence for part, _ in filled for sentence in part]
        name = str(values.get("id", number))
        yield document(place, number + 1, name, sentences, labels, repairs)


def _mug(
    place: str, line: int, values: Mapping[str, Any], marks: Marks, repairs: Counter[str]
) -> TaggedText:
    try:
        rows = values[SENTENCES] if SENTENCES in values else values["sentence_list"]
        ids = [int(row["id"]) for row in rows]
        sentences = [row["s"] for row in rows]
        is_filled = [bool(sentence.split()) for sentence in sentences]
        topics = values["topic_segment_ids"]
        ends = {int(topic["id"]) for topic in topics}
        keys = {
            int(key)
            for topic in topics
            for candidate in topic.get("candidate") or ()
            for key in candidate.get("key_sentence") or ()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{place}: MUG needs {SENTENCES} with id and s, and topic_segment_ids with id ({error})"
        ) from None
    if not ids:
        raise ValueError(f"{place}: has no sentences; one or more are needed")
    late = {end for end in ends if end > ids[-1]}
    unknown = sorted((ends - late if marks != "keys" else keys) - set(ids))
    if unknown:
        raise ValueError(f"{place}: no sentence has the id {unknown[0]} that the topics name")
    if marks == "keys":
        labels = [KEY if number in keys else OTHER for number in ids]
    else:
        repairs[LATE] += len(late)
        lengths = [0]
        for one, counts in zip(ids, is_filled, strict=True):
            lengths[-1] += counts
            lengths += [0] * (one in ends)
        # A border at a sentence that is left out below lies at its neighbour.
        named = iter(_borders([length for length in lengths if length], marks))
        labels = [next(named) if counts else INSIDE for counts in is_filled]
    return document(place, line, str(values.get("meeting_key", line)), sentences, labels, repairs)
