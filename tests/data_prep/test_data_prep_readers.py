import errno
import gzip
import io
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from data_prep import readers
from data_prep.config import HubSource, LocalSource
from data_prep.readers import (
    DamagedInput,
    ReadLog,
    UnsupportedInput,
    find_files,
    txt_documents,
    wikitext_documents,
)
from data_prep.sources import (
    describe,
    hub_texts,
    iterate_chunks,
    load_rows,
    progress_total,
    read_documents,
)

ROWS = ["First one.\n\nSecond paragraph.", "Second document."]


def read(path, **options):
    source = LocalSource(path=str(path), **options)
    log = ReadLog(source.on_error)
    return list(read_documents(Path(path), source, log)), +log.counters


def jsonl(rows):
    return "".join(json.dumps({"text": row}) + "\n" for row in rows).encode()


def parquet_bytes(rows, tmp_path):
    pq.write_table(pa.table({"text": rows}), tmp_path / "raw")
    return (tmp_path / "raw").read_bytes()


@pytest.mark.parametrize("form", [".txt", ".jsonl", ".parquet"])
@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
def test_every_format_and_compression_gives_the_same_documents(form, compression, tmp_path):
    data = {
        ".txt": "\n====\n".join(ROWS).encode(),
        ".jsonl": jsonl(ROWS),
        ".parquet": parquet_bytes(ROWS, tmp_path),
    }[form]
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}
    path = tmp_path / f"a{form}{compression}"
    path.write_bytes(pack[compression](data))
    assert read(path, document_separator="====")[0] == ROWS


def test_zst_files_of_several_frames_are_read_to_their_end(tmp_path):
    compress = zstandard.ZstdCompressor().compress
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(compress(jsonl(ROWS[:1])) + compress(jsonl(ROWS[1:])))
    assert read(path)[0] == ROWS


@pytest.mark.parametrize("compression", [".gz", ".zst"])
@pytest.mark.parametrize("form", [".txt", ".jsonl", ".parquet"])
def test_a_truncated_file_is_an_error_with_place_or_counted(form, compression, tmp_path):
    rows = [f"Row number {i} of the file {i * i}." for i in range(3000)]
    data = parquet_bytes(rows, tmp_path) if form == ".parquet" else jsonl(rows)
    pack = gzip.compress if compression == ".gz" else zstandard.ZstdCompressor().compress
    path = tmp_path / f"a{form}{compression}"
    packed = pack(data)
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DamagedInput, match=r"a\.\w+\.\w+, (line|row) \d+"):
        read(path)
    _, counters = read(path, on_error="skip")
    assert counters["truncated_files"] == 1


@pytest.mark.parametrize(
    ("line", "word"),
    [
        (b'{"text": "cut in the mid', "not a JSON value"),
        (b'{"body": "x"}', "no field 'text'; it has body"),
        (b'{"text": 3}', "int, not a text"),
        (b"[1]", "list"),
    ],
)
def test_a_bad_jsonl_row_is_an_error_with_line_or_counted(line, word, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl(ROWS) + line)
    with pytest.raises(DamagedInput, match=r"a\.jsonl, line 3") as caught:
        read(path)
    assert word in str(caught.value)
    documents, counters = read(path, on_error="skip")
    assert documents == ROWS and counters == {"damaged_rows": 1}


def test_invalid_utf8_is_replaced_and_counted(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"caf\xe9 and \xff\xef\xbf\xbd")
    documents, counters = read(path)
    assert documents == ["caf\ufffd and \ufffd\ufffd"] and counters["invalid_utf8"] == 2


def test_utf16_files_are_refused_with_a_mend(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("text", encoding="utf-16")
    with pytest.raises(DamagedInput, match="iconv"):
        read(path)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.txt.gz"])
def test_utf16_files_are_left_out_and_named_where_damage_is_skipped(name, tmp_path):
    data = "text\nSome text in letters.\n".encode("utf-16")
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    (tmp_path / "b.txt").write_text("Good.")
    source = LocalSource(path=str(tmp_path), on_error="skip")
    (chunk,) = iterate_chunks(source, 1000)
    assert chunk.documents == ["Good."]
    counted = {"files_of_wide_encoding": 1, f"files_of_wide_encoding: {name}": 1}
    assert chunk.counters == counted


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_jsonl_has_its_records_for_any_line_end_and_damage_its_line(line_end, tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [*jsonl(ROWS).decode().splitlines(), '{"text": 3}', ""]
    path.write_bytes(line_end.join(lines).encode())
    documents, counters = read(path, on_error="skip")
    assert documents == ROWS and counters["damaged_rows"] == 1
    with pytest.raises(DamagedInput, match=r"a\.jsonl, line 3: field 'text' is int"):
        read(path)


def test_lone_surrogates_and_empty_texts_reach_cleaning_unharmed(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "\\ud800x"}\n\n{"text": ""}\n')
    assert read(path)[0] == ["\ud800x", ""]
    empty = tmp_path / "b.txt"
    empty.write_bytes(b"")
    assert read(empty)[0] == [""]


def test_files_are_found_in_folders_and_globs_sorted_and_once(tmp_path):
    for name in ("b.txt", "a.jsonl.gz", "sub/c.parquet", "note.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    names = [path.name for path in find_files(str(tmp_path))[0]]
    assert names == ["a.jsonl.gz", "b.txt", "c.parquet"]
    assert [path.name for path in find_files(f"{tmp_path}/*.txt")[0]] == ["b.txt"]
    for wrong in ("absent", "*.bmp"):
        with pytest.raises(ValueError, match="no such file"):
            find_files(f"{tmp_path}/{wrong}")
    with pytest.raises(ValueError, match="unknown format"):
        find_files(str(tmp_path / "note.md"))


def test_wikitext_headings_start_documents(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(" = One = \n\n It 's well @-@ known . \n = = Part = = \n x \n = Two = \n y \n")
    assert read(path, wikitext_headings=True)[0] == [
        "One\n\nIt 's well-known .\n\nPart\n\nx",
        "Two\n\ny",
    ]


def test_hub_rows_are_loaded_with_revision_and_grouped(monkeypatch):
    import datasets

    asked = {}

    def fake(identifier, name, **options):
        asked.update(options, id=identifier, name=name)
        return datasets.Dataset.from_dict({"text": ["a.", "b.", "c.", None, "d."]})

    monkeypatch.setattr(datasets, "load_dataset", fake)
    source = HubSource(id="x/y", revision="abc", rows_per_document=2, on_error="skip")
    chunks = list(iterate_chunks(source, 1000))
    assert chunks[0].documents == ["a.\n\nb.", "c.\n\nd."]
    assert chunks[0].counters == {"damaged_rows": 1}
    assert asked["revision"] == "abc" and asked["id"] == "x/y" and asked["name"] is None
    assert describe(source)["revision"] == "abc"
    strict = HubSource(id="x/y", revision="abc")
    with pytest.raises(DamagedInput, match="row 4"):
        list(hub_texts(strict, ReadLog()))
    with pytest.raises(ValueError, match="no column 'body'; it has text"):
        load_rows(HubSource(id="x/y", revision="abc", text_field="body"))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_local_parquet_folder_loads_like_a_hub_data_set(streaming, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    folder = tmp_path / "set"
    folder.mkdir()
    pq.write_table(pa.table({"text": ROWS}), folder / "train.parquet")
    source = HubSource(
        id=str(folder), revision="main", data_files=("*.parquet",), streaming=streaming
    )
    documents = [text for chunk in iterate_chunks(source, 10) for text in chunk.documents]
    assert documents == ROWS


@pytest.mark.parametrize("is_format", [False, True])
def test_files_that_datasets_reads_here_are_known_by_their_content(
    is_format, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    for name in ("set/a.jsonl", "set/sub/b.jsonl", "set/notes.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('{"text": "A cat."}\n')
    folder = tmp_path / "set"
    names = {"data_files": (str(folder / "a.jsonl"), str(folder / "sub/*.jsonl"))}
    options = {"id": "json", **names} if is_format else {"id": str(folder)}
    source = HubSource(revision="x", **options)
    before = describe(source)
    assert [Path(file["name"]).name for file in before["files"]] == ["a.jsonl", "b.jsonl"]
    assert describe(source) == before
    assert progress_total(before) == (None, " rows")
    (folder / "sub/b.jsonl").write_text('{"text": "A dog."}\n')
    assert describe(source) != before
    with pytest.raises(ValueError, match="hub json .*cannot be loaded"):
        describe(HubSource(id="json", revision="x", data_files=("absent.jsonl",)))


def test_a_data_set_that_cannot_be_loaded_is_one_clear_message(monkeypatch):
    import datasets

    def fail(*_, **__):
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(ValueError, match="hub x/y .*revision abc.*network") as caught:
        load_rows(HubSource(id="x/y", revision="abc"))
    assert "\n" not in str(caught.value)


def zst_frame(data: bytes, window_log: int) -> bytes:
    """One frame of a single raw block, with a header that asks for so large a window."""
    header = b"\x28\xb5\x2f\xfd\x00" + bytes([(window_log - 10) << 3])
    return header + (len(data) << 3 | 1).to_bytes(3, "little") + data


def test_a_zst_window_of_two_gib_is_read_and_a_larger_one_is_no_damage(tmp_path):
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zst_frame(jsonl(ROWS), 31))
    assert read(path)[0] == ROWS
    path.write_bytes(zst_frame(jsonl(ROWS), 33))
    for on_error in ("error", "skip"):
        with pytest.raises(UnsupportedInput, match=r"window of 8,192 MiB .*zstd -d .*--long=31"):
            read(path, on_error=on_error)


def test_a_zst_dictionary_that_is_missing_is_no_damage(tmp_path):
    rows = [json.dumps({"text": f"Row {i} of a file about rows."}).encode() for i in range(500)]
    dictionary = zstandard.train_dictionary(4096, rows)
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstandard.ZstdCompressor(dict_data=dictionary).compress(rows[0]))
    with pytest.raises(UnsupportedInput, match="dictionary"):
        read(path, on_error="skip")


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl.gz", "a.txt.zst", "a.parquet.zst"])
def test_a_disk_that_fails_is_no_damage_of_the_file(name, tmp_path, monkeypatch):
    class Failing(io.BytesIO):
        def read(self, *_):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        readline = read

    (tmp_path / name).write_bytes(b"x")
    monkeypatch.setattr(readers, "open", lambda *_: Failing(), raising=False)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        read(tmp_path / name, on_error="skip")


def test_utf32_and_utf16_without_a_mark_are_refused_with_a_mend(tmp_path):
    path = tmp_path / "a.txt"
    for encoding, name in [("utf-32", "UTF-32"), ("utf-32-be", "UTF-32BE"), ("utf-16-le", "16LE")]:
        path.write_text("Some text in letters.\n", encoding=encoding)
        with pytest.raises(DamagedInput, match=f"{name}.*iconv -f"):
            read(path)
    path.write_bytes(b"a text\0with a few\0zeros\0\0\0")
    assert read(path)[0] == ["a text\0with a few\0zeros\0\0\0"]


BERT_FORMAT = "First text.\nIt is short.\n\n\nSecond text.\n \nThird.\n\n"


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_an_empty_line_or_a_line_of_marks_separates_documents_for_any_line_end(line_end, tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(BERT_FORMAT.replace("\n", line_end).encode())
    documents, counters = read(path, document_separator="blank_line")
    assert documents == ["First text.\nIt is short.", "Second text.", "Third."]
    assert counters["separator_lines"] == 4
    path.write_bytes(
        f"\ufeff***{line_end}One.{line_end}Two.{line_end} *** {line_end}Three.".encode()
    )
    assert read(path, document_separator="*** ")[0] == ["", "One.\nTwo.", "Three."]


@pytest.mark.parametrize("separator", ["\n", "\\n\\n", "  ", "\r\n"])
def test_white_space_as_separator_is_refused_naming_the_empty_line(separator):
    with pytest.raises(ValueError, match="write blank_line"):
        LocalSource(path="a", document_separator=separator)
    with pytest.raises(ValueError, match="wikitext_headings"):
        LocalSource(path="a", document_separator="***", wikitext_headings=True)


def test_documents_are_cut_at_a_line_where_no_empty_line_comes(monkeypatch):
    monkeypatch.setattr(readers, "MAX_DOCUMENT_CHARS", 100)
    monkeypatch.setattr(readers, "_WAIT_CHARS", 50)
    lines = ["a line of some text"] * 40
    log = ReadLog()
    cut = list(txt_documents(lines, "", log))
    assert "\n".join(cut) == "\n".join(lines) and max(map(len, cut)) <= 100 + 50 + 20
    assert log.counters["documents_cut"] == len(cut) - 1 > 3
    blank = [*lines[:6], "", *lines[:3]]
    assert list(txt_documents(blank, "", log)) == [
        "\n".join(blank[:6]),
        "\n".join(blank[6:]),
    ]
    long = list(txt_documents(["word " * 100], "", log))
    assert "".join(long) == "word " * 100 and max(map(len, long)) <= 100
    assert len(list(wikitext_documents(lines))) > 3


def test_lines_of_wikiextractor_are_taken_off_or_counted(tmp_path):
    path = tmp_path / "wiki_00.txt"
    page = '<doc id="{}" url="x" title="T">\nT{}\n\nA text.\n\n</doc>\n'
    path.write_text(page.format(1, 1) + page.format(2, 2))
    documents, counters = read(path, document_separator="</doc>")
    assert documents == ["T1\n\nA text.\n", "T2\n\nA text.\n"]
    documents, counters = read(path)
    assert len(documents) == 1 and counters["wikiextractor_lines"] == 4


def test_a_field_inside_a_field_is_named_with_a_point(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"meta": {"text": "One."}}\n{"meta.text": "Two.", "meta": 3}\n')
    assert read(path, text_field="meta.text")[0] == ["One.", "Two."]
    path.write_text('{"meta": {"title": "One."}}\n')
    with pytest.raises(DamagedInput, match="no field 'meta.text'; it has meta"):
        read(path, text_field="meta.text")
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"meta": [{"text": "One.", "n": 1}, {"text": None, "n": 2}]}), path)
    documents, counters = read(path, text_field="meta.text", on_error="skip")
    assert documents == ["One."] and counters["damaged_rows"] == 1
    with pytest.raises(DamagedInput, match=r"no column 'meta.body'; it has text, n"):
        read(path, text_field="meta.body")


def test_parquet_categories_are_text_and_a_column_that_stands_twice_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": pa.array(ROWS).dictionary_encode()}), path)
    assert read(path)[0] == ROWS
    twice = pa.table([pa.array(ROWS), pa.array(ROWS)], names=["text", "text"])
    pq.write_table(twice, path)
    with pytest.raises(DamagedInput, match="column 'text' 2 times.*Rename"):
        read(path)
    pq.write_table(pa.table({"text": pa.array([1, 2]).dictionary_encode()}), path)
    with pytest.raises(DamagedInput, match="holds int64, not text"):
        read(path)


def test_bytes_that_are_not_utf8_are_counted_by_file_in_every_format(tmp_path):
    row = b"caf\xe9 and \xff"
    (tmp_path / "a.txt").write_bytes(row)
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "' + row + b'"}\n')
    values = pa.array([row, b"fine", None]).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"text": values}), tmp_path / "c.parquet")
    source = LocalSource(path=str(tmp_path), on_error="skip")
    [chunk] = iterate_chunks(source, 1000)
    assert chunk.documents == ["caf\ufffd and \ufffd"] * 3 + ["fine"]
    names = {f"invalid_utf8: {name}": 2 for name in ("a.txt", "b.jsonl", "c.parquet")}
    assert chunk.counters == {"invalid_utf8": 6, "damaged_rows": 1, **names}
