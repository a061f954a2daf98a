"""The `ponet` command: what it prints, what it writes, and how it fails."""

import gzip
import io
import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from ponet_bundles import TEXTS, make_model, write_foreign, write_tokenizer

from ponet import load_bundle, save_bundle
from ponet.bundle_import import guess_lines
from ponet.cli import COMMANDS, HELP, main
from ponet.encode_files import _BLOCK_TEXTS
from ponet.inference import Guess


@pytest.fixture
def bundle_folder(tmp_path):
    return save_bundle(tmp_path / "b", make_model(), tokenizer_json=write_tokenizer(tmp_path))


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == HELP and main([]) == 2
    assert all(f"\n  {command}  " in HELP for command in COMMANDS)


def test_the_module_runs_as_a_command(repository):
    done = subprocess.run(
        [sys.executable, "-m", "ponet", "nonsense"], cwd=repository, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: unknown command 'nonsense'; the commands are import")


def test_import_prints_its_report_and_three_examples(tmp_path, capsys):
    folder = write_foreign(tmp_path / "m", make_model())
    assert main(["import", str(folder), "--output", str(tmp_path / "out"), "--names"]) == 0
    printed = capsys.readouterr().out
    assert "mapped      " in printed
    assert printed.count("  [MASK] 1: ") == 3
    assert "ponet.pooler.dense.bias -> pooler.dense.bias" in printed
    assert load_bundle(tmp_path / "out").metadata["language"] == "en"


def test_a_mistake_is_one_line_without_a_traceback(tmp_path, capsys, monkeypatch):
    assert main(["import", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and "config.json does not exist" in message
    monkeypatch.setenv("PONET_TRACEBACK", "1")
    with pytest.raises(ValueError, match=r"config.json does not exist"):
        main(["import", str(tmp_path), "--output", str(tmp_path / "out")])


def test_a_guess_that_is_a_mark_stands_in_quotes() -> None:
    guesses = [[Guess("shape", 0.5), Guess(",", 0.25), Guess("##s", 0.125)]]
    assert list(guess_lines(guesses)) == ["  [MASK] 1: shape 50.0%, ',' 25.0%, ##s 12.5%"]


def test_fill_prints_words_with_probabilities(bundle_folder, capsys):
    arguments = [str(bundle_folder), "the [MASK] rises", "boats [MASK] [MASK]!", "--top", "2"]
    assert main(["fill", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "[MASK] 2:" in printed and printed.count("%") == 6
    from pretrain.cli import main as pretrain_main

    assert pretrain_main(["fill", *arguments]) == 0
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("newline", ["\r\n", "\r"])
def test_encode_writes_one_row_for_each_line(newline, bundle_folder, tmp_path, capsys):
    lines = "".join(f"{text}\n" for text in TEXTS)
    (tmp_path / "in.txt").write_text(lines, encoding="utf-8-sig", newline=newline)
    (tmp_path / "in.jsonl").write_text(
        "".join(json.dumps({"meta": {"body": text}, "other": 1}) + "\n" for text in TEXTS),
        encoding="utf-8",
    )
    expected = load_bundle(bundle_folder).encode(TEXTS).numpy()
    base = ["encode", str(bundle_folder)]
    assert main([*base, str(tmp_path / "in.txt"), "--output", str(tmp_path / "v.npy")]) == 0
    assert "4 vectors of 16 numbers" in capsys.readouterr().out
    found = np.load(tmp_path / "v.npy")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)
    output = tmp_path / "new" / "v.jsonl"
    assert main([*base, str(tmp_path / "in.jsonl"), "--output", str(output), "--field",
                 "meta.body", "--batch-tokens", "48"]) == 0  # fmt: skip
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["row"] for row in rows] == [0, 1, 2, 3]
    np.testing.assert_allclose([row["embedding"] for row in rows], expected, atol=1e-5)
    assert {path.name for path in output.parent.iterdir()} == {"v.jsonl"}


def test_encode_reads_stdin_and_more_than_one_block(bundle_folder, tmp_path, monkeypatch):
    num_texts = _BLOCK_TEXTS + 3
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\n" * num_texts)))
    output = tmp_path / "v.npy"
    assert main(["encode", str(bundle_folder), "-", "--output", str(output), "--pooling", "cls",
                 "--batch-tokens", "12288"]) == 0  # fmt: skip
    found = np.load(output)
    assert found.shape == (num_texts, 16)
    np.testing.assert_allclose(found, np.broadcast_to(found[0], found.shape), atol=1e-5)


def test_encode_reads_the_rows_of_a_parquet_file(bundle_folder, tmp_path, capsys):
    path, output = tmp_path / "in.parquet", tmp_path / "v.npy"
    pq.write_table(pa.table({"n": range(4), "body": TEXTS}), path)
    base = ["encode", str(bundle_folder), str(path), "--output", str(output), "--field", "body"]
    assert main(base) == 0
    expected = load_bundle(bundle_folder).encode(TEXTS).numpy()
    np.testing.assert_allclose(np.load(output), expected, atol=1e-6)
    pq.write_table(pa.table({"body": ["a", None]}), path)
    assert main(base) == 2
    assert "in.parquet, row 2: has no text under 'body'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.jsonl", b'{"text": "a"}\n{"text": 3}\n', "in.jsonl, line 2: has no text under 'text'"),
        ("in.jsonl", b'{"text": "a"}\n{"tex', "in.jsonl, line 2: is not JSON"),
        ("in.JSONL", b'\n{"text": "a"}\n\n3\n', "in.JSONL, line 4: is no JSON object"),
        ("in.json", b'[\n {"text": "a"}\n]\n', ".json files are not read; give .txt"),
        ("in.parquet", b"PAR1", "in.parquet: cannot be read as Parquet"),
        ("in.txt.bz2", b"BZh", ".bz2 files are not read"),
        ("in.csv", b"body;n\na;1\n", "line 2: has no text under 'text'; it has 'body', 'n'. Name"),
        (
            "in.csv",
            b'text,n\n"a\nb",1\nc\n',
            "line 4: has 1 columns, parted by commas, but the first line names 2",
        ),
        ("in.csv", b'text\n"a\n', "in.csv, line 2: is not valid CSV"),
        ("in.csv", b"text,text\na,b\n", "in.csv, line 1: a column name occurs twice"),
        ("in.tsv", b'text\tn\n"a\t1\nb\n', "in.tsv, line 3: has 1 columns, .* quotes count as"),
        ("in.csv", "text\nn\u00e9e\n".encode("cp1252"), "in.csv, line 2: is not UTF-8 .* iconv"),
        ("in.txt", "a\n".encode("utf-16"), "in.txt, line 1: is not UTF-8"),
        ("in.txt.gz", gzip.compress(b"a\n" * 999, mtime=0)[:-9], "cannot be read"),
        ("in.txt.zst", zstandard.compress(b"a\n" * 999)[:-3], "in the middle of its data"),
        ("in.txt.zst", b"no zst at all", "compressed data is damaged"),
        ("in.txt", b"fine\nnot \xff\n", "in.txt, line 2: is not UTF-8"),
        (None, b"", "does not exist; give a file of texts"),
    ],
)
def test_a_broken_input_names_its_line_and_leaves_no_output(
    name, content, message, bundle_folder, tmp_path, capsys
):
    path = tmp_path / (name or "absent.txt")
    if name:
        path.write_bytes(content)
    before = set(tmp_path.iterdir())
    assert main(["encode", str(bundle_folder), str(path), "--output", str(tmp_path / "v.npy")]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert set(tmp_path.iterdir()) == before


def test_an_input_that_there_is_not_is_named_also_beside_an_earlier_output(
    bundle_folder, tmp_path, capsys
):
    output = tmp_path / "v.npy"
    output.touch()
    absent = str(tmp_path / "absent.txt")
    assert main(["encode", str(bundle_folder), absent, "--output", str(output)]) == 2
    assert f"{absent} does not exist; give a file of texts" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "end"),
    [
        (["encode", "b", "t.txt", "--output", "v.npy", "--batch-size", "1"], "--batch-tokens?"),
        (["encode", "b", "t.txt", "--output", "v.npy", "--batch_size=1"], "--batch-tokens?"),
        (["encode", "b", "t.txt", "--max_len", "9", "--output", "v.npy"], "--max-len?"),
        (["import", "m", "--output", "b", "--add_missing_heads"], "--add-missing-heads?"),
        (
            ["export", "b", "--output", "o", "--format", "onnx", "--seperator-ids"],
            "--separator-ids?",
        ),
        (["fill", "b", "a [MASK]", "--tops", "5"], "--top?"),
        (["fill", "b", "a [MASK]", "--zzzzz"], "unrecognized arguments: --zzzzz"),
    ],
)
def test_an_unknown_option_is_answered_with_the_nearest(arguments, end, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2 and capsys.readouterr().err.rstrip().endswith(end)


def compressed(name, content):
    pack = {".gz": gzip.compress, ".zst": zstandard.compress}.get(name[name.rfind(".") :])
    return pack(content[:9]) + pack(content[9:]) if pack else content  # two members, or frames


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("in.csv", b'\xef\xbb\xbfid, body \r\n1,"sun, ""the"" sun"\r\n\r\n2,"a\nb"\r\n3,\r\n'),
        ("in.CSV.gz", b'body\n"sun, ""the"" sun"\n"a\nb"\n""\n'),
        ("in.csv", b'body;n\n"sun, ""the"" sun";1\na b;2\n;3\n'),
        ("in.tsv", b'body\tn\n"sun, ""the"" sun"\t1\n"a\nb"\t2\n""\t3\n'),
        ("in.tsv.zst", b'n\tbody\n1\tsun, "the" sun\n\n2\ta b\n3\t\n'),
        ("in.JSONL", b'{"body": "sun, \\"the\\" sun"}\n\n{"body": "a\\nb"}\n \n{"body": ""}\n'),
        ("in.jsonl.ZST", b'{"body": "sun, \\"the\\" sun"}\n{"body": "a b"}\n{"body": ""}'),
        ("in.txt.gz", b'\xef\xbb\xbfsun, "the" sun\r\na b\n\n'),
        ("in", b'sun, "the" sun\na b\n\n'),
    ],
)
def test_every_kind_of_file_gives_its_texts_and_not_its_lines(
    name, content, bundle_folder, tmp_path
):
    path, output = tmp_path / name, tmp_path / "v.npy"
    path.write_bytes(compressed(name.lower(), content))
    field = [] if name in ("in", "in.txt.gz") else ["--field", "body"]
    assert main(["encode", str(bundle_folder), str(path), "--output", str(output), *field]) == 0
    expected = load_bundle(bundle_folder).encode(['sun, "the" sun', "a b", ""]).numpy()
    np.testing.assert_allclose(np.load(output), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--field", "body"], "--field body would do nothing: .* holds a text in every line"),
        (["--device", "cuda:7"], "--device cuda:7 is not on this machine, which has cpu"),
        (["--device", "gpu"], "--device gpu is not on this machine, which has cpu"),
        (["--device", "meta"], "--device meta is not on this machine"),
        (["--output", "{input}"], "must end in"),
        (["--output", "{folder}"], "is a folder; name a file"),
    ],
)
def test_options_of_encode_that_cannot_be_followed_are_one_line(
    options, message, bundle_folder, tmp_path, capsys
):
    path = tmp_path / "in.txt"
    path.write_text("a\n")
    (tmp_path / "folder.npy").mkdir()
    places = {"input": path, "folder": tmp_path / "folder.npy"}
    options = [option.format(**places) for option in options]
    base = ["encode", str(bundle_folder), str(path), "--output", str(tmp_path / "v.npy")]
    assert main([*base, *options]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1
    assert not (tmp_path / "v.npy").exists()


def test_the_input_is_never_written_over(bundle_folder, tmp_path, capsys):
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "a"}\n')
    assert main(["encode", str(bundle_folder), str(path), "--output", str(path)]) == 2
    assert "is the input itself" in capsys.readouterr().err
    assert path.read_text() == '{"text": "a"}\n'


def test_progress_counts_the_texts_of_the_whole_file(bundle_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ponet.inference._QUIET_S", 0.0)
    monkeypatch.setattr("ponet.encode_files._BLOCK_TEXTS", 2)
    path = tmp_path / "in.txt"
    path.write_text("a\n" * 5)
    assert main(["encode", str(bundle_folder), str(path), "--output", str(tmp_path / "v.npy")]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in lines] == [
        f"encoded {count} of 5 texts" for count in (2, 4, 5)
    ]


@pytest.mark.usefixtures("own_signals")
@pytest.mark.parametrize(
    ("number", "name", "code"), [(signal.SIGINT, "Ctrl-C", 130), (signal.SIGTERM, "SIGTERM", 143)]
)
def test_a_signal_ends_in_one_line_and_leaves_no_file(
    number, name, code, bundle_folder, tmp_path, capsys, monkeypatch
):
    def interrupted(vectors, path, width):
        path.write_bytes(b"the beginning")
        signal.raise_signal(number)

    monkeypatch.setattr("ponet.encode_files._write_npy", interrupted)
    (tmp_path / "in.txt").write_text("a\n")
    before = set(tmp_path.iterdir())
    command = ["encode", str(bundle_folder), str(tmp_path / "in.txt"), "--output"]
    assert main([*command, str(tmp_path / "v.npy")]) == code
    assert capsys.readouterr().err == f"stopped by {name}; nothing was written\n"
    assert set(tmp_path.iterdir()) == before
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_process_that_is_terminated_removes_what_it_had_begun(
    bundle_folder, tmp_path, repository
):
    output = tmp_path / "v.npy"
    code = "import sys; from ponet.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "encode", str(bundle_folder), "-", "--output"]
    process = subprocess.Popen([*command, str(output)], cwd=repository, text=True,
                               stdin=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    while process.poll() is None and not list(tmp_path.glob(".v.npy*")):
        time.sleep(0.05)  # until it waits for the first line of its input
    process.terminate()
    assert process.communicate()[1] == "stopped by SIGTERM; nothing was written\n"
    assert process.returncode == 143 and not list(tmp_path.glob("*v.npy*"))


def test_an_output_of_another_kind_is_refused(bundle_folder, tmp_path, capsys):
    assert main(["encode", str(bundle_folder), "-", "--output", str(tmp_path / "v.csv")]) == 2
    assert "must end in .npy or .jsonl" in capsys.readouterr().err
