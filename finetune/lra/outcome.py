"""result.json of a run on Long Range Arena, in the form of every fine-tuning result."""

from typing import TYPE_CHECKING, Any

from pytorch_lightning import Trainer

from finetune.lra.facts import task_part
from finetune.lra.module import LraModule
from finetune.outcome import trained_part

if TYPE_CHECKING:
    from finetune.callbacks import BestClassifier


def lra_result(
    trainer: Trainer, module: LraModule, best: "BestClassifier", *, seed: int, elapsed_s: float
) -> dict[str, Any]:
    """Return the content of result.json.

    Args:
        trainer: After the fit.
        module: Holds the test scores of the best classifier, where there are any.
        best: Which validation was the best.
        seed: Seed of the run.
        elapsed_s: Wall time from the start of the command.
    """
    data = module.datamodule
    pretraining = {"steps": module.self_pretrain_steps, "loss": module.pretrain_loss}
    if module.self_pretrain_steps:
        pretraining["frequency_loss"] = data.frequency_loss
    return {
        **task_part(data.spec, data.inspection),
        **trained_part(trainer, module, best, elapsed_s),
        "encoder": encoder_part(module),
        "settings": _settings(trainer, module, seed),
        "best_step": max(0, best.step - module.self_pretrain_steps),
        "total_steps": max(0, best.total_steps - module.self_pretrain_steps),
        "data": {**data.inspection, "self_pretraining": pretraining},
    }


def encoder_part(module: LraModule) -> dict[str, Any]:
    """Return what a result says of its encoder; self-pretraining makes it another one."""
    steps, encoder = module.self_pretrain_steps, module.classifier.encoder
    name = module.file.name + (f" + {steps:,} steps of self-pretraining" if steps else "")
    return {
        "path": str(module.file.path) + (", pretrained on its own inputs" if steps else ""),
        "kind": getattr(getattr(encoder, "config", None), "kind", module.file.class_path),
        "name": name,
        "num_parameters": sum(parameter.numel() for parameter in module.classifier.parameters()),
        "random_init": not steps,
        "digest": ("own inputs: " if steps else "") + module.file.digest,
    }


def _settings(trainer: Trainer, module: LraModule, seed: int) -> dict[str, Any]:
    optimizer, data = module.optimizer_config, module.datamodule
    steps, cut = trainer.max_steps - module.self_pretrain_steps, data.cut_padding
    config = getattr(module.classifier.encoder, "config", None)
    return {
        "lr": optimizer.lr,
        "batch_size": data.spec.batch_size,
        "epochs": round(steps * data.spec.batch_size / data.counts()["train"], 2),
        "max_len": data.spec.length,
        "seed": seed,
        "fold": 0,
        "repeat": 0,
        "warmup_share": optimizer.warmup_share,
        "weight_decay": optimizer.weight_decay,
        "schedule": "one cycle" + (", beta1 too" if data.mode == "published" else ""),
        "precision": str(trainer.precision),
        "max_train_rows": data.max_train_rows,
        "max_eval_rows": data.max_eval_rows,
        "positions": "learned" if cut else "learned, nothing cut",
        "segments": data.inspection["segments"],
        "dropout_prob": getattr(config, "dropout_prob", "of its own"),
        "gradient_clip": trainer.gradient_clip_val or 0.0,
        "class_weights": "none",
        "targets": "both",
        "languages": "",
        "decoder": "independent",
        "thresholds": "one",
        "freeze": 0,
    }


def data_notes(module: LraModule) -> list[str]:
    """Return lines on mode and data, for the start of a run."""
    data = module.datamodule
    notes = [f"{data.spec.title}: mode {data.mode}, {data.inspection['kind']} data"]
    if module.self_pretrain_steps:
        notes.append(
            f"self-pretraining hides {data.spec.mask_share:.0%} of the tokens; guessing them by "
            f"their frequencies alone loses {data.frequency_loss:.3f} nats"
        )
    return notes
