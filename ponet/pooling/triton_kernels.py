"""Triton kernels of the fused pools. N tokens in a row, D width, T tiles; see triton_mix.

Passes over an (N, D) tensor (reads + writes; what a tile border adds is below 1 in 10):
    forward   partial_max and mix_forward together read segment, local and gate and write the mixed
              pools: 4. The tokens of cut runs are read by the former, all others by the latter.
    backward  mix_backward and cut_backward together read the gradient, segment, local and gate and
              write three gradients: 7. Maxima are found again, so that nothing of this size is
              kept from the forward pass.
What a run needs twice (its values, then its maximum at each of them) comes from the cache the
second time, as do neighbours in local windows.

One program, a warp, works on one tile and one line of channels. It goes through the stretches of
the tile, a whole run or what lies between two of them, a chunk of tokens at a time: so sums and
maxima over tokens stay in the registers of a thread, no program waits for another warp, and a long
tile costs no registers. (In one block of 64 tokens, each run took six reductions across 8 warps:
the backward pass then ran at 22 % of a copy on an H100.) No atomics: every sum has one order, so
results repeat bit by bit. Arithmetic is in float32.

Every value is cast right after it is loaded: the interpreter computes wrongly on bfloat16. What is
loaded depends on positions alone where that costs no traffic, and codes choose among the values: a
load that waits for a code waits twice.
"""

# The Triton language is no Python that mypy knows.
# mypy: ignore-errors
# ruff: noqa: PLR0912, PLR0913, PLR0915, PLR0917 (pointers one by one, parts by compile-time switches)
import triton
import triton.language as tl

from ponet.pooling.triton_tiles import (
    HAS_WINDOW,
    IN_LEFT,
    IN_RIGHT,
    IS_REAL,
    IS_WHOLE,
    LEFT_IN_STRETCH,
    READS_SEGMENT,
    at_rows,
    chunk_of,
    count_maxima,
    has,
    join_maxima,
    program_of,
    row_of,
)

# What mix_* do with `segment`: nothing, take the maximum of each run, or it is pooled already.
NO_SEGMENT = tl.constexpr(0)
POOL_RUNS = tl.constexpr(1)
IS_POOLED = tl.constexpr(2)


@triton.jit
def _cut_row(table_ptr, tiles_ptr, first, tile, num_tiles, cols, width):
    """Return the row of a (T, D) table about the cut run of a stretch whose first code is given."""
    left = tl.load(tiles_ptr + (num_tiles + 1) + tile)
    owner = tl.where((first & IN_LEFT) != 0, left, tile)
    return row_of(table_ptr, owner, cols, width, owner >= 0)


@triton.jit
def _neighbour(
    x_ptr, code_ptr, tokens, at, exists, offset, row_begin, row_len, stride, cols_ok, other
):  # fmt: skip
    """Return the values `offset` tokens away; `other` if that token enters no window of the row."""
    there = tokens + offset
    in_row = exists & (there >= row_begin) & (there < row_begin + row_len)
    enters = has(tl.load(code_ptr + there, mask=in_row, other=0), HAS_WINDOW)
    use = in_row[:, None] & cols_ok[None, :]
    x = tl.load(x_ptr + at + offset * stride, mask=use, other=other).to(tl.float32)
    return tl.where(enters, x, other)


@triton.jit
def mix_forward(
    global_ptr, segment_ptr, local_ptr, gate_ptr, out_ptr, cut_max_ptr, code_ptr, text_ptr,
    tiles_ptr, num_tiles, row_len, width, in_stride,
    HAS_GLOBAL: tl.constexpr, SEGMENT: tl.constexpr, HAS_LOCAL: tl.constexpr,
    HAS_GATE: tl.constexpr, REACH: tl.constexpr, LINE: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Write (global + segment) * gate + local; 0 at padding."""
    tile, cols, at_stretch, end = program_of(tiles_ptr, num_tiles, width, LINE)
    row = at_stretch // row_len
    of_all = tl.zeros([LINE], tl.float32)
    for _stretch in range(0, tl.load(tiles_ptr + 3 * (num_tiles + 1) + tile)):
        first = tl.load(code_ptr + at_stretch)
        stop = at_stretch + first // LEFT_IN_STRETCH
        if HAS_GLOBAL:
            text = tl.load(text_ptr + at_stretch)
            of_all = row_of(global_ptr, text, cols, width, text >= 0)
        if SEGMENT == POOL_RUNS:
            x_max = tl.full([CHUNK, LINE], float("-inf"), tl.float32)
            is_alone = (first & (IS_WHOLE | IN_LEFT | IN_RIGHT)) == 0
            pooled = tl.where((first & IS_WHOLE) != 0, stop, at_stretch)
            for start in range(at_stretch, pooled, CHUNK):
                tokens, exists, code, here = chunk_of(code_ptr, start, stop, cols, width, CHUNK)
                at = at_rows(tokens, cols, in_stride)
                x = tl.load(segment_ptr + at, mask=here, other=float("-inf")).to(tl.float32)
                x_max = tl.maximum(x_max, tl.where(has(code, IS_REAL), x, float("-inf")))
            top = tl.max(x_max, 0)
            if (first & (IN_LEFT | IN_RIGHT)) != 0:
                top = _cut_row(cut_max_ptr, tiles_ptr, first, tile, num_tiles, cols, width)
        for start in range(at_stretch, stop, CHUNK):
            tokens, exists, code, here = chunk_of(code_ptr, start, stop, cols, width, CHUNK)
            at = at_rows(tokens, cols, in_stride)
            mixed = tl.zeros([CHUNK, LINE], tl.float32) + of_all[None, :]
            if SEGMENT == POOL_RUNS:
                best = tl.zeros([CHUNK, LINE], tl.float32) + top[None, :]
                if is_alone:
                    best = tl.load(segment_ptr + at, mask=here, other=0).to(tl.float32)
                mixed += tl.where(has(code, READS_SEGMENT), best, 0.0)
            if SEGMENT == IS_POOLED:
                mixed += tl.load(segment_ptr + at, mask=here, other=0).to(tl.float32)
            if HAS_GATE:
                mixed *= tl.load(gate_ptr + at, mask=here, other=0).to(tl.float32)
            if HAS_LOCAL:
                best = tl.full([CHUNK, LINE], float("-inf"), tl.float32)
                for offset in tl.static_range(-REACH, REACH + 1):
                    x = _neighbour(
                        local_ptr, code_ptr, tokens, at, exists, offset, row * row_len, row_len,
                        in_stride, cols < width, float("-inf"),
                    )  # fmt: skip
                    best = tl.maximum(best, x)
                mixed += tl.where(has(code, HAS_WINDOW), best, 0.0)
            mixed = tl.where(has(code, IS_REAL), mixed, 0.0)
            tl.store(out_ptr + at_rows(tokens, cols, width), mixed, mask=here)
        at_stretch = stop


@triton.jit
def mix_backward(
    grad_ptr, global_ptr, segment_ptr, local_ptr, gate_ptr, grad_tokens_ptr, piece_global_ptr,
    piece_sum_ptr, cut_max_ptr, code_ptr, text_ptr, tiles_ptr, num_tiles, row_len, width,
    in_stride, out_stride,
    HAS_GLOBAL: tl.constexpr, SEGMENT: tl.constexpr, HAS_LOCAL: tl.constexpr,
    HAS_GATE: tl.constexpr, REACH: tl.constexpr, LINE: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Write the gradients of gate and local, that of segment in uncut runs, and partial sums.

    grad_tokens: (N, M * D), those of segment, local and gate side by side. piece_global: float32,
    row t + k is what tile t adds to the gradient of the global pool of text k; the next tile, or
    text, has another row. piece_sum: float32 (2, T, D), of the maxima of cut runs, as in
    partial_max.
    """
    tile, cols, at_stretch, end = program_of(tiles_ptr, num_tiles, width, LINE)
    row = at_stretch // row_len
    of_all = tl.zeros([LINE], tl.float32)
    global_sum = tl.zeros([CHUNK, LINE], tl.float32)
    text = tl.load(text_ptr + at_stretch)
    for _stretch in range(0, tl.load(tiles_ptr + 3 * (num_tiles + 1) + tile)):
        first = tl.load(code_ptr + at_stretch)
        stop = at_stretch + first // LEFT_IN_STRETCH
        if HAS_GLOBAL:
            before, text = text, tl.load(text_ptr + at_stretch)
            global_sum = tl.where(text == before, global_sum, 0.0)
            of_all = row_of(global_ptr, text, cols, width, text >= 0)
        top, share = tl.zeros([LINE], tl.float32), tl.zeros([LINE], tl.float32)
        is_whole, is_cut = (first & IS_WHOLE) != 0, (first & (IN_LEFT | IN_RIGHT)) != 0
        cut_sum = tl.zeros([CHUNK, LINE], tl.float32)
        if SEGMENT == POOL_RUNS:
            top, share = _run_backward(
                grad_ptr, segment_ptr, gate_ptr, code_ptr, at_stretch,
                tl.where(is_whole, stop, at_stretch), cols, width, in_stride, HAS_GATE, LINE, CHUNK,
            )  # fmt: skip
            if is_cut:
                top = _cut_row(cut_max_ptr, tiles_ptr, first, tile, num_tiles, cols, width)
        for start in range(at_stretch, stop, CHUNK):
            global_sum, cut_sum = _chunk_backward(
                grad_ptr, segment_ptr, local_ptr, gate_ptr, grad_tokens_ptr, code_ptr, start, stop,
                cols, of_all, top, share, is_whole, is_cut, global_sum, cut_sum, row * row_len,
                row_len, width, in_stride, out_stride, SEGMENT, HAS_LOCAL, HAS_GATE, REACH, LINE,
                CHUNK,
            )  # fmt: skip
        if HAS_GLOBAL:  # written anew until the text ends or the tile
            of_text = (tile + text).to(tl.int64) * width + cols
            tl.store(piece_global_ptr + of_text, tl.sum(global_sum, 0), mask=cols < width)
        if SEGMENT == POOL_RUNS:
            if is_cut:
                piece = tl.where((first & IN_LEFT) != 0, tile, num_tiles + tile)
                of_run = piece.to(tl.int64) * width + cols
                tl.store(piece_sum_ptr + of_run, tl.sum(cut_sum, 0), mask=cols < width)
        at_stretch = stop


@triton.jit
def _chunk_backward(
    grad_ptr, segment_ptr, local_ptr, gate_ptr, grad_tokens_ptr, code_ptr, start, stop, cols,
    of_all, top, share, is_whole, is_cut, global_sum, cut_sum, row_begin, row_len, width,
    in_stride, out_stride,
    SEGMENT: tl.constexpr, HAS_LOCAL: tl.constexpr, HAS_GATE: tl.constexpr, REACH: tl.constexpr,
    LINE: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Write the gradients of a chunk of a stretch; return the sums with what it adds to them."""
    tokens, exists, code, here = chunk_of(code_ptr, start, stop, cols, width, CHUNK)
    at, use = at_rows(tokens, cols, in_stride), here & has(code, IS_REAL)
    at_grad, to = at_rows(tokens, cols, width), at_rows(tokens, cols, out_stride)
    grad = tl.load(grad_ptr + at_grad, mask=here, other=0).to(tl.float32)
    grad = tl.where(has(code, IS_REAL), grad, 0.0)
    product = grad
    if HAS_GATE:
        product = grad * tl.load(gate_ptr + at, mask=here, other=0).to(tl.float32)
    shared = tl.zeros([CHUNK, LINE], tl.float32) + of_all[None, :]
    global_sum += product
    if SEGMENT != NO_SEGMENT:
        product = tl.where(has(code, READS_SEGMENT), product, 0.0)
    if SEGMENT == POOL_RUNS:
        best, cut_sum = _segment_backward(
            product, segment_ptr, at, grad_tokens_ptr, to, here, use, top, share, is_whole,
            is_cut, cut_sum, LINE, CHUNK,
        )  # fmt: skip
        shared += tl.where(has(code, READS_SEGMENT), best, 0.0)
    if SEGMENT == IS_POOLED:
        shared += tl.load(segment_ptr + at, mask=here, other=0).to(tl.float32)
        tl.store(grad_tokens_ptr + to, product, mask=here)
    if SEGMENT != NO_SEGMENT:
        to += width
    if HAS_LOCAL:
        of_local = _local_backward(
            grad, grad_ptr, local_ptr, code_ptr, tokens, at_grad, at, exists, code, row_begin,
            row_len, width, in_stride, cols < width, REACH, CHUNK, LINE,
        )  # fmt: skip
        tl.store(grad_tokens_ptr + to, of_local, mask=here)
        to += width
    if HAS_GATE:
        tl.store(grad_tokens_ptr + to, grad * shared, mask=here)
    return global_sum, cut_sum


@triton.jit
def _run_backward(
    grad_ptr, segment_ptr, gate_ptr, code_ptr, begin, end, cols, width, in_stride,
    HAS_GATE: tl.constexpr, LINE: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Return the maximum of a whole run, and what each of its maxima gets of the gradient."""
    best = tl.full([CHUNK, LINE], float("-inf"), tl.float32)
    ties = tl.zeros([CHUNK, LINE], tl.float32)
    total = tl.zeros([CHUNK, LINE], tl.float32)
    for start in range(begin, end, CHUNK):
        tokens, exists, code, here = chunk_of(code_ptr, start, end, cols, width, CHUNK)
        at, use = at_rows(tokens, cols, in_stride), here & has(code, IS_REAL)
        x = tl.load(segment_ptr + at, mask=here, other=0).to(tl.float32)
        best, ties = count_maxima(best, ties, x, use)
        at_grad = at_rows(tokens, cols, width)
        product = tl.load(grad_ptr + at_grad, mask=here, other=0).to(tl.float32)
        if HAS_GATE:
            product *= tl.load(gate_ptr + at, mask=here, other=0).to(tl.float32)
        total += tl.where(has(code, READS_SEGMENT), product, 0.0)
    top, ties = join_maxima(best, ties)
    return top, tl.sum(total, 0) / tl.maximum(ties, 1.0)


@triton.jit
def _segment_backward(
    product, segment_ptr, at, grad_tokens_ptr, to, here, use, top, share, is_whole, is_cut,
    cut_sum, LINE: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Return each token's maximum, and the sum of a cut run; write gradients of the others."""
    best = tl.zeros([CHUNK, LINE], tl.float32) + top[None, :]
    if is_cut:
        cut_sum += product
    else:
        x = tl.load(segment_ptr + at, mask=here, other=0).to(tl.float32)
        best = tl.where(is_whole, best, x)
        own = tl.where(use & (x == best), share[None, :], 0.0)
        tl.store(grad_tokens_ptr + to, tl.where(is_whole, own, product), mask=here)
    return best, cut_sum


@triton.jit
def _local_backward(
    grad, grad_ptr, local_ptr, code_ptr, tokens, at_grad, at, exists, code, row_begin, row_len,
    width, in_stride, cols_ok, REACH: tl.constexpr, CHUNK: tl.constexpr, LINE: tl.constexpr,
):  # fmt: skip
    """Return the gradient of local: a token gets that of every window of which it is the first max.

    Such a token is above all before it in the window and not below those behind it.
    """
    here = exists[:, None] & cols_ok[None, :]
    own = tl.load(local_ptr + at, mask=here, other=0).to(tl.float32)
    best = tl.full([CHUNK, LINE], float("-inf"), tl.float32)
    before = (best,)  # before[k], behind[k]: the maximum of the k nearest neighbours
    behind = (best,)
    for distance in tl.static_range(1, 2 * REACH + 1):
        x = _neighbour(
            local_ptr, code_ptr, tokens, at, exists, -distance, row_begin, row_len, in_stride,
            cols_ok, float("-inf"),
        )  # fmt: skip
        before = before + (tl.maximum(before[distance - 1], x),)
        x = _neighbour(
            local_ptr, code_ptr, tokens, at, exists, distance, row_begin, row_len, in_stride,
            cols_ok, float("-inf"),
        )  # fmt: skip
        behind = behind + (tl.maximum(behind[distance - 1], x),)
    takes = (before[REACH] < own) & (behind[REACH] <= own)
    total = tl.where(takes, grad, 0.0)
    for shift in tl.static_range(1, REACH + 1):
        of_left = _neighbour(
            grad_ptr, code_ptr, tokens, at_grad, exists, -shift, row_begin, row_len, width,
            cols_ok, 0.0,
        )  # fmt: skip
        takes = (before[REACH + shift] < own) & (behind[REACH - shift] <= own)
        total += tl.where(takes, of_left, 0.0)
        of_right = _neighbour(
            grad_ptr, code_ptr, tokens, at_grad, exists, shift, row_begin, row_len, width,
            cols_ok, 0.0,
        )  # fmt: skip
        takes = (before[REACH - shift] < own) & (behind[REACH + shift] <= own)
        total += tl.where(takes, of_right, 0.0)
    return tl.where(has(code, HAS_WINDOW), total, 0.0)
