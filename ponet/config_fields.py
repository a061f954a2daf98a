"""The input of hashed words, and the checks that every configuration makes of its fields."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

ProjectionKind = Literal["minhash", "bloom", "spelling", "simhash", "binary", "ternary", "static"]


@dataclass(frozen=True, kw_only=True)
class ProjectionConfig:
    """Features of a word from hashes, in the place of an embedding table (arXiv 2202.04350).

    A linear layer, the bottleneck, makes hidden states of the features of a word and its
    neighbours. Its rows are the only trained numbers of the input.

    Raises:
        ValueError: If a size is out of range or a name unknown.
    """

    kind: ProjectionKind = "minhash"
    """minhash: counts of the minima of hashes over character trigrams (paper). bloom: rows by the
    whole spelling, a learned hash table. spelling: the same by the word in lower case, its ends,
    shape and trigrams. simhash, binary, ternary: bits of hashes. static: frozen vectors of a
    checkpoint, averaged over the word's pieces."""
    feature_size: int = 1024
    """Number of features M of a word; with `static` the width of the vectors."""
    num_hashes: int = 64
    """Number of hash functions N of minhash (paper: 64), bloom (4 are usual) and of each of the 26
    attributes of spelling (1 to 4)."""
    window: int = 1
    """Neighbours on each side whose features are seen too."""
    family: Literal["sha-v1", "multiply-v1"] = "sha-v1"
    """Hash functions of minhash, bloom and spelling: those of the public code, or faster ones."""
    seed: int = 0
    """Chooses the functions of multiply-v1; sha-v1 has none."""
    pair_rows: int = 0
    """Rows of a linear model over words and pairs of neighbours that a classifier of texts adds to
    its logits; 0: none. Pretraining and tags have no use for it."""

    def __post_init__(self) -> None:
        """Check sizes and names."""
        check_fields(self, least={"window": 0, "seed": 0, "pair_rows": 0})
        if self.pair_rows and not self.is_bag:
            raise ValueError(
                f"pair_rows={self.pair_rows} with kind={self.kind}; minhash, bloom and spelling "
                "have whole numbers to tell words apart by"
            )
        if self.kind == "spelling" and self.num_hashes > 8:
            raise ValueError(
                f"num_hashes={self.num_hashes} with kind=spelling makes "
                f"{26 * self.num_hashes} rows a word; 1 to 4 for each of the 26 attributes are "
                "usual, 8 are allowed"
            )

    @property
    def is_bag(self) -> bool:
        """Whether features are numbers of rows to add up; else they are values."""
        return self.kind in ("minhash", "bloom", "spelling")


def check_fields(config: Any, *, least: Mapping[str, int]) -> None:
    """Check every field of a configuration by its type and name; whole numbers are 1 or more.

    Args:
        config: A dataclass.
        least: Fields that may be less than 1 -> the least number.
    """
    for entry in dataclasses.fields(config):
        value = getattr(config, entry.name)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if entry.name == "projection":
            fits = value is None or isinstance(value, ProjectionConfig)
            needed = "a ProjectionConfig or None is needed"
        elif choices := get_args(entry.type):
            fits, needed = value in choices, f"allowed are {', '.join(choices)}"
        elif entry.type is bool:
            fits, needed = isinstance(value, bool), "true or false is needed"
        elif entry.type is int:
            lowest = least.get(entry.name, 1)
            fits = is_number and isinstance(value, int) and value >= lowest
            needed = f"a whole number >= {lowest} is needed"
        elif entry.name.endswith("_prob"):
            fits, needed = is_number and 0 <= value < 1, "a probability in [0, 1) is needed"
        else:
            fits, needed = is_number and value > 0, "a number > 0 is needed"
        if not fits:
            raise ValueError(f"{entry.name}={value!r} given; {needed}")


def refuse_unknown(config_class: type, values: dict[str, Any]) -> None:
    """Raise a ValueError for a key that is no field of a configuration."""
    allowed = [field.name for field in dataclasses.fields(config_class)]
    unknown = sorted(set(values) - set(allowed))
    if unknown:
        raise ValueError(
            f"unknown key(s) {', '.join(unknown)} for {config_class.__name__}; "
            f"allowed are {', '.join(allowed)}"
        )
