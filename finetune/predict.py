"""`predict`: new rows -> labels and probabilities, a batch at a time. B batch, C labels."""

import itertools
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.artifact import LoadedClassifier, load_classifier
from finetune.config import PredictConfig
from finetune.tables import Columns, TextRow, read_examples


def run_predict(config: PredictConfig) -> Path:
    """Write one JSON line per input row and return the file, which appears when it is complete.

    Raises:
        ValueError: A damaged classifier or row; names the place.
    """
    classifier = load_classifier(config.model)
    columns = Columns(text=classifier.info.text, text_pair=classifier.info.text_pair)
    if config.text:
        columns = replace(columns, text=config.text)
    if config.text_pair:
        if not columns.text_pair:
            raise ValueError(f"{config.model} labels single texts; leave out --text_pair")
        columns = replace(columns, text_pair=config.text_pair)
    output = Path(config.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    handle, staging = tempfile.mkstemp(prefix=f".{output.name}.", dir=output.parent)
    num_rows = 0
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            rows = read_examples(config.input, columns)
            for row in predictions(classifier, rows, path=config.input, size=config.batch_size):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                num_rows += 1
        os.chmod(staging, 0o644)
        os.replace(staging, output)
    finally:
        Path(staging).unlink(missing_ok=True)
    print(f"{num_rows:,} rows: {output}")
    return output


@torch.inference_mode()
def _probabilities(
    classifier: LoadedClassifier, rows: list[TextRow], path: str
) -> list[list[float]]:
    device = next(classifier.model.parameters()).device
    batch = classifier.encoder.batch(classifier.encoder.encode(rows, path)).to(device)
    logits_BC: Tensor = classifier.model(batch)
    probabilities: list[list[float]] = logits_BC.float().softmax(-1).tolist()
    return probabilities


def predictions(
    classifier: LoadedClassifier, rows: Iterator[TextRow], *, path: str, size: int
) -> Iterator[dict[str, Any]]:
    """Yield `{"line", "label", "probabilities": {label: probability}}` for each row, in order.

    Args:
        classifier: Model, tokenizer and labels.
        rows: Examples of one file; read only as far as needed.
        path: Their file, for messages.
        size: Rows computed at once, >= 1.
    """
    classifier.model.to("cuda" if torch.cuda.is_available() else "cpu")
    labels = classifier.info.labels
    while chunk := list(itertools.islice(rows, size)):
        for row, values in zip(chunk, _probabilities(classifier, chunk, path), strict=True):
            label, _ = max(zip(labels, values, strict=True), key=lambda pair: pair[1])
            probabilities = dict(zip(labels, values, strict=True))
            yield {"line": row.line, "label": label, "probabilities": probabilities}
