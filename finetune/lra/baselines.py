"""What comes for free on Long Range Arena: answers that need no encoder.

n samples of the split that is answered. Invariant: nothing is searched; a function sees the
training samples with their labels, and of other splits the samples alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from finetune.lra.listops import CLOSE, FIRST_OPERATOR, apply, evaluate
from finetune.lra.splits import Ids, LraSplit

Labels = NDArray[np.int64]
Answer = Callable[[LraSplit, Mapping[str, LraSplit]], dict[str, Labels]]
"""(Training samples, splits to answer) -> split -> labels (n,)."""
NUM_BYTES = 257
"""Ids of bytes, with padding."""
PAIR_FEATURES = 4096
"""Buckets of hashed byte pairs."""
_CHUNK, _BATCH, _FEW = 512, 256, 64


@dataclass(frozen=True)
class Baseline:
    """A way to answer."""

    title: str
    """What tables call it."""
    answer: Answer
    num_features: int = 0
    """Of a linear model; 0: it is none."""


def _by_key(keys: Callable[[LraSplit], NDArray[np.int64]]) -> Answer:
    """Answer with the most frequent training label of samples that share a key."""

    def answer(train: LraSplit, splits: Mapping[str, LraSplit]) -> dict[str, Labels]:
        found = keys(train)
        counts = np.zeros((int(found.max()) + 1, int(train.labels.max()) + 1), np.int64)
        np.add.at(counts, (found, train.labels), 1)
        best = counts.argmax(1)
        return {
            name: best[np.minimum(keys(split), len(best) - 1)] for name, split in splits.items()
        }

    return answer


def root_operators(split: LraSplit) -> NDArray[np.int64]:
    """Return the id of the first token of every sample (n,)."""
    return split.ids[:, 0].astype(np.int64)


def root_values(split: LraSplit) -> NDArray[np.int64]:
    """Return, as one number, the root operator and what it makes of the digits right below it.

    Lists below it are passed over; 10 stands for a root without such a digit.
    """
    keys = np.empty(len(split), np.int64)
    for start in range(0, len(split), _CHUNK):
        ids = split.ids[start : start + _CHUNK].astype(np.int16)
        opens = (ids >= FIRST_OPERATOR) & (ids < CLOSE)
        depth = np.cumsum(opens.astype(np.int16) - (ids == CLOSE), axis=1)
        is_direct = (depth == 1) & (ids >= 1) & (ids < FIRST_OPERATOR)
        for row, (sample, chosen) in enumerate(zip(ids, is_direct, strict=True)):
            operator, digits = int(sample[0]), (sample[chosen] - 1).tolist()
            value = apply(operator - FIRST_OPERATOR, digits) if digits else 10
            keys[start + row] = operator * 11 + value
    return keys


def _root_digits(train: LraSplit, splits: Mapping[str, LraSplit]) -> dict[str, Labels]:
    """Answer by `root_values`, where the ids are of the written-down vocabulary."""
    few = list(map(_is_own_tree, train.ids[:_FEW], train.lengths, train.labels))
    if 2 * sum(few) < len(few):
        raise ValueError(
            "the ids of these samples are of another vocabulary than the files' and the "
            "generator's (pickles of the ports draw one at random), so which are digits is not "
            "known; --name root asks for the first token alone"
        )
    return _by_key(root_values)(train, splits)


def _is_own_tree(ids: Ids, length: int, label: int) -> bool:
    try:
        return evaluate(ids[:length].tolist()) == label
    except ValueError:
        return False


def byte_shares(ids: Ids, lengths: NDArray[np.int32], *, pairs: bool) -> Tensor:
    """Return square roots of the shares of bytes, or of hashed pairs of bytes, float16 (n, F)."""
    size = PAIR_FEATURES if pairs else NUM_BYTES
    found = torch.zeros(len(ids), size, dtype=torch.float16)
    places = np.arange(ids.shape[1])
    for start in range(0, len(ids), _CHUNK):
        rows = slice(start, start + _CHUNK)
        kept = torch.from_numpy(ids[rows].astype(np.int64))
        mask = torch.from_numpy(places < lengths[rows, None])
        if pairs:
            kept, mask = (kept[:, :-1] * 31 + kept[:, 1:] * 1009) % size, mask[:, 1:]
        counts = torch.zeros(len(kept), size).scatter_add_(1, kept, mask.float())
        shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
        found[rows] = shares.sqrt().half()
    return found


def _linear(*, pairs: bool) -> Answer:
    """Answer with logistic regression on counted bytes or pairs of bytes."""

    def answer(train: LraSplit, splits: Mapping[str, LraSplit]) -> dict[str, Labels]:
        features = byte_shares(train.ids, train.lengths, pairs=pairs)
        targets = torch.from_numpy(train.labels.astype(np.int64))
        weight = fit_logistic(features, targets)
        return {
            name: _scores(byte_shares(s.ids, s.lengths, pairs=pairs), weight).argmax(1).numpy()
            for name, s in splits.items()
        }

    return answer


def fit_logistic(features: Tensor, targets: Tensor, *, epochs: int = 20) -> Tensor:
    """Return the weights (C, F + 1) of a logistic regression, the last column a bias.

    Args:
        features: (n, F).
        targets: int64 (n,).
        epochs: Passes of Adam over all samples, in batches of 256, the rate falling to 0.
    """
    generator = torch.Generator().manual_seed(0)
    weight = torch.zeros(int(targets.max()) + 1, features.shape[1] + 1, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=0.1)
    steps = epochs * (-(-len(features) // _BATCH))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for _ in range(epochs):
        order = torch.randperm(len(features), generator=generator)
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            loss = cross_entropy(_scores(features[rows], weight), targets[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return weight.detach()


def _scores(features: Tensor, weight: Tensor) -> Tensor:
    parts = (features[start : start + _CHUNK] for start in range(0, len(features), _CHUNK))
    return torch.cat([part.float() @ weight[:, :-1].T + weight[:, -1] for part in parts])


def _similar_pairs(train: LraSplit, splits: Mapping[str, LraSplit]) -> dict[str, Labels]:
    """Answer yes above a cosine of two texts' words, weighted by rarity, chosen on train."""
    from finetune.baselines.models import extra

    with extra("scikit-learn"):
        from sklearn.feature_extraction.text import TfidfVectorizer
    texts = {name: _words(split) for name, split in {**splits, "train": train}.items()}
    counter = TfidfVectorizer(sublinear_tf=True).fit(texts["train"][0] + texts["train"][1])
    cosines = {
        name: np.asarray(counter.transform(one).multiply(counter.transform(other)).sum(1)).ravel()
        for name, (one, other) in texts.items()
    }
    order = cosines["train"].argsort()
    labels = train.labels[order].astype(np.int64)
    right = np.cumsum(1 - labels) + labels.sum() - np.cumsum(labels)
    level = cosines["train"][order][right.argmax()]
    return {name: (cosines[name] > level).astype(np.int64) for name in splits}


def _words(split: LraSplit) -> tuple[list[str], list[str]]:
    sides = [
        [(row[:n] - 1).astype(np.uint8).tobytes().decode("utf-8", "replace")
         for row, n in zip(ids.astype(np.int16), lengths, strict=True)]
        for ids, lengths in split.sides
    ]  # fmt: skip
    return sides[0], sides[1]


def _nearest(train: LraSplit, splits: Mapping[str, LraSplit]) -> dict[str, Labels]:
    """Answer with the label of the training picture whose pixels have the greatest cosine."""
    known = _of_length_one(train.ids)
    labels = torch.from_numpy(train.labels.astype(np.int64))
    found = {}
    for name, split in splits.items():
        starts = range(0, len(split), _FEW)
        pictures = (_of_length_one(split.ids[start : start + _FEW]) for start in starts)
        found[name] = torch.cat([labels[(rows @ known.T).argmax(1)] for rows in pictures]).numpy()
    return found


def _of_length_one(ids: Ids) -> Tensor:
    pixels = torch.from_numpy(ids.astype(np.float32))
    return pixels.div_(pixels.norm(dim=1, keepdim=True).clamp_(min=1))


_BYTES = Baseline("byte counts + linear", _linear(pairs=False), NUM_BYTES)
_PAIRS = Baseline("byte pairs + linear", _linear(pairs=True), PAIR_FEATURES)
_NEAREST = {"nearest": Baseline("nearest picture", _nearest)}
BASELINES: Mapping[str, Mapping[str, Baseline]] = {
    "listops": {
        "root": Baseline("root operator", _by_key(root_operators)),
        "root_digits": Baseline("root operator + its digits", _root_digits),
    },
    "text": {"bytes": _BYTES, "byte_pairs": _PAIRS},
    "retrieval": {"tfidf": Baseline("TF-IDF cosine", _similar_pairs)},
    "image": _NEAREST,
    "pathfinder32": _NEAREST,
    "path_x": {},
}
"""Task -> name -> baseline; the majority class stands in every table anyway."""
