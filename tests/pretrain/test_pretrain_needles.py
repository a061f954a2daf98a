"""Needles: what a question asks for stands where it is said to stand, and nothing else changes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pretrain_corpora import MASK, Documents, make_folder, make_shards, random_documents

from data_prep.shards import TokenShards
from pretrain.batches import Batch, PretrainDataset, SegmentConfig
from pretrain.cli import main
from pretrain.datamodule import PretrainDataModule
from pretrain.needles import (
    CHOICES,
    DISTANCES,
    NUM_ANSWERS,
    NUM_NAMES,
    NeedleConfig,
    Needles,
    NeedleScores,
    word_lists,
)
from pretrain.objectives import OBJECTIVES
from pretrain.packing import PackingConfig

SIZE = 7
"""Tokens of a sentence: three, the name, one, the word, one."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> TokenShards:
    documents: Documents = random_documents(40, seed=3, sentences=40)
    return make_shards(tmp_path_factory.mktemp("needles"), documents)


def dataset(shards: TokenShards, *, max_len: int = 256, **needles: int) -> PretrainDataset:
    packing = PackingConfig(max_len=max_len, short_prob=0.0)
    config = NeedleConfig(**{"facts": 3, "questions": 5, **needles})
    return PretrainDataset(shards, OBJECTIVES["mlm"], packing, needles=config, seed=1)


def sentences(batch: Batch, row: int) -> list[tuple[int, int, int]]:
    """Place, name and word of every sentence that was written into a row."""
    ids, frame = batch["input_ids"][row].tolist(), [1, 1, 1, None, 1, None, 1]
    return [
        (place, ids[place + 3], ids[place + 5])
        for place in range(1, len(ids) - SIZE, SIZE)
        if all(w in (None, g) for w, g in zip(frame, ids[place : place + SIZE], strict=True))
    ]


def test_every_question_has_its_fact_at_the_distance_that_is_told(shards: TokenShards) -> None:
    batch = dataset(shards).__getitems__(range(30))
    asked = 0
    for row in range(30):
        found = sentences(batch, row)
        facts = {name: (place, word) for place, name, word in found if word != MASK}
        questions = {place: name for place, name, word in found if word == MASK}
        columns = (batch[name][row].tolist() for name in
                   ("masked_positions", "masked_labels", DISTANCES, CHOICES))  # fmt: skip
        for position, label, distance, choices in zip(*columns, strict=True):
            if label == -100:
                continue
            place, word = facts[questions.pop(position - 5)]
            assert (label, distance) == (word, abs(place + 5 - position))
            assert choices >= len(facts)
            asked += 1
        assert not questions
        assert len(facts) <= 3
    assert asked > 100


def test_only_questions_are_hidden_and_the_other_text_stays(shards: TokenShards) -> None:
    plain = PretrainDataset(shards, OBJECTIVES["mlm"], PackingConfig(max_len=256, short_prob=0.0),
                            seed=1)  # fmt: skip
    plain_batch, batch = plain.__getitems__(range(20)), dataset(shards).__getitems__(range(20))
    written = torch.zeros_like(batch["mask"])
    for row in range(20):
        for place, _, _ in sentences(batch, row):
            written[row, place : place + SIZE] = True
    shown = plain_batch["input_ids"].clone()
    used = plain_batch["masked_labels"] != -100
    rows = torch.nonzero(used)[:, 0]
    shown[rows, plain_batch["masked_positions"][used]] = plain_batch["masked_labels"][used]
    assert torch.equal(batch["input_ids"][~written], shown[~written])
    assert not (written & batch["special_mask"]).any()
    assert not (written & ~batch["mask"]).any()
    assert int((batch["input_ids"] == MASK).sum()) == int((batch["masked_labels"] != -100).sum())


def test_an_example_does_not_depend_on_its_neighbours(shards: TokenShards) -> None:
    data = dataset(shards)
    whole, part = data.__getitems__(range(8)), data.__getitems__([5, 2])
    for name, value in part.items():
        assert torch.equal(value, whole[name][[5, 2]]), name


def test_joined_texts_carry_the_same_questions(shards: TokenShards) -> None:
    data = dataset(shards)
    padded = data.__getitems__(range(6))
    data.joins_texts = True
    joined = data.__getitems__(range(6))
    wanted = padded["masked_labels"][padded["masked_labels"] != -100]
    found = joined["masked_labels"] != -100
    assert torch.equal(joined["masked_labels"][found], wanted)
    ids = joined["input_ids"][0, joined["masked_positions"][found]]
    assert (ids == MASK).all()


@pytest.mark.parametrize("rule", ["sentence", "text"])
def test_a_written_sentence_is_a_segment_where_sentences_are(
    shards: TokenShards, rule: str
) -> None:
    data = PretrainDataset(
        shards, OBJECTIVES["mlm"], PackingConfig(max_len=128), seed=1,
        segments=SegmentConfig(rule=rule), needles=NeedleConfig(facts=2, questions=2),
    )  # fmt: skip
    batch = data.__getitems__(range(10))
    steps = batch["segment_ids"].diff(dim=1)
    assert ((steps == 0) | (steps == 1)).all()
    assert (batch["segment_ids"][:, 0] == 0).all()
    for row in range(10):
        for place, _, _ in sentences(batch, row):
            segments = batch["segment_ids"][row, place - 1 : place + SIZE + 1]
            inner = segments[1:-1]
            assert (inner == inner[0]).all()
            if rule == "sentence":
                assert segments[0] < inner[0] < segments[-1]


def test_facts_outside_the_example_are_asked_for_and_not_shown(shards: TokenShards) -> None:
    batch = dataset(shards, max_len=128, span=1024, facts=4, questions=8).__getitems__(range(60))
    used = batch["masked_labels"] != -100
    hidden = used & (batch[CHOICES] == 0)
    assert 0.75 < hidden.sum() / used.sum() < 0.97  # seven of eight places are outside
    for row in range(60):
        names = {name for _, name, word in sentences(batch, row) if word != MASK}
        for slot in torch.nonzero(used[row]).flatten().tolist():
            place = int(batch["masked_positions"][row, slot]) - 5
            name = int(batch["input_ids"][row, place + 3])
            assert (name in names) == (not hidden[row, slot])
    assert int(batch[DISTANCES][hidden].max()) > 512
    assert int(batch[DISTANCES][used & ~hidden].max()) < 128


def test_names_and_answers_are_other_words_and_the_same_for_every_seed(shards: TokenShards) -> None:
    config = NeedleConfig(facts=1)
    one, two = (Needles(config, shards, max_len=64, seed=seed) for seed in (1, 2))
    assert np.array_equal(one.answers, two.answers)
    names, answers = word_lists(_Tokenizer(), shards)
    assert len({*names.tolist(), *answers.tolist()}) == NUM_NAMES + NUM_ANSWERS
    assert min(names.min(), answers.min()) >= 5  # no special token


class _Tokenizer:
    def id_to_token(self, number: int) -> str:
        return "[X]" if number < 5 else f"w{number}"


def test_what_guessing_scores_is_a_guess_among_the_answers(shards: TokenShards) -> None:
    scores = dataset(shards).baselines(200)
    assert scores["unigram_loss"] == pytest.approx(np.log(NUM_ANSWERS))
    assert scores["unigram_accuracy"] == 1 / NUM_ANSWERS


def test_a_small_vocabulary_is_refused_with_what_is_needed(tmp_path: Path) -> None:
    few = [[list(range(5, 40))] * 5] * 5
    with pytest.raises(ValueError, match="need 96 words of one piece"):
        Needles(NeedleConfig(facts=1), make_shards(tmp_path, few), max_len=64, seed=1)


def test_short_texts_among_long_ones_have_no_questions(shards: TokenShards) -> None:
    needles = Needles(NeedleConfig(facts=4), shards, max_len=64, seed=1)
    ids, text = np.full((2, 64), 9), np.zeros((2, 64), np.bool_)
    text[0, 1:30], text[1, 1:63] = True, True  # four places, and eight
    written = needles.write(ids, text, np.array([0, 1]))
    assert (written.labels[0] == -100).all()
    assert int((written.labels[1] != -100).sum()) == 4
    assert written.distances[0].sum() == 0
    assert (ids[0, 30:] == 9).all()


def test_questions_beyond_those_that_fit_take_no_columns(shards: TokenShards) -> None:
    few, many = (dataset(shards, max_len=64, questions=q).__getitems__(range(8)) for q in (6, 99))
    places = (64 - 1) // SIZE
    assert many["masked_positions"].shape == (8, places - 3)
    for name, value in many.items():
        assert torch.equal(value, few[name]), name


def test_examples_without_room_for_a_question_are_refused(shards: TokenShards) -> None:
    with pytest.raises(ValueError, match="needles.facts 4 and a question take 45 tokens"):
        dataset(shards, max_len=44, facts=4)


@pytest.mark.parametrize("values", [{"facts": 33}, {"facts": -1}, {"questions": 0}, {"span": -1}])
def test_impossible_numbers_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"needles.{next(iter(values))}"):
        NeedleConfig(**values)


def test_scores_are_counted_by_doublings_of_the_distance() -> None:
    scores = NeedleScores()
    batch = {DISTANCES: torch.tensor([[10, 20, 0]]), CHOICES: torch.tensor([[2, 0, 0]])}
    scores.add(batch, torch.tensor([[7, 8, -100]]), torch.tensor([[7, 9, 9]]))
    batch = {DISTANCES: torch.tensor([[16]]), CHOICES: torch.tensor([[4]])}
    scores.add(batch, torch.tensor([[7]]), torch.tensor([[8]]))
    near, far, every = scores.rows()
    assert (near["distance"], near["questions"], near["accuracy"]) == (16, 2, 0.5)
    assert (near["anywhere"], near["visible"], near["majority"]) == (3 / 8, 1, 1)
    assert (far["distance"], far["accuracy"], far["anywhere"], far["visible"]) == (32, 0, 0, 0)
    assert (every["questions"], every["accuracy"], every["majority"]) == (3, 1 / 3, 2 / 3)


def data_module(folder: Path, **needles: int) -> PretrainDataModule:
    form: dict[str, Any] = {"global_batch_size": 2, "micro_batch_size": 2, "num_workers": 0}
    return PretrainDataModule(
        folder=str(folder), objective="mlm", max_len=64, needles=NeedleConfig(**needles), **form
    )


def test_a_run_does_not_go_on_with_other_needles(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, random_documents(40, seed=3))
    without, one, two = (data_module(folder, facts=facts) for facts in (0, 1, 2))
    assert "needles" not in without.fingerprint()
    without.load_state_dict(without.state_dict())
    for saved, given in ((one, two), (without, one), (one, without)):
        with pytest.raises(ValueError, match="needles was"):
            given.load_state_dict(saved.state_dict())


def test_predict_prints_and_keeps_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder(tmp_path, random_documents(40, seed=3))
    options = ["--config", "configs/encoder/ponet_nano.yaml", "--data.folder", str(folder)]
    options += ["--config", "configs/pretrain/needle.yaml", "--model.encoder.vocab_size", "200"]
    options += ["--data.max_len", "64", "--data.num_workers", "0", "--run.root", str(tmp_path)]
    options += ["--run.name", "needle", "--trainer.accelerator", "cpu"]
    small = ["--trainer.max_steps", "2", "--model.optimizer.warmup_steps", "1"]
    small += ["--run.eval_every_n_steps", "2", "--data.global_batch_size", "4"]
    small += ["--data.micro_batch_size", "4", "--trainer.log_every_n_steps", "1"]
    assert main(["fit", *options, *small]) == 0
    capsys.readouterr()
    assert main(["predict", *options, *small]) == 0
    assert "  fact in sight  any answer in sight  most frequent" in capsys.readouterr().out
    found = json.loads((tmp_path / "needle" / "needles-rank0.json").read_text())
    assert found["chance"] == 1 / NUM_ANSWERS
    assert found["rows"][-1]["questions"] == sum(row["questions"] for row in found["rows"][:-1])
