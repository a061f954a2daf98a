"""Encoders: one backbone, several token mixers."""

from collections.abc import Callable

from ponet.config import (
    BertConfig,
    EncoderConfig,
    FNetConfig,
    HyperMixerConfig,
    LSTMConfig,
    MLPMixerConfig,
    PoNetConfig,
)
from ponet.encoders.backbone import Encoder, TokenMixer
from ponet.encoders.bert import BertMixer
from ponet.encoders.fnet import FNetMixer
from ponet.encoders.hyper_mixer import HyperTokenMixer
from ponet.encoders.lstm import LSTMMixer
from ponet.encoders.mlp_mixer import MLPTokenMixer
from ponet.encoders.ponet import PoNetMixer

__all__ = ["Encoder", "TokenMixer", "build_encoder"]


def build_encoder(config: EncoderConfig) -> Encoder:
    """Return a freshly initialised encoder with the mixer that the configuration's class names.

    Raises:
        ValueError: If the configuration is of no known kind.
    """
    return Encoder(config, _mixer_factory(config))


def _mixer_factory(config: EncoderConfig) -> Callable[[], TokenMixer]:
    if isinstance(config, PoNetConfig):
        return lambda: PoNetMixer(config)
    if isinstance(config, BertConfig):
        return lambda: BertMixer(config)
    if isinstance(config, FNetConfig):
        return FNetMixer
    if isinstance(config, MLPMixerConfig):
        return lambda: MLPTokenMixer(config)
    if isinstance(config, HyperMixerConfig):
        return lambda: HyperTokenMixer(config)
    if isinstance(config, LSTMConfig):
        return lambda: LSTMMixer(config)
    raise ValueError(
        f"{type(config).__name__} names no encoder; use PoNetConfig, BertConfig, FNetConfig, "
        "MLPMixerConfig, HyperMixerConfig or LSTMConfig"
    )
