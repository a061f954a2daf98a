"""What Weights & Biases gets of a pretraining run besides metrics: summary, media, artifacts."""

import json
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from data_prep.manifest import MANIFEST_NAME, file_sha256
from pretrain.example_predictions import example_predictions
from training.metrics_file import read_metrics
from training.run_config import BUNDLE_FOLDER, CURVES_FILE, METRICS_FILE
from training.tracking import PREDICTION_COLUMNS, TrackingRecord, best_values
from training.wandb_run import (
    add_config,
    log_files,
    log_image,
    log_table,
    tracked_run,
)

_ALIAS_LEN = 12


class WandbRecords(Callback):
    """Best validation values at every validation; curves, predictions and artifacts at the end.

    The best values are those of metrics.jsonl, so they are the whole run's also where W&B was
    begun anew by an offline resume. The example predictions are those of the written bundle.

    Args:
        folder: The run's folder.
        artifacts: Whether W&B gets the bundle and the manifest of the data.
    """

    def __init__(self, folder: Path, *, artifacts: bool) -> None:
        self.folder = folder
        self.artifacts = artifacts

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what is known beforehand: the model's size and the data."""
        run = tracked_run(trainer)
        if run is None:
            return
        # DeepSpeed leaves an empty tensor where a parameter is on other ranks.
        sizes = (getattr(p, "ds_numel", p.numel()) for p in pl_module.parameters())
        run.summary.update({"model/num_parameters": sum(sizes)})
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        add_config(run, {"lineage.data_digest": datamodule.data_digest})
        self._summarize(run, trainer)  # a run that goes on has values already
        if self.artifacts:
            self._log_data(run, datamodule)

    def _log_data(self, run: Any, datamodule: Any) -> None:
        digest = datamodule.data_digest
        manifest = datamodule.tokenizer_path.parent / MANIFEST_NAME
        splits = json.loads(manifest.read_text(encoding="utf-8"))["splits"]
        name = log_files(
            run,
            [manifest],
            name=f"shards-{digest[:_ALIAS_LEN]}",
            type="dataset",
            metadata={"digest": digest, "splits": splits, "holds": "the manifest, not the data"},
            alias=digest[:_ALIAS_LEN],
            copied=True,
            is_input=True,
        )
        add_config(run, {"lineage.data_artifact": name})

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the summary's best values."""
        run = tracked_run(trainer)
        if run is not None and not trainer.sanity_checking:
            self._summarize(run, trainer)

    def _summarize(self, run: Any, trainer: Trainer) -> None:
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        counts = datamodule.plan_counts()
        samples = trainer.global_step * datamodule.global_batch_size
        tokens_per_sample = counts["tokens_total"] * counts["coverage"] / counts["examples"]
        metrics = self.folder / METRICS_FILE
        values = best_values(read_metrics(metrics)) if metrics.exists() else {}
        # Estimated: the mean over the first epoch's examples, special tokens aside.
        seen = {"samples_seen": samples, "tokens_seen": round(samples * tokens_per_sample)}
        run.summary.update({**values, **{f"data/{key}": value for key, value in seen.items()}})

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what the run has become; the bundle and the curves are written by now."""
        run = tracked_run(trainer)
        if run is None:
            return
        self._summarize(run, trainer)
        step, bundle = trainer.global_step, self.folder / BUNDLE_FOLDER
        log_image(run, "curves", self.folder / CURVES_FILE, step=step)
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        rows = example_predictions(bundle, datamodule.evaluation_dataset())
        log_table(run, "predictions", PREDICTION_COLUMNS, rows, step=step)
        if self.artifacts:
            self._log_bundle(run, bundle)

    def _log_bundle(self, run: Any, bundle: Path) -> None:
        digest = file_sha256(bundle / "model.safetensors")
        config = json.loads((bundle / "config.json").read_text(encoding="utf-8"))
        name = log_files(
            run,
            sorted(path for path in bundle.iterdir() if path.is_file()),
            name=f"bundle-{run.id}",
            type="model",
            metadata={**config, "sha256": digest, "run": run.name},
            alias=f"sha256-{digest[:_ALIAS_LEN]}",
            copied=False,
        )
        record = TrackingRecord.load(self.folder)
        record.bundle = {"artifact": name, "run": run.id, "sha256": digest}
        record.save(self.folder)
