"""Cut a split into chunks of whole sentences, a new segmentation in every epoch.

Invariant: chunks never overlap and never cross a document border; every token is in a chunk or
counted as unusable. Many documents advance together, so the loop is over chunks per document.

T tokens, D documents, S sections, U units (whole sentences, or pieces of over-long ones), N chunks
(= examples).
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from data_prep.shards import TokenShards
from pretrain.objectives import IGNORED_LABEL
from pretrain.randomness import IntArray, derive_key, random_below, random_bits, two_uniforms

MAX_LEN_LIMIT = 65535
MIN_CHUNK_LEN = 2
NUM_SPECIAL = 3
_BLOCK_TOKENS = 8_000_000
_SECTION_CHUNKS = 256
_WORD_START_REACH = 4


@dataclass(frozen=True, kw_only=True)
class PackingConfig:
    """How chunks are cut."""

    max_len: int = 512
    """Sequence length in tokens, [CLS] and two [SEP] included; from 8 to 65535."""
    short_prob: float = 0.1
    """Share of chunks with a short target length, drawn uniformly from [2, max_len - 3]; in [0, 1].
    BERT, appendix A.2: 0.1."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 8 <= self.max_len <= MAX_LEN_LIMIT:
            raise ValueError(f"max_len is {self.max_len}; it must be from 8 to {MAX_LEN_LIMIT}.")
        if not 0.0 <= self.short_prob <= 1.0:
            raise ValueError(f"short_prob is {self.short_prob}; it must be in [0, 1].")

    @property
    def capacity(self) -> int:
        """Number of text tokens that fit beside [CLS] and two [SEP]."""
        return self.max_len - NUM_SPECIAL


@dataclass(kw_only=True)
class PlanStats:
    """Where the tokens of a split went in one epoch, and what was repaired."""

    examples: int = 0
    """Number of examples."""
    tokens_total: int
    """Tokens of the split."""
    tokens_used: int = 0
    """Tokens that are in exactly one example (or more, for `partners_reused`)."""
    tokens_unusable: int = 0
    """Tokens alone in their document, or caught between two full chunks: they cannot be a pair."""
    tokens_truncated: int = 0
    """Tokens cut from the end of a text2 that did not fit."""
    tokens_displaced: int = 0
    """Tokens of second parts that found no text1 of another document, because one document holds
    more than half of the corpus."""
    partners_reused: int = 0
    """Examples whose text2 is used a second time, for the same reason."""
    cut_sentences: int = 0
    """Sentences longer than a chunk, cut in pieces."""
    split_inside_sentence: int = 0
    """Examples whose two texts meet inside a sentence, because the chunk has only one."""

    @property
    def coverage(self) -> float:
        """Share of the tokens that this epoch uses."""
        return self.tokens_used / max(1, self.tokens_total)


@dataclass(kw_only=True, eq=False)
class Examples:
    """Pairs of texts as places in the token file: columns (N,), 21 bytes per example."""

    a_start: IntArray
    """First token of text1 (the later part in `swapped` examples)."""
    b_start: IntArray
    """First token of text2."""
    a_len: npt.NDArray[np.uint16]
    """Tokens of text1, at least 1."""
    b_len: npt.NDArray[np.uint16]
    """Tokens of text2, at least 1."""
    label: npt.NDArray[np.int8]
    """Index into the objective's relations; -100 without a pair task."""
    stats: PlanStats

    def __len__(self) -> int:
        """Return the number of examples."""
        return int(self.a_start.size)

    def take(self, rows: IntArray) -> "Examples":
        """Return the examples of these rows, in their order."""
        return replace(self, **{name: getattr(self, name)[rows] for name in COLUMNS})


COLUMNS = ("a_start", "b_start", "a_len", "b_len", "label")


def document_starts(shards: TokenShards) -> IntArray:
    """Return (D+1,) int64, the token where each document starts; the last is T."""
    return np.asarray(shards.sentence_offsets)[np.asarray(shards.document_offsets)]


def cut_chunks(shards: TokenShards, config: PackingConfig, *, seed: int, epoch: int) -> Examples:
    """Return the chunks of one epoch in corpus order, each cut in two parts; no labels yet.

    A pure function of its arguments; the split holds a document. Time grows with the number of
    chunks, memory beyond the result with a block of 8 million tokens.
    """
    key = derive_key(seed, "packing", epoch)
    borders = _section_borders(shards, key, config.capacity)
    stats = PlanStats(tokens_total=shards.num_tokens)
    parts = []
    at = np.arange(borders[0], borders[-1], _BLOCK_TOKENS)
    blocks = np.unique(np.append(np.searchsorted(borders, at), borders.size - 1))
    for low, high in pairwise(blocks.tolist()):
        sections = borders[low : high + 1]
        edges, num_cut = _unit_edges(shards, sections, key, config.capacity)
        first, stop = _pack_both_ways(edges, sections, key, config)
        usable = edges[stop] - edges[first] >= MIN_CHUNK_LEN
        first, stop = first[usable], stop[usable]
        middle, num_inside = _split(shards, edges, first, stop, key)
        start, end = edges[first], edges[stop]
        parts.append((start, middle, (middle - start).astype("u2"), (end - middle).astype("u2")))
        stats.tokens_unusable += int((~usable).sum())
        stats.cut_sentences += num_cut
        stats.split_inside_sentence += num_inside
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    stats.examples = columns[0].size
    label = np.full(stats.examples, IGNORED_LABEL, np.int8)
    return Examples(**dict(zip(COLUMNS, (*columns, label), strict=True)), stats=stats)


def _section_borders(shards: TokenShards, key: np.uint64, capacity: int) -> IntArray:
    """Return (S+1,) token positions: documents, long ones cut at sentence borders.

    A section has at most about 512 chunks, so that one endless document (or one endless sentence)
    does not turn the common loop of `_pack` into a loop over its chunks alone.
    """
    starts = document_starts(shards)
    section = _SECTION_CHUNKS * capacity
    long = np.flatnonzero(np.diff(starts) > section)
    if not long.size:
        return starts
    counts = (starts[long + 1] - starts[long] - 1) // section
    shift = 1 + random_below(two_uniforms(random_bits(key, long))[0], section)
    owner = np.repeat(np.arange(long.size), counts)
    cut = starts[long][owner] + shift[owner] + ragged_arange(counts) * section
    after = np.asarray(shards.sentence_offsets)
    after = after[np.searchsorted(after, cut)]
    cut = np.where(after - cut > section, cut, after)
    previous = np.concatenate([starts[:1], cut[:-1]])
    previous = np.maximum(previous, starts[long][owner])
    cut = cut[(cut - previous >= capacity) & (starts[long + 1][owner] - cut >= capacity)]
    return np.sort(np.concatenate([starts, cut]))


def ragged_arange(counts: IntArray) -> IntArray:
    """Return 0..counts[0]-1, 0..counts[1]-1, ... in one array."""
    return np.arange(counts.sum(), dtype=np.int64) - np.repeat(np.cumsum(counts) - counts, counts)


def _unit_edges(
    shards: TokenShards, borders: IntArray, key: np.uint64, capacity: int
) -> tuple[IntArray, int]:
    """Return (U+1,) token positions where units of a block start, and how many sentences were cut.

    A sentence longer than `capacity` is cut into pieces of equal length; that length differs
    between epochs, lies in about [capacity / 2, capacity] and is never below two tokens.
    """
    offsets = np.asarray(shards.sentence_offsets)
    low, high = np.searchsorted(offsets, [borders[0], borders[-1]])
    edges = np.array(offsets[low : high + 1])
    at = np.minimum(np.searchsorted(edges, borders), edges.size - 1)
    if edges[-1] != borders[-1] or (edges[at] != borders).any():
        edges = np.unique(np.concatenate([edges, borders]))
        edges = edges[edges <= borders[-1]]
    lens = np.diff(edges)
    long = np.flatnonzero(lens > capacity)
    if not long.size:
        return edges, 0
    draw = two_uniforms(random_bits(key, edges[long]))[1]
    pieces = -(-lens[long] // (capacity - random_below(draw, capacity // 4 + 1)))
    owner = np.repeat(long, pieces - 1)
    number = ragged_arange(pieces - 1) + 1
    cuts = edges[owner] + lens[owner] * number // np.repeat(pieces, pieces - 1)
    return np.sort(np.concatenate([edges, cuts])), int(long.size)


def _pack_both_ways(
    edges: IntArray, borders: IntArray, key: np.uint64, config: PackingConfig
) -> tuple[IntArray, IntArray]:
    """Return (N,) first and stop unit of the chunks of a block, in corpus order.

    A greedy chunk starts with the sentence that did not fit before, which tends to be a long one:
    its first part would be longer than its second, and swapped parts would show by their lengths.
    So every second section, at random, is packed from its end; lengths are then symmetric.
    """
    bounds = np.searchsorted(edges, borders)
    keys = random_bits(key, borders[:-1])
    backward = np.flatnonzero(two_uniforms(random_bits(keys, np.int64(1 << 41)))[0] < 0.5)
    low, high = bounds[backward], bounds[backward + 1]
    place = np.repeat(low, high - low) + ragged_arange(high - low)
    mirror = np.repeat(low + high, high - low) - place
    mirrored = edges.copy()
    mirrored[place] = np.repeat(edges[low] + edges[high], high - low) - edges[mirror]
    first, stop = _pack(mirrored, borders, keys, config)
    section = np.searchsorted(bounds, first, side="right") - 1
    turn = np.zeros(borders.size - 1, np.bool_)
    turn[backward] = True
    both = bounds[section] + bounds[section + 1]
    turned = turn[section]
    first, stop = np.where(turned, both - stop, first), np.where(turned, both - first, stop)
    order = np.argsort(first)
    return first[order], stop[order]


def _pack(
    edges: IntArray, borders: IntArray, keys: npt.NDArray[np.uint64], config: PackingConfig
) -> tuple[IntArray, IntArray]:
    """Return (N,) first and stop unit of the chunks of a block, packed from the sections' start."""
    bounds = np.searchsorted(edges, borders)
    here, stop = bounds[:-1], bounds[1:]
    target = _first_target(edges, borders, keys, config.capacity)
    firsts, stops = [], []
    step = 0
    while here.size:
        choice, length = two_uniforms(random_bits(keys, np.int64(step)))
        short = MIN_CHUNK_LEN + random_below(length, config.capacity - MIN_CHUNK_LEN + 1)
        wanted = np.where(choice < config.short_prob, short, target)
        reach = np.searchsorted(edges, edges[here] + wanted, side="right") - 1
        reach = np.clip(reach, here + 1, stop)
        reach = _avoid_lone_tokens(edges, here, reach, stop, config.capacity)
        firsts.append(here)
        stops.append(reach)
        more = reach < stop
        here, stop, keys = reach[more], stop[more], keys[more]
        target = np.full(here.size, config.capacity)
        step += 1
    return np.concatenate(firsts), np.concatenate(stops)


def _first_target(
    edges: IntArray, borders: IntArray, keys: npt.NDArray[np.uint64], capacity: int
) -> IntArray:
    """Return the target length of each section's first chunk, new in every epoch.

    The chunks of a section leave some room free; a random part of it goes to the first chunk. So
    the borders move from epoch to epoch and the number of chunks does not grow. Whole sentences
    fill a chunk up to half a sentence on average, hence the reduced capacity.
    """
    lens = np.diff(borders)
    half_sentence = max(1, (int(borders[-1]) - int(borders[0])) // (2 * max(1, edges.size - 1)))
    filled = max(MIN_CHUNK_LEN, capacity - half_sentence)
    free = -(-lens // filled) * filled - lens
    uniform = two_uniforms(random_bits(keys, np.int64(1 << 40)))[0]
    target = filled - random_below(uniform, free + 1)
    return np.where(lens <= capacity, capacity, np.maximum(target, MIN_CHUNK_LEN))


def _avoid_lone_tokens(
    edges: IntArray, here: IntArray, reach: IntArray, stop: IntArray, capacity: int
) -> IntArray:
    """Move chunk ends so that neither the chunk nor the rest of its section is a single token."""
    lone = np.flatnonzero((edges[reach] - edges[here] < MIN_CHUNK_LEN) & (reach < stop))
    if lone.size:
        fits = edges[reach[lone] + 1] - edges[here[lone]] <= capacity
        reach[lone[fits]] += 1
    rest = edges[stop] - edges[reach]
    tail = np.flatnonzero((rest > 0) & (rest < MIN_CHUNK_LEN))
    if tail.size:
        takes = edges[stop[tail]] - edges[here[tail]] <= capacity
        reach[tail[takes]] = stop[tail[takes]]
        tail = tail[~takes]
        gives = edges[reach[tail] - 1] - edges[here[tail]] >= MIN_CHUNK_LEN
        reach[tail[gives]] -= 1
    return reach


def _split(
    shards: TokenShards, edges: IntArray, first: IntArray, stop: IntArray, key: np.uint64
) -> tuple[IntArray, int]:
    """Return (N,) the token where the second part starts, and how many lie inside a sentence.

    A chunk of several units is split at a random unit border, a single unit near its middle.
    """
    upper, lower = two_uniforms(random_bits(derive_key(int(key), "split"), edges[first]))
    borders = stop - first - 1
    middle = edges[first + np.minimum(1, borders) + random_below(upper, np.maximum(borders, 1))]
    single = np.flatnonzero(borders == 0)
    if single.size:
        start, end = edges[first[single]], edges[stop[single]]
        middle[single] = _middle_word_start(shards, start, end, lower[single] < 0.5)
    return middle, int(single.size)


def _middle_word_start(
    shards: TokenShards, start: IntArray, end: IntArray, round_up: npt.NDArray[np.bool_]
) -> IntArray:
    """Return the word start nearest to the middle, or the middle if there is none within 4 tokens.

    Halves and ties are rounded at random, so that neither part tends to be the longer one.
    """
    middle = (start + end + round_up) // 2
    sign = np.where(round_up, 1, -1)
    best = middle.copy()
    for distance in range(_WORD_START_REACH, -1, -1):
        for side in (-1, 1):
            place = middle + side * sign * distance
            inside = (place > start) & (place < end)
            token = shards.tokens[np.where(inside, place, start)]
            best = np.where(inside & ~shards.is_continuation[token], place, best)
    return best
