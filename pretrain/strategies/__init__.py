"""Strategies for several devices: FSDP2, ZeRO 1 and 2; DDP is Lightning's own."""

from pretrain.strategies.fsdp import FsdpStrategy
from pretrain.strategies.zero import ZeroStrategy

__all__ = ["FsdpStrategy", "ZeroStrategy"]
