"""Files of Long Range Arena in every form they come in, and what is refused of them."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.lra.files import (
    read_cifar,
    read_pathfinder,
    read_pickle,
    read_retrieval,
    release_folder,
)
from finetune.lra.splits import byte_ids, grey


def test_the_release_is_found_in_either_nesting(tmp_path):
    inner = tmp_path / "lra_release" / "lra_release" / "listops-1000"
    inner.mkdir(parents=True)
    for given in (tmp_path, tmp_path / "lra_release", inner):
        assert release_folder(given, "listops-1000") == inner
    (tmp_path / "lra_release" / "listops-1000").mkdir()
    with pytest.raises(ValueError, match="twice"):
        release_folder(tmp_path, "listops-1000")
    with pytest.raises(ValueError, match="no folder tsv_data"):
        release_folder(tmp_path, "tsv_data")


def write_pickle(path: Path, rows) -> Path:
    path.write_bytes(pickle.dumps(rows))
    return path


def test_pickles_of_the_ports_are_read(tmp_path):
    rows = [
        {"input_ids_0": np.array([5, 0, 7, 0], np.int32), "label": np.int64(1)},
        {"input_ids_0": np.array([0, 0, 0, 0], np.int32), "label": np.array([0])},
    ]
    split = read_pickle(write_pickle(tmp_path / "listops.dev.pickle", rows), 2)
    assert split.ids.tolist() == [[5, 0, 7, 0], [0, 0, 0, 0]]
    assert split.labels.tolist() == [1, 0] and split.lengths.tolist() == [3, 0]
    rows = [{**row, "input_ids_1": row["input_ids_0"] + 1} for row in rows]
    pair = read_pickle(write_pickle(tmp_path / "retrieval.dev.pickle", rows), 2)
    assert pair.other_ids[1].tolist() == [1, 1, 1, 1] and pair.other_lengths.tolist() == [4, 4]


class Hostile:
    def __reduce__(self):
        return os.system, ("touch hacked",)


@pytest.mark.parametrize(("rows", "message"), [
    ([Hostile()], r"wants (posix|nt)\.system"),
    ("text", "no list of samples"),
    ([{"input_ids_0": np.zeros(3, np.int32)}], "sample 0: has no input_ids_0 and label"),
    ([{"input_ids_0": np.zeros(3, np.int32), "label": 7}], "sample 0: label 7; 0 to 1 are known"),
    ([{"input_ids_0": np.array([-1]), "label": 1}], "ids from -1"),
    ([{"input_ids_0": np.zeros(3, np.int32), "label": "x"}], "sample 0: label .*whole number"),
    ([{"input_ids_0": np.zeros(3, np.float32), "label": 1}], "ids of type float32"),
    ([{"input_ids_0": np.zeros(3, np.int32), "input_ids_1": np.zeros(3, np.int32), "label": 1},
      {"input_ids_0": np.zeros(3, np.int32), "label": 1}], "sample 1: has no .*input_ids_1"),
])  # fmt: skip
def test_pickles_that_hold_anything_else_are_refused(tmp_path, monkeypatch, rows, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        read_pickle(write_pickle(tmp_path / "a.pickle", rows), 2)
    assert not (tmp_path / "hacked").exists()


def test_a_cut_pickle_is_named(tmp_path):
    path = write_pickle(tmp_path / "a.pickle", [{"input_ids_0": np.zeros(99), "label": 1}])
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"a\.pickle: is no list"):
        read_pickle(path, 2)


def test_retrieval_reads_the_literals_or_what_they_stand_for(tmp_path):
    path = tmp_path / "new_aan_pairs.eval.tsv"
    path.write_text("1.0\tA\tB\tb'x\\xe2y'\tb\"z\"\n0\tA\tB\tb'q'\tb'r'\n")
    split = read_retrieval(path, length=6, kept=6)
    assert split.ids[0].tolist() == byte_ids("b'x\\xe2y'", 6).tolist()
    assert split.labels.tolist() == [1, 0] and split.other_lengths.tolist() == [4, 4]
    decoded = read_retrieval(path, length=6, kept=6, decoded=True)
    assert decoded.ids[0].tolist() == [121, 0xE2 + 1, 122, 0, 0, 0]
    for row, message in (("2\tA\tB\tb''\tb''", "label '2'"), ("1\tA\tB\tb''", "4 columns"),
                         ("1\tA\tB\tb'\tb''", "no whole Python bytes literal"),
                         ("1\tA\tB\tb''\tb'cut", "no whole Python bytes literal"),
                         ("1\tA\tB\tb''\ttext", "no whole Python bytes literal")):  # fmt: skip
        path.write_text(row + "\n")
        for decoded in (True, False):
            with pytest.raises(ValueError, match=message):
                read_retrieval(path, length=6, kept=6, decoded=decoded)


def test_the_retrieval_stand_in_is_in_the_original_format(shared_dir):
    folder = shared_dir / "data" / "lra_retrieval_sample" / "lra_format"
    if not folder.is_dir():
        pytest.skip(f"samples not found: {folder} does not exist")
    split = read_retrieval(folder / "new_aan_pairs.train.tsv", length=4000, kept=4000)
    assert len(split) == 24 and (split.ids[:, 0] == ord("b") + 1).all()
    assert (split.lengths == 4000).all() and set(split.labels.tolist()) == {0, 1}


def pathfinder_folder(root: Path, *, as_numpy: bool) -> Path:
    level = root / "curv_contour_length_14"
    (level / "imgs" / "0").mkdir(parents=True)
    (level / "metadata").mkdir()
    rows = []
    for number in range(3):
        pixels = np.full((4, 4), 10 * number, np.uint8)
        Image.fromarray(pixels).save(level / "imgs" / "0" / f"sample_{number}.png")
        rows.append(["imgs/0", f"sample_{number}.png", str(number), str(number % 2), "1.0"])
    table = level / "metadata" / "0.npy"
    if as_numpy:
        np.save(table, np.array(rows))
    else:
        table.write_text("\n".join(" ".join(row) for row in rows) + "\n")
    return root


@pytest.mark.parametrize("as_numpy", [False, True])
def test_pathfinder_is_read_with_both_kinds_of_metadata(tmp_path, as_numpy):
    split = read_pathfinder(pathfinder_folder(tmp_path, as_numpy=as_numpy))
    assert split.ids[:, 0].tolist() == [0, 10, 20] and split.labels.tolist() == [0, 1, 0]
    assert split.lengths.tolist() == [16] * 3


def test_damaged_pictures_are_named(tmp_path):
    folder = pathfinder_folder(tmp_path, as_numpy=False)
    picture = folder / "curv_contour_length_14" / "imgs" / "0" / "sample_1.png"
    picture.write_bytes(picture.read_bytes()[:30])
    with pytest.raises(ValueError, match="sample_1.png: cannot be read"):
        read_pathfinder(folder)
    whole = folder / "curv_contour_length_14" / "imgs" / "0" / "sample_0.png"
    picture.write_bytes(whole.read_bytes().replace(b"\rIHDR", b"\5IHDR"))
    with pytest.raises(ValueError, match="sample_1.png: cannot be read"):
        read_pathfinder(folder)
    picture.write_bytes(b"")
    with pytest.raises(ValueError, match="sample_1.png: is empty"):
        read_pathfinder(folder)
    picture.unlink()
    with pytest.raises(ValueError, match="sample_1.png: cannot be read"):
        read_pathfinder(folder)


@pytest.mark.parametrize(("pixels", "mode"), [
    (np.full((4, 4), 3000, np.uint16), "I;16"), (np.full((4, 4), 3000, np.int32), "I"),
    (np.full((4, 4), 0.5, np.float32), "F"),
])  # fmt: skip
def test_pixels_wider_than_a_byte_are_not_squeezed_into_one(tmp_path, pixels, mode):
    folder = pathfinder_folder(tmp_path, as_numpy=False)
    picture = folder / "curv_contour_length_14" / "imgs" / "0" / "sample_1.png"
    Image.fromarray(pixels).save(picture, format="PNG" if mode == "I;16" else "TIFF")
    message = (
        rf"sample_1.png: its pixels are wider .*\(mode {mode}\); save it with 8 bits a channel"
    )
    with pytest.raises(ValueError, match=message):
        read_pathfinder(folder)


def test_metadata_without_rows_are_named(tmp_path):
    folder = pathfinder_folder(tmp_path, as_numpy=False)
    metadata = folder / "curv_contour_length_14" / "metadata"
    (metadata / "1.npy").write_text("\n")
    with pytest.raises(ValueError, match=r"metadata/1.npy: names no picture; unpack it again"):
        read_pathfinder(folder)
    (metadata / "1.npy").unlink()
    np.save(metadata / "0.npy", np.empty((0, 5), "U3"))
    with pytest.raises(ValueError, match=r"metadata/0.npy: names no picture"):
        read_pathfinder(folder)


def test_metadata_are_files_of_numbers(tmp_path):
    folder = pathfinder_folder(tmp_path, as_numpy=False)
    metadata = folder / "curv_contour_length_14" / "metadata"
    (metadata / "._0.npy").write_bytes(b"\0left by an archive of another system")
    with (metadata / "0.npy").open("a") as file:
        file.write("\n")
    assert len(read_pathfinder(folder)) == len(read_pathfinder(metadata.parent)) == 3
    (metadata / "all.npy").write_text("")
    with pytest.raises(ValueError, match=r"all.npy: is no metadata/<number>.npy"):
        read_pathfinder(folder)
    (metadata / "all.npy").unlink()
    np.save(metadata / "0.npy", np.array([["a"]], object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"0.npy: cannot be read as NumPy"):
        read_pathfinder(folder)


def test_grey_is_tensorflows():
    colours = np.array([[0, 255, 0], [255, 255, 255], [0, 0, 0], [255, 0, 0]], np.uint8)
    assert grey(colours).tolist() == [149, 255, 0, 76]


def test_cifar_is_read_from_both_of_its_versions(tmp_path):
    generator = np.random.default_rng(1)
    pixels = generator.integers(256, size=(7, 3072), dtype=np.uint8)
    labels = generator.integers(10, size=7, dtype=np.uint8)
    binary, python = tmp_path / "cifar-10-batches-bin", tmp_path / "cifar-10-batches-py"
    for folder in (binary, python):
        folder.mkdir()
    np.concatenate([labels[:, None], pixels], 1).tofile(binary / "test_batch.bin")
    batch = {b"data": pixels, b"labels": labels.tolist(), b"batch_label": b"testing"}
    (python / "test_batch").write_bytes(pickle.dumps(batch, protocol=2))
    for folder in (binary, python, tmp_path):
        images, found = read_cifar(folder, "test")
        assert images.shape == (7, 32, 32, 3) and found.tolist() == labels.tolist()
        assert images[3, 0, 5].tolist() == pixels[3, [5, 1029, 2053]].tolist()
    (binary / "test_batch.bin").write_bytes(b"x" * 3000)
    with pytest.raises(ValueError, match="rows of 3,073"):
        read_cifar(binary, "test")
    (python / "test_batch").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(ValueError, match="nothing was run"):
        read_cifar(python, "test")
    with pytest.raises(ValueError, match="unpack CIFAR-10"):
        read_cifar(tmp_path, "train")
    (binary / "data_batch_1.bin").write_bytes(b"x" * 3073)
    with pytest.raises(ValueError, match="data_batch_2.bin: no such file, but"):
        read_cifar(tmp_path, "train")


BATCH = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 9]}


@pytest.mark.parametrize(("batch", "message"), [
    ({**BATCH, b"labels": [0, 300]}, "labels from 0 to 300; whole numbers from 0 to 9"),
    ({**BATCH, b"labels": [-1, 3]}, "labels from -1 to 3; whole numbers"),
    ({**BATCH, b"labels": [0.5, 3.0]}, "labels of type float64; whole numbers from 0 to 9"),
    ({**BATCH, b"labels": [[1], [2, 3]]}, "is no batch of CIFAR-10"),
    ({**BATCH, b"labels": 3}, r"data \(2, 3072\) and labels \(\) do not fit"),
    ({**BATCH, b"labels": [[1, 2], [3, 4]]}, r"data .* labels \(2, 2\) do not fit"),
    ({**BATCH, b"labels": []}, r"data .* labels \(0,\) do not fit"),
    ({b"data": [], b"labels": []}, r"data \(0,\)"),
    ({**BATCH, b"data": [[0, 1], [2]]}, "is no batch of CIFAR-10"),
    ({**BATCH, b"data": np.full((2, 3072), 256)}, "data from 256 to 256; .* 0 to 255"),
    (np.zeros(3), "is no batch of CIFAR-10"),
])  # fmt: skip
def test_a_python_batch_that_is_damaged_is_one_message(tmp_path, batch, message):
    write_pickle(tmp_path / "test_batch", batch)
    with pytest.raises(ValueError, match=rf"test_batch: {message}"):
        read_cifar(tmp_path, "test")


def test_whatever_a_damaged_pickle_raises_is_one_message(tmp_path):
    for content in (b"", b"I1x\n.", b"h\x05.", b"Vx\\u1\n.", b"c_codecs\nnobody\n."):
        for name, read in (("test_batch", lambda path: read_cifar(path.parent, "test")),
                           ("a.pickle", lambda path: read_pickle(path, 2))):  # fmt: skip
            (tmp_path / name).write_bytes(content)
            with pytest.raises(ValueError, match=rf"{name}: is no "):
                read(tmp_path / name)
