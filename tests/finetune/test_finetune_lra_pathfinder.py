"""Pathfinder's generator against the figures of the original one, and labels against geometry."""

import numpy as np
import pytest

from finetune.lra.dashes import seed_angles
from finetune.lra.pathfinder import draw_pictures


@pytest.fixture(scope="module")
def drawn():
    return draw_pictures(300, seed=4)


def test_pictures_are_a_function_of_seed_and_block(drawn):
    again, other = draw_pictures(300, seed=4), draw_pictures(300, seed=4, block=1)
    assert np.array_equal(drawn.images, again.images)
    assert not np.array_equal(drawn.images, other.images)


def test_labels_say_whether_the_dots_end_one_curve(drawn):
    for curves, dots, label in zip(drawn.curves, drawn.dots, drawn.labels, strict=True):
        begun = [curve for curve in range(2) if np.array_equal(curves[curve, 0], dots[0])]
        ended = [curve for curve in range(2) if np.array_equal(curves[curve, -1], dots[1])]
        assert len(begun) == len(ended) == 1
        assert (begun == ended) == bool(label)


def test_dashes_of_a_curve_follow_each_other_and_the_dots_are_drawn(drawn):
    steps = np.linalg.norm(np.diff(drawn.curves, axis=2), axis=-1)
    assert steps.min() > 1 and steps.max() < 9
    rows = np.arange(300)[:, None]
    assert (drawn.images[rows, drawn.dots[..., 0], drawn.dots[..., 1]] > 150).all()


def test_curves_begin_where_the_original_lets_them():
    assert (seed_angles() - 180).tolist() == list(range(-150, -120))


def test_the_distribution_is_that_of_the_original(drawn):
    """300 pictures against 3,000 of the original; bounds are 4 standard errors.

    A mean pixel off by 0.7 of 20.1, or a third more distractors, fails with 99 % power.
    """

    def near(values, expected):
        assert abs(values.mean() - expected) < 4 * values.std() / np.sqrt(len(values))

    pixels = drawn.images.astype(float)
    near(pixels.mean((1, 2)), 20.14)
    near((pixels == 0).mean((1, 2)), 0.660)
    near((pixels >= 128).mean((1, 2)), 0.085)
    near(drawn.distractors, 1.15)
    near(drawn.tries, 326)
    near(drawn.labels, 0.508)
    for row, mean in zip(range(0, 32, 4), (0.6, 23.7, 23.5, 24.9, 26.6, 21.3, 16.7, 18.3),
                         strict=True):  # fmt: skip
        near(pixels[:, row].mean(1), mean)
    assert (drawn.images.max((1, 2)) == 255).all()


def test_dots_look_as_the_original_draws_them(shared_dir, drawn):
    path = shared_dir / "data" / "lra_pathfinder_sample" / "pathfinder32_contour14_3000.npz"
    if not path.is_file():
        pytest.skip(f"pictures of the original generator not found: {path} does not exist")
    original = np.load(path)

    def least(images, dots):
        """The darkest picture of a dot: nothing crosses it in some picture."""
        inner = ((dots > 3) & (dots < 28)).all(1)
        patches = [image[r - 3 : r + 4, c - 3 : c + 4]
                   for image, (r, c) in zip(images[inner], dots[inner], strict=True)]  # fmt: skip
        return np.percentile(patches, 10, axis=0)

    ours = least(drawn.images, drawn.dots[:, 0])
    theirs = least(original["images"], original["origin_marker"])
    assert np.abs(ours - theirs).max() <= 2
