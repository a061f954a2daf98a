"""Heads for questions on a text and for multiple choice: transformers' conventions, its Trainer."""

import pytest
import torch
from ponet_hub_models import make_export
from torch.nn import functional as F

transformers = pytest.importorskip("transformers")

from ponet.hub import PoNetForMultipleChoice, PoNetForQuestionAnswering  # noqa: E402 (may be missing)
from ponet.hub.huggingface import SpecialTokens, probe_batch  # noqa: E402

TOKENS = SpecialTokens(cls_token_id=2, sep_token_id=3)


@pytest.fixture
def folder(tmp_path):
    return make_export(tmp_path)[0]


def inputs_of(model, shape):
    batch = probe_batch(model.config.to_native(), TOKENS, shape=shape)
    return {
        "input_ids": batch.input_ids,
        "attention_mask": batch.mask.long(),
        "token_type_ids": batch.token_type_ids,
    }


def reader(folder):
    torch.manual_seed(0)
    return transformers.AutoModelForQuestionAnswering.from_pretrained(folder).eval()


def test_a_reader_scores_every_token_of_the_encoder(folder):
    model = reader(folder)
    assert isinstance(model, PoNetForQuestionAnswering)
    inputs = inputs_of(model, (3, 20))
    output = model(**inputs, output_hidden_states=True)
    assert output.loss is None and len(output.hidden_states) == 3
    both = model.qa_outputs(output.hidden_states[-1])
    assert torch.equal(output.start_logits, both[..., 0])
    assert torch.equal(output.end_logits, both[..., 1])
    as_tuple = model(**inputs, return_dict=False)
    assert torch.equal(as_tuple[0], output.start_logits) and len(as_tuple) == 2


def test_the_loss_of_a_reader_is_that_of_transformers_bert(folder):
    model = reader(folder)
    inputs = inputs_of(model, (3, 20))
    starts, ends = torch.tensor([-1, 4, 7]), torch.tensor([3, 4, 20])  # 20: the answer was cut off
    output = model(**inputs, start_positions=starts, end_positions=ends)
    start = F.cross_entropy(output.start_logits, starts.clamp(min=0))
    end = F.cross_entropy(output.end_logits[:2], ends[:2])
    torch.testing.assert_close(output.loss, (start + end) / 2)
    column = model(**inputs, start_positions=starts[:, None], end_positions=ends[:, None]).loss
    assert torch.equal(column, output.loss)
    assert model(**inputs, start_positions=starts).loss is None

    config = transformers.BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16,
    )  # fmt: skip
    bert = transformers.BertForQuestionAnswering(config).eval()
    theirs = bert(**inputs, start_positions=starts, end_positions=ends)
    start = F.cross_entropy(theirs.start_logits, starts.clamp(min=0))
    end = F.cross_entropy(theirs.end_logits[:2], ends[:2])
    torch.testing.assert_close(theirs.loss, (start + end) / 2)


def test_answers_beyond_all_texts_leave_a_loss_of_zero(folder):
    model = reader(folder)
    nowhere = torch.tensor([20, 21])
    output = model(**inputs_of(model, (2, 20)), start_positions=nowhere, end_positions=nowhere)
    output.loss.backward()
    assert output.loss == 0
    assert not model.qa_outputs.weight.grad.any()


def test_a_chooser_scores_each_choice_by_itself(folder):
    torch.manual_seed(0)
    model = transformers.AutoModelForMultipleChoice.from_pretrained(folder).eval()
    assert isinstance(model, PoNetForMultipleChoice)
    flat = inputs_of(model, (6, 20))
    inputs = {name: value.view(2, 3, 20) for name, value in flat.items()}
    labels = torch.tensor([2, 0])
    output = model(**inputs, labels=labels, output_hidden_states=True)
    scores = model.classifier(model.ponet(**flat).pooler_output)
    torch.testing.assert_close(output.logits, scores.view(2, 3))
    torch.testing.assert_close(output.loss, F.cross_entropy(scores.view(2, 3), labels))
    assert output.hidden_states[0].shape == (6, 20, 16)
    assert model(**inputs, return_dict=False)[0].shape == (2, 3)
    alone = model(inputs["input_ids"][:1, :1]).logits
    assert alone.shape == (1, 1)


def test_the_trainer_teaches_a_reader_and_its_checkpoint_loads(folder, tmp_path):
    pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = ["the old dog sleeps .", "rain falls on the town .", "a dog sleeps", "rain falls"]
    rows = []
    for text in texts:
        row = tokenizer("the dog", text, padding="max_length", max_length=16)
        rows.append({**row, "start_positions": 4, "end_positions": 5})
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(
        folder, hidden_dropout_prob=0.0
    )
    settings = transformers.TrainingArguments(
        output_dir=str(tmp_path / "out"), max_steps=60, per_device_train_batch_size=4,
        learning_rate=5e-3, lr_scheduler_type="constant", report_to=[], use_cpu=True,
        save_steps=60, disable_tqdm=True,
    )  # fmt: skip
    trainer = transformers.Trainer(model, settings, train_dataset=rows, eval_dataset=rows)
    before = trainer.evaluate()["eval_loss"]  # there only if the Trainer knows the labels' names
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before / 2
    starts, ends = trainer.predict(rows).predictions
    assert (starts.argmax(-1) == 4).all() and (ends.argmax(-1) == 5).all()
    again = transformers.AutoModelForQuestionAnswering.from_pretrained(
        tmp_path / "out" / "checkpoint-60"
    )
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
