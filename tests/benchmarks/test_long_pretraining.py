"""What length buys: windows show what the example shows, and a word's second place is found."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import long_pretraining, needle
from benchmarks.runs import synthetic_folder
from pretrain.batches import Batch
from pretrain.datamodule import PretrainDataModule


def examples(folder: Path, max_len: int = 64) -> Batch:
    synthetic_folder(folder, num_sentences=400, vocab_size=200, validation_sentences=100)
    data = PretrainDataModule(
        folder=str(folder), objective="mlm", max_len=max_len, short_prob=0.3, num_workers=0
    )
    return data.evaluation_dataset().__getitems__(range(6))


def test_windows_hold_the_same_tokens_and_masked_words(tmp_path: Path) -> None:
    batch = examples(tmp_path)
    cut = long_pretraining.windows(batch, 18, 2, 3)
    assert cut["input_ids"].shape == (6 * 3, 18)
    inner = cut["input_ids"][:, 1:-1].reshape(6, 48)
    assert torch.equal(inner, batch["input_ids"][:, 1:49])
    assert (cut["input_ids"][:, 0] == 2).all()
    assert (cut["input_ids"][:, -1] == 3).all()
    assert cut["mask"][:, [0, -1]].all()
    used = cut["masked_labels"] != -100
    row, column = cut["places"][used] // 64, cut["places"][used] % 64
    wanted = {(r, int(p)): int(w) for r in range(6)
              for p, w in zip(batch["masked_positions"][r], batch["masked_labels"][r], strict=True)
              if w != -100 and p < 49}  # fmt: skip
    found = dict(zip(zip(row.tolist(), column.tolist(), strict=True),
                     cut["masked_labels"][used].tolist(), strict=True))  # fmt: skip
    assert found == wanted
    shown = cut["input_ids"].gather(1, cut["masked_positions"])[used]
    assert torch.equal(shown, batch["input_ids"][row, column])


def test_segments_of_windows_begin_where_those_of_the_example_do(tmp_path: Path) -> None:
    batch = examples(tmp_path)
    steps = long_pretraining.windows(batch, 18, 2, 3)["segment_ids"].diff(dim=1)
    assert ((steps == 0) | (steps == 1)).all()
    assert (steps[:, [0, -1]] == 1).all()  # [CLS] and [SEP] are segments of their own
    own = batch["segment_ids"].diff(dim=1)[:, :48].reshape(18, 16)
    assert torch.equal(steps[:, 1:-1], own[:, 1:])


def test_the_second_place_of_a_word_is_near_further_or_nowhere() -> None:
    batch = {
        "input_ids": torch.tensor([[2, 4, 7, 9, 9, 4, 8, 4, 3]]),
        "masked_positions": torch.tensor([[1, 5, 7]]),
        "masked_labels": torch.tensor([[9, 7, 6]]),
        "mask": torch.ones(1, 9, dtype=torch.bool),
    }
    found = long_pretraining.where_again(batch, 2)
    assert found.tolist() == [-1, 0, -1, -1, -1, 1, -1, 2, -1]


def test_a_measurement_that_fails_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    def call(item: tuple[int], options: Any) -> dict[str, Any]:
        return {"seed": item[0], "seconds": 1 / (item[0] - 2)}

    form = {"output": tmp_path, "name": "n", "minutes": 1, "jobs": 1}
    options = argparse.Namespace(**form, folder=tmp_path)
    with pytest.raises(SystemExit, match="n-2 failed: ZeroDivisionError"):
        list(needle.in_processes(call, [(1,), (2,), (3,)], options, tmp_path))
    assert len((tmp_path / "n.jsonl").read_text().splitlines()) == 2
    assert "1 / (item[0] - 2)" in (tmp_path / "n-2.error").read_text()


def test_a_needle_measurement_goes_on_where_it_was_cut(tmp_path: Path) -> None:
    options = ["--short", "--kinds", "ponet", "hybrid", "--lengths", "64", "--facts", "1"]
    options += ["--steps", "1", "--output", str(tmp_path), "--asked", "4"]
    needle.main([*options, "--seeds", "1"])
    lines = (tmp_path / "needle.jsonl").read_text()
    needle.main([*options, "--seeds", "1", "2", "--minutes", "0"])  # no time for the second
    assert (tmp_path / "needle.jsonl").read_text() == lines
    content = json.loads((tmp_path / "needle.json").read_text())
    assert {(row["kind"], row["seeds"]) for row in content["rows"]} == {("ponet", 1), ("hybrid", 1)}
    assert (tmp_path / "needle.png").stat().st_size > 5000


def test_needles_have_questions_for_every_length(tmp_path: Path) -> None:
    options = ["--short", "--lengths", "64", "128", "--output", str(tmp_path), "--asked", "2"]
    options += ["--facts", "1", "--steps", "1"]
    with pytest.raises(SystemExit, match="give one number of questions, or one for each length"):
        needle.main([*options, "--questions", "4", "8", "9"])
    needle.main([*options, "--questions", "4", "8"])
    rows = json.loads((tmp_path / "needle.json").read_text())["rows"]
    asked = {row["num_tokens"]: row["questions"] for row in rows if row["distance"] == "all"}
    assert asked == {64: 8 * 4, 128: 4 * 8}  # a step has 512 tokens
