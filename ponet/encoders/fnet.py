"""FNet token mixer: a Fourier transform. B batch, L tokens, D width."""

import torch
from torch import Tensor

from ponet.batch import EncoderBatch
from ponet.encoders.backbone import TokenMixer
from ponet.pooling import at_least_float32


class FNetMixer(TokenMixer):
    """Real part of the 2-D Fourier transform over tokens and width; no parameters, no dropout.

    A Fourier transform has no notion of a mask: padding takes part in the mixing like any token,
    as in the published model, so results depend on the padded length. The transform runs in
    float32 under autocast, because half-precision transforms exist for few sizes and devices.
    """

    def prepare(self, batch: EncoderBatch) -> None:
        """Return None: the transform needs nothing but the hidden states."""
        return None

    def forward(self, x_BLD: Tensor, plan: None) -> Tensor:
        """Return the (B, L, D) update."""
        with torch.autocast(x_BLD.device.type, enabled=False):
            mixed_BLD: Tensor = torch.fft.fft2(at_least_float32(x_BLD), dim=(1, 2)).real
            return mixed_BLD.to(x_BLD.dtype)
