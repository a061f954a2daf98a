"""FNet token mixer: a Fourier transform. B batch, L tokens, D width, K = D // 2 + 1."""

from typing import Any

import torch
from torch import Tensor

from ponet.batch import EncoderBatch
from ponet.encoders.backbone import TokenMixer
from ponet.pooling.plan import at_least_float32


def real_fourier(x_BLD: Tensor) -> Tensor:
    """Return the real part of the 2-D Fourier transform over tokens and width, (B, L, D).

    The transform of real values at (-l, -d) is the conjugate of that at (l, d). So half of the
    columns are transformed, and the real part of the others is read from them in reverse.

    Args:
        x_BLD: float32 or float64.
    """
    half_BLK = torch.fft.rfft2(x_BLD, dim=(1, 2)).real
    rest = half_BLK[..., 1 : x_BLD.shape[2] - half_BLK.shape[2] + 1]
    return torch.cat([half_BLK, rest.flip(1, 2).roll(1, 1)], 2)


class _RealFourier(torch.autograd.Function):
    """`real_fourier` is a symmetric linear map: its gradient is the same transform again."""

    @staticmethod
    def forward(ctx: Any, x_BLD: Tensor) -> Tensor:
        return real_fourier(x_BLD)

    @staticmethod
    def backward(ctx: Any, grad_BLD: Tensor) -> Tensor:
        return real_fourier(grad_BLD)


class FNetMixer(TokenMixer):
    """Real part of the 2-D Fourier transform over tokens and width; no parameters, no dropout.

    A Fourier transform has no notion of a mask: padding takes part in the mixing like any token,
    as in the published model, so results depend on the padded length (`FNetConfig.sees_padding`:
    `encode` and fine-tuning's answers take batches of one length). The transform runs in
    float32 under autocast, because half-precision transforms exist for few sizes and devices.
    """

    def prepare(self, batch: EncoderBatch) -> None:
        """Return None: the transform needs nothing but the hidden states."""
        return None

    def forward(self, x_BLD: Tensor, plan: None) -> Tensor:
        """Return the (B, L, D) update."""
        with torch.autocast(x_BLD.device.type, enabled=False):
            mixed_BLD: Tensor = _RealFourier.apply(  # type: ignore[no-untyped-call]
                at_least_float32(x_BLD)
            )
            return mixed_BLD.to(x_BLD.dtype)
