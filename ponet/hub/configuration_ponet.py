"""PoNet's configuration in the form of transformers.

Invariant: this file and what it imports from the package also run as copies beside exported
weights (see standalone.py), so it imports torch, transformers and the package's models only.
"""

from typing import Any

import transformers

from ponet.config import PoNetConfig
from ponet.names import RELEASED_GUARD, config_names, native_activation

OLDEST_TRANSFORMERS = "5.20"
"""The version that the code needs; pyproject.toml says the same."""

try:
    from transformers import PreTrainedConfig
except ImportError as error:
    raise ImportError(
        f"this model's code needs transformers {OLDEST_TRANSFORMERS} or newer, and "
        f"{transformers.__version__} is installed; pip install -U transformers"
    ) from error

_NAMES = config_names("ponet")


class PoNetHubConfig(PreTrainedConfig):
    """Configuration of PoNetModel and its heads; `model_type` is "ponet".

    Args:
        hidden_act: "gelu" or "gelu_pytorch_tanh".
        num_pair_classes: Classes of the pretraining task on text pairs; 0 = without this head.
        has_pooler: Whether PoNetModel has a linear layer and tanh on the first token.
        classifier_dropout: Dropout before a classifier; None = hidden_dropout_prob.
        pad_token_id: Padding, 0 in BERT's vocabulary.
        cls_token_id: Begins a sequence; with sep_token_id it delimits the default segments.
        sep_token_id: Ends each text.
        **kwargs: The fields of ponet.PoNetConfig under the names that transformers' models share
            (num_hidden_layers, hidden_dropout_prob, ...), and what PreTrainedConfig takes.

    Raises:
        ValueError: If a value is outside of what ponet.PoNetConfig allows, or the configuration
            is that of the authors' release.
    """

    model_type = "ponet"

    def __init__(
        self,
        *,
        hidden_act: str = "gelu",
        num_pair_classes: int = 0,
        has_pooler: bool = True,
        classifier_dropout: float | None = None,
        pad_token_id: int | None = 0,
        cls_token_id: int | None = 101,
        sep_token_id: int | None = 102,
        **kwargs: Any,
    ) -> None:
        if RELEASED_GUARD in kwargs:
            raise ValueError(
                f"this configuration has {RELEASED_GUARD!r}, so it is the authors' release, whose "
                "weights have other names; run python -m ponet import and export on it"
            )
        if __name__.startswith("ponet."):
            # It names code files beside the weights, which a folder saved from here has not.
            kwargs.pop("auto_map", None)
        defaults = PoNetConfig().to_dict()
        for ours, theirs in _NAMES.items():
            setattr(self, theirs, kwargs.pop(theirs, defaults[ours]))
        self.hidden_act = hidden_act
        self.num_pair_classes = num_pair_classes
        self.has_pooler = has_pooler
        self.classifier_dropout = classifier_dropout
        self.pad_token_id = pad_token_id
        self.cls_token_id = cls_token_id
        self.sep_token_id = sep_token_id
        super().__init__(**kwargs)
        self.to_native()

    def to_native(self) -> PoNetConfig:
        """Return our configuration of the same encoder."""
        return native_config(self)


def native_config(config: Any, **overrides: Any) -> PoNetConfig:
    """Return our configuration of the same encoder, with some fields replaced.

    Models call this function and not the method: transformers may load the copied code twice, once
    for the configuration and once for the model, and then each has classes of its own.
    """
    values = {ours: getattr(config, theirs) for ours, theirs in _NAMES.items()}
    values["activation"] = native_activation(config.hidden_act)
    return PoNetConfig(**{**values, **overrides})
