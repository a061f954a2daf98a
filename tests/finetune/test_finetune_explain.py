"""`explain`: which words gave what, on the page and in the lines."""

import json
from html import escape
from pathlib import Path

import pytest
import torch
from finetune_runs import json_lines
from test_finetune_artifact import NUM_TOKENS, classifier, info, save_classifier

from finetune.artifact import load_classifier
from finetune.cli import main
from finetune.data.encoding import TextEncoder
from finetune.data.hashed import WordEncoder
from finetune.deciding import Decider, without, words_of
from finetune.explain import page_text
from finetune.predict import Predictor
from finetune.tasks.spec import Row
from ponet import FNetConfig, HybridConfig, PoNetConfig, ProjectionConfig, SequenceClassifier

TEXT = "The film, it was good <b>good</b> & awful."


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tokenizer_json: Path) -> Path:
    folder = tmp_path_factory.mktemp("model") / "classifier"
    return save_classifier(folder, classifier(), info(), tokenizer_json=tokenizer_json)


def explain(model: Path, rows: list[dict], folder: Path, *options: str) -> tuple[list[dict], str]:
    path = folder / "new.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = folder / "why.html"
    files = ["--model", str(model), "--input", str(path), "--output", str(page)]
    assert main(["explain", *files, *options]) == 0
    return json_lines(folder / "why.jsonl"), page.read_text()


def row(text: str, pair: str = "") -> Row:
    return Row(1, "0", text, pair, None)


@pytest.mark.parametrize("pair", ["", "a film it was bad"])
@pytest.mark.parametrize("max_len", [9, 40])
def test_every_token_is_found_in_its_text(
    pair: str, max_len: int, tokenizer_json: Path, unigram_json: Path
) -> None:
    projected = PoNetConfig.preset("nano", projection=ProjectionConfig())
    for encoder in (
        TextEncoder(tokenizer_json, max_len=max_len),
        TextEncoder(unigram_json, max_len=max_len),
        WordEncoder(tokenizer_json, projected, max_len=max_len),
    ):
        one = row("the film was  good", pair)
        (text,) = encoder.encode([one], "rows")
        places = encoder.characters(one)
        assert len(places) == len(text.input_ids)
        for place, number in zip(places, text.input_ids.tolist(), strict=True):
            if isinstance(encoder, WordEncoder):
                piece = list(encoder._numbers)[number]
            else:
                piece = encoder._tokenizer.id_to_token(number).strip("\u2581#")
            if place is None:
                assert piece in ("[CLS]", "[SEP]", "<s>", "</s>")
            else:
                assert (one.text, one.text_pair)[place[0]][place[1] :].startswith(piece)


def test_lines_and_page_say_the_same_of_every_word(model: Path, tmp_path: Path) -> None:
    (told,), page = explain(model, [{"text": TEXT}], tmp_path)
    (answer,) = Predictor(load_classifier(model))([TEXT])
    assert told["label"] == answer["label"]
    assert told["probability"] == pytest.approx(answer["probabilities"][told["label"]], abs=1e-5)
    words = told["words"]
    assert [word["word"] for word in words] == [TEXT[w["start"] : w["end"]] for w in words]
    read = len(words)
    assert read + told["words_cut"] == len(words_of(row(TEXT))) and told["words_cut"]
    for name, most in (("segment_maxima", 32), ("local_maxima", 32 * 14)):
        assert sum(word[name][0] for word in words) == pytest.approx(most, abs=1e-3)
    assert 0 < sum(word["global_share"][0] for word in words) < 1
    assert "<b>" not in page and "&lt;" in page and "&amp;" in page
    assert "words at the end were not read" in page and "http" not in page
    strongest = max(words, key=lambda word: abs(word["given"]))
    assert f'title="{strongest["given"]:+.3g}">{escape(strongest["word"])}<' in page


def test_a_word_without_a_token_was_not_cut_off(model: Path) -> None:
    decider = Decider(Predictor(load_classifier(model)), method="pools")
    told = decider(row("the \u200b film \u200b"))
    assert [word["word"] for word in told["words"]] == ["the", "film"]
    assert told["words_cut"] == 0
    told = decider(row("the \u200b film " + "was good " * 20))
    assert len(told["words"]) + told["words_cut"] == 42


def test_removal_is_the_answer_less_the_answer_without_the_word(
    model: Path, tmp_path: Path
) -> None:
    text = "the film was good"
    (told,), page = explain(model, [{"text": text}], tmp_path, "--method", "removal", "--label=no")
    predictor = Predictor(load_classifier(model))

    def log_odds(text: str) -> float:
        chance = predictor([text])[0]["probabilities"]["no"]
        return float(torch.tensor(chance, dtype=torch.float64).logit())

    assert told["label"] == "no" and told["log_odds"] == pytest.approx(log_odds(text), abs=1e-4)
    for number, word in enumerate(told["words"]):
        rest = [other for place, other in enumerate(text.split()) if place != number]
        expected = log_odds(text) - log_odds(" ".join(rest))
        assert word["given"] == pytest.approx(expected, abs=1e-4)
    assert "the same text without the word" in page and "local maxima" not in page


@pytest.mark.parametrize("kind", ["fnet", "hybrid", "hashed"])
def test_encoders_without_pools_are_explained_by_removal_alone(
    kind: str, tokenizer_json: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"vocab_size": NUM_TOKENS, "num_layers": 1, "hidden_size": 32, "ffn_size": 64}
    config = FNetConfig.preset("nano", **sizes)
    if kind == "hashed":
        hashes = ProjectionConfig(feature_size=32, num_hashes=4)
        config = PoNetConfig.preset("nano", **sizes, projection=hashes)
    if kind == "hybrid":
        config = HybridConfig.preset("nano", **{**sizes, "num_layers": 2})
    model = SequenceClassifier(config, num_labels=2)
    folder = save_classifier(tmp_path / "c", model, info(), tokenizer_json=tokenizer_json)
    (told,), _ = explain(folder, [{"text": "good film"}], tmp_path, "--method", "removal")
    assert [word["word"] for word in told["words"]] == ["good", "film"]
    if kind == "hashed":  # words are tokens here
        (told,), _ = explain(folder, [{"text": "good film"}], tmp_path)
        assert sum(word["global_share"][0] for word in told["words"]) == pytest.approx(1, abs=1e-4)
        return
    files = ["--input", str(tmp_path / "new.jsonl"), "--output", str(tmp_path / "why.html")]
    assert main(["explain", "--model", str(folder), *files]) == 2
    said = capsys.readouterr().err
    lacks = {"fnet": "(fnet) has no pools", "hybrid": "(hybrid) has layers without pools"}
    assert lacks[kind] in said and "--method removal" in said


def test_scores_and_pairs_are_explained(tokenizer_json: Path, tmp_path: Path) -> None:
    told = info(labels=(), text="a", text_pair="b", has_pair=True)
    model = classifier(num_labels=1)
    folder = save_classifier(tmp_path / "r", model, told, tokenizer_json=tokenizer_json)
    (said,), page = explain(folder, [{"a": "good film", "b": "bad film it"}], tmp_path)
    assert "score" in said and "probability" not in said and "points of the score" in page
    assert [(w["text"], w["word"]) for w in said["words"]] == [
        (0, "good"), (0, "film"), (1, "bad"), (1, "film"), (1, "it"),
    ]  # fmt: skip


def test_a_great_score_is_shown_in_digits() -> None:
    told = {"line": 2, "score": 181083.36, "words": [], "words_cut": 0}
    assert page_text(told, ())["title"] == "Line 2: 181083"


def test_rows_that_cannot_be_explained_stand_with_the_reason(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": "good"}, {"text": " "}, {"text": "bad film"}]
    options = ("--method", "removal", "--page_rows", "2")
    first, second, third = explain(model, rows, tmp_path, *options)[0]
    assert "without one of its words" in first["error"] and "empty" in second["error"]
    assert len(third["words"]) == 2
    assert "2 rows could not be explained" in capsys.readouterr().err
    page = (tmp_path / "why.html").read_text()
    assert "Line 2: no answer" in page and "Line 3" not in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--label", "maybe"], "--label maybe is not a label of this model; it has no, yes"),
        (["--output", "why.txt"], "must end in .html"),
        (["--page_rows", "0"], "page_rows is 0"),
        (["--output", "new.html"], "is the input"),
        (["--text_pair", "b"], "leave out --text_pair"),
    ],
)
def test_mistakes_are_one_line(
    options: list[str], message: str, model: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("new.jsonl").write_text('{"text": "good"}\n')
    given = ["--model", str(model), "--input", "new.jsonl", "--output", "why.html", *options]
    assert main(["explain", *given]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["new.jsonl"]


def test_lines_replace_explanations_alone(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = tmp_path / "why.jsonl"
    for rows in ([{"text": "good"}], [{"text": " "}, {"text": "bad"}], [{"text": "film"}]):
        explain(model, rows, tmp_path)
    lines.write_text("")
    explain(model, [{"text": "good"}], tmp_path)
    files = ["--model", str(model), "--input", str(tmp_path / "new.jsonl")]
    for kept in (
        '{"line": 1, "label": "no", "probabilities": {"no": 1.0}}\n',
        '{"line": 1, "label": null, "probabilities": null, "error": "empty"}\n',
        '{"line": 1, "words": ["good"], "tags": ["O"], "spans": []}\n',
        "precious\n",
        "\udcff",
        "[]",
        "\n",
    ):
        lines.write_text(kept, errors="surrogateescape")
        assert main(["explain", *files, "--output", str(tmp_path / "why.html")]) == 2
        said = capsys.readouterr().err
        assert f"{lines}, which holds something other than explanations" in said
        assert "give the page another name, or move that file away" in said
        assert lines.read_text(errors="surrogateescape") == kept


def test_of_several_labels_the_logit_of_one_is_explained(
    tokenizer_json: Path, tmp_path: Path
) -> None:
    told = info(labels=("a", "b", "c"), is_multilabel=True, thresholds=(0.5, 0.5, 0.5))
    model = classifier(num_labels=3)
    folder = save_classifier(tmp_path / "m", model, told, tokenizer_json=tokenizer_json)
    (said,), _ = explain(folder, [{"text": "good film"}], tmp_path, "--label", "b")
    (answer,) = Predictor(load_classifier(folder))(["good film"])
    assert said["probability"] == pytest.approx(answer["probabilities"]["b"], abs=1e-5)


@pytest.mark.parametrize("chosen", ["", "a"])
@pytest.mark.parametrize("num_given", [0, 1, 2])
def test_of_several_labels_the_likeliest_that_is_given_is_explained(
    num_given: int, chosen: str, tokenizer_json: Path, tmp_path: Path
) -> None:
    model, text = classifier(num_labels=3), "good film"
    told = info(labels=("a", "b", "c"), is_multilabel=True)
    folder = save_classifier(tmp_path / "all", model, told, tokenizer_json=tokenizer_json)
    chances = Predictor(load_classifier(folder))([text])[0]["probabilities"]
    order = sorted(chances, key=chances.__getitem__)  # the likeliest last, which is not given
    given = sorted(order[:num_given])
    levels = tuple(chances[name] + (-0.01 if name in given else 0.01) for name in "abc")
    told = info(labels=("a", "b", "c"), is_multilabel=True, thresholds=levels)
    folder = save_classifier(tmp_path / "m", model, told, tokenizer_json=tokenizer_json)
    options = ("--label", chosen) if chosen else ()
    (said,), page = explain(folder, [{"text": text}], tmp_path, *options)
    (answer,) = Predictor(load_classifier(folder))([text])
    assert said["labels"] == answer["labels"] == given
    expected = chosen or order[num_given - 1]  # none: the last
    assert said["label"] == expected
    assert said["probability"] == pytest.approx(chances[expected], abs=1e-5)
    ending = f"; labels given: {', '.join(given)}" if given else "; no label is given"
    assert f"Line 1: {expected} ({chances[expected]:.1%}){ending}" in page


def test_a_say_beside_the_pools_is_not_passed_over(tokenizer_json: Path, tmp_path: Path) -> None:
    hashes = ProjectionConfig(feature_size=32, num_hashes=4, pair_rows=64)
    sizes = {"vocab_size": NUM_TOKENS, "num_layers": 1, "hidden_size": 32, "ffn_size": 64}
    model = SequenceClassifier(PoNetConfig.preset("nano", **sizes, projection=hashes), num_labels=2)
    folder = save_classifier(tmp_path / "p", model, info(), tokenizer_json=tokenizer_json)
    predictor = Predictor(load_classifier(folder))
    with pytest.raises(ValueError, match="pair_rows=64: .* --method removal"):
        Decider(predictor, method="pools")
    assert Decider(predictor, method="removal")(row("good film"))["words"]


def test_words_are_taken_out_of_both_texts() -> None:
    one = row("it's a film", "the film")
    words = words_of(one)
    assert [w[:2] for w in words] == [(0, 0), (0, 2), (0, 3), (0, 5), (0, 7), (1, 0), (1, 4)]
    left = without(one, [words[1], words[4], words[5]])
    assert (left.text, left.text_pair) == ("it s a", "film")


def test_a_label_that_is_not_likeliest_is_explained_with_the_other_sign(model: Path) -> None:
    predictor = Predictor(load_classifier(model))
    yes, no = (Decider(predictor, method="pools", label=one)(row(TEXT)) for one in ("yes", "no"))
    for one, other in zip(yes["words"], no["words"], strict=True):
        assert one["given"] == pytest.approx(-other["given"], abs=1e-5)
