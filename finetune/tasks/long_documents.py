"""IMDb, Yelp-5 and Arxiv-11: long texts, one label each.

Invariant: no split that the publication used as validation and test at once stays so; where a
distribution has no validation rows they are carved from the training rows by `folds.carve`.
"""

import re
from collections import Counter
from functools import lru_cache, partial
from pathlib import Path

from finetune.tasks.folds import stratified_parts, subset
from finetune.tasks.lines import COMPRESSIONS
from finetune.tasks.rows import MissingSplit, RowReader, find_file, read_text_file
from finetune.tasks.spec import HubSource, Recipe, Row, SplitRows, TaskSpec
from finetune.tasks.tables import read_table

PUBLISHED_SOURCE = (
    "PoNet-Base: ModelScope card damo/nlp_ponet_fill-mask_english-base (arXiv 2110.02442, Table 4)"
)
SETUP = "lxchtan/PoNet, 3-LongTask.sh and run_long_classification.py"


def long_recipe(epochs: int) -> Recipe:
    """Return what the publication did with long texts, which differs in the epochs only."""
    return Recipe(lrs=(3e-5, 5e-5), batch_sizes=(32,), epochs=epochs, max_len=4096, source=SETUP)


IMDB_LABELS = ("neg", "pos")
STARS = ("1 star", "2 stars", "3 stars", "4 stars", "5 stars")
ARXIV_LABELS = (
    "math.AC",
    "cs.CV",
    "cs.AI",
    "cs.SY",
    "math.GR",
    "cs.CE",
    "cs.PL",
    "cs.IT",
    "cs.DS",
    "cs.NE",
    "math.ST",
)
ARXIV_PARTS = ("validation", "test", "train")
MENTIONS = "mentions of a class name taken out"
EMPTY_DOCUMENTS = "empty documents left out"


def below(folder: Path, name: str) -> Path:
    """Return folder/name if it exists, else the folder, which may be that folder itself.

    Raises:
        ValueError: No such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    return folder / name if (folder / name).is_dir() else folder


def read_imdb(folder: Path, split: str) -> SplitRows:
    """Return a split from aclImdb: `<split>/{neg,pos}/*.txt`, or `<split>.jsonl`.

    Raises:
        MissingSplit: Neither is there.
        ValueError: A damaged review; names its file (and line).
    """
    root = below(folder, "aclImdb")
    reader = RowReader(text="text", label="label", labels=IMDB_LABELS, id_column="id")
    if (root / split).is_dir():
        return reader.split(enumerate(_reviews(root, split), 1), str(root / split))
    stem = f"{split}.jsonl"
    if not any((root / f"{stem}{ending}").is_file() for ending in COMPRESSIONS):
        raise MissingSplit(f"{root}: no {split}/neg and {split}/pos, and no {stem} (also .gz .zst)")
    path = find_file(root, [stem], f"IMDb's split {split}")
    return reader.split(((n, {"id": "", **row}) for n, row in read_table(path)), str(path))


def _reviews(root: Path, split: str) -> list[dict[str, str]]:
    rows = []
    for label in IMDB_LABELS:
        folder = root / split / label
        paths = sorted(folder.glob("*.txt"), key=_file_number)
        if not paths:
            raise ValueError(f"{folder}: no .txt files; the layout is {split}/{{neg,pos}}/*.txt")
        for path in paths:
            text = read_text_file(path)
            if not text:
                raise ValueError(f"{path}: is empty; write a text or take the file out")
            rows.append({"id": f"{split}/{label}/{path.stem}", "text": text, "label": label})
    return rows


def _file_number(path: Path) -> tuple[int, str]:
    number = re.match(r"\d+", path.stem)
    return (int(number.group()) if number else -1, path.name)


def read_yelp(folder: Path, split: str) -> SplitRows:
    r"""Return a split from `<split>.csv`: "stars","text", quotes doubled, `\n` for line breaks.

    Raises:
        MissingSplit: No such file.
        ValueError: A damaged row; names file and line.
    """
    root = below(folder, "yelp_review_full_csv")
    path = find_file(root, [f"{split}.csv"], f"Yelp-5's split {split}")
    reader = RowReader(
        text="text",
        label="label",
        labels=("1", "2", "3", "4", "5"),
        decode=decode_yelp,
        allows_gaps=True,
    )
    return reader.split(read_table(path, names=("label", "text")), str(path))


def decode_yelp(text: str) -> str:
    r"""Return the text with `\n` as a line break and `\"` and `\""` as a quote.

    Source: readme of yelp_review_full_csv; the quotes are escaped once more in some copies.
    """
    return text.replace("\\n", "\n").replace('\\""', '"').replace('\\"', '"')


def without_class_names(text: str) -> tuple[str, int]:
    """Return the text without the eleven class names, and how many mentions there were.

    Source: the Hub's `no_ref` configuration takes out the same strings: "[cs.AI]" becomes "[]".
    """
    count = sum(text.count(name) for name in ARXIV_LABELS)
    for name in ARXIV_LABELS if count else ():
        text = text.replace(name, "")
    return text.strip(), count


def read_arxiv(folder: Path, split: str, *, keep_label: bool) -> SplitRows:
    """Return a split of `<class>/*.txt`: 80/10/10 per class by a hash of the text.

    Raises:
        ValueError: A class without documents, or a damaged one; names the file.
    """
    if split not in ARXIV_PARTS:
        raise MissingSplit(f"Arxiv-11 has no split {split}; it has {ARXIV_PARTS}")
    return _arxiv_splits(folder, keep_label)[split]


@lru_cache(maxsize=1)  # all splits come from one pass over two gigabytes
def _arxiv_splits(folder: Path, keep_label: bool) -> dict[str, SplitRows]:
    root = below(folder, "Long-document-dataset")
    raw, bare, repairs = _arxiv_documents(root)
    parts = stratified_parts(bare, [0.1, 0.1], "arxiv")
    whole = SplitRows(source=str(root), rows=tuple(raw if keep_label else bare))
    if keep_label:
        del repairs[MENTIONS]
    splits = {name: subset(whole, part) for name, part in zip(ARXIV_PARTS, parts, strict=True)}
    train = splits["train"]
    splits["train"] = SplitRows(source=train.source, rows=train.rows, repairs=dict(+repairs))
    return splits


def _arxiv_documents(root: Path) -> tuple[list[Row], list[Row], Counter[str]]:
    raw: list[Row] = []
    bare: list[Row] = []
    repairs: Counter[str] = Counter()
    for target, label in enumerate(ARXIV_LABELS):
        paths = sorted((root / label).glob("*.txt"))
        if not paths:
            raise MissingSplit(
                f"{root / label}: no .txt files; the layout is <class>/*.txt with the classes "
                f"{', '.join(ARXIV_LABELS)}"
            )
        for path in paths:
            text = read_text_file(path)
            short, mentions = without_class_names(text)
            if not short:
                repairs[EMPTY_DOCUMENTS] += 1
                continue
            repairs[MENTIONS] += mentions
            row = Row(len(raw) + 1, f"{label}/{path.stem}", text, "", float(target))
            raw.append(row)
            bare.append(row._replace(text=short) if short != text else row)
    return raw, bare, repairs


def _arxiv_hub(config: str, folder: str) -> HubSource:
    return HubSource(
        id="ccdv/arxiv-classification",
        config=config,
        # The revision others pin (f9bd92144ed7...) is a dataset script, which datasets >= 4
        # refuses; this is the commit of its conversion to Parquet, with the files of all splits.
        revision="93a8b118060952c75d8d6f49f0e406d0f2584f78",
        files=f"{folder}/{{split}}-*.parquet",
        splits={"train": "train", "validation": "validation", "test": "test"},
        text="text",
    )


def _arxiv(name: str, *, keep_label: bool) -> TaskSpec:
    return TaskSpec(
        name=name,
        title="Arxiv-11 (with label)" if keep_label else "Arxiv-11",
        labels=ARXIV_LABELS,
        score=("micro_f1",),
        segments="paragraphs",
        sizes={"train": 28_388, "validation": 2_500, "test": 2_500},
        recipe=long_recipe(10),
        read_folder=partial(read_arxiv, keep_label=keep_label),
        hub=_arxiv_hub("default", "data") if keep_label else _arxiv_hub("no_ref", "no_ref"),
        warning="many of its texts name their own class, such as [cs.AI]" if keep_label else "",
        published={"PoNet-Base": 86.11} if keep_label else {},
        published_source=PUBLISHED_SOURCE + ", on other splits of the same documents"
        if keep_label
        else "",
    )


LONG_TASKS: dict[str, TaskSpec] = {
    "imdb": TaskSpec(
        name="imdb",
        title="IMDb",
        labels=IMDB_LABELS,
        score=("f1",),
        segments="sentences",
        sizes={"train": 25_000, "test": 25_000},
        recipe=long_recipe(10),
        read_folder=read_imdb,
        hub=HubSource(
            id="stanfordnlp/imdb",
            config="plain_text",
            revision="e6281661ce1c48d982bc483cf8a173c1bbeb5d31",
            splits={"train": "train", "test": "test"},
            text="text",
        ),
        carve_validation=0.1,
        published={"PoNet-Base": 93.0},
        published_source=PUBLISHED_SOURCE + "; chosen and reported on the test split",
    ),
    "yelp5": TaskSpec(
        name="yelp5",
        title="Yelp-5",
        labels=STARS,
        score=("micro_f1",),
        segments="sentences",
        sizes={"train": 650_000, "test": 50_000},
        recipe=long_recipe(2),
        read_folder=read_yelp,
        hub=HubSource(
            id="Yelp/yelp_review_full",
            config="yelp_review_full",
            revision="c1f9ee939b7d05667af864ee1cb066393154bf85",
            splits={"train": "train", "test": "test"},
            text="text",
            decode=decode_yelp,
        ),
        carve_validation=0.1,
        allows_gaps=True,
        published={"PoNet-Base": 69.13},
        published_source=PUBLISHED_SOURCE + "; trained on 80 % of the training rows",
    ),
    "arxiv": _arxiv("arxiv", keep_label=False),
    "arxiv_with_label": _arxiv("arxiv_with_label", keep_label=True),
}
