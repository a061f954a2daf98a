"""Bundles: config.json + model.safetensors + tokenizer.json.

Invariant: weights are read as tensors only, and every key of a file is accounted for.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file
from torch import Tensor

from ponet.config import EncoderConfig
from ponet.heads import PretrainingModel, SequenceClassifier
from ponet.tokenizer import check_tokenizer, ids_digest
from ponet.weight_files import (
    CONFIG_NAME,
    TOKENIZER_NAME,
    WEIGHTS_NAME,
    new_folder,
    read_json,
    read_safetensors,
    refuse_classifier,
)

if TYPE_CHECKING:
    from ponet.inference import Guess, Pooling, Progress
    from ponet.text_format import LongTexts, TextFormat

_FORMAT_VERSION = 1
_KEYS = {"format_version", "encoder", "num_pair_classes", "metadata"}
_DIGEST = "tokenizer_digest"  # absent without a tokenizer, and from bundles of earlier versions
_IN_RUN = ("bundle", "classifier")


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
        batch_size: int = 32,
        max_len: int | None = None,
        long_texts: "LongTexts" = "windows",
        progress: "bool | Progress" = True,
    ) -> Tensor:
        """Return one vector for each text: float32 (n, D), on the CPU.

        Texts are cut into sentences, the segments of pretraining; text of any length is taken.
        The model may be moved to a GPU before: `bundle.model.to("cuda")`.

        Args:
            texts: Any number of texts.
            pooling: "mean" over all tokens, or "cls", the vector at [CLS].
            batch_size: Rows of max_len tokens in a batch, >= 1.
            max_len: Longest row in tokens, >= 3; None: what the model was pretrained with.
            long_texts: What becomes of a text longer than max_len: "windows" of whole sentences
                whose tokens are pooled together, "tile" = one row with the position table
                repeated, "cut" = its beginning alone.
            progress: Say on stderr how far it is, once it has taken five seconds; a Progress
                counts on over several calls.

        Raises:
            TypeError: If texts is a generator, a set or a dict.
            ValueError: If an option is outside of its range, or the bundle has no tokenizer.
        """
        from ponet.inference import default_max_len, encode

        return encode(
            self.model,
            texts,
            self.text_format,
            pooling=pooling,
            batch_size=batch_size,
            max_len=default_max_len(self.model, self.metadata) if max_len is None else max_len,
            long_texts=long_texts,
            progress=progress,
        )

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

        if any(name.startswith("mlm_head.") for name in self.metadata.get("untrained", ())):
            raise ValueError(
                "the masked-LM head of this bundle was never trained: its weights came without one"
            )
        max_len = default_max_len(self.model, self.metadata)
        return fill(self.model, text, self.text_format, max_len=max_len, top=top)

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
        return TextFormat(self.tokenizer_path, language=self.metadata.get("language") or "en")


def save_bundle(
    folder: str | Path,
    model: PretrainingModel,
    *,
    tokenizer_json: Path | None,
    metadata: dict[str, Any] | None = None,
) -> Path:
    """Write a bundle and return its folder; a bundle already there is replaced as a whole.

    Args:
        folder: Target. It is put in place by a rename, so that it is never half written.
        model: Model on any device.
        tokenizer_json: Tokenizer file to copy, or None.
        metadata: Anything that fits into JSON, such as the steps trained.

    Raises:
        ValueError: If the target exists and is not a bundle, the tokenizer is missing or larger
            than the embeddings, or the metadata does not fit into JSON.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or _is_foreign(target)):
        raise ValueError(f"{target} exists and is no bundle; choose another folder or remove it")
    if tokenizer_json is not None and not Path(tokenizer_json).is_file():
        raise ValueError(f"tokenizer file {tokenizer_json} does not exist; give its path or None")
    config = {
        "format_version": _FORMAT_VERSION,
        "encoder": model.config.to_dict(),
        "num_pair_classes": model.num_pair_classes,
        "metadata": metadata or {},
    }
    if tokenizer_json is not None:
        check_tokenizer(Path(tokenizer_json), vocab_size=model.config.vocab_size)
        config[_DIGEST] = ids_digest(Path(tokenizer_json))
    try:
        config_text = json.dumps(config, indent=2) + "\n"
    except TypeError as error:
        raise ValueError(f"the metadata does not fit into JSON: {error}") from error
    with new_folder(target) as staging:
        state = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
        save_file(state, staging / WEIGHTS_NAME)
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
    config = read_json(source / CONFIG_NAME)
    refuse_classifier(source, config)
    if "model_type" in config:
        raise ValueError(
            f"{source} is a checkpoint in the layout of transformers, not a bundle; run: "
            f"python -m ponet import {source} --output BUNDLE"
        )
    if config.get("format_version") != _FORMAT_VERSION:
        raise ValueError(
            f"{source / CONFIG_NAME} has format_version {config.get('format_version')!r}; "
            f"this version reads {_FORMAT_VERSION}"
        )
    if set(config) - {_DIGEST} != _KEYS:
        raise ValueError(
            f"{source / CONFIG_NAME} has the keys {', '.join(sorted(config))}; "
            f"needed are {', '.join(sorted(_KEYS))}"
        )
    model = PretrainingModel(
        EncoderConfig.from_dict(config["encoder"]), num_pair_classes=config["num_pair_classes"]
    )
    load_strictly(model, read_safetensors(source / WEIGHTS_NAME), source / WEIGHTS_NAME)
    tokenizer_path = source / TOKENIZER_NAME
    has_tokenizer = tokenizer_path.is_file()
    if has_tokenizer:
        check_tokenizer(
            tokenizer_path, vocab_size=model.config.vocab_size, digest=config.get(_DIGEST)
        )
    return Bundle(
        model=model.eval(),
        tokenizer_path=tokenizer_path if has_tokenizer else None,
        metadata=config["metadata"],
    )


def bundle_folder(path: str | Path) -> Path:
    """Return the folder of a bundle for that folder itself, or for the run that holds it.

    Of a run with a classifier and no bundle it is the classifier's, which readers refuse by name.
    """
    given = Path(path)
    for inside in (given, *(given / name for name in _IN_RUN)):
        if (inside / CONFIG_NAME).is_file():
            return inside
    return given


def load_strictly(
    model: PretrainingModel | SequenceClassifier, state: Mapping[str, Tensor], where: object
) -> None:
    """Load a native state dict that must name every weight, with its shape.

    Raises:
        ValueError: If it does not fit; `where` is what the message calls it.
    """
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{where} does not fit its configuration: {error}") from error


def _is_foreign(folder: Path) -> bool:
    """Return whether a folder holds something that is no bundle, such as weights of others."""
    if not any(folder.iterdir()):
        return False
    path = folder / CONFIG_NAME
    return not path.is_file() or "num_pair_classes" not in read_json(path)
