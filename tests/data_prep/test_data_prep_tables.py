"""Texts from CSV and TSV files."""

import gzip
import io
from collections import Counter

import pytest
import zstandard

from data_prep.cli import main
from data_prep.config import BuildConfig, LocalSource
from data_prep.manifest import Manifest
from data_prep.pipeline import content_settings
from data_prep.readers import DamagedInput, ReadLog
from data_prep.sources import read_documents


def read(path, content=None, **options):
    """The texts of a file, and what was counted."""
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    source = LocalSource(path=str(path), **options)
    log = ReadLog(source.on_error)
    log.name = path.name
    return list(read_documents(path, source, log)), dict(+Counter(log.counters))


ROWS = 'id,text\n1,"One, two.\nThree ""four""."\n\n2,Five 5" long.\n'


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
def test_quoted_delimiters_line_breaks_and_quotes_are_part_of_the_text(compression, tmp_path):
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}
    path = tmp_path / f"a.csv{compression}"
    texts, counters = read(path, pack[compression](ROWS.encode()))
    assert texts == ['One, two.\nThree "four".', 'Five 5" long.'] and not counters


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff" + ROWS,
        ROWS.replace("\n", "\r\n"),
        ROWS.replace("\n", "\r"),
        ROWS.replace("\n", "\r").replace("two.\r", "two.\n"),
        ROWS.replace("\n", "\r", 1),
        ROWS.replace(",", ";").replace("One;", "One,"),
        "\n \n" + ROWS.replace(",", ";").replace("One;", "One,"),
        "sep=|\n" + ROWS.replace(",", "|").replace("One|", "One,"),
        "sep=,\r\n" + ROWS.replace("\n", "\r\n"),
        ROWS.replace("text", "text,,").replace('."\n', '.",,\n').replace("long.", "long.,"),
    ],
    ids=[
        "BOM",
        "CRLF",
        "CR",
        "CR and LF in a cell",
        "CR and then LF",
        "semicolons",
        "empty lines first",
        "sep=",
        "sep= CRLF",
        "empty columns of a spreadsheet",
    ],
)
def test_what_spreadsheets_write_is_read_alike(content, tmp_path):
    texts, counters = read(tmp_path / "a.csv", content)
    assert [text.replace("\r\n", "\n").replace("\r", "\n") for text in texts] == [
        'One, two.\nThree "four".',
        'Five 5" long.',
    ]
    assert "damaged_rows" not in counters


def test_columns_are_joined_as_paragraphs_and_may_be_numbers(tmp_path):
    content = 'Title , "a,b",Body\nNews,x,It rains.\n,y,Again.\n'.replace(' "a,b"', '"a,b"')
    path = tmp_path / "a.csv"
    assert read(path, content, text_field="Title,Body")[0] == ["News\n\nIt rains.", "Again."]
    assert read(path, text_field="3, 1")[0] == ["It rains.\n\nNews", "Again."]
    assert read(path, text_field="a,b")[0] == ["x", "y"]
    assert read(path, text_field="3", header=False)[0] == ["Body", "It rains.", "Again."]


def test_a_tsv_has_tabs_and_its_quotes_may_be_characters(tmp_path):
    path = tmp_path / "a.tsv"
    assert read(path, 'text\tn\n"One\ttwo"\t1\n')[0] == ["One\ttwo"]
    stray = 'text\tn\n"Well," he said.\t1\nTwo.\t2\n'
    with pytest.raises(
        DamagedInput, match=r"a\.tsv, line 2: is not valid CSV.*source\.quotes none"
    ):
        read(path, stray)
    assert read(path, quotes="none")[0] == ['"Well," he said.', "Two."]
    assert read(tmp_path / "a.csv.tsv", "One, two.\t1\n", text_field="1", header=False)[0] == [
        "One, two."
    ]
    other = tmp_path / "b.tsv"
    assert read(other, "a;text\n1;One.\n", delimiter=";")[0] == ["One."]
    assert read(other, "a\ttext\n1\tOne.\n", delimiter=r"\t")[0] == ["One."]


def test_rows_that_do_not_fit_are_an_error_with_their_first_line_or_counted(tmp_path):
    path = tmp_path / "a.csv"
    content = 'id,text\n1,"Two\nlines."\n2,One, two\n3,Three.\n4,"open\nnever\nclosed\n'
    with pytest.raises(DamagedInput, match=r"a\.csv, line 4: has 3 columns, parted by ','"):
        read(path, content)
    texts, counters = read(path, on_error="skip")
    assert texts == ["Two\nlines.", "Three."]
    assert counters == {"damaged_rows": 2, "lines_in_damaged_rows": 3}
    with pytest.raises(DamagedInput, match=r"a\.csv, line 2: is not valid CSV"):
        read(path, 'id,text\n1,"open\nnever\n')


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("body", r"a\.csv, line 1: has no column 'body'; there are 2.*: id, text"),
        ("9", "has no column '9'"),
        ("0", "has no column '0'"),
        ("id,id2", "has no column 'id2'"),
    ],
)
def test_a_missing_column_is_named_with_those_that_are_there(field, words, tmp_path):
    with pytest.raises(DamagedInput, match=words):
        read(tmp_path / "a.csv", ROWS, text_field=field, on_error="skip")


def test_a_column_named_twice_is_refused(tmp_path):
    with pytest.raises(DamagedInput, match="more than one column 'text'"):
        read(tmp_path / "a.csv", "text,text\n1,2\n")


def test_bytes_that_are_no_utf8_are_counted_by_file_and_utf16_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    texts, counters = read(path, "text\nFührmann\n".encode("latin-1"))
    assert texts == ["F\ufffdhrmann"] and counters["invalid_utf8: a.csv"] == 1
    with pytest.raises(DamagedInput, match=r"a\.csv: is UTF-16"):
        read(path, "text\nOne row.\n".encode("utf-16"))


@pytest.mark.parametrize("size", [0, 1])
def test_a_file_without_rows_has_no_texts(size, tmp_path):
    assert read(tmp_path / "a.csv", "text\n"[: 5 * size]) == ([], {})


@pytest.mark.parametrize("mark", ["ab", '"', "\n"])
def test_a_delimiter_is_one_character(mark):
    with pytest.raises(ValueError, match="source.delimiter"):
        LocalSource(path="a.csv", delimiter=mark)


def test_the_new_settings_leave_older_folders_as_they_were():
    config = BuildConfig(output="x", sources=(LocalSource(path="a.txt"),))
    assert not {"delimiter", "header", "quotes"} & content_settings(config)["sources"][0].keys()


def test_a_folder_of_tables_becomes_shards_by_one_command(tmp_path, capsys):
    table = io.StringIO()
    table.write("title;body\n")
    for number in range(40):
        table.write(
            f'Day {number};"It rained; it stopped.\n\nDay {number} was over at {number}."\n'
        )
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "days.csv").write_text(table.getvalue())
    options = ["--source.path", str(tmp_path / "texts"), "--source.text_field", "1,body"]
    options += ["--output", str(tmp_path / "out"), "--tokenizer.vocab_size", "128"]
    assert main(["build", *options, "--num_workers", "1", "--quiet"]) == 0
    splits = Manifest.load(tmp_path / "out").splits
    assert sum(split.documents for split in splits.values()) == 40
    assert "days.csv" in (tmp_path / "out" / "manifest.json").read_text()
    options[3] = "absent"
    assert main(["build", *options, "--overwrite", "true", "--quiet"]) == 2
    assert "days.csv, line 1: has no column 'absent'" in capsys.readouterr().err


def test_the_summary_tells_lines_that_an_open_quote_took_and_how_to_keep_them(tmp_path, capsys):
    rows = "".join(f"{i}\tSentence {i} of this text is here.\n" for i in range(30))
    rows += '30\t"Open and never closed.\n' + "".join(f"{i}\tA text.\n" for i in range(31, 41))
    (tmp_path / "a.tsv").write_text("id\ttext\n" + rows)
    options = ["build", "--quiet", f"--source.path={tmp_path}/a.tsv", "--tokenizer.vocab_size=90",
               f"--output={tmp_path}/out", "--source.on_error=skip"]  # fmt: skip
    assert main(options) == 0
    said = capsys.readouterr().out
    assert "dropped: 1 damaged row, 11 lines in damaged rows of several lines" in said
    assert "note: 11 lines of tables were left out" in said and "--source.quotes none" in said
    options += ["--source.quotes=none", f"--output={tmp_path}/whole"]
    assert main([option for option in options if not option.endswith("/out")]) == 0
    said = capsys.readouterr().out
    assert "41 documents" in said and "damaged" not in said
