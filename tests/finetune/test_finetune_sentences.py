"""Documents with labelled sentences: files, windows, borders and their measures."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest
import torch

from finetune.metrics import sentence_scores
from finetune.sentences.files import read_documents
from finetune.sentences.lexical import dips, linear_labels
from finetune.sentences.scores import border_scores, borders_of, pk, window_diff, window_size
from finetune.sentences.windows import cut_windows
from finetune.tasks.own import OwnFiles
from finetune.tasks.registry import load_task
from finetune.tasks.spec import Marks
from finetune.thresholds import (
    above,
    best_threshold,
    choose_thresholds,
    sentence_threshold,
    thresholded,
)
from ponet import PoNetConfig, SentenceTagger
from ponet.batch import EncoderBatch


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path, marks: Marks = "labels") -> tuple[list, Counter]:
    repairs: Counter[str] = Counter()
    texts = read_documents(path, marks, repairs)
    return [(text.words, text.tags) for text in texts], +repairs


@pytest.mark.parametrize(
    ("found", "wrong_pairs", "wrong_windows"),
    [([3], 0, 0), ([2], 2, 2), ([2, 3], 1, 2), ([], 2, 2), ([1, 2, 3, 4, 5], 2, 4)],
)
def test_pk_and_windowdiff_by_hand(found: list[int], wrong_pairs: int, wrong_windows: int):
    # Six sentences in two segments of three: k is 2, and there are four pairs two apart, of which
    # the border before sentence 3 parts those that begin at 1 and 2.
    assert window_size([3], 6) == 2
    assert pk([3], found, 6) == wrong_pairs / 4
    assert window_diff([3], found, 6) == wrong_windows / 4


def test_half_a_mean_segment_is_rounded_and_stays_within_the_document():
    assert window_size([], 20) == 10
    assert window_size([5, 9], 21) == 4  # 21 / 3 / 2 = 3.5
    assert window_size([1], 2) == 1 and window_size([1, 2], 3) == 2
    assert pk([1], [1], 2) == window_diff([1], [1], 2) == 0


def test_borders_over_all_documents_and_documents_of_one_sentence():
    scores = border_scores([[2], [], []], [[2, 3], [], [1]], [5, 1, 4])
    assert scores["border_precision"] == 1 / 3 and scores["border_recall"] == 1
    assert scores["border_f1"] == 0.5
    assert scores["windowdiff"] == pytest.approx(
        (window_diff([2], [2, 3], 5) + window_diff([], [1], 4)) / 2
    )
    empty = border_scores([[]], [[]], [1])
    assert empty["border_f1"] == 1 and empty["pk"] == empty["windowdiff"] == 0


def test_where_a_document_begins_and_ends_is_no_border():
    assert borders_of(["x", "o", "x"], "begins", "x") == [2]
    assert borders_of(["x", "o", "x"], "ends", "x") == [1]
    assert borders_of(["a", "a", "b", "a"], "sections", "") == [2, 3]
    assert borders_of(["a", "b"], "labels", "b") == []


def test_every_sentence_is_answered_by_one_window_that_holds_it():
    generator = random.Random(5)
    for _ in range(300):
        room = generator.randint(1, 40)
        sizes = [generator.choice([1, 2, 5, 30, 60]) for _ in range(generator.randint(1, 40))]
        windows = cut_windows(sizes, room)
        asked = [place for w in windows for place in range(w.first, w.stop)]
        assert asked == list(range(len(sizes)))
        for window in windows:
            assert window.begin <= window.first < window.stop <= window.end
            assert sum(sizes[window.begin : window.end]) <= room or window.end == window.begin + 1


def test_windows_overlap_by_about_a_quarter_and_are_cut_in_the_middle_of_it():
    windows = cut_windows([1] * 100, 40)
    assert windows[0][1:] == (0, 40, 0, 35) and windows[1][1:] == (30, 70, 35, 65)
    assert cut_windows([1] * 40, 40) == [(0, 0, 40, 0, 40)]


def test_own_documents_are_read_and_repairs_counted(tmp_path: Path):
    rows = ({"sentences": ["A b.", " "], "labels": [1, "x"], "label": "whole"},)
    texts, repairs = read(write(tmp_path / "own.jsonl", *rows))
    assert texts == [(("A b.",), ("1",))]
    assert sorted(repairs.values()) == [1, 1] and any("own label" in what for what in repairs)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"sentences": ["a"]}, "needs the keys sentences and labels"),
        ({"sentences": ["a", "b"], "labels": ["x"]}, "2 sentences but 1 labels"),
        ({"sentences": "a", "labels": ["x"]}, "a list of strings is needed"),
        ({"sentences": ["a"], "labels": [True]}, "label True; a name"),
        ({"sentences": [" "], "labels": ["x"]}, "has no sentences"),
        ({"sentences": ["\ud800"], "labels": ["x"]}, "half a surrogate pair"),
    ],
)
def test_a_damaged_document_is_named_with_its_line(tmp_path: Path, row: dict, message: str):
    good = {"sentences": ["a"], "labels": ["x"]}
    with pytest.raises(ValueError, match=message) as caught:
        read(write(tmp_path / "own.jsonl", good, row))
    assert "own.jsonl, line 2" in str(caught.value)


@pytest.mark.parametrize("text", ["{0}", "{0}\n{0}", "[{0}, {0}]"])
def test_own_documents_under_another_ending_are_not_taken_for_wikisection(
    tmp_path: Path, text: str
):
    path = tmp_path / "own.json"
    path.write_text(text.replace("{0}", json.dumps({"sentences": ["a"], "labels": ["x"]})))
    for marks in ("labels", "begins"):
        with pytest.raises(ValueError, match=r"own documents are .jsonl with sentences and labels"):
            read(path, marks)


SECTIONS = [
    {"id": "u", "text": "One. Two.\nThree. Four.", "annotations": [
        {"begin": 0, "length": 9, "sectionHeading": "H", "sectionLabel": "cause"},
        {"begin": 10, "length": 12, "sectionHeading": "I", "sectionLabel": "cure"},
    ]},
]  # fmt: skip


@pytest.mark.parametrize(
    ("marks", "labels"),
    [
        ("begins", ("inside", "inside", "begin", "inside")),
        ("ends", ("inside", "end", "inside", "inside")),
        ("sections", ("cause", "cause", "cure", "cure")),
    ],
)
def test_the_layout_of_wikisection(tmp_path: Path, marks: Marks, labels: tuple[str, ...]):
    path = tmp_path / "wikisection.json"
    path.write_text(json.dumps(SECTIONS))
    assert read(path, marks)[0] == [(("One.", "Two.", "Three.", "Four."), labels)]


def test_a_section_of_wikisection_without_a_character_has_no_border(tmp_path: Path):
    sections = [{**one, "sectionLabel": "s"} for one in SECTIONS[0]["annotations"]]
    empty = [{"begin": 9, "length": size, "sectionLabel": "e"} for size in (0, 1)]
    path = tmp_path / "wikisection.json"
    path.write_text(json.dumps([{**SECTIONS[0], "annotations": [*empty, *sections, *empty]}]))
    ((_, labels),), _ = read(path, "begins")
    assert labels == ("inside", "inside", "begin", "inside")


def meeting(**changes: object) -> dict:
    row = {
        "meeting_key": "M1",
        "sentences": [{"id": number, "s": f"s{number}"} for number in (1, 2, 3, 4)],
        "topic_segment_ids": [
            {"id": 2, "candidate": [{"title": "t", "key_sentence": ["1"]}]},
            {"id": 9, "candidate": [{"title": "u", "key_sentence": ["3", "4"]}]},
        ],
    }
    return {**row, **changes}


@pytest.mark.parametrize(
    ("marks", "labels", "late"),
    [
        ("begins", ("inside", "inside", "begin", "inside"), 1),
        ("ends", ("inside", "end", "inside", "inside"), 1),
        ("keys", ("key", "other", "key", "key"), 0),
    ],
)
def test_the_layout_of_mug(tmp_path: Path, marks: Marks, labels: tuple[str, ...], late: int):
    texts, repairs = read(write(tmp_path / "mug.jsonl", meeting()), marks)
    assert texts == [(("s1", "s2", "s3", "s4"), labels)]
    assert sum(repairs.values()) == late
    table = tmp_path / "mug.csv"
    cell = json.dumps(meeting()).replace('"', '""')
    table.write_text(f'idx,content\n0,"{cell}"\n')
    assert read(table, marks)[0] == texts


@pytest.mark.parametrize("marks", ["begins", "ends"])
def test_a_border_of_a_topic_stays_where_its_sentence_has_no_character(tmp_path: Path, marks):
    said = [{"id": n, "s": text} for n, text in enumerate(("a", " ", "", "b", " "), 1)]
    topics = [{"id": 2}, {"id": 5}]
    row = meeting(sentences=said, topic_segment_ids=topics)
    ((_, labels),), repairs = read(write(tmp_path / "mug.jsonl", row), marks)
    assert labels == (("inside", "begin") if marks == "begins" else ("end", "inside"))
    assert list(repairs.values()) == [3]


def test_own_documents_may_carry_their_whole_text_beside(tmp_path: Path):
    row = {"sentences": ["a", "b"], "labels": ["x", "y"], "content": "a b"}
    assert read(write(tmp_path / "own.jsonl", row))[0] == [(("a", "b"), ("x", "y"))]


def test_layouts_allow_only_what_they_say(tmp_path: Path):
    path = write(tmp_path / "mug.jsonl", meeting())
    with pytest.raises(ValueError, match="may be begins, ends, keys; 'sections' given"):
        read(path, "sections")
    broken = meeting(topic_segment_ids=[{"id": 0}])
    with pytest.raises(ValueError, match="no sentence has the id 0"):
        read(write(path, broken), "ends")
    other = tmp_path / "text.json"
    other.write_text('[{"text": "a"}]')
    with pytest.raises(ValueError, match="document 1: needs text and annotations"):
        read(other, "begins")
    with pytest.raises(ValueError, match=r"may be begins, ends, sections; 'labels' given"):
        read(other)


def load(tmp_path: Path, validation: list[str], **options: object):
    train = [{"sentences": ["a", "b", "c"], "labels": ["z", "m", "z"]}]
    own = OwnFiles(
        train=str(write(tmp_path / "train.jsonl", *train)),
        validation=str(
            write(
                tmp_path / "dev.jsonl", {"sentences": ["s"] * len(validation), "labels": validation}
            )  # fmt: skip
        ),
        kind="sentences",
        **options,
    )
    return load_task("own", own=own)


def test_the_rarer_of_two_labels_is_positive_unless_another_is_named(tmp_path: Path):
    assert load(tmp_path, ["z"]).spec.tags == ("z", "m")
    named = load(tmp_path, ["z"], positive_label="z").spec
    assert named.tags == ("m", "z") and named.f1_label == "z" and named.score == ("f1",)
    with pytest.raises(ValueError, match="positive_label is 'q'; it must be one of two"):
        load(tmp_path, ["z"], positive_label="q")


def test_a_label_that_training_never_saw_is_counted_and_an_error(tmp_path: Path):
    task = load(tmp_path, ["m", "z", "new", "z"], marks="begins")
    split = task.splits["validation"]
    assert list(split.repairs.values()) == [1]
    scores = sentence_scores(task.spec, split.rows, [[1, 0, 0, 0]])
    assert scores["accuracy"] == 0.75 and scores["score"] == scores["border_f1"] == 1
    assert scores["f1/z"] == pytest.approx(0.8) and scores["macro_f1"] == pytest.approx(1.8 / 3)


@pytest.mark.parametrize("shift", [-200.0, -16.0, 0.0, 16.0, 35.0])
def test_a_threshold_cuts_between_answers_of_any_confidence(shift: float):
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -2.0], dtype=torch.float64) + shift
    for count in range(1, 6):
        holds = torch.arange(5) < count
        level = best_threshold(logits, holds)
        assert 0 < level < 1 and torch.equal(above(logits[:, None], (level,))[:, 0], holds)
    both_are_0 = torch.tensor([-800.0, -900.0])
    assert 0 < best_threshold(both_are_0, torch.tensor([True, False])) < 1


def test_a_threshold_is_the_best_of_all_cuts():
    logits = torch.tensor([2.0, 1.0, 0.5, -1.0, -2.0])
    holds = torch.tensor([True, False, True, True, False])
    level = best_threshold(logits, holds)
    said = logits.sigmoid() > level
    assert said.tolist() == [True, True, True, True, False]
    assert best_threshold(logits, torch.zeros(5, dtype=torch.bool)) == 0.5
    ties = best_threshold(torch.tensor([1.0, 1.0, -1.0]), torch.tensor([True, False, True]))
    assert ties < float(torch.tensor(-1.0).sigmoid())


@pytest.mark.parametrize("score", ["border_f1", "f1"])
@pytest.mark.parametrize("marks", ["begins", "ends"])
def test_a_threshold_suits_the_score_that_chooses(tmp_path: Path, marks: Marks, score: str):
    labels = [*"mzzmzzzmzz"] if marks == "begins" else [*"zzmzzzmzzm"]
    task = load(tmp_path, labels, marks=marks, score=score)
    generator = random.Random(6)
    for _ in range(20):
        margins = [[generator.gauss(label == task.spec.tags[1], 2) for label in labels]]

        def scored(level: float, margins: list[list[float]] = margins) -> float:
            tags = thresholded([], margins, (level,))
            return sentence_scores(task.spec, task.splits["validation"].rows, tags)["score"]

        (chosen,) = sentence_threshold(task.spec, task.splits["validation"].rows, margins)
        assert scored(chosen) == max(scored(number / 1000) for number in range(1, 1000))


def test_a_label_of_few_rows_has_the_common_threshold():
    generator = torch.Generator().manual_seed(0)
    holds = torch.rand(60, 2, generator=generator) < torch.tensor([0.5, 0.05])
    logits = torch.randn(60, 2, generator=generator) + holds
    one = choose_thresholds(logits, holds)
    assert one[0] == one[1] == best_threshold(logits.flatten(), holds.flatten())
    own = choose_thresholds(logits, holds, how="per_label")
    assert own[1] == one[1] and own[0] == best_threshold(logits[:, 0], holds[:, 0])


def test_a_sentence_is_the_maximum_over_its_tokens_and_nothing_else():
    torch.manual_seed(0)
    config = PoNetConfig.preset("nano", vocab_size=20)
    model = SentenceTagger.for_tags(config, ["a", "b"], num_labels=0, decoder="crf").eval()
    ids = torch.tensor([[0, 1, 1, 1, 2, 2, 3]])
    mask = torch.tensor([[True] * 6 + [False]])
    batch = EncoderBatch(
        input_ids=torch.arange(7)[None], mask=mask, token_type_ids=torch.zeros_like(ids),
        segment_ids=ids, special_mask=torch.zeros_like(mask),
    )  # fmt: skip
    x = torch.randn(1, 7, config.hidden_size)
    pooled = model.tagged_states(x, batch)
    for begin, end in ((0, 1), (1, 4), (4, 6)):
        assert torch.equal(
            pooled[:, begin:end], x[:, begin:end].amax(1, keepdim=True).expand(-1, end - begin, -1)
        )
    assert not pooled[0, 6].any() and model.allowed is None
    assert model.margins(model(batch)) is None  # a chain decides


def test_counted_words_find_borders_between_subjects():
    pytest.importorskip("sklearn")
    film = ["the film was good", "a film it was", "the good film"]
    sea = ["waves and wind", "wind over waves", "waves in wind"]
    said = dips([film, sea], [[*film, *sea]], block=2, begins=True)
    assert max(range(6), key=said.margins[0].__getitem__) == 3
    behind = dips([film, sea], [[*film, *sea]], block=2, begins=False)
    assert behind.margins[0][2] == said.margins[0][3] and behind.margins[0][-1] == 0
    labels = [["x", "o", "o"], ["x", "o", "o"]]
    found = linear_labels([film, sea], labels, [film], positive="x")
    assert [margin > 0 for margin in found.margins[0]] == [True, False, False]
    assert linear_labels([film, sea], labels, [sea]).labels == [["x", "o", "o"]]
