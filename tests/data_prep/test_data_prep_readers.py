import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from data_prep.config import HubSource, LocalSource
from data_prep.documents import read_documents
from data_prep.find import find_files
from data_prep.hub import group_rows, load_rows, row_texts
from data_prep.readers import DamagedInput, ReadLog
from data_prep.sources import describe, iterate_chunks

ROWS = ["First one.\n\nSecond paragraph.", "Second document."]


def read(path, **options):
    log = ReadLog()
    source = LocalSource(path=str(path), **options)
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
    names = [path.name for path in find_files(str(tmp_path))]
    assert names == ["a.jsonl.gz", "b.txt", "c.parquet"]
    assert [path.name for path in find_files(f"{tmp_path}/*.txt")] == ["b.txt"]
    for wrong in ("absent", "*.csv"):
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
        list(group_rows(row_texts(load_rows(strict), strict, {}), strict))
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


def test_a_data_set_that_cannot_be_loaded_is_one_clear_message(monkeypatch):
    import datasets

    def fail(*_, **__):
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(ValueError, match="hub x/y .*revision abc.*network") as caught:
        load_rows(HubSource(id="x/y", revision="abc"))
    assert "\n" not in str(caught.value)
