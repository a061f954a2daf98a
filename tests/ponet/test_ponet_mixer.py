"""The PoNet mixer: folded against unfolded, its switches, and who may influence whom."""

import dataclasses

import pytest
import torch
from ponet_reference import make_batch, pools_reference
from torch.utils._python_dispatch import TorchDispatchMode

from ponet import PoNetConfig, PretrainingModel, build_encoder
from ponet.encoders.ponet import PoNetMixer

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_heads": 4, "num_layers": 1, "ffn_size": 32,
         "max_positions": 16, "dropout_prob": 0.0}  # fmt: skip
SWITCHES = [
    {"global_pool": "mean"},
    {"global_pool": "none"},
    {"use_segment_pool": False},
    {"use_local_pool": False},
    {"local_window": 5},
    {"fusion_product": False},
    {"guard_special_tokens": False},
]
COMBINATIONS = [
    {},
    *SWITCHES,
    {"global_pool": "none", "use_segment_pool": False},
    {"use_segment_pool": False, "use_local_pool": False, "fusion_product": False},
    {"global_pool": "none", "use_local_pool": False},
]


def make_mixer(dtype=torch.float64, **switches) -> PoNetMixer:
    torch.manual_seed(0)
    config = PoNetConfig(**SIZES, init_range=0.3, **switches)
    mixer = build_encoder(config).layers[0].mixer.to(dtype)
    for name, parameter in mixer.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return mixer


@pytest.mark.parametrize("switches", COMBINATIONS, ids=str)
def test_folded_mixer_equals_the_published_formula_in_value_and_gradient(switches):
    mixer, batch = make_mixer(**switches), make_batch((12, 9, 1, 0))
    x = torch.randn(4, 12, 16, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(4, 12, 16, dtype=torch.float64)
    wanted = [x, *(p for name, p in mixer.named_parameters() if not name.startswith("output"))]
    ours = mixer.pool(x, mixer.prepare(batch))
    expected = pools_reference(mixer, x, batch)
    torch.testing.assert_close(ours, expected, atol=1e-10, rtol=0)
    grads = torch.autograd.grad(ours, wanted, upstream)
    expected_grads = torch.autograd.grad(
        expected, wanted, upstream, allow_unused=True, materialize_grads=True
    )
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected_grad, atol=1e-10, rtol=0)


def test_every_ablation_switch_changes_the_output():
    batch = make_batch()
    full = make_mixer()
    x = torch.randn(3, 12, 16, dtype=torch.float64)
    reference = full(x, full.prepare(batch))
    for switches in SWITCHES:
        mixer = make_mixer(**switches)
        mixer.load_state_dict({k: full.state_dict()[k] for k in mixer.state_dict()})
        assert not torch.allclose(mixer(x, mixer.prepare(batch)), reference), switches


def test_parameters_that_a_switch_makes_unused_do_not_exist():
    def names(**switches):
        parameters = make_mixer(**switches).named_parameters()
        return {name.split(".")[0] for name, _ in parameters}

    everything = {"query", "key", "gate", "segment", "local", "output"}
    assert names() == everything
    assert names(global_pool="mean") == everything - {"key"}
    assert names(global_pool="none") == everything - {"key", "query"}
    assert names(use_segment_pool=False) == everything - {"segment"}
    assert names(use_local_pool=False) == everything - {"local"}
    assert names(fusion_product=False) == everything - {"gate"}
    assert names(global_pool="none", use_segment_pool=False) == {"local", "output"}


@pytest.mark.parametrize("switches", COMBINATIONS, ids=str)
def test_every_parameter_gets_a_gradient(switches):
    model = PretrainingModel(PoNetConfig(**SIZES, **switches))
    output = model(make_batch())
    (output.mlm_logits.square().sum() + output.pair_logits.square().sum()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def influences(mixer, batch) -> torch.Tensor:
    """Bool (L, L) of the first row: does output n depend on input m?"""
    x = torch.randn(*batch.mask.shape, 16, dtype=torch.float64)
    plan = mixer.prepare(batch)
    jacobian = torch.autograd.functional.jacobian(lambda x_LD: mixer.pool(
        torch.cat([x_LD[None], x[1:]]), plan)[0].sum(-1), x[0])  # fmt: skip
    return jacobian.abs().sum(-1) > 0


def test_with_the_segment_pool_alone_a_token_depends_on_its_segment_only():
    batch = make_batch()
    mixer = make_mixer(global_pool="none", use_local_pool=False)
    segment_ids = batch.segment_ids[0]
    same = segment_ids[:, None] == segment_ids
    depends = influences(mixer, batch)
    assert not (depends & ~same).any()
    assert depends.sum() > 12


def test_with_the_local_pool_alone_a_token_depends_on_its_neighbours_only():
    batch = make_batch()
    mixer = make_mixer(global_pool="none", use_segment_pool=False, local_window=5)
    depends = influences(mixer, batch)
    positions = torch.arange(12)
    near = (positions[:, None] - positions).abs() <= 2
    special = batch.special_mask[0]
    assert not (depends & ~near).any()
    assert not depends[:, special].any()
    assert not depends[special].any()


def test_guarded_special_tokens_get_the_global_pool_alone():
    batch = make_batch()
    guarded = make_mixer()
    alone = make_mixer(use_segment_pool=False, use_local_pool=False)
    alone.load_state_dict({k: guarded.state_dict()[k] for k in alone.state_dict()})
    x = torch.randn(3, 12, 16, dtype=torch.float64)
    pooled, expected = (mixer.pool(x, mixer.prepare(batch)) for mixer in (guarded, alone))
    special = batch.special_mask
    torch.testing.assert_close(pooled[special], expected[special])
    assert not torch.allclose(pooled[~special], expected[~special])


class ProductsOfAllTokens(TorchDispatchMode):
    """Counts matrix products whose left factor has a row for every token."""

    def __init__(self, num_tokens):
        super().__init__()
        self.num_tokens, self.count = num_tokens, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            self.count += args[-2].shape[0] == self.num_tokens
        return function(*args, **(kwargs or {}))


def test_no_query_key_or_value_is_made_for_every_token():
    """Only gate, segment, local and output see all tokens; query and key see pooled vectors."""
    mixer, batch = make_mixer(), make_batch()
    x, plan = torch.randn(3, 12, 16, dtype=torch.float64), mixer.prepare(batch)
    with ProductsOfAllTokens(36) as products:
        mixer(x, plan)
    assert products.count == 4


def pooled_and_gradients(mixer, batch, x, upstream):
    """Fused pools and gradients by name."""
    wanted = {n: p for n, p in mixer.named_parameters() if not n.startswith("output")} | {"x": x}
    pooled = mixer.pool(x, mixer.prepare(batch))
    grads = torch.autograd.grad(pooled, [*wanted.values()], upstream.to(pooled.dtype))
    return {"pooled": pooled.detach(), **dict(zip(wanted, grads, strict=True))}


@pytest.mark.parametrize(
    ("dtype", "limit"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)], ids=str
)
def test_low_precision_stays_close_to_the_float64_reference(dtype, limit):
    """In bfloat16 near ties move gradients of the maxima to a neighbour, so they are left out."""
    batch = make_batch()
    x = torch.randn(3, 12, 16, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(3, 12, 16, dtype=torch.float64)
    exact = pooled_and_gradients(make_mixer(), batch, x, upstream)
    low_x, is_low = x.detach().float().requires_grad_(), dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16, enabled=is_low):
        got = pooled_and_gradients(make_mixer().float(), batch, low_x, upstream.float())
    assert got["pooled"].dtype == dtype
    for name, wanted in exact.items():
        if is_low and (name == "x" or name.startswith(("segment", "local"))):
            continue
        error = (got[name].double() - wanted).norm() / wanted.norm()
        assert error <= limit, name


def test_frozen_weights_and_inputs_get_no_gradient_and_change_no_other():
    batch, x = make_batch(), torch.randn(3, 12, 16, dtype=torch.float64)
    full, frozen = make_mixer(), make_mixer()
    frozen.segment.weight.requires_grad_(False)
    frozen.gate.bias.requires_grad_(False)
    for mixer, hidden in ((full, x.clone().requires_grad_()), (frozen, x)):
        mixer.pool(hidden, mixer.prepare(batch)).square().sum().backward()
    assert frozen.segment.weight.grad is None
    assert frozen.gate.bias.grad is None
    for name, parameter in frozen.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, full.get_parameter(name).grad)


def test_hidden_states_used_twice_collect_both_gradients():
    mixer, batch = make_mixer(), make_batch()
    x = torch.randn(3, 12, 16, dtype=torch.float64, requires_grad=True)
    plan = mixer.prepare(batch)
    (once,) = torch.autograd.grad(mixer.pool(x, plan).sum(), x)
    (both,) = torch.autograd.grad((mixer.pool(x, plan) + mixer.pool(x, plan) + x).sum(), x)
    torch.testing.assert_close(both, 2 * once + 1)


def test_the_pools_keep_little_more_than_the_hidden_states_and_three_projections():
    mixer, batch = make_mixer(), make_batch()
    x = torch.randn(3, 12, 16, dtype=torch.float64, requires_grad=True)
    kept = {}
    pack = lambda tensor: kept.setdefault(id(tensor), tensor.numel()) and tensor  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        mixer.pool(x, mixer.prepare(batch))
    weights = sum(p.numel() for n, p in mixer.named_parameters() if not n.startswith("output"))
    global_pool, attention = 3 * 3 * 16, 3 * 4 * 12
    assert sum(kept.values()) <= 4 * x.numel() + weights + global_pool + attention


def test_the_encoder_compiles_as_one_graph_with_the_same_results():
    config = PoNetConfig(**SIZES, init_range=0.3)
    encoder, batch = build_encoder(config), make_batch()
    compiled = torch.compile(encoder, fullgraph=True, dynamic=False, backend="aot_eager")
    gradients = []
    for model in (encoder, compiled):
        encoder.zero_grad()
        model(batch).square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in encoder.parameters()])
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


def test_equal_segment_ids_need_not_be_adjacent():
    batch = make_batch((12,))
    interleaved = dataclasses.replace(batch, segment_ids=torch.arange(12)[None] % 3)
    mixer = make_mixer(global_pool="none", use_local_pool=False, guard_special_tokens=False)
    x = torch.randn(1, 12, 16, dtype=torch.float64)
    pooled = mixer.pool(x, mixer.prepare(interleaved))
    torch.testing.assert_close(pooled, pools_reference(mixer, x, interleaved))
