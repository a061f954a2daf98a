"""The commands, from files to a classifier and back: learning, round trip, errors."""

import csv
import json
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from finetune.artifact import load_classifier
from finetune.callbacks import BestEpoch
from finetune.cli import main, parse_config
from finetune.config import FinetuneConfig
from finetune.fit import majority_metrics, read_split_files
from finetune.module import ClassifierModule, learning_rate_factor
from finetune.tables import Columns, read_examples
from ponet import PoNetConfig, SequenceClassifier

GOOD, BAD, FILLER = ["good", "great", "fine"], ["bad", "awful", "poor"], ["a", "film", "it", "was"]
OPTIONS = "--lr 5e-3 --batch_size 16 --epochs 2 --max_len 16".split()


def write_reviews(path: Path, *, num_rows: int, seed: int, pair: bool = False) -> Path:
    """Reviews whose one opinion word decides the label; as a pair: whether two opinions agree."""
    generator = random.Random(seed)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "text2", "label"])
        for _ in range(num_rows):
            likes = [generator.random() < 0.6, generator.random() < 0.6]
            texts = []
            for is_good in likes:
                words = generator.choices(FILLER, k=generator.randint(1, 7))
                words.insert(
                    generator.randrange(len(words)), generator.choice([BAD, GOOD][is_good])
                )
                texts.append(" ".join(words))
            label = likes[0] == likes[1] if pair else likes[0]
            writer.writerow([*texts, ["no", "yes"][label]])
    return path


def run_fit(bundle: Path, folder: Path, *options: str, pair: bool = False) -> int:
    train = write_reviews(folder / "train.csv", num_rows=320, seed=1, pair=pair)
    validation = write_reviews(folder / "validation.csv", num_rows=60, seed=2, pair=pair)
    files = ["--train", str(train), "--validation", str(validation)]
    return main(
        [
            "fit",
            "--bundle",
            str(bundle),
            *files,
            "--output",
            str(folder / "out"),
            *OPTIONS,
            *options,
        ]
    )


def metrics_rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, bundle) -> Path:
    folder = tmp_path_factory.mktemp("fit")
    assert run_fit(bundle, folder) == 0
    return folder


def test_a_separable_task_is_learnt_far_above_the_majority_guess(fitted) -> None:
    summary = metrics_rows(fitted / "out")[-1]
    assert summary["best/accuracy"] > 0.95
    assert summary["majority/accuracy"] < 0.75
    assert summary["best/macro_f1"] > 0.9 > summary["majority/macro_f1"]


def test_the_classifier_folder_holds_all_that_is_needed(fitted) -> None:
    folder = fitted / "out" / "classifier"
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json"}
    assert json.loads((folder / "config.json").read_text())["labels"] == ["no", "yes"]
    assert [path.name for path in (fitted / "out").iterdir() if path.name.startswith(".")] == []


def test_predictions_on_the_validation_file_are_the_ones_that_were_scored(fitted, tmp_path) -> None:
    output = tmp_path / "predictions.jsonl"
    arguments = ["--model", str(fitted / "out" / "classifier"), "--output", str(output)]
    arguments += ["--input", str(fitted / "validation.csv"), "--batch_size", "7"]
    assert main(["predict", *arguments]) == 0
    predictions = [json.loads(line) for line in output.read_text().splitlines()]
    rows = list(read_examples(fitted / "validation.csv", Columns(text="text", label="label")))
    hits = [p["label"] == row.label for p, row in zip(predictions, rows, strict=True)]
    assert sum(hits) / len(hits) == pytest.approx(metrics_rows(fitted / "out")[-1]["best/accuracy"])
    assert [p["line"] for p in predictions] == [row.line for row in rows]

    loaded = load_classifier(fitted / "out" / "classifier")
    with torch.inference_mode():
        logits = loaded.model(loaded.encoder.batch(loaded.encoder.encode(rows, "validation.csv")))
    written = torch.tensor([list(p["probabilities"].values()) for p in predictions])
    torch.testing.assert_close(written, logits.softmax(-1), atol=1e-5, rtol=0)


def test_the_best_epochs_weights_are_kept_and_not_the_last_ones() -> None:
    config = FinetuneConfig(bundle="b", train="t", validation="v", output="o")
    sizes = PoNetConfig.preset("nano", vocab_size=8, num_layers=1)
    module = ClassifierModule(SequenceClassifier(sizes, num_labels=2), config, num_labels=2)
    best = BestEpoch()
    for epoch, (accuracy, loss) in enumerate([(0.5, 1.0), (0.9, 0.7), (0.9, 0.6), (0.8, 0.1)]):
        torch.nn.init.constant_(module.classifier.classifier.bias, float(epoch))
        values = {"val/accuracy": accuracy, "val/macro_f1": 0.0, "val/loss": loss}
        best.on_validation_end(
            SimpleNamespace(callback_metrics=values, current_epoch=epoch), module
        )
    best.restore(module)
    assert best.epoch == 3
    assert module.classifier.classifier.bias.tolist() == [2.0, 2.0]


def test_the_same_seed_gives_the_same_weights(fitted, bundle, tmp_path) -> None:
    assert run_fit(bundle, tmp_path) == 0
    one, two = (load_file(f / "out/classifier/model.safetensors") for f in (fitted, tmp_path))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_pairs_and_random_initialisation_train_and_predict(bundle, tmp_path, capsys) -> None:
    options = ["--text_pair", "text2", "--random_init", "--epochs", "1"]
    assert run_fit(bundle, tmp_path, *options, pair=True) == 0
    printed = capsys.readouterr().out
    assert "random initialisation" in printed
    assert "% truncated" in printed
    assert "(majority)" in printed
    output = tmp_path / "predictions.jsonl"
    arguments = ["--model", str(tmp_path / "out" / "classifier"), "--output", str(output)]
    assert main(["predict", *arguments, "--input", str(tmp_path / "validation.csv")]) == 0
    assert len(output.read_text().splitlines()) == 60


def test_majority_guess_and_overlap_by_hand(bundle, tokenizer_json, tmp_path) -> None:
    from finetune.encoding import TextEncoder

    (tmp_path / "t.csv").write_text("text,label\ngood,b\nbad,b\nfine,a\n")
    (tmp_path / "v.csv").write_text("text,label\nGood ,b\nawful,a\npoor,a\nit,b\nwas,b\n")
    files = {name: str(tmp_path / f"{name[0]}.csv") for name in ("train", "validation")}
    config = FinetuneConfig(bundle=str(bundle), output="", **files)
    examples = read_split_files(config, TextEncoder(tokenizer_json, max_len=8))
    assert examples.labels == ("a", "b")
    assert examples.num_overlapping == 1
    majority, values = majority_metrics(examples)
    assert majority == "b"
    assert values["accuracy"] == pytest.approx(3 / 5)
    assert values["macro_f1"] == pytest.approx((0 + 2 * 3 / (2 * 3 + 2)) / 2)


def test_learning_rate_warms_up_and_falls_to_zero_by_hand() -> None:
    factors = [learning_rate_factor(s, warmup_steps=2, total_steps=6) for s in range(7)]
    assert factors == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]


def fails(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    assert main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def test_an_unknown_label_is_named_with_its_line(bundle, tmp_path, capsys) -> None:
    train = write_reviews(tmp_path / "train.csv", num_rows=8, seed=1)
    (tmp_path / "dev.csv").write_text("text,label\ngood,yes\nbad,maybe\n")
    files = ["--train", str(train), "--validation", str(tmp_path / "dev.csv")]
    arguments = ["fit", "--bundle", str(bundle), *files, "--output", str(tmp_path / "out")]
    message = fails(capsys, [*arguments, "--max_len", "16"])
    assert "dev.csv, line 3: label 'maybe' is in no training row" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max_len", "64"], "has 24 positions; give --max_len 24 or less"),
        (["--text", "review"], "line 2: no column 'review'"),
        (["--lr", "0"], "lr is 0.0; it must be > 0"),
        (["--epochs", "0"], "epochs is 0; it must be 1 or more"),
        (["--lr", "fast"], "lr"),
        (["--learning_rate", "1"], "learning_rate"),
        (["--bundle", "nowhere"], "nowhere"),
    ],
)
def test_a_wrong_option_is_one_line(bundle, tmp_path, capsys, options, message) -> None:
    train = str(write_reviews(tmp_path / "train.csv", num_rows=8, seed=1))
    arguments = ["fit", "--bundle", str(bundle), "--train", train, "--validation", train]
    arguments += ["--output", str(tmp_path / "out"), "--max_len", "16", *options]
    assert message in fails(capsys, arguments)


def test_missing_options_are_named(capsys) -> None:
    assert "bundle" in fails(capsys, ["fit"])
    assert "'guess'; the commands are fit, predict" in fails(capsys, ["guess"])


def test_an_earlier_fit_is_kept_unless_told_otherwise(fitted, bundle, capsys) -> None:
    before = (fitted / "out" / "metrics.jsonl").read_bytes()
    assert run_fit(bundle, fitted) == 2
    assert "holds an earlier fit" in capsys.readouterr().err
    assert run_fit(bundle, fitted, "--overwrite", "--max_len", "99") == 2
    assert (fitted / "out" / "metrics.jsonl").read_bytes() == before


def test_predict_names_a_missing_model_and_a_bad_row(fitted, tmp_path, capsys) -> None:
    (tmp_path / "new.csv").write_text("text\ngood\n \n")
    files = ["--input", str(tmp_path / "new.csv"), "--output", str(tmp_path / "p.jsonl")]
    assert "config.json: no such file" in fails(capsys, ["predict", "--model", "none", *files])
    model = str(fitted / "out" / "classifier")
    assert "line 3: 'text' is empty" in fails(capsys, ["predict", "--model", model, *files])
    assert [path.name for path in tmp_path.iterdir()] == ["new.csv"]


def test_diverged_training_is_an_error_and_leaves_no_classifier(bundle, tmp_path, capsys) -> None:
    assert run_fit(bundle, tmp_path, "--lr", "1e38", "--gradient_clip", "1e30") == 2
    assert "diverged" in capsys.readouterr().err
    assert not (tmp_path / "out" / "classifier").exists()


def test_yaml_and_options_combine_and_unknown_keys_are_errors(tmp_path, repository) -> None:
    path = repository / "configs" / "finetune" / "own_text.yaml"
    required = "--bundle b --train t.csv --validation v.csv --output o".split()
    options = ["--config", str(path), *required, "--random_init", "--epochs", "7"]
    config = parse_config(FinetuneConfig, options, command="fit")
    assert (config.random_init, config.epochs, config.bundle) == (True, 7, "b")
    (tmp_path / "wrong.yaml").write_text("epoch: 3\n")
    with pytest.raises(ValueError, match="epoch"):
        parse_config(
            FinetuneConfig, ["--config", str(tmp_path / "wrong.yaml"), *required], command="fit"
        )
