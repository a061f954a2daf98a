"""`predict`: new rows -> labels and probabilities, or scores. B batch, C outputs.

Invariant: the rows of tables are streamed, some batches at a time, so memory does not grow with the
file (tagged texts are read whole); the order of the rows is kept, what stands in a line does not
depend on its neighbours, and a row that cannot be read costs nothing but itself.
"""

import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
import torch
from torch import Tensor

from data_prep.command import counted
from data_prep.files import new_file
from data_prep.table_rows import line_of, place_of
from finetune.answers import Answers, all_answers, tagger_answers, text_answers
from finetune.artifact import ClassifierInfo, LoadedClassifier, load_classifier
from finetune.data.batches import (
    EncodedSplit,
    EncodedText,
    PackedTexts,
    TaskBatch,
    evaluation_shard,
)
from finetune.prediction_files import (
    OUTPUT_FORMATS,
    Prediction,
    label_name,
    no_tags,
    prediction_writer,
)
from finetune.sentences.tasks import num_blank, sentence_answer, with_sentences
from finetune.sentences.windows import in_windows, joined
from finetune.tagging.predictions import num_cut, tag_answer, with_words
from finetune.tasks.incoming import BadRow, InputReader, check_input
from finetune.tasks.rows import name_it
from finetune.tasks.spec import Columns, Row
from finetune.thresholds import given_labels, thresholded
from ponet.frozen import freeze
from ponet.inference import Progress, check_texts
from ponet.tagger import Tagger
from training.command_line import parse_options

BATCHES_AT_ONCE = 16


@dataclass
class Unanswered:
    """Rows that got no answer: how many, and the line and the reason of the first."""

    count: int = 0
    line: int = 0
    reason: str = ""

    def add(self, line: int, reason: str) -> None:
        """Count one."""
        if not self.count:
            self.line, self.reason = line, reason
        self.count += 1

    def warn(self, what: str, source: str) -> None:
        """Say on stderr how many of a file there are, if any, and what has become of them."""
        if self.count:
            print(
                f"WARNING: {counted(self.count, 'row(s)')} {what}; the first is "
                f"{line_of(source, self.line)}: {self.reason}",
                file=sys.stderr,
            )


@dataclass(frozen=True, kw_only=True)
class NewRows:
    """Where new rows are, and which classifier reads them."""

    model: str
    """Folder of a fine-tuning run, or of its classifier/."""
    input: str
    """Rows with the columns the classifier was trained on, .csv, .tsv, .jsonl or .parquet, also .gz
    or .zst; labels are not needed. Or a .txt file with a text in every line. After a training on
    words with tags a .jsonl or .parquet row may have a list `words` or `tokens` instead, and a file
    or folder of tagged texts in any layout of training is read too; where sentences have labels it
    may have a list `sentences`, else the text is cut into sentences."""
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


@dataclass(frozen=True, kw_only=True)
class PredictConfig(NewRows):
    """Label new texts with a trained classifier; rows are streamed, the order is kept."""

    output: str
    """File to write, .jsonl, .csv or .tsv: the row's first line in the input file, then label and
    probabilities, or score; several labels; words, tags and spans; or sentences, labels and borders
    (in a table each as JSON)."""
    keep: str = ""
    """Columns of the input that stand in the output too, parted by commas: an id, the text;
    null where a row has none."""
    bad_rows: Literal["flag", "skip"] = "flag"
    """A row that cannot be labelled (an empty text, a wrong number of columns): flag = it stands in
    the output with the reason under `error` and without a label; skip = it is left out. Both are
    counted at the end."""

    def __post_init__(self) -> None:
        """Check ranges and the ending of the output."""
        super().__post_init__()
        if Path(self.output).suffix.lower() not in OUTPUT_FORMATS:
            raise ValueError(
                f"--output {self.output} must end in {', '.join(OUTPUT_FORMATS)}, which says what "
                "is written"
            )

    @property
    def kept(self) -> tuple[str, ...]:
        """Columns that are carried over, each once."""
        names = (name.strip() for name in self.keep.split(","))
        return tuple(dict.fromkeys(name for name in names if name))


def run_predict(arguments: Sequence[str]) -> Path:
    """Write one line per input row and return the file, which appears when it is complete.

    The whole input is read once before the first row is computed, so a file that cannot be read to
    its end, or has no row that fits the model, is refused at once.
    """
    config = parse_options(PredictConfig, arguments, program="ponet-finetune predict")
    classifier = load_classifier(config.model, max_len=config.max_len)
    info = classifier.info
    reader = new_rows(config, info, kept=config.kept)
    output = Path(config.output)
    if output.exists() and output.resolve() == Path(config.input).resolve():
        raise ValueError(f"--output {output} is the input itself; give another file")
    notes: Counter[str] = Counter()
    num_rows = count_rows(reader, notes)
    with new_file(output) as path, path.open("w", encoding="utf-8", newline="") as stream:
        bad = _write(config, classifier, reader, stream, num_rows=num_rows, notes=notes)
    written = num_rows - (bad.count if config.bad_rows == "skip" else 0)
    print(f"{counted(written, 'row(s)')}: {output}")
    for what, count in (+notes).items():
        print(f"{count:,} {what}")
    done = "kept without a label" if config.bad_rows == "flag" else "left out"
    bad.warn(f"could not be labelled, {done}", config.input)
    return output


def new_rows(config: NewRows, info: ClassifierInfo, kept: Sequence[str] = ()) -> InputReader:
    """Return what reads the rows of `--input` for a classifier."""
    if config.text_pair and not info.has_pair:
        raise ValueError(f"{config.model} labels single texts; leave out --text_pair")
    check_input(config.input, text=config.text, text_pair=config.text_pair)
    text, text_pair = config.text or info.text, config.text_pair or info.text_pair
    columns = Columns(text=text, text_pair=text_pair, label="", advice=name_it("{}"))
    return InputReader(
        config.input,
        columns,
        kept,
        tags=info.tags,
        unit=info.unit,
        has_words=info.has_words,
        language=info.language,
    )


def count_rows(reader: InputReader, notes: Counter[str]) -> int:
    """Return the number of rows of the input, which was read to its end."""
    good, bad = 0, Unanswered()
    for row, _ in reader.rows(notes):
        if isinstance(row, BadRow):
            bad.add(row.line, row.reason)
        else:
            good += 1
    if not good and bad.count:
        raise ValueError(f"{place_of(reader.path, bad.line)}: {bad.reason}")
    if not good:
        raise ValueError(f"{reader.path}: has no rows; one is needed")
    return good + bad.count


def _write(
    config: PredictConfig,
    classifier: LoadedClassifier,
    reader: InputReader,
    stream: TextIO,
    *,
    num_rows: int,
    notes: Counter[str],
) -> Unanswered:
    """Write what every row gets; return which rows could not be labelled."""
    ending = Path(config.output).suffix.lower()
    write = prediction_writer(stream, ending, info=classifier.info, kept=config.kept)
    predictor = Predictor(classifier, source=config.input, batch_size=config.batch_size)
    found, twin = itertools.tee(reader.rows())
    bad = Unanswered()
    progress = Progress(num_rows, told="{done:,.0f}{of} rows, {rate:,.1f} rows/s")
    answers = predictor.stream(item.row for item in found)
    at_once = config.batch_size * BATCHES_AT_ONCE
    for number, ((prediction, is_cut), item) in enumerate(zip(answers, twin, strict=True), 1):
        if "error" in prediction:
            bad.add(prediction["line"], prediction["error"])
        if "error" not in prediction or config.bad_rows == "flag":
            write(prediction, item.kept)
        if is_cut:
            limit = classifier.encoder.max_len
            notes[f"of them were cut to {limit} tokens; --max_len N reads more"] += 1
            notes["words were cut off and have no tag"] += num_cut(prediction)
        notes["sentences without a character have no label"] += num_blank(prediction)
        notes["of them were longer, and read in several windows"] += (
            prediction.get("windows", 1) > 1
        )
        if number % at_once == 0:  # counted together, as they are computed together
            progress.add(at_once)
    return bad


class Predictor:
    """A classifier on the best device at hand.

    `Predictor(load_classifier("runs/my_task"))(["a text", "another one"])` labels texts in Python.

    Args:
        classifier: Model, tokenizer and labels; the model is moved to the device.
        source: File or data set of the rows, for messages.
        batch_size: Rows computed at once, >= 1.
    """

    def __init__(
        self, classifier: LoadedClassifier, *, source: str = "texts", batch_size: int = 64
    ) -> None:
        self.classifier = classifier
        self.source = source
        self.batch_size = batch_size
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        classifier.model.to(self.device).eval()

    def __call__(
        self, texts: Sequence[str], text_pairs: Sequence[str] | None = None
    ) -> list[Prediction]:
        """Return the prediction of each text in order, as `stream`; `line` counts them from 1.

        Args:
            texts: Any number.
            text_pairs: The second text of each, for a classifier of pairs.

        Raises:
            TypeError: One of them is a generator, a set or a dict.
            ValueError: A text is no str, or there are not as many of both.
        """
        has_pair = self.classifier.info.has_pair
        if isinstance(texts, str) or has_pair != (text_pairs is not None):
            wanted = "two lists, texts and text_pairs" if has_pair else "one list of texts"
            raise ValueError(f"this classifier takes {wanted}")
        check_texts(texts)
        pairs = [""] * len(texts) if text_pairs is None else text_pairs
        check_texts(pairs, "text_pairs")
        if len(pairs) != len(texts):
            raise ValueError(f"{len(texts)} texts and {len(pairs)} text_pairs given; give as many")
        both = enumerate(zip(texts, pairs, strict=True), 1)
        rows = [Row(number, str(number), *parts, None) for number, parts in both]
        return [prediction for prediction, _ in self.stream(rows)]

    def stream(self, rows: Iterable[Row | BadRow]) -> Iterator[tuple[Prediction, bool]]:
        """Yield, for each row in order, its prediction and whether its text was cut."""
        given = iter(rows)
        info = self.classifier.info
        has_sentences = info.labels_sentences
        label = self._documents if has_sentences else self._texts
        while chunk := list(itertools.islice(given, self.batch_size * BATCHES_AT_ONCE)):
            self.classifier.encoder.forget()
            split = partial(with_sentences, language=info.language) if has_sentences else with_words
            yield from label([_in_parts(row, split) if info.tags else row for row in chunk])

    def _texts(self, chunk: Sequence[Row | BadRow]) -> Iterator[tuple[Prediction, bool]]:
        encoded = self.encoded(chunk)
        texts = [text for text in encoded if isinstance(text, EncodedText)]
        found = self.answers(texts) if texts else None
        answers = zip(found.outputs, found.tags or [[]] * len(texts), strict=True) if found else ()
        named = iter(answers)
        for row, text in zip(chunk, encoded, strict=True):
            if isinstance(text, EncodedText):
                yield {"line": row.line, **self._named(row, *next(named))}, text.is_truncated
            else:
                yield {"line": row.line, **self._no_answer(), "error": text}, False

    def _documents(self, chunk: Sequence[Row | BadRow]) -> Iterator[tuple[Prediction, bool]]:
        """Label the sentences of documents, each in the window that answers it."""
        info, good = self.classifier.info, [row for row in chunk if isinstance(row, Row)]
        rows, windows = in_windows(good, self.classifier.encoder)
        texts = self.classifier.encoder.encode(rows, self.source)
        labels: list[list[int]] = []
        if texts:
            found = joined(self.answers(texts), windows)
            labels = thresholded(found.tags, found.margins, info.thresholds)
        counts = Counter(window.row for window in windows)
        cut = {w.row for w, text in zip(windows, texts, strict=True) if text.is_truncated}
        numbers = itertools.count()
        for row in chunk:
            if isinstance(row, BadRow):
                yield {"line": row.line, **self._no_answer(), "error": row.reason}, False
                continue
            number = next(numbers)
            assert row.tagged is not None
            names = [info.tags[place] for place in labels[number]]
            said = sentence_answer(row.tagged, names, info.marks, info.tags[-1])
            yield {"line": row.line, **said, "windows": counts[number]}, number in cut

    def encoded(self, chunk: Sequence[Row | BadRow]) -> list[EncodedText | str]:
        """Return the tokens of each row, or why it has none."""
        good = [row for row in chunk if isinstance(row, Row)]
        try:
            texts = iter(self.classifier.encoder.encode(good, self.source))
        except ValueError:  # of one row or more
            return [self._one(row) if isinstance(row, Row) else row.reason for row in chunk]
        return [next(texts) if isinstance(row, Row) else row.reason for row in chunk]

    def _one(self, row: Row) -> EncodedText | str:
        try:
            return self.classifier.encoder.encode([row], self.source)[0]
        except ValueError as error:
            return str(error).removeprefix(f"{place_of(self.source, row.line)}: ")

    @torch.inference_mode()
    def answers(self, texts: Sequence[EncodedText]) -> Answers:
        """Return logits of the labels or scores, (N, C), and places of tags, for texts in order.

        Texts of like length are computed together; of one length, where the encoder sees padding.
        """
        encoder, model = self.classifier.encoder, freeze(self.classifier.model)
        lengths = np.array([len(text.input_ids) for text in texts])
        split = EncodedSplit(PackedTexts(texts), np.zeros(len(texts)), batch=encoder.batch)
        parts = []
        for numbers in evaluation_shard(
            lengths,
            batch_size=self.batch_size,
            equal_lengths=model.encoder.config.sees_padding,
        ):
            batch = split[[(number, 1.0) for number in numbers]]
            moved: list[Any] = [part if part is None else part.to(self.device) for part in batch]
            batch = TaskBatch(*moved)
            if isinstance(model, Tagger):
                parts.append(tagger_answers(model, model(batch.inputs), batch))
            else:
                parts.append(text_answers(model(batch.inputs).float(), batch))
        return all_answers(parts)

    def _named(self, row: Row | BadRow, outputs_C: Tensor, places: Sequence[int]) -> Prediction:
        info, said = self.classifier.info, Prediction()
        if info.is_multilabel:
            probabilities = dict(zip(info.labels, outputs_C.sigmoid().tolist(), strict=True))
            names = given_labels(info.labels, outputs_C, info.thresholds)
            return {"labels": names, "probabilities": probabilities}
        if info.labels:
            probabilities = dict(zip(info.labels, outputs_C.softmax(-1).tolist(), strict=True))
            said = {"label": info.labels[int(outputs_C.argmax())], "probabilities": probabilities}
        elif info.is_regression:
            said = {"score": float(info.scale.outer(outputs_C)[0])}
        if info.tags:
            assert isinstance(row, Row) and row.tagged is not None
            said |= tag_answer(row.tagged, [info.tags[place] for place in places])
        return said

    def _no_answer(self) -> Prediction:
        info = self.classifier.info
        said: Prediction = {"score": None} if info.is_regression else {}
        if info.labels:
            said = {label_name(info): None, "probabilities": None}
        return {**said, **no_tags(info)}


def _in_parts(row: Row | BadRow, split: Callable[[Row], Row]) -> Row | BadRow:
    """Return a row as words or sentences, or why it has none."""
    try:
        return split(row) if isinstance(row, Row) else row
    except ValueError as error:
        return BadRow(row.line, str(error).removeprefix(": "))
