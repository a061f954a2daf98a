"""Triton kernel of the vocabulary's cross-entropy: logits become their gradient in place.

Bytes per logit in bfloat16, beside the products that make and use them: read twice, the second time
mostly from the cache, and written once. One program works on one row, without atomics: results
repeat to the bit. Arithmetic is in float32.
"""

# The Triton language is no Python that mypy knows.
# mypy: ignore-errors
# ruff: noqa: PLR0913, PLR0917 (a kernel takes its pointers one by one)
import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096
"""Logits that one step of a program takes, a power of two."""
NUM_WARPS = 8


@triton.jit
def loss_rows(
    logits_ptr, labels_ptr, loss_ptr, hit_ptr, vocab_size, row_stride,
    IGNORED: tl.constexpr, IS_WANTED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the loss of a row, whether its first maximum is the label and, if wanted, the gradient.

    The online softmax is kept lane by lane, so that the first pass needs one reduction at its end.
    """
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels_ptr + row)
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    of_label = tl.zeros([BLOCK], tl.float32)
    place = tl.zeros([BLOCK], tl.int32)
    for start in range(0, vocab_size, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        at = logits_ptr + row * row_stride + cols
        x = tl.load(at, mask=cols < vocab_size, other=float("-inf")).to(tl.float32)
        place = tl.where(x > best, cols, place)
        newest = tl.maximum(best, x)
        shift = tl.where(newest == float("-inf"), 0.0, newest)
        total = total * tl.exp(best - shift) + tl.exp(x - shift)
        of_label += tl.where(cols == label, x, 0.0)
        best = newest
    largest = tl.max(best, 0)
    total_of_row = tl.sum(total * tl.exp(best - largest), 0)
    first = tl.min(tl.where(best == largest, place, vocab_size), 0)
    counts = label != IGNORED
    loss = tl.log(total_of_row) + largest - tl.sum(of_label, 0)
    tl.store(loss_ptr + row, tl.where(counts, loss, 0.0))
    tl.store(hit_ptr + row, (first == label).to(tl.int32))
    if IS_WANTED:
        scale = tl.where(counts, 1.0, 0.0)
        for start in range(0, vocab_size, BLOCK):
            cols = start + tl.arange(0, BLOCK)
            at = logits_ptr + row * row_stride + cols
            x = tl.load(at, mask=cols < vocab_size, other=float("-inf")).to(tl.float32)
            share = tl.exp(x - largest) / total_of_row - tl.where(cols == label, 1.0, 0.0)
            tl.store(at, share * scale, mask=cols < vocab_size)


def to_gradient(
    logits_CV: Tensor, labels_C: Tensor, *, ignored: int, is_wanted: bool
) -> tuple[Tensor, Tensor]:
    """Return the loss sum, float32, and the hits; where wanted the logits become their gradient.

    Args:
        logits_CV: float32, bfloat16 or float16; rows may lie apart.
        labels_C: int64 in [0, V), or `ignored`.
        ignored: Label of a row that counts for nothing.
        is_wanted: Whether to compute the gradient.
    """
    num_rows, vocab_size = logits_CV.shape
    loss_C = logits_CV.new_empty(num_rows, dtype=torch.float32)
    hit_C = logits_CV.new_empty(num_rows, dtype=torch.int32)
    loss_rows[(num_rows,)](
        logits_CV, labels_C, loss_C, hit_C, vocab_size, logits_CV.stride(0),
        IGNORED=ignored, IS_WANTED=is_wanted, BLOCK=BLOCK, num_warps=NUM_WARPS,
    )  # fmt: skip
    return loss_C.sum(), hit_C.sum()
