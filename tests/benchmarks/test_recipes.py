"""The benchmark of recipes: what a run changes, what is counted, and going on after a cut."""

import argparse
import json
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import recipes
from benchmarks.recipe_summary import content_of, reached, shares
from benchmarks.recipe_table import BASE, STUDIES, OneMinusSqrt, Recipe
from benchmarks.runs import synthetic_folder
from pretrain.objectives import OBJECTIVES
from training.optim import PretrainOptimizer


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> argparse.Namespace:
    root = tmp_path_factory.mktemp("recipes")
    folder = synthetic_folder(
        root / "shards", num_sentences=2000, vocab_size=300, validation_sentences=200
    )
    return argparse.Namespace(
        folder=folder, study="loss", base="nano", steps=4, seeds=[1, 2], jobs=1, device="cpu",
        threads=1, validations=2, kernels="auto", eval_examples=16, rounds=0, timed_steps=1,
        root=root / "runs",
        output=root / "out", name="", recipes=[""], short=True,
    )  # fmt: skip


def curve(*losses: float) -> list[dict[str, float]]:
    places = (10, 20, 30)
    return [
        {"step": n, "tokens": 100.0 * n, "flops": 1e3 * n, "mlm_loss": loss, "pair_accuracy": 0.5}
        for n, loss in zip(places, losses, strict=True)
    ]


def test_a_loss_is_reached_between_validations_along_a_line() -> None:
    assert reached(curve(6.0, 5.0, 4.0), 4.5) == {"step": 25.0, "tokens": 2500.0, "flops": 25e3}
    assert reached(curve(6.0, 5.0, 4.0), 3.9) is None


def test_shares_are_of_what_the_base_spent_and_need_every_seed() -> None:
    base = {1: {"curve": curve(6.0, 5.5, 5.0)}, 2: {"curve": curve(6.0, 5.5, 5.0)}}
    own = {1: {"curve": curve(6.0, 5.0, 4.0)}, 2: {"curve": curve(5.5, 5.0, 4.0)}}
    assert shares(own, base, 5.0)["step"]["median"] == pytest.approx(20 / 30)
    assert shares({**own, 3: {"curve": curve(7.0, 6.0, 5.5)}}, base, 5.0)["step"] is None


def test_the_end_of_a_stable_schedule_falls_as_one_minus_the_root_of_its_progress() -> None:
    form: dict[str, Any] = {"schedule": "warmup_stable_decay", "decay_share": 0.5}
    sqrt, linear = (
        [kind(warmup_steps=10, **form).schedule_factor(s, total_steps=100) for s in (4, 40, 75, 99)]
        for kind in (OneMinusSqrt, PretrainOptimizer)
    )
    assert linear == pytest.approx([0.5, 1.0, 0.5, 0.02])
    assert sqrt == pytest.approx([0.5, 1.0, 1 - 0.5**0.5, 1 - 0.98**0.5])


def test_growing_batches_read_every_sample_once(options: argparse.Namespace) -> None:
    recipe = Recipe(batches=((0.25, 8), (0.75, 32)))
    settings = recipes.settings_of("nano", 8)
    data = recipes.make_data(recipe, settings, 1, options)
    ranges = [data.sample_range(step) for step in range(len(data.first_samples) - 1)]
    assert [last - first + 1 for first, last in ranges] == [8] * 8 + [32] * 6
    assert np.concatenate([np.arange(a, b + 1) for a, b in ranges]).tolist() == list(range(256))


def test_falling_rates_hide_fewer_tokens_from_part_to_part(options: argparse.Namespace) -> None:
    settings = {**recipes.settings_of("nano", 8), "steps": 8}
    data = recipes.make_data(Recipe(masking=(0.4, 0.1)), settings, 1, options)
    strategy = argparse.Namespace(root_device=torch.device("cpu"))
    data.trainer = argparse.Namespace(  # type: ignore[assignment]
        strategy=strategy,
        max_steps=8,
        global_step=0,
        limit_train_batches=None,
        global_rank=0,
        world_size=1,
    )
    dataset = data.train_dataloader().dataset
    shares_of = []
    for first in (0, 4 * 32):
        batch = dataset.__getitems__(range(first, first + 32))  # type: ignore[attr-defined]
        shares_of.append(int((batch["masked_labels"] >= 0).sum()) / int(batch["mask"].sum()))
    assert shares_of == pytest.approx([0.4, 0.1], abs=0.03)


@pytest.mark.parametrize("study", STUDIES)
def test_every_recipe_can_be_made(study: str, options: argparse.Namespace) -> None:
    given = argparse.Namespace(**{**vars(options), "study": study})
    for name, recipe in STUDIES[study].items():
        module, _, settings = recipes.make_run(name, 1, given)
        assert module.encoder_config.kind == recipe.kind
        assert recipe.batches or settings["steps"] == max(2, round(4 * recipe.share))
    assert "order" not in OBJECTIVES  # of the study alone


class Inline:
    """Runs what it is given at once."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __enter__(self) -> "Inline":
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, function: Any, *given: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*given))
        except RuntimeError as error:
            future.set_exception(error)
        return future


def test_a_cut_study_goes_on_with_what_is_missing(
    options: argparse.Namespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    begun, given = [], argparse.Namespace(**{**vars(options), "root": tmp_path})

    def train(name: str, seed: int, _: Any) -> dict[str, Any]:
        begun.append((name, seed))
        if begun == [(BASE, 1), ("Muon", 1)]:
            raise RuntimeError("cut")
        rows = [{**row, "seconds": 1.0, "mlm_accuracy": 0.1} for row in curve(6.0, 5.0, 4.0)]
        return {"recipe": name, "seed": seed, "curve": rows, "pairs": [[3, 1, 0]] * 3}

    monkeypatch.setattr(recipes.torch.cuda, "get_device_name", lambda: "a card")
    given.device = "cuda"

    monkeypatch.setattr(recipes, "ProcessPoolExecutor", Inline)
    monkeypatch.setattr(recipes, "train", train)
    assert recipes.run_missing([BASE, "Muon"], given) == 1
    (error,) = tmp_path.glob("*.error")
    assert error.stem == "loss-Muon-1" and 'raise RuntimeError("cut")' in error.read_text()
    assert recipes.run_missing([BASE, "Muon"], given) == 0
    assert begun == [(BASE, 1), ("Muon", 1), (BASE, 2), ("Muon", 2), ("Muon", 1)]
    content = content_of(tmp_path, "loss")
    assert [(row["recipe"], row["n"]) for row in content["rows"]] == [(BASE, 2), ("Muon", 2)]
    assert json.dumps(content) and (content["gpu"], content["options"]["jobs"]) == ("a card", 1)
    assert content["rows"][1]["share_of"]["step"]["median"] == 1.0
    assert content["rows"][1]["recall"] == [0.75, 0.25, 0.0]
