"""Splits that no distribution has: carved validation rows, and repeated stratified folds.

Invariant: pure functions of the texts, never of a training seed, a file order or a platform; rows
with the same text (see `normalised`) always land on the same side.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from finetune.tasks.spec import Row, SplitRows

DUPLICATES = "rows with the text of an earlier row left out"


def _key(row: Row) -> str:
    from finetune.data.inspection import normalised  # its module also computes scores, with torch

    return normalised(row.text, row.text_pair)


def _digest(key: str, salt: str) -> bytes:
    return hashlib.blake2b(f"{salt}\0{key}".encode(), digest_size=16).digest()


def _shuffled_groups(rows: Sequence[Row], salt: str) -> list[list[list[int]]]:
    """Return, per label, the groups of rows with the same text, in the order of their hash."""
    groups: dict[bytes, list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(_digest(_key(row), salt), []).append(number)
    strata: dict[float | None, list[bytes]] = {}
    for digest, members in groups.items():
        strata.setdefault(rows[members[0]].target, []).append(digest)
    ordered = sorted(strata.items(), key=lambda item: -1.0 if item[0] is None else item[0])
    return [[groups[digest] for digest in sorted(digests)] for _, digests in ordered]


def stratified_parts(rows: Sequence[Row], shares: Sequence[float], salt: str) -> list[list[int]]:
    """Return the row numbers of each part and, last, of the rest, all in the order of `rows`.

    Args:
        rows: All rows, with labels.
        shares: Share of the rows of each label that each part gets, in (0, 1).
        salt: Makes the parts of different uses independent.
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
    """Return the row numbers of each fold: equal sizes and label shares up to one row.

    Args:
        rows: All rows, with labels, without duplicates.
        num_folds: Number of folds, >= 3.
        repeat: Number of the shuffle, >= 0.
    """
    folds: list[list[int]] = [[] for _ in range(num_folds)]
    dealt = 0
    for groups in _shuffled_groups(rows, f"fold {repeat}"):
        for members in groups:
            folds[dealt % num_folds].extend(members)
            dealt += 1
    return [sorted(fold) for fold in folds]


def without_duplicates(splits: Iterable[SplitRows]) -> SplitRows:
    """Return the rows of all splits in order, each text once.

    Raises:
        ValueError: The same text with two labels.
    """
    first: dict[str, tuple[Row, str]] = {}
    repairs: Counter[str] = Counter()
    sources = []
    for split in splits:
        sources.append(split.source)
        repairs.update(split.repairs)
        for row in split.rows:
            earlier, place = first.setdefault(_key(row), (row, split.source))
            if earlier.target != row.target:
                raise ValueError(
                    f"{split.source}, line {row.line}: has the text of {place}, line "
                    f"{earlier.line}, but another label; take one of them out"
                )
            repairs[DUPLICATES] += earlier is not row
    rows = tuple(row for row, _ in first.values())
    return SplitRows(source=" + ".join(sources), rows=rows, repairs=dict(+repairs))


def fold_splits(
    rows: SplitRows, *, num_folds: int, fold: int, repeat: int
) -> Mapping[str, SplitRows]:
    """Return train, validation and test: fold f is test, fold f + 1 is validation."""
    folds = stratified_folds(rows.rows, num_folds=num_folds, repeat=repeat)
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

    Args:
        train: All rows, with labels.
        share: Share of the rows that becomes validation, in (0, 1).
        is_stratified: Whether that holds for every label; False where most occur once, as scores.
    """
    rows = train.rows if is_stratified else [row._replace(target=None) for row in train.rows]
    chosen, rest = stratified_parts(rows, [share], "validation")
    return subset(train, chosen, repairs=False), subset(train, rest)


def subset(split: SplitRows, numbers: Iterable[int], *, repairs: bool = True) -> SplitRows:
    """Return the rows with these numbers; `repairs` says whether the counts go with them."""
    rows = tuple(split.rows[number] for number in numbers)
    return SplitRows(source=split.source, rows=rows, repairs=split.repairs if repairs else {})
