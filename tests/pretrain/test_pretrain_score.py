"""`score`: texts and minimal pairs by several bundles, their tables, files and mistakes."""

import io
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from data_prep.tokenizer import wordpiece_from_vocab
from ponet import BertConfig, PoNetConfig, PretrainingModel, load_bundle, save_bundle
from ponet.scoring import TextScore, pseudo_perplexity
from pretrain.cli import main
from pretrain.minimal_pairs import Pair
from pretrain.score import bundle_names
from pretrain.score_tables import pair_lines, pair_table, text_lines
from training.statistics import estimate, mean_of_means

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *LETTERS,
         *(f"##{letter}" for letter in LETTERS), "the", "sun", "boats", "rise"]  # fmt: skip
TEXTS = ["The sun rises.", "Boats rise. The sun.", "", "a zebra", "the sun and the boats rise"]


def write_bundle(
    folder: Path, config_class: Any = PoNetConfig, *, words: list[str] = WORDS, max_len: int = 24
) -> Path:
    """A random encoder in `folder/bundle`, as a run leaves it."""
    vocab = {word: number for number, word in enumerate(words)}
    sizes = {"vocab_size": len(vocab), "hidden_size": 16, "num_heads": 2, "num_layers": 1,
             "ffn_size": 16, "max_positions": max_len}  # fmt: skip
    torch.manual_seed(0)
    model = PretrainingModel(config_class(**sizes))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    folder.mkdir(parents=True)
    wordpiece_from_vocab(vocab, lowercase=True).save(str(folder / "tokenizer.json"))
    save_bundle(folder / "bundle", model, tokenizer_json=folder / "tokenizer.json")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three runs: the second has the tokenizer of the first, the third another and is shorter."""
    root = tmp_path_factory.mktemp("runs")
    made = [write_bundle(root / "ponet"), write_bundle(root / "bert", BertConfig)]
    fewer = [word for word in WORDS if word != "sun"]
    return [*map(str, made), str(write_bundle(root / "other", words=fewer, max_len=12))]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def blimp(path: Path, pairs: list[tuple[str, str]], field: str, **more: str) -> Path:
    """A file in BLiMP's layout."""
    rows = [
        {"sentence_good": good, "sentence_bad": bad, "field": field, "linguistics_term": "order",
         "UID": path.stem, "simple_LM_method": True, "pairID": str(n), **more}
        for n, (good, bad) in enumerate(pairs)
    ]  # fmt: skip
    return write_rows(path, rows)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    words = ["the", "sun", "boats", "rise", "a", "zebra"]
    swapped = [(f"{a} {b} c", f"{b} {a} c") for a in words for b in words if a < b]
    blimp(tmp_path / "blimp" / "swapped.jsonl", swapped, "syntax")
    blimp(tmp_path / "blimp" / "cased.jsonl", [("the sun", "The sun"), ("boats", "sun")], "form")
    return tmp_path / "blimp"


def score(*arguments: str | Path) -> int:
    return main(["score", *map(str, arguments)])


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_texts_get_rows_and_a_pseudo_perplexity_for_each_bundle(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = TEXTS * 3
    source = tmp_path / "in.txt"
    source.write_text("".join(f"{text}\n" for text in texts))
    output, rows = tmp_path / "new" / "out.json", tmp_path / "rows.jsonl"
    given = ["--input", source, "--output", output, "--rows", rows]
    assert score(*runs[:2], *given) == 0
    expected = [load_bundle(run).score(texts) for run in runs[:2]]
    found = read_rows(rows)
    assert [(row["bundle"], row["row"]) for row in found] == [
        (name, number) for name in ("ponet", "bert") for number in range(15)
    ]
    for row, one in zip(found, [*expected[0], *expected[1]], strict=True):
        assert row["num_tokens"] == one.num_tokens
        assert row["log_likelihood"] == pytest.approx(one.log_likelihood, abs=1e-4)
    report = json.loads(output.read_text())
    whole = report["lines"][-1]
    assert (whole["kind"], whole["num_texts"], report["num_texts"]) == ("all", 12, 15)
    perplexities = [pseudo_perplexity(scores) for scores in expected]
    for name, perplexity in zip(("ponet", "bert"), perplexities, strict=True):
        of = whole["bundles"][name]
        assert of["pseudo_perplexity"] == pytest.approx(perplexity, rel=1e-4)
        assert of["low"] < of["nats_per_token"] == pytest.approx(math.log(perplexity), rel=1e-4)
    gap = whole["minus_ponet"]["bert"]["nats_per_token"]
    assert gap == pytest.approx(math.log(perplexities[1] / perplexities[0]), abs=1e-4)
    printed = capsys.readouterr().out
    assert "15 texts of" in printed and f"{perplexities[0]:,.2f} (" in printed
    assert "without a token, and left out: 3 texts" in printed and "NOTE" not in printed


def test_lengths_have_a_line_each_and_tokens_of_others_are_not_compared(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_rows(
        tmp_path / "in.jsonl", [{"meta": {"t": text}} for text in ("the sun", "boats rise " * 9)]
    )
    output = tmp_path / "out.json"
    given = ["--input", source, "--field", "meta.t", "--output", output]
    assert score(runs[0], runs[2], *given) == 0
    lines = json.loads(output.read_text())["lines"]
    assert [(line["kind"], line.get("name"), line["num_tokens"]) for line in lines] == [
        ("length", "16", 2), ("length", "32", 18), ("all", None, 20),
    ]  # fmt: skip
    assert all(line["minus_ponet"] == {"other": None} for line in lines)
    printed = capsys.readouterr().out
    assert "NOTE: not all tokenizers are that of ponet" in printed
    assert "ponet 24, other 12); give --max_len 12 to let all see" in printed
    assert score(runs[0], runs[2], *given, "--max_len", 12, "--method", "original") == 0
    assert "--max_len" not in capsys.readouterr().out


def test_unknown_tokens_are_told(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_rows(
        tmp_path / "x.jsonl", [{"sentence_good": "a 北 b", "sentence_bad": "b 北 a c"}]
    )
    assert score(*runs[:2], "--input", source, "--rows", tmp_path / "rows.jsonl") == 0
    assert "NOTE: 2 of 7 tokens are unknown to the tokenizer of bert" in capsys.readouterr().out
    assert read_rows(tmp_path / "rows.jsonl")[0]["bad"]["num_unknown"] == 1


def test_texts_are_read_from_stdin_for_several_bundles(
    runs: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\nthe sun\n")))
    assert score(*runs[:2], "--input", "-") == 0
    assert "2 texts of -" in capsys.readouterr().out


def test_minimal_pairs_count_wins_and_halves_of_ties_by_paradigm(
    runs: list[str], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, rows = tmp_path / "out.json", tmp_path / "rows.jsonl"
    assert score(*runs[:2], "--input", folder, "--output", output, "--rows", rows) == 0
    outcomes: dict[str, list[float]] = {}
    bundles = {"ponet": load_bundle(runs[0]), "bert": load_bundle(runs[1])}
    for row in read_rows(rows):
        lines = read_rows(Path(row["file"]))
        pair = lines[row["line"] - 1]
        sentences = [pair["sentence_good"], pair["sentence_bad"]]
        good, bad = (one.log_likelihood for one in bundles[row["bundle"]].score(sentences))
        assert row["good"]["log_likelihood"] == pytest.approx(good, abs=1e-4)
        is_tie = sentences == ["the sun", "The sun"]
        assert row["outcome"] == (0.5 if is_tie else float(good > bad))
        outcomes.setdefault(row["bundle"], []).append(100 * row["outcome"])
    report = json.loads(output.read_text())
    by_name = {(line["kind"], line.get("name")): line for line in report["lines"]}
    assert set(by_name) == {
        ("paradigm", "cased"), ("paradigm", "swapped"), ("field", "form"), ("field", "syntax"),
        ("linguistics_term", "order"), ("all", None),
    }  # fmt: skip
    swapped, cased = ([values[2:] for values in outcomes.values()],
                      [values[:2] for values in outcomes.values()])  # fmt: skip
    assert by_name["paradigm", "cased"]["bundles"]["ponet"]["ties"] == 1
    whole, one = by_name["all", None], by_name["paradigm", "swapped"]
    assert (whole["num_pairs"], whole["num_paradigms"]) == (17, 2)
    for number, name in enumerate(bundles):
        of_one = estimate(swapped[number])
        assert one["bundles"][name]["accuracy_percent"] == pytest.approx(of_one.mean)
        of_all = mean_of_means([cased[number], swapped[number]])
        assert whole["bundles"][name]["accuracy_percent"] == pytest.approx(of_all.mean)
        assert one["bundles"][name]["low"] == pytest.approx(of_one.low)
    gaps = [b - a for a, b in zip(swapped[0], swapped[1], strict=True)]
    assert one["minus_ponet"]["bert"]["accuracy_percent"] == pytest.approx(estimate(gaps).mean)
    assert one["minus_ponet"]["bert"]["high"] == pytest.approx(estimate(gaps).high)
    printed = capsys.readouterr().out
    assert "17 minimal pairs" in printed and "mean over 2 paradigms" in printed
    assert "ties, which count half: ponet 1, bert 1" in printed and "guessing: 50.0" in printed


def test_a_mean_over_paradigms_counts_each_once() -> None:
    pairs = [Pair("a", "b", "f", n, "few" if n < 2 else "many", {}) for n in range(12)]
    lines = pair_lines(pairs, [[1.0, 1.0, *[0.0] * 5, *[1.0] * 5], [0.5] * 12])
    assert [(line.name, line.found[0].mean, line.ties) for line in lines] == [
        ("few", 100, [0, 2]), ("many", 50, [0, 10]), ("", 75, [0, 12]),
    ]  # fmt: skip
    gap = lines[-1].differences[0]
    assert gap is not None and gap.mean == -25


def test_an_interval_rests_on_ten_pairs_or_texts() -> None:
    pairs = [Pair("a", "b", "f", n, "few" if n < 9 else "many", {}) for n in range(19)]
    few, many, _ = pair_lines(pairs, [[n % 2.0 for n in range(19)]])
    assert few.found[0].half_width is None and many.found[0].half_width is not None
    printed = "\n".join(pair_table([few, many], ["ponet"]))
    assert f"44.4\nmany         10  50.0 ± {many.found[0].half_width:.1f}\n" in printed
    assert "what\nrests on fewer than 10 rows" in printed
    scores = [TextScore(-2.0 * (n + 1), 1 + n % 3) for n in range(10)]
    assert text_lines([scores], [True])[-1].found[0].half_width is not None
    fewer = text_lines([scores[:9], scores[1:]], [True, True])[-1]
    gap = fewer.differences[0]
    assert fewer.found[0].half_width is None and gap is not None and gap.half_width is None
    assert gap.verdict == "too few pairs: not judged"


def test_other_columns_and_tables_are_named_by_options(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "agreement.csv"
    source.write_text("right,wrong,kind\nthe sun rises,the sun rise,verb\nboats,a boats,noun\n")
    given = ["--input", source, "--good", "right", "--bad", "wrong"]
    output = tmp_path / "out.json"
    assert score(runs[0], *given, "--output", output, "--groups", "kind") == 0
    found = [(line["kind"], line.get("name")) for line in json.loads(output.read_text())["lines"]]
    assert found == [
        ("paradigm", "agreement"), ("kind", "noun"), ("kind", "verb"), ("all", None),
    ]  # fmt: skip
    assert score(runs[0], *given, "--output", output, "--paradigm", "kind") == 0
    assert "noun" in capsys.readouterr().out


def test_a_context_stands_before_both_sentences(runs: list[str], tmp_path: Path) -> None:
    pairs = [("sun", "zebra", "the"), ("boats rise", "rise boats", "the sun."), ("a", "b", "")]
    source = write_rows(
        tmp_path / "pairs.jsonl",
        [{"sentence_good": g, "sentence_bad": b, "before": c} for g, b, c in pairs],
    )
    rows = tmp_path / "rows.jsonl"
    assert score(runs[0], "--input", source, "--context", "before", "--rows", rows) == 0
    bundle = load_bundle(runs[0])
    for row, (good, bad, context) in zip(read_rows(rows), pairs, strict=True):
        for name, text in {"good": good, "bad": bad}.items():
            [expected] = bundle.score([text], contexts=[context])
            assert row[name]["log_likelihood"] == pytest.approx(expected.log_likelihood, abs=1e-4)


def ewok(contexts: tuple[str, str], targets: tuple[str, str], domain: str) -> dict[str, str]:
    """A row in EWoK's layout."""
    return {"Domain": domain, "ConceptA": "x", "ContextType": "direct",
            "Context1": contexts[0], "Context2": contexts[1],
            "Target1": targets[0], "Target2": targets[1]}  # fmt: skip


def test_two_contexts_and_two_targets_are_two_pairs_and_one_row_of_an_interval(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sun", "boats", "a", "zebra", "b c"]
    given = [
        ewok((f"the {one}.", f"the {two}."), ("the sun rises", "boats rise"), f"of {one}")
        for one in words for two in words if one != two
    ]  # fmt: skip
    source = write_rows(tmp_path / "ewok.jsonl", given)
    output, rows = tmp_path / "out.json", tmp_path / "rows.jsonl"
    named = ["--output", output, "--rows", rows, "--groups", "ContextType"]
    assert score(runs[0], "--input", source, *named) == 0
    bundle, by_row = load_bundle(runs[0]), []
    found = read_rows(rows)
    assert [row["target"] for row in found] == [1, 2] * 20
    for number, row in enumerate(given):
        values = []
        for target in (1, 2):
            text = row[f"Target{target}"]
            own, other = bundle.score(
                [text, text], contexts=[row[f"Context{target}"], row[f"Context{3 - target}"]]
            )
            pair = found[2 * number + target - 1]
            assert pair["good"]["log_likelihood"] == pytest.approx(own.log_likelihood, abs=1e-4)
            assert pair["bad"]["log_likelihood"] == pytest.approx(other.log_likelihood, abs=1e-4)
            values.append(100 * pair["outcome"])
        by_row.append(sum(values) / 2)
    lines = json.loads(output.read_text())["lines"]
    assert {line["name"] for line in lines[:5]} == {f"of {word}" for word in words}
    of_type = next(line for line in lines if line["kind"] == "ContextType")
    whole = mean_of_means([by_row[n : n + 4] for n in range(0, 20, 4)], least_df=9)
    assert (of_type["name"], of_type["num_pairs"], of_type["num_paradigms"]) == ("direct", 40, 5)
    assert of_type["bundles"]["ponet"]["accuracy_percent"] == pytest.approx(whole.mean)
    assert of_type["bundles"]["ponet"]["high"] == whole.high
    printed = capsys.readouterr().out
    assert (
        "40 minimal pairs" in printed and "two contexts and two targets, which are two" in printed
    )


def test_rows_of_two_contexts_name_what_is_wrong(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = ewok(("the sun", "boats"), ("sun", "rise"), "x")
    for change, message in {
        ("Context2", "the  sun"): "both contexts are 'the sun'; they must differ",
        ("Target2", "sun"): "both targets are 'sun'",
        ("Target1", None): "has no sentence under 'Target1'",
        ("Context1", " "): "the sentence under 'Context1' is empty",
        ("Context1", "the " * 24): "have 27 tokens, and a row 24; shorten the context, or give a",
        ("Domain", None): "has nothing under 'Domain'",
    }.items():
        source = write_rows(tmp_path / "x.jsonl", [good, {**good, change[0]: change[1]}])
        assert score(runs[0], "--input", source) == 2
        error = capsys.readouterr().err
        assert f"{source}, line 2: " in error and message in error, error
    source = write_rows(tmp_path / "x.jsonl", [good])
    assert score(runs[0], "--input", source, "--context", "Context1") == 2
    assert "--context Context1 would do nothing" in capsys.readouterr().err
    named = ["--good", "Target1", "--bad", "Target2", "--context", "Context1"]
    assert score(runs[0], "--input", source, *named) == 0


GOOD = {"sentence_good": "the sun", "sentence_bad": "sun the", "UID": "x", "field": "f"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**GOOD, "sentence_bad": " the  sun"}, "both sentences are 'the sun'"),
        ({**GOOD, "sentence_good": " "}, "the sentence under 'sentence_good' is empty"),
        ({**GOOD, "sentence_bad": None}, "has no sentence under 'sentence_bad'; it has 'sentence_"),
        ({"sentence_good": "a"}, "has no sentence under 'sentence_bad'"),
        ({k: v for k, v in GOOD.items() if k != "UID"}, "has nothing under 'UID'"),
        (
            {k: v for k, v in GOOD.items() if k != "field"},
            "has no 'field', which .*x.jsonl, line 1",
        ),
        ({**GOOD, "sentence_good": "\u200b"}, "a sentence has no token in the tokenizer of ponet"),
        (["a", "b"], "is no JSON object"),
    ],
)
def test_a_row_that_is_no_pair_is_named_by_file_and_line(
    row: Any, message: str, runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_rows(tmp_path / "pairs" / "x.jsonl", [GOOD, GOOD, row])
    outputs = ["--output", tmp_path / "out.json", "--rows", tmp_path / "rows.jsonl"]
    assert score(runs[0], "--input", path.parent, *outputs) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {path}, line 3: ") and "\n" not in printed.err[:-1]
    assert re.search(message, printed.err)
    assert {file.name for file in tmp_path.iterdir()} == {"pairs"}


def test_mistakes_end_in_one_line_before_the_work(
    runs: list[str], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bad.jsonl").write_bytes(b'{"sentence_good": "\xff"}\n')
    texts = tmp_path / "in.txt"
    texts.write_text("the sun\n")
    (tmp_path / "blank.txt").write_text("\n\n")
    named = write_rows(tmp_path / "rows" / "named.jsonl", [{"right": "a", "wrong": "b"}])
    for arguments, message in [
        ([runs[0], "--input", folder], "bad.jsonl, line 1: is not UTF-8"),
        ([runs[0], "--input", folder.parent], f"there are some in {folder}"),
        ([runs[0], "--input", folder / "swapped.jsonl", "--field", "x"], "--field x would do noth"),
        ([runs[0], "--input", tmp_path / "no.txt"], "no.txt does not exist"),
        (
            [runs[0], "--input", named],
            "line 1: has neither a text under 'text' nor sentences under",
        ),
        ([runs[0], "--input", named, "--good", "right"], "has no sentence under 'sentence_bad'"),
        ([runs[0], "--input", tmp_path / "blank.txt"], "no text has a token"),
        (
            [runs[0], "--input", tmp_path / "blank.txt", "--context", "before"],
            "--context would do nothing: ",
        ),
        ([runs[0], runs[0] + "/bundle", "--input", texts], "is given twice"),
        ([runs[0], "--input", texts, "--output", "x.csv"], "--output x.csv: the name must end in"),
        (
            [runs[0], "--input", folder, "--rows", folder / "swapped.jsonl"],
            "would be read as pairs",
        ),
        ([runs[0], "--input", texts, "--max_len", "25"], "ponet: max_len=25 given"),
        ([runs[0], "--input", texts, "--method", "x"], "must be one of word_l2r, original"),
        ([runs[0]], "needs --input VALUE"),
        (["--input", texts], "needs BUNDLES"),
    ]:
        assert score(*arguments) == 2
        assert message in capsys.readouterr().err


def test_bundles_are_called_by_what_tells_their_paths_apart() -> None:
    assert bundle_names([Path("runs/a/bundle"), Path("runs/b")]) == ["a", "b"]
    assert bundle_names([Path("x/a/bundle"), Path("y/a")]) == ["x/a", "y/a"]
