"""Small shard folders from ids in memory."""

import shutil
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from data_prep.manifest import MANIFEST_NAME, TOKENIZER_NAME, ShardError, TokenizerInfo
from data_prep.shards import SplitWriter, finish_shards


def write_shards(
    folder: str | Path,
    splits: Mapping[str, Sequence[Sequence[Sequence[int]]]],
    tokenizer_json: str | Path,
) -> None:
    """Write a small shard folder from ids in memory.

    Args:
        folder: Folder to make; files of the same name are replaced.
        splits: Split name, `train` among them -> documents -> sentences -> token ids; no empty
            sentence or document.
        tokenizer_json: The tokenizer of the ids; copied into the folder.

    Raises:
        ShardError: An empty sentence or document, or an id outside the vocabulary.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST_NAME).unlink(missing_ok=True)
    shutil.copyfile(tokenizer_json, folder / TOKENIZER_NAME)
    vocab_size = TokenizerInfo.from_file(folder / TOKENIZER_NAME).vocab_size
    writers = [SplitWriter(folder, split, vocab_size=vocab_size) for split in splits]
    for writer in writers:
        for document in splits[writer.split]:
            lens = np.array(list(map(len, document)), np.int64)
            if not lens.size or not lens.all():
                raise ShardError(f"split '{writer.split}' holds an empty sentence or document.")
            tokens = np.array(list(chain.from_iterable(document)), np.int64)
            writer.append(tokens, lens, np.array([lens.size], np.int64))
    finish_shards(folder, writers)
