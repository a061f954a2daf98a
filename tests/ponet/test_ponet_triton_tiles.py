"""Tiles of the Triton kernels against what their definition says; needs no GPU."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ponet.pooling.run_tiles import (
    IN_LEFT,
    IN_RIGHT,
    IS_REAL,
    IS_WHOLE,
    LEFT_IN_STRETCH,
    TileSizes,
    tile_runs,
    tile_sorted,
)

SIZES = TileSizes(step=5, slack=3)


def random_rows(seed, num_tokens):
    """Runs of random length and random padding, also inside runs."""
    generator = torch.Generator().manual_seed(seed)
    starts = torch.rand((2, num_tokens), generator=generator) < 0.2
    mask = torch.rand((2, num_tokens), generator=generator) < 0.8
    return starts.long().cumsum(1) + torch.tensor([[0], [num_tokens + 1]]), mask


def tiles_of(rows, mask):
    return tile_runs(mask, mask, mask, rows, sizes=SIZES)


def segments_by_tile(tiles, rows, mask):
    """Per tile its tokens and, of every segment in the whole batch, the set of tiles it lies in."""
    begin = tiles.tiles_4T1[0].tolist()
    members = [range(a, b) for a, b in zip(begin, begin[1:], strict=False)]
    lies_in: dict[int, set[int]] = {}
    for tile, tokens in enumerate(members):
        for token in tokens:
            if mask.flatten()[token]:
                lies_in.setdefault(int(rows.flatten()[token]), set()).add(tile)
    return members, lies_in


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), num_tokens=st.integers(1, 40))
def test_tiles_hold_every_token_once_and_no_more_than_step_and_slack_of_one_row(seed, num_tokens):
    rows, mask = random_rows(seed, num_tokens)
    begin = tiles_of(rows, mask).tiles_4T1[0].tolist()
    assert begin[0] == 0 and begin[-1] == 2 * num_tokens and num_tokens in begin
    assert all(
        0 < b - a <= SIZES.step + SIZES.slack for a, b in zip(begin, begin[1:], strict=False)
    )


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), num_tokens=st.integers(1, 40))
def test_codes_tell_cut_runs_from_whole_ones_and_how_much_of_a_stretch_is_left(seed, num_tokens):
    rows, mask = random_rows(seed, num_tokens)
    tiles = tiles_of(rows, mask)
    members, lies_in = segments_by_tile(tiles, rows, mask)
    for tile, tokens in enumerate(members):
        stretches: list[list[int]] = []
        for token in tokens:
            if not stretches or token == stretches[-1][0] + stretches[-1][1]:
                stretches.append([token, int(tiles.code_N[token]) // LEFT_IN_STRETCH])
            begin, length = stretches[-1]
            code = int(tiles.code_N[token])
            assert code // LEFT_IN_STRETCH == begin + length - token
            assert bool(code & IS_REAL) == bool(mask.flatten()[token])
            if not code & IS_REAL:
                continue
            segment = int(rows.flatten()[token])
            where = sorted(lies_in[segment])
            assert bool(code & IN_LEFT) == (where[0] < tile)
            assert bool(code & IN_RIGHT) == (where[0] == tile < where[-1])
            own = ((rows == segment) & mask).flatten().nonzero().flatten().tolist()
            is_whole = len(where) == 1 and len(own) > 1
            assert bool(code & IS_WHOLE) == is_whole
            if is_whole:
                assert [begin, begin + length - 1] == [own[0], own[-1]]
        assert sum(stretches[-1]) == tokens[-1] + 1
        assert len(stretches) == int(tiles.tiles_4T1[3, tile])


def test_the_tiles_of_a_text_are_known_also_where_texts_share_rows_or_have_no_token():
    text_N = torch.tensor([0] * 7 + [2] * 9 + [0] * 4)
    mask = (torch.arange(20) < 16)[None]
    rows = torch.zeros(1, 20, dtype=torch.long)
    tiles = tile_runs(mask, mask, mask, rows, sizes=SIZES, text_N=text_N, num_texts=3)
    begin = tiles.tiles_4T1[0].tolist()
    tile_of = [sum(b <= token for b in begin) - 1 for token in range(20)]
    assert tiles.text_N.tolist() == [0] * 7 + [2] * 13
    first, last = tiles.ends_2K.tolist()
    assert (first[0], last[0]) == (0, tile_of[6])
    assert (first[2], last[2]) == (tile_of[7], tile_of[19])
    assert last[1] < first[1]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), num_tokens=st.integers(1, 40))
def test_cut_runs_name_their_first_and_last_tile(seed, num_tokens):
    rows, mask = random_rows(seed, num_tokens)
    tiles = tiles_of(rows, mask)
    _, lies_in = segments_by_tile(tiles, rows, mask)
    owner, final = tiles.tiles_4T1[1].tolist(), tiles.tiles_4T1[2].tolist()
    enters = {tile: -1 for tile in range(len(owner))}
    for where in lies_in.values():
        for tile in sorted(where)[1:]:
            enters[tile] = min(where)
        if len(where) > 1:
            assert final[min(where)] == max(where)
            assert max(where) - min(where) + 1 == len(where)
    assert owner == [enters[tile] for tile in range(len(owner))]


def test_runs_of_at_most_the_slack_are_never_cut():
    rows = (torch.arange(40) // SIZES.slack)[None]
    tiles = tiles_of(rows, torch.ones(1, 40, dtype=torch.bool))
    assert (tiles.tiles_4T1[1] == -1).all()


def test_tokens_sorted_by_segment_come_back_to_their_places():
    rows = torch.tensor([[1, 0, 1, 8, 0, 1, 0, 0], [9, 9, 8, 16, 16, 10, 8, 9]])
    mask = torch.tensor([[1, 1, 1, 0, 1, 1, 1, 1], [1, 1, 1, 0, 0, 1, 1, 1]]).bool()
    order_N, place_N = tile_sorted(mask, mask, rows, sizes=SIZES).order_2N
    values = torch.randn(16)
    assert torch.equal(values[order_N][place_N], values)
    in_order = rows.flatten()[order_N].view(2, 8)
    assert torch.equal(in_order, rows.sort(dim=1).values)
