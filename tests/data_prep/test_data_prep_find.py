"""Which files a folder and a glob name, and what is said about the others."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from data_prep.cli import main
from data_prep.manifest import Manifest
from data_prep.readers import HIDDEN, find_files


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"The text of {name}. It is short.")


def relative(root: Path, pattern: str) -> list[str]:
    return [path.relative_to(root).as_posix() for path in find_files(str(root / pattern))[0]]


def test_folder_and_glob_find_the_same_files_through_links_and_circles_once(tmp_path: Path) -> None:
    make(tmp_path, "corpus/part1/a.txt", "elsewhere/b.txt", "elsewhere/deep/c.txt")
    corpus = tmp_path / "corpus"
    (corpus / "part2").symlink_to(tmp_path / "elsewhere")
    (corpus / "loop").symlink_to(corpus)
    (corpus / "part1" / "up").symlink_to(corpus)
    (corpus / "z.txt").symlink_to(corpus / "part1" / "a.txt")
    expected = ["part1/a.txt", "part2/b.txt", "part2/deep/c.txt"]
    for pattern in ("", "**", "**/*", "**/*.txt"):
        assert relative(corpus, pattern) == expected


def test_hidden_and_system_files_are_left_out_of_folder_and_glob_and_counted(
    tmp_path: Path,
) -> None:
    hidden = [".ipynb_checkpoints/a.txt", "__MACOSX/._a.txt", "._b.txt", "sub/.git/c.txt"]
    make(tmp_path, "a.txt", "sub/b.txt", "sub/Thumbs.db", *hidden)
    for pattern in ("", "**/*"):
        files, left_out = find_files(str(tmp_path / pattern))
        assert [path.name for path in files] == ["a.txt", "b.txt"]
        assert left_out == Counter({HIDDEN: 5})
    assert find_files(f"{tmp_path}/**/*.txt")[1] == Counter({HIDDEN: 4})
    assert relative(tmp_path, ".ipynb_checkpoints") == [".ipynb_checkpoints/a.txt"]
    assert relative(tmp_path, ".ipynb*/*.txt") == [".ipynb_checkpoints/a.txt"]


def test_files_of_other_endings_are_counted_by_ending_also_when_nothing_else_is_there(
    tmp_path: Path,
) -> None:
    make(tmp_path, "a.txt.bz2", "b.xml", "c.XML", "wiki_00")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no such file.*5 files \(1 .bz2, 2 .xml, 1 broken link"):
        find_files(str(tmp_path))
    make(tmp_path, "a.txt")
    assert find_files(str(tmp_path))[1] == Counter(
        {".bz2": 1, ".xml": 2, "broken link": 1, "without ending": 1}
    )
    assert find_files(str(tmp_path / "a.txt"))[1] == Counter()


def test_left_out_files_are_said_by_build_and_manifest_and_brought_up_to_date(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path, "texts/a.txt", "texts/b.xml", "texts/.c.txt")
    arguments = ["build", "--source.path", str(tmp_path / "texts"), "--quiet", "--num_workers=1"]
    arguments += ["--output", str(tmp_path / "out"), "--tokenizer.vocab_size", "100"]
    assert main(arguments) == 0
    line = "left out: 2 files (1 .xml, 1 hidden or of the system)\n"
    assert line in capsys.readouterr().out
    assert Manifest.load(tmp_path / "out").counters["left_out: .xml"] == 1
    make(tmp_path, "texts/d.xml")
    assert main(arguments) == 0
    assert "left out: 3 files (2 .xml" in capsys.readouterr().out
    assert Manifest.load(tmp_path / "out").counters["left_out: .xml"] == 2


def test_a_folder_whose_name_is_a_pattern_is_taken_as_it_stands(tmp_path: Path) -> None:
    make(tmp_path, "[v2]/a.txt", "[v2]/b[1].txt", "v/c.txt")
    assert relative(tmp_path, "[v2]/*.txt") == ["[v2]/a.txt", "[v2]/b[1].txt"]
    assert relative(tmp_path, "[v2]/b[1].txt") == ["[v2]/b[1].txt"]
    assert relative(tmp_path, "*/c.txt") == ["v/c.txt"]
    assert relative(tmp_path, "[uv]/*.txt") == ["v/c.txt"]


def test_a_name_that_is_no_utf8_is_shown_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = os.fsencode(tmp_path / "texts")
    os.mkdir(folder)
    with open(folder + b"/caf\xe9.jsonl", "w") as stream:
        stream.write(json.dumps({"body": "A text. It is short."}))
    arguments = ["build", "--source.path", os.fsdecode(folder), "--quiet", "--num_workers=1"]
    arguments += ["--output", str(tmp_path / "out"), "--tokenizer.vocab_size", "100"]
    assert main(arguments) == 2
    assert r"caf\xe9.jsonl, line 1" in capsys.readouterr().err
    assert main([*arguments, "--source.text_field", "body"]) == 0
    [record] = Manifest.load(tmp_path / "out").sources[0]["files"]
    assert record["name"] == r"caf\xe9.jsonl"
