"""The training step: losses, schedule, and gradients that do not depend on micro-batches."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from finetune_runs import write_bundle, write_splits
from pytorch_lightning import Callback, Trainer, seed_everything

from finetune.data.datamodule import TaskDataModule
from finetune.data.targets import row_losses
from finetune.metrics import scores
from finetune.module import FinetuneModule, log_prefix
from ponet import FNetConfig, PretrainingModel, SequenceClassifier, save_bundle
from training.optim import FinetuneOptimizer


class Start(Callback):
    """Keeps a copy of the classifier before its first step."""

    classifier: SequenceClassifier

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.classifier = copy.deepcopy(pl_module.classifier)


def train(bundle: Path, folder: Path, **options: Any) -> tuple[Start, FinetuneModule]:
    """One epoch without dropout; `data` and `optimizer` hold their options."""
    seed_everything(7, verbose=False)
    given = options.pop("data", {})
    if options.pop("write", True):
        files = write_splits(folder, num_train=50)
        given = {"train": files[1], "validation": files[3], **given}
    data = TaskDataModule(encoder=str(bundle), **{"max_len": 16, "global_batch_size": 16, **given})
    settings = options.pop("optimizer", {"lr": 3e-3})
    module = FinetuneModule(
        str(bundle), dropout_prob=0.0, optimizer=FinetuneOptimizer(**settings), **options
    )
    start = Start()
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        accumulate_grad_batches=data.accumulation(1),
        callbacks=[start],
    )
    trainer.fit(module, datamodule=data)
    return start, module


def assert_same_weights(one: torch.nn.Module, two: torch.nn.Module, *, atol: float) -> None:
    for (name, a), b in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, atol=atol, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("micro_batch_size", [4, 6, 5])
def test_accumulation_trains_the_same_weights(
    bundle: Path, tmp_path: Path, micro_batch_size: int
) -> None:
    _, whole = train(bundle, tmp_path)
    _, parts = train(bundle, tmp_path, data={"micro_batch_size": micro_batch_size})
    assert parts.trainer.accumulate_grad_batches == -(-16 // micro_batch_size)
    assert parts.trainer.global_step == whole.trainer.global_step == 4  # 16 + 16 + 16 + 2 rows
    assert_same_weights(whole.classifier, parts.classifier, atol=2e-5)
    assert whole.evaluation["validation"] == pytest.approx(parts.evaluation["validation"], abs=1e-4)


@pytest.mark.parametrize("micro_batch_size", [64, 16])
def test_a_step_on_a_smaller_last_batch_is_that_of_the_mean_loss(
    bundle: Path, tmp_path: Path, micro_batch_size: int
) -> None:
    sizes = {"global_batch_size": 64, "micro_batch_size": micro_batch_size}
    start, module = train(bundle, tmp_path, data=sizes, optimizer={"lr": 1e-2, "eps": 1e-3})
    assert module.trainer.global_step == 1
    rows = module.datamodule._encoded["train"][[(row, 1.0) for row in range(50)]]
    by_hand = start.classifier.train()
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=1e-2, eps=1e-3, weight_decay=0.0)
    loss = torch.nn.functional.cross_entropy(by_hand(rows.inputs), rows.targets_B)
    loss.backward()
    optimizer.step()
    assert module.step_loss is not None
    assert float(module.step_loss) == pytest.approx(loss.item(), abs=1e-5)
    assert_same_weights(module.classifier, by_hand, atol=1e-5)


def test_scores_are_those_of_all_rows_in_order(bundle: Path, tmp_path: Path) -> None:
    _, module = train(bundle, tmp_path, data={"eval_batch_size": 7})
    rows = module.datamodule._encoded["validation"][[(row, 1.0) for row in range(50)]]
    with torch.no_grad():
        outputs = module.classifier.eval()(rows.inputs)
    losses = row_losses(outputs, rows.targets_B, is_regression=False)
    wanted = {
        **scores(module.spec, outputs, rows.targets_B),
        "loss": float(losses.mean()),
        "num_rows": 50,
    }
    assert module.evaluation["validation"] == pytest.approx(wanted, abs=1e-5)


def fnet_bundle(folder: Path, tokenizer_json: Path) -> Path:
    torch.manual_seed(1)
    sizes = FNetConfig.preset(
        "nano", vocab_size=19, num_layers=1, hidden_size=32, ffn_size=64, max_positions=24
    )
    return save_bundle(folder / "fnet", PretrainingModel(sizes), tokenizer_json=tokenizer_json)


def test_the_scores_of_fnet_do_not_depend_on_the_batch(
    tokenizer_json: Path, tmp_path: Path
) -> None:
    fnet = fnet_bundle(tmp_path, tokenizer_json)
    _, alone = train(fnet, tmp_path, data={"eval_batch_size": 1})
    _, many = train(fnet, tmp_path, data={"eval_batch_size": 64})
    assert many.datamodule.equal_lengths
    assert len(many.datamodule.val_dataloader()[0]) < len(alone.datamodule.val_dataloader()[0])
    wanted = alone.evaluation["validation"]
    assert many.evaluation["validation"] == pytest.approx(wanted, abs=1e-5)


def test_a_regression_on_any_scale_trains_as_on_the_standard_one(
    bundle: Path, tmp_path: Path
) -> None:
    """Prices instead of stars: 250,000 + 10,000 x stars."""
    options = {"kind": "regression", "label": "stars"}
    _, stars = train(bundle, tmp_path, data=options)
    for path in (tmp_path / "train.csv", tmp_path / "validation.csv"):
        text = path.read_text().replace(",1.5\n", ",265000\n").replace(",-0.5\n", ",245000\n")
        path.write_text(text)
    files = {name: str(tmp_path / f"{name}.csv") for name in ("train", "validation")}
    _, prices = train(bundle, tmp_path, data={**options, **files}, write=False)
    assert_same_weights(stars.classifier, prices.classifier, atol=1e-4)
    found, wanted = (m.evaluation["validation"] for m in (prices, stars))
    assert found["mse"] == pytest.approx(wanted["mse"] * 10_000**2, rel=1e-3)
    assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-3)
    assert prices.scale.mean == pytest.approx(250_000 + 10_000 * stars.scale.mean)
    assert prices.step_loss is not None and stars.step_loss is not None
    assert float(prices.step_loss) == pytest.approx(float(stars.step_loss), rel=1e-3)


def test_balanced_weights_reach_the_loss(bundle: Path, tmp_path: Path) -> None:
    files = write_splits(tmp_path, num_train=53)
    unequal = {"train": files[1], "validation": files[3], "label": "same"}
    _, module = train(bundle, tmp_path, data=unequal, class_weights="balanced", write=False)
    counts = list(module.datamodule.inspection["splits"]["train"]["labels"].values())
    assert module.class_weights_C.tolist() == pytest.approx([26.5 / count for count in counts])
    _, plain = train(bundle, tmp_path, data=unequal, write=False)
    assert module.step_loss != plain.step_loss


def test_longer_texts_than_pretrained_extend_the_positions(bundle: Path, tmp_path: Path) -> None:
    start, module = train(bundle, tmp_path, data={"max_len": 50})
    weight = start.classifier.encoder.embeddings.position.weight
    assert module.classifier.encoder.config.max_positions == 50
    torch.testing.assert_close(weight[24:48], weight[:24])
    start, _ = train(bundle, tmp_path, data={"max_len": 50}, random_init=True)
    weight = start.classifier.encoder.embeddings.position.weight
    assert weight.shape[0] == 50 and not torch.allclose(weight[24:48], weight[:24])


def test_positions_that_pretraining_never_reached_are_said(
    bundle: Path, tokenizer_json: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = write_bundle(tmp_path / "bundle", tokenizer_json, metadata={"max_len": 16})
    _, module = train(short, tmp_path, data={"max_len": 20})
    assert module.trained_positions == 16
    said = capsys.readouterr().err
    assert f"note: max_len is 20, but {short} was trained on texts of 16 tokens" in said
    assert "positions from 16 to 24 are the random values" in said and "Give max_len 16" in said
    train(short, tmp_path)
    train(short, tmp_path, data={"max_len": 20}, random_init=True)
    train(bundle, tmp_path, data={"max_len": 20})  # nothing is known of it
    assert "was trained on texts" not in capsys.readouterr().err


def test_options_reach_the_encoder(bundle: Path, tmp_path: Path) -> None:
    _, module = train(bundle, tmp_path, gradient_checkpointing=True)
    assert module.classifier.encoder.gradient_checkpointing is True
    assert module.classifier.encoder.config.dropout_prob == 0.0
    assert module.source is not None and module.source.name == bundle.parent.name
    with pytest.raises(ValueError, match="dropout_prob is 1.0"):
        FinetuneModule(str(bundle), dropout_prob=1.0)


def test_row_losses_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0], [0.0, torch.log(torch.tensor(3.0))]], dtype=torch.float64)
    losses = row_losses(logits, torch.tensor([0, 1]), is_regression=False)
    torch.testing.assert_close(losses, torch.tensor([2.0, 4 / 3]).log())
    weights = torch.tensor([0.5, 3.0], dtype=torch.float64)
    weighted = row_losses(
        logits, torch.tensor([0, 1]), is_regression=False, class_weights_C=weights.float()
    )
    torch.testing.assert_close(weighted, losses * weights.float())
    losses = row_losses(torch.tensor([[1.0], [4.0]]), torch.tensor([3.0, 4.5]), is_regression=True)
    assert losses.tolist() == [4.0, 0.25]


def test_splits_have_short_names_in_logs() -> None:
    assert log_prefix("validation_mismatched") == "val_mismatched"
    assert log_prefix("test") == "test"
