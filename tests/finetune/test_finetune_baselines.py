"""Linear baselines: what they answer, what the command writes, and that no run differs."""

import ctypes
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from finetune_runs import result_of, write_splits
from finetune_sentences import write_documents
from finetune_taggers import write_tagged

from finetune.baselines.models import (
    are_short,
    classify_texts,
    overlaps,
    predict_scores,
    tag_words,
    word_features,
    word_shape,
)
from finetune.cli import main
from training.result import read_result, write_result

pytest.importorskip("sklearn", reason="needs the extra 'baselines'")


def singles(*texts: str) -> list[tuple[str, str]]:
    return [(text, "") for text in texts]


def baseline(folder: Path, *options: str, name: str = "free", **files: Any) -> int:
    place = ["--run.root", str(folder), "--run.name", name]
    files = {"num_train": 40, "test": True, **files}
    return main(["baseline", *place, *write_splits(folder, **files), *map(str, options)])


def test_a_label_follows_the_words_that_training_gave_it() -> None:
    train = singles("a good film", "a bad film", "good it was", "bad it was")
    texts = singles("it was a good one", "bad !")
    found = classify_texts(train, ["yes", "no"] * 2, texts, letters=False)
    assert found.values == ["yes", "no"]
    num_words, num_word_pairs = 6, 7
    assert found.num_features == num_words + num_word_pairs
    assert found.num_weights == found.num_features + 1


def test_letters_reach_words_that_training_never_saw() -> None:
    train, labels = singles("flights", "fares", "flight", "fare"), ["fly", "pay"] * 2
    texts = singles("flighty", "fared")
    assert classify_texts(train, labels, texts, letters=True).values == ["fly", "pay"]
    without = classify_texts(train, labels, texts, letters=False).values
    assert without[0] == without[1]


def test_one_label_alone_is_an_error() -> None:
    with pytest.raises(ValueError, match="have one label; two or more"):
        classify_texts(singles("a", "b"), ["x", "x"], singles("a"), letters=False)


def test_a_pair_is_known_by_what_its_texts_share() -> None:
    names = [f"w{number}" for number in range(40)]
    train = [(f"{a} {b}", f"{a} {b}") for a, b in zip(names, names[1:], strict=False)]
    train += [(f"{a} {b}", f"{c} x") for a, b, c in zip(names, names[1:], names[5:], strict=False)]
    scores = [float(first == second) for first, second in train]
    texts = [("new words", "new words"), ("new words", "other")]
    same, other = predict_scores(train, scores, texts, letters=False).values
    assert same > other + 0.3


def test_overlaps_are_hand_worked_shares() -> None:
    found = overlaps([("A b c", "a b d e"), ("x", "x"), ("x", "y")])
    assert found.tolist() == [
        [2 / 3, 1 / 2, 1 / 2, 1 / 3, 3 / 4],
        [1, 1, 0, 0, 1],
        [0, 0, 0, 0, 1],
    ]


def test_letters_are_counted_for_short_single_texts_alone() -> None:
    assert are_short(singles("a short text", "another", "long " * 80))
    assert not are_short(singles("long " * 51, "long " * 51, "short"))
    assert not are_short([("short", "pair")])


def test_a_tagger_learns_words_from_their_neighbours() -> None:
    pytest.importorskip("pycrfsuite", reason="needs the extra 'baselines'")
    cities = ["Rome", "Oslo", "Lima", "Bonn"]
    texts = [f"from {a} to {b} please".split() for a in cities for b in cities]
    texts += [f"to {a} from {b} please".split() for a in cities for b in cities]
    tags = [("O", f"B-{first}", "O", f"B-{second}", "O") for first, _, second, _, _ in texts]
    asked = ["to Kyiv from Riga please".split(), []]
    found = tag_words(texts, tags, asked)
    assert found.values == [("O", "B-to", "O", "B-from", "O"), ()]
    assert 0 < found.num_features <= found.num_weights
    ctypes.CDLL(None).srand(2)
    assert found == tag_words(texts, tags, asked)


def test_words_are_seen_by_shape_affixes_and_neighbours() -> None:
    assert [word_shape(word) for word in ("Flight", "AB-12", "'s")] == ["Xx", "X-9", "'x"]
    first, last = word_features(["To", "Rome"])
    assert {"w=to", "shape=Xx", "pre=to", "w1=rome", "w-1=<True>"} <= set(first)
    assert {"w=rome", "suf=ome", "w-1=to", "w1=<False>", "w-1,0=to|rome"} <= set(last)


def test_the_command_writes_the_result_of_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert baseline(tmp_path) == 0
    result = read_result(tmp_path / "free" / "result.json")
    encoder = result["encoder"]
    assert (encoder["kind"], encoder["name"]) == ("baseline", "TF-IDF + linear")
    assert encoder["num_features"] < encoder["num_parameters"] and encoder["cpu_s"] > 0
    assert [values["num_rows"] for values in result["evaluation"].values()] == [50, 41]
    assert result["evaluation"]["test"]["score"] > result["majority"]["test"]["score"]
    assert result["kind"] == "classification" and result["settings"]["seed"] == 0
    text = capsys.readouterr().out
    assert "whole texts" in text and "test, 41 rows" in text and "baseline (majority)" in text
    assert f"{encoder['num_features']:,} features" in text and "drawn by lot" in text


def test_a_second_run_says_the_same_and_a_finished_one_is_shown_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    baseline(tmp_path)
    first = capsys.readouterr().out
    baseline(tmp_path)
    again = capsys.readouterr()
    assert "free is complete" in again.err and again.out in first
    baseline(tmp_path, name="other")
    results = [result_of(tmp_path / name)["evaluation"] for name in ("free", "other")]
    assert results[0] == results[1]


def test_other_settings_do_not_replace_a_run_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    baseline(tmp_path)
    assert baseline(tmp_path, "--letters", "with") == 2
    assert "letters was auto, is with" in capsys.readouterr().err
    assert baseline(tmp_path, "--letters", "with", "--run.overwrite", "true") == 0
    assert result_of(tmp_path / "free")["encoder"]["name"] == "TF-IDF with letters + linear"


def test_scores_pairs_and_subsets_of_own_files_are_read_as_by_a_fit(tmp_path: Path) -> None:
    options = ["--data.kind", "regression", "--data.label", "stars", "--data.max_train_rows", "30"]
    assert baseline(tmp_path, *options, "--data.max_eval_rows", "20") == 0
    result = result_of(tmp_path / "free")
    assert result["kind"] == "regression" and result["score"] == ["pearson", "spearman"]
    assert result["evaluation"]["test"]["num_rows"] == 20
    assert result["data"]["splits"]["train"]["num_rows"] == 30
    assert result["evaluation"]["validation"]["pearson"] > 0.5
    pair = ["--data.text_pair", "text2", "--data.label", "same", "--data.positive_label", "yes"]
    assert baseline(tmp_path, *pair, name="pairs") == 0
    assert result_of(tmp_path / "pairs")["data"]["f1_label"] == "yes"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.task", "rte"], "which has no use for data.train"),
        (["--data.max_eval_rows", "-1"], "data.max_eval_rows is -1; 0 or more"),
        (["--data.fold", "1"], "which has no use for data.fold"),
        (["--data.batch_size", "1"], "unknown key 'data.batch_size'"),
        (["--sentences", "dips"], "--sentences is dips, but own is a task of classification here"),
        (["--letters", "some"], "must be one of auto, with, without"),
    ],
)
def test_a_mistake_in_an_option_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert baseline(tmp_path, *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "free").exists()


@pytest.mark.parametrize(
    ("kind", "write"), [("tags", write_tagged), ("sentences", write_documents)]
)
def test_letters_without_labels_of_whole_texts_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, write: Callable[..., Path]
) -> None:
    options = ["baseline", "--run.root", str(tmp_path), "--run.name", "free", "--data.kind", kind]
    for split in ("train", "validation"):
        path = write(tmp_path / f"{split}.jsonl", num_rows=20, seed=1)
        options += [f"--data.{split}", str(path)]
    options += ["--data.targets", "tags"] * (kind == "tags")
    assert main([*options, "--letters", "with"]) == 2
    said = capsys.readouterr().err
    assert "--letters is with, but own is a task of" in said and "no use for it; leave it" in said
    assert not (tmp_path / "free").exists()


def test_a_pretraining_run_is_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "free" / "bundle").mkdir(parents=True)
    assert baseline(tmp_path, "--run.overwrite", "true") == 2
    assert "is a pretraining run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("missing", "package"), [("sklearn.svm", "scikit-learn"), ("pycrfsuite", "python-crfsuite")]
)
def test_a_missing_package_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, missing: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ValueError, match=rf"{package}, .*\[baselines\]"):
        if missing == "pycrfsuite":
            tag_words([["a"]], [["O"]], [["a"]])
        else:
            classify_texts(singles("a", "b"), ["x", "y"], singles("a"), letters=False)


def test_a_grid_with_baselines_does_not_begin_without_the_packages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pycrfsuite", None)
    (tmp_path / "a").mkdir()
    options = ["--tasks", "cola", "--lrs", "1e-4", "--encoder", str(tmp_path / "a"), "--dry_run"]
    assert main(["grid", *options]) == 0
    assert main(["grid", *options, "--baseline"]) == 2
    assert "python-crfsuite, which is not installed" in capsys.readouterr().err


def test_only_a_baseline_says_how_much_it_counts(tmp_path: Path) -> None:
    baseline(tmp_path)
    result = result_of(tmp_path / "free")
    result["encoder"]["kind"] = "ponet"
    with pytest.raises(ValueError, match="unknown cpu_s, num_features"):
        write_result(tmp_path / "result.json", result)
    del result["encoder"]["cpu_s"]
    result["encoder"]["kind"] = "baseline"
    with pytest.raises(ValueError, match="lacks cpu_s"):
        write_result(tmp_path / "result.json", result)


def test_help_lists_the_options_of_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["baseline", "--help"])
    text = capsys.readouterr().out
    assert "--data.task (default own)" in text and "--run.name (default default)" in text
    assert "--letters (default auto)" in text and "--data.text_pair" in text


def tagged_file(path: Path, cities: list[str], *, has_labels: bool) -> Path:
    """JSONL of texts that name a city; the first word is the label."""
    with path.open("w", encoding="utf-8") as file:
        for city in cities:
            for verb in ("fly", "drive"):
                row = {"words": [verb, "to", city, "now"], "tags": ["O", "O", "B-city", "O"]}
                row |= {"label": verb} if has_labels else {}
                file.write(json.dumps(row) + "\n")
    return path


@pytest.mark.parametrize("has_labels", [True, False])
def test_tagged_texts_get_tags_and_labels(tmp_path: Path, has_labels: bool) -> None:
    pytest.importorskip("pycrfsuite", reason="needs the extra 'baselines'")
    train = tagged_file(
        tmp_path / "train.jsonl", ["Rome", "Oslo", "Lima", "Bonn"], has_labels=has_labels
    )
    rest = tagged_file(tmp_path / "rest.jsonl", ["Rome", "Kyiv"], has_labels=has_labels)
    files = ["--data.train", train, "--data.validation", rest, "--data.test", rest]
    options = ["--data.kind", "tags", "--run.root", tmp_path, "--run.name", "free"]
    assert main(["baseline", *map(str, (*files, *options))]) == 0
    result = read_result(tmp_path / "free" / "result.json")
    found = result["evaluation"]["test"]
    assert result["kind"] == "tagging" and found["slot_em"] == found["span_f1"] == 1.0
    assert result["score"] == (["frame_em"] if has_labels else ["slot_em"])
    name = "TF-IDF + linear, perceptron tagger" if has_labels else "perceptron tagger"
    assert result["encoder"]["name"] == name and found["num_rows"] == 4
    assert found.get("intent_accuracy") == (1.0 if has_labels else None)
