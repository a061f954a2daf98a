"""Texts of a training batch one after the other in fine-tuning: the same losses, no padding."""

from pathlib import Path

import pytest
import torch
from finetune_runs import VOCAB, write_splits

from finetune.data.datamodule import TaskDataModule
from ponet import BertConfig, PoNetConfig, SequenceClassifier

SIZES = {"vocab_size": len(VOCAB), "hidden_size": 16, "num_heads": 2, "num_layers": 2,
         "ffn_size": 32, "max_positions": 16, "init_range": 0.2, "dropout_prob": 0.0}  # fmt: skip


def data_of(folder: Path, bundle: Path, **options) -> TaskDataModule:
    files = dict(zip(("train", "validation"), write_splits(folder)[1::2], strict=True))
    data = TaskDataModule(**files, encoder=str(bundle), max_len=16, **options)
    data.setup("fit")
    return data


@pytest.mark.parametrize("config_class", [PoNetConfig, BertConfig])
@pytest.mark.parametrize("text_pair", ["", "text2"], ids=["texts", "pairs"])
def test_losses_and_gradients_are_those_of_padded_rows(
    text_pair: str, config_class, tmp_path: Path, bundle: Path
) -> None:
    extra = {"attention_dropout_prob": 0.0} if config_class is BertConfig else {}
    model, found = SequenceClassifier(config_class(**SIZES, **extra), num_labels=2).eval(), []
    for join_texts in (True, False):
        data = data_of(tmp_path, bundle, text_pair=text_pair, join_texts=join_texts)
        model.zero_grad()
        losses = []
        for batch in data.train_dataloader():
            logits = model(batch.inputs)
            loss = torch.nn.functional.cross_entropy(logits, batch.targets_B, reduction="none")
            losses.append((batch.weights_B * loss).sum())
            assert join_texts == (batch.inputs.text_places is not None)
            assert not join_texts or bool(batch.inputs.mask.all())
        sum(losses).backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        found.append((torch.stack(losses).detach(), gradients))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-5)
