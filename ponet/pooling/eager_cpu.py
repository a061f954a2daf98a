"""Pooling kernels for a CPU: block after block, so that most passes stay in its cache.

B batch, L tokens, D width, N = B * L, S segments; lower case: of one block (n tokens in k rows).
The function of eager.py. Arithmetic within a block is float32 or wider. From memory, forward reads
segment, local and gate once and writes the result; backward reads each input and the gradient
once, segment twice, and writes each gradient once, that of segment twice.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ponet.pooling.blocks import Block, BlockPlan, Halo, Scratch, Slab
from ponet.pooling.plan import PoolInputs, mixed_dtype


class Tables(NamedTuple):
    """What the tokens of a segment or row have in common."""

    maxima_SD: Tensor | None
    """(S + 1, D) maxima of the segments; the last row is padding's."""
    shared_SD: Tensor | None
    """(S + B + 1, D) global + segment pool, see BlockPlan; None without both pools."""


def forward(inputs: PoolInputs, plan: BlockPlan, window: int) -> Tensor:
    """Return the fused pools (B, L, D); see plan.Kernels."""
    dtype = mixed_dtype(inputs)
    wide = torch.promote_types(dtype, torch.float32)
    shared_SD = make_tables(inputs, plan, wide).shared_SD
    width = next(tensor.shape[-1] for tensor in inputs if tensor is not None)
    mixed_BLD = torch.empty((*plan.window_BL.shape, width), dtype=dtype)
    blocks = plan.blocks(
        width, with_segments=inputs.segment_BLD is not None, reach=window // 2, dtype=wide
    )
    mixed, gates = split(mixed_BLD, blocks), split(inputs.gate_BLD, blocks)
    scratch = Scratch(wide)
    for block, mixed_nd, gate_nd in zip(blocks, mixed, gates, strict=True):
        local_nd = shared_nd = None
        if inputs.local_BLD is not None:
            local_nd = local_max(inputs.local_BLD, block, window, scratch)
        if shared_SD is not None:
            shared_nd = scratch("shared", len(mixed_nd), width)
            torch.index_select(shared_SD, 0, block.read_rows_n, out=shared_nd)
        result_nd = mixed_nd if dtype == wide else scratch("result", *mixed_nd.shape)
        wide_gate_nd = None if gate_nd is None else widened(gate_nd, scratch, "gate")
        fuse(shared_nd, wide_gate_nd, local_nd, result_nd)
        if result_nd is not mixed_nd:
            mixed_nd.copy_(result_nd)
    return mixed_BLD


def fuse(shared: Tensor | None, gate: Tensor | None, local: Tensor | None, result: Tensor) -> None:
    """Write shared * gate + local into the result; a part that is None is left out."""
    if shared is None:
        assert local is not None
        result.copy_(local)
    elif gate is None:
        torch.add(shared, 0.0 if local is None else local, out=result)
    elif local is None:
        torch.mul(shared, gate, out=result)
    else:
        torch.addcmul(local, shared, gate, out=result)


def backward(grad_BLD: Tensor, inputs: PoolInputs, plan: BlockPlan, window: int) -> PoolInputs:
    """Return the gradients of the inputs; see plan.Kernels."""
    wide = torch.promote_types(grad_BLD.dtype, torch.float32)
    tables = make_tables(inputs, plan, wide)
    totals, ties = (None if table is None else torch.zeros_like(table) for table in tables[::-1])
    grads = PoolInputs(None, *(None if t is None else torch.empty_like(t) for t in inputs[1:]))
    blocks = plan.blocks(
        grad_BLD.shape[-1], with_segments=inputs.segment_BLD is not None, reach=window // 2,
        dtype=wide,
    )  # fmt: skip
    scratch = Scratch(wide)
    parts = (split(tensor, blocks) for tensor in (grad_BLD, inputs.gate_BLD, grads.gate_BLD,
             inputs.segment_BLD, grads.segment_BLD, grads.local_BLD))  # fmt: skip
    for block, grad, gate, grad_gate, segment, grad_segment, grad_local in zip(
        blocks, *parts, strict=True
    ):
        if tables.shared_SD is not None:
            assert totals is not None
            grad_wide = widened(grad, scratch, "grad")
            shared = gate_backward(grad_wide, gate, grad_gate, block, tables.shared_SD, scratch)
            totals.index_add_(0, block.read_rows_n, shared)
        if tables.maxima_SD is not None:
            assert ties is not None
            mark_maxima(segment, grad_segment, block, tables.maxima_SD, ties, scratch)
        if inputs.local_BLD is not None:
            local_backward(grad_BLD, inputs.local_BLD, grad_local, block, window, scratch)
    if grads.segment_BLD is not None:
        assert totals is not None
        assert ties is not None
        share_among_maxima(grads.segment_BLD, blocks, totals, ties)
    return grads._replace(global_BD=sum_rows(totals, inputs.global_BD, plan, ties))


def make_tables(inputs: PoolInputs, plan: BlockPlan, wide: torch.dtype) -> Tables:
    """Return the maxima of the segments and their sum with the global pool, in the wide dtype."""
    if inputs.segment_BLD is None:
        if inputs.global_BD is None:
            return Tables(None, None)
        global_BD = inputs.global_BD.to(wide)
        return Tables(None, torch.cat([global_BD, torch.zeros_like(global_BD[:1])]))
    x_ND = inputs.segment_BLD.flatten(0, 1)
    num_segments, width = plan.num_segments, x_ND.shape[1]
    maxima_SD = x_ND.new_full((num_segments + 1, width), float("-inf"))
    index_ND = plan.write_rows_N[:, None].expand(-1, width)
    maxima_SD = maxima_SD.scatter_reduce_(0, index_ND, x_ND, "amax").to(wide)
    num_rows = len(plan.window_BL)
    shared_SD = maxima_SD.new_zeros((num_segments + num_rows + 1, width))
    shared_SD[:num_segments] = maxima_SD[:-1]
    if inputs.global_BD is not None:
        global_BD = inputs.global_BD.to(wide)
        shared_SD[:num_segments] += global_BD.index_select(0, plan.row_of_segment_S)
        shared_SD[num_segments:-1] = global_BD
    return Tables(maxima_SD, shared_SD)


def split(tensor: Tensor | None, blocks: list[Block]) -> Sequence[Any]:
    """Return the rows (n, D) of every block, as views; for None, None for every block."""
    if tensor is None:
        return [None] * len(blocks)
    sizes = [len(block.read_rows_n) for block in blocks]
    return tensor.flatten(0, 1).split_with_sizes(sizes)


def widened(tensor: Tensor, scratch: Scratch, name: str) -> Tensor:
    """Return the values in the dtype of the arithmetic, by a copy only where it differs."""
    if tensor.dtype == scratch.dtype:
        return tensor
    return scratch(name, *tensor.shape).copy_(tensor)


def gate_backward(
    grad_nd: Tensor, gate_nd: Tensor | None, grad_gate_nd: Tensor | None, block: Block,
    shared_SD: Tensor, scratch: Scratch,
) -> Tensor:  # fmt: skip
    """Write the gradient of the gate and return that of the shared pools, per token."""
    if gate_nd is None:
        return grad_nd
    assert grad_gate_nd is not None
    work_nd = scratch("shared", *grad_nd.shape)
    torch.index_select(shared_SD, 0, block.read_rows_n, out=work_nd)
    if grad_gate_nd.dtype == scratch.dtype:
        torch.mul(grad_nd, work_nd, out=grad_gate_nd)
    else:
        grad_gate_nd.copy_(work_nd.mul_(grad_nd))
    return torch.mul(grad_nd, widened(gate_nd, scratch, "gate"), out=work_nd)


def mark_maxima(
    segment_nd: Tensor, marks_nd: Tensor, block: Block, maxima_SD: Tensor, ties_SD: Tensor,
    scratch: Scratch,
) -> None:  # fmt: skip
    """Write 1 where a token has its segment's maximum, else 0, and count these per segment."""
    maxima_nd = scratch("shared", *segment_nd.shape)
    torch.index_select(maxima_SD, 0, block.write_rows_n, out=maxima_nd)
    is_wide = marks_nd.dtype == scratch.dtype
    wide_marks_nd = marks_nd if is_wide else maxima_nd
    torch.eq(widened(segment_nd, scratch, "gate"), maxima_nd, out=wide_marks_nd)
    ties_SD.index_add_(0, block.write_rows_n, wide_marks_nd)
    if not is_wide:
        marks_nd.copy_(wide_marks_nd)


def share_among_maxima(
    marks_BLD: Tensor, blocks: list[Block], totals_SD: Tensor, ties_SD: Tensor
) -> None:
    """Multiply the marks of mark_maxima, in place, by each segment's gradient per maximum."""
    share_SD = (totals_SD[: len(ties_SD)] / ties_SD).to(marks_BLD.dtype)
    share_SD[-1].zero_()
    scratch = Scratch(marks_BLD.dtype)
    for block, marks_nd in zip(blocks, split(marks_BLD, blocks), strict=True):
        share_nd = scratch("share", *marks_nd.shape)
        marks_nd.mul_(torch.index_select(share_SD, 0, block.write_rows_n, out=share_nd))


def sum_rows(
    totals_SD: Tensor | None, global_BD: Tensor | None, plan: BlockPlan, ties_SD: Tensor | None
) -> Tensor | None:
    """Return the gradient of the global pool: the sum over everything that read it."""
    if global_BD is None:
        return None
    assert totals_SD is not None
    num_segments = 0 if ties_SD is None else plan.num_segments
    sums_BD = totals_SD[num_segments:-1].clone()
    sums_BD.index_add_(0, plan.row_of_segment_S[:num_segments], totals_SD[:num_segments])
    return sums_BD.to(global_BD.dtype)


def rows_of(tensor_BLD: Tensor, halo: Halo, num_rows: int) -> Tensor:
    """Return the tokens of a block with its halo, (k, tokens, D), as a view made in one call."""
    width, tokens = tensor_BLD.shape[-1], (halo.stop - halo.start) // num_rows
    offset = tensor_BLD.storage_offset() + halo.start * width
    return tensor_BLD.as_strided((num_rows, tokens, width), (tokens * width, width, 1), offset)


def load(
    tensor_BLD: Tensor, halo: Halo, num_rows: int, scratch: Scratch, *, as_values: bool
) -> Slab:
    """Return a copy (k, tokens, D) with the halo.

    Outside of the row and of all windows values are -inf and gradients 0.
    """
    rows_kld = rows_of(tensor_BLD, halo, num_rows)
    tokens, width = rows_kld.shape[1:]
    num_tokens = halo.before + tokens + halo.after
    slab = Slab("values" if as_values else "grads", (num_rows, num_tokens, width), 0, num_tokens)
    outside = float("-inf") if as_values else 0.0
    if halo.before:
        slab.part(0, halo.before).view(scratch).fill_(outside)
    if halo.after:
        slab.part(halo.before + tokens, halo.after).view(scratch).fill_(outside)
    inside = slab.part(halo.before, tokens).view(scratch)
    if halo.keep_n1 is None or halo.bias_n1 is None:
        inside.copy_(rows_kld)
    elif as_values:
        torch.add(rows_kld, halo.bias_n1.view(num_rows, tokens, 1), out=inside)
    else:
        torch.mul(rows_kld, halo.keep_n1.view(num_rows, tokens, 1), out=inside)
    return slab


def neighbours(values: Slab, scratch: Scratch) -> tuple[Tensor, Tensor]:
    """Return views of all values but the last, and of all but the first."""
    left, right = (values.part(start, values.length - 1) for start in (0, 1))
    return left.view(scratch), right.view(scratch)


def maxima_of_neighbours(values: Slab, step: int, scratch: Scratch) -> Slab:
    """Return the larger of each two adjacent values, one fewer than there are values."""
    left, right = neighbours(values, scratch)
    best = Slab(f"best {step % 2}", tuple(left.shape), 0, values.length - 1)
    torch.maximum(left, right, out=best.view(scratch))
    return best


def local_max(x_BLD: Tensor, block: Block, window: int, scratch: Scratch) -> Tensor:
    """Return the local maxima (n, D) of a block; 0 outside of all windows."""
    best = load(x_BLD, block.windows, block.num_rows, scratch, as_values=True)
    for step in range(window - 1):
        best = maxima_of_neighbours(best, step, scratch)
    best_nd = best.view(scratch).flatten(0, 1)
    return best_nd if block.excluded is None else best_nd.index_fill_(0, block.excluded, 0.0)


def local_backward(
    grad_BLD: Tensor, x_BLD: Tensor, grad_x_nd: Tensor, block: Block, window: int, scratch: Scratch
) -> None:
    """Write the gradient of the local values; that of each window goes to its first maximum."""
    best = load(x_BLD, block.values, block.num_rows, scratch, as_values=True)
    grad = load(grad_BLD, block.windows, block.num_rows, scratch, as_values=False)
    for step in range(window - 1):
        left, right = neighbours(best, scratch)
        torch.ge(left, right, out=scratch(f"keep {step}", *left.shape))
        if step < window - 2:
            best = maxima_of_neighbours(best, step, scratch)
    # A value between two windows gets what the left one passes on and what the right one keeps.
    for step in range(window - 1):
        stage = window - 2 - step
        length = grad.length + 2 * step
        shape = (grad.shape[0], length, grad.shape[2])
        kept = Slab(f"keep {stage}", shape, step, grad.length)
        kept_kld, grad_kld = kept.view(scratch), grad.view(scratch)
        grad_kld.sub_(kept_kld.mul_(grad_kld))
        passed_kld = grad.part(0, grad.length - 1).view(scratch)
        grad = kept.part(1, kept.length - 1)
        result_kld = grad.view(scratch)
        if stage == 0 and grad_x_nd.dtype == scratch.dtype:
            result_kld = grad_x_nd.view(result_kld.shape)
        torch.add(grad.view(scratch), passed_kld, out=result_kld)
    if window == 1 or grad_x_nd.dtype != scratch.dtype:
        grad_x_nd.copy_(grad.view(scratch).flatten(0, 1))
