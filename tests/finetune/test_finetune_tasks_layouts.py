"""Original layouts that are not at hand in full, rebuilt small; and a user's own files."""

import json
from pathlib import Path

import pytest

from finetune.tasks.long_documents import ARXIV_LABELS, EMPTY_DOCUMENTS, MENTIONS
from finetune.tasks.registry import OwnFiles, load_task
from finetune.tasks.rows import EMPTY_FILLED, EMPTY_LEFT_OUT, WRONG_WIDTH

MNLI_HEADER = (
    "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse "
    "sentence2_parse sentence1 sentence2"
).split()


def write_tsv(path: Path, *rows: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(row) + "\n" for row in rows))


def test_mnli_columns_are_found_by_name_in_every_split(tmp_path: Path) -> None:
    body = ["0", "p", "q", "fiction", "b1", "b2", "s1", "s2", "It rains.", "It is wet."]
    one = [MNLI_HEADER + ["label1", "gold_label"], body + ["neutral", "entailment"]]
    five = [f"label{n}" for n in range(1, 6)]
    dev = [MNLI_HEADER + five + ["gold_label"], body + ["neutral"] * 5 + ["contradiction"]]
    write_tsv(tmp_path / "MNLI" / "train.tsv", *one)
    for name in ("dev_matched", "dev_mismatched"):
        write_tsv(tmp_path / "MNLI" / f"{name}.tsv", *dev)
    for name in ("test_matched", "test_mismatched"):
        write_tsv(tmp_path / "MNLI" / f"{name}.tsv", MNLI_HEADER, body)
    task = load_task("mnli", folder=str(tmp_path))
    assert [(name, split.rows[0][2:5]) for name, split in task.splits.items()] == [
        ("train", ("It rains.", "It is wet.", 0.0)),
        ("validation", ("It rains.", "It is wet.", 2.0)),
        ("validation_mismatched", ("It rains.", "It is wet.", 2.0)),
        ("test", ("It rains.", "It is wet.", None)),
        ("test_mismatched", ("It rains.", "It is wet.", None)),
    ]
    assert task.validation_splits == ("validation", "validation_mismatched")


def test_damaged_qqp_rows_are_counted_and_test_rows_are_all_kept(tmp_path: Path) -> None:
    header = ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"]
    good = ["7", "1", "2", "Why?", "How?", "1"]
    write_tsv(tmp_path / "QQP" / "train.tsv", header, good, ["8", "1", "2", "Cut"], good)
    write_tsv(tmp_path / "QQP" / "dev.tsv", header, good, ["9", "1", "2", "Why?", "", "0"])
    write_tsv(
        tmp_path / "QQP" / "test.tsv",
        ["id", "question1", "question2"],
        ["0", "Why?", "How?"],
        ["1", "", "How?"],
    )
    task = load_task("qqp", folder=str(tmp_path))
    assert {name: split.repairs for name, split in task.splits.items()} == {
        "train": {WRONG_WIDTH: 1},
        "validation": {EMPTY_LEFT_OUT: 1},
        "test": {EMPTY_FILLED: 1},
    }
    assert [row.id for row in task.splits["test"].rows] == ["0", "1"]
    assert task.splits["test"].rows[1].text == "."


def test_the_qqp_subset_at_hand_reads_without_repairs(shared_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "dev.tsv").symlink_to(shared_dir / "data" / "glue" / "QQP" / "dev_subset.tsv")
    split = load_task("qqp", folder=str(tmp_path), splits=["validation"]).splits["validation"]
    assert len(split.rows) == 23_496
    assert sum(row.target == 1 for row in split.rows) == 8_747


def write_imdb(root: Path, count: int = 20) -> None:
    for split in ("train", "test"):
        for label in ("neg", "pos"):
            folder = root / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                (folder / f"{number}_{9 if label == 'pos' else 2}.txt").write_text(
                    f"{split} {label} {number}<br /><br />end\n"
                )


def test_imdb_folders_and_jsonl_give_the_same_rows(tmp_path: Path) -> None:
    root = tmp_path / "aclImdb"
    write_imdb(root)
    from_folder = load_task("imdb", folder=str(tmp_path))
    other = tmp_path / "jsonl"
    other.mkdir()
    for split in ("train", "test"):
        lines = [
            json.dumps({"id": f"{split}/{label}/{path.stem}", "label": target,
                        "text": path.read_text()})
            for target, label in enumerate(("neg", "pos"))
            for path in sorted((root / split / label).iterdir(), key=lambda p: int(p.stem[:-2]))
        ]  # fmt: skip
        (other / f"{split}.jsonl").write_text("\n".join(lines))
    from_jsonl = load_task("imdb", folder=str(other))
    for split in ("train", "validation", "test"):
        assert from_folder.splits[split].rows == from_jsonl.splits[split].rows
    assert len(from_folder.splits["validation"].rows) == 4


def test_yelp_csv_has_stars_first_and_doubled_quotes(tmp_path: Path) -> None:
    lines = [f'"{1 + n % 5}","He said ""{n}"".\\n\\nNext"\n' for n in range(100)]
    for name in ("train.csv", "test.csv"):
        (tmp_path / name).write_text("".join(lines))
    task = load_task("yelp5", folder=str(tmp_path))
    assert task.splits["test"].rows[6][2:5] == ('He said "6".\n\nNext', "", 1.0)
    assert {name: len(split.rows) for name, split in task.splits.items()} == {
        "train": 90,
        "validation": 10,
        "test": 100,
    }


def test_another_yelp_file_is_refused(shared_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "test.csv.gz").symlink_to(shared_dir / "data" / "yelp5" / "test.csv.gz")
    with pytest.raises(ValueError, match="line 1: has 3 columns but 2 are needed: label, text"):
        load_task("yelp5", folder=str(tmp_path), splits=["test"])


def write_arxiv(root: Path) -> None:
    for label in ARXIV_LABELS:
        (root / label).mkdir(parents=True)
        for number in range(20):
            text = f"Paper {number} of [{label}] 2017\n\nBody, cs.LG"
            (root / label / f"{number}.txt").write_text(text)
    (root / "cs.AI" / "broken.txt").write_text("\n")


def test_arxiv_texts_lose_the_class_names_but_not_the_splits(tmp_path: Path) -> None:
    write_arxiv(tmp_path)
    bare = load_task("arxiv", folder=str(tmp_path))
    whole = load_task("arxiv_with_label", folder=str(tmp_path))
    assert bare.splits["train"].repairs == {EMPTY_DOCUMENTS: 1, MENTIONS: 220}
    assert whole.splits["train"].repairs == {EMPTY_DOCUMENTS: 1}
    for split, size in {"train": 176, "validation": 22, "test": 22}.items():
        rows, others = bare.splits[split].rows, whole.splits[split].rows
        assert len(rows) == size
        assert [row.id for row in rows] == [row.id for row in others]
        assert all(row.text.startswith("Paper") and "of [] 2017\n\nBody, cs.LG" in row.text
                   for row in rows)  # fmt: skip
        assert all(f"[{row.id.split('/')[0]}]" in row.text for row in others)
    assert "name their own class" in whole.spec.warning


def write_xml(root: Path, *, truth: str = "true", body: str = "<p>One &amp; two</p><p>three</p>"):
    (root / "articles-training-byarticle-20181122.xml").write_text(
        "<articles>"
        + "".join(f'<article id="{n:07d}" title="T">{body} {n}</article>' for n in range(10))
        + "</articles>"
    )
    (root / "ground-truth-training-byarticle-20181122.xml").write_text(
        "<articles>"
        + "".join(
            f'<article hyperpartisan="{truth if n % 2 else "false"}" id="{n:07d}"/>'
            for n in range(10)
        )
        + "</articles>"
    )


def test_hyperpartisan_is_read_from_the_original_xml(tmp_path: Path) -> None:
    write_xml(tmp_path)
    task = load_task("hyperpartisan", folder=str(tmp_path))
    rows = sorted((row for split in task.splits.values() for row in split.rows), key=lambda r: r.id)
    assert rows[3][1:5] == ("0000003", "One & twothree 3", "", 1.0)
    assert {name: len(split.rows) for name, split in task.splits.items()} == {
        "train": 6,
        "validation": 2,
        "test": 2,
    }


def test_folds_are_not_cut_from_some_of_the_released_files(tmp_path: Path) -> None:
    rows = "".join(f'{{"id": {n}, "text": "text {n}", "label": "true"}}\n' for n in range(10))
    (tmp_path / "train.jsonl").write_text(rows)
    with pytest.raises(ValueError, match=r"no dev\.jsonl .* cut from all three files"):
        load_task("hyperpartisan", folder=str(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"truth": "maybe"}, "article 0000001 has the unknown label 'maybe'; allowed: false, true"),
        ({"body": "<p>"}, r"articles-.*\.xml, line 1: is not valid XML"),
    ],
)
def test_damaged_xml_is_named(tmp_path: Path, options, message) -> None:
    write_xml(tmp_path, **options)
    with pytest.raises(ValueError, match=message):
        load_task("hyperpartisan", folder=str(tmp_path))


def write_own(tmp_path: Path, **texts: str) -> dict[str, str]:
    for name, text in texts.items():
        (tmp_path / f"{name}.csv").write_text(text)
    return {name: str(tmp_path / f"{name}.csv") for name in texts}


def test_own_labels_are_those_of_training_sorted_as_numbers(tmp_path: Path) -> None:
    body = "text,label\n" + "".join(f"t{n},{n}\n" for n in (10, 2, 1))
    files = write_own(tmp_path, train=body, validation=body, test=body)
    task = load_task("own", own=OwnFiles(**files))
    assert task.spec.labels == ("1", "2", "10")
    assert [row.target for row in task.splits["test"].rows] == [2, 1, 0]
    assert (task.test_splits, task.spec.segments) == (("test",), "separators")


def test_own_regression_reads_numbers_and_pairs(tmp_path: Path) -> None:
    body = "left,right,score\na,b,0.5\nc,d,-1e3\n"
    files = write_own(tmp_path, train=body, validation=body)
    task = load_task(
        "own",
        own=OwnFiles(**files, text="left", text_pair="right", label="score", kind="regression"),
    )
    assert task.spec.is_regression and task.spec.has_pair
    assert [row[2:5] for row in task.splits["train"].rows] == [("a", "b", 0.5), ("c", "d", -1000.0)]


def test_a_jsonl_file_may_have_the_name_of_its_split(tmp_path: Path) -> None:
    row = {"sentence1": "a", "sentence2": "b", "label": 0}
    for name in ("train", "validation"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    assert len(load_task("rte", folder=str(tmp_path)).splits["validation"].rows) == 1
    (tmp_path / "dev.jsonl").write_text((json.dumps(row) + "\n") * 2)
    assert len(load_task("rte", folder=str(tmp_path)).splits["validation"].rows) == 2
