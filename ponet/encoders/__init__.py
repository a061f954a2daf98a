"""Encoders: one backbone, several token mixers."""

import itertools
from collections.abc import Callable
from typing import Any

from ponet.config import EncoderConfig
from ponet.encoders.backbone import Encoder, TokenMixer
from ponet.encoders.bert import BertMixer
from ponet.encoders.fnet import FNetMixer
from ponet.encoders.hybrid import hybrid_mixer
from ponet.encoders.hyper_mixer import HyperTokenMixer
from ponet.encoders.local_global import layer_mixer
from ponet.encoders.lstm import LSTMMixer
from ponet.encoders.mlp_mixer import MLPTokenMixer
from ponet.encoders.ponet import PoNetMixer

__all__ = ["Encoder", "TokenMixer", "build_encoder"]


def build_encoder(config: EncoderConfig) -> Encoder:
    """Return a freshly initialised encoder with the mixer that the configuration's class names.

    Raises:
        ValueError: If the configuration is of no known kind.
    """
    make_mixer = _MIXERS.get(config.kind)
    if make_mixer is None:
        raise ValueError(
            f"{type(config).__name__} names no encoder; its kind must be {', '.join(_MIXERS)}"
        )
    numbers = itertools.count()
    return Encoder(config, lambda: make_mixer(config, next(numbers)))


_MIXERS: dict[str, Callable[[Any, int], TokenMixer]] = {
    "ponet": lambda config, _: PoNetMixer(config),
    "bert": lambda config, _: BertMixer(config),
    "local_global": layer_mixer,
    "hybrid": hybrid_mixer,
    "fnet": lambda *_: FNetMixer(),
    "mlp_mixer": lambda config, _: MLPTokenMixer(config),
    "hyper_mixer": lambda config, _: HyperTokenMixer(config),
    "lstm": lambda config, _: LSTMMixer(config),
}
"""Kind of a configuration -> what makes the mixer of a layer, counted from 0."""
