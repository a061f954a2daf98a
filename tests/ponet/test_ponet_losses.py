"""The vocabulary's cross-entropy in chunks: equal to the plain one, in value and gradient."""

import pytest
import torch
from ponet_reference import make_batch
from torch import Tensor
from torch.nn import functional as F

from ponet import PoNetConfig, PretrainingModel, losses
from ponet.losses import (
    CHUNK_BYTES_CPU,
    CHUNK_BYTES_DEVICE,
    TokenLoss,
    balanced_rows,
    linear_cross_entropy,
)

NUM_POSITIONS, WIDTH, VOCAB = 23, 8, 37


def inputs(dtype: torch.dtype = torch.float32, *, seed: int = 0) -> tuple[Tensor, ...]:
    """Leaves x, weight and bias, and labels of which every fifth is missing."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(NUM_POSITIONS, WIDTH), (VOCAB, WIDTH), (VOCAB,)]
    leaves = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    labels_N = torch.randint(0, VOCAB, (NUM_POSITIONS,), generator=generator)
    labels_N[::5] = -100
    return (*(leaf.requires_grad_() for leaf in leaves), labels_N)


def plain(x_ND: Tensor, weight_VD: Tensor, bias_V: Tensor, labels_N: Tensor) -> TokenLoss:
    """The definition, with all logits."""
    logits_NV = F.linear(x_ND, weight_VD, bias_V)
    loss = F.cross_entropy(logits_NV, labels_N, ignore_index=-100, reduction="sum")
    return TokenLoss(loss, (logits_NV.argmax(-1) == labels_N).sum(), (labels_N != -100).sum())


def gradients(loss: Tensor, leaves: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Of a mean over 17, as a training step takes it."""
    return torch.autograd.grad(loss / 17, leaves)


@pytest.mark.parametrize("rows", [0, 1, 5, 23, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chunks_give_the_loss_and_the_gradients_of_the_plain_form(
    rows: int, dtype: torch.dtype
) -> None:
    *leaves, labels_N = inputs(dtype)
    exact = inputs(torch.float64)
    wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
    found = linear_cross_entropy(*leaves, labels_N, rows_per_chunk=rows)
    expected = plain(*wide, exact[-1])
    torch.testing.assert_close(found.loss.double(), expected.loss, rtol=1e-5, atol=1e-5)
    assert found.hits == expected.hits and found.num_positions == expected.num_positions == 18
    for own, reference in zip(
        gradients(found.loss, leaves), gradients(expected.loss, wide), strict=True
    ):
        assert own.dtype == dtype
        torch.testing.assert_close(own.double(), reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("rows", [0, 5])
def test_words_added_for_the_products_of_a_device_change_nothing(
    monkeypatch: pytest.MonkeyPatch, rows: int, dtype: torch.dtype
) -> None:
    *leaves, labels_N = inputs(dtype)
    usual = linear_cross_entropy(*leaves, labels_N, rows_per_chunk=rows)
    expected = [usual.loss, usual.hits, *gradients(usual.loss, leaves)]
    assert losses.added_words(VOCAB, "cuda") == 64 - VOCAB and losses.added_words(128, "cuda") == 0
    monkeypatch.setattr(losses, "added_words", lambda vocab_size, _: 64 - vocab_size)
    found = linear_cross_entropy(*leaves, labels_N, rows_per_chunk=rows)
    results = [found.loss, found.hits, *gradients(found.loss, leaves)]
    close = (
        {"rtol": 1e-2, "atol": 1e-2} if dtype == torch.bfloat16 else {"rtol": 1e-6, "atol": 1e-6}
    )
    for own, reference in zip(results, expected, strict=True):
        assert own.shape == reference.shape and own.dtype == reference.dtype
        torch.testing.assert_close(own, reference, **close)


def test_under_autocast_the_error_is_that_of_bfloat16_and_gradients_are_float32() -> None:
    *leaves, labels_N = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        found = linear_cross_entropy(*leaves, labels_N, rows_per_chunk=6)
    expected = plain(*leaves, labels_N)
    assert found.loss.dtype == torch.float32
    torch.testing.assert_close(found.loss, expected.loss, rtol=2e-2, atol=0)
    for own, reference in zip(
        gradients(found.loss, leaves), gradients(expected.loss, leaves), strict=True
    ):
        assert own.dtype == torch.float32
        assert (own - reference).norm() < 2e-2 * reference.norm()


def test_weights_in_bfloat16_get_gradients_in_bfloat16() -> None:
    *leaves, labels_N = inputs(torch.bfloat16)
    loss = linear_cross_entropy(*leaves, labels_N, rows_per_chunk=6).loss
    reference = plain(*(leaf.detach().float().requires_grad_() for leaf in leaves), labels_N).loss
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, reference, rtol=2e-2, atol=0)
    assert [g.dtype for g in gradients(loss, leaves)] == [torch.bfloat16] * 3


def test_the_first_of_several_equal_logits_is_the_guess_as_argmax_has_it() -> None:
    x_ND, bias_V = torch.zeros(3, WIDTH), torch.zeros(VOCAB)
    labels_N = torch.tensor([0, 1, VOCAB - 1])
    assert linear_cross_entropy(x_ND, torch.ones(VOCAB, WIDTH), bias_V, labels_N).hits == 1


def test_large_logits_neither_overflow_nor_vanish() -> None:
    x_ND = torch.tensor([[3e4], [-3e4]], requires_grad=True)
    weight_VD = torch.tensor([[1.0], [0.0]])
    sums = linear_cross_entropy(x_ND, weight_VD, torch.zeros(2), torch.tensor([1, 1]))
    assert sums.loss == 3e4
    assert gradients(sums.loss * 17, (x_ND,))[0].flatten().tolist() == [1.0, 0.0]


def test_without_any_label_loss_and_gradients_are_zero() -> None:
    *leaves, labels_N = inputs()
    sums = linear_cross_entropy(*leaves, torch.full_like(labels_N, -100), rows_per_chunk=4)
    assert [value.item() for value in sums] == [0.0, 0, 0]
    assert all(not gradient.any() for gradient in gradients(sums.loss, leaves))


def test_frozen_inputs_get_no_gradient_and_evaluation_makes_none() -> None:
    x_ND, weight_VD, bias_V, labels_N = inputs()
    frozen = [x_ND.detach(), weight_VD, bias_V.detach()]
    loss = linear_cross_entropy(*frozen, labels_N, rows_per_chunk=7).loss
    (found,) = gradients(loss, (weight_VD,))
    (expected,) = gradients(plain(*frozen, labels_N).loss, (weight_VD,))
    torch.testing.assert_close(found, expected)
    with torch.no_grad():
        assert not linear_cross_entropy(x_ND, weight_VD, bias_V, labels_N).loss.requires_grad


def test_a_second_backward_pass_is_refused_rather_than_scaled_twice() -> None:
    *leaves, labels_N = inputs()
    loss = linear_cross_entropy(*leaves, labels_N).loss
    torch.autograd.grad(loss, leaves, retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, leaves)


def test_the_same_step_gives_the_same_bits() -> None:
    def once() -> list[Tensor]:
        *leaves, labels_N = inputs()
        loss = linear_cross_entropy(*leaves, labels_N, rows_per_chunk=6).loss
        return [loss.detach(), *gradients(loss, leaves)]

    assert all(torch.equal(one, other) for one, other in zip(once(), once(), strict=True))


def test_chunks_are_of_one_size_and_hold_no_more_logits_than_the_limit() -> None:
    for device, limit in (("cpu", CHUNK_BYTES_CPU), ("cuda", CHUNK_BYTES_DEVICE)):
        rows = balanced_rows(9830, 30522, device)
        assert 4 * 30522 * rows <= limit
        num_chunks = -(-9830 // rows)
        assert num_chunks * rows - 9830 < num_chunks
    assert balanced_rows(100, 65, "cpu") == 100
    assert balanced_rows(5, 10**9, "cpu") == 1


def test_the_model_s_loss_is_that_of_its_logits_and_reaches_the_tied_weight() -> None:
    sizes = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "ffn_size": 16}
    torch.manual_seed(0)
    model = PretrainingModel(PoNetConfig(vocab_size=41, dropout_prob=0.0, **sizes))
    batch = make_batch((12, 7))
    positions_BM = torch.tensor([[1, 3, 0], [2, 2, 5]])
    labels_BM = torch.tensor([[7, 8, -100], [9, 10, 40]])
    output = model.forward_masked(batch, positions_BM)
    logits_NV = output.mlm_logits.flatten(0, 1)
    F.cross_entropy(logits_NV, labels_BM.flatten(), reduction="sum").backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    found = model.masked_loss(batch, positions_BM, labels_BM)
    assert found.pair_logits is not None and output.pair_logits is not None
    torch.testing.assert_close(found.pair_logits, output.pair_logits)
    found.mlm.loss.backward()
    assert {n for n, p in model.named_parameters() if p.grad is not None} == set(expected)
    for name, reference in expected.items():
        torch.testing.assert_close(model.get_parameter(name).grad, reference, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kernels", "is_triton"), [("auto", True), ("eager", False)])
def test_who_asks_for_plain_kernels_gets_a_plain_loss(monkeypatch, kernels, is_triton):
    asked = []
    monkeypatch.setattr(losses, "uses_triton", lambda _: True)
    monkeypatch.setattr(losses, "_triton_gradient", lambda *given: (
        asked.append(given), losses._plain_gradient(*given)
    )[1])  # fmt: skip
    config = PoNetConfig.preset("nano", vocab_size=50, kernels=kernels)
    model = PretrainingModel(config)
    positions_BM = torch.tensor([[1, 2], [3, 4]])
    batch = make_batch((6, 6), num_tokens=6)
    model.masked_loss(batch, positions_BM, torch.ones_like(positions_BM)).mlm.loss.backward()
    assert bool(asked) == is_triton
