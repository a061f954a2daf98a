"""Rows from files: the same from every format, and every fault named with file and line."""

import csv
import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.table_rows import read_table
from finetune.tasks.rows import label_name, name_it, row_texts
from finetune.tasks.spec import Columns

PLAIN = [("a good film", "1"), ('he said "no", twice', "0"), ("né à Paris", "1")]


def read_examples(path: Path, text: str = "text") -> list[tuple[int, str, str]]:
    columns = Columns(text=text, advice=name_it("{}"))
    return [
        (line, row_texts(columns, values, place)[0], label_name(columns, values, place))
        for line, values in read_table(path, is_own=True)
        for place in [f"{path}, line {line}"]
    ]


def read(path: Path, text: str = "text") -> list[tuple[str, str]]:
    return [(found, label) for _, found, label in read_examples(path, text)]


def csv_bytes(rows: list[tuple[str, str]]) -> bytes:
    quoted = ['"' + text.replace('"', '""') + f'",{label}' for text, label in rows]
    return "\n".join(["text,label", *quoted, ""]).encode()


def tsv_bytes(rows: list[tuple[str, str]]) -> bytes:
    return "".join(f"{a}\t{b}\n" for a, b in [("text", "label"), *rows]).encode()


def jsonl_bytes(rows: list[tuple[str, str]]) -> bytes:
    return "".join(json.dumps({"text": a, "label": int(b)}) + "\n" for a, b in rows).encode()


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize(
    ("suffix", "content"), [(".csv", csv_bytes), (".tsv", tsv_bytes), (".jsonl", jsonl_bytes)]
)
def test_every_format_gives_the_same_rows(tmp_path, suffix, content, packing) -> None:
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}[packing]
    path = tmp_path / f"rows{suffix}{packing}"
    path.write_bytes(pack(content(PLAIN)))
    assert read(path) == PLAIN


def test_byte_order_mark_crlf_and_blank_lines_are_no_content(tmp_path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"\xef\xbb\xbftext,label\r\ngood,1\r\n\r\nbad,0\r\n")
    assert read_examples(path) == [(2, "good", "1"), (4, "bad", "0")]


def test_quotes_are_plain_characters_in_tsv(tmp_path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text('text\tlabel\n"open quote\t1\nnext "\t0\n')
    assert read(path) == [('"open quote', "1"), ('next "', "0")]


def test_line_is_the_first_of_a_row_with_line_breaks(tmp_path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('text,label\n"two\nlines",1\n,0\n')
    with pytest.raises(ValueError, match=r"rows\.csv, line 4: 'text' is empty"):
        read(path)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    texts=st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0")).filter(
            str.strip
        ),
        min_size=1,
        max_size=5,
    )
)
def test_csv_written_by_python_reads_back(tmp_path, texts) -> None:
    path = tmp_path / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([("text", "label"), *((text, "x") for text in texts)])
    assert read(path) == [(text.strip(), "x") for text in texts]


def test_text_longer_than_the_csv_module_allows_by_default_is_read(tmp_path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "word " * 50_000 + ",1\n")
    assert len(read(path)[0][0]) == 249_999  # the white space around a text is not part of it


def test_a_table_without_a_header_line_is_read_with_given_names(tmp_path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('"5","so ""good"""\n"1","bad"\n')
    assert list(read_table(path, names=("label", "text"))) == [
        (1, {"label": "5", "text": 'so "good"'}),
        (2, {"label": "1", "text": "bad"}),
    ]


def test_a_row_of_another_width_than_the_given_names_is_an_error(tmp_path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("5,good,more\n")
    with pytest.raises(ValueError, match="line 1: has 3 columns but 2 are needed: label, text"):
        list(read_table(path, names=("label", "text")))


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("r.tsv", "text\tlabel\ngood\t1\nbroken\nbad\t0\n", (3, "has 1 columns, parted by tabs")),
        ("r.jsonl", '{"text": "a"}\n["b"]\n{"text": "c"}\n', (2, "is no JSON object")),
        ("r.jsonl", '{"text": "a"}\n{"text": \n{"text": "c"}\n', (2, "is not JSON")),
    ],
)
def test_rows_that_cannot_be_read_are_told_where_that_is_asked_for(
    tmp_path, name, content, wanted
) -> None:
    path, told = tmp_path / name, []
    path.write_text(content)
    rows = list(read_table(path, bad=lambda line, why: told.append((line, why))))
    assert len(rows) == 2 and [line for line, _ in told] == [wanted[0]]
    assert told[0][1].startswith(wanted[1])


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ('text\tlabel\n"a\tb"\tgood\nplain\tbad\n', [("a\tb", "good"), ("plain", "bad")]),
        ('text\tlabel\n"one\ntwo"\tgood\nx\tbad\n', [("one\ntwo", "good"), ("x", "bad")]),
        ('text\tlabel\n"so ""good"""\tgood\n', [('so "good"', "good")]),
        ('label\ttext\nbad\t"one\ntwo"\n', [("one\ntwo", "bad")]),
        # quotes that do not fit as those of CSV are characters
        ('text\tlabel\n"so" he said\tgood\n', [('"so" he said', "good")]),
        ('text\tlabel\n"open\t1\nshut"\t0\n', [('"open', "1"), ('shut"', "0")]),
        ('text\tlabel\nan "inner" quote\t1\n', [('an "inner" quote', "1")]),
    ],
)
def test_a_tsv_of_ones_own_has_the_quotes_of_csv_where_they_fit(tmp_path, content, rows) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text(content)
    assert read(path) == rows


def ragged(path: Path, content: str) -> tuple[list[str], list[str]]:
    """Return the texts of the rows, and what is wrong with others."""
    path.write_text(content)
    bad: list[str] = []
    rows = read_table(path, is_own=True, bad=lambda line, why: bad.append(f"line {line} {why}"))
    return [values["text"] for _, values in rows], bad


@pytest.mark.parametrize("place", [1, 2, 3])
def test_a_row_of_another_width_does_not_change_how_quotes_of_others_are_read(tmp_path, place):
    path, extra = tmp_path / "rows.tsv", "one\ttoo\tmany\n"
    lines = ["text\tlabel\n", '"so ""good"""\t1\n', '"two\nlines\tmore"\t0\n', "plain\t0\n"]
    texts, bad = ragged(path, "".join([*lines[:place], extra, *lines[place:]]))
    assert texts == ['so "good"', "two\nlines\tmore", "plain"]
    assert len(bad) == 1 and "has 3 columns, parted by tabs" in bad[0]
    lines = ["text\tlabel\n", '"open\t1\n', 'shut"\t0\n', "plain\t0\n"]
    if place != 2:  # there it may be a part of a text with line breaks
        texts, bad = ragged(path, "".join([*lines[:place], extra, *lines[place:]]))
        assert texts == ['"open', 'shut"', "plain"] and len(bad) == 1
    lines = ["text\tlabel\n", '"a" b\t1\n', '"c"\td\t0\n', '"e"\t1\n']
    texts, bad = ragged(path, "".join([*lines[:place], extra, *lines[place:]]))
    assert texts == ['"a" b', '"e"'] and len(bad) == 2


def test_a_tsv_of_one_column_has_rows_with_line_breaks(tmp_path) -> None:
    path, notes = tmp_path / "rows.tsv", Counter[str]()
    path.write_text('text\n"first line\nsecond line"\nplain\n')
    found = list(read_table(path, is_own=True, notes=notes))
    assert [values["text"] for _, values in found] == ["first line\nsecond line", "plain"]
    assert notes == {"rows with columns parted by tabs, with quotes as in CSV": 2}
    path.write_text('text\n"Hello," he said\nand "more"\n')
    assert len(list(read_table(path, is_own=True))) == 2
    assert len(list(read_table(path))) == 2


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("r.csv", "text;label\na, b;1\nc;0\n"),
        ("r.csv", "sep=;\ntext;label\na, b;1\nc;0\n"),
        ("r.csv", "sep=\t\ntext\tlabel\na, b\t1\nc\t0\n"),
        ("r.csv", 'sep=,\ntext,label\n"a, b",1\nc,0\n'),
        ("r.csv", "text\tlabel\na, b\t1\nc\t0\n"),
        ("r.csv", "text|label\na, b|1\nc|0\n"),
        ("r.csv", '"text","label",,\n"a, b",1,,\nc,0\n'),
        ("r.csv", 'text,label\r"a, b",1\rc,0\r'),
        ("r.csv", 'text,label\r"a, b",1\rc,0'),
        ("r.tsv", 'text,label\n"a, b",1\nc,0\n'),
        ("r.tsv", "text\tlabel\t\na, b\t1\t\nc\t0\t\n"),
        ("r.tsv", "text\tlabel\ra, b\t1\rc\t0\r"),
    ],
)
def test_what_spreadsheets_write_is_read(tmp_path, name, content) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode())
    assert read(path) == [("a, b", "1"), ("c", "0")]


def test_a_separator_that_was_found_out_is_told(tmp_path) -> None:
    path, notes = tmp_path / "rows.csv", Counter[str]()
    path.write_text("text;label\na, b;1\nc;0\n")
    list(read_table(path, is_own=True, notes=notes))
    assert notes == {"rows with columns parted by semicolons": 2}
    path.write_text('text,label\n"a; b",1\n')
    list(read_table(path, is_own=True, notes=(told := Counter[str]())))
    assert not told


def test_a_whole_number_is_a_label_however_json_writes_it(tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a", "label": 1.0}\n{"text": "b", "label": 1}\n')
    assert read(path) == [("a", "1"), ("b", "1")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.csv", b"sentence,label\ngood,1\n", r"line 2: no column 'text'; it has 'sentence'"),
        ("r.csv", b"text,label\ngood,1\nbad\n", "line 3: has 1 columns, parted by commas, but"),
        ("r.csv", b"text,label\ngood,yes,1\n", "put a text that holds the separator or a quote"),
        ("r.csv", b"text;label\ngood;yes;1\n", "line 2: has 3 columns, parted by semicolons"),
        ("r.tsv", b"text\tlabel\ngo\tod\t1\n", "quotes count as characters here"),
        ("r.csv", b"good film,1\nbad,0\n", "the first line of .csv and .tsv files holds"),
        ("r.csv", b'text,label\n"good,1\n', "line 2: is not valid CSV"),
        ("r.csv", b"text,text\ngood,1\n", "line 1: a column name occurs twice"),
        ("r.csv", b"text,label\ngood,\n", "line 2: label 'label' is .* are for `predict`"),
        ("r.jsonl", b'{"text": "good", "label": ["a"]}\n', "--data.kind multilabel"),
        ("r.csv", b"text,label\n", "has no rows"),
        ("r.csv", b"", "has no rows"),
        ("r.tsv", b"text\tlabel\ngood\t1\n\t0\n", "line 3: 'text' is empty"),
        ("r.tsv", b"text\tlabel\ngood\t1\n\t\n", "line 3: 'text' is empty"),
        ("r.tsv", b"text\tlabel\ngood\t1\n\xff\xfe\t0\n", "line 3: is not UTF-8"),
        ("r.jsonl", b'{"text": "good", "label": 1}\n{"text": "b', "line 2: is not JSON"),
        ("r.jsonl", b'["good", 1]\n', "line 1: is no JSON object"),
        ("r.jsonl", b'{"text": null, "label": 1}\n', "line 1: 'text' is null; a text is needed"),
        ("r.jsonl", b'{"text": "good", "label": 0.5}\n', "line 1: label 'label' is 0.5"),
        ("r.jsonl", b'{"text": "\\ud800", "label": 1}\n', "line 1: 'text' holds half a surrogate"),
        (
            "r.csv.gz",
            gzip.compress(b"text,label\n" + b"good,1\n" * 99, mtime=0)[:-9],
            "cannot be read",
        ),
        ("r.csv.zst", zstandard.compress(b"text,label\n" * 99)[:-3], "cannot be read"),
        ("r.xlsx", b"", r"unknown format; allowed: \.csv"),
    ],
)
def test_a_fault_is_named_with_its_file_and_line(tmp_path, name, content, message) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    assert name in str(caught.value)


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"none\.csv: no such file"):
        read(tmp_path / "none.csv")
