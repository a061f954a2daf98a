"""The twins inside other people's training loops: the Trainer and sentence-transformers."""

import pytest
import torch
from ponet_hub_models import make_export

transformers = pytest.importorskip("transformers")

from ponet.hub.huggingface import (  # noqa: E402 (transformers may be missing)
    SpecialTokens,
    probe_batch,
)

TOKENS = SpecialTokens(cls_token_id=2, sep_token_id=3)


@pytest.fixture
def folder(tmp_path):
    return make_export(tmp_path)[0]


def test_the_trainer_lowers_the_loss_and_its_checkpoint_loads(folder, tmp_path):
    pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = ["the old dog sleeps .", "rain falls on the town .", "a dog sleeps", "rain falls"]
    rows = [{**tokenizer(text), "labels": index % 2} for index, text in enumerate(texts)]
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=2, classifier_dropout=0.0, hidden_dropout_prob=0.0
    )
    settings = transformers.TrainingArguments(
        output_dir=str(tmp_path / "out"), max_steps=6, per_device_train_batch_size=4,
        learning_rate=5e-3, lr_scheduler_type="constant", logging_steps=1, report_to=[],
        use_cpu=True, save_steps=6, gradient_checkpointing=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model=classifier, args=settings, train_dataset=rows, eval_dataset=rows,
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
    )  # fmt: skip
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    assert trainer.evaluate()["eval_loss"] < losses[0]
    again = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "out" / "checkpoint-6"
    )
    for name, value in classifier.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_sentence_transformers_takes_it_as_a_backbone(folder):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    encoder = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    texts = ["the old dog sleeps .", "rain"]
    vectors = torch.from_numpy(encoder.encode(texts))
    body = transformers.AutoModel.from_pretrained(folder).eval()
    inputs = transformers.AutoTokenizer.from_pretrained(folder)(
        texts, padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        x = body(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    torch.testing.assert_close(vectors, (x * mask).sum(1) / mask.sum(1), atol=1e-5, rtol=1e-5)


def test_a_step_of_training_moves_every_weight_but_those_unused(folder):
    twin = transformers.AutoModelForMaskedLM.from_pretrained(folder).train()
    batch = probe_batch(twin.config.to_native(), TOKENS, shape=(2, 16))
    twin(batch.input_ids, batch.mask, batch.token_type_ids, labels=batch.input_ids).loss.backward()
    without = {name for name, p in twin.named_parameters() if p.grad is None}
    assert without == {"ponet.pooler.dense.weight", "ponet.pooler.dense.bias"}
