"""Few documents, odd settings, and what a build says about them at its end."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_prep.cli import main
from data_prep.manifest import Manifest
from data_prep.selection import _validation


def chosen(number: int, fraction: float) -> int:
    hashes = np.random.default_rng(number).integers(0, 2**64, (number, 2), dtype=np.uint64)
    places = _validation(hashes, np.ones(number, np.bool_), fraction)
    assert set(places) == set(np.argsort(hashes[:, 0])[: places.size]), "those of smallest hash"
    return int(places.size)


def test_a_pair_objective_finds_two_documents_on_either_side_of_four_or_more() -> None:
    assert [chosen(n, 1e-9) for n in (1, 2, 3)] == [0, 1, 1]
    assert [chosen(n, 1e-9) for n in (4, 20, 60, 97, 900)] == [2, 2, 6, 9, 10]
    assert [chosen(n, 0.999999) for n in (2, 3, 4, 20)] == [1, 2, 2, 18]
    assert chosen(40, 0) == 0


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5])
def test_a_split_that_has_enough_is_decided_by_the_hash_alone(fraction: float) -> None:
    hashes = np.random.default_rng(0).integers(0, 2**64, (1000, 2), dtype=np.uint64)
    places = _validation(hashes, np.ones(1000, np.bool_), fraction)
    expected = np.flatnonzero(hashes[:, 0] < np.uint64(int(fraction * 2**64)))
    assert places.size >= 2 and np.array_equal(places, expected)


def built(folder: Path, *options: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    arguments = ["build", "--output", str(folder), "--quiet", "--num_workers", "1"]
    assert main([*arguments, "--tokenizer.vocab_size", "300", *options]) == 0
    return capsys.readouterr().out.splitlines()


def notes(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("note: ")]


def test_a_build_needs_no_config_file_and_says_what_it_read_dropped_and_repaired(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"Document number {i}.\x00 It has two sentences." for i in range(20)]
    text = "".join(json.dumps({"text": row}) + "\n" for row in [*rows, rows[0], ""])
    (tmp_path / "a.jsonl").write_text(text)
    lines = built(tmp_path / "out", "--source.path", str(tmp_path / "a.jsonl"), capsys=capsys)
    assert lines[:-1] == [
        "train: 18 documents, 36 sentences, " + lines[0].split(", ")[-1],
        "validation: 2 documents, 4 sentences, " + lines[1].split(", ")[-1],
        "read: 22 documents in 1 file; dropped: 1 empty document, 1 duplicate document; "
        "repaired: 21 control characters",
    ]
    assert main(["inspect", str(tmp_path / "out")]) == 0
    assert lines[2] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("One text.", (), "all text is one document.*document_separator blank_line"),
        ("One.\n***\nTwo.", ("--source.document_separator", "***"), "1 validate.*need two"),
        ("One.\n\nTwo.", ("--validation_fraction", "0"), "no validation split.*0.01 or more"),
        ("A.\nB.", ("--source.document_separator", "END"), r"\(END\) stands on no line"),
        ("<doc id=\"1\">\nA.\n</doc>\nB.", (), "2 lines such as <doc id=...> .*'</doc>'"),
        ("Thé théâtre à côté, où l'été a été.", (), "strip_accents false keeps"),
        ("आज मौसम अच्छा है।", (), "strip_accents false keeps"),
    ],
)  # fmt: skip
def test_a_build_says_at_once_what_training_would_stumble_over(
    text: str, options: tuple[str, ...], words: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "a.txt").write_text(text)
    lines = built(
        tmp_path / "out", "--source.path", str(tmp_path / "a.txt"), *options, capsys=capsys
    )
    assert any(re.search(words, note) for note in notes(lines)), lines


def test_nothing_is_noted_about_a_corpus_in_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("One text.\n\nAnother one.\n\nA third.\n\nThe last text.")
    options = ("--source.path", str(tmp_path / "a.txt"), "--source.document_separator=blank_line")
    lines = built(tmp_path / "out", *options, capsys=capsys)
    assert not notes(lines) and lines[0].startswith("train: 2 documents")


def test_every_line_is_a_sentence_where_bert_wants_it_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("Dr. No came. He sat\nand ate.\n\nA title\nB. C.\n")
    config = Path(__file__).parents[2] / "configs" / "data" / "bert_text.yaml"
    options = ("--config", str(config), "--source.path", str(tmp_path / "a.txt"))
    lines = built(tmp_path / "out", *options, "--validation_fraction", "0", capsys=capsys)
    assert lines[0].startswith("train: 2 documents, 4 sentences")
    arguments = ["build", "--source.path", str(tmp_path), "--sentences.split", "line"]
    assert main([*arguments, "--output", str(tmp_path / "other")]) == 2
    assert "give --cleaning.line_breaks paragraph" in capsys.readouterr().err


def test_files_that_are_not_utf8_are_named_with_their_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_bytes("Fühlt früh.".encode("latin-1"))
    (tmp_path / "in" / "b.txt").write_text("Fühlt spät.")
    lines = built(tmp_path / "out", "--source.path", str(tmp_path / "in"), capsys=capsys)
    assert any("2 bytes are not UTF-8 and were replaced: a.txt (2)" in note for note in lines)
    assert Manifest.load(tmp_path / "out").counters["invalid_utf8: a.txt"] == 2
    assert any("words lack letters. Convert these files" in note for note in lines)
    assert any("replaced: 2 bytes outside UTF-8" in line for line in lines)
    assert not any("repaired" in line for line in lines)
    main(["inspect", str(tmp_path / "out")])
    assert "| fhlt frh." in capsys.readouterr().out, "what the note is about"


def test_a_build_that_skips_damage_names_the_files_of_another_encoding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("Fühlt früh.", encoding="utf-16")
    (tmp_path / "in" / "b.txt").write_text("Fühlt spät.")
    options = ["--source.path", str(tmp_path / "in")]
    assert main(["build", *options, "--output", str(tmp_path / "out")]) == 2
    assert "or set on_error: skip to leave it out" in capsys.readouterr().err
    lines = built(tmp_path / "out", *options, "--source.on_error", "skip", capsys=capsys)
    assert any("dropped: 1 file in UTF-16 or UTF-32" in line for line in lines)
    assert any("UTF-16 or UTF-32 were left out: a.txt. Convert" in line for line in lines)


def run_into_closed_pipe(repository: Path, code: str) -> tuple[int, bytes]:
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=repository, stdout=write_end, stderr=subprocess.PIPE, check=False
    )
    os.close(write_end)
    return done.returncode, done.stderr


@pytest.mark.parametrize("package", ["pretrain", "finetune", "ponet"])
def test_a_reader_that_goes_away_ends_a_command_quietly(package: str, repository: Path) -> None:
    code = f"import sys; from {package}.cli import main; sys.exit(main(['--help']))"
    assert run_into_closed_pipe(repository, code) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_output_that_cannot_be_written_is_one_line(repository: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "finetune", "--help"]
        done = subprocess.run(
            command, cwd=repository, stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 2
    assert done.stderr == b"error: the output cannot be written: No space left on device\n"


def test_inspect_shows_replacements_in_a_plain_locale_and_ends_quietly_before_head(
    tmp_path: Path, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("今天天气很好。我们去公园散步！")
    options = ("--source.path", str(tmp_path / "a.txt"), "--validation_fraction", "0")
    built(tmp_path / "out", *options, capsys=capsys)
    done = subprocess.run(
        [sys.executable, "-m", "data_prep", "inspect", str(tmp_path / "out")],
        cwd=repository,
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0 and b"| ? ? ? ?" in done.stdout and not done.stderr
    code = (
        f"import sys; from data_prep.cli import main; sys.exit(main(['inspect', '{tmp_path}/out']))"
    )
    assert run_into_closed_pipe(repository, code) == (141, b"")
