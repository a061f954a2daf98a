"""What a run found: its result.json, and the table a user reads."""

import json
import math
import platform
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer

import ponet
from finetune.callbacks import BestClassifier
from finetune.data.inspection import constant_metrics
from finetune.metrics import is_of_one_class, metric_title, value_text
from finetune.module import FinetuneModule
from finetune.tasks.registry import task_facts
from finetune.tasks.spec import LoadedTask, TaskSpec
from training.result import FORMAT_VERSION, read_result
from training.run_config import EVALUATIONS_FILE

Scores = Mapping[str, Mapping[str, float]]


def fit_result(
    trainer: Trainer, module: FinetuneModule, best: BestClassifier, *, seed: int, elapsed_s: float
) -> dict[str, Any]:
    """Return the content of result.json.

    Args:
        trainer: After the fit.
        module: Holds the test scores of the best classifier, where there are any.
        best: Which epoch was the best.
        seed: Seed of the run.
        elapsed_s: Wall time from the start of the command.
    """
    spec, datamodule = module.spec, module.datamodule
    tested = {k: v for k, v in module.evaluation.items() if k.startswith("test")}
    return {
        "format_version": FORMAT_VERSION,
        "task": spec.name,
        "title": spec.title,
        "kind": "regression" if spec.is_regression else "classification",
        "encoder": _encoder(module),
        "settings": _settings(trainer, module, seed),
        "score": list(spec.score),
        "best_epoch": best.epoch,
        "best_step": best.step,
        "total_steps": best.total_steps,
        "evaluation": {**best.evaluation, **tested},
        "majority": datamodule.inspection["majority"],
        "diverged": bool(module.diverged),
        "reason": module.diverged,
        "data": datamodule.inspection,
        "elapsed_s": round(elapsed_s, 3),
        "versions": _versions(),
        "device": _device(trainer),
        "task_facts": task_facts(spec),
    }


def _encoder(module: FinetuneModule) -> dict[str, Any]:
    assert module.source is not None
    encoder = module.classifier.encoder
    return {
        "path": module.encoder_path,
        "kind": encoder.config.kind,
        "name": module.source.name,
        "num_parameters": sum(parameter.numel() for parameter in encoder.parameters()),
        "random_init": module.random_init,
        "digest": module.source.digest,
    }


def _settings(trainer: Trainer, module: FinetuneModule, seed: int) -> dict[str, Any]:
    optimizer, datamodule = module.optimizer_config, module.datamodule
    return {
        "lr": optimizer.lr,
        "batch_size": datamodule.global_batch_size,
        "epochs": trainer.max_epochs,
        "max_len": datamodule.max_len,
        "seed": seed,
        "fold": datamodule.fold,
        "repeat": datamodule.repeat,
        "warmup_share": optimizer.warmup_share,
        "weight_decay": optimizer.weight_decay,
        "schedule": optimizer.schedule,
        "precision": str(trainer.precision),
        "max_train_rows": datamodule.max_train_rows,
        "max_eval_rows": datamodule.max_eval_rows,
        "positions": module.positions,
        "segments": module.spec.segments,
        "dropout_prob": module.dropout_prob,
        "gradient_clip": trainer.gradient_clip_val or 0.0,  # 0: the gradient is not clipped
        "class_weights": module.class_weights,
    }


def _versions() -> dict[str, str]:
    return {
        "torch": torch.__version__,
        "pytorch_lightning": version("pytorch-lightning"),
        "ponet": ponet.__version__,
        "python": platform.python_version(),
    }


def _device(trainer: Trainer) -> str:
    device = trainer.strategy.root_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def fit_lines(result: dict[str, Any], folder: Path) -> list[str]:
    """Return what is printed at the end of a fit."""
    settings, encoder = result["settings"], result["encoder"]
    start = "random initialisation" if encoder["random_init"] else encoder["path"]
    lines = [""]
    data = result["data"]
    best = {f"baseline (always {data['best_constant_answer']})": data["best_constant"]}
    constants = {
        "baseline (majority)": result["majority"],
        **(best if data["best_constant"] else {}),
    }
    for split in result["evaluation"] or result["majority"]:
        lines += _table(
            split, {_best_epoch(result): result["evaluation"], **constants}, data["f1_label"]
        )
        lines += _class_lines(result["evaluation"].get(split, {}), data["splits"][split]["labels"])
    lines.append(
        f"one run, seed {settings['seed']}, from {start}; the epoch was chosen on validation by "
        f"{' + '.join(metric_title(m, data['f1_label']) for m in result['score'])}, so that score "
        "flatters a little"
    )
    if is_best_at_the_end(result):
        lines.append(
            "the last epoch is the best one: more of them (--trainer.max_epochs), or a greater "
            "--model.optimizer.lr, may score higher"
        )
    lines += _warnings(result, constants)
    if result["diverged"]:
        lines.append(f"diverged: {result['reason']}")
    return [*lines, f"run: {folder}"]


def _best_epoch(result: dict[str, Any]) -> str:
    epochs = result["settings"]["epochs"]
    of_all = f" of {epochs}" if epochs > 0 else f", step {result['best_step']}"
    return f"epoch {result['best_epoch']}{of_all}"


def is_best_at_the_end(result: dict[str, Any]) -> bool:
    """Whether the last validation was the best one, and a better one is possible."""
    score = next((v["score"] for v in result["evaluation"].values()), math.inf)
    is_last = 0 < result["best_step"] == result["total_steps"]
    return bool(is_last and not result["diverged"] and score < 1)


def add_evaluation(folder: Path, module: FinetuneModule, command: str) -> Path:
    """Add what `validate` or `test` found to a file of its own in the run's folder; its path."""
    splits = module.datamodule.loaded.splits
    record = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "data": {split: splits[split].source for split in module.evaluation},
        "max_len": module.datamodule.max_len,
        "evaluation": module.evaluation,
    }
    path = folder / EVALUATIONS_FILE
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return path


def evaluation_lines(
    spec: TaskSpec, evaluation: Scores, constants: Mapping[str, Scores]
) -> list[str]:
    """Return what is printed by `validate` and `test`.

    Args:
        spec: The task.
        evaluation: Split -> its scores.
        constants: Name of a constant answer -> split -> its scores.
    """
    lines: list[str] = []
    for split, values in evaluation.items():
        lines += _table(split, {spec.title: evaluation, **constants}, spec.f1_label)
        lines += _class_lines(values, dict.fromkeys(spec.labels))
    return lines


def trained_constants(path: Path, task: LoadedTask) -> dict[str, Scores]:
    """Return what the constant answers of the run's training rows score on other rows.

    Args:
        path: The run's result.json; where there is none, as after an interrupted fit, nothing is
            returned.
        task: The rows, without training rows of their own.
    """
    if not path.is_file():
        return {}
    data = read_result(path)["data"]
    train, best = data["splits"]["train"], data["best_constant_answer"]
    counts = list(train["labels"].values())
    majority = counts.index(max(counts)) if counts else train["target_mean"]
    constants: dict[str, Scores] = {"baseline (majority)": constant_metrics(task, float(majority))}
    if best:
        place = [repr(label) for label in task.spec.labels].index(best)
        constants[f"baseline (always {best})"] = constant_metrics(task, float(place))
    return constants


def _warnings(result: dict[str, Any], constants: Mapping[str, Scores]) -> list[str]:
    """Say where the best epoch is no better than a constant answer."""
    lines = []
    metric = "r2" if result["kind"] == "regression" else "score"
    for split, values in result["evaluation"].items():
        best = max((c[split].get(metric, -math.inf) for c in constants.values() if split in c),
                   default=-math.inf)  # fmt: skip
        if values.get(metric, math.inf) <= best:
            lines.append(f"WARNING: on {split} this is no better than a constant answer")
    return lines


def _class_lines(values: Mapping[str, float], labels: Mapping[str, Any]) -> list[str]:
    """Return precision, recall and F1 of each class, where they were computed."""
    names = ("precision", "recall", "f1")
    if any(f"{name}/{label}" not in values for label in labels for name in names):
        return []
    width = max([30, *map(len, labels)])
    heading = f"  {'class':<{width}}" + "".join(f"{name:>11}" for name in names)
    rows = [
        f"  {label:<{width}}"
        + "".join(f" {value_text(values[f'{name}/{label}']):>10}" for name in names)
        + ("" if count is None else f"   {count:,} rows")
        for label, count in labels.items()
    ]
    return [heading, *rows] if rows else []


def _table(split: str, found: Mapping[str, Scores], f1_label: str) -> list[str]:
    known = [scores[split] for scores in found.values() if split in scores]
    names = [name for name in known[0] if name != "num_rows" and not is_of_one_class(name)]
    counts = [scores["num_rows"] for scores in known if "num_rows" in scores]
    heading = f"{split}, {counts[0]:,} rows" if counts else split
    table = [[metric_title(name, f1_label) for name in names]]
    table += [["" if n not in row else value_text(row[n]) for n in names] for row in known]
    widths = [max(10, *(len(cells[place]) for cells in table)) for place in range(len(names))]
    titles = [heading, *(f"  {name}" for name, scores in found.items() if split in scores)]
    return [
        f"{title:<34}" + "".join(f" {c:>{w}}" for c, w in zip(cells, widths, strict=True)).rstrip()
        for title, cells in zip(titles, table, strict=True)
    ]
