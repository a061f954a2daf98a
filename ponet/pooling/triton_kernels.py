"""Triton kernels of the fused pools. N tokens in a row, D width, T tiles; see triton_mix.

Passes over an (N, D) tensor (reads + writes; what a tile border adds is below 1 in 10):
    forward   partial_max and mix_forward together read segment, local and gate once and write the
              mixed pools: 4. The tokens of cut runs are read by the former, all others by the
              latter. Neighbours in local windows come from the cache.
    backward  mix_backward and cut_backward together read the gradient, segment, local and gate
              once and write three gradients: 7. Maxima of whole runs are found again in the tile,
              so that nothing of this size is kept from the forward pass.
`combine_max` and `combine_sum` join the pieces of cut runs; they touch two rows per tile at most.

One program works on one tile and one line of channels. It goes through the runs that lie in the
tile as a whole: about three of sentence length, none where a run fills many tiles, at worst half a
tile of two tokens each, which costs arithmetic but no traffic. Runs of one token need no step. No
atomics: every sum has one order, so results repeat bit by bit. Arithmetic is in float32.

Every value is cast right after it is loaded: the interpreter computes wrongly on bfloat16.
"""

# The Triton language is no Python that mypy knows.
# mypy: ignore-errors
# ruff: noqa: PLR0913, PLR0917 (a kernel takes its pointers one by one)
import triton
import triton.language as tl

# The meaning of the token codes, see triton_mix.
IS_REAL = tl.constexpr(1)
HAS_WINDOW = tl.constexpr(2)
READS_SEGMENT = tl.constexpr(4)
IS_ALONE = tl.constexpr(8)
IN_LEFT = tl.constexpr(16)
IN_RIGHT = tl.constexpr(32)
FIRST_RUN = tl.constexpr(64)
# What mix_* do with `segment`: nothing, take the maximum of each run, or it is pooled already.
NO_SEGMENT = tl.constexpr(0)
POOL_RUNS = tl.constexpr(1)
IS_POOLED = tl.constexpr(2)


@triton.jit
def _tile_of(code_ptr, tiles_ptr, tile, BLOCK: tl.constexpr):
    """Return the tile's tokens as numbers of rows, which of them exist, and their codes."""
    begin = tl.load(tiles_ptr + tile)
    tokens = begin + tl.arange(0, BLOCK)
    in_tile = tokens < tl.load(tiles_ptr + tile + 1)
    return begin, tokens, in_tile, tl.load(code_ptr + tokens, mask=in_tile, other=0)


@triton.jit
def _cuts_of(tiles_ptr, tile, num_tiles):
    """Return the tiles that the runs start in which enter from the left and leave to the right.

    left is -1 if no run enters. A run that starts in this tile leaves it if right is the tile.
    """
    left = tl.load(tiles_ptr + (num_tiles + 1) + tile)
    right = tl.load(tiles_ptr + (num_tiles + 1) + tile + 1)
    return left, right


@triton.jit
def _has(code, bit):
    """Return where the bit is set, as a column to combine with blocks."""
    return ((code & bit) != 0)[:, None]


@triton.jit
def _row_of(table_ptr, row, cols, width, exists):
    """Return one row of a (T, D) table in float32, 0 if it does not exist."""
    offset = row.to(tl.int64) * width
    use = cols < tl.where(exists, width, 0)
    return tl.load(table_ptr + offset + cols, mask=use, other=0).to(tl.float32)


@triton.jit
def _load_uncut(segment_ptr, at, here, code):
    """Return the values of segment, -inf at padding and in cut runs."""
    use = here & ((code & (IS_REAL | IN_LEFT | IN_RIGHT)) == IS_REAL)[:, None]
    return tl.load(segment_ptr + at, mask=use, other=float("-inf")).to(tl.float32)


@triton.jit
def _cut_values(table_ptr, code, tiles_ptr, tile, num_tiles, cols, width, other):
    """Return each token's row of a (T, D) table about cut runs; `other` in runs that are whole."""
    left, right = _cuts_of(tiles_ptr, tile, num_tiles)
    of_left = _row_of(table_ptr, left, cols, width, left >= 0)
    of_right = _row_of(table_ptr, right, cols, width, right == tile)
    values = tl.where(_has(code, IN_LEFT), of_left[None, :], other)
    return tl.where(_has(code, IN_RIGHT), of_right[None, :], values)


@triton.jit
def partial_max(
    segment_ptr, code_ptr, tiles_ptr, piece_max_ptr, piece_ties_ptr, num_tiles, width,
    BLOCK: tl.constexpr, LINE: tl.constexpr,
):  # fmt: skip
    """Write maximum and number of tied maxima of the piece of each cut run in the tile.

    piece_*: float32 (2, T, D), [0] of the run that enters from the left, [1] of the one that starts
    here and leaves.
    """
    tile = tl.program_id(0)
    left, right = _cuts_of(tiles_ptr, tile, num_tiles)
    if (left < 0) & (right != tile):
        return
    _, tokens, _, code = _tile_of(code_ptr, tiles_ptr, tile, BLOCK)
    in_left = _has(code, IN_LEFT) & _has(code, IS_REAL)
    in_right = _has(code, IN_RIGHT) & _has(code, IS_REAL)
    for start in range(0, width, LINE):
        cols = start + tl.arange(0, LINE)
        at = tokens.to(tl.int64)[:, None] * width + cols[None, :]
        use = (in_left | in_right) & (cols < width)[None, :]
        x = tl.load(segment_ptr + at, mask=use, other=float("-inf")).to(tl.float32)
        to = tile.to(tl.int64) * width + cols
        # Scalars choose bounds, not masks: the interpreter cannot join a condition on a scalar
        # with one on a block.
        store = cols < tl.where(left >= 0, width, 0)
        best = tl.max(tl.where(in_left, x, float("-inf")), 0)
        ties = tl.sum(((x == best[None, :]) & in_left).to(tl.float32), 0)
        tl.store(piece_max_ptr + to, best, mask=store)
        tl.store(piece_ties_ptr + to, ties, mask=store)
        to = (num_tiles + tile).to(tl.int64) * width + cols
        store = cols < tl.where(right == tile, width, 0)
        best = tl.max(tl.where(in_right, x, float("-inf")), 0)
        ties = tl.sum(((x == best[None, :]) & in_right).to(tl.float32), 0)
        tl.store(piece_max_ptr + to, best, mask=store)
        tl.store(piece_ties_ptr + to, ties, mask=store)


@triton.jit
def combine_max(
    piece_max_ptr, piece_ties_ptr, tiles_ptr, cut_max_ptr, cut_ties_ptr, num_tiles, width,
    LINE: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Write maximum and ties of the cut run that starts in the tile, from all its pieces."""
    tile = tl.program_id(0)
    right = tl.load(tiles_ptr + (num_tiles + 1) + tile + 1)
    if right != tile:
        return
    cols = tl.program_id(1) * LINE + tl.arange(0, LINE)
    to = tile.to(tl.int64) * width + cols
    to_right = (num_tiles + tile).to(tl.int64) * width + cols
    best = tl.load(piece_max_ptr + to_right, mask=cols < width, other=0)
    ties = tl.load(piece_ties_ptr + to_right, mask=cols < width, other=0)
    final = tl.load(tiles_ptr + 2 * (num_tiles + 1) + tile)
    for start in range(tile + 1, final + 1, STEP):
        rows = start + tl.arange(0, STEP)
        at = rows.to(tl.int64)[:, None] * width + cols[None, :]
        use = (rows <= final)[:, None] & (cols < width)[None, :]
        x = tl.load(piece_max_ptr + at, mask=use, other=float("-inf"))
        counts = tl.load(piece_ties_ptr + at, mask=use, other=0)
        newest = tl.maximum(best, tl.max(x, 0))
        ties = tl.where(best == newest, ties, 0.0)
        ties += tl.sum(tl.where(x == newest[None, :], counts, 0.0), 0)
        best = newest
    tl.store(cut_max_ptr + to, best, mask=cols < width)
    tl.store(cut_ties_ptr + to, ties, mask=cols < width)


@triton.jit
def combine_sum(
    piece_sum_ptr, tiles_ptr, cut_ties_ptr, cut_share_ptr, num_tiles, width,
    LINE: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Write what each maximum of the cut run that starts in the tile gets of its gradient."""
    tile = tl.program_id(0)
    right = tl.load(tiles_ptr + (num_tiles + 1) + tile + 1)
    if right != tile:
        return
    cols = tl.program_id(1) * LINE + tl.arange(0, LINE)
    to = tile.to(tl.int64) * width + cols
    to_right = (num_tiles + tile).to(tl.int64) * width + cols
    total = tl.load(piece_sum_ptr + to_right, mask=cols < width, other=0)
    final = tl.load(tiles_ptr + 2 * (num_tiles + 1) + tile)
    for start in range(tile + 1, final + 1, STEP):
        rows = start + tl.arange(0, STEP)
        at = rows.to(tl.int64)[:, None] * width + cols[None, :]
        use = (rows <= final)[:, None] & (cols < width)[None, :]
        total += tl.sum(tl.load(piece_sum_ptr + at, mask=use, other=0), 0)
    ties = tl.load(cut_ties_ptr + to, mask=cols < width, other=1)
    tl.store(cut_share_ptr + to, total / ties, mask=cols < width)


@triton.jit
def _neighbour(
    x_ptr, code_ptr, tokens, at, in_tile, offset, row_begin, row_len, width, cols_ok, other
):  # fmt: skip
    """Return the values `offset` tokens away; `other` if that token enters no window of the row."""
    there = tokens + offset
    in_row = in_tile & (there >= row_begin) & (there < row_begin + row_len)
    enters = _has(tl.load(code_ptr + there, mask=in_row, other=0), HAS_WINDOW)
    use = enters & cols_ok[None, :]
    return tl.load(x_ptr + at + offset * width, mask=use, other=other).to(tl.float32)


@triton.jit
def mix_forward(
    global_ptr, segment_ptr, local_ptr, gate_ptr, out_ptr, cut_max_ptr, code_ptr, tiles_ptr,
    num_tiles, row_len, width,
    HAS_GLOBAL: tl.constexpr, SEGMENT: tl.constexpr, HAS_LOCAL: tl.constexpr,
    HAS_GATE: tl.constexpr, REACH: tl.constexpr, BLOCK: tl.constexpr, LINE: tl.constexpr,
):  # fmt: skip
    """Write (global + segment) * gate + local; 0 at padding."""
    num_lines = tl.cdiv(width, LINE)
    tile = tl.program_id(0) // num_lines
    cols = (tl.program_id(0) % num_lines) * LINE + tl.arange(0, LINE)
    begin, tokens, in_tile, code = _tile_of(code_ptr, tiles_ptr, tile, BLOCK)
    at = tokens.to(tl.int64)[:, None] * width + cols[None, :]
    cols_ok = cols < width
    here = in_tile[:, None] & cols_ok[None, :]
    use = here & _has(code, IS_REAL)

    mixed = tl.zeros([BLOCK, LINE], tl.float32)
    row = begin // row_len
    if HAS_GLOBAL:
        mixed += _row_of(global_ptr, row, cols, width, row >= 0)[None, :]
    if SEGMENT == POOL_RUNS:
        x = _load_uncut(segment_ptr, at, here, code)
        best = _cut_values(cut_max_ptr, code, tiles_ptr, tile, num_tiles, cols, width, x)
        for run in range(1, tl.load(tiles_ptr + 3 * (num_tiles + 1) + tile) + 1):
            member = (code // FIRST_RUN == run)[:, None]
            top = tl.max(tl.where(member, x, float("-inf")), 0)
            best = tl.where(member, top[None, :], best)
        mixed += tl.where(_has(code, READS_SEGMENT), best, 0.0)
    if SEGMENT == IS_POOLED:
        mixed += tl.load(segment_ptr + at, mask=use, other=0).to(tl.float32)
    if HAS_GATE:
        mixed *= tl.load(gate_ptr + at, mask=use, other=0).to(tl.float32)
    if HAS_LOCAL:
        row_begin = row * row_len
        best = tl.full([BLOCK, LINE], float("-inf"), tl.float32)
        for offset in tl.static_range(-REACH, REACH + 1):
            x = _neighbour(
                local_ptr, code_ptr, tokens, at, in_tile, offset, row_begin, row_len, width,
                cols_ok, float("-inf"),
            )  # fmt: skip
            best = tl.maximum(best, x)
        mixed += tl.where(_has(code, HAS_WINDOW), best, 0.0)
    tl.store(out_ptr + at, tl.where(_has(code, IS_REAL), mixed, 0.0), mask=here)


@triton.jit
def mix_backward(
    grad_ptr, global_ptr, segment_ptr, local_ptr, gate_ptr, grad_segment_ptr, grad_local_ptr,
    grad_gate_ptr, piece_global_ptr, piece_sum_ptr, cut_max_ptr, code_ptr, tiles_ptr, num_tiles,
    row_len, width,
    HAS_GLOBAL: tl.constexpr, SEGMENT: tl.constexpr, HAS_LOCAL: tl.constexpr,
    HAS_GATE: tl.constexpr, REACH: tl.constexpr, BLOCK: tl.constexpr, LINE: tl.constexpr,
):  # fmt: skip
    """Write the gradients of gate and local, that of segment in uncut runs, and partial sums.

    piece_global: float32 (T, D), the tile's share of the gradient of the global pool. piece_sum:
    float32 (2, T, D), of the maxima of cut runs, as in partial_max.
    """
    num_lines = tl.cdiv(width, LINE)
    tile = tl.program_id(0) // num_lines
    cols = (tl.program_id(0) % num_lines) * LINE + tl.arange(0, LINE)
    begin, tokens, in_tile, code = _tile_of(code_ptr, tiles_ptr, tile, BLOCK)
    at = tokens.to(tl.int64)[:, None] * width + cols[None, :]
    cols_ok = cols < width
    here = in_tile[:, None] & cols_ok[None, :]
    use = here & _has(code, IS_REAL)

    grad = tl.load(grad_ptr + at, mask=use, other=0).to(tl.float32)
    product = grad
    if HAS_GATE:
        product = grad * tl.load(gate_ptr + at, mask=use, other=0).to(tl.float32)
    shared = tl.zeros([BLOCK, LINE], tl.float32)
    row = begin // row_len
    if HAS_GLOBAL:
        shared += _row_of(global_ptr, row, cols, width, row >= 0)[None, :]
        to = tile.to(tl.int64) * width + cols
        tl.store(piece_global_ptr + to, tl.sum(product, 0), mask=cols_ok)
    if SEGMENT != NO_SEGMENT:
        product = tl.where(_has(code, READS_SEGMENT), product, 0.0)
    if SEGMENT == POOL_RUNS:
        best = _segment_backward(
            product, segment_ptr, grad_segment_ptr, piece_sum_ptr, cut_max_ptr, code, tiles_ptr,
            tile, num_tiles, at, here, cols, width,
        )  # fmt: skip
        shared += tl.where(_has(code, READS_SEGMENT), best, 0.0)
    if SEGMENT == IS_POOLED:
        shared += tl.load(segment_ptr + at, mask=use, other=0).to(tl.float32)
        tl.store(grad_segment_ptr + at, product, mask=here)
    if HAS_GATE:
        tl.store(grad_gate_ptr + at, grad * shared, mask=here)
    if HAS_LOCAL:
        _local_backward(
            grad, grad_ptr, local_ptr, grad_local_ptr, code_ptr, tokens, at, in_tile, code,
            row * row_len, row_len, width, cols_ok, REACH, BLOCK, LINE,
        )  # fmt: skip


@triton.jit
def _segment_backward(
    product, segment_ptr, grad_segment_ptr, piece_sum_ptr, cut_max_ptr, code, tiles_ptr, tile,
    num_tiles, at, here, cols, width,
):  # fmt: skip
    """Return the maximum of every token's run; write gradients of uncut runs, sums of cut ones."""
    x = _load_uncut(segment_ptr, at, here, code)
    best = _cut_values(cut_max_ptr, code, tiles_ptr, tile, num_tiles, cols, width, x)
    share = tl.where(_has(code, IS_ALONE) & _has(code, IS_REAL), product, 0.0)
    for run in range(1, tl.load(tiles_ptr + 3 * (num_tiles + 1) + tile) + 1):
        member = (code // FIRST_RUN == run)[:, None]
        top = tl.max(tl.where(member, x, float("-inf")), 0)
        best = tl.where(member, top[None, :], best)
        is_max = member & (x == top[None, :])
        ties = tl.sum(is_max.to(tl.float32), 0)
        total = tl.sum(tl.where(member, product, 0.0), 0)
        share = tl.where(is_max, (total / ties)[None, :], share)
    is_cut = _has(code, IN_LEFT | IN_RIGHT)
    tl.store(grad_segment_ptr + at, share, mask=here & ~is_cut)
    left, right = _cuts_of(tiles_ptr, tile, num_tiles)
    if left >= 0:
        to = tile.to(tl.int64) * width + cols
        total = tl.sum(tl.where(_has(code, IN_LEFT), product, 0.0), 0)
        tl.store(piece_sum_ptr + to, total, mask=cols < width)
    if right == tile:
        to = (num_tiles + tile).to(tl.int64) * width + cols
        total = tl.sum(tl.where(_has(code, IN_RIGHT), product, 0.0), 0)
        tl.store(piece_sum_ptr + to, total, mask=cols < width)
    return best


@triton.jit
def _local_backward(
    grad, grad_ptr, local_ptr, grad_local_ptr, code_ptr, tokens, at, in_tile, code, row_begin,
    row_len, width, cols_ok, REACH: tl.constexpr, BLOCK: tl.constexpr, LINE: tl.constexpr,
):  # fmt: skip
    """Write the gradient of local: a token gets that of every window of which it is the first max.

    Such a token is above all before it in the window and not below those behind it.
    """
    allowed = _has(code, HAS_WINDOW) & cols_ok[None, :]
    own = tl.load(local_ptr + at, mask=allowed, other=0).to(tl.float32)
    best = tl.full([BLOCK, LINE], float("-inf"), tl.float32)
    before = (best,)  # before[k], behind[k]: the maximum of the k nearest neighbours
    behind = (best,)
    for distance in tl.static_range(1, 2 * REACH + 1):
        x = _neighbour(
            local_ptr, code_ptr, tokens, at, in_tile, -distance, row_begin, row_len, width, cols_ok,
            float("-inf"),
        )  # fmt: skip
        before = before + (tl.maximum(before[distance - 1], x),)
        x = _neighbour(
            local_ptr, code_ptr, tokens, at, in_tile, distance, row_begin, row_len, width, cols_ok,
            float("-inf"),
        )  # fmt: skip
        behind = behind + (tl.maximum(behind[distance - 1], x),)
    takes = (before[REACH] < own) & (behind[REACH] <= own)
    total = tl.where(takes, grad, 0.0)
    for shift in tl.static_range(1, REACH + 1):
        of_left = _neighbour(
            grad_ptr, code_ptr, tokens, at, in_tile, -shift, row_begin, row_len, width, cols_ok, 0.0
        )
        takes = (before[REACH + shift] < own) & (behind[REACH - shift] <= own)
        total += tl.where(takes, of_left, 0.0)
        of_right = _neighbour(
            grad_ptr, code_ptr, tokens, at, in_tile, shift, row_begin, row_len, width, cols_ok, 0.0
        )
        takes = (before[REACH - shift] < own) & (behind[REACH + shift] <= own)
        total += tl.where(takes, of_right, 0.0)
    here = in_tile[:, None] & cols_ok[None, :]
    tl.store(grad_local_ptr + at, tl.where(allowed, total, 0.0), mask=here)


@triton.jit
def cut_backward(
    segment_ptr, grad_segment_ptr, cut_max_ptr, cut_share_ptr, code_ptr, tiles_ptr, num_tiles,
    width, BLOCK: tl.constexpr, LINE: tl.constexpr,
):  # fmt: skip
    """Write the gradient of segment at the tokens of cut runs."""
    tile = tl.program_id(0)
    left, right = _cuts_of(tiles_ptr, tile, num_tiles)
    if (left < 0) & (right != tile):
        return
    _, tokens, _, code = _tile_of(code_ptr, tiles_ptr, tile, BLOCK)
    real = _has(code, IS_REAL)
    for start in range(0, width, LINE):
        cols = start + tl.arange(0, LINE)
        at = tokens.to(tl.int64)[:, None] * width + cols[None, :]
        here = _has(code, IN_LEFT | IN_RIGHT) & (cols < width)[None, :]
        x = tl.load(segment_ptr + at, mask=here & real, other=float("-inf")).to(tl.float32)
        best = _cut_values(cut_max_ptr, code, tiles_ptr, tile, num_tiles, cols, width, 0.0)
        share = _cut_values(cut_share_ptr, code, tiles_ptr, tile, num_tiles, cols, width, 0.0)
        tl.store(grad_segment_ptr + at, tl.where(x == best, share, 0.0), mask=here)
