"""The rival in the benchmarks computes the same function as ours, and more work for it."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import official, rivals
from ponet import BertConfig, EncoderBatch, PoNetConfig
from ponet.encoders import build_encoder
from ponet.flops import training_flops

SIZES = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "ffn_size": 32, "vocab_size": 40}
LARGER = {"hidden_size": 32, "num_layers": 1, "num_heads": 4, "ffn_size": 128, "vocab_size": 40}


def padded_batch() -> EncoderBatch:
    """Three rows of 12, 9 and 4 real tokens; segments, some of them in two pieces; tied values."""
    generator = torch.Generator().manual_seed(0)
    mask_BL = torch.arange(12) < torch.tensor([12, 9, 4])[:, None]
    input_ids_BL = torch.randint(5, 12, mask_BL.shape, generator=generator)
    return EncoderBatch(
        input_ids=input_ids_BL,
        mask=mask_BL,
        token_type_ids=torch.zeros_like(input_ids_BL),
        segment_ids=torch.randint(0, 5, mask_BL.shape, generator=generator),
        special_mask=torch.rand(mask_BL.shape, generator=generator) < 0.2,
    )


def full_batch(num_rows: int, num_tokens: int) -> EncoderBatch:
    """Rows without padding or special tokens, segments of four tokens."""
    ids_BL = torch.randint(5, 40, (num_rows, num_tokens))
    places_BL = torch.arange(num_tokens).expand(num_rows, num_tokens)
    nothing_BL = torch.zeros_like(ids_BL, dtype=torch.bool)
    return EncoderBatch(
        input_ids=ids_BL,
        mask=~nothing_BL,
        token_type_ids=torch.zeros_like(ids_BL),
        segment_ids=places_BL // 4,
        special_mask=nothing_BL,
        segments_are_runs=True,
        has_padding=False,
    )


def both(**options):
    config = PoNetConfig(**SIZES, dropout_prob=0.0, **options)
    torch.manual_seed(3)
    ours = build_encoder(config)
    for parameter in ours.parameters():  # biases and norms too, which start at 0 and 1
        torch.nn.init.normal_(parameter, std=0.3)
    theirs = official.official_encoder(config)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("guard_special_tokens", [True, False])
def test_the_official_arrangement_computes_our_function(guard_special_tokens) -> None:
    ours, theirs = both(guard_special_tokens=guard_special_tokens)
    batch = padded_batch()
    with torch.no_grad():
        difference_BLD = (ours(batch) - theirs(batch)) * batch.mask[..., None]
    assert difference_BLD.abs().max() < 1e-5


def test_the_official_mixer_has_our_gradients() -> None:
    ours, theirs = both()
    batch = padded_batch()
    found = []
    for encoder in (ours, theirs):
        mixer = encoder.layers[0].mixer
        torch.manual_seed(4)
        x_BLD = torch.randn(*batch.mask.shape, 16, requires_grad=True)
        update_BLD = mixer(x_BLD, encoder.prepare(batch))
        (update_BLD * torch.randn_like(update_BLD)).sum().backward()
        found.append({"x": x_BLD.grad, **{n: p.grad for n, p in mixer.named_parameters()}})
    for name, gradient in found[0].items():
        # The key bias moves all scores alike; what is left of its gradient there is rounding.
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_an_ablation_has_no_official_arrangement() -> None:
    with pytest.raises(ValueError, match="use_local_pool=False given"):
        official.official_encoder(PoNetConfig(**SIZES, use_local_pool=False))


@pytest.mark.parametrize("kind", ["ponet", "official", "bert"])
def test_operations_of_a_layer_are_those_that_pytorch_counts(kind) -> None:
    config_class = BertConfig if kind == "bert" else PoNetConfig
    config = config_class(**LARGER, max_positions=128, dropout_prob=0.0)
    encoder = official.official_encoder(config) if kind == "official" else build_encoder(config)
    batch = full_batch(2, 128)
    x_BLD, plan = torch.randn(2, 128, 32), encoder.prepare(batch)
    encoder.eval()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        encoder.layers[0](x_BLD, plan)
    expected = 2 * 128 * rivals.step_flops(kind, "layer", config, 128, training=False)
    # Not in the formula: PoNet's products of pooled vectors, one row of the batch each.
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("kind", sorted(rivals.CONFIG_CLASSES.keys() - {"official"}))
def test_operations_of_a_step_agree_with_those_of_training(kind) -> None:
    config = rivals.CONFIG_CLASSES[kind].preset("base")
    per_token = rivals.step_flops(kind, "model", config, 512, training=True)
    whole = training_flops(config, num_rows=3, num_tokens=512)
    assert per_token * 3 * 512 == pytest.approx(whole, rel=0.01)


def test_five_projections_are_a_sixth_more_work_than_three() -> None:
    config = PoNetConfig()
    folded, released = (
        rivals.step_flops(kind, "layer", config, 512, training=True)
        for kind in ("ponet", "official")
    )
    square = config.hidden_size**2
    assert folded == pytest.approx(72 * square, rel=0.005)
    assert released == pytest.approx(84 * square, rel=0.005)


def test_the_bound_of_a_layer_adds_products_and_fifty_passes() -> None:
    config = PoNetConfig(hidden_size=100, num_heads=1, ffn_size=400)
    seconds = rivals.least_layer_seconds(
        config, tokens=10, flops_per_s=1e30, bytes_per_s=1000.0, bytes_per_value=2
    )
    assert seconds == pytest.approx(50 * 10 * 100 * 2 / 1000)
