"""Training as it is done here, batches, cuts and schedule, against recorded steps of the authors'.

PONET_ORACLE names the folder of the fixtures.
"""

import importlib.util

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from finetune.lra.batches import DeviceSplit, Layout, TrainBatches
from finetune.lra.schedule import OneCycle, set_beta1
from finetune.lra.splits import LraSplit
from training.optim import build_optimizer

PATH = "tests/ponet/test_ponet_lra_oracle.py"


@pytest.fixture(params=["pair", "pixels", "single", "single_fnet", "single_transformer"])
def published(request, repository):
    spec = importlib.util.spec_from_file_location("lra_oracle", repository / PATH)
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    tensors, sizes = theirs.recorded.__wrapped__(request, repository)
    model = theirs.make_model(sizes)
    model.load_state_dict(theirs.our_tensors(tensors, "weights.", sizes["mixer"]))
    return model, tensors, sizes


def split_of(tensors) -> LraSplit:
    sides = []
    for key in ("inputs.ids_0", "inputs.ids_1"):
        if key in tensors:
            ids = tensors[key].numpy().astype(np.uint16)
            real = ids != 0
            sides += [ids, (ids.shape[1] - real[:, ::-1].argmax(1)).astype(np.int32)]
    labels = tensors["inputs.labels"].numpy().astype(np.uint8)
    return LraSplit(sides[0], labels, sides[1], *sides[2:])


def test_ten_steps_of_sorted_cut_micro_batches_equal_the_oracle(published):
    model, tensors, sizes = published
    split = split_of(tensors)
    cuts = sizes["mixer"] != "fnet" and sizes["task"] != "pixels"
    layout = Layout(num_segments=sizes["segments"], zeros_are_padding=True, cuts=cuts)
    size, steps = len(split), sizes["train_steps"]
    num_micro = 2 if size % 2 == 0 else size
    batches = TrainBatches(
        DeviceSplit(split, layout, torch.device("cpu")),
        batch_size=size, micro_batch_size=size // num_micro, seed=0, epoch=lambda: 0,
    )  # fmt: skip
    config = OneCycle(lr=sizes["lr"], warmup_share=sizes["warm"] / steps)
    optimizer = build_optimizer(model, config)
    factor = LambdaLR(optimizer, lambda step: config.schedule_factor(step, total_steps=steps))
    for step, expected in enumerate(tensors["training.losses"]):
        set_beta1(optimizer, config.beta1_at(step, total_steps=steps))
        group = optimizer.param_groups[0]
        assert group["lr"] == pytest.approx(tensors["training.learning_rates"][step].item())
        assert group["betas"][0] == pytest.approx(tensors["training.beta1"][step].item())
        total = 0.0
        for batch in batches:
            logits = model(batch.inputs, batch.other, divisor=sizes["length"])
            loss = F.cross_entropy(logits, batch.targets_B) / num_micro
            loss.backward()
            total += float(loss.detach())
        assert total == pytest.approx(float(expected), abs=1e-5)
        optimizer.step()
        optimizer.zero_grad()
        factor.step()
