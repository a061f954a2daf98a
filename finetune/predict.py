"""`predict`: new rows -> labels and probabilities, or scores. B batch, C outputs.

Invariant: rows are streamed, some batches at a time, so memory does not grow with the file; the
order of the rows is kept, and what stands in a line does not depend on its neighbours.
"""

import itertools
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.artifact import ClassifierInfo, LoadedClassifier, load_classifier
from finetune.data.encoded_texts import EncodedText
from finetune.options import parse_config
from finetune.tasks.spec import Row
from finetune.tasks.tables import Columns, TextRow, read_examples

BATCHES_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Label new texts with a trained classifier; rows are streamed, the order is kept."""

    model: str
    """Folder of a fine-tuning run, or of its classifier/."""
    input: str
    """Rows with the columns the classifier was trained on, .csv, .tsv or .jsonl, also .gz or .zst;
    labels are not needed."""
    output: str
    """JSONL file to write: line of the input, then label and probabilities, or score."""
    text: str = ""
    """Column of the text; empty: as in training."""
    text_pair: str = ""
    """Column of the second text; empty: as in training."""
    max_len: int = 0
    """Most tokens of an example; longer ones are cut, and more than in training extends the
    positions. 0: as in training."""
    batch_size: int = 64
    """Examples computed at once, >= 1; changes speed and memory, not the result."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; it must be 1 or more")
        if self.max_len and self.max_len < 5:
            raise ValueError(f"max_len is {self.max_len}; a pair needs 5 tokens or more")


def run_predict(arguments: Sequence[str]) -> Path:
    """Write one JSON line per input row and return the file, which appears when it is complete.

    Args:
        arguments: Options of the command line.

    Raises:
        ValueError: A mistake in an option, a damaged classifier or row; names the place.
    """
    config = parse_config(PredictConfig, arguments, command="predict")
    classifier = load_classifier(config.model, max_len=config.max_len)
    columns = _columns(config, classifier.info)
    output = Path(config.output)
    if output.exists() and output.resolve() == Path(config.input).resolve():
        raise ValueError(f"--output {output} is the input itself; give another file")
    output.parent.mkdir(parents=True, exist_ok=True)
    handle, staging = tempfile.mkstemp(prefix=f".{output.name}.", dir=output.parent)
    num_rows = num_cut = 0
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            rows = read_examples(config.input, columns)
            predictor = Predictor(classifier, source=config.input, batch_size=config.batch_size)
            for prediction, is_cut in predictor.stream(rows):
                file.write(json.dumps(prediction, ensure_ascii=False) + "\n")
                num_rows, num_cut = num_rows + 1, num_cut + is_cut
        os.chmod(staging, 0o644)
        os.replace(staging, output)
    finally:
        Path(staging).unlink(missing_ok=True)
    print(f"{num_rows:,} rows: {output}")
    if num_cut:
        limit = classifier.encoder.max_len
        print(f"{num_cut:,} of them were cut to {limit} tokens; --max_len N reads more")
    return output


def _columns(config: PredictConfig, info: ClassifierInfo) -> Columns:
    if config.text_pair and not info.has_pair:
        raise ValueError(f"{config.model} labels single texts; leave out --text_pair")
    columns = Columns(text=info.text, text_pair=info.text_pair)
    if config.text:
        columns = replace(columns, text=config.text)
    if config.text_pair:
        columns = replace(columns, text_pair=config.text_pair)
    return columns


class Predictor:
    """A classifier on the best device at hand.

    Args:
        classifier: Model, tokenizer and labels; the model is moved to the device.
        source: File or data set of the rows, for messages.
        batch_size: Rows computed at once, >= 1.
    """

    def __init__(self, classifier: LoadedClassifier, *, source: str, batch_size: int = 64) -> None:
        self.classifier = classifier
        self.source = source
        self.batch_size = batch_size
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        classifier.model.to(self.device).eval()

    def stream(self, rows: Iterator[TextRow]) -> Iterator[tuple[dict[str, Any], bool]]:
        """Yield, for each row in order, its prediction and whether its text was cut.

        A prediction is `{"line", "label", "probabilities": {label: probability}}`, or
        `{"line", "score"}` for a regression.

        Raises:
            ValueError: A row cannot be encoded; names file and line.
        """
        while chunk := list(itertools.islice(rows, self.batch_size * BATCHES_AT_ONCE)):
            examples = [
                Row(row.line, str(row.line), row.text, row.text_pair, None) for row in chunk
            ]
            texts = self.classifier.encoder.encode(examples, self.source)
            for row, text, outputs_C in zip(chunk, texts, self.outputs(texts), strict=True):
                yield {"line": row.line, **self._named(outputs_C)}, text.is_truncated

    @torch.inference_mode()
    def outputs(self, texts: Sequence[EncodedText]) -> Tensor:
        """Return logits or scores, float32 (N, C) on the CPU, in the order of the texts.

        Texts of like length are computed together.
        """
        order = sorted(range(len(texts)), key=lambda number: len(texts[number].input_ids))
        found: list[tuple[int, Tensor]] = []
        for start in range(0, len(order), self.batch_size):
            numbers = order[start : start + self.batch_size]
            batch = self.classifier.encoder.batch([texts[n] for n in numbers]).to(self.device)
            outputs_BC = self.classifier.model(batch).float().cpu()
            found += zip(numbers, outputs_BC, strict=True)
        return torch.stack([outputs_C for _, outputs_C in sorted(found, key=lambda item: item[0])])

    def _named(self, outputs_C: Tensor) -> dict[str, Any]:
        labels = self.classifier.info.labels
        if not labels:
            return {"score": float(outputs_C[0])}
        probabilities = outputs_C.softmax(-1).tolist()
        label = labels[int(outputs_C.argmax())]
        return {"label": label, "probabilities": dict(zip(labels, probabilities, strict=True))}
