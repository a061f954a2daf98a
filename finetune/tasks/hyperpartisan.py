"""Hyperpartisan news, by article: clean folds by default, the leaky released split as `legacy`.

Invariant: the clean task never has one text on two sides; the legacy task is the released files,
untouched.
"""

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from finetune.tasks.lines import COMPRESSIONS
from finetune.tasks.long_documents import PUBLISHED_SOURCE, below, long_recipe
from finetune.tasks.rows import MissingSplit, RowReader, find_file
from finetune.tasks.spec import SplitRows, TaskSpec
from finetune.tasks.tables import read_table

LABELS = ("false", "true")
FILES = {"train": "train", "validation": "dev", "test": "test"}
SIZES = {"train": 516, "validation": 64, "test": 65}
ARTICLES = "articles-training-byarticle-20181122.xml"
TRUTH = "ground-truth-training-byarticle-20181122.xml"
_READER = RowReader(text="text", label="label", labels=LABELS, id_column="id")


def read_released(folder: Path, split: str) -> SplitRows:
    """Return `train.jsonl`, `dev.jsonl` or `test.jsonl`: text, label, id.

    Raises:
        MissingSplit: No such file.
        ValueError: A damaged row; names file and line.
    """
    root = below(folder, "hyperpartisan_news_detection")
    path = find_file(root, [f"{FILES[split]}.jsonl"], f"Hyperpartisan's split {split}")
    return _READER.split(((n, {"id": "", **row}) for n, row in read_table(path)), str(path))


def read_all(folder: Path, split: str) -> SplitRows:
    """Return the released files, or as `train` all articles of the original XML.

    The `line` of an article is its number in the XML file.

    Raises:
        MissingSplit: No file of that split.
        ValueError: Only some of the released files are there, or a damaged row or XML file.
    """
    if split not in FILES:
        raise MissingSplit(f"Hyperpartisan has no split {split}; it has {list(FILES)}")
    root = below(folder, "hyperpartisan_news_detection")
    try:
        return read_released(folder, split)
    except MissingSplit as error:
        names = [f"{stem}.jsonl{end}" for stem in FILES.values() for end in COMPRESSIONS]
        if any((root / name).is_file() for name in names):
            raise ValueError(f"{error} The folds are cut from all three files.") from error
        if not (root / ARTICLES).is_file():
            raise MissingSplit(f"{error} The original XML would be {ARTICLES}.") from error
        if split != "train":
            raise
    return _READER.split(enumerate(_articles(root), 1), str(root / ARTICLES))


def _articles(root: Path) -> Iterator[dict[str, str]]:
    truth_path = root / TRUTH
    if not truth_path.is_file():
        raise ValueError(f"{truth_path}: no such file; it holds the labels of {ARTICLES}")
    truth = {
        str(article.get("id")): str(article.get("hyperpartisan"))
        for article in _elements(truth_path)
    }
    for article in _elements(root / ARTICLES):
        name = str(article.get("id"))
        text = " ".join("".join(article.itertext()).split())
        if name not in truth:
            raise ValueError(f"{root / ARTICLES}: article {name} has no label in {TRUTH}")
        if truth[name] not in LABELS:
            raise ValueError(
                f"{truth_path}: article {name} has the unknown label {truth[name]!r}; allowed: "
                f"{', '.join(LABELS)}"
            )
        if not text:
            raise ValueError(f"{root / ARTICLES}: article {name} has no text; take it out")
        yield {"id": name, "text": text, "label": truth[name]}


def _elements(path: Path) -> Iterator[ElementTree.Element]:
    try:
        yield from ElementTree.parse(path).getroot().iter("article")
    except ElementTree.ParseError as error:
        raise ValueError(f"{path}, line {error.position[0]}: is not valid XML ({error})") from error


HYPERPARTISAN_TASKS: dict[str, TaskSpec] = {
    "hyperpartisan": TaskSpec(
        name="hyperpartisan",
        title="Hyperpartisan",
        labels=LABELS,
        score=("f1",),
        segments="sentences",
        sizes=SIZES,
        recipe=long_recipe(10),
        read_folder=read_all,
        num_folds=5,
        published_source="published scores are on the leaky split, see hyperpartisan_legacy",
    ),
    "hyperpartisan_legacy": TaskSpec(
        name="hyperpartisan_legacy",
        title="Hyperpartisan (legacy)",
        labels=LABELS,
        score=("f1",),
        segments="sentences",
        sizes=SIZES,
        recipe=long_recipe(10),
        read_folder=read_released,
        warning=(
            "leaky: 51 of its 65 test texts are also in train and 7 more in validation; only for "
            "comparison with papers, hyperpartisan is the clean task"
        ),
        published={"PoNet-Base": 96.2},
        published_source=PUBLISHED_SOURCE + "; on the leaky split",
    ),
}
