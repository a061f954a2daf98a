"""Every option of `fit` and `predict`; the command line and the YAML files have the same fields."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Train a classifier of texts or text pairs, from a bundle or a random initialisation."""

    bundle: str
    """Folder of a pretrained bundle (config.json, model.safetensors, tokenizer.json)."""
    train: str
    """Training rows: .csv (quoted as usual), .tsv (tabs, no quoting) or .jsonl; also .gz, .zst."""
    validation: str
    """Rows that choose the best epoch, in one of the same formats; never trained on."""
    output: str
    """Folder to write: metrics.jsonl and classifier/."""
    text: str = "text"
    """Column of the text."""
    text_pair: str = ""
    """Column of the second text of a pair; empty: single texts."""
    label: str = "label"
    """Column of the label, any string or whole number; the training rows define which exist."""
    lr: float = 5e-5
    """Peak learning rate, > 0; the released GLUE script searches 3e-5 to 3e-4."""
    batch_size: int = 32
    """Examples per optimiser step, >= 1."""
    epochs: int = 4
    """Passes over the training rows, >= 1. Released GLUE script: 4."""
    max_len: int = 128
    """Tokens per example with [CLS] and [SEP]; longer ones are cut. Released GLUE script: 128."""
    warmup_share: float = 0.1
    """Share of all steps that warm up from zero, in [0, 1); then linear decay to zero."""
    weight_decay: float = 0.0
    """Decoupled decay of matrices, >= 0; biases and norms never decay. Released GLUE script: 0."""
    gradient_clip: float = 1.0
    """Largest gradient norm, > 0. Released GLUE script: 1."""
    seed: int = 42
    """Decides the new layers' weights, dropout and the order of the rows, >= 0."""
    random_init: bool = False
    """Take sizes and tokenizer from the bundle but no weights: what pretraining is worth."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Arithmetic; bf16-mixed pays on devices with bfloat16 matrix units."""
    overwrite: bool = False
    """Replace an earlier metrics.jsonl and classifier/ in the output; otherwise an error."""

    def __post_init__(self) -> None:
        """Check ranges."""
        _check_at_least_one(self, "batch_size", "epochs")
        if self.max_len < 5:
            raise ValueError(f"max_len is {self.max_len}; a pair needs 5 tokens or more")
        for name in ("lr", "gradient_clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be > 0")
        if not 0 <= self.warmup_share < 1:
            raise ValueError(f"warmup_share is {self.warmup_share}; it must be in [0, 1)")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay is {self.weight_decay}; it must be >= 0")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}; it must be in [0, 2^32)")


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Label new texts with a trained classifier; rows are streamed, the order is kept."""

    model: str
    """Folder of the classifier that `fit` wrote."""
    input: str
    """Rows with the columns the classifier was trained on; labels are not needed."""
    output: str
    """JSONL file to write: line of the input, label and the probability of every label."""
    text: str = ""
    """Column of the text; empty: as in training."""
    text_pair: str = ""
    """Column of the second text; empty: as in training."""
    batch_size: int = 64
    """Examples computed at once, >= 1; changes speed and memory, not the result."""

    def __post_init__(self) -> None:
        """Check ranges."""
        _check_at_least_one(self, "batch_size")


def _check_at_least_one(config: object, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}; it must be 1 or more")
