"""Strategies for several devices: FSDP2, ZeRO 1 and 2; DDP is Lightning's own."""

from pretrain.strategies.fsdp import FsdpStrategy
from pretrain.strategies.gather import full_model_state
from pretrain.strategies.zero import ZeroStrategy

__all__ = ["FsdpStrategy", "ZeroStrategy", "full_model_state"]
