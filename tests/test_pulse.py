"""From text files to predictions, through the commands a user types."""

import json
import random
from pathlib import Path

import pytest
import yaml

import data_prep.cli
import finetune.cli
import pretrain.cli
from ponet import PoNetConfig

WORDS = {
    "sea": "ship sail wave harbour storm captain anchor tide".split(),
    "farm": "cow plough field barn harvest farmer sheep hay".split(),
}


def sentences(topic: str, number: int, rng: random.Random) -> str:
    words = WORDS[topic] + ["the", "a", "and", "of", "near"]
    made = (" ".join(rng.choices(words, k=rng.randint(4, 9))) for _ in range(number))
    return " ".join(f"The {sentence}." for sentence in made)


@pytest.fixture
def text_folder(tmp_path: Path) -> Path:
    rng = random.Random(0)
    folder = tmp_path / "text"
    folder.mkdir()
    for number in range(60):
        topic = "sea" if number % 2 else "farm"
        paragraphs = "\n\n".join(sentences(topic, 5, rng) for _ in range(3))
        (folder / f"{number:02d}.txt").write_text(paragraphs)
    return folder


def write_rows(path: Path, number: int, seed: int) -> Path:
    rng = random.Random(seed)
    with path.open("w") as file:
        for row in range(number):
            topic = "sea" if row % 2 else "farm"
            file.write(json.dumps({"text": sentences(topic, 2, rng), "label": topic}) + "\n")
    return path


def write_pretrain_config(path: Path, text_folder: Path) -> Path:
    """A `fit` that first builds its shards."""
    build = {
        "output": "overridden",
        "source": {"kind": "local", "path": str(text_folder / "*.txt")},
        "tokenizer": {"vocab_size": 120},
        "validation_fraction": 0.2,
        "num_workers": 1,
    }
    build_path = path.with_name("build.yaml")
    build_path.write_text(yaml.safe_dump(build))
    encoder = {"vocab_size": 120, "hidden_size": 32, "num_layers": 2, "num_heads": 2}
    config = {
        "model": {
            "encoder": {
                "class_path": f"ponet.{PoNetConfig.__name__}",
                "init_args": {**encoder, "ffn_size": 64, "max_positions": 64},
            },
            "optimizer": {"lr": 0.003, "warmup_steps": 5},
        },
        "data": {
            "folder": str(path.with_name("shards")),
            "build_config": str(build_path),
            "max_len": 48,
            "global_batch_size": 16,
            "micro_batch_size": 16,
            "eval_examples": 64,
            "num_workers": 0,
        },
        "trainer": {"max_steps": 60, "log_every_n_steps": 10, "accelerator": "cpu"},
        "run": {"root": str(path.with_name("runs")), "name": "pulse", "eval_every_n_steps": 30},
    }
    path.write_text(yaml.safe_dump(config))
    return path


def test_text_becomes_shards_an_encoder_filled_masks_and_a_classifier(
    text_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_pretrain_config(tmp_path / "pulse.yaml", text_folder)
    assert pretrain.cli.main(["fit", "--config", str(config)]) == 0
    assert data_prep.cli.main(["verify", str(tmp_path / "shards")]) == 0
    assert data_prep.cli.main(["inspect", str(tmp_path / "shards")]) == 0
    bundle = tmp_path / "runs" / "pulse" / "bundle"
    build = tmp_path / "build.yaml"
    build.write_text(build.read_text().replace("vocab_size: 120", "vocab_size: 110"))
    again = ["fit", "--config", str(config), "--run.name", "again"]
    assert pretrain.cli.main(again) == 2
    assert "(tokenizer)" in capsys.readouterr().err
    capsys.readouterr()
    assert pretrain.cli.main(["fill", str(bundle), "The [MASK] of the harbour."]) == 0
    assert "[MASK] 1:" in capsys.readouterr().out

    train = write_rows(tmp_path / "train.jsonl", 80, seed=1)
    validation = write_rows(tmp_path / "dev.jsonl", 40, seed=2)
    options = ["--model.encoder", str(tmp_path / "runs" / "pulse"), "--data.max_len", "48"]
    options += ["--data.train", str(train), "--data.validation", str(validation)]
    options += ["--model.optimizer.lr", "0.003", "--data.global_batch_size", "8"]
    options += ["--run.root", str(tmp_path / "tasks"), "--run.name", "topic"]
    options += ["--trainer.max_epochs", "10", "--trainer.accelerator", "cpu"]
    assert finetune.cli.main(["fit", *options]) == 0
    predictions = tmp_path / "predictions.jsonl"
    options = ["--model", str(tmp_path / "tasks" / "topic"), "--input", str(validation)]
    assert finetune.cli.main(["predict", *options, "--output", str(predictions)]) == 0
    rows = [json.loads(line) for line in predictions.read_text().splitlines()]
    wanted = [json.loads(line)["label"] for line in validation.read_text().splitlines()]
    right = sum(row["label"] == label for row, label in zip(rows, wanted, strict=True))
    assert right / len(wanted) > 0.9
