"""Pooling kernels of plain PyTorch operations, block after block, backward passes by hand.

B batch, L tokens, D width, N = B * L, S segments; lower case: of one block (n tokens in k rows).
A pass over a hidden-sized tensor costs a CPU several times more from memory than from its cache; so
all passes are made over one block before the next is touched. From memory, forward reads segment,
local and gate once and writes the result; backward reads each input and the gradient once, segment
twice, and writes each gradient once, that of segment twice. On other devices there is one block.
Arithmetic is float32 or wider. Sizes depend on values, so that nothing here can be compiled.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ponet.pooling.blocks import Block, Halo, plan_blocks, plan_rows
from ponet.pooling.plan import PoolInputs, PoolPlan


class Slab(NamedTuple):
    """The name of a part, along the tokens, of a buffer (k, tokens, D)."""

    name: str
    shape: tuple[int, ...]
    start: int
    length: int

    def part(self, start: int, length: int) -> "Slab":
        """Return the name of a part of this part."""
        return Slab(self.name, self.shape, self.start + start, length)


class Scratch:
    """Block-sized buffers, and views of them, that are made once and used for every block.

    Making a view costs Python as much time as a pass over a cached block.
    """

    def __init__(self, like: Tensor) -> None:
        """Start without any buffer; they will be on the tensor's device."""
        self.dtype, self._device = torch.promote_types(like.dtype, torch.float32), like.device
        self._buffers: dict[object, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        """Return the buffer of a name and shape; it holds what was last written to it."""
        buffer = self._buffers.get((name, shape))
        if buffer is None:
            buffer = torch.empty(shape, dtype=self.dtype, device=self._device)
            self._buffers[name, shape] = buffer
        return buffer

    def view(self, slab: Slab) -> Tensor:
        """Return the part of a buffer that a slab names."""
        view = self._buffers.get(slab)
        if view is None:
            view = self(slab.name, *slab.shape).narrow(1, slab.start, slab.length)
            self._buffers[slab] = view
        return view

    def neighbours(self, slab: Slab) -> list[Tensor]:
        """Return views of all tokens but the last, and of all but the first."""
        return [self.view(slab.part(start, slab.length - 1)) for start in (0, 1)]

    def widened(self, tensor: Any, name: str) -> Any:
        """Return the values in the dtype of the arithmetic, by a copy only where it differs."""
        if tensor is None or tensor.dtype == self.dtype:
            return tensor
        return self(name, *tensor.shape).copy_(tensor)


def forward(inputs: PoolInputs, plan: PoolPlan, window: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the fused pools (B, L, D); see plan.Kernels. Nothing beside the inputs is saved."""
    some = next(tensor for tensor in reversed(inputs) if tensor is not None)
    mixed_BLD = some.new_empty((*plan.mask_BL1.shape[:2], some.shape[-1]))
    scratch, blocks = Scratch(mixed_BLD), plan_blocks(inputs, plan, window)
    shared_SD = make_tables(inputs, plan, scratch.dtype)[1]
    mixed, gates = split(mixed_BLD, blocks), split(inputs.gate_BLD, blocks)
    for block, mixed_nd, gate_nd in zip(blocks, mixed, gates, strict=True):
        local_nd = shared_nd = None
        if inputs.local_BLD is not None:
            local_nd = local_max(inputs.local_BLD, block, window, scratch)
        if shared_SD is not None:
            shared_nd = scratch("shared", *mixed_nd.shape)
            torch.index_select(shared_SD, 0, block.read_rows_n, out=shared_nd)
        is_wide = mixed_nd.dtype == scratch.dtype
        result_nd = mixed_nd if is_wide else scratch("result", *mixed_nd.shape)
        fuse(shared_nd, scratch.widened(gate_nd, "gate"), local_nd, result_nd)
        if not is_wide:
            mixed_nd.copy_(result_nd)
    return mixed_BLD, ()


def fuse(shared: Any, gate: Tensor | None, local: Any, result: Tensor) -> None:
    """Write shared * gate + local into the result; a part that is None is left out."""
    if gate is None:
        first, *rest = (part for part in (shared, local) if part is not None)
        torch.add(first, rest[0] if rest else 0.0, out=result)
    elif local is None:
        torch.mul(shared, gate, out=result)
    else:
        torch.addcmul(local, shared, gate, out=result)


def backward(
    grad_BLD: Tensor, inputs: PoolInputs, saved: tuple[Tensor, ...], plan: PoolPlan, window: int
) -> PoolInputs:
    """Return the gradients of the inputs; see plan.Kernels."""
    del saved
    scratch, blocks = Scratch(grad_BLD), plan_blocks(inputs, plan, window)
    maxima_SD, shared_SD = tables = make_tables(inputs, plan, scratch.dtype)
    ties_SD, totals_SD = (None if table is None else torch.zeros_like(table) for table in tables)
    grads = PoolInputs(None, *(None if t is None else torch.empty_like(t) for t in inputs[1:]))
    parts = (split(tensor, blocks) for tensor in (grad_BLD, inputs.gate_BLD, grads.gate_BLD,
             inputs.segment_BLD, grads.segment_BLD, grads.local_BLD))  # fmt: skip
    for block, grad, gate, grad_gate, segment, grad_segment, grad_local in zip(
        blocks, *parts, strict=True
    ):
        if totals_SD is not None:
            grad = scratch.widened(grad, "grad")  # noqa: PLW2901
            shared = gate_backward(grad, gate, grad_gate, block, shared_SD, scratch)
            totals_SD.index_add_(0, block.read_rows_n, shared)
        if ties_SD is not None:
            mark_maxima(segment, grad_segment, block, maxima_SD, ties_SD, scratch)
        if inputs.local_BLD is not None:
            local_backward(grad_BLD, inputs.local_BLD, grad_local, block, window, scratch)
    if ties_SD is not None:
        share_among_maxima(grads.segment_BLD, blocks, totals_SD, ties_SD)
    if inputs.global_BD is None or totals_SD is None:
        return grads
    sums_BD = totals_SD[-1 - len(inputs.global_BD) : -1].clone()
    if ties_SD is not None:
        of_segment_S = plan_rows(plan, with_segments=True)[0]
        sums_BD.index_add_(0, of_segment_S, totals_SD[: len(of_segment_S)])
    return grads._replace(global_BD=sums_BD.to(inputs.global_BD.dtype))


def make_tables(inputs: PoolInputs, plan: PoolPlan, wide: torch.dtype) -> tuple[Any, Any]:
    """Return the maxima of the segments (S + 1, D) and the shared pools, in the wide dtype.

    None: without a segment pool; without a segment and a global pool.
    """
    global_BD = None if inputs.global_BD is None else inputs.global_BD.to(wide)
    if inputs.segment_BLD is None:
        if global_BD is None:
            return None, None
        return None, torch.cat([global_BD, torch.zeros_like(global_BD[:1])])
    of_segment_S, write_N, _ = plan_rows(plan, with_segments=True)
    x_ND = inputs.segment_BLD.flatten(0, 1)
    num_segments, width = len(of_segment_S), x_ND.shape[1]
    maxima_SD = x_ND.new_full((num_segments + 1, width), float("-inf"))
    index_ND = write_N[:, None].expand(-1, width)
    maxima_SD = maxima_SD.scatter_reduce_(0, index_ND, x_ND, "amax").to(wide)
    shared_SD = maxima_SD.new_zeros((num_segments + len(plan.text_mask_TP1) + 1, width))
    shared_SD[:num_segments] = maxima_SD[:-1]
    if global_BD is not None:
        shared_SD[:num_segments] += global_BD.index_select(0, of_segment_S)
        shared_SD[num_segments:-1] = global_BD
    return maxima_SD, shared_SD


def split(tensor: Tensor | None, blocks: list[Block]) -> Sequence[Any]:
    """Return the rows (n, D) of every block, as views; for None, None for every block."""
    return (
        [None] * len(blocks)
        if tensor is None
        else tensor.flatten(0, 1).split_with_sizes([len(block.read_rows_n) for block in blocks])
    )


def gate_backward(
    grad_nd: Tensor, gate_nd: Tensor | None, grad_gate_nd: Any, block: Block, shared_SD: Tensor,
    scratch: Scratch,
) -> Tensor:  # fmt: skip
    """Write the gradient of the gate and return that of the shared pools, per token."""
    if gate_nd is None:
        return grad_nd
    work_nd = scratch("shared", *grad_nd.shape)
    torch.index_select(shared_SD, 0, block.read_rows_n, out=work_nd)
    if grad_gate_nd.dtype == scratch.dtype:
        torch.mul(grad_nd, work_nd, out=grad_gate_nd)
    else:
        grad_gate_nd.copy_(work_nd.mul_(grad_nd))
    return torch.mul(grad_nd, scratch.widened(gate_nd, "gate"), out=work_nd)


def mark_maxima(
    segment_nd: Tensor, marks_nd: Tensor, block: Block, maxima_SD: Tensor, ties_SD: Tensor,
    scratch: Scratch,
) -> None:  # fmt: skip
    """Write 1 where a token has its segment's maximum, else 0, and count these per segment."""
    maxima_nd = scratch("shared", *segment_nd.shape)
    torch.index_select(maxima_SD, 0, block.write_rows_n, out=maxima_nd)
    is_wide = marks_nd.dtype == scratch.dtype
    wide_marks_nd = marks_nd if is_wide else maxima_nd
    torch.eq(scratch.widened(segment_nd, "gate"), maxima_nd, out=wide_marks_nd)
    ties_SD.index_add_(0, block.write_rows_n, wide_marks_nd)
    if not is_wide:
        marks_nd.copy_(wide_marks_nd)


def share_among_maxima(
    marks_BLD: Any, blocks: list[Block], totals_SD: Any, ties_SD: Tensor
) -> None:
    """Multiply the marks of mark_maxima, in place, by each segment's gradient per maximum."""
    share_SD = (totals_SD[: len(ties_SD)] / ties_SD).to(marks_BLD.dtype)
    share_SD[-1].zero_()
    longest = max(len(block.write_rows_n) for block in blocks)
    buffer_nd = marks_BLD.new_empty((longest, marks_BLD.shape[-1]))
    for block, marks_nd in zip(blocks, split(marks_BLD, blocks), strict=True):
        share_nd = buffer_nd[: len(marks_nd)]
        marks_nd.mul_(torch.index_select(share_SD, 0, block.write_rows_n, out=share_nd))


def load(
    tensor_BLD: Tensor, halo: Halo, num_rows: int, scratch: Scratch, *, as_values: bool
) -> Slab:
    """Return a copy (k, tokens, D) with the halo.

    Outside of the row and of all windows values are -inf and gradients 0.
    """
    width, tokens = tensor_BLD.shape[-1], (halo.stop - halo.start) // num_rows
    offset = tensor_BLD.storage_offset() + halo.start * width
    rows_kld = tensor_BLD.as_strided((num_rows, tokens, width), (tokens * width, width, 1), offset)
    num_tokens = halo.before + tokens + halo.after
    slab = Slab("values" if as_values else "grads", (num_rows, num_tokens, width), 0, num_tokens)
    outside = float("-inf") if as_values else 0.0
    for start, length in ((0, halo.before), (halo.before + tokens, halo.after)):
        if length:
            scratch.view(slab.part(start, length)).fill_(outside)
    inside = scratch.view(slab.part(halo.before, tokens))
    if halo.marks_n1 is None:
        inside.copy_(rows_kld)
    else:
        combine = torch.add if as_values else torch.mul
        combine(rows_kld, halo.marks_n1[as_values].view(num_rows, tokens, 1), out=inside)
    return slab


def maxima_of_neighbours(values: Slab, step: int, scratch: Scratch) -> Slab:
    """Return the larger of each two adjacent values, one fewer than there are values."""
    left, right = scratch.neighbours(values)
    best = Slab(f"best {step % 2}", tuple(left.shape), 0, values.length - 1)
    torch.maximum(left, right, out=scratch.view(best))
    return best


def local_max(x_BLD: Tensor, block: Block, window: int, scratch: Scratch) -> Tensor:
    """Return the local maxima (n, D) of a block; 0 outside of all windows."""
    best = load(x_BLD, block.windows, block.num_rows, scratch, as_values=True)
    for step in range(window - 1):
        best = maxima_of_neighbours(best, step, scratch)
    best_nd = scratch.view(best).flatten(0, 1)
    return best_nd if block.excluded is None else best_nd.index_fill_(0, block.excluded, 0.0)


def local_backward(
    grad_BLD: Tensor, x_BLD: Tensor, grad_x_nd: Tensor, block: Block, window: int, scratch: Scratch
) -> None:
    """Write the gradient of the local values; that of each window goes to its first maximum."""
    best = load(x_BLD, block.values, block.num_rows, scratch, as_values=True)
    grad = load(grad_BLD, block.windows, block.num_rows, scratch, as_values=False)
    for step in range(window - 1):
        left, right = scratch.neighbours(best)
        torch.ge(left, right, out=scratch(f"keep {step}", *left.shape))
        if step < window - 2:
            best = maxima_of_neighbours(best, step, scratch)
    # A value between two windows gets what the left one passes on and what the right one keeps.
    for step in range(window - 1):
        stage = window - 2 - step
        shape = (grad.shape[0], grad.length + 2 * step, grad.shape[2])
        kept = Slab(f"keep {stage}", shape, step, grad.length)
        kept_kld, grad_kld = scratch.view(kept), scratch.view(grad)
        grad_kld.sub_(kept_kld.mul_(grad_kld))
        passed_kld = scratch.view(grad.part(0, grad.length - 1))
        grad = kept.part(1, kept.length - 1)
        result_kld = scratch.view(grad)
        if stage == 0 and grad_x_nd.dtype == scratch.dtype:
            result_kld = grad_x_nd.view(result_kld.shape)
        torch.add(scratch.view(grad), passed_kld, out=result_kld)
    if window == 1 or grad_x_nd.dtype != scratch.dtype:
        grad_x_nd.copy_(scratch.view(grad).flatten(0, 1))
