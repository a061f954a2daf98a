"""What a model costs where it is used: megabytes of weights, milliseconds for one utterance.

B batch, L tokens, W distinct words.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers.pre_tokenizers import BertPreTokenizer

from ponet.batch import EncoderBatch
from ponet.config import EncoderConfig
from ponet.hub.modeling_ponet import make_batch
from ponet.projection import WordFeatures
from ponet.text_format import TextFormat, window_batch
from ponet.tokenizer import load_tokenizer

UTTERANCES = (
    "Wake me at seven tomorrow",
    "What will the weather be like in Lisbon next Saturday morning ?",
    "Play something quiet",
    "Remind me to water the plants on the balcony every second evening",
    "Call my sister back",
    "Is there any message from the dentist about Thursday ?",
    "How long does it take to drive from the harbour to the old mill",
    "Stop the timer",
)
"""Of 3 to 14 words."""
Reader = Callable[[str], EncoderBatch]
_ROUNDS = 12
_PARALLEL = "TOKENIZERS_PARALLELISM"


class Cost(NamedTuple):
    """Milliseconds for one utterance in one thread, medians over utterances and rounds."""

    reading_ms: float
    """Text to the input of the network: tokenising and hashing, nothing remembered of words."""
    network_ms: float
    """Input to outputs."""

    @property
    def line(self) -> str:
        """What a user reads."""
        total = self.reading_ms + self.network_ms
        return (
            f"{total:.2f} ms an utterance (batch 1, one thread): {self.reading_ms:.2f} for reading "
            f"the text, {self.network_ms:.2f} for the network"
        )


def text_reader(config: EncoderConfig, tokenizer_json: Path) -> Reader:
    """Return what makes of one text the batch of an encoder."""
    if config.projection is None:
        form, longest = TextFormat(tokenizer_json), config.max_positions
        return lambda text: window_batch(form.windows([text], max_len=longest)[:1])
    features = WordFeatures(load_tokenizer(tokenizer_json), config.projection)
    features([""])  # the vocabulary's, once

    def read(text: str) -> EncoderBatch:
        features.forget()
        words = [word for word, _ in BertPreTokenizer().pre_tokenize_str(text)]
        return word_batch(words, features, config)

    return read


def word_batch(words: list[str], features: WordFeatures, config: EncoderConfig) -> EncoderBatch:
    """Return one text of hashed words, each of which is a segment's part, as a batch."""
    distinct = list(dict.fromkeys(words))
    made = torch.from_numpy(features(distinct).astype("i8" if features.config.is_bag else "f4"))
    ids_1L = torch.tensor([[distinct.index(word) for word in words]])
    room = config.max_positions - len(words) if config.fixed_places else 0
    ids_1L = torch.nn.functional.pad(ids_1L, (0, room))
    mask_1L = torch.arange(ids_1L.shape[1])[None] < len(words)
    return replace(make_batch(ids_1L, mask_1L, None, None, ()), word_features=made)


def measure(
    read: Callable[[str], Any],
    answer: Callable[[Any], Any],
    *,
    clock: Callable[[], float] = time.process_time,
) -> Cost:
    """Return what an utterance costs.

    Args:
        read: Makes a batch of a text.
        answer: The network, or a session of onnxruntime with one thread.
        clock: What seconds are read from: CPU time, which other programs at work do not add to (a
            busy machine made 47 ms of 3).
    """
    times: list[tuple[float, float]] = []
    with _one_thread(), torch.inference_mode():
        for number in range(_ROUNDS + 2):
            for text in UTTERANCES:
                start = clock()
                batch = read(text)
                middle = clock()
                answer(batch)
                if number > 1:
                    times.append((middle - start, clock() - middle))
    return Cost(*(1e3 * statistics.median(part) for part in zip(*times, strict=True)))


def size_mb(folder: Path) -> float:
    """Return the size of all files of a folder in megabytes (10^6 bytes)."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


@contextmanager
def _one_thread() -> Iterator[None]:
    """Hold PyTorch and tokenizers to one thread, which the latter read from the environment."""
    threads, parallel = torch.get_num_threads(), os.environ.get(_PARALLEL)
    torch.set_num_threads(1)
    os.environ[_PARALLEL] = "false"
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if parallel is None:
            del os.environ[_PARALLEL]
        else:
            os.environ[_PARALLEL] = parallel
