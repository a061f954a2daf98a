"""A trained classifier as a folder: config.json, model.safetensors, tokenizer.json.

Invariant: the folder appears by a rename when it is complete, and loads without pickle.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from finetune.data.encoding import TextEncoder
from finetune.data.targets import ScoreScale
from finetune.tasks.spec import SegmentRule
from ponet import EncoderConfig, SequenceClassifier
from ponet.bundle import load_strictly
from ponet.positions import PositionMethod
from ponet.tokenizer import check_tokenizer
from ponet.weight_files import (
    CONFIG_NAME,
    TOKENIZER_NAME,
    WEIGHTS_NAME,
    new_folder,
    read_json,
    read_safetensors,
)
from training.interruption import say
from training.run_config import CLASSIFIER_FOLDER

FORMAT_VERSION = 2
_LATER = {"scale", "tokenizer_digest"}
"""Keys that the first classifiers lack."""


@dataclass(frozen=True, kw_only=True)
class ClassifierInfo:
    """What a classifier needs besides its weights."""

    task: str
    """Name of the task it was trained on; `own` for a user's files."""
    title: str
    """What tables call the task."""
    labels: tuple[str, ...]
    """Label of each logit; empty: a regression."""
    score_range: tuple[float, float] | None
    """Least and greatest score of a regression, where there are bounds."""
    text: str
    """Column of the text in files to predict."""
    text_pair: str
    """Column of the second text; empty: single texts."""
    has_pair: bool
    """Whether an example is two texts."""
    max_len: int
    """Most tokens of an example, special tokens included."""
    segments: SegmentRule
    """What a pooling segment of the text is."""
    positions: PositionMethod
    """How the position table is made longer."""
    scale: ScoreScale = ScoreScale()
    """Of a regression."""
    tokenizer_digest: str = ""
    """Of vocabulary and rules of the tokenizer that belongs to the weights; empty: unknown."""


@dataclass(frozen=True, kw_only=True)
class LoadedClassifier:
    """A classifier ready to label texts."""

    model: SequenceClassifier
    """In evaluation mode, on the CPU."""
    encoder: TextEncoder
    """Its tokenizer, length and segment rule."""
    info: ClassifierInfo
    """Task, labels and columns."""


def save_classifier(
    folder: Path, model: SequenceClassifier, info: ClassifierInfo, *, tokenizer_json: Path
) -> Path:
    """Write a classifier and return its folder; one already there is replaced as a whole.

    Raises:
        OSError: The folder cannot be written; what stood there before is intact.
    """
    config = {
        "format_version": FORMAT_VERSION,
        "encoder": model.encoder.config.to_dict(),
        **asdict(info),
    }
    with new_folder(folder) as staging:
        state = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
        save_file(state, staging / WEIGHTS_NAME)
        (staging / WEIGHTS_NAME).chmod(0o644)  # safetensors gives the owner alone access
        shutil.copyfile(tokenizer_json, staging / TOKENIZER_NAME)
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (staging / CONFIG_NAME).write_text(text, encoding="utf-8")
    return folder


def restore_classifier(folder: Path) -> None:
    """Bring back the classifier that a killed `save_classifier` had moved aside; clear up."""
    old = next(folder.parent.glob(f".{folder.name}.old.*/*"), None)
    if old is not None and not folder.exists():
        os.rename(old, folder)
    for left in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(left, ignore_errors=True)


def classifier_folder(path: str | Path) -> Path:
    """Return the classifier's folder for that folder itself or for the run that holds it.

    Raises:
        ValueError: There is no classifier.
    """
    for folder in (Path(path), Path(path) / CLASSIFIER_FOLDER):
        if (folder / CONFIG_NAME).is_file():
            return folder
    raise ValueError(
        f"{path}: holds no classifier (no {CONFIG_NAME}); give the folder of a fine-tuning run or "
        f"its {CLASSIFIER_FOLDER}/"
    )


def load_classifier(
    folder: str | Path, *, max_len: int = 0, positions: PositionMethod | None = None
) -> LoadedClassifier:
    """Return what `save_classifier` wrote.

    Args:
        folder: The classifier's folder, or that of the run that holds it.
        max_len: Most tokens of an example, at least 5; more than it has positions extends them. 0:
            as it was trained.
        positions: How they are extended; None: as in training.

    Raises:
        ValueError: A file is missing, damaged, or does not fit the others.
    """
    folder = classifier_folder(folder)
    model, info = load_model(folder)
    sizes = model.encoder.config
    max_len = max_len or info.max_len
    if max_len < 5:
        raise ValueError(f"max_len is {max_len}; a pair needs 5 tokens or more")
    if max_len > sizes.max_positions:
        model.encoder.extend_positions(max_len, method=positions or info.positions)
    digest = info.tokenizer_digest or None
    check_tokenizer(folder / TOKENIZER_NAME, vocab_size=sizes.vocab_size, digest=digest)
    encoder = TextEncoder(folder / TOKENIZER_NAME, max_len=max_len, segments=info.segments)
    return LoadedClassifier(model=model.eval(), encoder=encoder, info=info)


def load_model(folder: Path) -> tuple[SequenceClassifier, ClassifierInfo]:
    """Return the model of a classifier's folder, as it was trained, and what is said about it.

    Raises:
        ValueError: A file is missing, damaged, or does not fit the others.
    """
    run = folder.absolute().parent
    if (run / "metrics.jsonl").is_file() and not (run / "result.json").is_file():
        say(f"{run}: this fit has not ended; what it has is its best classifier so far")
    sizes = EncoderConfig.from_dict(_read_config(folder / CONFIG_NAME)["encoder"])
    info = read_info(folder)
    model = SequenceClassifier(sizes, num_labels=len(info.labels) or 1)
    load_weights(model, folder)
    return model.eval(), info


def read_info(folder: str | Path) -> ClassifierInfo:
    """Return what a classifier's folder, or its run's, says about it, without its weights.

    Raises:
        ValueError: There is no classifier, or its config.json is damaged.
    """
    path = classifier_folder(folder) / CONFIG_NAME
    config = _read_config(path)
    del config["encoder"]
    return _info(config, path)


def load_weights(model: SequenceClassifier, folder: Path) -> None:
    """Put the weights of a classifier's folder into a model of the same sizes.

    Raises:
        ValueError: The file is missing, damaged or of other sizes.
    """
    load_strictly(model, read_safetensors(folder / WEIGHTS_NAME), folder / WEIGHTS_NAME)


def _info(config: dict[str, Any], path: Path) -> ClassifierInfo:
    names = {field.name for field in fields(ClassifierInfo)}
    if not names - _LATER <= set(config) <= names:
        raise ValueError(
            f"{path}: has the keys {', '.join(sorted(config))}; needed are "
            f"{', '.join(sorted(names))}"
        )
    bounds = config["score_range"]
    values = {
        **config,
        "labels": tuple(config["labels"]),
        "score_range": None if bounds is None else (float(bounds[0]), float(bounds[1])),
        "scale": ScoreScale(**config.get("scale", {})),
    }
    return ClassifierInfo(**values)


def _read_config(path: Path) -> dict[str, Any]:
    config = read_json(path)
    if not {"format_version", "encoder", "labels"} <= set(config):
        raise ValueError(f"{path}: is no classifier; give the classifier/ folder of a fit")
    version = config.pop("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path}: format_version is {version}; this version reads {FORMAT_VERSION}: "
            "run the fit again"
        )
    return config
