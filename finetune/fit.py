"""`fit`: rows -> examples -> trained classifier, with what a reader needs to judge the score."""

import logging
import shutil
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import TQDMProgressBar
from torch.utils.data import DataLoader

from finetune.artifact import ClassifierInfo, save_classifier
from finetune.callbacks import BestEpoch, MetricsFile
from finetune.config import FinetuneConfig
from finetune.encoding import EncodedText, TextEncoder
from finetune.module import ClassifierModule, LabelledBatch, classification_metrics
from finetune.tables import Columns, TextRow, read_examples
from ponet import Bundle, SequenceClassifier, load_bundle

METRICS_FILE, CLASSIFIER_FOLDER = "metrics.jsonl", "classifier"


@dataclass(frozen=True, kw_only=True)
class Examples:
    """The tokenised rows of the two files."""

    labels: tuple[str, ...]
    """Labels of the training rows, sorted; the place of each is its number."""
    train: list[tuple[EncodedText, int]]
    """Training examples."""
    validation: list[tuple[EncodedText, int]]
    """Validation examples."""
    num_overlapping: int
    """Validation rows whose text, apart from case and spaces, is also in the training rows."""


def run_fit(config: FinetuneConfig) -> Path:
    """Train a classifier, print its score beside the majority guess, and return its folder.

    Raises:
        ValueError: A mistake in a file or option; names the place.
    """
    output = _free_output(config)
    bundle = load_bundle(config.bundle)
    encoder = _text_encoder(bundle, config)
    examples = read_split_files(config, encoder)
    seed_everything(config.seed, verbose=False)
    num_labels = len(examples.labels)
    if config.random_init:
        classifier = SequenceClassifier(bundle.model.config, num_labels=num_labels)
    else:
        classifier = SequenceClassifier.from_pretrained(bundle.model, num_labels=num_labels)
    _print_overview(config, examples)
    _clear(output)
    module = ClassifierModule(classifier, config, num_labels=num_labels)
    metrics_file, best = MetricsFile(output / METRICS_FILE), BestEpoch()
    _train(module, examples, encoder, [metrics_file, best])
    best.restore(module)
    _report(config, examples, best, metrics_file)
    info = ClassifierInfo(
        labels=examples.labels,
        text=config.text,
        text_pair=config.text_pair,
        max_len=config.max_len,
    )
    assert bundle.tokenizer_path is not None
    folder = save_classifier(
        output / CLASSIFIER_FOLDER, classifier, info, tokenizer_json=bundle.tokenizer_path
    )
    print(f"classifier: {folder}\nmetrics:    {output / METRICS_FILE}")
    return folder


def _free_output(config: FinetuneConfig) -> Path:
    output = Path(config.output)
    is_used = any((output / name).exists() for name in (METRICS_FILE, CLASSIFIER_FOLDER))
    if is_used and not config.overwrite:
        raise ValueError(f"{output} holds an earlier fit; give another --output, or --overwrite")
    return output


def _clear(output: Path) -> None:
    """Remove an earlier fit; called once nothing in the new one's input can be wrong."""
    output.mkdir(parents=True, exist_ok=True)
    (output / METRICS_FILE).unlink(missing_ok=True)
    shutil.rmtree(output / CLASSIFIER_FOLDER, ignore_errors=True)


def _text_encoder(bundle: Bundle, config: FinetuneConfig) -> TextEncoder:
    if bundle.tokenizer_path is None:
        raise ValueError(f"{config.bundle} has no tokenizer.json; put the pretraining one there")
    encoder = TextEncoder(bundle.tokenizer_path, max_len=config.max_len)
    sizes = bundle.model.config
    if encoder.info.vocab_size > sizes.vocab_size:
        raise ValueError(
            f"{bundle.tokenizer_path} has {encoder.info.vocab_size} entries but the model "
            f"{sizes.vocab_size}; put the pretraining tokenizer there"
        )
    if config.max_len > sizes.max_positions:
        raise ValueError(
            f"max_len is {config.max_len} but the model in {config.bundle} has "
            f"{sizes.max_positions} positions; give --max_len {sizes.max_positions} or less"
        )
    if config.text_pair and sizes.type_vocab_size < 2:
        raise ValueError(f"the model in {config.bundle} has one token type; pairs need two")
    return encoder


def read_split_files(config: FinetuneConfig, encoder: TextEncoder) -> Examples:
    """Return the tokenised rows of the training and the validation file.

    Raises:
        ValueError: A damaged row, or a validation label that no training row has.
    """
    columns = Columns(text=config.text, text_pair=config.text_pair, label=config.label)
    train_rows = list(read_examples(config.train, columns))
    labels = tuple(sorted({row.label for row in train_rows}))
    if len(labels) < 2:
        raise ValueError(
            f"{config.train}: every row has the label {labels[0]!r}; two labels or more are needed"
        )
    validation_rows = list(read_examples(config.validation, columns))
    numbers = {label: number for number, label in enumerate(labels)}
    for row in validation_rows:
        if row.label not in numbers:
            known = ", ".join(map(repr, labels[:10])) + (", ..." if len(labels) > 10 else "")
            raise ValueError(
                f"{config.validation}, line {row.line}: label {row.label!r} is in no training row; "
                f"known are {known}"
            )
    seen = {_normalised(row) for row in train_rows}

    def encode(rows: list[TextRow], path: str) -> list[tuple[EncodedText, int]]:
        texts = encoder.encode(rows, path)
        return [(text, numbers[row.label]) for text, row in zip(texts, rows, strict=True)]

    return Examples(
        labels=labels,
        train=encode(train_rows, config.train),
        validation=encode(validation_rows, config.validation),
        num_overlapping=sum(_normalised(row) in seen for row in validation_rows),
    )


def _normalised(row: TextRow) -> int:
    texts = (row.text, row.text_pair)
    return hash(tuple(" ".join(text.casefold().split()) for text in texts))


def _print_overview(config: FinetuneConfig, examples: Examples) -> None:
    for name, split in (("train", examples.train), ("validation", examples.validation)):
        counts = Counter(label for _, label in split).most_common(8)
        balance = ", ".join(f"{examples.labels[k]}: {n / len(split):.1%}" for k, n in counts)
        truncated = sum(text.is_truncated for text, _ in split) / len(split)
        print(
            f"{name + ':':<12}{len(split):,} rows; {balance}; "
            f"{truncated:.1%} truncated to {config.max_len} tokens"
        )
    if examples.num_overlapping:
        print(
            f"overlap:    {examples.num_overlapping:,} validation rows have a text that is also "
            "in the training rows; the score flatters"
        )


def _train(
    module: ClassifierModule,
    examples: Examples,
    encoder: TextEncoder,
    callbacks: list[MetricsFile | BestEpoch],
) -> None:
    config = module.config
    loader: DataLoader[LabelledBatch] = DataLoader(
        examples.train,  # type: ignore[arg-type]
        batch_size=config.batch_size,
        shuffle=True,
        collate_fn=encoder.labelled_batch,
        generator=torch.Generator().manual_seed(config.seed),
    )
    validation_loader: DataLoader[LabelledBatch] = DataLoader(
        examples.validation,  # type: ignore[arg-type]
        batch_size=config.batch_size,
        collate_fn=encoder.labelled_batch,
    )
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    trainer = Trainer(
        max_epochs=config.epochs,
        accelerator="auto",
        devices=1,
        precision=config.precision,
        gradient_clip_val=config.gradient_clip,
        callbacks=[*callbacks, TQDMProgressBar(refresh_rate=10)],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=config.output,
    )
    with warnings.catch_warnings():
        for noise in (".*does not have many workers.*", ".*LeafSpec.*is deprecated.*"):
            warnings.filterwarnings("ignore", message=noise)
        trainer.fit(module, loader, validation_loader)


def majority_metrics(examples: Examples) -> tuple[str, dict[str, float]]:
    """Return the most frequent training label, and what guessing it always scores on validation."""
    majority = Counter(label for _, label in examples.train).most_common(1)[0][0]
    truth = torch.tensor([label for _, label in examples.validation])
    metrics = classification_metrics(len(examples.labels))
    metrics.update(torch.full_like(truth, majority), truth)
    values = {name: float(value) for name, value in metrics.compute().items()}
    return examples.labels[majority], values


def _report(
    config: FinetuneConfig, examples: Examples, best: BestEpoch, metrics_file: MetricsFile
) -> None:
    majority, baseline = majority_metrics(examples)
    start = "random initialisation" if config.random_init else config.bundle
    print(f"\nvalidation, {len(examples.validation):,} rows{'':<12}accuracy  macro F1")
    for name, values in (
        (f"best epoch ({best.epoch} of {config.epochs})", best.metrics),
        (f"always {majority!r} (majority)", baseline),
    ):
        print(f"  {name:<32}{values['accuracy']:>9.4f} {values['macro_f1']:>9.4f}")
    print(
        f"one run, seed {config.seed}, from {start}; chosen on these rows, so a little flattering"
    )
    steps_per_epoch = -(-len(examples.train) // config.batch_size)
    metrics_file.append(
        config.epochs * steps_per_epoch,
        best_epoch=best.epoch,
        **{f"best/{name}": value for name, value in best.metrics.items()},
        **{f"majority/{name}": value for name, value in baseline.items()},
    )
