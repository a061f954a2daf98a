"""What a pretraining run leaves besides metrics: predictions in words, and what W&B is given."""

import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import BasePredictionWriter
from tokenizers import Tokenizer

from data_prep.files import TEMPORARY, write_json
from data_prep.manifest import MANIFEST_NAME, file_sha256
from ponet import load_bundle
from pretrain.batches import PretrainDataset, encoder_batch
from pretrain.needles import NUM_ANSWERS, NeedleScores
from pretrain.objectives import IGNORED_LABEL
from training.metrics_file import read_metrics
from training.run_config import (
    BUNDLE_FOLDER,
    CURVES_FILE,
    METRICS_FILE,
    NEEDLES_FILE,
    PREDICTIONS_FILE,
)
from training.tracking import (
    STEP_KEY,
    TrackingRecord,
    add_config,
    best_values,
    log_files,
    log_table,
    tracked_run,
)

_ALIAS_LEN = 12
PREDICTION_COLUMNS = (
    *("example", "position", "context", "truth", "p of truth"),
    *(name for place in (1, 2, 3) for name in (f"guess {place}", f"p {place}")),
)


class PredictionsFile(BasePredictionWriter):
    """`predict`: what the model says at every masked position, one JSON line per example.

    They go to `<folder>/predictions-rank<r>.jsonl`, with tokens in words. The file gets its name
    when all are written; until then that of an earlier `predict` stays.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(write_interval="batch")
        self.folder = Path(folder)
        self._path = self.folder
        self._file: Any = None
        self._tokenizer: Any = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the file anew."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._path = self.folder / PREDICTIONS_FILE.format(rank=trainer.global_rank)
        temporary = self._path.with_name(self._path.name + TEMPORARY)
        self._file = temporary.open("w", encoding="utf-8")
        self._tokenizer = Tokenizer.from_file(
            str(trainer.datamodule.tokenizer_path)  # type: ignore[attr-defined]
        )

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Write one line per example of the batch."""
        for row, example in enumerate(prediction["example_ids"].tolist()):
            labels = prediction["labels"][row]
            used = labels != IGNORED_LABEL
            record = {
                "example_id": example,
                "labels": self._words(labels[used]),
                "predictions": self._words(prediction["predictions"][row][used]),
                "confidence": [round(c, 4) for c in prediction["confidence"][row][used].tolist()],
            }
            if "pair_labels" in prediction:
                record["pair_label"] = int(prediction["pair_labels"][row])
                probabilities = prediction["pair_probabilities"][row].tolist()
                record["pair_probabilities"] = [round(p, 4) for p in probabilities]
            self._file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def _words(self, ids: torch.Tensor) -> list[str]:
        return [self._tokenizer.id_to_token(i) for i in ids.tolist()]

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the file and say where it is."""
        self._file.close()
        os.replace(self._file.name, self._path)
        _drop_other_ranks(self._path, trainer)
        print(f"predictions: {self._path}")


class NeedlesFile(BasePredictionWriter):
    """`predict` where facts are asked for: how many answers are right, by the facts' distance.

    Goes to `<folder>/needles-rank<r>.json`, and is printed.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(write_interval="batch")
        self.folder = Path(folder)
        self._scores = NeedleScores()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew."""
        self._scores = NeedleScores()

    def write_on_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, prediction: Any,
        batch_indices: Sequence[int] | None, batch: Any, *_: Any,
    ) -> None:  # fmt: skip
        """Count the answers of the batch."""
        if trainer.datamodule.needles.facts:  # type: ignore[attr-defined]
            self._scores.add(batch, prediction["labels"], prediction["predictions"])

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write and print the table."""
        rows = self._scores.rows()
        if not rows:
            return
        needles = trainer.datamodule.needles  # type: ignore[attr-defined]
        content = {"needles": asdict(needles), "chance": 1 / NUM_ANSWERS, "rows": rows}
        path = self.folder / NEEDLES_FILE.format(rank=trainer.global_rank)
        write_json(path, content)
        _drop_other_ranks(path, trainer)
        print(
            f"{'tokens to the fact':>18}{'questions':>11}{'right':>8}{'fact in sight':>15}"
            f"{'any answer in sight':>21}{'most frequent':>15}"
        )
        for number, row in enumerate(rows, start=1):
            place = "all" if number == len(rows) else f"to {row['distance']:,.0f}"
            print(
                f"{place:>18}{row['questions']:11,.0f}{row['accuracy']:8.1%}"
                f"{row['visible']:15.1%}{row['anywhere']:21.1%}{row['majority']:15.1%}"
            )
        print(f"a guess among all {NUM_ANSWERS} answers: {1 / NUM_ANSWERS:.1%}; written to {path}")


def _drop_other_ranks(path: Path, trainer: Trainer) -> None:
    """Remove what ranks wrote that took part in an earlier `predict`, but not in this one."""
    mine = f"rank{trainer.global_rank}"
    for rank in itertools.count(trainer.world_size) if trainer.is_global_zero else ():
        other = path.with_name(path.name.replace(mine, f"rank{rank}"))
        if not other.exists():
            return
        other.unlink()


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
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        add_config(run, {"lineage.data_digest": datamodule.data_digest})
        self._summarize(run, trainer)  # a run that goes on has values already
        if self.artifacts:
            manifest = datamodule.tokenizer_path.parent / MANIFEST_NAME
            name = _log_data(run, manifest, datamodule.data_digest)
            add_config(run, {"lineage.data_artifact": name})

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the summary's best values."""
        run = tracked_run(trainer)
        if run is not None and not trainer.sanity_checking:
            self._summarize(run, trainer)

    def _summarize(self, run: Any, trainer: Trainer) -> None:
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
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
        import wandb

        self._summarize(run, trainer)
        step, bundle = trainer.global_step, self.folder / BUNDLE_FOLDER
        if (self.folder / CURVES_FILE).is_file():
            run.log({"curves": wandb.Image(str(self.folder / CURVES_FILE)), STEP_KEY: step})
        dataset = trainer.datamodule.evaluation_dataset()  # type: ignore[attr-defined]
        rows = example_predictions(bundle, dataset)
        log_table(run, "predictions", PREDICTION_COLUMNS, rows, step=step)
        if self.artifacts:
            record = TrackingRecord.load(self.folder)
            record.bundle = _log_bundle(run, bundle)
            record.save(self.folder)


def _log_data(run: Any, manifest: Path, digest: str) -> str:
    splits = json.loads(manifest.read_text(encoding="utf-8"))["splits"]
    return log_files(
        run,
        [manifest],
        name=f"shards-{digest[:_ALIAS_LEN]}",
        type="dataset",
        metadata={"digest": digest, "splits": splits, "holds": "the manifest, not the data"},
        alias=digest[:_ALIAS_LEN],
        is_input=True,
    )


def _log_bundle(run: Any, bundle: Path) -> dict[str, str]:
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
    return {"artifact": name, "run": run.id, "sha256": digest}


def example_predictions(
    bundle_folder: Path, dataset: PretrainDataset, *, examples: int = 8, per_example: int = 6
) -> list[list[Any]]:
    """Rows with the columns `PREDICTION_COLUMNS`, for the first masked tokens of the examples.

    Runs on the CPU, in float32, on one process, whatever trained the model.

    Args:
        bundle_folder: A bundle with its tokenizer.
        dataset: Validation examples with their fixed masks.
        examples: Examples to take, the first ones; fewer where there are fewer.
        per_example: Masked tokens of each.
    """
    bundle = load_bundle(bundle_folder)
    tokenizer = Tokenizer.from_file(str(bundle.tokenizer_path))
    samples = list(range(min(examples, len(dataset))))
    batch, inputs = dataset.pieces(samples), dataset.__getitems__(samples)
    positions = batch["masked_positions"][:, :per_example]
    with torch.inference_mode():
        output = bundle.model.forward_masked(
            encoder_batch(inputs), inputs["masked_positions"][:, :per_example]
        )
    probabilities = output.mlm_logits.float().softmax(-1)
    rows: list[list[Any]] = []
    for number, sample in enumerate(samples):
        ids = batch["input_ids"][number][batch["mask"][number]].tolist()
        words = [str(tokenizer.id_to_token(i)) for i in ids]
        for slot, label in enumerate(batch["masked_labels"][number, :per_example].tolist()):
            if label == IGNORED_LABEL:
                continue
            position, likely = int(positions[number, slot]), probabilities[number, slot]
            best = zip(*(values.tolist() for values in likely.topk(3)), strict=True)
            guesses = [value for p, i in best for value in (tokenizer.id_to_token(i), p)]
            truth = (tokenizer.id_to_token(label), float(likely[label]))
            rows.append([sample, position, masked_context(words, position), *truth, *guesses])
    return rows


def masked_context(words: Sequence[str], position: int, *, width: int = 8) -> str:
    """Return what the model sees around a position, which is marked with guillemets.

    Args:
        words: Tokens of the example as shown to the model; `##` pieces are joined to what precedes.
        position: Index of the token in question.
        width: Tokens shown on either side.
    """
    first, last = max(0, position - width), min(len(words), position + width + 1)
    shown = "".join(
        f" »{word}«" if place == position else f" {word}".replace(" ##", "")
        for place, word in enumerate(words[first:last], start=first)
    )
    return shown.strip()
