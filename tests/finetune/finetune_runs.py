"""Toy files and toy fits that the fine-tuning tests share."""

import csv
import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback
from safetensors.torch import load_file

from finetune import lightning_cli
from finetune.cli import main
from ponet import PoNetConfig, PretrainingModel, save_bundle

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["good", "great", "fine", "bad", "awful", "poor", "a", "film", "it", "was", "the", "[", "]"]
VOCAB = {token: number for number, token in enumerate([*SPECIAL_TOKENS, *WORDS, "sep"])}
GOOD, BAD, FILLER = ["good", "great", "fine"], ["bad", "awful", "poor"], ["a", "film", "it", "was"]
QUICK = [
    *("--model.optimizer.lr", "5e-3", "--data.global_batch_size", "16", "--data.max_len", "16"),
    *("--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false"),
    *("--trainer.accelerator", "cpu"),
]


def write_reviews(path: Path, *, num_rows: int, seed: int) -> Path:
    """Reviews: an opinion word decides `label`; `same` says whether two agree; `stars` a score."""
    generator = random.Random(seed)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "text2", "label", "same", "stars"])
        for _ in range(num_rows):
            likes = [generator.random() < 0.6, generator.random() < 0.6]
            texts = []
            for is_good in likes:
                words = generator.choices(FILLER, k=generator.randint(1, 7))
                place = generator.randrange(len(words))
                words.insert(place, generator.choice(GOOD if is_good else BAD))
                texts.append(" ".join(words))
            same = "yes" if likes[0] == likes[1] else "no"
            stars = 1.5 if likes[0] else -0.5
            writer.writerow([*texts, "yes" if likes[0] else "no", same, stars])
    return path


def write_splits(folder: Path, *, num_train: int = 160, test: bool = False) -> list[str]:
    """Write the files and return the options that name them."""
    train = write_reviews(folder / "train.csv", num_rows=num_train, seed=1)
    validation = write_reviews(folder / "validation.csv", num_rows=50, seed=2)
    options = ["--data.train", str(train), "--data.validation", str(validation)]
    if test:
        rows = write_reviews(folder / "test.csv", num_rows=41, seed=3)
        options += ["--data.test", str(rows)]
    return options


def fit_arguments(bundle: Path, folder: Path, name: str, *options: str, **files: Any) -> list[str]:
    """Return the arguments of a fit of a few seconds on own files."""
    start = ["--model.encoder", str(bundle), "--run.root", str(folder), "--run.name", name]
    return ["fit", *start, *write_splits(folder, **files), *QUICK, *options]


def run_fit(bundle: Path, folder: Path, name: str, *options: str, **files: Any) -> int:
    """Run it and return the exit code."""
    return main(fit_arguments(bundle, folder, name, *options, **files))


def result_of(run: Path) -> dict[str, Any]:
    """Return result.json of a run."""
    return dict(json.loads((run / "result.json").read_text(encoding="utf-8")))


def json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class FaultAt(Callback):
    """Does something once, before a micro-batch of an epoch or at a validation's end."""

    def __init__(self, fault: Any, *, epoch: int, batch: int = -1, validation: int = -1) -> None:
        self.fault, self.epoch, self.batch, self.validation = fault, epoch, batch, validation
        self.validations = 0

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, n: int):  # type: ignore[no-untyped-def]
        if (trainer.current_epoch, n) == (self.epoch, self.batch):
            self.fault()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.validations += 1
        if self.validations == self.validation:
            self.fault()


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


_own_callbacks = lightning_cli.fit_callbacks


def with_callback(monkeypatch: pytest.MonkeyPatch, callback: Callback | None) -> None:
    """Give the fits of this process from now on a callback."""
    monkeypatch.setattr(
        "finetune.lightning_cli.fit_callbacks",
        lambda *a, **k: [*_own_callbacks(*a, **k), *([callback] if callback else [])],
    )


def assert_same_story(run: Path, other: Path) -> None:
    """Compare result, weights, metrics (but for the time) and the names of all files."""
    one, two = (result_of(folder) for folder in (run, other))
    assert {**one, "elapsed_s": 0} == {**two, "elapsed_s": 0}
    one, two = (load_file(folder / "classifier/model.safetensors") for folder in (run, other))
    assert all(torch.equal(one[name], two[name]) for name in one)
    one, two = (json_lines(folder / "metrics.jsonl") for folder in (run, other))
    assert [{**row, "elapsed_s": 0} for row in one] == [{**row, "elapsed_s": 0} for row in two]
    times = [row["elapsed_s"] for row in one]
    assert times == sorted(times)
    assert {p.name for p in run.iterdir()} == {p.name for p in other.iterdir()}


def write_bundle(
    folder: Path,
    tokenizer_json: Path,
    *,
    metadata: dict[str, Any] | None = None,
    num_layers: int = 1,
) -> Path:
    """Write a tiny PoNet of the toy vocabulary as a bundle and return its folder."""
    torch.manual_seed(0)
    config = PoNetConfig.preset(
        "nano",
        vocab_size=len(VOCAB),
        num_layers=num_layers,
        hidden_size=32,
        ffn_size=64,
        max_positions=24,
    )
    model = PretrainingModel(config)
    return save_bundle(folder, model, tokenizer_json=tokenizer_json, metadata=metadata)
