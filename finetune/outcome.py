"""What a run found: its result.json, and the table a user reads."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from data_prep.command import counted
from finetune.data.inspection import constant_metrics
from finetune.metrics import OF_ONE_CLASS, is_of_one_class, metric_title, value_text
from finetune.tasks.registry import task_facts
from finetune.tasks.spec import LoadedTask
from training.result import FORMAT_VERSION, read_result
from training.run_config import EVALUATIONS_FILE
from training.run_folder import append_record, versions

if TYPE_CHECKING:  # tables need no Lightning
    from pytorch_lightning import Trainer

    from finetune.callbacks import BestClassifier
    from finetune.fit_module import FitModule
    from finetune.module import FinetuneModule

Scores = Mapping[str, Mapping[str, float]]


def fit_result(
    trainer: "Trainer",
    module: "FinetuneModule",
    best: "BestClassifier",
    *,
    seed: int,
    elapsed_s: float,
) -> dict[str, Any]:
    """Return the content of result.json.

    Args:
        trainer: After the fit.
        module: Holds the test scores of the best classifier, where there are any.
        best: Which epoch was the best.
        seed: Seed of the run.
        elapsed_s: Wall time from the start of the command.
    """
    spec, inspection = module.spec, module.datamodule.inspection
    return {
        **trained_part(trainer, module, best, elapsed_s),
        "format_version": FORMAT_VERSION,
        "task": spec.name,
        "title": spec.title,
        "kind": spec.kind,
        "encoder": _encoder(module),
        "settings": _settings(trainer, module, seed),
        "score": list(spec.score),
        "best_step": best.step,
        "total_steps": best.total_steps,
        "majority": inspection["majority"],
        "data": inspection,
        "versions": {name.replace("-", "_"): number for name, number in versions().items()},
        "task_facts": task_facts(spec),
    }


def trained_part(
    trainer: "Trainer", module: "FitModule", best: "BestClassifier", elapsed_s: float
) -> dict[str, Any]:
    """Return what result.json says of any training with a best epoch; see `fit_result`."""
    tested = {k: v for k, v in module.evaluation.items() if k.startswith("test")}
    device = trainer.strategy.root_device
    return {
        "best_epoch": best.epoch,
        "evaluation": {**best.evaluation, **tested},
        "diverged": bool(module.diverged),
        "reason": module.diverged,
        "elapsed_s": round(elapsed_s, 3),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def _encoder(module: "FinetuneModule") -> dict[str, Any]:
    assert module.source is not None
    encoder, pairs = module.classifier.encoder, getattr(module.classifier, "pairs", None)
    start = "" if module.pairs.start == "counts" else ", from 0"
    counted = [*encoder.parameters(), *(pairs.parameters() if pairs else ())]
    return {
        "path": module.encoder_path,
        "kind": encoder.config.kind,
        "name": module.source.name + (f" + pairs{start}" if module.pairs.rows else ""),
        "num_parameters": sum(parameter.numel() for parameter in counted),
        "random_init": module.random_init,
        "digest": module.source.digest,
    }


def _settings(trainer: "Trainer", module: "FinetuneModule", seed: int) -> dict[str, Any]:
    optimizer, datamodule = module.optimizer_config, module.datamodule
    return {
        "lr": optimizer.lr,
        "batch_size": datamodule.global_batch_size,
        "epochs": planned_epochs(trainer),
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
        "segments": datamodule.segment_rule,
        "dropout_prob": module.dropout_prob,
        "gradient_clip": trainer.gradient_clip_val or 0.0,  # 0: the gradient is not clipped
        "class_weights": module.class_weights,
        "targets": datamodule.targets,
        "languages": datamodule.languages,
        "decoder": module.decoder,
        "thresholds": module.how_thresholds,
        "freeze": module.frozen,
    }


def planned_epochs(trainer: "Trainer") -> float:
    """Return the epochs that a fit was to have: a share where it ends by steps before."""
    per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
    steps, epochs = trainer.max_steps, trainer.max_epochs or 0
    if steps > 0 and not 0 < per_epoch * epochs <= steps:
        return round(steps / per_epoch, 2)
    return epochs


def fit_lines(result: dict[str, Any], folder: Path) -> list[str]:
    """Return what is printed at the end of a fit."""
    settings, encoder, data = result["settings"], result["encoder"], result["data"]
    start = "random initialisation" if encoder["random_init"] else encoder["path"]
    start += f" with model.freeze {settings['freeze']}" if settings["freeze"] else ""
    constants = constants_of(result)
    epochs, last = settings["epochs"], result["total_steps"]
    by_epochs = isinstance(epochs, int)  # a fit by steps has a share of them
    of_all = f" of {epochs}" if by_epochs else f", step {result['best_step']}"
    found = {f"epoch {result['best_epoch']}{of_all}": result["evaluation"], **constants}
    unit, lines = "sentence(s)" if result["kind"] == "sentences" else "row(s)", [""]
    for split in result["evaluation"] or result["majority"]:
        labels = data["splits"][split]["labels"]
        lines += _split_lines(split, found, data["f1_label"], labels, unit=unit)
    lines.append(
        f"one run, {_repetition(result)}, from {start}; the epoch was chosen on validation by "
        f"{' + '.join(metric_title(m, data['f1_label']) for m in result['score'])}, so that score "
        "flatters a little"
    )
    score = next((values["score"] for values in result["evaluation"].values()), math.inf)
    is_cut = by_epochs and result["best_epoch"] < epochs  # by early stopping, say
    if 0 < result["best_step"] == last and not (result["diverged"] or is_cut) and score < 1:
        lines.append(
            f"the last epoch is the best one: more of them (--trainer.max_"
            f"{'epochs' if by_epochs else 'steps'}), or a greater --model.optimizer.lr, may score "
            "higher"
        )
    metric = "r2" if result["kind"] == "regression" else "score"
    for split, values in result["evaluation"].items():
        levels = [
            each[split].get(metric, -math.inf) for each in constants.values() if split in each
        ]
        if values.get(metric, math.inf) <= max(levels, default=-math.inf):
            lines.append(f"WARNING: on {split} this is no better than a constant answer")
    if result["diverged"]:
        lines.append(f"diverged: {result['reason']}")
    return [*lines, f"run: {folder}"]


def _repetition(result: Mapping[str, Any]) -> str:
    """Which of several runs of one setting it is, in words."""
    settings, num_folds = result["settings"], result["task_facts"]["num_folds"]
    fold = f", fold {settings['fold']} of {num_folds}, repeat {settings['repeat']}"
    return f"seed {settings['seed']}" + fold * bool(num_folds)


def add_evaluation(folder: Path, module: "FinetuneModule", command: str) -> Path:
    """Add what `validate` or `test` found to a file of its own in the run's folder; its path."""
    splits = module.datamodule.loaded.splits
    record = {
        "command": command,
        "classifier": str(module.trained),
        "data": {split: splits[split].source for split in module.evaluation},
        "max_len": module.datamodule.max_len,
        "evaluation": module.evaluation,
    }
    path = folder / EVALUATIONS_FILE
    append_record(path, record)
    return path


def evaluation_lines(
    title: str,
    evaluation: Scores,
    constants: Mapping[str, Scores],
    *,
    classes: Sequence[str],
    f1_label: str,
) -> list[str]:
    """Return what is printed by `validate`, `test` and `baseline`.

    Args:
        title: Of the first row: the task, or what answered it.
        evaluation: Split -> its scores.
        constants: Name of a constant answer -> split -> its scores.
        classes: Of the task.
        f1_label: Which class F1 is of.
    """
    found, labels = {title: evaluation, **constants}, dict.fromkeys(classes)
    return [line for s in evaluation for line in _split_lines(s, found, f1_label, labels)]


def constants_of(result: Mapping[str, Any]) -> dict[str, Scores]:
    """Return what the constant answers of a result score: name -> split -> scores."""
    data, found = result["data"], {"baseline (majority)": result["majority"]}
    if data["best_constant"]:
        found[f"baseline (always {data['best_constant_answer']})"] = data["best_constant"]
    return found


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
    majority = counts.index(max(counts)) if counts else train["target_mean"] or 0.0
    constants: dict[str, Scores] = {"baseline (majority)": constant_metrics(task, float(majority))}
    if best:
        names = [repr(label) for label in task.spec.classes]
        order = sorted(range(len(counts)), key=lambda place: -counts[place])
        some = {
            " and ".join(names[place] for place in order[:number]): tuple(order[:number])
            for number in range(2, len(order) + 1 if task.spec.is_multilabel else 0)
        }
        answer = some[best] if best in some else float(names.index(best))
        constants[f"baseline (always {best})"] = constant_metrics(task, answer)
    return constants


def _split_lines(
    split: str,
    found: Mapping[str, Scores],
    f1_label: str,
    labels: Mapping[str, Any],
    *,
    unit: str = "row(s)",
) -> list[str]:
    """Return a table of a split's scores, and below it what there is of languages or classes.

    Args:
        split: Whose.
        found: Row -> split -> its scores; those of the first row have classes.
        f1_label: Which class F1 is of.
        labels: Class -> rows that have it, where they are known.
        unit: What these are.
    """
    known = {title: scores[split] for title, scores in found.items() if split in scores}
    first = next(iter(known.values()))
    names = [name for name in first if name != "num_rows" and not is_of_one_class(name)]
    counts = [values["num_rows"] for values in known.values() if "num_rows" in values]
    heading = f"{split}, {counted(counts[0], 'row(s)')}" if counts else split
    rows = {heading: [metric_title(name, f1_label) for name in names]}
    for title, values in known.items():
        cells = [value_text(values[n]) if n in values else "" for n in names]
        rows[f"  {title}"] = cells
    lines = _aligned(rows, first=34)
    own = next(iter(found.values())).get(split, {})
    if languages := sorted({name.partition("/")[2] for name in own if name[:8] == "slot_em/"}):
        names = [name for name in names if f"{name}/{languages[0]}" in own]
        parts = {"  language": names}
        for language in languages:
            parts[f"  {language}"] = [value_text(own[f"{name}/{language}"]) for name in names]
        return [*lines, *_aligned(parts, first=34)]
    if not labels or any(f"{name}/{label}" not in own for label in labels for name in OF_ONE_CLASS):
        return lines
    classes = {"  class": list(OF_ONE_CLASS)}
    for label in labels:
        classes[f"  {label}"] = [value_text(own[f"{name}/{label}"]) for name in OF_ONE_CLASS]
    below = _aligned(classes, first=2 + max([30, *map(len, labels)]))
    ends = [
        "",
        *("" if count is None else f"   {counted(count, unit)}" for count in labels.values()),
    ]
    return [*lines, *(line + end for line, end in zip(below, ends, strict=True))]


def _aligned(rows: Mapping[str, Sequence[str]], *, first: int) -> list[str]:
    """Return rows of a table: titles from the left in `first` columns, cells from the right."""
    widths = [max(10, *map(len, column)) for column in zip(*rows.values(), strict=True)]
    return [
        f"{title:<{first}}"
        + "".join(f" {cell:>{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()
        for title, cells in rows.items()
    ]
