"""What Weights & Biases gets of a fine-tuning run besides metrics: its lineage and its result."""

import logging
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from finetune.artifact import EncoderSource
from finetune.module import FinetuneModule
from finetune.run_config import RESULT_FILE, RunConfig
from training.run_config import BUNDLE_FOLDER
from training.tracking import TrackingRecord, result_rows
from training.wandb_run import (
    add_config,
    log_files,
    log_table,
    tracked_run,
    use_artifact,
)

_LOGGER = logging.getLogger(__name__)


class WandbLineage(Callback):
    """Tells W&B which encoder a run starts from: the bundle's artifact, where one was logged.

    `lineage.*` of the configuration holds the encoder's name and digest, the artifact and the W&B
    run it is from, and what kept W&B itself from noting the use (offline it never does).
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note it on the first rank."""
        run = tracked_run(trainer)
        assert isinstance(pl_module, FinetuneModule)
        if run is None or pl_module.source is None:
            return
        values = encoder_lineage(pl_module.source)
        artifact = values.get("lineage.encoder_artifact")
        if artifact:
            missing = use_artifact(run, artifact)
            values |= {"lineage.not_noted": missing} if missing else {}
            if missing and not run.offline:
                _LOGGER.warning("%s is not noted as used by this run: %s", artifact, missing)
        add_config(run, values)
        count = sum(p.numel() for p in pl_module.parameters())
        run.summary.update({"model/num_parameters": count})


def encoder_lineage(source: EncoderSource) -> dict[str, str]:
    """Return the `lineage.*` settings of an encoder.

    The record of the run beside the bundle counts only where it is of these very weights.
    """
    values = {"lineage.encoder": source.name, "lineage.encoder_sha256": source.digest}
    folder = source.tokenizer_json.parent
    logged = TrackingRecord.load(folder.parent if folder.name == BUNDLE_FOLDER else folder).bundle
    if logged.get("sha256") == source.digest:
        values |= {
            "lineage.encoder_artifact": logged["artifact"],
            "lineage.encoder_run": logged["run"],
        }
    return values


def record_result(trainer: Trainer, run_config: RunConfig, result: dict[str, Any]) -> None:
    """Give W&B what stands in result.json, as summary, as table, and as an artifact if wanted."""
    if run_config.wandb == "off":
        return
    run = tracked_run(trainer)
    columns, rows = result_rows(result)
    best = {f"best/{row[1]}/{row[3]}": row[4] for row in rows}
    keys = ("best_epoch", "best_step", "total_steps", "diverged", "reason", "elapsed_s")
    run.summary.update({**best, **{key: result[key] for key in keys}})
    log_table(run, "result", columns, rows, step=result["total_steps"])
    if run_config.wandb_artifacts:
        _log_result(run, run_config.folder / RESULT_FILE, result)


def _log_result(run: Any, path: Path, result: dict[str, Any]) -> None:
    encoder, settings = result["encoder"], result["settings"]
    metadata = {
        "task": result["task"],
        "evaluation": result["evaluation"],
        "encoder_sha256": encoder["digest"],
        "seed": settings["seed"],
    }
    log_files(
        run,
        [path],
        name=f"result-{run.id}",
        type="result",
        metadata=metadata,
        alias=str(result["task"]),
        copied=True,
    )
