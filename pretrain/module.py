"""PretrainModule: the LightningModule around `ponet.PretrainingModel`.

Invariant: the loss looks at the masked positions only, and there are few shapes in a run: padded
batches have one, joined ones one of a few.
"""

import math
from typing import Any, Literal

import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_only, rank_zero_warn
from pytorch_lightning.utilities.enums import GradClipAlgorithmType
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_, get_total_norm

from ponet import EncoderConfig, MaskedOutput, PretrainingModel
from ponet.encoders.backbone import PositionMethod
from ponet.flops import training_flops
from pretrain.batches import encoder_batch
from pretrain.objectives import HIDDEN_SHARE, OBJECTIVES, ObjectiveName
from pretrain.run_config import (
    KEPT_KEY,
    STARTED_KEY,
    NewWords,
    check_encoder,
    check_strategy,
    identity_in,
)
from pretrain.sums import LossSums, loss_sums, means, sum_dtype
from training.checkpoints.resume import ConfiguredModule
from training.interruption import say
from training.moments import States, content_with
from training.optim import PretrainOptimizer, apply_settings, scheduled_optimizer, stepper_of
from training.ranks import full_tensor
from training.run_config import CONFIG_KEY

CompileMode = Literal["default", "reduce-overhead", "max-autotune"]
MAX_COMPILED_SHAPES = 68
"""Shapes that each kind of block may be compiled for: 64 of joined texts, a few of evaluations."""


def graphs_of_a_shape(layers: nn.ModuleList) -> int:
    """Return how many graphs a shape takes: one for each kind of mixer, one for the last block."""
    mixers: list[Any] = [layer.mixer for layer in layers]
    return len({type(mixer) for mixer in mixers[:-1]}) + 1


class PretrainModule(ConfiguredModule):
    """Pretrains one encoder with one objective.

    Args:
        encoder: Which encoder, and its sizes: PoNetConfig, BertConfig or another. Left out with
            start_from: that of the weights.
        objective: What is learnt: `mlm`, `mlm_nsp` (BERT) or `mlm_sso` (StructBERT, PoNet).
        optimizer: AdamW, Muon beside it if asked for, and their schedule.
        start_from: Weights to begin with: folder of a bundle or of a run, a checkpoint, the
            released PoNet, a BERT or FNet of transformers; empty: fresh ones. Step, schedule, data
            and optimiser begin anew. A run that goes on no longer needs them.
        keep_optimizer: Take over from the checkpoint of start_from, or the newest one of that run,
            what its optimiser remembers of every weight (AdamW's moments and step counts, Muon's
            momentum), so that no new warm-up is needed. Rates and decay are this run's.
        new_positions: How a position table is made longer for data.max_len: its rows repeated
            (tile), or stretched (interpolate).
        new_words: Rows of words that the weights do not know: the mean of the pieces they were
            cut into so far (pieces), or fresh values (normal).
        compile: Compile the blocks in place with torch.compile, once for all layers and for each
            shape of a batch: evaluation has two, training one, or some ten to twenty of joined
            texts (`data.join_texts`). Pays on a GPU.
        compile_mode: What torch.compile aims at: `default`; `reduce-overhead`, CUDA graphs, for
            short steps of small models; or `max-autotune`, CUDA graphs and a long search for the
            fastest kernels. CUDA graphs have no effect on a CPU, and are refused where several
            micro-batches make a step. Needs `compile`.
        checkpoint_every: The first of every this many blocks is computed again in the backward
            pass: less memory for long inputs and large batches, the same gradients. 1: every
            block, a third more time; 0: none.
        sparse_last_block: Compute the last block only where it is read, at masked positions and the
            first token: the same losses and gradients up to rounding, for less work.
        pair_loss_weight: Weight of the pair loss beside the masked-LM loss; released code: 1.
    """

    def __init__(  # noqa: PLR0913 (each is one line of a YAML file)
        self,
        encoder: EncoderConfig | None = None,
        objective: ObjectiveName = "mlm_sso",
        optimizer: PretrainOptimizer = PretrainOptimizer(),  # noqa: B008 (frozen)
        *,
        start_from: str = "",
        keep_optimizer: bool = False,
        new_positions: PositionMethod = "tile",
        new_words: NewWords = "pieces",
        compile: bool = False,
        compile_mode: CompileMode = "default",
        checkpoint_every: int = 0,
        sparse_last_block: bool = True,
        pair_loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if encoder is None:  # the command line fills it in from what it begins with
            raise ValueError("PretrainModule needs an encoder; give PoNetConfig(...) or another")
        if checkpoint_every < 0:
            raise ValueError(
                f"model.checkpoint_every is {checkpoint_every}; it must be 0 (no block is computed "
                "again) or more"
            )
        if not 0 <= pair_loss_weight < math.inf:
            raise ValueError(f"model.pair_loss_weight is {pair_loss_weight}; it must be 0 or more")
        if keep_optimizer and not start_from:
            raise ValueError(
                "model.keep_optimizer is true, but the run begins with fresh weights; give "
                "--model.start_from CHECKPOINT, or leave it out"
            )
        self.encoder_config = encoder
        self.objective = OBJECTIVES[objective]
        self.optimizer_config = optimizer
        self.pair_loss_weight = pair_loss_weight
        self.model = PretrainingModel(encoder, num_pair_classes=self.objective.num_pair_classes)
        self.model.encoder.gradient_checkpointing = checkpoint_every > 0
        self.model.encoder.checkpoint_every = max(1, checkpoint_every)
        self.model.encoder.sparse_last_block = sparse_last_block
        self.compile_model = compile
        self.compile_mode = compile_mode
        self.resolved_config: dict[str, Any] = {}
        self.stored_config: dict[str, Any] = {}
        self.start_from, self.new_positions, self.new_words = start_from, new_positions, new_words
        self.keep_optimizer = keep_optimizer
        self.started_from: dict[str, Any] = {}
        self.given_states: States = {}
        self.grad_norm: Tensor | None = None
        self._checkpoint_step: int | None = None
        self._eval_sums = torch.zeros(len(LossSums._fields))

    def setup(self, stage: str) -> None:
        """Check the encoder against the data, and compile once the device is known."""
        datamodule = getattr(self.trainer, "datamodule", None)
        if datamodule is not None:
            check_encoder(self.encoder_config, datamodule)
            datamodule.follow_encoder(self.encoder_config)
        if stage != "fit":
            return
        is_given = bool(self.given_states)
        check_strategy(self.trainer.strategy, self.optimizer_config, is_given=is_given)
        if datamodule is not None and not self.model.encoder.keeps_texts_apart:
            if datamodule.join_texts:
                reason = f"in this {self.encoder_config.kind} texts of one row would see each other"
                if self.encoder_config.projection is not None:
                    reason = "batches of hashed words have a row for each text"
                rank_zero_only(say)(f"data.join_texts does nothing: {reason}")
            datamodule.join_texts = False
        if self.compile_model and self.encoder_config.projection is not None:
            raise ValueError(
                "model.compile is on, but batches of hashed words have a new shape in every step, "
                "and each would be compiled; leave it out"
            )
        if self.compile_model:
            self._compile()
        elif self.compile_mode != "default":
            rank_zero_warn(f"model.compile_mode {self.compile_mode} does nothing: compile is off")

    def _compile(self) -> None:
        """Compile the blocks; another shape than expected is compiled too, never run slowly.

        At its limit of shapes torch.compile would go on uncompiled without a word.

        Raises:
            ValueError: If CUDA graphs would meet gradients that are added up: those lie in the
                memory of the graphs, which the next micro-batch overwrites.
        """
        import torch._dynamo as dynamo

        added_up = self.trainer.accumulate_grad_batches
        if self.compile_mode != "default" and added_up > 1:
            raise ValueError(
                f"model.compile_mode {self.compile_mode} uses CUDA graphs, whose memory does not "
                f"outlive a micro-batch, and this run adds up {added_up} micro-batches a step; "
                "give --model.compile_mode default, or a "
                "--data.micro_batch_size that makes one micro-batch a step"
            )

        device = self.trainer.strategy.root_device  # the module itself is moved there later
        if self.compile_mode == "reduce-overhead" and device.type != "cuda":
            rank_zero_warn("model.compile_mode reduce-overhead does nothing without a CUDA device")
        graphs = MAX_COMPILED_SHAPES * graphs_of_a_shape(self.model.encoder.layers)
        limit = max(dynamo.config.recompile_limit, graphs)  # its own is 8
        dynamo.config.recompile_limit = limit
        dynamo.config.fail_on_recompile_limit_hit = True
        self.model.encoder.compile_blocks(self.compile_mode)

    def forward(self, batch: dict[str, Tensor]) -> MaskedOutput:
        """Logits at the masked positions and of the pair."""
        inputs = encoder_batch(batch, compiled=self.compile_model)
        return self.model.forward_masked(inputs, batch["masked_positions"])

    def batch_sums(self, batch: dict[str, Tensor]) -> LossSums:
        """Losses and hits of a batch, without all logits of its masked positions at once."""
        if self.compile_model:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        positions_BM, labels_BM = batch["masked_positions"], batch["masked_labels"]
        inputs = encoder_batch(batch, compiled=self.compile_model)
        return loss_sums(self.model.masked_loss(inputs, positions_BM, labels_BM), batch)

    def batch_flops(self, batch: dict[str, Tensor]) -> float:
        """Operations of the forward and backward pass over a batch of this shape.

        Joined texts count as equally long, with which attention takes least.
        """
        num_texts = len(batch.get("text_places", batch["input_ids"]))
        num_masked = batch["masked_positions"].numel() / num_texts
        is_sparse = self.model.encoder.sparse_last_block and not self.model.reads_all
        return training_flops(
            self.encoder_config,
            num_rows=num_texts,
            num_tokens=batch["input_ids"].numel() / num_texts,
            num_masked=num_masked,
            num_pair_classes=self.objective.num_pair_classes,
            num_read=1 + num_masked if is_sparse else None,
        )

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Mean masked-LM loss plus the weighted mean pair loss of one micro-batch.

        The first mean is over the micro-batch's share of all hidden tokens of the optimiser step,
        so that the mean over micro-batches and devices is that over these tokens.
        """
        sums = self.batch_sums(batch)
        count = batch[HIDDEN_SHARE].sum() if HIDDEN_SHARE in batch else sums.mlm_count
        loss = sums.mlm_loss / count.clamp(min=1)
        loss = loss + self.pair_loss_weight * sums.pair_loss / sums.pair_count.clamp(min=1)
        return {"loss": loss, "sums": sums.stacked()}

    def on_validation_epoch_start(self) -> None:
        """Start the sums of one pass over the validation examples."""
        zeros = torch.zeros(len(LossSums._fields), device=self.device)
        self._eval_sums = zeros.to(sum_dtype(self.device))

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Add one batch to the sums."""
        self._eval_sums += self.batch_sums(batch).stacked()

    def on_validation_epoch_end(self) -> None:
        """Metrics over all ranks, weighted by tokens and pairs, not by batches."""
        self._log_evaluation("val")

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        """Metrics of the whole validation split."""
        self._log_evaluation("test")

    def _log_evaluation(self, stage: str) -> None:
        sums = self.trainer.strategy.reduce(self._eval_sums, reduce_op="sum")
        found = means(sums, self.pair_loss_weight)
        metrics = {f"{stage}/{name}": value for name, value in found.items()}
        self.log_dict(metrics, logger=False, sync_dist=True)  # equal on all ranks already
        if self.trainer.sanity_checking:  # not a validation of the run
            return
        # Lightning would write the step before: it counts batches, and this one is not yet done.
        for logger in self.trainer.loggers:
            logger.log_metrics(metrics, step=self.evaluated_step)

    @property
    def evaluated_step(self) -> int:
        """Optimiser steps behind the weights, also where a command only evaluates a checkpoint."""
        return self.trainer.global_step or self._checkpoint_step or 0

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """What the model says at each masked position and of each pair.

        Returns:
            `example_ids` (B,), `labels` and `predictions` (B, M) int64 (label -100: no label),
            `confidence` (B, M) float32, and `pair_labels` (B,), `pair_probabilities` (B, P) if any.
        """
        output = self(batch)
        confidence, predictions = output.mlm_logits.float().softmax(-1).max(-1)
        result = {
            "example_ids": batch["example_ids"],
            "labels": batch["masked_labels"],
            "predictions": predictions,
            "confidence": confidence,
        }
        if output.pair_logits is not None:
            result["pair_labels"] = batch["pair_labels"]
            result["pair_probabilities"] = output.pair_logits.float().softmax(-1)
        return result

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store what the weights belong to, as plain values."""
        started = {STARTED_KEY: self.started_from} if self.started_from else {}
        checkpoint[CONFIG_KEY] = {**self._identity(), **started, "config": self.resolved_config}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another encoder or objective; the error names what differs."""
        self._checkpoint_step = checkpoint["global_step"]
        self.stored_config = checkpoint.get(CONFIG_KEY, {}).get("config", {})
        stored, own = identity_in(checkpoint), self._identity()
        self.started_from = checkpoint.get(CONFIG_KEY, {}).get(STARTED_KEY, {})
        if self.trainer.state.fn == TrainerFn.FITTING:
            stored = {"start_from": self.started_from.get("source", ""), **stored}
            own["start_from"] = self.start_from
            stored = {"keep_optimizer": self.started_from.get(KEPT_KEY, False), **stored}
            own["keep_optimizer"] = self.keep_optimizer
            if states := checkpoint.get("optimizer_states"):
                stored["matrices"], own["matrices"] = (
                    stepper_of(states),
                    self.optimizer_config.matrices,
                )
        differing = "; ".join(
            f"{key}: checkpoint {stored.get(key)!r}, command line {own[key]!r}"
            for key in own
            if stored.get(key) != own[key]
        )
        if differing:
            raise ValueError(
                f"the checkpoint is of another model; {differing}. Use the saved values, or start "
                "a new run (--run.name)."
            )

    def _identity(self) -> dict[str, Any]:
        return {"objective": self.objective.name, **self.encoder_config.to_dict()}

    def on_fit_start(self) -> None:
        """Give a fresh optimiser what that of the given weights remembers."""
        if self.given_states:
            content = content_with(self.given_states, self.trainer.optimizers[0], self.model)
            self.trainer.strategy.load_optimizer_state_dict({"optimizer_states": [content]})
            self.given_states = {}

    def on_train_start(self) -> None:
        """After a resume, let the command line decide the optimiser's settings."""
        if self._checkpoint_step is not None:
            for config in self.trainer.lr_scheduler_configs:
                scheduler: Any = config.scheduler
                apply_settings(scheduler.optimizer, scheduler, self.optimizer_config)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Measure the gradient norm once per optimiser step, then clip with it.

        `grad_norm` is the norm before clipping, on the device; under float16 the gradients are
        unscaled by then. Also clips with a fused optimiser under bfloat16, where Lightning refuses:
        only float16 gradients are scaled, and for those `build_optimizer` makes no fused one.
        """
        # One walk over the modules: it takes longer than the clipping itself.
        parameters = [p for p in self.parameters() if p.grad is not None]
        if not parameters:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        self.grad_norm = full_tensor(get_total_norm(gradients))
        if not gradient_clip_val:
            return
        if GradClipAlgorithmType(gradient_clip_algorithm or "norm") == GradClipAlgorithmType.NORM:
            clip_grads_with_norm_(parameters, gradient_clip_val, self.grad_norm)
        else:
            clip_grad_value_(parameters, gradient_clip_val)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser, its schedule advanced at every step."""
        plugin = self.trainer.precision_plugin
        scaled = isinstance(plugin, MixedPrecision) and plugin.scaler is not None
        steps = int(self.trainer.estimated_stepping_batches)
        form: Any = {"total_steps": steps, "fusable": not scaled}
        return scheduled_optimizer(
            self.model, self.optimizer_config, **form, layers=self.model.encoder.layers
        )
