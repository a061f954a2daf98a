"""Sentences of texts that are not English: by the rules of the language of the pretraining."""

import csv
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from finetune_runs import fit_arguments, result_of, write_bundle, write_reviews
from finetune_sentences import document_options, fit_documents

from finetune.artifact import load_classifier
from finetune.cli import main
from finetune.data.datamodule import TaskDataModule
from finetune.data.encoding import sentence_starts
from finetune.encoder_file import language_of
from finetune.grid import Grid, expand
from finetune.predict import Predictor
from finetune.sentences.files import read_documents
from finetune.tasks.spec import Row

ABBREVIATED = "it was bzw. Good film."
"""One sentence in German, which knows the abbreviation; two in English."""


@pytest.fixture(scope="module")
def german(tmp_path_factory: pytest.TempPathFactory, tokenizer_json: Path) -> Path:
    """A bundle whose pretraining cut sentences by the rules of German."""
    folder = tmp_path_factory.mktemp("german") / "bundle"
    return write_bundle(folder, tokenizer_json, metadata={"language": "de"})


def num_segments(encoder, text: str) -> int:
    (encoded,) = encoder.encode([Row(1, "1", text, "", None)], "texts")
    return int(encoder.batch([encoded]).segment_ids.max()) + 1


def test_a_language_has_its_own_sentences() -> None:
    assert sentence_starts(ABBREVIATED) == [0, 12] and sentence_starts(
        ABBREVIATED, language="de"
    ) == [0]
    assert sentence_starts("Das ist z. B. Anna.", language="de") == [0]


@pytest.mark.parametrize(
    ("options", "language"), [((), "de"), (("--data.language", "en"), "en")], ids=["its own", "en"]
)
def test_own_texts_are_cut_as_those_of_the_pretraining(
    options: tuple[str, ...], language: str, german: Path, tmp_path: Path, capsys
):
    segments = ("--data.segments", "sentences")
    assert main(fit_arguments(german, tmp_path, "run", *segments, *options)) == 0
    said = "sentences" if language == "en" else "sentences (de)"
    assert result_of(tmp_path / "run")["settings"]["segments"] == said
    assert f"segments: {said}\n" in capsys.readouterr().out
    classifier = load_classifier(tmp_path / "run")
    assert classifier.info.language == language
    assert num_segments(classifier.encoder, ABBREVIATED) == 2 + len(
        sentence_starts(ABBREVIATED, language=language)
    )
    assert language_of(tmp_path / "run" / "classifier") == language
    assert main(["validate", "--run.root", str(tmp_path), "--run.name", "run"]) == 0
    (record,) = (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()
    scores = result_of(tmp_path / "run")["evaluation"]["validation"]
    assert json.loads(record)["evaluation"]["validation"] == scores


def test_the_linear_model_of_a_grid_cuts_own_texts_as_its_encoders_do(german: Path):
    def data_of_baseline(task: str, *encoders: str, **data: str) -> Mapping[str, Any]:
        given = Grid(tasks=(task,), encoders=encoders, lrs=(1e-3,), fit={"data": data},
                     baseline=True)  # fmt: skip
        (trial,) = (trial for trial in expand(given, {}) if "baseline" in trial.command)
        return trial.settings["data"]

    own, other = f"random:{german}", "configs/encoder/ponet_nano.yaml"
    assert data_of_baseline("own", own)["language"] == "de"
    assert data_of_baseline("own", own, language="fr")["language"] == "fr"
    for data in (data_of_baseline("own", own, other), data_of_baseline("cola", own)):
        assert "language" not in data


def test_tasks_by_name_are_english_and_a_code_must_exist(german: Path, tmp_path: Path):
    (tmp_path / "dev.tsv").write_text(
        f"index\tsentence1\tsentence2\tlabel\n0\t{ABBREVIATED}\tit was\tentailment\n"
    )
    options = {"folder": str(tmp_path), "encoder": str(german), "segments": "sentences"}
    named = TaskDataModule(task="rte", **options)
    named.setup("validate")
    assert named.text_encoder.language == "en" and named.segment_rule == "sentences"
    with pytest.raises(ValueError, match="no use for data.language"):
        TaskDataModule(task="rte", language="de", **options)
    reviews = str(write_reviews(tmp_path / "v.csv", num_rows=8, seed=0))
    own = TaskDataModule(train=reviews, validation=reviews, encoder=str(german), language="dt")
    with pytest.raises(ValueError, match="'dt', which is no language code"):
        own.setup("fit")


def test_documents_are_cut_alike_in_training_and_in_new_texts(
    german: Path, tmp_path: Path, tokenizer_json: Path
):
    (tmp_path / "sections.json").write_text(
        json.dumps(
            [
                {
                    "text": ABBREVIATED,
                    "annotations": [{"begin": 0, "length": 22, "sectionLabel": "a"}],
                }
            ]
        )
    )
    for language, wanted in (("en", 2), ("de", 1)):
        repairs: Counter[str] = Counter()
        (text,) = read_documents(tmp_path / "sections.json", "sections", repairs, language=language)
        assert len(text.words) == wanted
    document_options(tmp_path, num_rows=20)
    short = ("--trainer.max_epochs", "1", "--data.language", "de")
    assert fit_documents(tmp_path, tokenizer_json, "ponet", *short) == 0
    (answer,) = Predictor(load_classifier(tmp_path / "ponet"))([ABBREVIATED])
    assert answer["sentences"] == [ABBREVIATED]
    with (tmp_path / "new.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["text"], [ABBREVIATED]])
    files = ("--input", str(tmp_path / "new.csv"), "--output", str(tmp_path / "found.jsonl"))
    assert main(["predict", "--model", str(tmp_path / "ponet"), *files]) == 0
    assert json.loads((tmp_path / "found.jsonl").read_text())["sentences"] == [ABBREVIATED]
