"""Compiling in place: how many graphs a run needs, and that it never goes on uncompiled."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo as dynamo
from pytorch_lightning import Trainer

from benchmarks.rivals import make_batch
from ponet import (
    BertConfig,
    EncoderConfig,
    FNetConfig,
    HybridConfig,
    LocalGlobalConfig,
    PoNetConfig,
    build_encoder,
)
from pretrain.datamodule import PretrainDataModule
from pretrain.module import MAX_COMPILED_SHAPES, PretrainModule, encoder_batch, graphs_of_a_shape

SIZES = {"vocab_size": 65, "hidden_size": 16, "num_layers": 2, "num_heads": 2, "ffn_size": 16,
         "max_positions": 32}  # fmt: skip


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    """No graph of another test counts, and none of its limits stays."""
    dynamo.reset()
    with dynamo.config.patch(recompile_limit=8, fail_on_recompile_limit_hit=False):
        yield
    dynamo.reset()


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options of every graph that is compiled; the graphs run as they are."""
    compiled: list[dict[str, Any]] = []

    def keep(graph: torch.fx.GraphModule, inputs: Any, **options: Any) -> Any:
        compiled.append(options)
        return graph.forward

    original = torch.compile

    def with_backend(model: Any = None, **options: Any) -> Any:
        return original(model, **{**options, "backend": keep})

    monkeypatch.setattr(torch, "compile", with_backend)
    return compiled


def trainer_of(folder: Path, **options: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        **options,
    )


def data_of(
    shards: Path, *, micro_batch_size: int = 4, join_texts: bool = False
) -> PretrainDataModule:
    """Training batches of 4, evaluation batches of 6, 6, and 4 at the end."""
    sizes = {"global_batch_size": 8, "micro_batch_size": micro_batch_size, "eval_batch_size": 6}
    return PretrainDataModule(
        folder=str(shards),
        max_len=32,
        num_workers=0,
        eval_examples=16,
        join_texts=join_texts,
        **sizes,
    )


@pytest.mark.parametrize("encoder", [PoNetConfig, BertConfig, FNetConfig, HybridConfig])
def test_a_run_compiles_one_shape_for_training_and_two_for_evaluation_in_two_graphs(
    encoder: type[EncoderConfig], tiny_shards: Path, tmp_path: Path, graphs: list[dict[str, Any]]
) -> None:
    module = PretrainModule(encoder(**SIZES), compile=True)
    trainer = trainer_of(tmp_path, max_steps=6, val_check_interval=4, check_val_every_n_epoch=None)
    trainer.fit(module, datamodule=data_of(tiny_shards))
    assert trainer.global_step == 6 and "val/loss" in trainer.callback_metrics
    assert len(graphs) == 2 * 3
    assert all(name.find("_orig_mod") < 0 for name in module.state_dict())


@pytest.mark.parametrize("join_texts", [False, True])
@pytest.mark.parametrize("encoder", [PoNetConfig, BertConfig])
def test_compiled_steps_take_the_weights_to_where_plain_steps_do(
    encoder: type[EncoderConfig], join_texts: bool, tiny_shards: Path, tmp_path: Path,
    graphs: list[dict[str, Any]],
) -> None:  # fmt: skip
    extra = {"attention_dropout_prob": 0.0} if encoder is BertConfig else {}
    ends = []
    for compiled in (False, True):
        torch.manual_seed(0)
        config = encoder(**SIZES, **extra, dropout_prob=0.0)
        module = PretrainModule(config, compile=compiled)
        trainer_of(tmp_path, max_steps=3, limit_val_batches=0).fit(
            module, datamodule=data_of(tiny_shards, join_texts=join_texts)
        )
        ends.append(module.state_dict())
    assert (
        1 <= len(graphs) <= (12 if join_texts else 2)
    )  # six micro-batches, each of its own length
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-5, atol=1e-6)


def test_the_mode_reaches_the_compiler_and_is_warned_about_where_it_does_nothing(
    tiny_shards: Path, tmp_path: Path, graphs: list[dict[str, Any]]
) -> None:
    def fit(**options: Any) -> None:
        module = PretrainModule(BertConfig(**SIZES), compile_mode="reduce-overhead", **options)
        data = data_of(tiny_shards, micro_batch_size=8)
        trainer_of(tmp_path, max_steps=1, limit_val_batches=0).fit(module, datamodule=data)

    with pytest.warns(UserWarning, match="reduce-overhead does nothing without a CUDA device"):
        fit(compile=True)
    assert graphs == [{"mode": "reduce-overhead"}] * 2
    with pytest.warns(UserWarning, match="reduce-overhead does nothing: compile is off"):
        fit()
    assert len(graphs) == 2


def test_cuda_graphs_are_refused_where_several_micro_batches_make_a_step(
    tiny_shards: Path, tmp_path: Path, graphs: list[dict[str, Any]]
) -> None:
    module = PretrainModule(PoNetConfig(**SIZES), compile=True, compile_mode="reduce-overhead")
    with pytest.raises(ValueError, match="adds up 2 micro-batches a step; give --model.compile_m"):
        trainer_of(tmp_path, max_steps=1).fit(module, datamodule=data_of(tiny_shards))
    assert not graphs


@pytest.mark.parametrize("compiled", [False, True])
def test_attention_is_given_no_mask_for_a_batch_without_padding_unless_it_is_compiled(
    compiled: bool, tiny_shards: Path
) -> None:
    data, module = data_of(tiny_shards), PretrainModule(BertConfig(**SIZES))
    tensors = make_batch(2, 8, vocab_size=64, device="cpu").tensors()
    full = encoder_batch(data.on_before_batch_transfer(tensors, 0), compiled=compiled)
    assert (module.model.encoder.prepare(full) is None) != compiled
    tensors["mask"] = tensors["mask"].clone()
    tensors["mask"][0, 7] = False
    padded = encoder_batch(data.on_before_batch_transfer(tensors, 0), compiled=compiled)
    assert module.model.encoder.prepare(padded) is not None


def test_too_many_shapes_are_an_error_and_not_a_slow_run(
    tiny_shards: Path, tmp_path: Path, graphs: list[dict[str, Any]], monkeypatch: Any
) -> None:
    assert MAX_COMPILED_SHAPES > 64
    monkeypatch.setattr("pretrain.module.MAX_COMPILED_SHAPES", 1)
    module = PretrainModule(BertConfig(**SIZES), compile=True)
    with dynamo.config.patch(recompile_limit=1):
        trainer = trainer_of(tmp_path, max_steps=4, val_check_interval=2)
        with pytest.raises(dynamo.exc.FailOnRecompileLimitHit):
            trainer.fit(module, datamodule=data_of(tiny_shards))
    assert len(graphs) == 2


@pytest.mark.parametrize(("config_class", "number"), [
    (PoNetConfig, 2), (BertConfig, 2), (LocalGlobalConfig, 3), (HybridConfig, 3)
])  # fmt: skip
def test_every_kind_of_block_may_be_compiled_for_every_shape(
    config_class: type[EncoderConfig], number: int
) -> None:
    encoder = build_encoder(config_class(**{**SIZES, "num_layers": 6}))
    assert graphs_of_a_shape(encoder.layers) == number
