"""Dropout: what torch.nn.Dropout does, with other random bits."""

import copy

import pytest
import torch
from torch import nn

from ponet.dropout import Dropout

COUNT = 200_000


@pytest.mark.parametrize("dropped", [0.1, 0.5, 0.003])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_as_many_elements_as_asked_for_are_dropped_and_the_mean_stays(dropped, dtype) -> None:
    torch.manual_seed(3)
    found = Dropout(dropped)(torch.ones(COUNT, dtype=dtype))
    share = float((found == 0).double().mean())
    assert abs(share - dropped) < 5 * (dropped * (1 - dropped) / COUNT) ** 0.5
    (kept,) = found[found != 0].unique().tolist()
    assert kept == pytest.approx(1 / (1 - dropped), rel=4e-3 if dtype == torch.bfloat16 else 1e-4)
    assert found.dtype == dtype


def test_what_is_dropped_has_no_neighbours_in_common() -> None:
    torch.manual_seed(4)
    rows = (Dropout(0.3)(torch.ones(COUNT // 8, 8)) == 0).double()
    correlations = torch.corrcoef(rows.T) - torch.eye(8)
    assert correlations.abs().max() < 5 / len(rows) ** 0.5
    shifted = torch.corrcoef(torch.stack([rows[1:].flatten(), rows[:-1].flatten()]))[0, 1]
    assert abs(shifted) < 5 / rows.numel() ** 0.5


@pytest.mark.parametrize("shape", [(1,), (3,), (5, 7), (0, 4), ()])
def test_the_gradient_is_that_of_a_product_with_what_was_kept(shape) -> None:
    torch.manual_seed(5)
    x = torch.randn(shape).transpose(0, -1).requires_grad_() if shape else torch.tensor(2.0)
    x = x.detach().requires_grad_()
    y = Dropout(0.4)(x)
    y.sum().backward()
    assert y.shape == x.shape
    assert x.grad is not None
    torch.testing.assert_close(x.grad * x.detach(), y.detach())


def test_nothing_is_dropped_in_evaluation_and_none_of_the_generator_is_used() -> None:
    x, before = torch.randn(9), torch.get_rng_state()
    assert Dropout(0.5).eval()(x) is x
    assert torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_same_state_of_the_generator_drops_the_same() -> None:
    x = torch.randn(1001)
    torch.manual_seed(6)
    first, second = Dropout(0.2)(x), Dropout(0.2)(x)
    torch.manual_seed(6)
    assert torch.equal(Dropout(0.2)(x), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("dropped", [1.0, 0.999999])
def test_a_share_of_one_drops_all_or_nearly_all_without_an_infinity(dropped) -> None:
    found = Dropout(dropped)(torch.ones(100))
    assert torch.isfinite(found).all()
    assert (found == 0).sum() >= 98


def test_it_loads_and_copies_as_a_module_of_torch() -> None:
    module = nn.Sequential(nn.Linear(2, 2), Dropout(0.1))
    assert isinstance(copy.deepcopy(module)[1], nn.Dropout)
    assert list(module.state_dict()) == ["0.weight", "0.bias"]
