"""Texts as words for hashed encoders."""

import math
from pathlib import Path

import pytest
import torch
from finetune_runs import FaultAt, assert_same_story, interrupt, result_of, with_callback
from safetensors.torch import load_file

from finetune.cli import main
from finetune.data import hashed
from finetune.data.hashed import WordEncoder
from finetune.tasks.spec import Row
from ponet import PoNetConfig
from ponet.config import ProjectionConfig
from ponet.projection import WordFeatures

PROJECTION = ProjectionConfig(feature_size=64, num_hashes=8)


def encoder(tokenizer_json: Path) -> WordEncoder:
    sizes = PoNetConfig.preset("nano", vocab_size=19, projection=PROJECTION)
    return WordEncoder(tokenizer_json, sizes, max_len=8)


def test_features_are_those_of_the_words_wherever_they_stand(tokenizer_json: Path):
    words = encoder(tokenizer_json)
    rows = [Row(1, "", "a good, bad good", "", None), Row(2, "", "film", "", None)]
    batch = words.batch(words.encode(rows, "rows"))
    assert batch.mask.tolist() == [[True] * 5, [True] + [False] * 4]
    assert batch.word_features is not None
    found = batch.word_features[batch.input_ids]
    assert torch.equal(found[0, 1], found[0, 4]) and not torch.equal(found[0, 1], found[0, 3])
    expected = WordFeatures(words._tokenizer, PROJECTION)(["a", "good", ",", "bad", "good"])
    assert found[0].tolist() == expected.tolist()
    alone = words.batch(words.encode(rows[1:], "rows"))
    assert alone.word_features is not None
    assert torch.equal(alone.word_features[alone.input_ids][0, 0], found[1, 0])


def test_words_of_earlier_texts_are_let_go_when_they_are_many(
    tokenizer_json: Path, monkeypatch: pytest.MonkeyPatch
):
    words, made = encoder(tokenizer_json), []
    features = words._features
    monkeypatch.setattr(words, "_features", lambda new: made.append([*new]) or features(new))
    words._features.forget = features.forget
    monkeypatch.setattr(hashed, "MOST_KEPT", 3)
    rows = [Row(1, "", "a good film", "", None), Row(2, "", "good bad", "", None)]
    before = [words.batch(words.encode([row], "rows")) for row in rows]
    assert made == [["a", "good", "film"], ["bad"]]
    words.forget()
    after = words.batch(words.encode(rows[1:], "rows"))
    assert made[2:] == [["good", "bad"]]
    assert after.word_features is not None and before[1].word_features is not None
    found = [batch.word_features[batch.input_ids] for batch in (before[1], after)]
    assert torch.equal(*found)


def test_features_are_made_before_workers_are_started(
    tokenizer_json: Path, monkeypatch: pytest.MonkeyPatch
):
    words = encoder(tokenizer_json)
    texts = words.encode_packed([Row(1, "", "a good film", "", None)], "rows")
    monkeypatch.setattr(words, "_features", None)
    assert words.batch([texts[0]]).mask.sum() == 3


ROWS = [("good film bad", "a"), ("film good bad", "b")] * 4
"""The same words in both labels; only their pairs differ."""


def pairs_fit(folder: Path, tokenizer_json: Path, name: str, *options: str) -> int:
    """A fit that changes next to nothing of a tiny encoder of hashed words."""
    encoder = folder / "tiny.yaml"
    sizes = "hidden_size: 8, num_layers: 1, num_heads: 2, ffn_size: 8"
    projection = "{kind: spelling, feature_size: 64, num_hashes: 1}"
    encoder.write_text(
        "model: {encoder: {class_path: ponet.PoNetConfig, init_args: "
        f"{{{sizes}, projection: {projection}}}}}}}\n"
    )
    table = folder / "rows.csv"
    table.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in ROWS))
    data = ["--data.max_len", "16"]
    for split in ("train", "validation", "test"):
        data += [f"--data.{split}", str(table)]
    run = ["--run.root", str(folder), "--run.name", name, "--model.tokenizer", str(tokenizer_json)]
    given = ["--model.encoder", str(encoder), "--model.optimizer.lr", "1e-9"]
    return main(["fit", *data, *run, *given, "--trainer.max_epochs", "1", *options])


def test_pairs_start_from_the_counts_of_the_training_texts(tokenizer_json: Path, tmp_path: Path):
    assert pairs_fit(tmp_path, tokenizer_json, "pairs", "--model.pairs.rows", "5003") == 0
    result = result_of(tmp_path / "pairs")
    of_splits = [result["evaluation"][split]["loss"] for split in ("validation", "test")]
    assert of_splits[0] == of_splits[1] < 0.69  # the test is of the classifier as it was written
    assert result["evaluation"]["validation"]["accuracy"] == 1.0
    assert result["encoder"]["name"] == "tiny + pairs"
    weights = load_file(tmp_path / "pairs/classifier/model.safetensors")
    encoder = sum(w.numel() for name, w in weights.items() if name.startswith("encoder."))
    assert result["encoder"]["num_parameters"] == encoder + 5003
    found = weights["pairs.weight"].flatten()
    odds = 0.5 * math.log(5 / 1)  # of "film good" and "good bad", less those of the two others
    assert found.sort().values[[0, 1, 2, -3, -2, -1]].tolist() == pytest.approx(
        [-odds, -odds, 0, 0, odds, odds], abs=1e-6
    )


def test_pairs_may_start_from_nothing_and_need_hashed_words(
    tokenizer_json: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    options = ("--model.pairs.rows", "503", "--model.pairs.start", "zero")
    assert pairs_fit(tmp_path, tokenizer_json, "zero", *options) == 0
    weights = load_file(tmp_path / "zero/classifier/model.safetensors")
    assert weights["pairs.weight"].abs().max() < 1e-6
    assert result_of(tmp_path / "zero")["encoder"]["name"] == "tiny + pairs, from 0"
    other = ["--model.encoder", str(bundle), "--model.tokenizer", ""]
    capsys.readouterr()
    assert pairs_fit(tmp_path, tokenizer_json, "none", *options, *other) == 2
    assert "has no hashed words (projection) to make pairs of" in capsys.readouterr().err


def test_a_stopped_fit_with_pairs_goes_on_to_the_bit(
    tokenizer_json: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    options = ["--model.pairs.rows", "503", "--model.optimizer.lr", "1e-2"]
    options += ["--trainer.max_epochs", "3", "--data.global_batch_size", "4"]
    assert pairs_fit(tmp_path, tokenizer_json, "whole", *options) == 0
    with_callback(monkeypatch, FaultAt(interrupt, epoch=1, batch=0))
    assert pairs_fit(tmp_path, tokenizer_json, "stopped", *options) == 130
    with_callback(monkeypatch, None)
    assert pairs_fit(tmp_path, tokenizer_json, "stopped", *options) == 0
    assert_same_story(tmp_path / "stopped", tmp_path / "whole")


def test_a_fit_that_starts_from_a_trained_one_takes_its_pairs_over(
    tokenizer_json: Path, tmp_path: Path
):
    assert pairs_fit(tmp_path, tokenizer_json, "first", "--model.pairs.rows", "503") == 0
    other = ["--model.encoder", str(tmp_path / "first"), "--model.tokenizer", ""]
    assert pairs_fit(tmp_path, tokenizer_json, "second", *other) == 0
    one, two = (
        load_file(tmp_path / name / "classifier/model.safetensors")["pairs.weight"]
        for name in ("first", "second")
    )
    assert one.abs().max() > 0.1
    torch.testing.assert_close(one, two, atol=1e-6, rtol=0)


def test_what_pairs_learn_does_not_depend_on_the_encoder_and_what_it_learns_does_on_them(
    tokenizer_json: Path, tmp_path: Path
):
    options = ["--model.optimizer.lr", "1e-2", "--trainer.gradient_clip_val", "0"]
    options += ["--trainer.max_epochs", "3", "--data.global_batch_size", "4"]
    found = {}
    for name, rows, prob in (("one", 503, 0.0), ("two", 503, 0.5), ("three", 7, 0.0)):
        more = ["--model.pairs.rows", str(rows), "--model.dropout_prob", str(prob)]
        assert pairs_fit(tmp_path, tokenizer_json, name, *options, *more) == 0
        found[name] = load_file(tmp_path / name / "classifier/model.safetensors")
    assert found["one"]["pairs.weight"].abs().max() > 0.3
    assert torch.equal(found["one"]["pairs.weight"], found["two"]["pairs.weight"])
    of_encoder = [weights["classifier.weight"] for weights in found.values()]
    assert not torch.equal(of_encoder[0], of_encoder[1])
    assert not torch.equal(of_encoder[0], of_encoder[2])
