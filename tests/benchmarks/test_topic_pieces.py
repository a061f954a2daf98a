"""Documents of article pieces: borders lie where the article changes, splits share no article."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.topic_pieces import LENGTHS, documents, main, prose


def article(number: int) -> list[str]:
    return [f"Article {number} says sentence {place}." for place in range(12)]


def test_a_border_lies_where_the_article_changes_and_nowhere_else():
    articles = [article(number) for number in range(8)]
    for document in documents(articles, 20, np.random.default_rng(0)):
        names = [sentence.split()[1] for sentence in document["sentences"]]
        changes = [n > 0 and names[n] != names[n - 1] for n in range(len(names))]
        assert [label == "begin" for label in document["labels"]] == changes
        pieces = np.split(document["sentences"], np.flatnonzero(changes))
        assert len({piece[0].split()[1] for piece in pieces}) == len(pieces)
        for piece in pieces:
            assert LENGTHS[0] <= len(piece) <= LENGTHS[1] and piece[0].endswith("sentence 0.")


def test_titles_and_remains_of_lists_are_no_prose():
    long = "This is a sentence of some length. " * 4
    assert prose(f"Title\n\nA heading\n\n{long}\n* one\n") == [long[:34]] * 4


def test_splits_share_no_article_and_repeat(tmp_path: Path):
    text = tmp_path / "text.jsonl"
    rows = [{"text": f"T\n{' '.join(article(number) * 2)}"} for number in range(40)]
    text.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = []
    for name in ("one", "two"):
        options = ["--text", str(text), "--output", str(tmp_path / name)]
        main([*options, "--articles", "40", "--documents", "6", "3", "3"])
        files = sorted((tmp_path / name).iterdir())
        found.append([file.read_text(encoding="utf-8") for file in files])
    assert found[0] == found[1]
    numbers = [{part.split()[0] for part in text.split("Article ")[1:]} for text in found[0]]
    assert not numbers[0] & numbers[1] and not numbers[1] & numbers[2]


def test_too_few_articles_for_a_split_are_said(tmp_path: Path):
    text = "Title\n" + " ".join(f"This is sentence number {n} of it." for n in range(12))
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text}) + "\n")
    with pytest.raises(SystemExit, match="1 articles with 11 sentences, which gives a split 0"):
        main(["--text", str(tmp_path / "*.jsonl"), "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
