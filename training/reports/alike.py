"""What finished runs differ in beside seed and fold, where a table would take them for repetitions.

Invariant: a folder without its configuration (a result alone) is taken for what its result says.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from training.configuration import INPUTS_FILE, flatten, relevant
from training.run_config import CONFIG_FILE

_GROUPS = ("model.", "data.", "trainer.max_steps", "trainer.min_", "trainer.limit_train_batches",
           "trainer.gradient_clip_algorithm", "trainer.overfit_batches")  # fmt: skip
"""Beginnings of the settings that decide what is learnt, or on which rows."""
_NOT_COMPARED = (
    *("model.encoder", "model.tokenizer", "model.gradient_checkpointing"),
    *(f"data.{name}" for name in ("fold", "repeat", "encoder", "tokenizer", "folder", "cache",
                                  "train", "validation", "test", "micro_batch_size",
                                  "eval_batch_size", "join_texts", "segments", "language",
                                  "score")),
)  # fmt: skip
"""Of these: repetitions; speed; places, whose content has a digest; and what may be left to the
program (`auto`), where the result says what was taken."""
Facts = tuple[Mapping[str, Any], Mapping[str, str]]
"""Settings of a run that count, and name -> digest of what it has read."""
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def differences(first: Facts, second: Facts) -> list[str]:
    """Return what two runs differ in, in words; settings that one lacks are equal.

    Digests are compared of what both have read: tokenizer, encoder file, the files of the splits.
    """
    (one, one_digests), (two, two_digests) = first, second
    settings = [f"{key} ({one[key]} and {two[key]})" for key in sorted(one.keys() & two.keys())
                if one[key] != two[key]]  # fmt: skip
    both = sorted(one_digests.keys() & two_digests.keys())
    return settings + [name for name in both if one_digests[name] != two_digests[name]]


def facts_of(folder: Path) -> Facts:
    """Read the folder of a run."""
    paths = folder / CONFIG_FILE, folder / INPUTS_FILE
    texts = [path.read_text(encoding="utf-8") if path.is_file() else "{}" for path in paths]
    stored = relevant(flatten(yaml.load(texts[0], Loader=_LOADER)), also_without=_NOT_COMPARED)
    settings = {key: value for key, value in stored.items() if key.startswith(_GROUPS)}
    inputs = json.loads(texts[1])
    return settings, {name: entry["sha256"] for name, entry in inputs.items()}
