"""`predict`: what the model says at every masked position, one JSON line per example."""

import json
import os
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import BasePredictionWriter
from tokenizers import Tokenizer

from data_prep.files import TEMPORARY
from pretrain.objectives import IGNORED_LABEL
from training.run_config import PREDICTIONS_FILE


class PredictionsFile(BasePredictionWriter):
    """Write predictions to `<folder>/predictions-rank<r>.jsonl`, with tokens in words.

    The file gets its name when all are written; until then that of an earlier `predict` stays.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(write_interval="batch")
        self.folder = Path(folder)
        self._file: Any = None
        self._path = self.folder
        self._tokenizer: Any = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the file anew."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / PREDICTIONS_FILE.format(rank=trainer.global_rank)
        self._path, temporary = path, path.with_name(path.name + TEMPORARY)
        self._file = temporary.open("w", encoding="utf-8")
        self._tokenizer = Tokenizer.from_file(
            str(trainer.datamodule.tokenizer_path)  # type: ignore[attr-defined]
        )

    def write_on_batch_end(  # noqa: PLR0913, PLR0917 (Lightning's signature)
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
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

    def _words(self, ids: Any) -> list[str]:
        return [self._tokenizer.id_to_token(i) for i in ids.tolist()]

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the file and say where it is."""
        self._file.close()
        os.replace(self._file.name, self._path)
        print(f"predictions: {self._path}")
