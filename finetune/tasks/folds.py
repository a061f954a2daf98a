"""Splits that no distribution has: carved validation rows, repeated stratified folds, subsets.

Invariant: pure functions of the texts, never of a training seed, a file order or a platform; rows
with the same text (see `Row.key`) always land on the same side of a split.
"""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from data_prep.command import counted
from data_prep.table_rows import place_of
from finetune.tasks.spec import Row, SplitRows

DUPLICATES = "rows with the text of an earlier row left out"
_FEWEST = 3
"""Folds of which one is tested, one validates, and one is left to train on."""


def check_num_folds(num_folds: Any) -> None:
    """Refuse a number of folds, as data.num_folds gives it, that leaves no training rows."""
    if not isinstance(num_folds, int) or not (num_folds == 0 or num_folds >= _FEWEST):
        raise ValueError(
            f"data.num_folds is {num_folds}; give {_FEWEST} or more (one is the test split, the "
            "next one validation, the others are trained on), or 0 for no folds"
        )


def _shuffled_groups(rows: Sequence[Row], salt: str) -> list[list[list[int]]]:
    """Return, per label, the groups of rows with the same text, in the order of their hash.

    Of unlike labels of one text the first in the order of labels counts.
    """
    groups: dict[bytes, list[int]] = {}
    for number, row in enumerate(rows):
        digest = hashlib.blake2b(f"{salt}\0{row.key}".encode(), digest_size=16).digest()
        groups.setdefault(digest, []).append(number)
    strata: dict[Any, list[list[int]]] = defaultdict(list)
    for digest in sorted(groups):
        strata[min((rows[n].target for n in groups[digest]), key=_rank)].append(groups[digest])
    return [strata[target] for target in sorted(strata, key=_rank)]


def _rank(target: Any) -> Any:
    return target or 0.0


def stratified_parts(rows: Sequence[Row], shares: Sequence[float], salt: str) -> list[list[int]]:
    """Return the row numbers of each part and, last, of the rest, all in the order of `rows`.

    Each part gets its share, in (0, 1), of the rows of each label; another salt, other parts.
    """
    parts: list[list[int]] = [[] for _ in range(len(shares) + 1)]
    for groups in _shuffled_groups(rows, salt):
        total = sum(map(len, groups))
        quotas = [round(share * total) for share in shares]
        for members in groups:
            part = next((k for k, quota in enumerate(quotas) if len(members) <= quota), len(shares))
            if part < len(shares):
                quotas[part] -= len(members)
            parts[part].extend(members)
    return [sorted(part) for part in parts]


def stratified_folds(rows: Sequence[Row], *, num_folds: int, repeat: int) -> list[list[int]]:
    """Return the numbers of the rows of each of three or more folds.

    Rows with one text are dealt together, many of them first. Sizes and label shares are equal up
    to the rows of one text, or one row; every `repeat` is another shuffle.
    """
    folds: list[list[int]] = [[] for _ in range(num_folds)]
    for groups in _shuffled_groups(rows, f"fold {repeat}"):
        counts = [0] * num_folds
        for members in sorted(groups, key=len, reverse=True):
            *_, fold = min(zip(counts, map(len, folds), range(num_folds), strict=True))
            counts[fold] += len(members)
            folds[fold] += members
    return [sorted(fold) for fold in folds]


def strata(rows: Sequence[Row], *, kind: str, num_folds: int) -> list[Row]:
    """Return rows whose targets are what is to be equally frequent in every fold.

    Args:
        rows: As they are read.
        kind: `TaskSpec.kind`. Classes are strata themselves. Scores are ranked, and every num_folds
            texts with neighbouring scores are a stratum: each fold gets one of them; of unlike
            scores of one text the mean counts. Of several labels the rarest one that a row gives
            the text counts, of tagged words the label of the whole text, if there is one; documents
            with labelled sentences are dealt at random.
        num_folds: Three or more.
    """
    found: list[Any] = [row.target for row in rows]
    if kind == "regression":
        given: dict[str, list[Any]] = defaultdict(list)
        for row in rows:
            given[row.key].append(row.target)
        scores = {key: math.fsum(own) / len(own) for key, own in given.items()}
        ranked = sorted(scores, key=lambda key: (scores[key], key))
        places = {key: rank // num_folds for rank, key in enumerate(ranked)}
        found = [places[row.key] for row in rows]
    elif kind == "multilabel":
        counts = Counter(chain.from_iterable(found))
        labels: dict[str, set[int]] = defaultdict(set)
        for row, own in zip(rows, found, strict=True):
            labels[row.key].update(own)
        rarest = {
            key: min(own, key=lambda k: (counts[k], k), default=-1) for key, own in labels.items()
        }
        found = [rarest[row.key] for row in rows]
    elif kind in ("tagging", "sentences"):
        names = [row.tagged.label or "" if row.tagged else "" for row in rows]
        order = {name: place for place, name in enumerate(sorted(set(names)))}
        found = [order[name] for name in names]
    return [row._replace(target=target) for row, target in zip(rows, found, strict=True)]


def without_duplicates(splits: Iterable[SplitRows]) -> SplitRows:
    """Return the rows of all splits in order, each text once; two labels of one are an error."""
    first: dict[str, tuple[Row, str]] = {}
    repairs: Counter[str] = Counter()
    sources = []
    for split in splits:
        sources.append(split.source)
        repairs.update(split.repairs)
        for row in split.rows:
            earlier, place = first.setdefault(row.key, (row, split.source))
            if earlier.target != row.target:
                raise ValueError(
                    f"{place_of(split.source, row.line)}: has the text of "
                    f"{place_of(place, earlier.line)}, but another label; take one of them out"
                )
            repairs[DUPLICATES] += earlier is not row
    rows = tuple(row for row, _ in first.values())
    return SplitRows(source=" + ".join(sources), rows=rows, repairs=dict(+repairs))


def fold_splits(
    rows: SplitRows, *, num_folds: int, fold: int, repeat: int, kind: str = "classification"
) -> Mapping[str, SplitRows]:
    """Return train, validation and test: fold f is test, fold f + 1 is validation.

    Args:
        rows: All that are dealt.
        num_folds: Three or more.
        fold: In [0, num_folds).
        repeat: Number of the shuffle before the folds are dealt.
        kind: Which rows are dealt evenly, see `strata`.

    Raises:
        ValueError: There are fewer texts than folds.
    """
    if (num_texts := len({row.key for row in rows.rows})) < num_folds:
        raise ValueError(
            f"{rows.source}: has {counted(num_texts, 'different text(s)')}, too few for "
            f"{num_folds} folds; give more, or of own files fewer folds (data.num_folds)"
        )
    dealt = strata(rows.rows, kind=kind, num_folds=num_folds)
    folds = stratified_folds(dealt, num_folds=num_folds, repeat=repeat)
    validation = (fold + 1) % num_folds
    train = sorted(
        number for k, part in enumerate(folds) if k not in (fold, validation) for number in part
    )
    return {
        "train": subset(rows, train),
        "validation": subset(rows, folds[validation], repairs=False),
        "test": subset(rows, folds[fold], repairs=False),
    }


def carve(
    train: SplitRows, share: float, *, is_stratified: bool = True
) -> tuple[SplitRows, SplitRows]:
    """Return (validation, the rest of train); the choice depends on the texts only.

    The share, in (0, 1), holds for every label where `is_stratified`: not where most occur once.
    """
    rows = train.rows if is_stratified else [row._replace(target=None) for row in train.rows]
    chosen, rest = stratified_parts(rows, [share], "validation")
    return subset(train, chosen, repairs=False), subset(train, rest)


def subset(split: SplitRows, numbers: Iterable[int], *, repairs: bool = True) -> SplitRows:
    """Return the rows with these numbers; `repairs` says whether the counts go with them."""
    rows = tuple(split.rows[number] for number in numbers)
    return replace(split, rows=rows, repairs=split.repairs if repairs else {})


def stratified_subset(rows: Sequence[Row], num_rows: int) -> list[int]:
    """Return the places of num_rows rows with every label in its share, in order.

    The choice goes by a hash of the text, so it is the same for every seed, and a smaller subset is
    nearly part of a greater one. Targets with more values than half of num_rows are not stratified.
    0 rows, or more than there are: all.
    """
    if not 0 < num_rows < len(rows):
        return list(range(len(rows)))
    has_few_targets = 2 * len({row.target for row in rows}) <= num_rows
    groups: dict[Any, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        groups[row.target if has_few_targets else None].append(place)
    texts = (f"{row.text}\n{row.text_pair}".encode() for row in rows)
    keys = [hashlib.blake2b(text, digest_size=7).digest() for text in texts]
    kept: list[int] = []
    num_seen = 0
    for target in sorted(groups, key=str):
        num_seen += len(groups[target])
        quota = round(num_seen * num_rows / len(rows)) - len(kept)
        kept += sorted(groups[target], key=keys.__getitem__)[:quota]
    return sorted(kept)
