"""Guards: a bad step is found, named and never saved, on every rank and after every resume."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from torch.utils.data import DataLoader

from ponet import PoNetConfig
from pretrain.callbacks import step_loss
from pretrain.datamodule import PretrainDataModule
from pretrain.module import PretrainModule
from pretrain.sums import LossSums, means
from training.guards import (
    BadState,
    GuardConfig,
    Guards,
    SpikeDetector,
    first_bad_step,
    nonfinite_names,
)
from training.interruption import EXIT_GUARD, RunInterrupted

NAN, INF = math.nan, math.inf


def sums_of(loss: float, count: float = 1.0) -> torch.Tensor:
    """Sums of a micro-batch with this mean loss over `count` tokens."""
    fields = dict.fromkeys(LossSums._fields, 0.0) | {"mlm_loss": loss * count, "mlm_count": count}
    return torch.tensor([fields[name] for name in LossSums._fields], dtype=torch.float64)


class Scripted(LightningModule):
    """Its losses and gradient norms are those of a script."""

    def __init__(self, norms: dict[int, float]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.norms = norms
        self.grad_norm: torch.Tensor | None = None

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> dict[str, torch.Tensor]:
        return {"loss": 0 * self.weight, "sums": sums_of(*batch[0].tolist())}

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.grad_norm = torch.tensor(self.norms.get(self.trainer.global_step + 1, 1.0))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class FromStep:
    """Goes on where the trainer is, as the run's own sampler does."""

    def __init__(self, data: LightningDataModule, size: int) -> None:
        self.data, self.size = data, size

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        trainer = self.data.trainer
        return iter(range(trainer.global_step * trainer.accumulate_grad_batches, self.size))


class ScriptedData(LightningDataModule):
    def __init__(self, losses: Sequence[float | tuple[float, float]]) -> None:
        super().__init__()
        pairs = [loss if isinstance(loss, tuple) else (loss, 1.0) for loss in losses]
        self.rows = torch.tensor(pairs, dtype=torch.float64)

    def train_dataloader(self) -> DataLoader[torch.Tensor]:
        return DataLoader(self.rows, sampler=FromStep(self, len(self.rows)))

    def sample_range(self, step: int) -> tuple[int, int]:
        return 100 * step, 100 * step + 99


class SaveAt(Callback):
    """Looks, then saves, as the run's own checkpoint callback does."""

    def __init__(self, folder: Path, steps: set[int]) -> None:
        self.folder, self.steps, self.saved = folder, steps, []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        if trainer.global_step in self.steps and trainer.global_step not in self.saved:
            next(c for c in trainer.callbacks if isinstance(c, Guards)).check(trainer, pl_module)
            self.saved.append(trainer.global_step)
            trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


def fit(
    losses: Sequence[float | tuple[float, float]],
    *callbacks: Callback,
    config: GuardConfig,
    norms: dict[int, float] | None = None,
    accumulate: int = 1,
    resume: Path | None = None,
) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        max_steps=len(losses) // accumulate,
        accumulate_grad_batches=accumulate,
        callbacks=[Guards(config, step_loss), *callbacks],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Scripted(norms or {}), datamodule=ScriptedData(losses), ckpt_path=resume)
    return trainer


def bad_state(run: Callable[[], Any]) -> BadState:
    with pytest.raises(BadState) as raised:
        run()
    return raised.value


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("every", [1, 4, 100])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_samples(
    value: float, every: int
) -> None:
    losses = [1.0] * 6 + [value] + [1.0] * 5
    error = bad_state(lambda: fit(losses, config=GuardConfig(every_n_steps=every)))
    assert (error.bad.step, error.bad.kind, error.bad.limit) == (7, "loss", None)
    assert str(error.bad.value) == str(value)
    assert error.samples == (600, 699) and "600 to 699" in str(error) and "step 7" in str(error)
    assert isinstance(error, RunInterrupted) and error.exit_code == EXIT_GUARD


def test_the_window_to_skip_ends_with_the_bad_step_and_never_starts_before_the_run() -> None:
    losses = [1.0] * 6 + [NAN]
    error = bad_state(lambda: fit(losses, config=GuardConfig(skip_steps=3)))
    assert (error.first_data_step, error.last_data_step) == (4, 6)
    error = bad_state(lambda: fit(losses, config=GuardConfig(skip_steps=30)))
    assert (error.first_data_step, error.last_data_step) == (0, 6)


@pytest.mark.parametrize("value", [NAN, INF])
def test_a_gradient_norm_that_is_not_finite_stops_the_run(value: float) -> None:
    error = bad_state(lambda: fit([1.0] * 8, config=GuardConfig(), norms={5: value}))
    assert (error.bad.step, error.bad.kind) == (5, "grad_norm")


def test_infinite_gradients_are_normal_under_a_scaler_but_losses_are_not() -> None:
    rows = [(1, 2.0, INF), (2, 2.0, NAN)]
    assert first_bad_step(rows, SpikeDetector(0, 10), scaled_gradients=True) is None
    bad = first_bad_step([*rows, (3, NAN, 1.0)], SpikeDetector(0, 10), scaled_gradients=True)
    assert bad is not None and (bad.step, bad.kind) == (3, "loss")
    assert first_bad_step([(1, 2.0, None)], SpikeDetector(0, 10), scaled_gradients=False) is None


def test_no_bad_step_is_ever_saved(tmp_path: Path) -> None:
    losses = [1.0] * 6 + [NAN] + [1.0] * 5
    save = SaveAt(tmp_path, {3, 6, 7, 9})
    error = bad_state(lambda: fit(losses, save, config=GuardConfig(every_n_steps=100)))
    assert error.bad.step == 7 and save.saved == [3, 6]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3.ckpt", "6.ckpt"]


def test_the_loss_of_a_step_is_the_mean_over_the_tokens_of_its_micro_batches() -> None:
    calm = [(2.0, 10.0), (3.0, 30.0)] * 12  # mean 2.75
    jump = [(2.0, 10.0), (9.0, 30.0)]  # mean 7.25
    config = GuardConfig(spike_factor=2.0, spike_window=10, every_n_steps=1)
    error = bad_state(lambda: fit([*calm, *jump], config=config, accumulate=2))
    assert (error.bad.step, error.bad.kind) == (13, "spike")
    assert error.bad.value == pytest.approx(7.25) and error.bad.limit == pytest.approx(5.5)
    assert "above the limit 5.5" in str(error)


def test_the_loss_is_the_one_that_the_metrics_show() -> None:
    generator = torch.Generator().manual_seed(0)
    for pair_count in (0.0, 16.0):
        sums = 50 * torch.rand(len(LossSums._fields), generator=generator, dtype=torch.float64)
        sums[LossSums._fields.index("pair_count")] = pair_count
        sums[LossSums._fields.index("pair_loss")] *= bool(pair_count)
        assert step_loss(sums) == pytest.approx(means(sums)["loss"])


@pytest.mark.parametrize("broken", ["sums", "grad_norm"])
def test_what_one_rank_sees_stops_every_rank(broken: str) -> None:
    """Both ranks' numbers pass through the strategy's sum."""
    per_rank = [
        (sums_of(2.0), 1.0),
        (sums_of(NAN if broken == "sums" else 2.0), NAN if broken == "grad_norm" else 1.0),
    ]
    gathered = sum(torch.cat([sums, torch.tensor([norm])]) for sums, norm in per_rank)
    for sums, norm in per_rank:
        trainer = SimpleNamespace(
            global_step=0,
            world_size=2,
            precision_plugin=SimpleNamespace(scaler=None),
            strategy=SimpleNamespace(reduce=lambda own, reduce_op: gathered[None]),
        )
        module = SimpleNamespace(grad_norm=torch.tensor(norm), device=torch.device("cpu"))
        guards = Guards(GuardConfig(every_n_steps=1), step_loss)
        guards.on_train_start(trainer, module)
        trainer.global_step = 1
        with pytest.raises(BadState) as raised:
            guards.on_train_batch_end(trainer, module, {"sums": sums}, None, 0)
        assert raised.value.bad.kind == ("loss" if broken == "sums" else "grad_norm")
        assert raised.value.samples is None


def test_the_detector_agrees_with_a_plain_median() -> None:
    draw = random.Random(0)
    losses = [draw.lognormvariate(0, 0.6) for _ in range(400)]
    detector, known = SpikeDetector(2.5, 40), []
    for loss in losses:
        window = known[-40:]
        limit = 2.5 * median(window) if len(window) >= 10 else INF
        assert detector.exceeded_limit(loss) == (limit if loss > limit else None)
        if loss <= limit:
            known.append(loss)
    assert 0 < len(losses) - len(known) < 100


def test_a_restored_detector_decides_like_the_one_that_went_on() -> None:
    draw = random.Random(1)
    losses = [draw.lognormvariate(0, 0.6) for _ in range(120)]
    for cut in (0, 5, 30, 77):
        one = SpikeDetector(2.0, 40)
        for loss in losses[:cut]:
            one.exceeded_limit(loss)
        other = SpikeDetector(2.0, 40)
        other.losses.extend(one.losses)
        rest = losses[cut:]
        assert [one.exceeded_limit(x) for x in rest] == [other.exceeded_limit(x) for x in rest]


def test_a_resumed_run_finds_the_same_spike(tmp_path: Path) -> None:
    losses = [3.0 + 0.1 * (i % 5) for i in range(30)] + [7.0] + [3.0] * 5
    config = GuardConfig(spike_factor=2.0, spike_window=20, every_n_steps=7)
    save = SaveAt(tmp_path, {24})
    whole = bad_state(lambda: fit(losses, save, config=config))
    resumed = bad_state(lambda: fit(losses, config=config, resume=tmp_path / "24.ckpt"))
    assert whole.bad.step == 31 and resumed.bad == whole.bad
    torch.load(tmp_path / "24.ckpt", weights_only=True)


def test_no_spike_is_seen_where_none_is_asked_for_and_nothing_where_all_is_off() -> None:
    fit([1.0] * 20 + [100.0], config=GuardConfig())
    fit([1.0, NAN, 1.0], config=GuardConfig(action="off", every_n_steps=1), norms={2: NAN})


def test_the_module_and_the_data_of_a_run_name_the_samples(tiny_shards: Path) -> None:
    class Poison(Callback):
        def on_train_batch_end(
            self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
        ) -> None:
            if trainer.global_step == 2:
                next(pl_module.parameters()).data.fill_(NAN)

    sizes = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "ffn_size": 16}
    module = PretrainModule(PoNetConfig(vocab_size=65, max_positions=32, **sizes))
    sizes = {"global_batch_size": 8, "micro_batch_size": 4, "max_len": 32, "num_workers": 0}
    data = PretrainDataModule(folder=str(tiny_shards), **sizes)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=6,
        limit_val_batches=0,
        callbacks=[Guards(GuardConfig(every_n_steps=2), step_loss), Poison()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    error = bad_state(lambda: trainer.fit(module, datamodule=data))
    assert (error.bad.step, error.bad.kind) == (3, "loss") and error.samples == (16, 23)


def test_tensors_that_are_not_finite_are_named_whatever_their_type() -> None:
    state = {
        "fine": torch.full((3,), 3e38),
        "counter": torch.tensor(3),
        "empty": torch.zeros(0),
        "scalar": torch.tensor(0.5, dtype=torch.float64),
        "half": torch.tensor([1.0, INF], dtype=torch.float16),
        "brain": torch.tensor([[1.0, NAN]], dtype=torch.bfloat16),
        "single": torch.tensor([-INF]),
        "parameter": torch.nn.Parameter(torch.tensor([NAN])),
        "tiny": torch.tensor([1.0, NAN]).to(torch.float8_e4m3fn),
        "text": "not a tensor",
    }
    assert nonfinite_names(state) == ["half", "brain", "single", "parameter", "tiny"]
    assert nonfinite_names({}) == []


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("every_n_steps", 0),
        ("skip_steps", 0),
        ("max_rollbacks", -1),
        ("spike_factor", 1.0),
        ("spike_factor", -2.0),
        ("spike_factor", NAN),
        ("spike_window", 9),
        ("watchdog_minutes", -1.0),
        ("watchdog_minutes", NAN),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=option):
        GuardConfig(**{option: value})
