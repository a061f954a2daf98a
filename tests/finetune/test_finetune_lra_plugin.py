"""Encoders of somebody else in the place of ours."""

import dataclasses

import pytest
from finetune_runs import result_of
from lra_runs import run_fit, small_tasks

from finetune.lra.encoders import make_encoder, read_lra_encoder, sees_padding
from finetune.lra.tasks import LISTOPS

TASK = dataclasses.replace(LISTOPS, length=32)


def foreign(folder, class_path, arguments="{}"):
    path = folder / "lra_foreign.yaml"
    entry = f"{{class_path: {class_path}, init_args: {arguments}}}"
    path.write_text(f"model:\n  encoder: {entry}\n", encoding="utf-8")
    return path


def test_a_foreign_module_is_pretrained_and_trained(tmp_path, monkeypatch):
    small_tasks(monkeypatch)
    path = foreign(tmp_path, "foreign_encoders.Convolution", "{vocab_size: task, width: 3}")
    options = ("--model.encoder", str(path), "--allow_modules", "foreign_encoders")
    assert run_fit(tmp_path, "a", *options, "--model.self_pretrain_steps", "2") == 0
    encoder = result_of(tmp_path / "runs/a")["encoder"]
    assert encoder["kind"] == "foreign_encoders.Convolution"
    assert encoder["num_parameters"] > 32 * 3
    assert result_of(tmp_path / "runs/a")["settings"]["dropout_prob"] == "of its own"


def test_a_module_that_was_not_allowed_is_not_imported(tmp_path, monkeypatch, capsys):
    small_tasks(monkeypatch)
    path = foreign(tmp_path, "foreign_encoders.Convolution", "{vocab_size: task, width: 3}")
    assert run_fit(tmp_path, "a", "--model.encoder", str(path)) == 2
    assert "--allow_modules foreign_encoders" in capsys.readouterr().err


def test_the_width_is_found_and_padding_may_be_declared_cut(tmp_path):
    made = {}
    for name, arguments in (
        ("Convolution", "{vocab_size: task, width: 3}"),
        ("TokenByToken", "{num_embeddings: 32, embedding_dim: 5}"),
    ):
        file = read_lra_encoder(str(foreign(tmp_path, f"foreign_encoders.{name}", arguments)))
        made[name] = make_encoder(file, TASK, dropout_prob=None)
    assert [one.hidden_size for one in made.values()] == [6, 5]
    assert [sees_padding(one) for one in made.values()] == [True, False]


@pytest.mark.parametrize(("class_path", "arguments", "text"), [
    ("foreign_encoders.Pooled", "{}", r"Pooled: it returns \(2, 4\).*states"),
    ("foreign_encoders.Nobody", "{}", "cannot be imported"),
    ("foreign_encoders.Convolution", "{vocab_size: task}", "width"),
    ("foreign_encoders.OfIdsAlone", "{width: 3}", r"\(2, 32\), fails: TypeError: .*forward"),
    ("foreign_encoders.OfIdsAlone", "{width: 0}", "RuntimeError: no width of 0"),
    ("foreign_encoders.TokenByToken", "{num_embeddings: 31, embedding_dim: 5}",
     "ids up to 31 .* fails: IndexError: .*vocab_size: task"),
    ("pathlib.Path", "{}", "no torch.nn.Module"),
    ("ponet.PoNetConfig", "{hidden: 3}", "hidden"),
    ("ponet.PoNetConfig", "{projection: {window: 0}}", "hashes words"),
])  # fmt: skip
def test_what_is_no_encoder_is_refused(tmp_path, class_path, arguments, text):
    file = read_lra_encoder(str(foreign(tmp_path, class_path, arguments)))
    with pytest.raises(ValueError, match=text) as raised:
        make_encoder(file, TASK, dropout_prob=None)
    assert str(raised.value).startswith(f"{file.path}: ")


def test_dropout_is_set_in_ours_alone(tmp_path):
    arguments = "{hidden_size: 8, num_heads: 2, attention_dropout_prob: 0.1}"
    ours = read_lra_encoder(str(foreign(tmp_path, "ponet.BertConfig", arguments)))
    config = make_encoder(ours, TASK, dropout_prob=0.3)
    assert (config.dropout_prob, config.attention_dropout_prob) == (0.3, 0.3)
    assert (config.vocab_size, config.max_positions) == (TASK.vocab_size, 32)
    file = read_lra_encoder(str(foreign(tmp_path, "torch.nn.Identity")))
    with pytest.raises(ValueError, match="for encoders of ponet"):
        make_encoder(file, TASK, dropout_prob=0.3)
