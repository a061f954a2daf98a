"""Pretraining that begins with given weights."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pretrain_corpora import make_folder, random_documents, tiny_options, write_tokenizer
from pretrain_faults import Killed, assert_same_story, fault_options
from shard_files import write_shards
from tokenizers import Tokenizer

from data_prep.manifest import file_sha256
from data_prep.shards import TokenShards
from ponet import BertConfig, FNetConfig, PoNetConfig, PretrainingModel, load_bundle, save_bundle
from pretrain.cli import main
from pretrain.start import given_weights
from pretrain.takeover import take_over
from training.checkpoints.storage import load_checkpoint
from training.metrics_file import read_metrics, series

SIZES = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "ffn_size": 32, "max_positions": 32}


def bundle_of(folder: Path, shards: Path, *, seed: int = 7, pairs: int = 3, config=PoNetConfig):
    """A bundle of random weights with the tokenizer of some shards."""
    torch.manual_seed(seed)
    model = PretrainingModel(config(vocab_size=65, **SIZES), num_pair_classes=pairs)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    path = shards / "tokenizer.json"
    return save_bundle(folder, model, tokenizer_json=path, metadata={"steps": 5, "objective": "x"})


def without_encoder(options: list[str]) -> list[str]:
    place = options.index("--model.encoder")
    return [*options[:place], *options[place + 2 :]]


@pytest.fixture
def start(tiny_shards: Path, tmp_path: Path) -> Path:
    return bundle_of(tmp_path / "given", tiny_shards)


@pytest.fixture
def run(tiny_shards: Path, tmp_path: Path, start: Path) -> list[str]:
    """Options of a fit of four steps that begins with a bundle."""
    options = without_encoder(tiny_options(tiny_shards, tmp_path))
    return [*options, "--model.start_from", str(start)]


def values(folder: Path, name: str) -> list[tuple[int, float]]:
    return list(zip(*series(read_metrics(folder / "metrics.jsonl"), name), strict=True))


def bigger_shards(shards: Path, folder: Path, words: list[str]) -> Path:
    """The same documents, with a tokenizer that knows more words, in another order of ids."""
    content = json.loads((shards / "tokenizer.json").read_text())
    names = [*content["model"]["vocab"]]
    names = [*names[:5], *words, *names[5:]]
    content["model"]["vocab"] = {name: number for number, name in enumerate(names)}
    folder.mkdir()
    (folder / "made.json").write_text(json.dumps(content))
    splits = {}
    for split in ("train", "validation"):
        opened = TokenShards.open(shards, split)
        tokens, sentences = opened.tokens, opened.sentence_offsets
        splits[split] = [
            [
                [int(i) + len(words) * (i >= 5) for i in tokens[sentences[s] : sentences[s + 1]]]
                for s in range(first, last)
            ]
            for first, last in zip(
                opened.document_offsets, opened.document_offsets[1:], strict=False
            )
        ]
    write_shards(folder / "shards", splits, folder / "made.json")
    return folder / "shards"


def test_the_curve_begins_with_the_given_weights_and_the_lineage_is_kept(
    run: list[str], start: Path, tiny_shards: Path, tmp_path: Path, capsys
) -> None:
    assert main(["fit", *run, "--model.optimizer.lr", "1e-12"]) == 0
    folder = tmp_path / "tiny"
    curve = values(folder, "val/mlm_loss")
    assert [step for step, _ in curve] == [0, 2, 4]
    assert curve[0][1] == pytest.approx(curve[-1][1], abs=1e-5)
    assert main(["validate", "--ckpt_path", str(start), *run[:-2]]) == 0
    record = json.loads((folder / "evaluations.jsonl").read_text())
    assert record["metrics"]["val/mlm_loss"] == pytest.approx(curve[0][1], abs=1e-6)
    assert record["checkpoint"] == str(start)
    metadata = load_bundle(folder / "bundle").metadata
    assert metadata["started_from"]["source"] == str(start)
    assert metadata["started_from"]["metadata"]["steps"] == 5
    assert metadata["steps"] == 4
    assert "start_from" in (folder / "run_config.yaml").read_text()
    again = [*run, "--run.name", "next", "--model.start_from", str(folder)]
    assert main(["fit", *again]) == 0
    lineage = load_bundle(tmp_path / "next" / "bundle").metadata["started_from"]
    assert lineage["metadata"]["started_from"]["source"] == str(start)
    assert "the weights are those of" in capsys.readouterr().err


def test_a_branch_with_other_data_settings_is_told_how_to_begin_with_the_weights(
    tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = tiny_options(tiny_shards, tmp_path)
    assert main(["fit", *options, "--checkpoints.keep_every_n_steps", "2"]) == 0
    checkpoint = str(tmp_path / "tiny" / "checkpoints" / "step-00000002.ckpt")
    change = ["--data.masking.mask_prob", "0.3", "--run.name", "branch"]
    assert main(["fit", *options, *change, "--resume", checkpoint]) == 2
    said = capsys.readouterr().err
    assert "without --resume" in said and "--model.start_from CHECKPOINT" in said
    branch = [*without_encoder(options), *change, "--model.start_from", checkpoint]
    assert main(["fit", *branch, "--data.max_len", "48"]) == 0
    assert [step for step, _ in values(tmp_path / "branch", "train/lr")] == [1, 2, 3, 4]


@pytest.mark.parametrize(("hook", "step"), [("save", 0), ("train_batch_end", 3)])
def test_a_killed_run_goes_on_to_the_bit_without_the_weights_it_began_with(
    hook: str, step: int, run: list[str], start: Path, tmp_path: Path
) -> None:
    run = [*run, "--trainer.max_steps", "6", "--checkpoints.every_n_steps", "1"]
    assert main(["fit", *run, "--run.name", "twin"]) == 0
    with pytest.raises(Killed):
        main(["fit", *run, *fault_options(hook, step)])
    if hook != "save":
        shutil.rmtree(start)
    assert main(["fit", *run, *fault_options(hook, step)]) == 0
    assert_same_story(tmp_path / "tiny", tmp_path / "twin")
    checkpoint = load_checkpoint(tmp_path / "tiny" / "checkpoints" / "last.ckpt")
    assert checkpoint["ponet_run"]["started_from"]["source"] == str(start)


def test_a_run_that_is_stopped_before_its_first_step_begins_its_curve_anew(
    run: list[str], start: Path, tmp_path: Path
) -> None:
    assert main(["fit", *run, "--run.name", "twin"]) == 0
    stopped = [*run, *fault_options("train_start", 0, kind="SIGTERM")]
    assert main(["fit", *stopped]) == 75
    shutil.rmtree(start)
    assert main(["fit", *stopped]) == 0
    assert_same_story(tmp_path / "tiny", tmp_path / "twin")


def test_a_run_does_not_go_on_with_other_weights_to_begin_with(
    run: list[str], tmp_path: Path, tiny_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *run]) == 0
    other = bundle_of(tmp_path / "other", tiny_shards, seed=8)
    assert main(["fit", *run, "--model.start_from", str(other)]) == 2
    assert "start_from" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "objective", "kept"),
    [(PoNetConfig, "mlm", 0), (BertConfig, "mlm_nsp", 0), (FNetConfig, "mlm_sso", 1)],
)
def test_heads_that_fit_are_taken_over_and_others_are_named(
    config, objective: str, kept: int, run: list[str], tmp_path: Path, tiny_shards: Path, capsys
) -> None:
    start = bundle_of(tmp_path / "kind", tiny_shards, config=config)
    run = [*run, "--model.start_from", str(start), "--model.objective", objective]
    assert main(["fit", *run, "--model.optimizer.lr", "1e-12"]) == 0
    before = load_bundle(start).model.state_dict()
    after = load_bundle(tmp_path / "tiny" / "bundle").model.state_dict()
    shared = before.keys() & after.keys()
    same = {name for name in shared if before[name].shape == after[name].shape}
    close = [torch.allclose(before[name], after[name], atol=1e-6) for name in same]
    assert all(close) and "mlm_head.dense.weight" in same
    assert ("pair_head.weight" in same) == bool(kept)
    said = capsys.readouterr().err
    assert ("fresh values: pair_head" in said) == (objective == "mlm_nsp")
    assert ("left out: pair_head, pooler" in said) == (objective == "mlm")


@pytest.mark.parametrize("method", ["tile", "interpolate"])
def test_positions_grow_for_longer_sequences(
    method: str, run: list[str], start: Path, tmp_path: Path
) -> None:
    options = ["--data.max_len", "80", "--model.new_positions", method]
    assert main(["fit", *run, *options, "--model.optimizer.lr", "1e-12"]) == 0
    before = load_bundle(start).model.encoder.embeddings.position.weight
    after = load_bundle(tmp_path / "tiny" / "bundle").model.encoder.embeddings.position.weight
    assert len(after) == 80
    assert torch.allclose(after[0], before[0], atol=1e-6)
    row = 79 if method == "interpolate" else 63
    assert torch.allclose(after[row], before[31], atol=1e-6)


@pytest.mark.parametrize("new_words", ["pieces", "normal"])
def test_rows_follow_their_words_and_new_words_begin_as_the_mean_of_their_pieces(
    new_words: str, run: list[str], start: Path, tiny_shards: Path, tmp_path: Path, capsys
) -> None:
    words = ["w1##c0".replace("##", ""), "zzz"]
    shards = bigger_shards(tiny_shards, tmp_path / "more", words)
    options = ["--data.folder", str(shards), "--model.new_words", new_words]
    assert main(["fit", *run, *options, "--model.optimizer.lr", "1e-12"]) == 0
    before = load_bundle(start).model.encoder.embeddings.word.weight
    after = load_bundle(tmp_path / "tiny" / "bundle").model.encoder.embeddings.word.weight
    assert len(after) == 67
    assert torch.allclose(after[:5], before[:5], atol=1e-6)
    assert torch.allclose(after[7:], before[5:], atol=1e-6)
    content = json.loads((tiny_shards / "tokenizer.json").read_text())["model"]["vocab"]
    mean = before[[content["w1"], content["##c0"]]].mean(0)
    assert torch.allclose(after[5], mean, atol=1e-6) == (new_words == "pieces")
    assert after[6].abs().max() < 0.15  # no piece of it is known: a fresh row
    assert "2 new words" in capsys.readouterr().err


def test_a_new_token_that_stands_beside_the_vocabulary_is_named_too(
    start: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    weights, path = given_weights(str(start)), tmp_path / "more.json"
    tokenizer = Tokenizer.from_file(str(tiny_shards / "tokenizer.json"))
    tokenizer.add_tokens(["w1 w2"])
    tokenizer.save(str(path))
    config = replace(weights.model.config, vocab_size=weights.model.config.vocab_size + 1)
    assert take_over(PretrainingModel(config), weights, path).new[0].endswith("w1 w2")


def test_a_run_without_a_bundle_is_begun_with_at_its_newest_checkpoint(
    run: list[str], tiny_run: list[str], tmp_path: Path
) -> None:
    assert main(["fit", *tiny_run, "--run.name", "first"]) == 0
    shutil.rmtree(tmp_path / "first" / "bundle")
    for source in ("first", "first/checkpoints/best.ckpt"):
        name = source.replace("/", "-")
        options = [*run, "--model.start_from", str(tmp_path / source), "--run.name", name + "-2"]
        assert main(["fit", *options]) == 0
    first = values(tmp_path / "first", "val/mlm_loss")[-1][1]
    assert values(tmp_path / "first-2", "val/mlm_loss")[0][1] == pytest.approx(first, abs=1e-6)


def mistake(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    return capsys.readouterr().err


def test_what_does_not_fit_is_named_before_anything_is_written(
    run: list[str], tiny_run: list[str], start: Path, tmp_path: Path, capsys
) -> None:
    said = mistake(["fit", *without_encoder(tiny_run)], capsys)
    assert "--model.start_from" in said and "--model.encoder" in said
    both = [*tiny_run, "--model.start_from", str(start), "--model.encoder.hidden_size", "32"]
    said = mistake(["fit", *both], capsys)
    assert "hidden_size: 32 given, 16 in the weights" in said
    both[-2:] = ["--model.encoder.vocab_size", "400"]
    assert "vocab_size: 400 given, 65 needed" in mistake(["fit", *both], capsys)
    other = make_folder(tmp_path / "other", random_documents(9, vocab_size=60), vocab_size=64)
    said = mistake(["fit", *run, "--data.folder", str(other)], capsys)
    assert "pieces of the weights are missing" in said
    assert f"--tokenizer.path {start / 'tokenizer.json'}" in said
    said = mistake(["fit", *run, "--data.folder", str(tmp_path)], capsys)
    assert "no token shards" in said and "data_prep build" in said
    (start / "tokenizer.json").unlink()
    assert "has no tokenizer.json" in mistake(["fit", *run], capsys)
    assert "does not exist" in mistake(["fit", *run, "--model.start_from", "./none"], capsys)
    assert not (tmp_path / "tiny" / "metrics.jsonl").exists()


def test_a_checkpoint_of_another_program_is_refused_by_its_name(
    tiny_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.ckpt"
    torch.save({"state_dict": {}}, path)
    (tmp_path / "other.ckpt.sha256").write_text(f"{file_sha256(path)}  other.ckpt\n")
    options = ["--ckpt_path", str(path)]
    said = mistake(["validate", *without_encoder(tiny_run), *options], capsys)
    assert "other.ckpt is no checkpoint of `pretrain fit`" in said


def test_an_encoder_that_is_given_as_well_decides_dropout(
    tiny_run: list[str], start: Path, tmp_path: Path
) -> None:
    options = [*tiny_run, "--model.start_from", str(start), "--model.encoder.dropout_prob", "0.0"]
    assert main(["fit", *options]) == 0
    assert load_bundle(tmp_path / "tiny" / "bundle").model.config.dropout_prob == 0.0


def test_an_evaluation_never_scores_fresh_values(
    tiny_shards: Path, tmp_path: Path, run: list[str], capsys
) -> None:
    plain = bundle_of(tmp_path / "plain", tiny_shards, pairs=0)
    arguments = ["validate", "--ckpt_path", str(plain), *run[:-2]]
    assert "fresh values: pair_head, pooler" in mistake(arguments, capsys)
    assert main([*arguments, "--model.objective", "mlm"]) == 0


def test_a_run_is_evaluated_without_naming_its_encoder(tiny_run: list[str]) -> None:
    assert main(["fit", *tiny_run]) == 0
    assert main(["validate", *without_encoder(tiny_run)]) == 0


def test_a_bert_in_the_layout_of_transformers_is_begun_with(
    run: list[str], tmp_path: Path, tiny_shards: Path
) -> None:
    from ponet.hub.huggingface import SpecialTokens, export_huggingface

    start = bundle_of(tmp_path / "bert", tiny_shards, pairs=2, config=BertConfig)
    folder = tmp_path / "foreign"
    tokens = SpecialTokens(cls_token_id=2, sep_token_id=3)
    path = write_tokenizer(tmp_path / "made.json", vocab_size=65, num_continuations=6)
    model = load_bundle(start).model
    export_huggingface(model, folder, special_tokens=tokens, tokenizer_path=path)
    run = [*run, "--model.objective", "mlm_nsp"]
    for name, source in (("ours", start), ("theirs", folder)):
        assert main(["fit", *run, "--run.name", name, "--model.start_from", str(source)]) == 0
    assert values(tmp_path / "ours", "val/loss") == values(tmp_path / "theirs", "val/loss")


def test_an_encoder_of_hashed_words_keeps_its_output_rows_by_their_words(
    tiny_shards: Path, tmp_path: Path
) -> None:
    projection = {"kind": "spelling", "feature_size": 64, "num_hashes": 1}
    sizes = {**SIZES, "vocab_size": 65, "projection": projection}
    encoder = json.dumps({"class_path": "ponet.PoNetConfig", "init_args": sizes})
    options = without_encoder(tiny_options(tiny_shards, tmp_path))
    assert main(["fit", *options, "--model.encoder", encoder, "--run.name", "first"]) == 0
    shards = bigger_shards(tiny_shards, tmp_path / "more", ["zzz"])
    options += ["--model.start_from", str(tmp_path / "first"), "--data.folder", str(shards)]
    assert main(["fit", *options, "--model.optimizer.lr", "1e-12"]) == 0
    before, after = (load_bundle(tmp_path / name).model.state_dict() for name in ("first", "tiny"))
    rows = torch.tensor([*range(5), *range(6, 66)])
    assert torch.allclose(after["mlm_head.weight"][rows], before["mlm_head.weight"], atol=1e-6)
    assert torch.allclose(after["mlm_head.bias"][rows], before["mlm_head.bias"], atol=1e-6)
    name = "encoder.embeddings.word.weight"
    assert torch.allclose(after[name], before[name], atol=1e-6)


def test_an_fnet_begins_with_the_sentencepiece_tokenizer_of_the_released_one(
    tiny_run: list[str], tiny_shards: Path, tmp_path: Path
) -> None:
    special = ["<unk>", "<pad>", "[CLS]", "[SEP]", "[MASK]"]
    words = [f"\u2581w{number}" for number in range(50)]
    vocab = [[piece, 0.0] for piece in (*special, *words, *"0123456789")]
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    content = json.loads((tiny_shards / "tokenizer.json").read_text())
    content["model"] = {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": False}
    content["pre_tokenizer"] = {"type": "Metaspace", "replacement": "\u2581",
                                "prepend_scheme": "always", "split": True}  # fmt: skip
    content["added_tokens"] = [
        {"id": number, "content": name, "special": True, **plain}
        for number, name in enumerate(special)
    ]
    (tmp_path / "unigram.json").write_text(json.dumps(content))
    documents = [[[5 + (d + s) % 50, 55 + s, 6] for s in range(8)] for d in range(24)]
    splits = {"train": documents, "validation": documents[:9]}
    write_shards(tmp_path / "pieces", splits, tmp_path / "unigram.json")
    shards = TokenShards.open(tmp_path / "pieces", "train")
    assert np.flatnonzero(shards.is_continuation).tolist() == [*range(55, 65)]
    start = bundle_of(tmp_path / "given", tmp_path / "pieces", config=FNetConfig)
    options = without_encoder(tiny_run)
    options[options.index("--data.folder") + 1] = str(tmp_path / "pieces")
    begin = ["--model.start_from", str(start), "--data.masking.whole_word", "true"]
    assert main(["fit", *options, *begin, "--model.optimizer.lr", "1e-12"]) == 0
    curve = values(tmp_path / "tiny", "val/mlm_loss")
    assert curve[0][1] == pytest.approx(curve[-1][1], abs=1e-5)
    assert load_bundle(tmp_path / "tiny" / "bundle").metadata["started_from"]["source"]
    other = [*without_encoder(tiny_run), *begin[:2], "--run.name", "other"]
    assert main(["fit", *other]) == 2
