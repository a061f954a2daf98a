"""The rivals' mixers: BERT without a mask where nothing is padded, FNet's real transform."""

import dataclasses

import pytest
import torch
from ponet_reference import make_batch

from ponet import BertConfig, FNetConfig, build_encoder
from ponet.encoders.fnet import FNetMixer, real_fourier

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_heads": 4, "num_layers": 2, "ffn_size": 32,
         "max_positions": 24, "init_range": 0.2}  # fmt: skip


def test_bert_attends_without_a_mask_where_no_token_is_padding() -> None:
    torch.manual_seed(0)
    encoder = build_encoder(BertConfig(**SIZES)).eval()
    masked = make_batch((12, 12, 12))
    unmasked = dataclasses.replace(masked, has_padding=False)
    assert encoder.prepare(masked) is not None and encoder.prepare(unmasked) is None
    torch.testing.assert_close(encoder(unmasked), encoder(masked), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num_tokens", [1, 2, 5, 8])
@pytest.mark.parametrize("width", [1, 2, 6, 7])
def test_half_of_the_transform_gives_the_whole_real_part(num_tokens: int, width: int) -> None:
    x_BLD = torch.randn(3, num_tokens, width, dtype=torch.float64)
    expected = torch.fft.fft2(x_BLD, dim=(1, 2)).real
    torch.testing.assert_close(real_fourier(x_BLD), expected)
    found = real_fourier(x_BLD.float())
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_tokens", [1, 4, 5])
def test_the_transform_s_gradient_is_that_of_the_definition(num_tokens: int) -> None:
    mixer = FNetMixer()
    x_BLD = torch.randn(2, num_tokens, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: mixer(x, None), x_BLD)
    assert torch.autograd.gradgradcheck(lambda x: mixer(x, None), x_BLD)


def test_the_transform_runs_in_float32_under_autocast() -> None:
    x_BLD = torch.randn(2, 8, 6)
    with torch.autocast("cpu", torch.bfloat16):
        found, low = FNetMixer()(x_BLD, None), FNetMixer()(x_BLD.bfloat16(), None)
    torch.testing.assert_close(found, real_fourier(x_BLD), rtol=0, atol=0)
    assert low.dtype == torch.bfloat16
    assert build_encoder(FNetConfig(**SIZES))(make_batch()).isfinite().all()
