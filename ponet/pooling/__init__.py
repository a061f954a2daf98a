"""Pure pooling functions of PoNet; the modules that own parameters call them."""

from ponet.pooling.global_pool import (
    at_least_float32,
    global_attention,
    masked_mean,
    score_bias,
)
from ponet.pooling.local import local_max
from ponet.pooling.mix import mix_pools
from ponet.pooling.segment import segment_max, segment_rows

__all__ = [
    "at_least_float32",
    "global_attention",
    "local_max",
    "masked_mean",
    "mix_pools",
    "score_bias",
    "segment_max",
    "segment_rows",
]
