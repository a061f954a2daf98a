"""Texts that share rows, on the device: states and gradients against padded rows, and addresses.

compute-sanitizer --tool memcheck python -m benchmarks.gpu.joined     (what the cell runs)
"""

import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.cells import DRY, GPU, Cell, Sizes, verdict
from benchmarks.harness import wait
from benchmarks.report import REPOSITORY, Row
from benchmarks.rivals import CONFIG_CLASSES, make_batch
from benchmarks.runs import run_within
from ponet import PretrainingModel
from ponet.batch import EncoderBatch, join_texts
from ponet.encoders import build_encoder
from training.optim import PretrainOptimizer, build_optimizer

MOST_WRONG = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
ROUNDS, VOCAB = 8, 1000
"""Batches of other lengths that the addresses of are checked, and their words."""
STEP = "a step of"
FOUND, CALM = "========= ", re.compile("=+ (COMPUTE-SANITIZER|ERROR SUMMARY: 0|$)")
"""How lines of compute-sanitizer begin; those that say nothing is wrong."""
ADDRESSES_S = 150.0
"""Most seconds of that check: every access is looked at, and every tensor allocated anew."""


def cells(sizes: Sizes) -> list[Cell]:
    """Return the cells: agreement, and addresses where the tool for it is there."""
    found: list[Cell] = [("joined texts", lambda: agreement(sizes))]
    return found if sizes.is_dry else [*found, ("joined texts, addresses", addresses)]


def texts(sizes: Sizes, seed: int, vocab_size: int) -> EncoderBatch:
    """Return texts of random lengths in padded rows."""
    num_tokens = min(sizes.lengths[0], 200)
    form: dict[str, Any] = {"vocab_size": vocab_size, "device": sizes.device, "segment_len": 25}
    batch = make_batch(4 if sizes.is_dry else 24, num_tokens, **form)
    generator = torch.Generator().manual_seed(seed)
    lens = torch.randint(
        min(8, num_tokens), num_tokens + 1, (len(batch.mask),), generator=generator
    )
    place_L = torch.arange(num_tokens)
    mask = (place_L < lens[:, None]).to(sizes.device)
    ends = (place_L == 0) | (place_L == lens[:, None] - 1)
    special_mask = ends.to(sizes.device) & mask
    return replace(batch, mask=mask, special_mask=special_mask, has_padding=True)


def states_and_gradients(
    encoder: nn.Module, batch: EncoderBatch, dtype: torch.dtype
) -> list[Tensor]:
    """Return the states of real tokens, text by text, and the gradients of all weights."""
    device = batch.mask.device.type
    with torch.autocast(device, torch.bfloat16, enabled=dtype == torch.bfloat16):
        states_ND = encoder(batch).float()[batch.mask]
    weights = torch.linspace(-1, 1, states_ND.numel(), device=device).view_as(states_ND)
    encoder.zero_grad()
    (states_ND * weights).mean().backward()
    gradients = [p.grad for p in encoder.parameters() if p.grad is not None]
    return [states_ND.detach(), *(gradient.clone() for gradient in gradients)]


def agreement(sizes: Sizes) -> list[Row]:
    """Return verdicts on joined texts against padded ones."""
    rows: list[Row] = []
    preset: Any = CONFIG_CLASSES["ponet"].preset(sizes.small)  # type: ignore[arg-type]
    config = replace(preset, vocab_size=64, dropout_prob=0.0, ffn_dropout_prob=0.0)
    for dtype, most in MOST_WRONG.items():
        torch.manual_seed(0)
        encoder = build_encoder(config).to(sizes.device)
        padded = texts(sizes, 1, config.vocab_size)
        joined = join_texts(padded, num_tokens=int(padded.mask.sum()) + 5)
        found, wanted = (states_and_gradients(encoder, b, dtype) for b in (joined, padded))
        # What is 0 but for rounding, as the gradient of the key's bias, has no distance.
        pairs = [(a, b) for a, b in zip(found, wanted, strict=True) if float(b.norm()) > 1e-6]
        own, expected = zip(*pairs, strict=True)
        rows.append(verdict(f"joined texts, {str(dtype)[6:]}", own, expected, most))
    return rows


def addresses() -> list[Row]:
    """Run steps of joined texts under compute-sanitizer; what it found, and in how many steps."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return [{"name": "compute-sanitizer", "not_here": "no such program"}]
    command = [tool, "--tool", "memcheck", "--report-api-errors", "no"]
    command += [sys.executable, "-u", "-m", "benchmarks.gpu.joined"]
    # Every tensor an allocation of its own: in PyTorch's pool a neighbour is a right address.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    with tempfile.TemporaryFile("w+") as file:
        code = run_within(ADDRESSES_S, command, file, cwd=REPOSITORY, env=environment)
        file.seek(0)
        lines = file.read().splitlines()
    return [{"name": "compute-sanitizer", **judged(lines, code)}]


def judged(lines: Sequence[str], code: int) -> Row:
    """Return what the lines of compute-sanitizer say; nothing is right where no step ended."""
    steps = sum(line.startswith(STEP) for line in lines)
    errors = [line for line in lines if line.startswith(FOUND) and not CALM.match(line)]
    is_right = steps > 0 and not errors and code in (0, -signal.SIGKILL)
    return {"is_right": is_right, "steps": steps, "code": code,
            "output": [line[-300:] for line in [*errors[:12], *lines[-12:]]]}  # fmt: skip


def main() -> None:
    """Pretrain on batches of other lengths, in both precisions, as `benchmarks.recipes` does."""
    torch.set_float32_matmul_precision("high")
    sizes = GPU if torch.cuda.is_available() else DRY
    preset: Any = CONFIG_CLASSES["ponet"].preset(sizes.small)  # type: ignore[arg-type]
    model = PretrainingModel(replace(preset, vocab_size=VOCAB), num_pair_classes=3)
    model.to(sizes.device)
    muon = PretrainOptimizer(matrices="muon", lr=1e-3)
    optimizer = build_optimizer(model, muon, fusable=True, layers=model.encoder.layers)
    for seed in range(ROUNDS):
        batch = texts(sizes, seed, VOCAB)
        batch = join_texts(batch, num_tokens=int(batch.mask.sum()) + seed)
        places_M = torch.randint(batch.mask.shape[1], (1, batch.mask.shape[1] // 4))
        places_M = places_M.to(sizes.device)
        labels_M = batch.input_ids.gather(1, places_M)
        for dtype in MOST_WRONG:
            optimizer.zero_grad()
            with torch.autocast(sizes.device, torch.bfloat16, enabled=dtype == torch.bfloat16):
                found = model.masked_loss(batch, places_M, labels_M)
            assert found.pair_logits is not None
            pair_loss = found.pair_logits.float().logsumexp(-1).mean()
            (found.mlm.loss / places_M.numel() + pair_loss).backward()
            optimizer.step()
            wait(sizes.device)
            print(f"{STEP} {batch.mask.shape[1]} tokens, {dtype}", flush=True)
    print(f"{2 * ROUNDS} steps of joined texts")


if __name__ == "__main__":
    main()
