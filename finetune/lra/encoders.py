"""The encoder of a classifier from an encoder file: one of the house, or a foreign module.

Invariant: the task decides vocabulary and length; everything else stands in the file.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jsonargparse._util import import_object
from torch import Tensor, nn

from data_prep.manifest import digest_of
from finetune.encoder_file import encoder_entry
from finetune.lra.tasks import LraTask
from ponet.batch import EncoderBatch
from ponet.config import EncoderConfig


@dataclass(frozen=True, kw_only=True)
class EncoderFile:
    """What an encoder file says."""

    path: Path
    class_path: str
    """A configuration of ponet, or any module."""
    init_args: Mapping[str, Any]
    """Its arguments."""

    @property
    def name(self) -> str:
        """What tables call the encoder: the file without what all files here begin with."""
        return self.path.stem.removeprefix("lra_")

    @property
    def digest(self) -> str:
        """Of class and arguments."""
        return digest_of([self.class_path, dict(self.init_args)])


def read_lra_encoder(path: str) -> EncoderFile:
    """Return the content of a file like configs/encoder/lra_ponet.yaml.

    Raises:
        ValueError: It is not there or holds no encoder.
    """
    entry = encoder_entry(Path(path))
    arguments = entry.get("init_args") or {}
    if not isinstance(entry.get("class_path"), str) or not isinstance(arguments, dict):
        raise ValueError(
            f"{path}: needs model.encoder with class_path, of ponet or of any torch.nn.Module, and "
            "init_args"
        )
    return EncoderFile(path=Path(path), class_path=entry["class_path"], init_args=arguments)


class ForeignEncoder(nn.Module):
    """A module of somebody else in the place of an encoder.

    It maps ids, int64 (B, L), and their mask, bool (B, L), to states (B, L, D). One that has a true
    attribute `ignores_padding` gets batches that are cut to their longest row.

    Args:
        module: The module.
        task: Gives the ids of a trial run, up to its highest one, which finds D.

    Raises:
        ValueError: It fails, or returns something else.
    """

    def __init__(self, module: nn.Module, task: LraTask) -> None:
        super().__init__()
        self.module = module
        self.sees_padding = not getattr(module, "ignores_padding", False)
        ids_BL = torch.ones(2, task.length, dtype=torch.int64)
        ids_BL[1] = task.vocab_size - 1
        was_training = module.training
        try:
            with torch.no_grad():
                states = module.eval()(ids_BL, ids_BL.bool())
        except Exception as error:  # the code is somebody else's
            raise ValueError(
                f"a trial with ids up to {task.vocab_size - 1} and a mask, {tuple(ids_BL.shape)}, "
                f"fails: {type(error).__name__}: {error}; forward takes both, and init_args name "
                "the task's sizes as `vocab_size: task` and `length: task`"
            ) from error
        module.train(was_training)
        if not isinstance(states, Tensor) or states.shape[:2] != ids_BL.shape or states.ndim != 3:
            shape = tuple(states.shape) if isinstance(states, Tensor) else type(states).__name__
            raise ValueError(
                f"it returns {shape} for ids {tuple(ids_BL.shape)}; "
                "a tensor of states (B, L, D) is needed"
            )
        self.hidden_size = int(states.shape[2])

    def forward(self, batch: EncoderBatch) -> Tensor:
        """Return states (B, L, D)."""
        states: Tensor = self.module(batch.input_ids, batch.mask)
        return states


def make_encoder(
    file: EncoderFile, task: LraTask, *, dropout_prob: float | None
) -> EncoderConfig | ForeignEncoder:
    """Return the configuration or module of a file, with the vocabulary and length of a task.

    Args:
        file: What to make.
        task: A foreign module that takes `vocab_size` or `length` gives those names in init_args
            the value `task`.
        dropout_prob: Replaces the dropout of an encoder of the house, that of attention too; None:
            as the file says.

    Raises:
        ValueError: The class cannot be imported, may not be, or does not take the arguments.
    """
    try:
        found = import_object(file.class_path)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{file.path}: {file.class_path} cannot be imported ({error})") from error
    if not (isinstance(found, type) and issubclass(found, EncoderConfig)):
        if dropout_prob is not None:
            raise ValueError(f"model.dropout_prob is for encoders of ponet, not {file.class_path}")
        return _foreign(found, file, task)
    if file.init_args.get("projection") is not None:
        raise ValueError(
            f"{file.path}: it hashes words, and {task.title} has ids of an embedding table; take "
            "an encoder without projection, as configs/encoder/lra_ponet.yaml"
        )
    try:
        return _own(found(**{**file.init_args, **_sizes(task)}), dropout_prob)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file.path}: {file.class_path}: {error}") from error


def _foreign(make: Callable[..., object], file: EncoderFile, task: LraTask) -> ForeignEncoder:
    """The module of a file, tried; whatever its code raises is an error of the file."""
    sizes = {"vocab_size": task.vocab_size, "length": task.length}
    given = {k: sizes.get(k, v) if v == "task" else v for k, v in file.init_args.items()}
    try:
        made = make(**given)
    except Exception as error:
        raise ValueError(
            f"{file.path}: {file.class_path} cannot be made of its init_args: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(made, nn.Module):
        raise ValueError(f"{file.path}: {file.class_path} is no torch.nn.Module")
    try:
        return ForeignEncoder(made, task)
    except ValueError as error:
        raise ValueError(f"{file.path}: {file.class_path}: {error}") from error


def sees_padding(encoder: EncoderConfig | ForeignEncoder) -> bool:
    """Return whether padding changes the states of real tokens, so that none may be cut off."""
    return encoder.sees_padding or getattr(encoder, "fixed_places", False)


def _sizes(task: LraTask) -> dict[str, int]:
    return {"vocab_size": task.vocab_size, "max_positions": task.length}


def _own(config: EncoderConfig, dropout_prob: float | None) -> EncoderConfig:
    if dropout_prob is None:
        return config
    names = [f.name for f in dataclasses.fields(config) if f.name.endswith("dropout_prob")]
    changed: dict[str, Any] = dict.fromkeys(names, dropout_prob)
    return dataclasses.replace(config, **changed)
