"""Bundles: config.json + model.safetensors + tokenizer.json; of a classifier, with its task.

Invariant: weights are read as tensors only, and every key of a file is accounted for.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from safetensors.torch import save_file
from torch import Tensor

from ponet.config import EncoderConfig
from ponet.heads import PretrainingModel, SequenceClassifier
from ponet.quantization import WeightForm, pack, unpack
from ponet.tagger import SentenceTagger, Tagger
from ponet.tokenizer import check_tokenizer, ids_digest
from ponet.weight_files import (
    CONFIG_NAME,
    TOKENIZER_NAME,
    WEIGHTS_NAME,
    load_strictly,
    new_folder,
    read_json,
    read_weights,
)

if TYPE_CHECKING:
    from ponet.frozen import Precision
    from ponet.inference import Guess, Pooling, Progress
    from ponet.scoring import Method, TextScore
    from ponet.text_format import LongTexts, TextFormat

Model = PretrainingModel | SequenceClassifier | Tagger
_FORMAT_VERSION = 1
_KEYS = {"format_version", "encoder", "num_pair_classes", "metadata"}
PRETRAINING = "pretraining"
"""Key of config.json of transformers that they stand at."""
TEXT_FACTS = ("language", "segments", "max_len")
"""What the metadata say of the texts of pretraining, where they are known: new ones are read so."""
UNTRAINED = "untrained"
"""Where the metadata name weights that hold fresh values; in an export it has their digests too."""
_DIGEST = "tokenizer_digest"  # absent where no tokenizer was saved
_TASK = "task"  # what a classifier knows besides its weights; absent from other bundles
_WEIGHTS = "weights"  # their form on disk; absent where that is float32
_IN_RUN = ("bundle", "classifier")
_CLASSIFIERS = ("ForSequenceClassification", "ForTokenClassification")


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A loaded bundle."""

    model: PretrainingModel
    """The model, in evaluation mode, on the CPU."""
    tokenizer_path: Path | None
    """tokenizer.json (Hugging Face tokenizers format), if the bundle has one."""
    metadata: dict[str, Any]
    """What the writer stored beside the model: JSON types only."""

    def encode(
        self,
        texts: Sequence[str],
        *,
        pooling: "Pooling" = "mean",
        batch_tokens: int | None = None,
        max_len: int | None = None,
        long_texts: "LongTexts" = "windows",
        precision: "Precision" = "32",
        progress: "bool | Progress" = True,
    ) -> Tensor:
        """Return one vector for each text: float32 (n, D), on the CPU.

        Texts are cut into sentences, and segments are those of pretraining; text of any length is
        taken.
        The model may be moved to a GPU before: `bundle.model.to("cuda")`.

        Args:
            texts: Any number of texts.
            pooling: "mean" over all tokens, or "cls", the vector at [CLS].
            batch_tokens: Tokens of a batch, >= 1, which memory grows with, however long the texts
                are; None: 65,536 on a GPU, 4,096 for each of the first four threads on a CPU.
            max_len: Longest row in tokens, >= 3; None: what the model was pretrained with, and
                what "tile" needs.
            long_texts: What becomes of a text longer than max_len: "windows" of whole sentences
                whose tokens are pooled together, "tile" = one row with the positions that
                pretraining has reached repeated, "cut" = its beginning alone.
            precision: "32", or "bf16": faster where the device computes in bfloat16 (a GPU, a CPU
                with AMX or AVX512-BF16), and exact to about two digits.
            progress: Say on stderr how far it is, once it has taken five seconds; a Progress
                counts on over several calls.

        Raises:
            TypeError: If texts is a generator, a set or a dict.
            ValueError: If an option is outside of its range, or the bundle has no tokenizer.
        """
        from ponet.inference import EncodeOptions, default_max_len, encode, trained_positions

        if long_texts == "tile" and max_len is not None:
            raise ValueError(
                f"max_len={max_len} would do nothing: with long_texts='tile' a text is one row, "
                "however long; leave one of them out"
            )
        options = EncodeOptions(
            max_len=default_max_len(self.model, self.metadata) if max_len is None else max_len,
            trained_positions=trained_positions(self.model.config, self.metadata),
            pooling=pooling,
            batch_tokens=batch_tokens,
            long_texts=long_texts,
            precision=precision,
        )
        return encode(self.model, texts, self.text_format, options, progress=progress)

    def fill(self, text: str, *, top: int = 5) -> "list[list[Guess]]":
        """Return for each [MASK] of a text, in order, `top` guesses, most likely first.

        Args:
            text: Of any length, with at least one [MASK].
            top: From 1 to the vocabulary's size.

        Raises:
            TypeError: If text is no str.
            ValueError: If the text has no [MASK], or the bundle has no tokenizer or no trained
                masked-LM head.
        """
        from ponet.inference import default_max_len, fill

        self._check_masked_head()
        max_len = default_max_len(self.model, self.metadata)
        return fill(self.model, text, self.text_format, max_len=max_len, top=top)

    def score(
        self,
        texts: Sequence[str],
        *,
        contexts: Sequence[str] | None = None,
        method: "Method" = "word_l2r",
        batch_tokens: int | None = None,
        max_len: int | None = None,
        precision: "Precision" = "32",
        progress: "bool | Progress" = True,
    ) -> "list[TextScore]":
        """Return the pseudo-log-likelihood of each text in nats, and how many tokens it has.

        Every token of a text is hidden once and costs a row of the text's length, so a text of n
        tokens takes n times as long as in `encode`. [CLS] and [SEP] are not scored. A text longer
        than max_len is cut into windows, and each token is scored in its own. Likelihoods of models
        with different tokenizers are of different tokens and cannot be compared with each other;
        which of two texts is likelier can.

        Args:
            texts: Any number of texts; one without a token has a log-likelihood of 0.
            contexts: What stands before each text: read, not scored. Both must fit into max_len.
            method: What is hidden where a token is scored: "original", it alone; "word_l2r", the
                pieces of its word to the right of it too, which otherwise give it away.
            batch_tokens: Tokens of a batch, as in `encode`: memory grows with it, whatever the
                lengths of the texts.
            max_len: Longest row in tokens, >= 3; None: what the model was pretrained with.
            precision: "32", or "bf16" as in `encode`; the vocabulary is always computed in float32.
            progress: As in `encode`.

        Raises:
            TypeError: If texts is a generator, a set or a dict.
            ValueError: If an option is outside of its range, a context is too long, the bundle has
                no tokenizer, one that does not say where words begin ("word_l2r"), no trained
                masked-LM head, or an encoder of hashed words, which guesses words of one piece.

        Source:
            Salazar et al. 2020, Masked Language Model Scoring; Kauf and Ivanova 2023, A Better Way
            to Do Masked Language Model Scoring (PLL-word-l2r).
        """
        from ponet.inference import default_max_len
        from ponet.scoring import ScoreOptions, score

        self._check_masked_head()
        options = ScoreOptions(
            max_len=default_max_len(self.model, self.metadata) if max_len is None else max_len,
            method=method,
            batch_tokens=batch_tokens,
            precision=precision,
        )
        form = self.text_format
        return score(self.model, texts, form, options, contexts=contexts, progress=progress)

    def _check_masked_head(self) -> None:
        if lacks_masked_head(self.metadata):
            raise ValueError(
                "the masked-LM head of this bundle was never trained: its weights came without one"
            )

    @cached_property
    def text_format(self) -> "TextFormat":
        """Tokenizer and layout of text; loaded when it is first needed.

        Raises:
            ValueError: If the bundle has no tokenizer.
        """
        from ponet.text_format import TextFormat

        if self.tokenizer_path is None:
            raise ValueError(
                "this bundle has no tokenizer.json, so text cannot be turned into tokens; put the "
                "tokenizer of its pretraining into its folder"
            )
        return TextFormat(
            self.tokenizer_path,
            language=self.metadata.get("language") or "en",
            segments=self.metadata.get("segments") or {},
        )


def lacks_masked_head(metadata: Mapping[str, Any]) -> bool:
    """Return whether a bundle says that its masked-LM head was never trained."""
    return any(name.startswith("mlm_head.") for name in metadata.get(UNTRAINED) or ())


def save_bundle(
    folder: str | Path,
    model: Model,
    *,
    tokenizer_json: Path | None,
    metadata: dict[str, Any] | None = None,
    task: Mapping[str, Any] | None = None,
    weights: WeightForm = "float32",
) -> Path:
    """Write a bundle and return its folder; a bundle already there is replaced as a whole.

    Args:
        folder: Target. It is put in place by a rename, so that it is never half written.
        model: Model on any device.
        tokenizer_json: Tokenizer file to copy, or None.
        metadata: Anything that fits into JSON, such as the steps trained.
        task: Of a SequenceClassifier: `labels` (empty: a regression) and what else it knows.
        weights: "int8-v1" writes matrices in a quarter of the size (see ponet.quantization).

    Raises:
        ValueError: If the target exists and is not a bundle, the tokenizer is missing or larger
            than the embeddings, or the metadata does not fit into JSON.
    """
    target, sizes = Path(folder), model.encoder.config
    if target.exists() and (not target.is_dir() or _is_foreign(target)):
        raise ValueError(f"{target} exists and is no bundle; choose another folder or remove it")
    config = {
        "format_version": _FORMAT_VERSION,
        "encoder": sizes.to_dict(),
        "num_pair_classes": getattr(model, "num_pair_classes", 0),
        "metadata": metadata or {},
    }
    if task is not None:
        config[_TASK] = dict(task)
    if weights != "float32":
        config[_WEIGHTS] = weights
    if tokenizer_json is not None:
        if not Path(tokenizer_json).is_file():
            raise ValueError(f"tokenizer file {tokenizer_json} does not exist; give its path")
        check_tokenizer(Path(tokenizer_json), vocab_size=sizes.vocab_size)
        config[_DIGEST] = ids_digest(Path(tokenizer_json))
    try:
        config_text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    except TypeError as error:
        raise ValueError(f"the metadata does not fit into JSON: {error}") from error
    with new_folder(target) as staging:
        state = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
        save_file(pack(state) if _WEIGHTS in config else state, staging / WEIGHTS_NAME)
        (staging / WEIGHTS_NAME).chmod(0o644)  # safetensors gives the owner alone access
        if tokenizer_json is not None:
            shutil.copyfile(tokenizer_json, staging / TOKENIZER_NAME)
        (staging / CONFIG_NAME).write_text(config_text, encoding="utf-8")
    return target


def load_bundle(folder: str | Path) -> Bundle:
    """Return what save_bundle wrote.

    Args:
        folder: The bundle's, or that of the run that holds it.

    Raises:
        ValueError: If a file is missing, damaged, or does not fit the others, such as a tokenizer
            with more entries than the embeddings have rows, or another one than was stored.
    """
    source = bundle_folder(folder)
    config = read_config(source)
    if _TASK in config:
        raise ValueError(
            f"{source} is a fine-tuned classifier, not a bundle; label texts with `python -m "
            "finetune predict --model`, or take it to transformers with `python -m ponet export`"
        )
    model = read_model(source, config)
    assert isinstance(model, PretrainingModel)
    path = source / TOKENIZER_NAME
    return Bundle(
        model=model,
        tokenizer_path=path if path.is_file() else None,
        metadata=config["metadata"],
    )


def read_config(folder: Path) -> dict[str, Any]:
    """Return the config.json of a bundle, with `task` that of a classifier."""
    path = folder / CONFIG_NAME
    if not path.is_file() and (folder / "checkpoints").is_dir():
        raise ValueError(
            f"{folder} is a run without a bundle, which it writes when it ends; `python -m "
            f"pretrain export {folder}/checkpoints/last.ckpt --output BUNDLE` makes one before"
        )
    config = read_json(path)
    if "model_type" in config:
        raise ValueError(f"{folder} is in the layout of transformers, {_advice(folder, config)}")
    if (version := config.get("format_version")) != _FORMAT_VERSION:
        found = f"{path} has format_version {version!r}"
        raise ValueError(f"{found}; this version reads {_FORMAT_VERSION}")
    form = config.get(_WEIGHTS, "float32")
    if form not in get_args(WeightForm):
        allowed = ", ".join(get_args(WeightForm))
        raise ValueError(f"{path} has weights {form!r}; this version reads {allowed}")
    if set(config) - {_DIGEST, _TASK, _WEIGHTS} != _KEYS:
        found, wanted = (", ".join(sorted(keys)) for keys in (config, _KEYS))
        raise ValueError(f"{path} has the keys {found}; needed are {wanted}")
    for key in ("encoder", "metadata", _TASK):
        if not isinstance(config.get(key, {}), dict):
            raise ValueError(
                f"{path} has {config[key]!r} as {key!r}; a JSON object is needed: restore the "
                "file, or make the bundle again"
            )
    return config


def _advice(folder: Path, config: Mapping[str, Any]) -> str:
    """Return what to do with a folder in the layout of transformers."""
    classes = list(config.get("architectures") or [])
    if any(str(name).endswith(_CLASSIFIERS) for name in classes):
        return (
            f"a {classes[0]}, which is not read back: give the run of `python -m finetune fit` "
            "that it was exported from, or its classifier/. Its encoder alone becomes a bundle: "
            f"python -m ponet import {folder} --drop 'classifier.*' --add-missing-heads --output "
            "BUNDLE"
        )
    return f"not a bundle; run: python -m ponet import {folder} --output BUNDLE"


def read_model(folder: Path, config: Mapping[str, Any]) -> Model:
    """Return the model of a bundle, in evaluation mode, on the CPU; its tokenizer was looked at.

    Args:
        folder: The bundle's own.
        config: What `read_config` returned.
    """
    sizes = EncoderConfig.from_dict(config["encoder"])
    model: Model
    task = config.get(_TASK)
    if task and task.get("tags"):
        decoder = task.get("decoder", "independent")
        num_labels = len(task["labels"])
        kind = SentenceTagger if task.get("unit") == "sentence" else Tagger
        model = kind.for_tags(sizes, task["tags"], num_labels=num_labels, decoder=decoder)
    elif task:
        model = SequenceClassifier(sizes, num_labels=len(task["labels"]) or 1)
    else:
        model = PretrainingModel(sizes, num_pair_classes=config["num_pair_classes"])
    load_weights(model, folder)
    if (folder / TOKENIZER_NAME).is_file():
        digest = config.get(_DIGEST)
        check_tokenizer(folder / TOKENIZER_NAME, vocab_size=sizes.vocab_size, digest=digest)
    return model.eval()


def load_weights(model: Model, folder: Path) -> None:
    """Put the weights of a bundle into a model of the same sizes."""
    path = folder / WEIGHTS_NAME
    load_strictly(model, unpack(read_weights(path)), path)


def bundle_folder(path: str | Path) -> Path:
    """Return the folder of a bundle or classifier for that folder itself, or for a run with one."""
    given = Path(path)
    folders = (given, *(given / name for name in _IN_RUN))
    return next((folder for folder in folders if (folder / CONFIG_NAME).is_file()), given)


def _is_foreign(folder: Path) -> bool:
    """Return whether a folder holds something that is no bundle, such as weights of others."""
    if not any(folder.iterdir()):
        return False
    path = folder / CONFIG_NAME
    return not path.is_file() or not {"format_version", "encoder"} <= read_json(path).keys()
