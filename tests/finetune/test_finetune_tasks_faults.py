"""Every fault of the data is one ValueError that names the file and the row."""

from pathlib import Path

import pytest

from finetune.tasks.registry import MissingSplit, OwnFiles, load_task

STSB = "sentence1\tsentence2\tscore\n"
SST2 = "sentence\tlabel\n"


@pytest.mark.parametrize(
    ("task", "folder", "content", "message"),
    [
        ("sst2", "SST-2", b"text\tlabel\ngood\t1\n", "line 2: no column 'sentence'; it has 'text'"),
        ("sst2", "SST-2", b"sentence\tscore\ngood\t1\n", "line 2: no column 'label'"),
        ("sst2", "SST-2", b"sentence\tlabel\ngood\t2\n", "line 2: unknown label '2'; allowed: '0'"),
        ("sst2", "SST-2", b"sentence\tlabel\ngood\t1\n \t1\n", "line 3: 'sentence' is empty"),
        ("sst2", "SST-2", b"sentence\tlabel\ng\xf6od\t1\n", "line 2: is not UTF-8"),
        ("sst2", "SST-2", b"sentence\tlabel\ngood\n", "line 2: has 1 columns"),
        ("cola", "CoLA", b"sentence\tlabel\ngood\t1\n", "line 1: has 2 columns but 4 are needed"),
        ("rte", "RTE", b"sentence1\tsentence2\tlabel\na\tb\tneutral\n", "unknown label 'neutral'"),
        ("stsb", "STS-B", (STSB + "a\tb\tnan\n").encode(), "line 2: score 'nan' is no finite"),
        ("stsb", "STS-B", (STSB + "a\tb\t1e39\n").encode(), "line 2: score '1e39' is no finite"),
        ("stsb", "STS-B", (STSB + "a\tb\t\n").encode(), "line 2: score '' is no finite"),
        ("stsb", "STS-B", (STSB + "a\tb\t5.5\n").encode(), r"score 5.5 is outside of \[0, 5\]"),
        ("stsb", "STS-B", (STSB + "a\t\t5\n").encode(), "line 2: 'sentence2' is empty"),
        ("sst2", "SST-2", SST2.encode(), "has no rows"),
    ],
)
def test_a_damaged_glue_file_is_named_with_its_row(
    tmp_path: Path, task, folder, content, message
) -> None:
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "train.tsv").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_task(task, folder=str(tmp_path), splits=["train"])
    assert str(tmp_path / folder / "train.tsv") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_training_or_validation_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingSplit, match=r"no train\.tsv or train\.jsonl .* for SST-2's split"):
        load_task("sst2", folder=str(tmp_path))
    (tmp_path / "train.tsv").write_text(SST2 + "good\t1\n")
    with pytest.raises(MissingSplit, match=r"no dev\.tsv or dev\.jsonl"):
        load_task("sst2", folder=str(tmp_path))


def test_a_fit_does_not_need_the_test_file_but_asking_for_it_does(tmp_path: Path) -> None:
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / name).write_text(SST2 + "good\t1\n")
    assert list(load_task("sst2", folder=str(tmp_path)).splits) == ["train", "validation"]
    with pytest.raises(MissingSplit, match=r"no test\.tsv"):
        load_task("sst2", folder=str(tmp_path), splits=["test"])


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("cola", r"no train\.tsv"),
        ("imdb", r"no train\.jsonl .* Nor are there train/neg and train/pos"),
        ("yelp5", r"no train\.csv"),
        ("hyperpartisan", r"no train\.jsonl .* articles-training-byarticle"),
        ("hyperpartisan_legacy", r"no train\.jsonl"),
        ("arxiv", r"math\.AC: no \.txt files; the layout is <class>/\*\.txt"),
    ],
)
def test_a_folder_of_the_wrong_layout_says_what_was_looked_for(tmp_path, task, message) -> None:
    (tmp_path / "notes.md").write_text("nothing here")
    with pytest.raises(ValueError, match=message):
        load_task(task, folder=str(tmp_path))


@pytest.mark.parametrize("task", ["cola", "imdb", "yelp5", "hyperpartisan", "arxiv"])
def test_a_folder_that_does_not_exist_is_an_error(tmp_path: Path, task) -> None:
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        load_task(task, folder=str(tmp_path / "nowhere"))


def test_a_review_that_is_not_utf8_or_empty_is_named(tmp_path: Path) -> None:
    for label in ("neg", "pos"):
        (tmp_path / "train" / label).mkdir(parents=True)
        (tmp_path / "train" / label / "0_1.txt").write_bytes(b"fine\ngr\xfc\xdfe")
    with pytest.raises(ValueError, match=r"neg/0_1\.txt, line 2: is not UTF-8"):
        load_task("imdb", folder=str(tmp_path))
    (tmp_path / "train" / "neg" / "0_1.txt").write_bytes(b" \n")
    with pytest.raises(ValueError, match=r"neg/0_1\.txt: is empty"):
        load_task("imdb", folder=str(tmp_path))


def test_folds_are_only_for_tasks_that_have_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sst2 has fixed splits; leave out fold 1"):
        load_task("sst2", folder=str(tmp_path), fold=1)
    with pytest.raises(ValueError, match="fold 5, repeat 0: hyperpartisan has the folds 0 to 4"):
        load_task("hyperpartisan", folder=str(tmp_path), fold=5)


def test_the_diagnostic_set_is_not_for_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ax has no training rows: .* a model for mnli"):
        load_task("ax", folder=str(tmp_path))


@pytest.mark.parametrize(
    ("train", "validation", "options", "message"),
    [
        ("text,label\na,x\n", "text,label\na,x\n", {}, "all rows have the label 'x'"),
        ("text,label\na,x\nb,y\n", "text,label\na,z\n", {}, r"v\.csv, line 2: unknown label 'z'"),
        ("text,label\na,x\nb,\n", "text,label\na,x\n", {}, r"t\.csv, line 3: label 'label' is"),
        ("body,label\na,x\nb,y\n", "body,label\na,x\n", {}, r"'text'.* --data\.text"),
        ("text,class\na,x\nb,y\n", "text,class\na,x\n", {}, r"'label'.* --data\.label"),
        (
            "text,label\na,1\nb,nan\n",
            "text,label\na,1\n",
            {"kind": "regression"},
            r"t\.csv, line 3: score 'nan' is no finite number",
        ),
        (
            "text,score\na,1\n",
            "text,score\na,1\n",
            {"kind": "regression"},
            r"t\.csv, line 2: no column 'label'",
        ),
        (
            "text,label\na,x\nb,y\n",
            "text,label\na,x\n",
            {"text_pair": "other"},
            r"no column 'other'.*--data\.text_pair",
        ),
    ],
)
def test_a_fault_in_own_files_is_named(tmp_path, train, validation, options, message) -> None:
    (tmp_path / "t.csv").write_text(train)
    (tmp_path / "v.csv").write_text(validation)
    own = OwnFiles(train=str(tmp_path / "t.csv"), validation=str(tmp_path / "v.csv"), **options)
    with pytest.raises(ValueError, match=message):
        load_task("own", own=own)


def test_whole_numbers_as_labels_have_one_order(tmp_path: Path) -> None:
    for name in ("t.csv", "v.csv"):
        (tmp_path / name).write_text("text,label\na,1\nb,01\nc,10\nd,-2\ne,2\n")
    files = {"train": str(tmp_path / "t.csv"), "validation": str(tmp_path / "v.csv")}
    labels = load_task("own", own=OwnFiles(**files)).spec.labels
    assert labels == ("-2", "01", "1", "2", "10")
    (tmp_path / "t.csv").write_text("text,label\na,--1\nb,1\n")
    (tmp_path / "v.csv").write_text("text,label\na,--1\n")
    assert load_task("own", own=OwnFiles(**files)).spec.labels == ("--1", "1")


def test_own_files_without_a_validation_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,label\na,x\nb,y\n")
    with pytest.raises(ValueError, match=r"no validation file; name it with --data\.validation"):
        load_task("own", own=OwnFiles(train=str(tmp_path / "t.csv"), validation=""))
