"""A step is one mean over all its hidden tokens, however it is cut into micro-batches."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ponet import PoNetConfig
from pretrain.batches import PretrainDataset
from pretrain.datamodule import PretrainDataModule
from pretrain.masking import Masker, MaskingConfig
from pretrain.module import PretrainModule
from pretrain.objectives import HIDDEN_SHARE, IGNORED_LABEL

STEP = 16
SIZES = {"vocab_size": 65, "hidden_size": 16, "num_layers": 1, "num_heads": 2, "ffn_size": 16,
         "max_positions": 64, "dropout_prob": 0.0, "init_range": 0.2}  # fmt: skip


def dataset_of(folder: Path, **options: object) -> PretrainDataset:
    settings = {"max_len": 64, "num_workers": 0, "short_prob": 0.5, **options}
    data = PretrainDataModule(
        folder=str(folder), global_batch_size=STEP, micro_batch_size=1, **settings
    )
    data.setup("fit")
    return data.train_dataloader().dataset


def gradients(module: PretrainModule, dataset: PretrainDataset, size: int) -> dict[str, Tensor]:
    """The gradients of the second step, of micro-batches added up as Lightning does it."""
    module.zero_grad()
    for first in range(STEP, 2 * STEP, size):
        batch = dataset.__getitems__(range(first, first + size))
        (module.training_step(batch, 0)["loss"] * size / STEP).backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("whole_word", [False, True])
@pytest.mark.parametrize("size", [1, 4, 8])
def test_micro_batches_of_any_size_give_the_gradients_of_the_whole_step(
    size: int, whole_word: bool, tiny_shards: Path
) -> None:
    dataset = dataset_of(tiny_shards, masking=MaskingConfig(whole_word=whole_word))
    torch.manual_seed(0)
    module = PretrainModule(PoNetConfig(**SIZES))
    whole, parts = gradients(module, dataset, STEP), gradients(module, dataset, size)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("whole_word", [False, True])
def test_the_loss_of_a_whole_step_is_the_mean_over_its_hidden_tokens(
    whole_word: bool, tiny_shards: Path
) -> None:
    dataset = dataset_of(tiny_shards, masking=MaskingConfig(whole_word=whole_word))
    batch = dataset.__getitems__(range(STEP, 2 * STEP))
    num_hidden = int((batch["masked_labels"] != IGNORED_LABEL).sum())
    assert batch[HIDDEN_SHARE].tolist() == [num_hidden]
    module = PretrainModule(PoNetConfig(**SIZES), "mlm")
    found = module.training_step(batch, 0)
    without = {name: value for name, value in batch.items() if name != HIDDEN_SHARE}
    assert torch.equal(found["loss"], module.training_step(without, 0)["loss"])


def test_whole_words_that_fit_nowhere_are_not_counted_as_hidden(tiny_shards: Path) -> None:
    dataset = dataset_of(tiny_shards)
    masker = Masker(
        MaskingConfig(whole_word=True),
        max_len=64,
        tokenizer=dataset.shards.manifest.tokenizer,
        is_continuation_V=np.arange(SIZES["vocab_size"]) % 3 > 0,
        seed=1,
    )
    ids = np.tile(np.where(np.arange(64) % 4 == 3, 6, 7), (STEP, 1))  # words of four pieces
    text, samples, before = np.ones((STEP, 64), np.bool_), np.arange(STEP), ids.copy()
    text[:, [0, 1, 2, 63]] = False
    found = masker.num_hidden(ids, text, samples)
    assert np.array_equal(ids, before)
    assert found == 8 * STEP and (masker.choice(ids, text).wanted_B == 9).all()
    assert (masker.mask(ids, text, samples)[1] != IGNORED_LABEL).sum() == found


def test_shares_of_a_step_add_up_to_its_hidden_tokens_also_across_epochs(tiny_shards: Path) -> None:
    dataset = dataset_of(tiny_shards)
    across = len(dataset) // STEP  # its samples are of two epochs
    assert dataset.locate(np.array([across * STEP, across * STEP + STEP - 1]))[0].tolist() == [0, 1]
    for step in (0, across):
        batches = [dataset.__getitems__([step * STEP + number]) for number in range(STEP)]
        hidden = sum(int((batch["masked_labels"] != IGNORED_LABEL).sum()) for batch in batches)
        shares = [float(batch[HIDDEN_SHARE]) for batch in batches]
        assert len(set(shares)) == 1 and sum(shares) == pytest.approx(hidden, rel=1e-6)


def test_words_of_several_pieces_are_not_counted_where_they_are_never_hidden(
    tiny_shards: Path,
) -> None:
    dataset = dataset_of(tiny_shards)
    dataset.joins_texts = False
    before = float(dataset.__getitems__(range(STEP))[HIDDEN_SHARE])
    dataset.read_words(None)  # forgets what was counted
    dataset._masker = Masker(
        MaskingConfig(),
        max_len=64,
        tokenizer=dataset.shards.manifest.tokenizer,
        is_continuation_V=np.arange(SIZES["vocab_size"]) % 3 == 0,
        seed=1,
        single_pieces=True,
    )
    batch = dataset.__getitems__(range(STEP))
    hidden = int((batch["masked_labels"] != IGNORED_LABEL).sum())
    assert batch[HIDDEN_SHARE].tolist() == [hidden] and hidden < 0.8 * before


def test_evaluation_says_nothing_of_it(tiny_shards: Path) -> None:
    data = PretrainDataModule(folder=str(tiny_shards), max_len=64, num_workers=0)
    data.setup("fit")
    assert HIDDEN_SHARE not in data.evaluation_dataset().__getitems__(range(4))
