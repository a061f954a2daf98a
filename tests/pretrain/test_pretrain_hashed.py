"""Pretraining of encoders of hashed words: what is hidden, resumed, refused, and handed on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pretrain_corpora import make_folder, random_documents, tiny_options
from pretrain_faults import Killed, assert_same_story, fault_options

from ponet import MLPMixerConfig, PoNetConfig, ProjectionConfig, load_bundle
from pretrain.cli import main
from pretrain.datamodule import PretrainDataModule
from pretrain.loader import pack_batch, unpack_batch
from pretrain.masking import MaskingConfig
from pretrain.module import PretrainModule, check_encoder
from pretrain.objectives import IGNORED_LABEL
from pretrain.records import example_predictions
from pretrain.run_config import identity_in
from training.run_config import CONFIG_KEY

SPECIAL = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
PROJECTION = {"kind": "spelling", "feature_size": 64, "num_hashes": 1}
SIZES = {"vocab_size": 200, "hidden_size": 8, "num_layers": 1, "num_heads": 2, "ffn_size": 8,
         "max_positions": 40}  # fmt: skip


def hashed(**changes: object) -> PoNetConfig:
    values = {**SIZES, "projection": ProjectionConfig(**PROJECTION), **changes}
    return PoNetConfig(**values)  # type: ignore[arg-type]


def data_module(folder: Path, **options: object) -> PretrainDataModule:
    values = {"max_len": 40, "global_batch_size": 8, "micro_batch_size": 8, "num_workers": 0}
    return PretrainDataModule(folder=str(folder), **{**values, **options})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards in which a third of the pieces continue a word."""
    documents = random_documents(40)
    return make_folder(tmp_path_factory.mktemp("pieces"), documents, num_continuations=65)


def hashed_run(options: list[str], name: str) -> list[str]:
    """Options of a run of twelve steps of an encoder of hashed words, dropout on."""
    encoder = {"class_path": "ponet.PoNetConfig",
               "init_args": {**SIZES, "vocab_size": 65, "projection": PROJECTION}}  # fmt: skip
    given = [*options[2:], "--model.encoder", json.dumps(encoder), "--run.name", name]
    return [*given, "--trainer.max_steps", "12", "--checkpoints.every_n_steps", "3"]


def test_only_words_of_one_piece_are_hidden_and_only_such_are_shown_instead(folder: Path) -> None:
    data = data_module(folder, masking=MaskingConfig(replace_prob=0.4, random_prob=0.6))
    data.follow_encoder(hashed())
    dataset = data._dataset("train")
    continues, checked = dataset.shards.is_continuation, 0
    for first in range(0, 48, 8):
        batch = dataset.pieces(range(first, first + 8))
        ids, labels = batch["input_ids"].numpy(), batch["masked_labels"].numpy()
        for row, slot in zip(*np.nonzero(labels != IGNORED_LABEL), strict=True):
            place = int(batch["masked_positions"][row, slot])
            assert not continues[labels[row, slot]] and not continues[ids[row, place]]
            assert not continues[ids[row, place + 1]]  # a text ends with [SEP]
            checked += 1
    assert checked > 80


def test_labels_stand_at_the_words_that_were_hidden(folder: Path) -> None:
    data = data_module(folder, masking=MaskingConfig(replace_prob=0.0, random_prob=0.0))
    data.follow_encoder(hashed(projection=ProjectionConfig(kind="bloom", num_hashes=8)))
    dataset = data._dataset("train")
    assert dataset._words is not None
    pieces, batch = dataset.pieces(range(8)), dataset.__getitems__(range(8))
    names = dataset._words._pieces
    for row, slot in (batch["masked_labels"] != IGNORED_LABEL).nonzero().tolist():
        label = int(batch["masked_labels"][row, slot])
        assert label == pieces["input_ids"][row, pieces["masked_positions"][row, slot]]
        word = batch["input_ids"][row, batch["masked_positions"][row, slot]]
        expected = dataset._words._features([names[label]])[0].astype(np.int64)
        assert np.array_equal(batch["word_features"][word].numpy(), expected)


def test_a_batch_of_words_survives_the_way_from_a_worker(folder: Path) -> None:
    data = data_module(folder)
    data.follow_encoder(hashed())
    batch = data._dataset("train").__getitems__(range(8))
    found = unpack_batch(pack_batch(batch))
    assert found.keys() == batch.keys() and "word_features" in found
    assert all(torch.equal(found[name], batch[name]) for name in batch)
    data.follow_encoder(hashed(projection=None))
    assert "word_features" not in data._dataset("train").__getitems__(range(8))


def test_a_batch_does_not_depend_on_what_was_read_before(folder: Path) -> None:
    fresh, used = data_module(folder), data_module(folder)
    for data in (fresh, used):
        data.follow_encoder(hashed())
    for first in range(8, 40, 8):
        used._dataset("train").__getitems__(range(first, first + 8))
    ours, theirs = (data._dataset("train").__getitems__(range(8)) for data in (fresh, used))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_killed_run_equals_one_that_was_left_alone(
    tiny_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *hashed_run(tiny_run, "twin")]) == 0
    said = capsys.readouterr().err
    assert "data.join_texts does nothing: batches of hashed words have a row for each text" in said
    killed = ["fit", *hashed_run(tiny_run, "killed"), "--data.num_workers", "1"]
    killed += fault_options("train_batch_end", 5)
    with pytest.raises(Killed):
        main(killed)
    assert main(killed) == 0
    assert_same_story(tmp_path / "killed", tmp_path / "twin")


def test_a_bundle_fills_encodes_and_is_fine_tuned(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune.cli import main as finetune

    assert main(["fit", *hashed_run(tiny_options(tiny_shards, tmp_path), "made")]) == 0
    bundle = load_bundle(tmp_path / "made")
    (guesses,) = bundle.fill("w7 w8c1 [MASK] w9", top=3)
    assert len(guesses) == 3
    vectors = bundle.encode(["w7 w8", "", "w7 w8 w9 w10"])
    assert vectors.isfinite().all()
    torch.testing.assert_close(vectors[:1], bundle.encode(["w7 w8"]))
    with pytest.raises(ValueError, match="sees no .CLS."):
        bundle.encode(["w7"], pooling="cls")
    rows = example_predictions(tmp_path / "made" / "bundle", _evaluation(tiny_shards, bundle))
    assert all("»" in row[2] and row[3] not in SPECIAL for row in rows)

    monkeypatch.chdir(tmp_path)
    lines = [f"w{5 + number % 40} w{6 + number % 3},{'ab'[number % 2]}" for number in range(40)]
    Path("train.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    options = ["--data.train", "train.csv", "--data.validation", "train.csv", "--run.name", "task"]
    options += ["--model.encoder", "runs/made", "--trainer.max_epochs", "1", "--data.max_len", "40"]
    (tmp_path / "runs").mkdir()
    (tmp_path / "made").rename(tmp_path / "runs" / "made")
    assert finetune(["fit", *options, "--model.optimizer.lr", "1e-9"]) == 0
    tuned = _weights(tmp_path / "runs/task/classifier")
    for name, value in bundle.model.encoder.state_dict().items():
        torch.testing.assert_close(tuned[f"encoder.{name}"], value, atol=1e-6, rtol=0)
    assert not any(name.startswith("mlm_head") for name in tuned)


def _evaluation(shards: Path, bundle: object) -> object:
    data = data_module(shards, max_len=32)
    data.follow_encoder(bundle.model.config)  # type: ignore[attr-defined]
    return data.evaluation_dataset()


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_a_mixer_of_fixed_places_needs_examples_of_that_length(folder: Path) -> None:
    sizes = {"vocab_size": 200, "hidden_size": 8, "ffn_size": 8}
    with pytest.raises(ValueError, match="mixes exactly 64 places; give --data.max_len 64"):
        check_encoder(MLPMixerConfig(**sizes), data_module(folder))  # type: ignore[arg-type]
    mixer = MLPMixerConfig(**sizes, max_positions=40)  # type: ignore[arg-type]
    data = data_module(folder)
    check_encoder(mixer, data)
    data.follow_encoder(mixer)
    assert data._dataset("train").__getitems__(range(4))["input_ids"].shape == (4, 40)


def test_compiling_is_refused_before_the_first_step(
    tiny_run: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *hashed_run(tiny_run, "compiled"), "--model.compile", "true"]) == 2
    assert "a new shape in every step" in capsys.readouterr().err


def test_a_checkpoint_of_a_version_with_fewer_fields_is_the_same_model() -> None:
    module = PretrainModule(hashed())
    checkpoint: dict[str, Any] = {"global_step": 3}
    module.on_save_checkpoint(checkpoint)
    stored = checkpoint[CONFIG_KEY]
    del stored["norm_position"], stored["projection"]["seed"]
    found = identity_in(checkpoint)
    assert found == module._identity() and found["norm_position"] == "post"
    assert found != PretrainModule(hashed(norm_position="pre"))._identity()
