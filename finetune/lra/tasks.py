"""The tasks of Long Range Arena as data: sizes, schedules, what was published.

Invariant: what differs between two tasks is a field here; no other module asks for one by name but
to read its files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from finetune.lra.splits import TaskName

Mode = Literal["strict", "published"]
SOURCE = (
    "PoNet (arXiv 2110.02442), Table 1: one run, no seed, the best of many validations; (1) Tay et "
    "al. 2021, (2) Lee-Thorp et al. 2021, (3) Xiong et al. 2021"
)
_MODELS = ("PoNet", "FNet (again)", "Transformer (1)", "Transformer (2)", "Transformer (3)")


@dataclass(frozen=True, kw_only=True)
class LraTask:
    """One task."""

    name: TaskName
    """What `--data.task` calls it."""
    title: str
    """What tables call it."""
    labels: tuple[str, ...]
    """Classes in the order of the logits."""
    length: int
    """Places of a padded sample."""
    kept: int
    """Most tokens of a sample; longer ones are cut."""
    vocab_size: int
    """Rows of the embedding table; the last one is the mask of self-pretraining."""
    num_segments: int
    """Pooling segments by position that PoNet's run asked for; see `segment_len`."""
    batch_size: int
    """Samples of an optimiser step."""
    steps: int
    """Optimiser steps."""
    warmup_steps: int
    """Of these, with a growing learning rate."""
    evaluations: int
    """Validations of the published run."""
    mask_share: float
    """Share of the tokens that self-pretraining hides (Amos et al. 2024)."""
    sizes: Mapping[str, int]
    """Published samples of every split."""
    has_pair: bool = False
    """Whether a sample is two texts."""
    is_pixels: bool = False
    """Whether the tokens are the pixels of a picture: no padding, and zeros are black."""
    has_generator: bool = False
    """Whether the data can be made."""
    published: Mapping[str, float] = field(default_factory=dict)
    """Model -> test accuracy in per cent, see `SOURCE`."""

    @property
    def segment_len(self) -> int:
        """Places of a pooling segment: by the released rule more than asked for, so fewer of them.

        33 of ListOps, 2 of Text (4,096 asked for, 2,048 there are), 65, 33, the whole.
        """
        return self.length // self.num_segments + 1

    def shortened(self, length: int) -> "LraTask":
        """Return the task with fewer places, in segments of the same length."""
        number = max(1, self.num_segments * length // self.length)
        return replace(self, length=length, kept=min(self.kept, length), num_segments=number)


def _published(*values: float | None) -> dict[str, float]:
    return {m: v for m, v in zip(_MODELS, values, strict=True) if v is not None}


_SPLITS = ("train", "validation", "test")
_DIGITS = tuple(map(str, range(10)))
_OBJECTS = ("airplane", "automobile", "bird", "cat", "deer",
            "dog", "frog", "horse", "ship", "truck")  # fmt: skip
LISTOPS = LraTask(
    name="listops", title="ListOps", labels=_DIGITS, length=2048, kept=2000, vocab_size=32,
    num_segments=64, batch_size=32, steps=5_000, warmup_steps=1_000, evaluations=100,
    mask_share=0.1, sizes=dict(zip(_SPLITS, (96_000, 2_000, 2_000), strict=True)),
    has_generator=True, published=_published(37.80, 37.40, 36.37, 36.06, 37.10),
)  # fmt: skip
TEXT = LraTask(
    name="text", title="Text", labels=("neg", "pos"), length=4096, kept=4000, vocab_size=512,
    num_segments=4096, batch_size=32, steps=20_000, warmup_steps=8_000, evaluations=40,
    mask_share=0.15, sizes={"train": 25_000, "test": 25_000},
    published=_published(69.82, 62.52, 64.27, 61.54, 65.02),
)  # fmt: skip
RETRIEVAL = LraTask(
    name="retrieval", title="Retrieval", labels=("unrelated", "cites"), length=4096, kept=4000,
    vocab_size=512, num_segments=64, batch_size=32, steps=30_000, warmup_steps=800,
    evaluations=100, mask_share=0.15, has_pair=True,
    sizes=dict(zip(_SPLITS, (147_086, 18_090, 17_437), strict=True)),
    published=_published(80.35, 76.94, 57.46, 59.67, 79.35),
)  # fmt: skip
IMAGE = LraTask(
    name="image", title="Image", labels=_OBJECTS, length=1024, kept=1024, vocab_size=512,
    num_segments=32, batch_size=256, steps=35_000, warmup_steps=175, evaluations=200,
    mask_share=0.5, is_pixels=True,
    sizes=dict(zip(_SPLITS, (45_000, 5_000, 10_000), strict=True)),
    published=_published(46.88, 35.55, 42.44, 41.51, 38.20),
)  # fmt: skip
PATHFINDER = LraTask(
    name="pathfinder32", title="Pathfinder", labels=("apart", "joined"), length=1024, kept=1024,
    vocab_size=512, num_segments=1, batch_size=256, steps=62_400, warmup_steps=312,
    evaluations=200, mask_share=0.5, is_pixels=True, has_generator=True,
    sizes=dict(zip(_SPLITS, (160_000, 20_000, 20_000), strict=True)),
    published=_published(70.39, None, 71.40, 80.38, 74.16),
)  # fmt: skip
PATH_X = LraTask(
    name="path_x", title="Path-X", labels=PATHFINDER.labels, length=16_384, kept=16_384,
    vocab_size=512, num_segments=1, batch_size=32, steps=250_000, warmup_steps=2_500,
    evaluations=50, mask_share=0.5, is_pixels=True, sizes=PATHFINDER.sizes,
)  # fmt: skip
TASKS: Mapping[str, LraTask] = {
    task.name: task for task in (LISTOPS, TEXT, RETRIEVAL, IMAGE, PATHFINDER, PATH_X)
}
