"""Fits that only write a result, so that grids and tables can be tested in milliseconds."""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from finetune.tasks.registry import TASKS, task_facts

SETTINGS = {
    "epochs": 4,
    "max_len": 128,
    "fold": 0,
    "repeat": 0,
    "warmup_share": 0.0,
    "weight_decay": 0.0,
    "schedule": "linear",
    "precision": "32-true",
    "max_train_rows": 0,
    "max_eval_rows": 0,
    "positions": "tile",
    "segments": "separators",
    "dropout_prob": 0.1,
    "gradient_clip": 1.0,
    "class_weights": "none",
    "targets": "both",
    "languages": "",
    "decoder": "independent",
    "thresholds": "one",
    "freeze": 0,
}
TITLES = {
    "cola": ("CoLA", ["matthews"]),
    "rte": ("RTE", ["accuracy"]),
    "mrpc": ("MRPC", ["accuracy", "f1"]),
    "wnli": ("WNLI", ["accuracy"]),
    "mnli": ("MNLI", ["accuracy"]),
    "imdb": ("IMDb", ["f1"]),
    "hyperpartisan": ("Hyperpartisan", ["f1"]),
    "mtop": ("MTOP", ["frame_em"]),
}


def make_result(
    task: str = "cola",
    encoder: str = "ponet",
    *,
    score: float = 0.3,
    test: float | None = None,
    majority: float = 0.0,
    num_rows: int = 1000,
    **changed: Any,
) -> dict[str, Any]:
    """The result.json of a fit, in which every metric of the task is the score."""
    title, metrics = TITLES[task]

    def values(value: float) -> dict[str, float]:
        return {"score": value, **dict.fromkeys(metrics, value)}

    splits = {"validation": score} | ({} if test is None else {"test": test})
    settings = {"lr": 3e-5, "batch_size": 32, "seed": 42, **SETTINGS}
    settings |= {key: changed.pop(key) for key in list(changed) if key in settings}
    weights = {"random_init": False, "digest": f"digest of {encoder}"}
    weights |= {key: changed.pop(key) for key in list(changed) if key in weights}
    rows = {"train": 8000, **dict.fromkeys(splits, num_rows)}
    facts = task_facts(TASKS[task])
    return {
        "format_version": 1,
        "task": task,
        "title": title,
        "kind": "classification",
        "encoder": {
            "path": f"runs/{encoder}",
            "kind": "ponet",
            "name": encoder,
            "num_parameters": 1000,
            **weights,
        },
        "settings": settings,
        "score": metrics,
        "best_epoch": 3,
        "best_step": 30,
        "total_steps": 40,
        "evaluation": {
            name: {**values(value), "loss": 0.5, "num_rows": num_rows}
            for name, value in splits.items()
        },
        "majority": {name: values(majority) for name in splits},
        "diverged": False,
        "reason": "",
        "data": {
            "splits": {
                name: {
                    "num_rows": count,
                    "num_rows_whole": count,
                    "lengths": {"share_truncated": 0.0},
                }
                for name, count in rows.items()
            },
            "overlaps": {},
            "warning": "",
        },
        "elapsed_s": 12.5,
        "versions": {"torch": "2.13.0", "pytorch_lightning": "2.6.6", "ponet": "0.1.0"},
        "device": "cpu",
        "task_facts": facts,
        **changed,
    }


def make_baseline(task: str = "cola", *, fold: int = 0, **changed: Any) -> dict[str, Any]:
    """The result.json of a linear model."""
    result = make_result(
        task, "TF-IDF + linear", seed=0, fold=fold, lr=0.0, batch_size=0, **changed
    )
    free = {"path": "words", "kind": "baseline", "num_features": 46012, "cpu_s": 4.25}
    result["encoder"] |= {**free, "num_parameters": 46013, "digest": ""}
    result["settings"] |= {"epochs": 0, "schedule": "none"}
    return result


def make_tagging(encoder: str, **scores: float) -> dict[str, Any]:
    """The result.json of a fit on tagged texts, with these scores on validation and test."""
    found = {"slot_em": 0.5, "token_accuracy": 0.8, "span_f1": 0.7, "frame_em": 0.4, **scores}
    seed = int(found.pop("seed", 42))
    result = make_result("mtop", encoder, score=found["frame_em"], test=0.0, seed=seed)
    values = {"score": found["frame_em"], **found, "num_rows": 1000}
    return {**result, "kind": "tagging", "evaluation": {"validation": values, "test": dict(values)}}


def write(folder: Path, result: dict[str, Any], name: str = "") -> Path:
    """Write a result where a grid would."""
    settings = result["settings"]
    name = name or f"lr{settings['lr']:g}-bs{settings['batch_size']}-seed{settings['seed']}"
    path = folder / result["task"] / result["encoder"]["name"] / name / "result.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result))
    return path


def fake_fit(trial_yaml: Path) -> None:
    """A fit whose score is best at the largest learning rate, with a little noise per seed."""
    settings = yaml.safe_load(trial_yaml.read_text())
    lr, seed = settings["model"]["optimizer"]["lr"], settings["seed_everything"]
    encoder = Path(settings["model"]["encoder"]).name
    generator = random.Random(f"{encoder} {lr} {seed}")
    score = 0.3 + lr * 1000 + 0.01 * generator.random()
    result = make_result(
        settings["data"]["task"],
        encoder,
        score=score,
        lr=lr,
        seed=seed,
        batch_size=settings["data"]["global_batch_size"],
        fold=settings["data"]["fold"],
    )
    classifier = trial_yaml.parent / "classifier"
    classifier.mkdir(exist_ok=True)
    (classifier / "model.safetensors").write_text("weights")
    print("one line for the log", flush=True)
    (trial_yaml.parent / "result.json").write_text(json.dumps(result))


def fails_at_seed_2(trial_yaml: Path) -> None:
    """A fit that raises at one seed."""
    if "seed2" in trial_yaml.parent.name:
        raise RuntimeError("CUDA out\nof memory")
    fake_fit(trial_yaml)


def dies_at_seed_2(trial_yaml: Path) -> None:
    """A fit whose process is killed at one seed."""
    if "seed2" in trial_yaml.parent.name:
        os.kill(os.getpid(), signal.SIGKILL)
    fake_fit(trial_yaml)


def crashes_at_seed_2(trial_yaml: Path) -> None:
    """A fit with a bug that shows at one seed."""
    if "seed2" in trial_yaml.parent.name:
        raise KeyError("a bug")
    fake_fit(trial_yaml)


def waits_at_seed_2(trial_yaml: Path) -> None:
    """A fit that waits at one seed until it is told to stop, and ends at once the next time."""
    started = trial_yaml.parent / "started"
    if "seed2" in trial_yaml.parent.name and not started.exists():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
        started.touch()
        time.sleep(60)
    fake_fit(trial_yaml)


def always_fails(trial_yaml: Path) -> None:
    """A fit that never works."""
    raise ValueError("no such option")


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
