"""What a shard folder holds, for a reader who wants to trust it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.manifest import TOKENIZER_NAME, Manifest
from data_prep.shards import TokenShards
from data_prep.summary import summary_lines

BAR_WIDTH = 40
MAX_PAIRS = 20_000
MAX_SENTENCES = 2_000_000
COMMON_IDS = 200
ORDER_RATIO = 1.15
"""Adjacent sentences of running text share clearly more rare ids than random pairs."""


def inspect_lines(folder: str | Path, *, num_samples: int = 5) -> Iterator[str]:
    """Yield the lines of the report on a shard folder.

    Args:
        folder: The shard folder.
        num_samples: Number of decoded samples.

    Raises:
        ShardError: The folder is missing, incomplete or damaged.
    """
    manifest = Manifest.load(folder)
    info = manifest.tokenizer
    yield f"{folder}"
    yield (
        f"tokenizer   {info.vocab_size:,} entries, {'lowercased' if info.lowercase else 'cased'}, "
        f"digest {info.digest[:12]}"
    )
    for split, counts in sorted(manifest.splits.items()):
        yield (
            f"{split:<11} {counts.documents:,} documents, {counts.sentences:,} sentences, "
            f"{counts.tokens:,} tokens"
        )
    totals = [f"{name} {n:,}" for name, n in manifest.counters.items() if ": " not in name]
    if totals:
        yield f"counters    {', '.join(totals)}"
    yield from summary_lines(manifest)
    shards = TokenShards.open(folder, "train")
    yield from _unknown_line(shards)
    sentence_lens = np.diff(shards.sentence_offsets)
    document_lens = np.diff(shards.sentence_offsets[shards.document_offsets])
    yield from histogram_lines("tokens per sentence", sentence_lens)
    yield from histogram_lines("tokens per document", document_lens)
    yield from histogram_lines("sentences per document", np.diff(shards.document_offsets))
    share, looked_at = duplicate_share(shards)
    yield ""
    yield f"duplicate sentences: {share:.1%} of {looked_at:,} (equal to an earlier one)"
    yield order_line(shards)
    yield from _sample_lines(shards, num_samples)


def _unknown_line(shards: TokenShards) -> Iterator[str]:
    counts = shards.token_counts
    unknown = int(counts[shards.manifest.tokenizer.unk_id])
    used = int(np.count_nonzero(counts))
    share = unknown / max(shards.num_tokens, 1)
    words = shards.num_tokens - int(counts[shards.is_continuation].sum())
    yield (
        f"ids         {used:,} of {counts.size:,} entries occur, [UNK] {share:.3%}, "
        f"{shards.num_tokens / max(words, 1):.2f} tokens per word"
    )


def histogram_lines(title: str, values: npt.NDArray[Any]) -> Iterator[str]:
    """Yield a histogram over powers of two, with quantiles."""
    if values.size == 0:
        return
    quantiles = np.quantile(values, [0.01, 0.1, 0.5, 0.9, 0.99]).astype(int)
    names = ("1%", "10%", "median", "90%", "99%")
    summary = ", ".join(f"{name} {value:,}" for name, value in zip(names, quantiles, strict=True))
    yield ""
    yield f"{title}: mean {values.mean():,.1f}, {summary}, max {values.max():,}"
    bins = np.floor(np.log2(np.maximum(values, 1))).astype(int)
    counts = np.bincount(bins)
    for power in range(int(bins.min()), counts.size):
        bar = "#" * int(round(BAR_WIDTH * counts[power] / counts.max()))
        yield (
            f"  {2**power:>9,} - {2 ** (power + 1) - 1:<9,} {counts[power] / values.size:>6.1%} "
            f"{bar}"
        )


def duplicate_share(shards: TokenShards) -> tuple[float, int]:
    """Return the share of sentences equal to an earlier one, and how many were looked at."""
    count = min(shards.num_sentences, MAX_SENTENCES)
    seen: set[int] = set()
    tokens, offsets = shards.tokens, shards.sentence_offsets[: count + 1]
    data = np.asarray(tokens[: int(offsets[-1])]).tobytes()
    borders = (offsets * tokens.itemsize).tolist()
    for start, end in zip(borders[:-1], borders[1:], strict=True):
        seen.add(hash(data[start:end]))
    return 1 - len(seen) / max(count, 1), count


def order_overlaps(
    shards: TokenShards, *, common_ids: int = COMMON_IDS, seed: int = 0
) -> tuple[float, float, int]:
    """Return the overlap of adjacent sentences, that of random ones of the same document, pairs.

    Overlap is the share of the shorter sentence's rarer ids (all but the `common_ids` most
    frequent) found in the other. Comparing within documents keeps the topic equal, so that only
    the order counts.
    """
    generator = np.random.default_rng(seed)
    document_lens = np.diff(shards.document_offsets)
    long_enough = np.flatnonzero(document_lens >= 8)
    if not long_enough.size:
        return 0.0, 0.0, 0
    documents = generator.choice(long_enough, MAX_PAIRS)
    lens = document_lens[documents]
    first = shards.document_offsets[documents] + generator.integers(0, lens - 1)
    step = generator.integers(3, lens - 3)
    start = shards.document_offsets[documents]
    other = start + (first - start + step) % lens
    common_ids = min(common_ids, shards.token_counts.size // 10)
    common = set(np.argsort(shards.token_counts)[::-1][:common_ids].tolist())
    adjacent, distant = [], []
    for here, there in zip(first.tolist(), other.tolist(), strict=True):
        pair = (_overlap(shards, here, here + 1, common), _overlap(shards, here, there, common))
        if pair[0] is not None and pair[1] is not None:
            adjacent.append(pair[0])
            distant.append(pair[1])
    if not adjacent:
        return 0.0, 0.0, 0
    return float(np.mean(adjacent)), float(np.mean(distant)), len(adjacent)


def _overlap(shards: TokenShards, a: int, b: int, common: set[int]) -> float | None:
    offsets = shards.sentence_offsets
    sets = [
        set(shards.tokens[int(offsets[i]) : int(offsets[i + 1])].tolist()) - common for i in (a, b)
    ]
    size = min(map(len, sets))
    return len(sets[0] & sets[1]) / size if size >= 2 else None


def order_line(shards: TokenShards) -> str:
    """Return the verdict on the order of sentences."""
    adjacent, distant, pairs = order_overlaps(shards)
    if pairs < 50:
        return "sentence order: too few documents of eight sentences or more to judge"
    ratio = adjacent / max(distant, 1e-9)
    if ratio >= ORDER_RATIO:
        verdict = "looks like running text"
    else:
        verdict = "LOOKS SHUFFLED: sentence-order objectives would learn nothing from it"
    return (
        f"sentence order: neighbours share {adjacent:.1%} of their rarer ids, other sentences of "
        f"the same document {distant:.1%} ({ratio:.2f} times, {pairs:,} pairs): {verdict}"
    )


def _sample_lines(shards: TokenShards, num_samples: int) -> Iterator[str]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(shards.folder / TOKENIZER_NAME))
    generator = np.random.default_rng(0)
    count = min(num_samples, shards.num_documents)
    documents = sorted(generator.choice(shards.num_documents, count, replace=False).tolist())
    for document in documents:
        start, end = (int(i) for i in shards.document_offsets[document : document + 2])
        first = start + int(generator.integers(0, max(end - start - 3, 1)))
        yield ""
        yield f"document {document:,}, sentences {first - start + 1:,} ... of {end - start:,}:"
        for sentence in range(first, min(first + 4, end)):
            left, right = (int(i) for i in shards.sentence_offsets[sentence : sentence + 2])
            text = tokenizer.decode(shards.tokens[left:right].tolist(), skip_special_tokens=False)
            yield f"  | {text if len(text) <= 300 else text[:300] + ' ...'}"
