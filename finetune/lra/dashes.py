"""The shapes that Pathfinder pictures are made of: dashes, candidate cells, where curves can begin.

Points are (row, column); a direction of angle t is (sin t, cos t).
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

PAD = 4
PATCH = 9


class Dashes(NamedTuple):
    """Pictures of a dash whose tail is the centre, by angle or candidate."""

    ink: Floats
    """(A, 9, 9) in [0, 1]."""
    mask: Floats
    """(A, 9, 9): what it occupies, wider than its ink."""


def move(points: Ints, angles: NDArray[np.float64], distance: float) -> Ints:
    """Return the cells at a distance: each coordinate rounded up. Angles in radians."""
    steps = np.stack([np.sin(angles), np.cos(angles)], -1) * distance
    return np.ceil(points + steps).astype(np.int64)


def draw_dash(angle: float) -> tuple[Floats, Floats]:
    """Return ink and mask (9, 9) of a dash at an angle in radians, drawn twice as large."""
    side = 2 * PATCH - 1
    centre = np.array([side // 2, side // 2])
    head = move(centre, np.array(angle), 4)
    image = Image.new("L", (side, side))
    ImageDraw.Draw(image).line(
        [(int(centre[1]), int(centre[0])), (int(head[1]), int(head[0]))], 255
    )
    line = np.array(image) > 0
    wide = np.zeros_like(line)
    for row, column in np.argwhere(line):
        rows, columns = np.ogrid[:side, :side]
        wide |= (rows - row) ** 2 + (columns - column) ** 2 <= 4
    return _reduced(line), _reduced(wide)


def _reduced(large: NDArray[np.bool_]) -> Floats:
    image = Image.fromarray((large * 255).astype(np.uint8))
    small = image.resize((PATCH, PATCH), Image.Resampling.LANCZOS)
    return np.asarray(small, np.float32) / np.float32(255)


@lru_cache(maxsize=1)
def degree_dashes() -> Dashes:
    """Return the dashes of the 360 whole degrees from -180."""
    drawn = [draw_dash(math.radians(degree)) for degree in range(-180, 180)]
    return Dashes(*(np.stack(part) for part in zip(*drawn, strict=True)))


@dataclass(frozen=True)
class Candidates:
    """Cells around an anchor where the next dash may begin, as offsets from it."""

    offsets: Ints
    """(C, 2)."""
    angles: NDArray[np.float64]
    """(C,) from the anchor to the cell."""
    dashes: Dashes
    """Dashes from the cell back towards the anchor."""


@lru_cache(maxsize=1)
def candidates() -> Candidates:
    """Return the candidate cells: 19 angles at radius 3, each cell once."""
    angles = np.arange(19) * 2 * math.pi / (6 * math.pi)
    steps = 3 * np.stack([np.sin(angles), np.cos(angles)], -1)
    offsets = np.unique(np.floor(steps).astype(np.int64), axis=0)
    back = [draw_dash(math.atan2(*offset) + math.pi) for offset in offsets.tolist()]
    return Candidates(
        offsets,
        np.arctan2(offsets[:, 0], offsets[:, 1]),
        Dashes(*(np.stack(part) for part in zip(*back, strict=True))),
    )


@lru_cache(maxsize=1)
def seed_kernels() -> list[Ints]:
    """Return, for every whole degree, the offsets whose cells decide whether a tail is free.

    They are the cells that the mask of a dash fills, and one cell too far to the lower right.
    """
    kernels = []
    for mask in degree_dashes().mask:
        canvas = mask[:7, :7]  # a dash at (4, 4) of a canvas of 7
        kernels.append(np.argwhere(canvas >= 1) - 3)
    return kernels


@lru_cache(maxsize=1)
def seed_angles() -> Ints:
    """Return the places (0 = -180 degrees) of the angles at which a curve can begin.

    Where a kernel does not hold its own centre, some border cell has no cell of it inside the
    picture; the original then finds a hugely negative minimum and gives up, whatever is free.
    """
    passing = [place for place, cells in enumerate(seed_kernels()) if (cells == 0).all(1).any()]
    return np.array(passing)


@lru_cache(maxsize=1)
def all_dashes() -> Dashes:
    """Return the dashes of the whole degrees, then those of the candidates."""
    parts = zip(degree_dashes(), candidates().dashes, strict=True)
    return Dashes(*(np.concatenate(part) for part in parts))


@lru_cache(maxsize=1)
def dot() -> Floats:
    """Return the picture (9, 9) of a dot: a disc of radius 3 drawn twice as large."""
    rows, columns = np.ogrid[: 2 * PATCH, : 2 * PATCH]
    disc = (rows - 2 * PAD) ** 2 + (columns - 2 * PAD) ** 2 <= 9
    return _reduced(disc)
