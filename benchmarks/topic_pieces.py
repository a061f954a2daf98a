"""Documents made of pieces of articles, and the borders between them: sentences to be labelled.

`python -m benchmarks.topic_pieces --text 'wiki-*.jsonl.zst' --output DIR` writes train.jsonl,
validation.jsonl and test.jsonl with `sentences` and `labels` for `--data.kind sentences
--data.marks begins`. A document is some pieces of different articles, one behind the other; the
first sentence of every piece but the first is labelled `begin`. A piece is the first 3 to 11
sentences of an article. No article gives to two splits. The sections of articles are not used, as
the text has lost their headings: these borders lie between articles, and an article's first
sentence often looks like one, which is easier than borders between sections.

Source: Choi (NAACL 2000), who made such documents of the Brown corpus.
"""

import argparse
import glob
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data_prep.table_rows import read_table
from finetune.sentences.files import BEGIN, INSIDE, split_sentences

SPLITS = ("train", "validation", "test")
LEAST_CHARACTERS, LEAST_WORDS = 100, 4
"""Of a paragraph, and of a sentence; shorter ones are headings and remains of lists."""
Article = list[str]
"""Its sentences."""
Range = tuple[int, int]
LENGTHS: Range = (3, 11)
"""Sentences of a piece."""
PIECES: Range = (3, 7)
"""Pieces of a document."""


def prose(text: str) -> Article:
    """Return the sentences of an article, without its title and without remains of lists."""
    _, _, body = text.partition("\n")
    paragraphs = (line for line in body.split("\n") if len(line) >= LEAST_CHARACTERS)
    sentences = (one for line in paragraphs for one in split_sentences(line))
    return [one for one in sentences if len(one.split()) >= LEAST_WORDS]


def documents(
    articles: Sequence[Article],
    number: int,
    generator: np.random.Generator,
    *,
    pieces: Range = PIECES,
    lengths: Range = LENGTHS,
) -> Iterator[dict[str, list[str]]]:
    """Yield documents of pieces of different articles.

    Args:
        articles: At least as many as the most pieces, each as long as the longest piece.
        number: Of documents.
        generator: Draws everything.
        pieces: Least and greatest number of pieces.
        lengths: Least and greatest number of sentences of a piece.
    """
    for _ in range(number):
        size = generator.integers(*pieces, endpoint=True)
        sentences: list[str] = []
        labels: list[str] = []
        for place in generator.choice(len(articles), size, replace=False):
            own = articles[place][: generator.integers(*lengths, endpoint=True)]
            labels += [BEGIN if sentences else INSIDE, *[INSIDE] * (len(own) - 1)]
            sentences += own
        yield {"sentences": sentences, "labels": labels}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the three splits."""
    parser = argparse.ArgumentParser("benchmarks.topic_pieces", description=__doc__)
    parser.add_argument("--text", required=True, help="JSONL files of articles with a key text")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--articles", type=int, default=2000, help="articles that are read")
    parser.add_argument(
        "--documents", type=int, nargs=3, default=(1000, 200, 300), help="of the three splits"
    )
    parser.add_argument("--seed", type=int, default=42, help="of everything that is drawn")
    options = parser.parse_args(arguments)
    paths = sorted(glob.glob(options.text))
    if not paths:
        raise SystemExit(f"--text {options.text}: no such files")
    found: list[Article] = []
    for row in (row for path in paths for _, row in read_table(path)):
        article = prose(row["text"])
        if len(article) >= LENGTHS[1]:
            found.append(article)
        if len(found) == options.articles:
            break
    generator = np.random.default_rng(options.seed)
    order = generator.permutation(len(found))
    ends = np.cumsum(options.documents) / sum(options.documents) * len(found)
    parts = np.split(order, ends[:-1].astype(int))
    if min(map(len, parts)) < PIECES[1]:
        raise SystemExit(
            f"--text {options.text}: {len(found)} articles with {LENGTHS[1]} sentences, which "
            f"gives a split {min(map(len, parts))}; each needs {PIECES[1]}: give more text"
        )
    options.output.mkdir(parents=True, exist_ok=True)
    for name, part, number in zip(SPLITS, parts, options.documents, strict=True):
        own = [found[place] for place in part]
        lines = [json.dumps(one, ensure_ascii=False) for one in documents(own, number, generator)]
        (options.output / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{name}: {number} documents of pieces of {len(own)} articles")


if __name__ == "__main__":
    main()
