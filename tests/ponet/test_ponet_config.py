"""Configurations, batches, segments and positions."""

import dataclasses
import json

import pytest
import torch
from ponet_reference import make_batch

from ponet import (
    BertConfig,
    EncoderBatch,
    EncoderConfig,
    FNetConfig,
    HybridConfig,
    HyperMixerConfig,
    LSTMConfig,
    MLPMixerConfig,
    PoNetConfig,
    ProjectionConfig,
    build_encoder,
)
from ponet.batch import real_first
from ponet.encoders.backbone import extend_positions
from ponet.segments import segments_from_count, segments_from_separators, segments_from_starts

KINDS = [PoNetConfig, BertConfig, FNetConfig, HybridConfig, HyperMixerConfig, LSTMConfig]


@pytest.mark.parametrize("config_class", KINDS)
@pytest.mark.parametrize(
    ("name", "sizes"),
    [("base", (12, 768, 12, 3072)), ("small", (4, 256, 4, 1024)), ("nano", (2, 128, 2, 512))],
)
def test_presets_have_the_promised_shapes(config_class, name, sizes):
    config = config_class.preset(name, vocab_size=99)
    assert type(config) is config_class
    assert (config.num_layers, config.hidden_size, config.num_heads, config.ffn_size) == sizes
    assert config.vocab_size == 99


@pytest.mark.parametrize("config_class", KINDS)
def test_configs_survive_json(config_class):
    config = config_class.preset("nano", dropout_prob=0.2)
    assert EncoderConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_unknown_keys_and_kinds_are_refused_with_what_is_allowed():
    with pytest.raises(ValueError, match="unknown key.* num_layer for BertConfig.*num_layers"):
        EncoderConfig.from_dict({"kind": "bert", "num_layer": 3})
    with pytest.raises(ValueError, match="use_local_pool for FNetConfig"):
        EncoderConfig.from_dict({"kind": "fnet", "use_local_pool": True})
    with pytest.raises(
        ValueError, match="'gpt' given; allowed are ponet, bert, local_global, fnet"
    ):
        EncoderConfig.from_dict({"kind": "gpt"})
    with pytest.raises(ValueError, match="preset 'huge' given; allowed are base"):
        PoNetConfig.preset("huge")
    with pytest.raises(ValueError, match="unknown key.* depth"):
        PoNetConfig.preset("nano", depth=2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_size": 30}, "num_heads=12 does not divide hidden_size=30"),
        ({"num_layers": 0}, "num_layers=0"),
        ({"vocab_size": 1.5}, "vocab_size=1.5"),
        ({"max_positions": True}, "max_positions=True"),
        ({"dropout_prob": 1.0}, "dropout_prob=1.0"),
        ({"layer_norm_eps": 0}, "layer_norm_eps=0"),
        ({"activation": "relu"}, "activation='relu' given; allowed are gelu"),
        ({"local_window": 4}, "local_window=4"),
        ({"global_pool": "max"}, "global_pool='max' given; allowed are attention, mean, none"),
        ({"use_local_pool": "no"}, "use_local_pool='no'"),
        (
            {"global_pool": "none", "use_segment_pool": False, "use_local_pool": False},
            "switch at least one pool on",
        ),
    ],
)
def test_impossible_values_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        PoNetConfig(**values)


def test_every_field_explains_itself_in_the_source():
    """The string below a field is its help text on the command line."""
    import ast
    import inspect

    for config_class in (EncoderConfig, *KINDS):
        body = ast.parse(inspect.getsource(config_class)).body[0].body
        for item, following in zip(body, body[1:], strict=False):
            if isinstance(item, ast.AnnAssign) and "ClassVar" not in ast.unparse(item.annotation):
                assert isinstance(following, ast.Expr), ast.unparse(item)


def test_a_batch_refuses_wrong_shapes_and_dtypes():
    batch = make_batch()
    with pytest.raises(ValueError, match=r"mask has shape \(3, 4\) but input_ids has \(3, 12\)"):
        dataclasses.replace(batch, mask=batch.mask[:, :4])
    with pytest.raises(ValueError, match="mask is torch.int64; torch.bool is needed"):
        dataclasses.replace(batch, mask=batch.mask.long())
    with pytest.raises(ValueError, match="input_ids is torch.int32; torch.int64 is needed"):
        dataclasses.replace(batch, input_ids=batch.input_ids.int())
    with pytest.raises(ValueError, match=r"\(batch, tokens\) is needed"):
        EncoderBatch(**{name: tensor[0] for name, tensor in batch.tensors().items()})


def test_configs_say_what_a_batch_must_be_and_which_token_stands_for_the_text():
    hashed = ProjectionConfig()
    assert MLPMixerConfig().fixed_places and not MLPMixerConfig(num_layers=0).fixed_places
    assert not any(kind.preset("nano", projection=hashed).fixed_places for kind in KINDS)
    assert all(kind.preset("nano").first_sees_all for kind in KINDS)
    assert not any(kind.preset("nano", projection=hashed).first_sees_all for kind in KINDS)
    assert not LSTMConfig(bidirectional=False).first_sees_all
    with pytest.raises(ValueError, match="hidden_size=9 given; two directions need an even one"):
        LSTMConfig(hidden_size=9)
    with pytest.raises(ValueError, match="num_hashes=64 with kind=spelling makes 1664 rows"):
        ProjectionConfig(kind="spelling")


def test_real_tokens_come_first_and_keep_their_order():
    mask = torch.tensor([[0, 1, 0, 1, 1], [0, 0, 0, 0, 0]]).bool()
    assert real_first(mask).tolist() == [[1, 3, 4, 0, 2], [0, 1, 2, 3, 4]]


def test_a_batch_moves_as_a_whole():
    batch = dataclasses.replace(make_batch((12, 12)), segments_are_runs=True, has_padding=False)
    moved = batch.to("meta")
    assert {tensor.device.type for tensor in moved.tensors().values()} == {"meta"}
    assert moved.segments_are_runs
    assert not moved.has_padding


def test_segments_grow_at_starts_and_around_separators():
    special = torch.tensor([[1, 0, 0, 1, 0, 1, 0], [1, 1, 0, 0, 0, 0, 1]]).bool()
    expected = torch.tensor([[0, 1, 1, 2, 3, 4, 5], [0, 1, 2, 2, 2, 2, 3]])
    assert torch.equal(segments_from_separators(special), expected)
    starts = torch.tensor([[0, 0, 1, 0, 1], [1, 0, 0, 0, 1]]).bool()
    assert segments_from_starts(starts).tolist() == [[0, 0, 1, 1, 2], [0, 0, 0, 0, 1]]
    assert starts[1, 0]


def test_all_separators_stay_within_the_allowed_range():
    assert segments_from_separators(torch.ones(1, 6).bool()).tolist() == [[0, 1, 2, 3, 4, 5]]


def test_segments_by_count_follow_the_long_range_arena_rule():
    segment_ids = segments_from_count(2, 2048, num_segments=64)
    assert segment_ids.shape == (2, 2048)
    assert segment_ids[0].bincount().tolist() == [33] * 62 + [2]
    with pytest.raises(ValueError, match="num_segments=0"):
        segments_from_count(1, 8, num_segments=0)


@pytest.mark.parametrize("length", [6, 12, 17])
def test_tiled_positions_repeat_the_table_to_any_length(length):
    table = torch.randn(6, 3)
    extended = extend_positions(table, length)
    assert extended.shape == (length, 3)
    for row in range(length):
        assert torch.equal(extended[row], table[row % 6])


def test_interpolated_positions_keep_both_ends_and_known_points():
    table = torch.tensor([[0.0], [2.0], [6.0]])
    extended = extend_positions(table, 5, method="interpolate")
    torch.testing.assert_close(extended, torch.tensor([[0.0], [1.0], [2.0], [4.0], [6.0]]))
    assert torch.equal(extend_positions(table, 3, method="interpolate"), table)
    single = extend_positions(torch.ones(1, 2), 4, method="interpolate")
    assert torch.equal(single, torch.ones(4, 2))


def test_positions_are_never_cut():
    with pytest.raises(ValueError, match="max_positions=5 is below the present 6"):
        extend_positions(torch.randn(6, 3), 5)
    with pytest.raises(ValueError, match="'copy' given; allowed are tile, interpolate"):
        extend_positions(torch.randn(6, 3), 9, method="copy")


def test_an_extended_encoder_keeps_its_results_and_reads_longer_input():
    config = PoNetConfig(vocab_size=40, hidden_size=8, num_heads=2, num_layers=1, ffn_size=8,
                         max_positions=12)  # fmt: skip
    encoder = build_encoder(config).eval()
    batch, longer = make_batch(), make_batch((30, 20), num_tokens=30)
    with torch.no_grad():
        before = encoder(batch)
        encoder.extend_positions(30)
        assert torch.equal(encoder(batch), before)
        assert encoder(longer).shape == (2, 30, 8)
    assert encoder.config.max_positions == 30
    assert encoder.embeddings.position.weight.requires_grad
    encoder.requires_grad_(False)
    encoder.extend_positions(40)
    assert not encoder.embeddings.position.weight.requires_grad


def test_what_cannot_be_extended_is_refused_and_stays_as_it_is():
    sizes = {"vocab_size": 40, "hidden_size": 8, "ffn_size": 8, "max_positions": 12}
    mixer = build_encoder(MLPMixerConfig(**sizes, use_positions=True))
    lstm = build_encoder(LSTMConfig(**sizes, num_layers=1, use_positions=False))
    for encoder, options, message in (
        (mixer, {"max_positions": 20}, "weights of mlp_mixer belong to its 12 places; cut longer"),
        (lstm, {"max_positions": 4}, "max_positions=4 is below the present 12"),
        (lstm, {"max_positions": 20, "method": "copy"}, "'copy' given; allowed are tile, interp"),
    ):
        with pytest.raises(ValueError, match=message):
            encoder.extend_positions(**options)
        assert encoder.config.max_positions == 12
    assert mixer.embeddings.position.num_embeddings == 12
    lstm.extend_positions(20)
    assert lstm.config.max_positions == 20


def test_a_batch_refuses_segment_ids_that_would_reach_into_another_row():
    batch = {
        "input_ids": torch.zeros(2, 4, dtype=torch.int64),
        "mask": torch.ones(2, 4, dtype=torch.bool),
        "token_type_ids": torch.zeros(2, 4, dtype=torch.int64),
        "special_mask": torch.zeros(2, 4, dtype=torch.bool),
    }
    for wrong in (4, -1):
        with pytest.raises(ValueError, match=r"segment_ids range from .*\[0, 4\)"):
            EncoderBatch(**batch, segment_ids=torch.tensor([[0, 1, 2, 3], [0, 0, 1, wrong]]))


def test_kernels_are_how_and_not_what_is_computed():
    config = PoNetConfig(kernels="eager")
    assert "kernels" not in config.to_dict()
    assert config == PoNetConfig()
    assert EncoderConfig.from_dict(config.to_dict()).kernels == "auto"
    with pytest.raises(ValueError, match="kernels='cuda' given; allowed are auto, reference"):
        PoNetConfig(kernels="cuda")


def test_a_batch_refuses_flags_that_its_tensors_contradict():
    batch = make_batch()
    assert dataclasses.replace(batch, segments_are_runs=True).segments_are_runs
    with pytest.raises(ValueError, match="has_padding=False given, but the mask has padding"):
        dataclasses.replace(batch, has_padding=False)
    scattered = torch.arange(12).expand(3, 12) % 3
    with pytest.raises(ValueError, match="tokens of segment 0 in row 0 are not adjacent"):
        dataclasses.replace(batch, segment_ids=scattered, segments_are_runs=True)


def test_padding_in_the_middle_of_a_segment_is_no_run():
    batch = make_batch((12, 12, 12))
    mask = batch.mask.clone()
    mask[1, 5] = False
    whole = dataclasses.replace(batch, segment_ids=torch.zeros_like(batch.segment_ids))
    assert dataclasses.replace(whole, segments_are_runs=True)
    with pytest.raises(ValueError, match="segment 0 in row 1"):
        dataclasses.replace(whole, mask=mask, segments_are_runs=True)
