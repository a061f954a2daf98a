"""Pathfinder: are two dots joined by one dashed curve? A vectorised generator of the pictures.

T tries, C candidate cells. Points are (row, column); a direction of angle t is (sin t, cos t).
Many tries grow side by side as arrays. Invariant: a picture is a function of (seed, block, place).

Source: the algorithm of drewlinsley/pathfinder with the arguments of google-research's Long Range
Arena for Pathfinder32, contours of 14 dashes, quirks included (see `seed_angles`).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from finetune.lra.dashes import (
    PAD,
    PATCH,
    Floats,
    Ints,
    all_dashes,
    candidates,
    dot,
    move,
    seed_angles,
    seed_kernels,
)

SIZE = 32
LENGTH = 14
"""Dashes of each of the two curves."""
DISTRACTOR_LENGTH = 4
DISTRACTORS = 5
DISTRACTOR_TRIES = 5
DASH_TRIES = 3
SEED_DISTANCE = 7
FREE = 0.3
"""A cell is free where the mask of what stands there is at most this."""
COLLISION = 1.8
CURVE_INK, DISTRACTOR_INK = 1.5, 2.0
BATCH = 1024
"""Tries that grow side by side."""


class Pictures(NamedTuple):
    """Generated pictures. N pictures."""

    images: NDArray[np.uint8]
    """(N, 32, 32)."""
    labels: NDArray[np.uint8]
    """(N,): 1 where the dots lie on one curve."""
    dots: Ints
    """(N, 2, 2): cells of both."""
    curves: Ints
    """(N, 2, 14, 2): tails of the dashes of both curves."""
    distractors: Ints
    """(N,): short curves that found room."""
    tries: Ints
    """(N,): draws of the two curves until both fitted, as the original would count them."""


@dataclass
class Curves:
    """The growing end of one curve in each of T tries."""

    pivot: Ints
    """(T, 2)."""
    angle: NDArray[np.float64]
    """(T,)."""
    cells: Ints
    """(T, dashes, 2): tails of the dashes so far."""
    dashes: Ints
    """(T, dashes): their places in `all_dashes`."""

    def kept(self, which: Ints) -> "Curves":
        """Return the curves of some tries."""
        return Curves(self.pivot[which], self.angle[which], self.cells[which], self.dashes[which])


def begin(tails: Ints, degrees: Ints) -> tuple[Curves, NDArray[np.bool_]]:
    """Return curves of one dash, and which of them lie inside the picture.

    Args:
        tails: (T, 2).
        degrees: (T,) places of the angles, 0 = -180 degrees.
    """
    angles = np.radians(degrees - 180.0)
    heads = move(tails, angles, 2)
    pivots = move(heads, angles + math.pi, 3)
    inside = (_inside(heads) & _inside(pivots) & _inside(tails)).astype(bool)
    return Curves(pivots, angles, tails[:, None], degrees[:, None]), inside


def _inside(points: Ints) -> NDArray[np.bool_]:
    return np.asarray(((points >= 0) & (points < SIZE)).all(-1))


def free_mask(num_tries: int) -> Floats:
    """Return what is occupied at first, (T, 40, 40): a frame of one cell; -1 beyond the picture."""
    occupied = np.full((num_tries, SIZE + 2 * PAD, SIZE + 2 * PAD), -1, np.float32)
    occupied[:, PAD:-PAD, PAD:-PAD] = 1
    occupied[:, PAD + 1 : -PAD - 1, PAD + 1 : -PAD - 1] = 0
    return occupied


def _windows(cells: Ints) -> tuple[Ints, Ints]:
    """Rows and columns of the patch around every cell, for a padded array."""
    steps = np.arange(PATCH)
    return (cells[:, :1] + steps)[:, :, None], (cells[:, 1:] + steps)[:, None, :]


def grow(curves: Curves, occupied: Floats, generator: np.random.Generator) -> tuple[Curves, Ints]:
    """Return the curves with one more dash where one fits, and the numbers of those tries.

    Where it fits, the mask of the dash before is entered into `occupied`.
    """
    around, tries = candidates(), np.arange(len(curves.angle))
    anchors = move(curves.pivot, curves.angle, 4)
    cells_TC2 = anchors[:, None] + around.offsets
    weights_TC = _weights(curves.angle, cells_TC2, occupied)
    chosen = np.full(len(tries), -1)
    todo = tries[weights_TC.sum(1) > 0]
    for _ in range(DASH_TRIES):
        if not len(todo):
            break
        sums = weights_TC[todo].cumsum(1)
        drawn = (sums < generator.random((len(todo), 1)) * sums[:, -1:]).sum(1)
        drawn = np.minimum(drawn, len(around.offsets) - 1)
        rows, columns = _windows(cells_TC2[todo, drawn])
        summed = occupied[todo[:, None, None], rows, columns] + around.dashes.mask[drawn]
        fits = summed.max((1, 2)) < COLLISION
        chosen[todo[fits]] = drawn[fits]
        todo = todo[~fits]
    kept = tries[chosen >= 0]
    grown, picked = curves.kept(kept), chosen[kept]
    last_cells, last_dashes = grown.cells[:, -1], grown.dashes[:, -1]
    _enter(occupied, kept, last_cells, all_dashes().mask[last_dashes])
    new_cells = cells_TC2[kept, picked]
    return Curves(
        anchors[kept],
        around.angles[picked],
        np.concatenate([grown.cells, new_cells[:, None]], 1),
        np.concatenate([grown.dashes, 360 + picked[:, None]], 1),
    ), kept


def _enter(occupied: Floats, tries: Ints, cells: Ints, patches: Floats) -> None:
    """Let patches (9, 9) be lower bounds of some tries' arrays around a cell; in place."""
    rows, columns = _windows(cells)
    place = (tries[:, None, None], rows, columns)
    occupied[place] = np.where(occupied[place] < 0, -1, np.maximum(occupied[place], patches))


def _weights(angles: NDArray[np.float64], cells_TC2: Ints, occupied: Floats) -> Floats:
    """How much each candidate is preferred: free cells that go on straight."""
    around = candidates()
    inside = _inside(cells_TC2)
    rows, columns = np.moveaxis(np.clip(cells_TC2, 0, SIZE - 1) + PAD, 2, 0)
    tries = np.arange(len(angles))[:, None]
    crossing = np.stack([
        occupied[tries, rows + down, columns + right]
        for down, right in ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
    ]).max(0)  # fmt: skip
    turn = np.abs((around.angles - angles[:, None] + math.pi) % (2 * math.pi) - math.pi)
    straight = np.maximum(0, np.cos(np.minimum(turn, math.pi / 2)))
    straight[straight < 1e-9] = 0
    weights: Floats = np.maximum(1 - crossing, 0) * straight**2 * inside
    return weights


def free_tails(occupied: Floats, degree: int, border: int) -> Ints:
    """Return the cells of one picture where a curve may begin at an angle.

    Args:
        occupied: (40, 40) of one picture.
        degree: Place of the angle.
        border: Rows and columns along each edge that are blocked.
    """
    blocked = occupied.copy()
    inner = slice(PAD + border, -PAD - border)
    room = np.ones(blocked.shape, bool)
    room[inner, inner] = False
    blocked[room & (blocked >= 0)] = 1
    inside = slice(PAD, PAD + SIZE)
    worst = np.max([
        blocked[PAD + down : PAD + SIZE + down, PAD + right : PAD + SIZE + right]
        for down, right in seed_kernels()[degree].tolist()
    ], axis=0)  # fmt: skip
    assert worst.shape == blocked[inside, inside].shape
    return np.argwhere(worst <= FREE)


def draw_pairs(
    num_pairs: int, generator: np.random.Generator
) -> tuple[Curves, Curves, Floats, Ints]:
    """Return pairs of whole curves, what they occupy and how many tries each took."""
    found: list[tuple[Curves, Curves, Floats]] = []
    tries: list[int] = []
    waited, count = 0, 0
    while count < num_pairs:
        first, second, occupied, numbers = _draw_tries(BATCH, generator)
        found.append((first, second, occupied))
        previous = -1 - waited
        for number in numbers.tolist():
            tries.append(number - previous)
            previous = number
        waited = BATCH - 1 - previous
        count += len(numbers)
    joined = [
        Curves(*(np.concatenate(part)[:num_pairs] for part in zip(
            *((c.pivot, c.angle, c.cells, c.dashes) for c in curves), strict=True)))
        for curves in zip(*((first, second) for first, second, _ in found), strict=True)
    ]  # fmt: skip
    occupied = np.concatenate([one for _, _, one in found])[:num_pairs]
    return joined[0], joined[1], occupied, np.array(tries[:num_pairs])


def _draw_tries(
    num_tries: int, generator: np.random.Generator
) -> tuple[Curves, Curves, Floats, Ints]:
    """Grow both curves in many tries; returns those that were finished, and their numbers."""
    places = seed_angles()[generator.integers(len(seed_angles()), size=num_tries)]
    uniform = generator.random(num_tries)
    tails = np.empty((num_tries, 2), np.int64)
    for degree in np.unique(places):
        allowed = free_tails(free_mask(1)[0], int(degree), 2 * SEED_DISTANCE)
        mine = places == degree
        tails[mine] = allowed[(uniform[mine] * len(allowed)).astype(int)]
    apart = np.radians(generator.integers(-180, 180, size=num_tries).astype(float))
    beside = np.rint(tails + SEED_DISTANCE * np.stack([np.sin(apart), np.cos(apart)], -1))
    first, inside = begin(tails, places)
    second, also = begin(beside.astype(np.int64), generator.integers(360, size=num_tries))
    numbers = np.flatnonzero(inside & also)
    first, second, occupied = first.kept(numbers), second.kept(numbers), free_mask(len(numbers))
    for _ in range(LENGTH - 1):
        first, kept = grow(first, occupied, generator)
        second, occupied, numbers = second.kept(kept), occupied[kept], numbers[kept]
        second, kept = grow(second, occupied, generator)
        first, occupied, numbers = first.kept(kept), occupied[kept], numbers[kept]
    last = all_dashes().mask[second.dashes[:, -1]]
    _enter(occupied, np.arange(len(numbers)), second.cells[:, -1], last)
    return first, second, occupied, numbers


def draw_distractors(occupied: Floats, canvas: Floats, generator: np.random.Generator) -> Ints:
    """Draw short curves into the free room of N pictures, in place; returns how many each got."""
    placed = np.zeros(len(occupied), np.int64)
    passing = np.isin(np.arange(360), seed_angles())
    for _ in range(DISTRACTORS):
        todo = np.arange(len(occupied))
        for _ in range(DISTRACTOR_TRIES):
            degrees = generator.integers(360, size=len(todo))
            trying = todo[passing[degrees]]
            done = _try_distractors(trying, degrees[passing[degrees]], occupied, canvas, generator)
            placed[done] += 1
            todo = np.setdiff1d(todo, done)
    return placed


def _try_distractors(
    pictures: Ints,
    degrees: Ints,
    occupied: Floats,
    canvas: Floats,
    generator: np.random.Generator,
) -> Ints:
    """One try of a short curve in some pictures; returns those where it fitted."""
    tails = np.full((len(pictures), 2), -1)
    for row, (picture, degree) in enumerate(zip(pictures.tolist(), degrees.tolist(), strict=True)):
        allowed = free_tails(occupied[picture], degree, 1)
        if len(allowed):
            tails[row] = allowed[generator.integers(len(allowed))]
    curves, inside = begin(tails, degrees)
    kept = np.flatnonzero(inside)
    curves, numbers, scratch = curves.kept(kept), pictures[kept], occupied[pictures[kept]]
    for _ in range(DISTRACTOR_LENGTH - 1):
        curves, kept = grow(curves, scratch, generator)
        numbers, scratch = numbers[kept], scratch[kept]
    last = all_dashes().mask[curves.dashes[:, -1]]
    _enter(scratch, np.arange(len(numbers)), curves.cells[:, -1], last)
    occupied[numbers] = scratch
    draw_curves(canvas, numbers, curves, DISTRACTOR_INK)
    return numbers


def draw_curves(canvas: Floats, pictures: Ints, curves: Curves, contrast: float) -> None:
    """Draw every dash of the curves into their pictures, in place."""
    for number in range(curves.cells.shape[1]):
        ink = all_dashes().ink[curves.dashes[:, number]] * contrast
        _enter(canvas, pictures, curves.cells[:, number], ink)


def draw_pictures(num_pictures: int, seed: int, block: int = 0) -> Pictures:
    """Return pictures with their labels.

    Args:
        num_pictures: N.
        seed: Of the data set.
        block: Number of the block: blocks can be made apart, in any order.
    """
    generator = np.random.default_rng([seed, block])
    first, second, occupied, tries = draw_pairs(num_pictures, generator)
    everyone = np.arange(num_pictures)
    canvas = np.where(occupied < 0, -1, 0).astype(np.float32)
    draw_curves(canvas, everyone, first, CURVE_INK)
    draw_curves(canvas, everyone, second, CURVE_INK)
    placed = draw_distractors(occupied, canvas, generator)
    labels, starts_first = generator.integers(2, size=(2, num_pictures)).astype(bool)
    tails = np.where(starts_first[:, None], first.cells[:, 0], second.cells[:, 0])
    ends_first = starts_first == labels
    tips = np.where(ends_first[:, None], first.cells[:, -1], second.cells[:, -1])
    for cells in (tails, tips):
        _enter(canvas, everyone, cells, np.broadcast_to(dot(), (num_pictures, PATCH, PATCH)))
    pictures = canvas[:, PAD:-PAD, PAD:-PAD]
    low, high = pictures.min((1, 2), keepdims=True), pictures.max((1, 2), keepdims=True)
    images = ((pictures - low) * (255 / (high - low)) + 0.4999).clip(0, 255).astype(np.uint8)
    dots = np.stack([tails, tips], 1)
    curves = np.stack([first.cells, second.cells], 1)
    counted = tries * 360 // len(seed_angles())
    return Pictures(images, labels.astype(np.uint8), dots, curves, placed, counted)
