"""Files of tagged texts: MTOP, MultiATIS++, `seq.in` folders, CoNLL columns, own JSONL.

Invariant: a row is used as it stands, is an error with file and line, or is a counted repair.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import dropwhile, islice
from operator import ne
from pathlib import Path
from typing import Any

from tokenizers.pre_tokenizers import BertPreTokenizer

from data_prep.table_rows import (
    PARQUET,
    file_lines,
    find_file,
    is_table,
    named_ending,
    place_of,
    read_table,
)
from finetune.tagging.marked_spans import Marked, marked_spans, span_tags
from finetune.tagging.own_rows import EXAMPLES, label_of, tags_of, words_of
from finetune.tagging.scores import spans_of
from finetune.tasks.spec import TaggedText

MTOP_COLUMNS = 8
_DOCUMENT = "-DOCSTART-"
_JSON_OBJECT = re.compile(r"\s*\{\s*(\"|\}|$)")
_JSON_LIST = re.compile(r"\s*\[\s*\{")
_LOOKED_AT = 100
CUT_WORDS = "slots whose edge lies inside a word; the whole word is taken"
OTHER_SCHEMES = "words tagged as BIOES or BILOU (S-, U-, E-, L-), which became BIO"
_BIO = {"S-": "B-", "U-": "B-", "E-": "I-", "L-": "I-"}
Lines = Iterator[tuple[int, str]]
Reader = Callable[[Path, Lines, Counter[str]], Iterator["TaggedText"]]


def read_tagged(path: Path, repairs: Counter[str]) -> list[TaggedText]:
    """Return the texts of a file or `seq.in` folder; the layout is told from what it holds.

    A folder holds `seq.in`, `seq.out` and, where texts have labels, `label`. A file is JSONL or
    Parquet (keys words or tokens, tags or ner_tags, and label; or text and the spans that
    `marked_spans` reads), MTOP's table of eight columns without a header, MultiATIS++'s table with
    the header `id utterance slot_labels intent`, or CoNLL columns: a word and its tag a line, texts
    apart by an empty line. Files may be packed (.gz, .zst). Tags are BIO, or become it.

    Args:
        path: File or folder.
        repairs: Counts what was mended.

    Raises:
        ValueError: No or an unknown layout, no texts, a damaged row; names file and line.
    """
    if path.is_dir():
        texts = list(_read_folder(path, repairs))
    else:
        lines = list(_lines(path))
        number, first = next((found for found in lines if found[1].strip()), (0, ""))
        if not first:
            raise ValueError(f"{path}: is empty; tagged texts are needed")
        read = _layout(first)
        if read is None:
            raise ValueError(
                f"{path}, line {number}: is of no known layout; allowed are JSONL with words and "
                f"tags or a text and its spans, MTOP ({MTOP_COLUMNS} columns), MultiATIS++ (header "
                "id, utterance, slot_labels, intent) and CoNLL (a word and its tag a line)"
            )
        texts = list(read(path, iter(lines[number - 1 :]), repairs))
    if not texts:
        raise ValueError(f"{path}: has no texts; one or more are needed")
    return texts


def has_tagged_layout(path: Path) -> bool:
    """Return whether a path leads to tagged texts and not to a table with columns of texts.

    So do a folder, a file with another ending than those of tables, and a table as MTOP or
    MultiATIS++ has it.
    """
    if path.is_dir() or not path.is_file() or not is_table(path):
        return path.exists()
    first = next((line for _, line in _lines(path) if line.strip()), "")
    return _layout(first) in (_read_mtop, _read_multiatis)


def has_lines(path: Path) -> bool:
    """Return whether a path is that of a .txt file."""
    return named_ending(path) == ".txt" and path.is_file()


def has_plain_texts(path: Path, tags: Sequence[str]) -> bool:
    """Return whether a .txt file holds a text in every line, and no words with tags.

    Its first lines are looked at. They are CoNLL columns if all have as many, two or more, and the
    last is O or a tag for a kind of the model: a text may well end in `B-12`.

    Args:
        path: Any file.
        tags: The model's.
    """
    if not has_lines(path):
        return False
    with closing(file_lines(path)) as lines:
        filled = dropwhile(lambda line: not line.strip(), (line for _, line in lines))
        start = [line.rstrip("\r\n") for line in islice(filled, _LOOKED_AT)]
    read = _layout(start[0]) if start else _read_conll
    if read is _read_jsonl:
        return not _JSON_OBJECT.match(start[0])
    if read is not _read_conll or not start or start[0].startswith(_DOCUMENT):
        return read is None
    rows = [_cells(line) for line in start if line.strip() and not line.startswith(_DOCUMENT)]
    widths, last = {len(cells) for cells in rows}, {cells[-1].strip() for cells in rows}
    kinds = {tag[1:] for tag in tags} - {""}
    known = {"O", *tags, *(prefix + kind for kind in kinds for prefix in "BISUEL")}
    return len(widths) > 1 or min(widths) < 2 or not last <= known


def split_words(text: str) -> list[tuple[str, tuple[int, int]]]:
    """Return the words of a text as BERT's pre-tokenizer parts them, each with its characters.

    Letters and digits together are a word, and so is every mark of punctuation alone.
    """
    return BertPreTokenizer().pre_tokenize_str(text)


def _layout(first: str) -> Reader | None:
    """Return what reads a file with this first line; None: nothing does."""
    columns = first.split("\t")
    if first.lstrip().startswith("{"):
        return _read_jsonl
    if columns[:4] == ["id", "utterance", "slot_labels", "intent"]:
        return _read_multiatis
    if len(columns) == MTOP_COLUMNS and columns[1].startswith("IN:"):
        return _read_mtop
    cells = columns if len(columns) > 1 else first.split()
    is_conll = 2 <= len(cells) <= 4 and len(first.split()) <= 4 and not _JSON_LIST.match(first)
    return _read_conll if is_conll or first.startswith(_DOCUMENT) else None


def _lines(path: Path) -> Lines:
    """Yield number and text of every line; a row of a Parquet file is one of JSON."""
    if named_ending(path) == PARQUET:
        for number, values in read_table(path):
            yield number, json.dumps(values, default=str)
        return
    for number, line in file_lines(path):
        yield number, line.rstrip("\r\n")


def tagged(
    place: str, line: int, name: str, words: list[str], tags: list[str] | None, label: str | None,
) -> TaggedText:  # fmt: skip
    """Return a text of words with spaces between them, checked.

    Raises:
        ValueError: No words, another number of tags, or a tag that is no BIO tag; names the place.
    """
    if not words or not all(words):
        raise ValueError(f"{place}: an empty word, or none; words are needed")
    offsets, start = [], 0
    for word in words:
        offsets.append((start, start + len(word)))
        start += len(word) + 1
    return _checked(
        place,
        TaggedText(
            line,
            name,
            tuple(words),
            None if tags is None else tuple(tags),
            label,
            " ".join(words),
            tuple(offsets),
        ),  # fmt: skip
    )


def _checked(place: str, text: TaggedText) -> TaggedText:
    if text.tags is not None:
        if len(text.tags) != len(text.words):
            raise ValueError(
                f"{place}: {len(text.words)} words but {len(text.tags)} tags; every word needs one"
            )
        try:
            spans_of(text.tags)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
    return text


def _as_bio(tags: list[str] | None, repairs: Counter[str]) -> list[str] | None:
    """Return tags with the ends and single words of BIOES and BILOU as BIO; they are counted."""
    if tags is None:
        return None
    bio = [_BIO.get(tag[:2], tag[:2]) + tag[2:] for tag in tags]
    if bio != tags:
        repairs[OTHER_SCHEMES] += sum(map(ne, tags, bio))
    return bio


def _read_folder(folder: Path, repairs: Counter[str]) -> Iterator[TaggedText]:
    files = {name: find_file(folder, name) for name in ("seq.in", "seq.out", "label")}
    if files["seq.in"] is None:
        raise ValueError(f"{folder}: has no seq.in; seq.in, seq.out and label are needed")
    columns = {name: [line for _, line in _lines(path)] for name, path in files.items() if path}
    sizes = {name: len(lines) for name, lines in columns.items()}
    if len(set(sizes.values())) > 1:
        given = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ValueError(f"{folder}: its files have different numbers of lines: {given}")
    for number, words in enumerate(columns["seq.in"]):
        tags = columns["seq.out"][number].split() if "seq.out" in columns else None
        tags = _as_bio(tags, repairs)
        label = columns["label"][number].strip() if "label" in columns else None
        place = f"{files['seq.in']}, line {number + 1}"
        yield tagged(place, number + 1, str(number), words.split(), tags, label)


def _read_multiatis(path: Path, lines: Lines, repairs: Counter[str]) -> Iterator[TaggedText]:
    next(lines)
    language = path.name.partition(".")[0].rpartition("_")[2].lower()
    for line, row in lines:
        columns, place = row.split("\t"), f"{path}, line {line}"
        if len(columns) != 4:
            raise ValueError(f"{place}: {len(columns)} columns; id, utterance, slot_labels, intent")
        name, words, tags, intent = columns
        bio = _as_bio(tags.split(), repairs)
        text = tagged(place, line, name, words.split(), bio, intent.strip())
        yield text._replace(language=language if len(language) == 2 else "")


def _read_jsonl(path: Path, lines: Lines, repairs: Counter[str]) -> Iterator[TaggedText]:
    for number, (line, row) in enumerate(lines):
        place = place_of(path, line)
        if not row.strip():
            continue
        try:
            values: Any = json.loads(row)
        except json.JSONDecodeError as error:
            raise ValueError(f"{place}: is not JSON ({error.msg})") from None
        if not isinstance(values, dict):
            raise ValueError(f"{place}: is no object with keys and values")
        name, words = str(values.get("id", number)), words_of(values)
        tags = None if words is None else tags_of(place, values)
        marked = marked_spans(place, values) if words is None or tags is None else None
        if marked is not None:
            yield _marked_text(place, values, marked, repairs)._replace(line=line, id=name)
            continue
        if words is None:
            raise ValueError(
                f"{place}: needs a key words (or tokens) with a list of strings, or a text with "
                "spans of its characters; a line is such as " + ", or ".join(EXAMPLES)
            )
        label = label_of(place, values)
        yield tagged(place, line, name, words, _as_bio(tags, repairs), label)


def _marked_text(
    place: str, values: dict[str, Any], marked: list[Marked], repairs: Counter[str]
) -> TaggedText:
    """Return a text with spans of characters, cut into words as `predict` does."""
    found = split_words(values["text"])
    if not found:
        raise ValueError(f"{place}: a text without a word; take the row out")
    words, offsets = zip(*found, strict=True)
    label = None if isinstance(values.get("label"), list) else label_of(place, values)
    tags = tuple(span_tags(marked, offsets, repairs))
    return TaggedText(0, "", words, tags, label, values["text"], offsets)


def _read_conll(path: Path, lines: Lines, repairs: Counter[str]) -> Iterator[TaggedText]:
    rows: list[tuple[int, list[str]]] = []
    number = 0
    for line, row in [*lines, (0, "")]:
        if row.strip() and not row.startswith(_DOCUMENT):
            rows.append((line, _cells(row)))
            continue
        if rows:
            yield _conll_text(path, rows, number, repairs)
            rows, number = [], number + 1


def _cells(row: str) -> list[str]:
    return row.split("\t") if "\t" in row else row.split()


def _conll_text(
    path: Path, rows: list[tuple[int, list[str]]], number: int, repairs: Counter[str]
) -> TaggedText:
    for line, columns in rows:
        if len(columns) < 2 or len(columns) != len(rows[0][1]):
            raise ValueError(
                f"{path}, line {line}: {len(columns)} columns, the text's first line has "
                f"{len(rows[0][1])}; a word first and its tag last are needed"
            )
    first = rows[0][0]
    words = [columns[0] for _, columns in rows]
    tags = _as_bio([columns[-1].strip() for _, columns in rows], repairs)
    return tagged(f"{path}, line {first}", first, str(number), words, tags, None)


def _read_mtop(path: Path, lines: Lines, repairs: Counter[str]) -> Iterator[TaggedText]:
    for line, row in lines:
        place = f"{path}, line {line}"
        columns = next(csv.reader([row], delimiter="\t", quoting=csv.QUOTE_NONE))
        if len(columns) != MTOP_COLUMNS:
            raise ValueError(f"{place}: {len(columns)} columns; MTOP has {MTOP_COLUMNS}")
        name, intent, slots, text = columns[:4]
        try:
            tokens = json.loads(columns[7])
            words = [str(token) for token in tokens["tokens"]]
            offsets = [
                (span["start"], span["start"] + span["length"]) for span in tokens["tokenSpans"]
            ]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{place}: column 8 has no tokens with their spans ({error})"
            ) from None
        tags = _mtop_tags(place, slots, offsets, repairs)
        made = TaggedText(
            line,
            name,
            tuple(words),
            tuple(tags),
            intent.strip().removeprefix("IN:"),
            text,
            tuple(offsets),
        )
        yield _checked(place, made._replace(language=columns[5].partition("_")[0]))


def _mtop_tags(
    place: str, slots: str, offsets: list[tuple[int, int]], repairs: Counter[str]
) -> list[str]:
    """BIO tags of slots `start:end:SL:NAME`, whose edges are characters."""
    tags = ["O"] * len(offsets)
    for slot in filter(None, slots.split(",")):
        parts = slot.split(":")
        if len(parts) != 4 or not (parts[0] + parts[1]).isdigit() or parts[2] != "SL":
            raise ValueError(f"{place}: slot {slot!r}; start:end:SL:NAME is needed")
        start, end = int(parts[0]), int(parts[1])
        inside = [place for place, (a, b) in enumerate(offsets) if a < end and b > start]
        if not inside:
            raise ValueError(f"{place}: slot {slot!r} covers no word")
        if offsets[inside[0]][0] < start or offsets[inside[-1]][1] > end:
            repairs[CUT_WORDS] += 1
        for number in inside:
            tags[number] = f"{'B' if number == inside[0] else 'I'}-{parts[3].strip()}"
    return tags
