"""Run folders as `fit` leaves them, with made-up numbers."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

PONET = {
    "hidden_size": 8,
    "global_pool": "attention",
    "use_segment_pool": True,
    "local_window": 3,
}


def write_run(
    folder: Path,
    *,
    seed: int | None = 42,
    accuracy: float = 0.3,
    encoder: str = "ponet.PoNetConfig",
    arguments: Mapping[str, Any] = PONET,
    steps: int = 40,
    planned: int = 40,
    diverged_at: int | None = None,
    chance: float = 1 / 3,
    unigram: float = 0.05,
    scores: Mapping[str, float] | None = None,
    **options: Any,
) -> Path:
    """A run that was validated every ten steps; `options` are dotted, with `__` for dots."""
    folder.mkdir(parents=True)
    config: dict[str, Any] = {
        "seed_everything": seed,
        "trainer": {"max_steps": planned, "default_root_dir": str(folder)},
        "model": {
            "encoder": {"class_path": encoder, "init_args": dict(arguments)},
            "objective": "mlm_sso",
            "optimizer": {"lr": 0.001},
        },
        "data": {"folder": "shards/wiki"},
        "run": {"name": folder.name, "root": str(folder.parent)},
    }
    for key, value in options.items():
        *groups, last = key.split("__")
        place = config
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    (folder / "run_config.yaml").write_text(yaml.safe_dump(config))
    guesses = {"unigram_accuracy": unigram, "unigram_loss": 7.0, "pair_chance": chance}
    rows: list[dict[str, float]] = [
        {"step": 0, "elapsed_s": 1.0, **{f"baseline/{k}": v for k, v in guesses.items()}}
    ]
    for step in range(10, steps + 1, 10):
        broken = diverged_at is not None and step >= diverged_at
        loss = math.nan if broken else 8 - 3 * step / 40 - accuracy
        rows.append(
            {"step": step, "elapsed_s": step, "train/loss": loss + 1, "train/mlm_loss": loss}
        )
        rows[-1] |= {
            "train/mlm_accuracy": accuracy * step / 40,
            "train/tokens_per_s": 1000.0 + (seed or 0),
        }
        rows.append({"step": step, "elapsed_s": step, "val/mlm_loss": loss})
        rows[-1] |= {"val/mlm_accuracy": accuracy * step / 40, "val/pair_accuracy": 0.4 + accuracy}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if scores:
        tasks = {task: {"score": score, "n": 2} for task, score in scores.items()}
        (folder / "study.json").write_text(json.dumps({"downstream": tasks}))
    return folder


def write_study(root: Path) -> Path:
    """Three configurations: the second is clearly worse, the third is not to be told apart."""
    kinds = {
        "full": (0.300, {}),
        "none": (0.200, {"global_pool": "none"}),
        "nosegment": (0.299, {"use_segment_pool": False}),
    }
    noise = {"full": (0, 1, 2), "none": (0.1, 1, 2.1), "nosegment": (2, 0, 1)}
    for name, (accuracy, changed) in kinds.items():
        for seed, wobble in zip((42, 43, 44), noise[name], strict=True):
            write_run(
                root / f"{name}-seed{seed}",
                seed=seed,
                accuracy=accuracy + 0.002 * wobble,
                arguments={**PONET, **changed},
                scores={"CoLA": accuracy},
            )
    return root
