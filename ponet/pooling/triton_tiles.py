"""What the Triton kernels of this folder share: tiles, stretches, chunks of tokens; see run_tiles.

Scalars choose bounds, not masks: the interpreter cannot join a condition on a scalar with one on a
block.
"""

# The Triton language is no Python that mypy knows.
# mypy: ignore-errors
# ruff: noqa: PLR0913, PLR0917 (a kernel takes its pointers one by one)
import triton
import triton.language as tl

# The meaning of the token codes, see run_tiles.
IS_REAL = tl.constexpr(1)
HAS_WINDOW = tl.constexpr(2)
READS_SEGMENT = tl.constexpr(4)
IS_WHOLE = tl.constexpr(8)
IN_LEFT = tl.constexpr(16)
IN_RIGHT = tl.constexpr(32)
LEFT_IN_STRETCH = tl.constexpr(64)


@triton.jit
def program_of(tiles_ptr, num_tiles, width, LINE: tl.constexpr):
    """Return tile and channels of a program, and the first tokens of the tile and the next one."""
    num_lines = tl.cdiv(width, LINE)
    tile = tl.program_id(0) // num_lines
    cols = (tl.program_id(0) % num_lines) * LINE + tl.arange(0, LINE)
    return tile, cols, tl.load(tiles_ptr + tile), tl.load(tiles_ptr + tile + 1)


@triton.jit
def chunk_of(code_ptr, start, stop, cols, width, CHUNK: tl.constexpr):
    """Return tokens from start on, which of them lie before stop, codes, and what to load."""
    tokens = start + tl.arange(0, CHUNK)
    exists = tokens < stop
    code = tl.load(code_ptr + tokens, mask=exists, other=0)
    return tokens, exists, code, exists[:, None] & (cols < width)[None, :]


@triton.jit
def at_rows(tokens, cols, stride):
    """Return the addresses of tokens in a tensor whose rows lie `stride` values apart."""
    return tokens.to(tl.int64)[:, None] * stride + cols[None, :]


@triton.jit
def cuts_of(tiles_ptr, tile, num_tiles):
    """Return the tiles that the runs start in which enter from the left and leave to the right.

    left is -1 if no run enters. A run that starts in this tile leaves it if right is the tile.
    """
    left = tl.load(tiles_ptr + (num_tiles + 1) + tile)
    right = tl.load(tiles_ptr + (num_tiles + 1) + tile + 1)
    return left, right


@triton.jit
def has(code, bit):
    """Return where the bit is set, as a column to combine with blocks."""
    return ((code & bit) != 0)[:, None]


@triton.jit
def row_of(table_ptr, row, cols, width, exists):
    """Return one row of a (T, D) table in float32, 0 if it does not exist."""
    offset = row.to(tl.int64) * width
    use = cols < tl.where(exists, width, 0)
    return tl.load(table_ptr + offset + cols, mask=use, other=0).to(tl.float32)


@triton.jit
def cut_rows(table_ptr, tiles_ptr, tile, num_tiles, cols, width):
    """Return the rows of a (T, D) table about the cut runs that enter the tile and leave it."""
    left, right = cuts_of(tiles_ptr, tile, num_tiles)
    of_left = row_of(table_ptr, left, cols, width, left >= 0)
    return of_left, row_of(table_ptr, right, cols, width, right == tile)


@triton.jit
def count_maxima(best, ties, x, counts):
    """Return the maxima, place by place, of best and of the x that count, and how often they are.

    Chunk by chunk; `join_maxima` joins the places of a column at the end.
    """
    x = tl.where(counts, x, float("-inf"))
    newest = tl.maximum(best, x)
    ties = tl.where(best == newest, ties, 0.0)
    return newest, ties + (counts & (x == newest)).to(tl.float32)


@triton.jit
def join_maxima(best, ties):
    """Return the maximum of every column and how often it is there."""
    top = tl.max(best, 0)
    return top, tl.sum(tl.where(best == top[None, :], ties, 0.0), 0)
