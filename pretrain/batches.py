"""Sample numbers -> whole batches, from a memory-mapped token file with vectorised numpy.

Invariant: a batch is a pure function of its sample numbers and the configs; neighbours in the
batch, workers and ranks do not matter. Shapes are always (B, max_len), or of joined texts one of a
few for each B; batches of whole words are as wide as their longest row.

B batch, L positions, M slots (masked positions per sequence), E inner sentence starts.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import Dataset

from data_prep.shards import TokenShards
from ponet.batch import EncoderBatch, join_texts
from ponet.projection import PieceWords
from pretrain.layout import lay_out
from pretrain.masking import Masker, MaskingConfig
from pretrain.needles import CHOICES, DISTANCES, NeedleConfig, Needles
from pretrain.objectives import HAS_PADDING, HIDDEN_SHARE, IGNORED_LABEL, Objective
from pretrain.packing import COLUMNS, Examples, PackingConfig, ragged_arange
from pretrain.plan import make_plan
from pretrain.randomness import IntArray

_PLANS_KEPT = 2
_JOINED_LENGTHS = 64
"""Lengths that a joined batch of B texts may have: so little padding costs nothing, and so few
shapes can be compiled."""
_BASELINE_BATCH = 64
_COUNTED_AT_ONCE = 256
"""Samples whose tokens are looked at together where an optimiser step is counted."""

Batch = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class SegmentConfig:
    """What a pooling segment is."""

    rule: Literal["sentence", "text", "fixed"] = "sentence"
    """`sentence`: every sentence is a segment (PoNet); `text`: text1 and text2 are one segment
    each; `fixed`: every `tokens_per_segment` tokens of a text. [CLS], each [SEP] and the padding
    are always segments of their own."""
    tokens_per_segment: int = 32
    """Length of a segment in tokens, at least 1; only for `rule: fixed`."""

    def __post_init__(self) -> None:
        """Check the range."""
        if self.tokens_per_segment < 1:
            raise ValueError(
                f"tokens_per_segment is {self.tokens_per_segment}; it must be at least 1."
            )


class PretrainDataset(Dataset[Batch]):
    """Sample number -> example: the plans of all epochs one after the other, in whole batches.

    With `joins_texts` the texts of a batch stand one after the other in one row. Use it with an
    identity `collate_fn`. Plans are made when first needed; the last two are kept. A pickled or
    forked copy shares what its origin had made.
    """

    joins_texts: bool = False
    global_batch_size: int = 0
    """Samples of an optimiser step, of which a batch says its share; 0: nothing is said of it."""

    def __init__(
        self,
        shards: TokenShards,
        objective: Objective,
        packing: PackingConfig,
        *,
        masking: MaskingConfig = MaskingConfig(),  # noqa: B008 (frozen)
        segments: SegmentConfig = SegmentConfig(),  # noqa: B008 (frozen)
        needles: NeedleConfig = NeedleConfig(),  # noqa: B008 (frozen)
        seed: int,
    ) -> None:
        """Prepare tables; no plan is computed yet. `seed` decides segmentation, pairs and masks."""
        self.shards = shards
        self._objective, self._packing, self._segments = objective, packing, segments
        self._seed = seed
        self._plans: dict[int, Examples] = {}
        self._ends: list[int] = []
        self._column_L = np.arange(packing.max_len, dtype=np.int64)
        self._masking = masking
        self._needles = None
        if needles.facts:
            self._needles = Needles(needles, shards, max_len=packing.max_len, seed=seed)
        self.read_words(None)

    def read_words(self, words: PieceWords | None) -> None:
        """Make batches of whole words from now on, as encoders of hashed words need them.

        Then only words that are one piece are hidden. None: batches of pieces.
        """
        self._words = words
        self._masker = Masker(
            self._masking,
            max_len=self._packing.max_len,
            tokenizer=self.shards.manifest.tokenizer,
            is_continuation_V=self.shards.is_continuation,
            seed=self._seed,
            single_pieces=words is not None,
        )
        self._hidden: dict[int, int] = {}

    @property
    def known_sizes(self) -> list[int]:
        """Examples in each epoch planned so far, epoch 0 first."""
        return np.diff(self._ends, prepend=0).tolist()

    def remember_sizes(self, sizes: list[int]) -> None:
        """Take over `known_sizes` of an equal stream, so that a resumed run need not plan again."""
        known = self.known_sizes
        common = min(len(known), len(sizes))
        if known[:common] != list(sizes[:common]):
            raise ValueError(
                f"the epochs of this corpus have {known[:common]} examples, the saved run had "
                f"{sizes[:common]}: it read other data or another version of this program."
            )
        if len(sizes) > len(known):
            self._ends = np.cumsum(sizes).tolist()

    def plan(self, epoch: int) -> Examples:
        """Return the plan of an epoch, from the cache if it is one of the last two used."""
        plan = self._plans.pop(epoch, None)
        if plan is None:
            packing, seed = self._packing, self._seed
            plan = make_plan(self.shards, self._objective, packing, seed=seed, epoch=epoch)
        self._plans[epoch] = plan
        while len(self._plans) > _PLANS_KEPT:
            del self._plans[next(iter(self._plans))]
        return plan

    def locate(self, samples: IntArray) -> tuple[IntArray, IntArray]:
        """Return epoch and row, (B,) int64 each, of sample numbers (B,) >= 0."""
        while not self._ends or self._ends[-1] <= samples.max():
            size = len(self.plan(len(self._ends)))
            self._ends.append(sum(self._ends[-1:]) + size)
        ends = np.array([0, *self._ends])
        epoch_B = np.searchsorted(ends, samples, side="right") - 1
        return epoch_B, samples - ends[epoch_B]

    def rows(self, samples: IntArray) -> dict[str, IntArray]:
        """Return the columns of `Examples`, (B,) int64 each, of sample numbers (B,)."""
        epoch_B, row_B = self.locate(samples)
        columns = {name: np.empty(samples.size, np.int64) for name in COLUMNS}
        for epoch in np.unique(epoch_B).tolist():
            here = epoch_B == epoch
            found = self.plan(epoch).take(row_B[here])
            for name, column in columns.items():
                column[here] = getattr(found, name)
        return columns

    def baselines(self, num_examples: int) -> dict[str, float]:
        """Return what guessing scores on the first examples; on all if there are fewer.

        Returns:
            `eval_examples`: how many were looked at;
            `unigram_accuracy`: share of masked tokens that are the train split's most frequent one;
            `unigram_loss`: cross-entropy in nats under the train split's counts plus one each;
            of needles both of a guess among their answers, which are equally likely;
            with a pair task also `pair_chance` (1 / classes) and `pair_majority` (share of the most
            frequent class). nan where there is nothing to score.
        """
        classes, counts_V = self._objective.num_pair_classes, self.shards.token_counts + 1.0
        if self._needles is not None:
            counts_V = np.full(counts_V.size, 1e-12)
            counts_V[self._needles.answers] = 1.0
        surprise_V = -np.log(counts_V / counts_V.sum())
        size = min(num_examples, len(self))
        hits, tokens, loss = 0, 0, 0.0
        pairs = np.zeros(max(1, classes), np.int64)
        for first in range(0, size, _BASELINE_BATCH):
            batch = self.__getitems__(range(first, min(first + _BASELINE_BATCH, size)))
            labels = batch["masked_labels"].numpy()
            labels = labels[labels != IGNORED_LABEL]
            tokens += labels.size
            hits += int((labels == counts_V.argmax()).sum())
            loss += float(surprise_V[labels].sum())
            if classes:
                pairs += np.bincount(batch["pair_labels"].numpy(), minlength=classes)
        scores = {
            "eval_examples": float(size),
            "unigram_accuracy": hits / tokens if tokens else float("nan"),
            "unigram_loss": loss / tokens if tokens else float("nan"),
        }
        if self._needles is not None and tokens:
            scores["unigram_accuracy"] = 1.0 / len(self._needles.answers)
        if classes:
            scores["pair_chance"] = 1.0 / classes
            scores["pair_majority"] = float(pairs.max() / max(1, pairs.sum()))
        return scores

    def __len__(self) -> int:
        """Return the number of examples of epoch 0; the stream itself has no end."""
        return len(self.plan(0))

    def __getitems__(self, samples: Sequence[int] | IntArray) -> Batch:
        """Return the batch of these sample numbers, in their order: of pieces, or of whole words.

        Of whole words, `input_ids` number the rows of `word_features`, (W, N) int64.
        """
        batch = self.pieces(samples)
        return batch if self._words is None else words_of(batch, self._words)

    def pieces(self, samples: Sequence[int] | IntArray) -> Batch:
        """Return the batch of these sample numbers in pieces, whatever the encoder reads.

        Returns:
            input_ids, token_type_ids, segment_ids (B, L) int64; masked_positions, masked_labels
            (B, M) int64 (unused slots: 0 and -100); pair_labels, example_ids (B,) int64; mask,
            special_mask (B, L) bool. Where `global_batch_size` is given also hidden_share (1,)
            float32, see `_hidden_share`. With needles instead what is known of each question, see
            `needles.Written`. Of joined texts what `join_batch` makes of it.
        """
        example_ids_B = np.asarray(samples, np.int64)
        rows = self.rows(example_ids_B)
        layout = lay_out(self.shards, rows, max_len=self._packing.max_len)
        ids_BL, text_BL = layout.ids_BL, layout.text_BL
        segment_ids_BL = self._segment_ids(rows, layout.first_sep_B, layout.last_sep_B)
        told: dict[str, npt.NDArray[np.int64]] = {}
        shares: dict[str, npt.NDArray[np.float32]] = {}
        if self._needles is None:
            positions_BM, labels_BM = self._masker.mask(ids_BL, text_BL, example_ids_B)
            if self.global_batch_size:
                shares = {HIDDEN_SHARE: np.array([self._hidden_share(example_ids_B)], np.float32)}
        else:
            borders_BL = segment_ids_BL if self._segments.rule == "sentence" else None
            written = self._needles.write(ids_BL, text_BL, example_ids_B, borders_BL)
            positions_BM, labels_BM = written.positions, written.labels
            told = {DISTANCES: written.distances, CHOICES: written.choices}
        arrays = {
            **told,
            "input_ids": ids_BL,
            "token_type_ids": (layout.second_BL & layout.mask_BL).astype(np.int64),
            "segment_ids": segment_ids_BL,
            "masked_positions": positions_BM,
            "masked_labels": labels_BM,
            "pair_labels": rows["label"],
            "example_ids": example_ids_B,
            **shares,
            "mask": layout.mask_BL,
            "special_mask": layout.special_BL,
        }
        batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
        masking = None if self._needles else self._masker.config
        return join_batch(batch, masking) if self.joins_texts else batch

    def _hidden_share(self, samples: IntArray) -> float:
        """Return the hidden tokens of the samples' optimiser step, by their share of its samples.

        So each hidden token of a step weighs the same, however the step is cut into micro-batches.
        """
        size = self.global_batch_size
        share = 0.0
        for step, count in Counter((samples // size).tolist()).items():
            share += self._hidden_in(step) * count / size
        return share

    def _hidden_in(self, step: int) -> int:
        """Return how many tokens are hidden in the samples of an optimiser step."""
        if step not in self._hidden:
            total, end = 0, (step + 1) * self.global_batch_size
            for first in range(end - self.global_batch_size, end, _COUNTED_AT_ONCE):
                samples = np.arange(first, min(first + _COUNTED_AT_ONCE, end))
                layout = lay_out(self.shards, self.rows(samples), max_len=self._packing.max_len)
                total += self._masker.num_hidden(layout.ids_BL, layout.text_BL, samples)
            self._hidden = {step: total}  # steps come one after the other
        return self._hidden[step]

    def _segment_ids(
        self, rows: dict[str, IntArray], first_sep_B: IntArray, last_sep_B: IntArray
    ) -> IntArray:
        """Return (B, L) int64 consecutive ids from 0 at [CLS].

        Every segment has a token or is the padding, which exists only in rows with fewer than L
        tokens; so all ids are below L without clipping.
        """
        index = np.arange(first_sep_B.size)
        starts_BL = np.zeros((index.size, self._column_L.size + 1), np.int8)
        starts_BL[:, 1] = 1
        for column_B in (first_sep_B, first_sep_B + 1, last_sep_B, last_sep_B + 1):
            starts_BL[index, column_B] = 1
        texts = (("a", np.ones_like(first_sep_B)), ("b", first_sep_B + 1))
        for text, column_B in texts:
            start_B, len_B = rows[f"{text}_start"], rows[f"{text}_len"]
            if self._segments.rule == "sentence":
                self._mark_sentences(starts_BL, start_B, len_B, column_B)
            elif self._segments.rule == "fixed":
                place_BL = self._column_L - column_B[:, None]
                inside_BL = (place_BL > 0) & (place_BL < len_B[:, None])
                every_BL = place_BL % self._segments.tokens_per_segment == 0
                starts_BL[:, :-1] |= inside_BL & every_BL
        return np.cumsum(starts_BL[:, :-1], axis=1, dtype=np.int64)

    def _mark_sentences(
        self,
        starts_BL: npt.NDArray[np.int8],
        start_B: IntArray,
        len_B: IntArray,
        column_B: IntArray,
    ) -> None:
        """Mark the sentences that start inside a text whose first token is at `column_B`."""
        offsets = np.asarray(self.shards.sentence_offsets)
        low_B = np.searchsorted(offsets, start_B, side="right")
        count_B = np.searchsorted(offsets, start_B + len_B, side="left") - low_B
        row_E = np.repeat(np.arange(len_B.size), count_B)
        place_E = offsets[low_B[row_E] + ragged_arange(count_B)]
        starts_BL[row_E, place_E - start_B[row_E] + column_B[row_E]] = 1


def encoder_batch(batch: Batch, *, compiled: bool = False) -> EncoderBatch:
    """Return the encoder's part of a batch; its segments are always runs of tokens.

    Compiled blocks are not told of batches without padding, for which attention needs no mask:
    they would be compiled once with a mask and once without.
    """
    return EncoderBatch(
        input_ids=batch["input_ids"],
        mask=batch["mask"],
        token_type_ids=batch["token_type_ids"],
        segment_ids=batch["segment_ids"],
        special_mask=batch["special_mask"],
        segments_are_runs=True,
        has_padding=bool(batch.get(HAS_PADDING, True)) or compiled,
        word_features=batch.get("word_features"),
        text_places=batch.get("text_places"),
    )


def words_of(batch: Batch, words: PieceWords) -> Batch:
    """Return a batch of pieces as one of whole words; the labels stay numbers of pieces."""
    inputs, positions_BM = words(encoder_batch(batch), batch["masked_positions"])
    assert inputs.word_features is not None
    own = {"word_features": inputs.word_features}  # first: the widest types lead (`pack_batch`)
    return {**own, **batch, **inputs.tensors(), "masked_positions": positions_BM}


def join_batch(batch: Batch, masking: MaskingConfig | None) -> Batch:
    """Return the same examples as one row without padding between them; N tokens, K slots.

    Returns:
        The same names, with (1, N) for (B, L) and (1, K) for (B, M), and `text_places` (B, L) int64
        of `EncoderBatch`. N is the number of tokens rounded up to one of 64 lengths; K follows from
        B and N, or is B M without masking. All labels are there, with the positions in the row.
    """
    num_texts, width = batch["mask"].shape
    unit = -(-num_texts * width // _JOINED_LENGTHS)
    num_tokens = -(-int(batch["mask"].sum()) // unit) * unit
    row = join_texts(encoder_batch(batch), num_tokens=num_tokens)
    assert row.text_places is not None
    used = batch["masked_labels"] != IGNORED_LABEL
    places = row.text_places.gather(1, batch["masked_positions"])[used]
    slots = used.numel()
    if masking is not None:
        slots = min(slots, masking.most_masked(num_texts, num_tokens))
    empty = (0, slots - len(places))
    labels = pad(batch["masked_labels"][used], empty, value=IGNORED_LABEL)
    return {  # masks stay last: `pack_batch` wants the widest types first
        "text_places": row.text_places,
        **batch,
        **row.tensors(),
        "masked_positions": pad(places, empty)[None],
        "masked_labels": labels[None],
    }


def keep_batch(batch: Batch) -> Batch:
    """Return the batch unchanged: `PretrainDataset` builds whole batches, nothing to collate."""
    return batch
