"""The whole pretraining step, loader included: PoNet, its released arrangement, rivals.

    python -m benchmarks.pretraining                     (small encoders, one CPU thread)
    python -m benchmarks.pretraining --savings           (what it spares: see below)
    python -m benchmarks.pretraining --dropout_draws     (beside PyTorch's own dropout)
    python -m benchmarks.pretraining --by_length --sentences_per_document 600   (cost of a token)
    python -m benchmarks.pretraining --device cuda       (base encoders, bf16, 512 to 16384 tokens)

Every rival trains in turn, a few steps at a time, in several rounds of another order: masked tokens
and sentence order, AdamW, clipping, batches made from shards of random tokens while it trains.
Ratios are formed within a round; reported are medians. On one CPU thread the time is CPU time of
the process, which builds its own batches; otherwise it is wall time.

The released arrangement stands here twice: with this project's head, which looks at masked
positions only, and with vocabulary logits at every position, as the released step has them. BERT is
given no mask, so that a GPU has its fastest attention to choose although there is padding: cuDNN's
or FlashAttention, benchmarks.gpu tells which ran. Dropout is the published
0.1 but 0 on BERT's attention, where a CPU would have no fused kernel. Model FLOP utilisation counts
what the function needs, three projections for PoNet, however it is computed.

PoNet, BERT and FNet compute the last block only where it is read, and on a CPU PoNet and BERT get
texts joined to rows without padding; the released arrangement has neither. `--savings` measures
what that brings, each alone and both. Rates count the positions of padded rows, in all rivals.
`--by_length` times all lengths in the same rounds, and gives the time of a real token; on a CPU all
rivals but FNet, which cannot, get joined texts. Give it documents longer than the longest text.
"""

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback, Checkpoint
from torch import Tensor
from torch.nn import functional as F

from benchmarks import report
from benchmarks.harness import Clock, guarded, in_rounds, product, rows_of, spread, wait
from benchmarks.pretraining_claims import claims, length_claims, savings_claims
from benchmarks.report import DEVICE, ROUNDS, Option, Options, Row
from benchmarks.rivals import DTYPES, PRECISIONS, SIZES, Rival, use_torch_dropout
from benchmarks.runs import bare_trainer, shards_in
from pretrain.batches import encoder_batch
from pretrain.datamodule import PretrainDataModule
from pretrain.module import PretrainModule
from pretrain.objectives import IGNORED_LABEL
from training.checkpoints.io import VerifiedCheckpointIO
from training.optim import PretrainOptimizer
from training.utilisation import FetchClock, PeakRate, peak_rate, use_tensor_cores

KEEP_APART: tuple[Any, ...] = ("ponet", "bert", "local_global")
"""Encoders that take texts joined to rows."""
OPTIONS = {
    **DEVICE,
    "rounds": Option(5, ROUNDS, cuda=2, short=1),
    "encoder": Option("small", "", SIZES, cuda="base"),
    "lengths": Option([512], "tokens of an example", cuda=[512, 4096, 16_384]),
    "tokens_per_step": Option(8192, cuda=65_536, short=1024),
    "vocab_size": Option(30_522),
    "dropout": Option(0.1),
    "precision": Option("bf16", "on CUDA", ("32", "bf16")),
    "warmup": Option(1, "steps before the clock starts, in each round", cuda=4, short=1),
    "steps": Option(3, "timed steps of each round", cuda=12, short=2),
    "num_workers": Option(0, "of the loader", cuda=2),
    "savings": Option(False, "measure what joined texts and the sparse last block spare"),
    "by_length": Option(False, "all lengths in the same rounds, and what a real token costs"),
    "dropout_draws": Option(False, "on a CPU: measure dropout beside PyTorch's own"),
    "sentences_per_document": Option(40, "of the random tokens: how full rows are"),
    "folder": Option(None, "shards; default: random tokens, made anew", kind=Path),
    "name": Option("", "of the files; default: pretraining_<device>"),
}


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


def make_module(rival: Rival, max_len: int, options: Options) -> PretrainModule:
    """Return the rival's module; BERT computes without a mask, for which all attentions are made.

    Padding then takes part in BERT's attention, which costs it nothing and changes no shape.
    """
    torch.manual_seed(1)
    sizes = {"max_positions": max_len, "vocab_size": options.vocab_size}
    config = rival.config(options.encoder, dropout_prob=options.dropout, **sizes)
    make = EveryPosition if rival.every_position else PretrainModule
    compiled: dict[str, Any] = {"compile": bool(rival.compile_mode)}
    compiled["compile_mode"] = rival.compile_mode or "default"
    with torch.device(options.device):  # a GPU draws the weights of a base encoder at once
        module = make(config, optimizer=PretrainOptimizer(), **compiled)
    if rival.kind == "official":
        module.model.encoder = rival.encoder(config)
    encoder, plan = module.model.encoder, module.model.encoder.prepare
    encoder.sparse_last_block = not is_plain(rival, ("last block", "both"))
    if rival.compiles_plan:
        form: dict[str, Any] = {"dynamic": False, "fullgraph": True, "mode": rival.compile_mode}
        encoder.plans = torch.compile(encoder.plans, **form)  # type: ignore[method-assign]
    if rival.torch_dropout:
        use_torch_dropout(module)
    if rival.kind == "bert" and not joins(rival, options):
        encoder.prepare = lambda batch: None  # type: ignore[method-assign]
    if rival.kind == "local_global" and not joins(rival, options):  # so in its global layers
        encoder.prepare = lambda batch: plan(batch)._replace(everywhere=None)  # type: ignore[method-assign]
    return module


def is_plain(rival: Rival, savings: Sequence[str]) -> bool:
    """Return whether a rival has none of some savings."""
    return rival.kind == "official" or rival.savings not in ("", *savings)


def joins(rival: Rival, options: Options) -> bool:
    """Return whether a rival's texts are joined; compiled, each length would be a shape."""
    by_default = options.device == "cpu" and rival.kind in ("ponet", "bert")
    return not is_plain(rival, ("joined", "both")) and bool(rival.savings or by_default)


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
        if isinstance(trainer.strategy.checkpoint_io, VerifiedCheckpointIO):
            trainer.strategy.checkpoint_io.wait()
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
            "examples": float(len(batch["example_ids"])),
            "fill": float(batch["mask"].float().mean()),
            "tokens": float(batch["mask"].sum()),
        }
        if pl_module.device.type == "cuda":
            self.found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30


def fit(
    module: PretrainModule, rival: Rival, shards: Path, max_len: int, options: Options, *,
    callbacks: Sequence[Callback] = (), plugins: Sequence[Any] = (),
) -> dict[str, float]:  # fmt: skip
    """Train for a few steps; return what StepWindow found, per step.

    Needs the options `tokens_per_step`, `num_workers`, `warmup`, `steps` and `device`.
    """
    size = max(1, options.tokens_per_step // max_len)
    batch = {"global_batch_size": size, "micro_batch_size": size, "max_len": max_len}
    workers = options.num_workers
    form = {"num_workers": workers, "verify_shards": False, "join_texts": joins(rival, options)}
    data = PretrainDataModule(folder=str(shards), **form, **batch)
    clock = FetchClock()
    window = StepWindow(options.warmup, options.steps, clock)
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    use_tensor_cores(PRECISIONS[rival.precision])
    trainer = bare_trainer(
        options.device,
        precision=PRECISIONS[rival.precision],
        max_steps=options.warmup + options.steps,
        callbacks=[*callbacks, window],
        plugins=list(plugins),
        profiler=clock,
        gradient_clip_val=1.0,
        limit_val_batches=0,
        enable_checkpointing=any(isinstance(each, Checkpoint) for each in callbacks),
    )
    with rival.attending():
        trainer.fit(module, datamodule=data)
    module.zero_grad(set_to_none=True)
    # The module keeps its trainer, and that would keep the optimiser's state of every rival.
    trainer.optimizers, trainer.strategy.lr_scheduler_configs = [], []
    return window.found


def product_rate(precision: str, clock: Clock, side: int = 2048) -> float:
    """Return the operations per second of one square matrix product, timed as the steps are."""
    step = product(side, side, side, dtype=DTYPES[precision], device=clock.device)
    step()
    return 2 * side**3 / clock.sample(step, 1)[clock.deciding]


def rivals_for(options: Options) -> list[Rival]:
    """Return what is compared on a device; the first is ours."""
    on_cpu = options.device == "cpu"
    form: dict[str, Any] = {"precision": "32" if on_cpu else options.precision}
    if options.by_length:
        form |= {} if on_cpu else {"compile_mode": "default"}
        saved: Any = "both" if on_cpu else ""
        attending = [Rival(kind=kind, savings=saved, **form) for kind in KEEP_APART]
        return [*attending, Rival(kind="fnet", **form)]
    if options.savings:
        kinds: tuple[tuple[Any, Any], ...] = (
            *(("ponet", each) for each in ("both", "none", "last block", "joined")),
            *(("bert", each) for each in ("none", "both")),
            *(("fnet", each) for each in ("none", "last block")),
        )
        return [Rival(kind=kind, savings=savings, **form) for kind, savings in kinds]
    if options.dropout_draws:
        if not on_cpu:
            raise SystemExit("--dropout_draws is for a CPU: elsewhere dropout is PyTorch's own")
        precisions = ("32",) if report.lacks_fast_bf16() else ("bf16", "32")
        kinds = itertools.product(("ponet", "bert", "fnet"), precisions, (False, True))
        return [Rival(kind=k, precision=p, torch_dropout=theirs) for k, p, theirs in kinds]
    official = [Rival(kind="official", every_position=every, **form) for every in (False, True)]
    if on_cpu:
        order = ("32", "bf16") if report.lacks_fast_bf16() else ("bf16", "32")
        mine, bert = ([Rival(kind=k, precision=p) for p in order] for k in ("ponet", "bert"))
        others = [Rival(kind=kind, **form) for kind in ("local_global", "fnet")]
        return [*mine, *official, *bert, *others]
    kinds: tuple[Any, ...] = ("ponet", "bert", "local_global", "fnet")
    compiled = [Rival(kind=kind, compile_mode="default", **form) for kind in kinds]
    compiled.append(Rival(kind="bert", attention="flash", compile_mode="default", **form))
    plain = [Rival(kind=kind, **form) for kind in kinds]
    return [*compiled, *plain, *official]


def measure(
    shards: Path, lengths: Sequence[int], options: Options, rivals: Sequence[Rival]
) -> tuple[list[Row], list[Row]]:
    """Return one row per length and rival, all in the same rounds: times, rates, use of the device.

    And what was wrong with those that could not be measured.
    """
    torch._dynamo.reset()
    cells = [(rival, max_len) for max_len in lengths for rival in rivals]
    modules = {cell: make_module(*cell, options) for cell in cells}
    on_cpu = options.device == "cpu"
    clock = Clock(device=options.device, threads=options.threads)
    errors: dict[Any, str] = {}
    steps: dict[Any, Any] = {
        (rival, n): lambda rival=rival, n=n: guarded(
            (rival, n), lambda: fit(modules[rival, n], rival, shards, n, options), errors
        )
        for rival, n in cells
    }
    for precision in {rival.precision for rival in rivals} if on_cpu else ():
        steps[precision] = lambda precision=precision: product_rate(precision, clock)
    samples = in_rounds(steps, options.rounds, note=f"{list(lengths)} tokens")
    alive = [cell for cell in cells if cell not in errors]
    key = clock.deciding if on_cpu else "wall_s"
    rows = rows_of({(rival.label, n): samples[rival, n] for rival, n in alive}, key)
    for (rival, max_len), row in zip(alive, rows.values(), strict=True):
        own = samples[rival, max_len]
        if on_cpu:
            name, median = str(DTYPES[rival.precision])[6:], spread(samples[rival.precision])
            peak = PeakRate(median["median"], f"the {name} product measured in the same rounds")
        else:
            peak = peak_rate(torch.device("cuda"), PRECISIONS[rival.precision])
        seconds, first = row["s"]["median"], own[0]
        row["positions_per_s"] = first["examples"] * max_len / seconds
        row["fill"] = spread([sample["fill"] for sample in own])
        row["flops_per_s"] = first["flops"] / seconds
        row |= {"mfu": row["flops_per_s"] / peak.flops_per_s, "peak": peak.source}
        row["waiting_share"] = spread([sample["waiting_share"] for sample in own])
        if "peak_gib" in first:
            row["peak_gib"] = max(sample["peak_gib"] for sample in own)
        shortest = min(n for other, n in alive if other == rival)
        row.update(token_cost(own, samples[rival, shortest], key))
    failed = [{"rival": r.label, "num_tokens": n, "error": errors[r, n]} for r, n in errors]
    return list(rows.values()), failed


def token_cost(own: Sequence[Row], shortest: Sequence[Row], key: str) -> Row:
    """Return microseconds of a real token, and their ratio to those in the shortest texts."""
    costs = [[1e6 * s[key] / s["tokens"] for s in samples] for samples in (own, shortest)]
    ratios = [one / two for one, two in zip(*costs, strict=True)]
    return {"us_per_token": spread(costs[0]), "cost_to_shortest": spread(ratios)}


def main(arguments: Sequence[str] | None = None) -> None:
    options = report.parse(__doc__, OPTIONS, arguments)
    needed = options.tokens_per_step * (options.warmup + options.steps + 4)
    sizes = {"num_sentences": max(20_000, needed // 20), "validation_sentences": 4000}
    sizes["sentences_per_document"] = options.sentences_per_document
    rivals = rivals_for(options)
    name, held = f"pretraining_{options.device}", claims
    if options.savings:
        name, held = f"{name}_savings_{options.encoder}", savings_claims
    if options.by_length:
        name, held = f"{name}_length_{options.encoder}", length_claims
    if options.dropout_draws:
        name, held = f"{name}_dropout_{options.encoder}", lambda rows, options: []
    rows: list[Row] = []
    name = options.name or name
    content: dict[str, Any] = {"ours": rivals[0].label, "rows": rows, "errors": []}
    together = [options.lengths] if options.by_length else [[n] for n in options.lengths]
    with shards_in(options.folder, vocab_size=options.vocab_size, **sizes) as (shards, _):
        for lengths in together:
            found, failed = measure(shards, lengths, options, rivals)
            rows += found
            content["errors"] += failed
            report.write(name, content, options)
    content["targets"] = held(rows, options)
    report.finish(name, content, options, kind="pretraining")
    title, path = f"Pretraining step, {options.encoder}, loader included", f"{name}.png"
    if options.by_length:
        panels = report.panels_of(rows, {"us_per_token": "microseconds of a real token"})
        report.line_chart(panels, options.output / path, title=title)
        return
    bars = {f"{row['num_tokens']}: {row['rival']}": row["s"] for row in rows}
    report.bar_chart({title: {"median": bars}}, options.output / path, unit="seconds")


if __name__ == "__main__":
    main()
