"""Short pretraining runs of rivals on the same shards: real loader, real module, real trainer."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from _official import official_encoder
from _rivals import CONFIGS, DTYPES
from _timing import Clock, product, wait
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torch.nn import functional as F

from ponet import EncoderConfig, PoNetConfig
from pretrain.datamodule import PretrainDataModule
from pretrain.module import IGNORED_LABEL, PretrainModule, encoder_batch
from pretrain.optim import OptimizerConfig
from training.utilisation import FetchClock, PeakRate, peak_rate

Options = Any
"""The command line's."""
PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed"}


@dataclass(frozen=True, kw_only=True)
class FitRival:
    """What is trained, and how it is computed."""

    kind: Literal["ponet", "official", "bert", "fnet"]
    """official: PoNet in the released code's arrangement."""
    precision: str
    """32 or bf16."""
    kernels: str = "auto"
    """PoNet's kernel set."""
    compiled: bool = False
    """Whether the encoder is compiled."""
    every_position: bool = False
    """Vocabulary logits at every position and a plain cross-entropy, as in the released code."""

    @property
    def label(self) -> str:
        """The name in tables."""
        name = {"official": "official PoNet", "bert": "BERT", "fnet": "FNet"}.get(
            self.kind, "PoNet" if self.kernels == "auto" else f"PoNet {self.kernels}"
        )
        name += ", compiled" if self.compiled else ""
        name += ", head at every position" if self.every_position else ""
        return f"{name}, {'fp32' if self.precision == '32' else self.precision}"


class EveryPosition(PretrainModule):
    """Computes vocabulary logits at every position and looks at a sixth of them."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return the mean masked-LM loss plus the mean pair loss."""
        output = self.model(encoder_batch(batch))
        labels_BL = torch.full_like(batch["input_ids"], IGNORED_LABEL)
        labels_BL.scatter_(1, batch["masked_positions"], batch["masked_labels"])
        logits = output.mlm_logits.flatten(0, 1).float()
        loss = F.cross_entropy(logits, labels_BL.flatten(), ignore_index=IGNORED_LABEL)
        if output.pair_logits is not None:
            pair_logits, labels_B = output.pair_logits.float(), batch["pair_labels"]
            loss = loss + F.cross_entropy(pair_logits, labels_B, ignore_index=IGNORED_LABEL)
        return {"loss": loss}


def make_module(rival: FitRival, max_len: int, options: Options) -> PretrainModule:
    """Return the rival's module; BERT computes without a mask, so that it can use FlashAttention.

    Padding then takes part in BERT's attention, which costs it nothing and changes no shape.
    """
    torch.manual_seed(1)
    sizes: dict[str, Any] = {"max_positions": max_len, "dropout_prob": options.dropout}
    sizes["vocab_size"] = options.vocab_size
    if rival.kind == "bert":
        sizes["attention_dropout_prob"] = 0.0
    if rival.kind == "ponet":
        sizes["kernels"] = rival.kernels
    config: EncoderConfig = CONFIGS[rival.kind].preset(options.encoder, **sizes)
    make = EveryPosition if rival.every_position else PretrainModule
    module = make(config, optimizer=OptimizerConfig(), compile=rival.compiled)
    if rival.kind == "official":
        assert isinstance(config, PoNetConfig)
        module.model.encoder = official_encoder(config)
    if rival.kind == "bert":
        module.model.encoder.prepare = lambda batch: None  # type: ignore[method-assign]
    return module


@dataclass
class StepWindow(Callback):
    """Times the steps of a fit after its first ones; the last callback."""

    warmup: int
    steps: int
    clock: FetchClock
    found: dict[str, float] = field(default_factory=dict)
    _start: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def on_train_batch_end(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step not in (self.warmup, self.warmup + self.steps):
            return
        wait(pl_module.device.type)
        now = (time.perf_counter(), time.process_time(), self.clock.seconds)
        if trainer.global_step == self.warmup:
            self._start = now
            return
        wall_s, cpu_s, waited_s = (b - a for a, b in zip(self._start, now, strict=True))
        assert isinstance(pl_module, PretrainModule)
        self.found = {
            "wall_s": wall_s / self.steps,
            "cpu_s": cpu_s / self.steps,
            "waiting_share": waited_s / wall_s,
            "flops": pl_module.batch_flops(batch),
            "positions": float(batch["input_ids"].numel()),
        }
        if pl_module.device.type == "cuda":
            self.found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30


def fit(
    module: PretrainModule, rival: FitRival, shards: Path, max_len: int, options: Options
) -> dict[str, float]:
    """Train for a few steps; return what StepWindow found, per step."""
    batch_size = max(1, options.tokens_per_step // max_len)
    data = PretrainDataModule(
        folder=str(shards),
        max_len=max_len,
        global_batch_size=batch_size,
        micro_batch_size=batch_size,
        num_workers=options.num_workers,
        verify_shards=False,
    )
    clock = FetchClock()
    window = StepWindow(options.warmup, options.steps, clock)
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    trainer = Trainer(
        accelerator="gpu" if options.device == "cuda" else "cpu",
        devices=1,
        precision=PRECISIONS[rival.precision],  # type: ignore[arg-type]
        max_steps=options.warmup + options.steps,
        callbacks=[window],
        profiler=clock,
        gradient_clip_val=1.0,
        use_distributed_sampler=False,
        limit_val_batches=0,
        logger=False,
        **dict.fromkeys(
            ("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
        ),
    )
    trainer.fit(module, datamodule=data)
    module.zero_grad(set_to_none=True)
    return window.found


def product_rate(precision: str, clock: Clock, side: int = 2048) -> float:
    """Return the operations per second of one square matrix product, timed as the steps are."""
    step = product(side, side, side, dtype=DTYPES[precision], device=clock.device)
    step()
    return 2 * side**3 / clock.sample(step, 1)[clock.deciding]


def peak_of(rival: FitRival, device: str, measured: Mapping[str, float]) -> PeakRate:
    """Return the rate of matrix products that the rival's device could reach.

    Args:
        rival: Its precision counts.
        device: On cuda the maker's data sheet counts, if the GPU is known.
        measured: Rate by precision, for a CPU.
    """
    if device == "cuda":
        return peak_rate(torch.device(device), PRECISIONS[rival.precision])
    name = str(DTYPES[rival.precision])[6:]
    return PeakRate(measured[rival.precision], f"the {name} product measured in the same rounds")
