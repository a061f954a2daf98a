"""Whether the pair task can be learnt at all: on a corpus where topics give documents away."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pretrain_corpora import Documents, make_folder

from ponet import BertConfig, EncoderConfig, PoNetConfig
from pretrain.datamodule import PretrainDataModule
from pretrain.masking import MaskingConfig
from pretrain.module import PretrainModule
from pretrain.sums import means
from training.optim import PretrainOptimizer, build_optimizer

NUM_TOPICS, NUM_WORDS = 20, 390


def topical_documents(number: int, seed: int) -> Documents:
    """Documents whose words come half from one of 20 topics, half from all words."""
    random = np.random.default_rng(seed)
    size = NUM_WORDS // NUM_TOPICS

    def sentence(topic: int, length: int) -> list[int]:
        own = 5 + topic * size + random.integers(0, size, length)
        any_word = 5 + random.integers(0, NUM_WORDS, length)
        return np.where(random.random(length) < 0.5, own, any_word).tolist()

    return [
        [sentence(i % NUM_TOPICS, n) for n in random.integers(6, 14, 60)] for i in range(number)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("encoder", [PoNetConfig, BertConfig])
def test_texts_of_other_documents_are_told_from_the_documents_own(
    encoder: type[EncoderConfig], tmp_path: Path
) -> None:
    # Order cannot be told here, so an ideal reader is right in every `random` example and in half
    # of the others: two thirds. Chance is one third.
    folder = make_folder(
        tmp_path,
        topical_documents(400, seed=0),
        validation=topical_documents(60, seed=1),
        vocab_size=5 + NUM_WORDS,
    )
    sizes = {"hidden_size": 128, "num_layers": 2, "num_heads": 2, "ffn_size": 512}
    config = encoder(vocab_size=395, max_positions=64, dropout_prob=0.0, **sizes)
    torch.manual_seed(0)
    module = PretrainModule(config)
    optimizer = build_optimizer(module.model, PretrainOptimizer(lr=1e-3))
    data = PretrainDataModule(folder=str(folder), max_len=64, num_workers=0)
    data.setup("fit")
    dataset = data._dataset("train", MaskingConfig(), seed=0)
    newest = torch.zeros(8, dtype=torch.float64)
    for step in range(1500):
        batch = dataset.__getitems__(np.arange(step * 32, step * 32 + 32))
        sums = module.batch_sums(batch)
        (sums.mlm_loss / sums.mlm_count + sums.pair_loss / sums.pair_count).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = 1e-3 * min(1.0, (step + 1) / 50)
        optimizer.step()
        optimizer.zero_grad()
        if step >= 1350:
            newest += sums.stacked()
    assert means(newest)["pair_accuracy"] > 0.5
