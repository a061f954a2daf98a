"""A classifier of `python -m finetune fit` as a folder that transformers classifies texts with."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ponet.bundle import load_strictly
from ponet.config import EncoderConfig, PoNetConfig
from ponet.heads import SequenceClassifier
from ponet.hub.card import render
from ponet.hub.huggingface import export_huggingface
from ponet.hub.special_tokens import find_special_tokens
from ponet.tokenizer import check_tokenizer
from ponet.weight_files import (
    CONFIG_NAME,
    TOKENIZER_NAME,
    WEIGHTS_NAME,
    read_json,
    read_safetensors,
)

_IN_RUN = "classifier"
_FORMAT_VERSION = 2
_OF_BUNDLES = ("run", "manifest", "results", "results_encoder", "separator_ids")


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A fine-tuned classifier as it lies in its folder."""

    model: SequenceClassifier
    """In evaluation mode; a regression gives scores on their own scale."""
    tokenizer_path: Path
    """Its tokenizer.json."""
    values: Mapping[str, Any]
    """Its config.json."""

    @property
    def labels(self) -> dict[str, Any]:
        """What a configuration of transformers says of the outputs."""
        names = self.values["labels"]
        if not names:
            return {"num_labels": 1, "problem_type": "regression"}
        return {
            "id2label": dict(enumerate(names)),
            "label2id": {name: number for number, name in enumerate(names)},
            "problem_type": "single_label_classification",
        }


def classifier_folder(path: Path) -> Path | None:
    """Return the folder of a classifier for itself or the run that holds it; None: there is none.

    Raises:
        ValueError: If a config.json there is no JSON object.
    """
    for folder in (path, path / _IN_RUN):
        if (folder / CONFIG_NAME).is_file():
            is_one = {"encoder", "labels"} <= read_json(folder / CONFIG_NAME).keys()
            return folder if is_one else None
    return None


def read_classifier(folder: Path) -> Classifier:
    """Return the classifier of a folder.

    Raises:
        ValueError: If a file is missing, damaged, of another version, or does not fit the others.
    """
    values = read_json(folder / CONFIG_NAME)
    if values.get("format_version") != _FORMAT_VERSION:
        raise ValueError(
            f"{folder / CONFIG_NAME} is a classifier of format_version "
            f"{values.get('format_version')!r}; this version reads {_FORMAT_VERSION}: run the fit "
            "again"
        )
    config = EncoderConfig.from_dict(values["encoder"])
    model = SequenceClassifier(config, num_labels=len(values["labels"]) or 1)
    load_strictly(model, read_safetensors(folder / WEIGHTS_NAME), folder / WEIGHTS_NAME)
    path = folder / TOKENIZER_NAME
    digest = values.get("tokenizer_digest") or None
    check_tokenizer(path, vocab_size=config.vocab_size, digest=digest)
    scale = values.get("scale") or {"mean": 0.0, "std": 1.0}
    with torch.no_grad():  # a regression is trained on scores of mean 0 and deviation 1
        model.classifier.weight *= scale["std"]
        model.classifier.bias.mul_(scale["std"]).add_(scale["mean"])
    return Classifier(model=model.eval(), tokenizer_path=path, values=values)


def export_classifier(classifier: Classifier, options: argparse.Namespace) -> None:
    """Write a classifier as `export` was asked to, and say what was compared.

    Raises:
        ValueError: If an option does not fit a classifier, the target is in use, or what was
            written is not the same model.
    """
    if options.format != "huggingface":
        raise ValueError(
            "a fine-tuned classifier is exported to huggingface alone; give --format huggingface"
        )
    given = [f"--{name.replace('_', '-')}" for name in _OF_BUNDLES if getattr(options, name)]
    if given:
        raise ValueError(f"{', '.join(given)} would do nothing for a fine-tuned classifier")
    difference = export_huggingface(
        classifier.model,
        options.output,
        special_tokens=find_special_tokens(
            classifier.tokenizer_path, vocab_size=classifier.model.encoder.config.vocab_size
        ),
        tokenizer_path=classifier.tokenizer_path,
        card=classifier_card(classifier, options),
        max_len=classifier.values["max_len"],
        labels=classifier.labels,
    )
    print(
        f"{options.output}: loads in transformers; outputs within {difference:.1e} of the "
        "classifier"
    )
    for line in _differences(classifier):
        print(f"note: {line}")


def classifier_card(classifier: Classifier, options: argparse.Namespace) -> str:
    """Return the text of README.md."""
    return render(
        "classifier_card.md.j2",
        classifier.model.encoder.config,
        task="text-classification",
        licence=options.licence,
        language=options.language,
        notes=options.notes,
        name=options.name or options.output.name,
        values=classifier.values,
        differences=_differences(classifier),
    )


def _differences(classifier: Classifier) -> list[str]:
    """Return where transformers' pipelines do something else than `python -m finetune predict`."""
    values, config = classifier.values, classifier.model.encoder.config
    lines = [f"texts of more than {values['max_len']} tokens are cut only with truncation=True"]
    if isinstance(config, PoNetConfig) and values["segments"] != "separators":
        lines.append(
            f"it was trained with {values['segments']} as pooling segments; give their numbers as "
            "segment_ids, because without them each text is one segment and outputs differ"
        )
    if config.sees_padding:
        lines.append("padding changes its outputs; give texts of one length, or one by one")
    if not values["labels"]:
        lines.append('its score is the logit; pipelines give it with function_to_apply="none"')
    return lines
