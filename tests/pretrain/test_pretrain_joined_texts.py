"""Texts of a batch laid one after the other: the same examples, losses and gradients."""

from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer

from ponet import BertConfig, EncoderConfig, FNetConfig, PoNetConfig
from pretrain.batches import PretrainDataset, join_batch
from pretrain.datamodule import PretrainDataModule
from pretrain.masking import MaskingConfig
from pretrain.module import PretrainModule

SIZES = {"vocab_size": 65, "hidden_size": 16, "num_layers": 2, "num_heads": 2, "ffn_size": 16,
         "max_positions": 64, "dropout_prob": 0.0, "init_range": 0.2}  # fmt: skip
CONFIGS = [PoNetConfig(**SIZES), BertConfig(**SIZES, attention_dropout_prob=0.0)]


def dataset_of(folder: Path, **options) -> PretrainDataset:
    data = PretrainDataModule(folder=str(folder), max_len=64, num_workers=0, **options)
    data.global_batch_size = data.micro_batch_size = 16
    data.setup("fit")
    return data.train_dataloader().dataset


def both(folder: Path, samples: range, **options) -> tuple[dict, dict]:
    dataset = dataset_of(folder, **options)
    joined = dataset.__getitems__(samples)
    dataset.joins_texts = False
    return joined, dataset.__getitems__(samples)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_a_step_has_the_loss_and_the_gradients_of_padded_rows(
    config: EncoderConfig, tiny_shards: Path
) -> None:
    module, found = PretrainModule(config), []
    for batch in both(tiny_shards, range(3, 19)):
        module.zero_grad()
        output = module.training_step(batch, 0)
        output["loss"].backward()
        gradients = {name: p.grad for name, p in module.named_parameters()}
        found.append((output["loss"].detach(), output["sums"][:-1], gradients))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[0][1:], found[1][1:], rtol=1e-4, atol=1e-5)


def test_a_joined_batch_has_every_token_and_label_of_the_examples(tiny_shards: Path) -> None:
    joined, padded = both(tiny_shards, range(16))
    tokens = padded["input_ids"][padded["mask"]]
    assert torch.equal(joined["input_ids"][joined["mask"]], tokens)
    used = padded["masked_labels"] != -100
    labels = joined["masked_labels"]
    assert torch.equal(labels[labels != -100], padded["masked_labels"][used])
    shown = padded["input_ids"].gather(1, padded["masked_positions"])[used]
    places = joined["masked_positions"][labels != -100]
    assert torch.equal(joined["input_ids"][0, places], shown)
    for name in ("pair_labels", "example_ids"):
        assert torch.equal(joined[name], padded[name])


def test_at_least_97_of_100_positions_are_real_tokens(tiny_shards: Path) -> None:
    dataset, real, all_ = dataset_of(tiny_shards), 0, 0
    for start in range(0, 160, 16):
        mask = dataset.__getitems__(range(start, start + 16))["mask"]
        real, all_ = real + int(mask.sum()), all_ + mask.numel()
    assert real >= 0.97 * all_


@pytest.mark.parametrize("mask_prob", [0.01, 0.15, 0.4, 0.9])
def test_there_is_a_slot_for_every_masked_token_and_few_shapes(
    mask_prob: float, tiny_shards: Path
) -> None:
    masking, shapes = MaskingConfig(mask_prob=mask_prob), set()
    dataset = dataset_of(tiny_shards, masking=masking, short_prob=0.5)
    dataset.joins_texts = False
    for start in range(0, 320, 8):
        padded = dataset.__getitems__(range(start, start + 8))
        joined = join_batch(padded, masking)
        shapes.add((joined["input_ids"].shape[1], joined["masked_positions"].shape[1]))
        labels = joined["masked_labels"]
        assert (labels != -100).sum() == (padded["masked_labels"] != -100).sum()
    assert len({tokens for tokens, _ in shapes}) == len(shapes) <= 64


def test_fnet_gets_padded_rows_and_the_run_says_so(
    tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes = []
    for config in (FNetConfig(**SIZES), PoNetConfig(**SIZES)):
        module = PretrainModule(config)
        module.model.register_forward_hook(lambda *_: None)
        step = module.training_step
        module.training_step = lambda batch, number, step=step: (
            shapes.append(tuple(batch["input_ids"].shape)) or step(batch, number)
        )
        data = PretrainDataModule(
            folder=str(tiny_shards), max_len=64, num_workers=0, global_batch_size=4,
            micro_batch_size=4,
        )  # fmt: skip
        Trainer(
            accelerator="cpu", max_steps=1, limit_val_batches=0, logger=False,
            default_root_dir=tmp_path, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, use_distributed_sampler=False,
        ).fit(module, datamodule=data)  # fmt: skip
    assert shapes[0] == (4, 64) and shapes[1][0] == 1
    said = capsys.readouterr()
    assert (said.out + said.err).count("in this fnet texts of one row would see each other") == 1
