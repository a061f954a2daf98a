"""Trained classifiers, which are bundles with a task, and the encoders that a fit starts from."""

import hashlib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

from data_prep.manifest import file_sha256
from finetune.data.encoding import TextEncoder
from finetune.data.hashed import text_encoder
from finetune.data.targets import ScoreScale
from finetune.encoder_file import is_encoder_file, read_encoder_file, tokenizer_file
from finetune.tasks.spec import Marks, SegmentRule, Unit
from ponet import PretrainingModel, SequenceClassifier, load_official
from ponet.bundle import bundle_folder, read_config, read_model
from ponet.config import EncoderConfig
from ponet.encoders.backbone import PositionMethod
from ponet.inference import trained_positions
from ponet.tagger import Decoder, Tagger
from ponet.weight_files import CONFIG_NAME, TOKENIZER_NAME, find_weights, read_json
from training.configuration import RUN_PARTS
from training.interruption import say
from training.run_config import CLASSIFIER_FOLDER, METRICS_FILE, RESULT_FILE


@dataclass(frozen=True, kw_only=True)
class ClassifierInfo:
    """What a classifier needs besides its weights."""

    task: str
    """Name of the task it was trained on; `own` for a user's files."""
    title: str
    """What tables call the task."""
    labels: tuple[str, ...]
    """Label of each logit; empty: a regression, or tags alone."""
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
    tags: tuple[str, ...] = ()
    """Tag of each logit of a word; empty: words have none."""
    decoder: Decoder = "independent"
    """How words get their tags."""
    is_multilabel: bool = False
    """Whether any number of the labels may hold for a text."""
    unit: Unit = "word"
    """What has a tag."""
    has_words: bool = False
    """Whether it was trained on texts of words with tags, also of those the labels alone."""
    marks: Marks = "labels"
    """What the labels of sentences mark."""
    thresholds: tuple[float, ...] = ()
    """Probability above which a label is given: of every label that may hold, or of the second of
    two labels of sentences; empty: the likeliest label is given."""
    language: str = "en"
    """By whose rules a raw text is cut into sentences."""

    @property
    def labels_sentences(self) -> bool:
        """Whether every sentence gets a label."""
        return self.unit == "sentence" and bool(self.tags)

    @property
    def is_regression(self) -> bool:
        """Whether the answer is a number."""
        return not (self.labels or self.tags)

    @classmethod
    def from_task(cls, task: Mapping[str, Any], where: object) -> "ClassifierInfo":
        """Return what `asdict` of one became in a file."""
        names = {field.name for field in fields(cls)}
        needed = {field.name for field in fields(cls) if field.default is MISSING}
        if not needed <= set(task) <= names:
            raise ValueError(
                f"{where}: the task has the keys {', '.join(sorted(task))}; needed are "
                f"{', '.join(sorted(names))}"
            )
        bounds = task["score_range"]
        return cls(**{
            **task,
            "labels": tuple(task["labels"]),
            "tags": tuple(task.get("tags", ())),
            "thresholds": tuple(task.get("thresholds", ())),
            "score_range": None if bounds is None else (float(bounds[0]), float(bounds[1])),
            "scale": ScoreScale(**task.get("scale", {})),
        })  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LoadedClassifier:
    """A classifier ready to label texts."""

    model: SequenceClassifier | Tagger
    """In evaluation mode, on the CPU."""
    encoder: TextEncoder
    """Its tokenizer, length and segment rule."""
    info: ClassifierInfo
    """Task, labels and columns."""


def load_classifier(
    folder: str | Path, *, max_len: int = 0, positions: PositionMethod | None = None
) -> LoadedClassifier:
    """Return the classifier that a fit wrote.

    Args:
        folder: The classifier's folder, or that of the run that holds it.
        max_len: Most tokens of an example, at least 5; more than it has positions extends them. 0:
            as it was trained.
        positions: How they are extended; None: as in training.

    Raises:
        ValueError: A file is missing, damaged, or does not fit the others.
    """
    folder, config, info = _described(folder)
    model = read_model(folder, config)
    assert isinstance(model, SequenceClassifier | Tagger)
    _say_if_unfinished(folder)
    max_len = max_len or info.max_len
    sizes = model.encoder.config
    trained = max(trained_positions(sizes, config["metadata"]), info.max_len)
    say_if_untrained(folder, sizes, max_len=max_len, trained=trained)
    encoder = text_encoder(
        folder / TOKENIZER_NAME,
        sizes,
        max_len=max_len,
        segments=info.segments,
        language=info.language,
    )
    if max_len > sizes.max_positions and sizes.use_positions:
        model.encoder.extend_positions(max_len, method=positions or info.positions)
    return LoadedClassifier(model=model, encoder=encoder, info=info)


def read_info(folder: str | Path) -> ClassifierInfo:
    """Return what a classifier's folder, or its run's, says about it, without its weights."""
    return _described(folder)[2]


def _described(path: str | Path) -> tuple[Path, dict[str, Any], ClassifierInfo]:
    """Return a classifier's folder, its config.json and what that says of the task."""
    folder = bundle_folder(path)
    if not (folder / CONFIG_NAME).is_file():
        raise ValueError(
            f"{path}: holds no classifier (no {CONFIG_NAME}); give the folder of a fine-tuning run "
            f"or its {CLASSIFIER_FOLDER}/"
        )
    config = read_config(folder)
    if "task" not in config:
        raise ValueError(f"{folder}: is no classifier; give the {CLASSIFIER_FOLDER}/ of a fit")
    return folder, config, ClassifierInfo.from_task(config["task"], folder / CONFIG_NAME)


def _say_if_unfinished(folder: Path) -> None:
    run = folder.absolute().parent
    if (run / METRICS_FILE).is_file() and not (run / RESULT_FILE).is_file():
        say(f"{run}: this fit has not ended; what it has is its best classifier so far")


def say_if_untrained(where: object, config: EncoderConfig, *, max_len: int, trained: int) -> None:
    """Say on stderr that texts will reach positions that no training has reached.

    Args:
        where: What to call the model.
        config: Of its encoder.
        max_len: Most tokens of an example.
        trained: Positions that training has reached.
    """
    if trained < min(max_len, config.max_positions):
        say(
            f"note: max_len is {max_len}, but {where} was trained on texts of {trained} tokens: "
            f"its positions from {trained} to {config.max_positions} are the random values that "
            f"it began with. Give max_len {trained}, or a model pretrained on longer texts "
            f"(pretrain fit --data.max_len {max_len})"
        )


@dataclass(frozen=True, kw_only=True)
class EncoderSource:
    """What a table says about a pretrained encoder."""

    tokenizer_json: Path
    """The tokenizer it was pretrained with."""
    name: str
    """Name of its run: the folder's, or that of the folder above one of `RUN_PARTS`."""
    digest: str
    """sha256 of the weights file; of several, that of their digests one after the other."""
    files: tuple[Path, ...]
    """Configuration, weights and tokenizer."""


@dataclass(frozen=True, kw_only=True)
class PretrainedEncoder:
    """A pretrained model and where it comes from."""

    config: EncoderConfig
    """Its sizes."""
    source: EncoderSource
    """Its files."""
    model: PretrainingModel | SequenceClassifier | Tagger | None
    """In evaluation mode, on the CPU; None: it is trained from scratch."""
    labels: tuple[str, ...] = ()
    """Label of each output of a classifier's last layer; empty: there is none to go on with."""
    tags: tuple[str, ...] = ()
    """Likewise of the words."""
    scale: ScoreScale = ScoreScale()
    """Of the scores that a regression's last layer gives."""
    trained_positions: int
    """How many of its positions training has reached, as far as it is known."""


def load_pretrained(
    path: str | Path, *, tokenizer: str = "", max_len: int = 0
) -> PretrainedEncoder:
    """Return the encoder that a path leads to.

    Args:
        path: Folder of a bundle or of a fine-tuned classifier; of a run that holds `bundle/` or
            `classifier/`; or the authors' released layout (a folder with config.json and weights,
            or one .safetensors file) with the tokenizer.json beside the weights; or a YAML file
            of an encoder that is trained from scratch.
        tokenizer: tokenizer.json for the YAML file.
        max_len: Least number of positions of the encoder in the YAML file.

    Raises:
        ValueError: Nothing of that kind is there, or a file is missing or damaged.
    """
    if is_encoder_file(path):
        return _from_scratch(Path(path), tokenizer, max_len)
    if tokenizer:
        raise ValueError(
            f"--model.tokenizer {tokenizer}: {path} comes with a tokenizer of its own; leave it out"
        )
    given = Path(path)
    found = next((given / part for part in RUN_PARTS if (given / part).is_dir()), given)
    if not found.exists():
        raise ValueError(f"--model.encoder {path}: no such folder; give a bundle or a run's folder")
    if found.is_dir() and not (found / CONFIG_NAME).is_file():
        raise ValueError(
            f"--model.encoder {path}: holds neither {RUN_PARTS[0]}/ nor config.json; give the "
            "folder of a bundle, of a pretraining or fine-tuning run, or of released weights"
        )
    if found.is_file() or "encoder" not in read_json(found / CONFIG_NAME):
        official = load_official(found)
        sizes = official.config
        return PretrainedEncoder(
            config=sizes,
            model=official,
            source=_source(found),
            trained_positions=sizes.max_positions,
        )
    config = read_config(found)
    model, source = read_model(found, config), _source(found)
    sizes = model.encoder.config
    trained = trained_positions(sizes, config["metadata"])
    pretrained = PretrainedEncoder(
        config=sizes, model=model, source=source, trained_positions=trained
    )
    if "task" not in config:
        return pretrained
    _say_if_unfinished(found)
    info = ClassifierInfo.from_task(config["task"], found / CONFIG_NAME)
    return replace(
        pretrained,
        labels=info.labels,
        tags=info.tags,
        scale=info.scale,
        trained_positions=max(trained, info.max_len),
    )


def _from_scratch(path: Path, tokenizer: str, max_len: int) -> PretrainedEncoder:
    file = tokenizer_file(path, tokenizer)
    config = read_encoder_file(path, tokenizer_json=file, max_len=max_len)
    source = EncoderSource(
        tokenizer_json=file, name=path.stem, digest=file_sha256(path), files=(file, path)
    )
    return PretrainedEncoder(config=config, model=None, source=source, trained_positions=0)


def _source(found: Path) -> EncoderSource:
    """Return what is known of the weights file or the folder with weights."""
    is_file = found.is_file()
    tokenizer_json = (found.parent if is_file else found) / TOKENIZER_NAME
    if not tokenizer_json.is_file():
        raise ValueError(f"{tokenizer_json}: no such file; put the pretraining tokenizer there")
    absolute = found.absolute()
    named = absolute.parent if absolute.name in RUN_PARTS else absolute
    weights = [found] if is_file else find_weights(found)
    digest, *others = map(file_sha256, weights)
    if others:
        digest = hashlib.sha256("".join((digest, *others)).encode()).hexdigest()
    return EncoderSource(
        tokenizer_json=tokenizer_json,
        name=named.stem if is_file else named.name,
        digest=digest,
        files=(tokenizer_json, *([] if is_file else [found / CONFIG_NAME]), *weights),
    )
