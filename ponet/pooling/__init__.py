"""Pure pooling functions of PoNet; the modules that own parameters call them."""

from ponet.pooling.global_pool import (
    at_least_float32,
    global_attention,
    masked_mean,
    score_bias,
)
from ponet.pooling.mix import KernelName, choose_kernels, kernel_set, mix
from ponet.pooling.plan import Kernels, PoolInputs, PoolPlan, plan_pools, segment_rows

__all__ = [
    "KernelName",
    "Kernels",
    "PoolInputs",
    "PoolPlan",
    "at_least_float32",
    "choose_kernels",
    "global_attention",
    "kernel_set",
    "masked_mean",
    "mix",
    "plan_pools",
    "score_bias",
    "segment_rows",
]
