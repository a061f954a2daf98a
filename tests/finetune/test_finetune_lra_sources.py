"""From the files that users have to the splits of a task; what is refused is one message."""

import dataclasses
import itertools
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.lra.sources import Wanted, load_data
from finetune.lra.splits import byte_ids, padded
from finetune.lra.tasks import IMAGE, LISTOPS, PATHFINDER, RETRIEVAL, TEXT

SMALL_TEXT = dataclasses.replace(TEXT, length=32, kept=24)
SMALL_PAIRS = dataclasses.replace(RETRIEVAL, length=32, kept=24)


def load(task, folder, mode="strict"):
    return load_data(Wanted(task=task, folder=str(folder), cache="", mode=mode))


def names_of_inputs(task, folder) -> set[str]:
    inputs = load(task, folder).inputs
    assert all(path.exists() for path in inputs.values())
    return {name.removeprefix("the data's ") for name in inputs}


def write_listops(folder: Path, last: str = "( [MAX 2 ) 9 ) ]\t9\r\n"):
    folder.mkdir(parents=True)
    rows = "Source\tTarget\r\n( ( [MIN 4 ) 3 ) ]\t3\r\n"
    for name in ("train", "val", "test"):
        (folder / f"basic_{name}.tsv").write_bytes((rows + last).encode())


def test_released_listops_files_are_read(tmp_path):
    write_listops(tmp_path / "lra_release/listops-1000")
    data = load(LISTOPS, tmp_path)
    assert data.kind == "official"
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 2, "validation": 2, "test": 2,
    }  # fmt: skip
    assert data.splits["test"].labels.tolist() == [3, 9]


def test_a_cut_listops_file_is_named_with_its_line(tmp_path):
    write_listops(tmp_path / "listops-1000", last="( [MAX 2 ) 9")
    with pytest.raises(ValueError, match=r"basic_train.tsv, line 3: no source and target"):
        load(LISTOPS, tmp_path)


def write_reviews(folder: Path):
    for split in ("train", "test"):
        for label in ("neg", "pos"):
            (folder / "aclImdb" / split / label).mkdir(parents=True)
            for n in range(10):
                text = f"{split} {label} review {n}, <br />which is longer than is kept of it"
                (folder / "aclImdb" / split / label / f"{n}_1.txt").write_text(text)


def test_text_is_validated_on_test_as_published_alone(tmp_path):
    write_reviews(tmp_path)
    strict, published = (load(SMALL_TEXT, tmp_path, mode) for mode in ("strict", "published"))
    assert {name: len(s) for name, s in strict.splits.items()} == {
        "train": 18, "validation": 2, "test": 20,
    }  # fmt: skip
    assert [len(published.splits[name]) for name in ("train", "validation")] == [20, 20]
    assert (published.splits["validation"].ids == published.splits["test"].ids).all()
    assert "as published" in published.notes[0]
    assert int(strict.splits["train"].lengths.max()) == 24
    assert not strict.splits["train"].ids[:, 24:].any()


def test_pairs_are_literals_as_published_and_decoded_in_strict(tmp_path):
    folder = tmp_path
    for name in ("train", "eval", "test"):
        (folder / f"new_aan_pairs.{name}.tsv").write_text("1.0\ta\tb\tb'x\\n'\tb'yy'\n")
    for mode, length in (("published", 6), ("strict", 2)):
        split = load(SMALL_PAIRS, tmp_path, mode).splits["test"]
        assert split.lengths.tolist() == [length]
        assert split.ids.shape == split.other_ids.shape == (1, 32)
    (folder / "new_aan_pairs.eval.tsv").unlink()
    with pytest.raises(ValueError, match=r"pairs.eval.tsv: no such file, though the others of Ret"):
        load(SMALL_PAIRS, tmp_path)


def test_the_stand_in_joins_pairs_and_papers(tmp_path):
    (tmp_path / "papers.jsonl").write_text('{"id": "a", "text": "x"}\n{"id": "b", "text": "yy"}\n')
    for name in ("train", "eval", "test"):
        (tmp_path / f"new_aan_pairs.{name}.only_ids.tsv").write_text("1.0\ta\tb\n0.0\tb\ta\n")
    data = load(SMALL_PAIRS, tmp_path)
    assert data.kind == "stand_in"
    assert data.splits["train"].other_lengths.tolist() == [2, 1]
    (tmp_path / "new_aan_pairs.test.only_ids.tsv").write_text("1.0\ta\tc\n")
    with pytest.raises(ValueError, match=r"test.only_ids.tsv, line 1"):
        load(SMALL_PAIRS, tmp_path)
    (tmp_path / "new_aan_pairs.test.only_ids.tsv").write_text("2\ta\tb\n")
    with pytest.raises(ValueError, match=r"line 1: 0 or 1 and two ids"):
        load(SMALL_PAIRS, tmp_path)
    with (tmp_path / "papers.jsonl").open("a") as stream:
        stream.write('{"text": "z"}\n')
    with pytest.raises(ValueError, match=r"papers.jsonl, line 3: no object with id and text"):
        load(SMALL_PAIRS, tmp_path)
    (tmp_path / "papers.jsonl").write_text('{"id": "a", "text": "x"}\n{"id": "b", "text": "yy"}\n')
    (tmp_path / "new_aan_pairs.test.only_ids.tsv").unlink()
    with pytest.raises(ValueError, match=r"test.only_ids.tsv: no such file"):
        load(SMALL_PAIRS, tmp_path)


def test_cifars_own_files_give_45_to_5(tmp_path):
    generator = np.random.default_rng(0)
    for name in [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]:
        rows = generator.integers(0, 10, (4, 3073), dtype=np.uint8)
        (tmp_path / f"{name}.bin").write_bytes(rows.tobytes())
    data = load(IMAGE, tmp_path)
    assert [len(data.splits[name]) for name in ("train", "validation", "test")] == [18, 2, 4]
    (tmp_path / "my_batch_notes").write_text("")
    batches = {*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"}
    assert names_of_inputs(IMAGE, tmp_path) == batches
    assert data.kind == "official"


def test_picture_files_are_read_by_any_name_and_every_class_must_have_some(tmp_path):
    for name, (place, title) in itertools.product(("train", "test"), enumerate(IMAGE.labels)):
        (tmp_path / name / title).mkdir(parents=True)
        for ending in ("png", "JPG", "jpeg"):
            picture = Image.fromarray(np.full((32, 32, 3), 20 * place, np.uint8))
            picture.save(tmp_path / name / title / f"{place}.{ending}")
    data = load(IMAGE, tmp_path)
    assert [len(data.splits[name]) for name in ("train", "validation", "test")] == [27, 3, 30]
    assert data.kind == "stand_in" and "lossy" in data.notes[0]
    for path in (path for path in tmp_path.rglob("*.*") if path.suffix != ".png"):
        path.unlink()
    folders = {f"{name}/{title}" for name in ("train", "test") for title in IMAGE.labels}
    assert names_of_inputs(IMAGE, tmp_path) == folders
    data = load(IMAGE, tmp_path)
    assert len(data.splits["test"]) == 10 and "lossy" not in data.notes[0]
    Image.fromarray(np.zeros((40, 32, 3), np.uint8)).save(tmp_path / "train/airplane/3.png")
    with pytest.raises(ValueError, match=r"airplane/3.png: \(40, 32, 3\) pixels"):
        load(IMAGE, tmp_path)
    (tmp_path / "train/airplane/3.png").unlink()
    (tmp_path / "test/truck/9.png").unlink()
    with pytest.raises(ValueError, match="test/truck: holds no .png, .jpg, .jpeg file"):
        load(IMAGE, tmp_path)


def test_pathfinder_pictures_are_split_alike_for_everyone(tmp_path):
    root = tmp_path / "pathfinder32/curv_contour_length_14"
    (root / "imgs/0").mkdir(parents=True)
    (root / "metadata").mkdir()
    lines = []
    for n in range(20):
        pixels = np.full((32, 32), n, np.uint8)
        Image.fromarray(pixels).save(root / f"imgs/0/sample_{n}.png")
        lines.append(f"imgs/0 sample_{n}.png {n} {n % 2} 1.0 14 4 2 0.5 1 1")
    (root / "metadata/0.npy").write_text("\n".join(lines))
    first, second = (load(PATHFINDER, tmp_path).splits for _ in range(2))
    assert [len(first[name]) for name in ("train", "validation", "test")] == [16, 2, 2]
    assert names_of_inputs(PATHFINDER, tmp_path) == names_of_inputs(PATHFINDER, root)
    assert names_of_inputs(PATHFINDER, root) == {"imgs", "metadata"}
    numbers = np.concatenate([split.ids[:, 0] for split in first.values()])
    assert sorted(numbers.tolist()) == list(range(20))
    assert (first["test"].ids == second["test"].ids).all()
    assert (load(PATHFINDER, root).splits["test"].ids == first["test"].ids).all()
    (root / "metadata/0.npy").write_text("\n".join(lines[:3]))
    message = "curv_contour_length_14, test: has no samples; .* too few of Pathfinder to be split"
    with pytest.raises(ValueError, match=message):
        load(PATHFINDER, tmp_path)


def test_pickles_and_megas_files_are_taken_where_they_lie(tmp_path):
    for n, name in enumerate(("train", "dev", "test")):
        row = {"input_ids_0": np.array([n, 0, 7, 0] * 256, np.int32), "label": 1}
        path = tmp_path / f"pathfinder32-curv_contour_length_14.{name}.pickle"
        path.write_bytes(pickle.dumps([row, row]))
    split = load(PATHFINDER, tmp_path).splits["train"]
    assert split.lengths.tolist() == [1024, 1024]
    (tmp_path / "pathfinder32-curv_contour_length_14.dev.pickle").unlink()
    with pytest.raises(ValueError, match=r"dev.pickle: no such file"):
        load(PATHFINDER, tmp_path)
    mega = tmp_path / "mega"
    for kind, text in (("input/{}.src", " ".join(["9"] * 1024)), ("label/{}.label", "1")):
        for name in ("train", "valid", "test"):
            path = mega / kind.format(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
    assert load(PATHFINDER, mega).splits["validation"].labels.tolist() == [1]
    assert names_of_inputs(PATHFINDER, mega) == {
        *(f"input/{name}.src" for name in ("train", "valid", "test")),
        *(f"label/{name}.label" for name in ("train", "valid", "test")),
    }
    (mega / "label/test.label").write_text("2\n")
    with pytest.raises(ValueError, match=r"test.label, line 1: label 2"):
        load(PATHFINDER, mega)


def write_pickles(folder: Path, task: str, others=None, **splits):
    """Split -> texts, padded to 32 places; of a pair the second texts are the first or `others`."""
    folder.mkdir(exist_ok=True)
    for name, texts in splits.items():
        ids, other_ids = (
            padded([byte_ids(text, 24) for text in side], 32)[0].astype(np.int32)
            for side in (texts, (others or {}).get(name, texts))
        )
        rows = [{"input_ids_0": row, "label": n % 2} for n, row in enumerate(ids)]
        if task == "retrieval":
            rows = [{**row, "input_ids_1": other_ids[n]} for n, row in enumerate(rows)]
        (folder / f"{task}.{name}.pickle").write_bytes(pickle.dumps(rows))
    return folder


def test_pickled_text_is_not_chosen_on_test_in_strict(tmp_path):
    train, test = ([f"{name} {n}" for n in range(20)] for name in ("train", "test"))
    folder = write_pickles(
        tmp_path / "ports", "text", train=train, dev=test[2:] + test[:2], test=test
    )
    strict, published = (load(SMALL_TEXT, folder, mode) for mode in ("strict", "published"))
    sizes = {name: len(split) for name, split in strict.splits.items()}
    assert sizes == {"validation": 2, "train": 18, "test": 20}
    kept = [row.tobytes() for name in ("validation", "train") for row in strict.splits[name].ids]
    whole = [row.tobytes() for row in published.splits["train"].ids]
    assert sorted(kept) == sorted(whole) and len(set(kept)) == 20
    assert "a tenth of train" in strict.notes[1] and "is the test split" in published.notes[1]
    assert len(published.splits["validation"]) == 20
    write_pickles(folder, "text", dev=["another"] * 4)
    assert len(load(SMALL_TEXT, folder).splits["validation"]) == 4


def test_pairs_whose_first_papers_recur_in_test_are_not_the_test_split(tmp_path):
    first, second = ([f"{side} {n}" for n in range(8)] for side in ("one", "two"))
    splits = {"train": first, "dev": first, "test": first}
    write_pickles(tmp_path, "retrieval", others={"dev": second}, **splits)
    for mode in ("strict", "published"):
        data = load(SMALL_PAIRS, tmp_path, mode)
        assert len(data.splits["validation"]) == 8 and len(data.notes) == 1
    write_pickles(tmp_path, "retrieval", **splits)
    assert "a tenth of train" in load(SMALL_PAIRS, tmp_path).notes[1]


def test_what_a_folder_holds_of_other_tasks_is_no_input(tmp_path):
    write_pickles(tmp_path, "retrieval", train=["x"], dev=["y"], test=["z"])
    write_pickles(tmp_path, "text", train=["x"], dev=["y"], test=["z"])
    assert {path.name for path in load(SMALL_TEXT, tmp_path).inputs.values()} == {
        "text.train.pickle", "text.dev.pickle", "text.test.pickle",
    }  # fmt: skip


def test_what_was_read_is_an_input_and_nothing_beside_it(tmp_path):
    write_listops(tmp_path / "lra_release/listops-1000")
    tables = {f"basic_{name}.tsv" for name in ("train", "val", "test")}
    assert names_of_inputs(LISTOPS, tmp_path) == tables
    write_reviews(tmp_path)
    assert names_of_inputs(SMALL_TEXT, tmp_path) == {
        "train/neg", "train/pos", "test/neg", "test/pos",
    }  # fmt: skip
    pairs, papers = (tmp_path / name for name in ("pairs", "papers"))
    for folder in (pairs, papers):
        folder.mkdir()
    for name in ("train", "test"):
        rows = [{"text": f"{name} {n}", "label": label} for n in range(10) for label in (0, 1)]
        lines = [json.dumps({**row, "label": TEXT.labels[row["label"]]}) for row in rows]
        (papers / f"{name}.jsonl").write_text("\n".join(lines))
    assert names_of_inputs(SMALL_TEXT, papers) == {"train.jsonl", "test.jsonl"}
    for name in ("train", "eval", "test"):
        (pairs / f"new_aan_pairs.{name}.tsv").write_text("1.0\ta\tb\tb'x'\tb'y'\n")
        (papers / f"new_aan_pairs.{name}.only_ids.tsv").write_text("1.0\ta\tb\n")
    tables = {f"new_aan_pairs.{name}.tsv" for name in ("train", "eval", "test")}
    assert names_of_inputs(SMALL_PAIRS, pairs) == tables
    (papers / "papers.jsonl").write_text('{"id": "a", "text": "x"}\n{"id": "b", "text": "y"}\n')
    lists = {f"new_aan_pairs.{name}.only_ids.tsv" for name in ("train", "eval", "test")}
    assert names_of_inputs(SMALL_PAIRS, papers) == {"papers.jsonl", *lists}


def test_listops_as_pickles_and_as_tables_is_not_guessed(tmp_path):
    for n, name in enumerate(("train", "dev", "test"), 1):
        row = {"input_ids_0": np.full(2048, n, np.int32), "label": 1}
        (tmp_path / f"listops.{name}.pickle").write_bytes(pickle.dumps([row]))
    assert load(LISTOPS, tmp_path).kind == "official"
    write_listops(tmp_path / "lra_release/listops-1000")
    message = r"holds ListOps twice, .*listops.train.pickle and .*lra_release/listops-1000; give a"
    with pytest.raises(ValueError, match=message):
        load(LISTOPS, tmp_path)
    assert len(load(LISTOPS, tmp_path / "lra_release").splits["train"]) == 2
    for path in (tmp_path / "lra_release/listops-1000").iterdir():
        path.rename(tmp_path / path.name)
    (tmp_path / "lra_release").rename(tmp_path / "away")
    with pytest.raises(ValueError, match=r"twice, .*train.pickle and .*basic_train.tsv; give a"):
        load(LISTOPS, tmp_path)


def test_pickled_texts_are_cut_and_short_ones_are_not_taken_for_long_ones(tmp_path):
    texts = ["a text that is longer", "b"]
    folder = write_pickles(tmp_path, "text", train=texts, dev=["c"], test=["d"])
    split = load(dataclasses.replace(SMALL_TEXT, length=8, kept=8), folder).splits["train"]
    assert split.ids.shape == (2, 8) and split.lengths.tolist() == [8, 1]
    with pytest.raises(ValueError, match=r"train.pickle: .*32 places.*--data.max_len 32"):
        load(TEXT, folder)


def test_pickled_literals_are_for_published_alone(tmp_path):
    splits = {"train": ["b'x'"], "dev": ["b'y'"], "test": ["b'z'"]}
    folder = write_pickles(tmp_path, "retrieval", **splits)
    assert "bytes literals" in load(SMALL_PAIRS, folder, "published").notes[1]
    with pytest.raises(ValueError, match=r"strict decodes.*--data.mode published"):
        load(SMALL_PAIRS, folder)
    write_pickles(tmp_path, "retrieval", train=["x", "b'y'"])
    assert load(SMALL_PAIRS, folder).splits["train"].lengths.tolist() == [1, 4]


def test_ids_beyond_the_vocabulary_are_one_message(tmp_path):
    for name in ("train", "dev", "test"):
        row = {"input_ids_0": np.full(2048, 31, np.int32), "label": 1}
        (tmp_path / f"listops.{name}.pickle").write_bytes(pickle.dumps([row]))
    with pytest.raises(ValueError, match="train: id 31; ListOps has 0 to 30"):
        load(LISTOPS, tmp_path)


@pytest.mark.parametrize(
    "task", [LISTOPS, TEXT, RETRIEVAL, IMAGE, PATHFINDER], ids=lambda t: t.name
)
def test_a_folder_of_something_else_is_one_message(tmp_path, task):
    with pytest.raises(ValueError, match=str(tmp_path)):
        load(task, tmp_path)


def test_what_cannot_be_made_asks_for_files():
    with pytest.raises(ValueError, match=r"--data.folder"):
        load(TEXT, "")
