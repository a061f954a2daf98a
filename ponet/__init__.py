"""PoNet, its rivals and encoders of hashed words, with pretraining and fine-tuning heads.

The names below are the promised API; everything else may change.
"""

from ponet.batch import EncoderBatch
from ponet.bundle import Bundle, load_bundle, save_bundle
from ponet.config import (
    BertConfig,
    EncoderConfig,
    FNetConfig,
    HybridConfig,
    HyperMixerConfig,
    LocalGlobalConfig,
    LSTMConfig,
    MLPMixerConfig,
    PoNetConfig,
)
from ponet.config_fields import ProjectionConfig
from ponet.encoders import Encoder, build_encoder
from ponet.foreign import load_official
from ponet.heads import (
    MaskedOutput,
    PretrainingModel,
    PretrainingOutput,
    SequenceClassifier,
    TokenClassifier,
)
from ponet.kept_kernels import keep_few_kernels
from ponet.tagger import SentenceTagger, Tagger, TaggerOutput

__version__ = "0.1.0"

keep_few_kernels()

__all__ = [
    "BertConfig",
    "Bundle",
    "Encoder",
    "EncoderBatch",
    "EncoderConfig",
    "FNetConfig",
    "HybridConfig",
    "HyperMixerConfig",
    "LSTMConfig",
    "LocalGlobalConfig",
    "MLPMixerConfig",
    "MaskedOutput",
    "PoNetConfig",
    "PretrainingModel",
    "PretrainingOutput",
    "ProjectionConfig",
    "SentenceTagger",
    "SequenceClassifier",
    "Tagger",
    "TaggerOutput",
    "TokenClassifier",
    "__version__",
    "build_encoder",
    "load_bundle",
    "load_official",
    "save_bundle",
]
