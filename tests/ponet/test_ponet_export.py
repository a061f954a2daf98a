"""`python -m ponet export`: options, the model card, the upload."""

import json

import pytest
import yaml
from ponet_hub_models import make_bundle, make_model

from ponet import load_bundle, save_bundle

pytest.importorskip("transformers")

from ponet.hub import export  # noqa: E402 (transformers may be missing)
from ponet.hub.card import model_card  # noqa: E402
from ponet.hub.configuration_ponet import OLDEST_TRANSFORMERS  # noqa: E402
from ponet.hub.export import run_export  # noqa: E402
from ponet.hub.reading import pretraining_texts  # noqa: E402


@pytest.fixture
def bundle(tmp_path):
    make_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run_config.yaml").write_text(
        "seed_everything: 42\n"
        "trainer: {max_steps: 100, max_epochs: null, precision: 32-true}\n"
        "model: {objective: mlm_sso, optimizer: {lr: 0.0006, warmup_steps: 20}}\n"
        "data: {max_len: 32, global_batch_size: 8, masking: {mask_prob: 0.15}}\n"
    )
    rows = [{"step": step, "val/mlm_loss": 9 - step / 100} for step in range(0, 101, 10)]
    lines = [json.dumps(row) for row in [{"step": 1, "train/loss": 9.9}, *rows]]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 101, "val/ml')
    return folder


@pytest.fixture
def manifest(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    sources = [
        {"kind": "local", "files": [{"name": "a.jsonl", "size": 1500, "sha256": "0"}]},
        {"kind": "hub", "id": "some/texts", "revision": "abc", "licence": "cc-by-4.0",
         "date": "2023-11-01"},
    ]  # fmt: skip
    values = {"sources": sources, "splits": {"train": {"documents": 1200}}, "digest": "d1"}
    (folder / "manifest.json").write_text(json.dumps(values))
    return folder


@pytest.fixture
def table(tmp_path):
    row = {"task": "cola", "title": "CoLA", "split": "validation", "metrics": ["matthews"],
           "n": 3, "mean": 0.2, "low": 0.1, "high": 0.3, "minimum": 0.15, "maximum": 0.25,
           "scores": [0.15, 0.2, 0.25]}  # fmt: skip
    values = {"results": [{**row, "encoder": name, "mean": mean}
                          for name, mean in (("ours", 0.2), ("theirs", 0.9))]}  # fmt: skip
    path = tmp_path / "table.json"
    path.write_text(json.dumps(values))
    return path


def card_of(bundle, **sources):
    loaded = load_bundle(bundle)
    return model_card(loaded.model, loaded.metadata, name="A name", has_tokenizer=True, **sources)


def test_a_card_says_what_is_unknown(bundle):
    card = card_of(bundle)
    for part in ("Texts, their dates and their licences are", "Recipe and seed are",
                 "Validation values are", "Scores after fine-tuning are"):  # fmt: skip
        assert f"{part} unknown" in card
    assert "# A name" in card
    assert "| objective | mlm_sso |" in card
    assert "license:" not in card
    assert "2110.02442" in card


def test_a_card_says_what_the_files_say(bundle, run, manifest, table, tmp_path):
    notes = tmp_path / "notes.md"
    notes.write_text("Written in 2024 for *tests*.")
    card = card_of(bundle, run=run, manifest=manifest, results=table, results_encoder="ours",
                   notes=notes, licence="apache-2.0", language="en")  # fmt: skip
    header = yaml.safe_load(card.split("---")[1])
    assert header == {"library_name": "transformers", "pipeline_tag": "fill-mask",
                      "tags": ["ponet"], "license": "apache-2.0", "language": "en"}  # fmt: skip
    assert "| local | 1 files, 1,500 bytes (a.jsonl) | unknown | unknown |" in card
    assert "| hub | id some/texts; revision abc | 2023-11-01 | cc-by-4.0 |" in card
    assert "- train: 1,200 documents" in card
    assert "| seed | 42 |" in card
    assert "| optimiser | lr 0.0006, warmup_steps 20 |" in card
    assert "| planned epochs | unknown |" in card
    assert "| steps trained | 7 |" in card
    assert "| 0 | 9 |\n| 20 | 8.8 |" in card
    assert "| 100 | 8 |" in card
    assert "6 of 11 validations" in card
    assert "| CoLA | validation | matthews | 3 | 0.2 | 0.1 to 0.3 | 0.0500 | 0.15 to 0.25 |" in card
    assert "0.9" not in card.split("## Results")[1].split("## Limits")[0]
    assert "Written in 2024 for *tests*." in card


def test_a_card_says_how_long_the_texts_of_pretraining_were(bundle):
    model = load_bundle(bundle).model
    longest = model.config.max_positions

    def limits(max_len):
        card = model_card(model, {"max_len": max_len}, name="A name", has_tokenizer=True)
        return card.split("## Limits")[1]

    assert f"Inputs end at {longest} tokens. Pretraining saw {longest - 1}:" in limits(longest - 1)
    assert "Pretraining saw" not in limits(longest) + limits(None)


def test_notes_and_card_of_a_bundle_say_that_its_segments_are_not_known_to_a_plain_call(
    tmp_path, capsys
):
    make_bundle(tmp_path / "plain")
    loaded = load_bundle(tmp_path / "plain")
    rules = {"text": "separators", "fixed": "every 8 tokens", "": "sentences"}
    for rule, called in rules.items():
        known = {"segments": {"rule": rule, "tokens_per_segment": 8}} if rule else {}
        texts = pretraining_texts(loaded.model.config, {**known, "language": "de"})
        assert texts == {"max_len": 32, "segments": called, "language": "de"}
        save_bundle(tmp_path / f"b_{rule}", loaded.model, tokenizer_json=loaded.tokenizer_path,
                    metadata=known)  # fmt: skip
        folder = tmp_path / f"hf_{rule}"
        run_export(
            [str(tmp_path / f"b_{rule}"), "--format", "huggingface", "--output", str(folder)]
        )
        line = f"it was trained with {called} as pooling segments; give their numbers"
        card, printed = (folder / "README.md").read_text(), capsys.readouterr().out
        for shown in (f"- {line}" in card, f"note: {line}" in printed):
            assert shown is (rule != "text")  # which a plain call finds
    assert pretraining_texts(make_model("bert").config, {}) == {"max_len": 32}


def test_card_files_that_do_not_fit_are_named(bundle, run, table, tmp_path):
    with pytest.raises(ValueError, match="--results-encoder '' given; .* has ours, theirs"):
        card_of(bundle, results=table)
    with pytest.raises(ValueError, match="run_config.yaml: no such file"):
        card_of(bundle, run=tmp_path)
    (run / "metrics.jsonl").write_text("{\n{}\n")
    with pytest.raises(ValueError, match="metrics.jsonl, line 1"):
        card_of(bundle, run=run)
    table.write_text("{}")
    with pytest.raises(ValueError, match="has no 'results'"):
        card_of(bundle, results=table)


def test_the_command_writes_a_folder_with_its_card(bundle, tmp_path, run, capsys):
    run_export([str(bundle), "--format", "huggingface", "--output", str(tmp_path / "out"),
                "--run", str(run), "--name", "Small"])  # fmt: skip
    assert "outputs within 0.0e+00 of the bundle" in capsys.readouterr().out
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json",
            "modeling_ponet.py"} <= files  # fmt: skip
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# Small" in card and f"transformers {OLDEST_TRANSFORMERS} or newer" in card
    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"  # known before version 5 too


def test_a_run_is_taken_for_its_bundle_and_says_how_it_was_trained(bundle, run, tmp_path):
    bundle.rename(run / "bundle")
    run_export([str(run), "--format", "huggingface", "--output", str(tmp_path / "o")])
    card = (tmp_path / "o" / "README.md").read_text()
    assert "Recipe and seed are unknown" not in card and "Validation values are" not in card
    assert (tmp_path / "o" / "model.safetensors").stat().st_mode & 0o444 == 0o444


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "onnx", "--licence", "mit"], "--licence would do nothing"),
        (["--format", "huggingface", "--segment-input"], "needs --format onnx"),
        (["--format", "huggingface", "--public"], "needs --push"),
        (["--format", "huggingface", "--results-encoder", "x"], "needs --results"),
        (["--format", "onnx", "--time", "-1"], "--time -1 given"),
        (["--format", "huggingface", "--separator-ids", "1", "2"], "leave it out"),
    ],
)
def test_options_without_effect_are_refused(bundle, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        run_export([str(bundle), "--output", str(tmp_path / "out"), *arguments])
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_left_as_it_is(bundle, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="out holds something"):
        run_export([str(bundle), "--format", "huggingface", "--output", str(tmp_path / "out")])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_a_bundle_without_tokenizer_needs_its_separators(tmp_path):
    save_bundle(tmp_path / "bare", make_model(), tokenizer_json=None)
    arguments = [str(tmp_path / "bare"), "--format", "huggingface", "--output"]
    with pytest.raises(ValueError, match="--separator-ids CLS SEP"):
        run_export([*arguments, str(tmp_path / "out")])
    run_export([*arguments, str(tmp_path / "out"), "--separator-ids", "2", "3"])
    assert not (tmp_path / "out" / "tokenizer.json").exists()
    assert "No tokenizer came with the bundle" in (tmp_path / "out" / "README.md").read_text()


def test_an_upload_is_private_unless_asked_otherwise(bundle, tmp_path, monkeypatch, capsys):
    import huggingface_hub

    calls = []

    class Api:
        def create_repo(self, repo, **options):
            calls.append((repo, options))

        def upload_folder(self, **options):
            calls.append(options)
            return "https://hub/commit/1"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    for name, public in (("a", []), ("b", ["--public"])):
        run_export([str(bundle), "--format", "huggingface", "--output", str(tmp_path / name),
                    "--push", "me/model", *public])  # fmt: skip
    assert calls[0] == ("me/model", {"private": True, "exist_ok": True})
    assert calls[1] == {"repo_id": "me/model", "folder_path": str(tmp_path / "a")}
    assert calls[2][1]["private"] is False
    assert "https://hub/commit/1" in capsys.readouterr().out


def test_the_command_has_help_for_every_option(capsys):
    with pytest.raises(SystemExit):
        run_export(["--help"])
    shown = capsys.readouterr().out
    for action in export._parser()._actions:
        assert action.help
        assert not action.option_strings or action.option_strings[-1] in shown
