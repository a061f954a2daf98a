"""Facts in a haystack: sentences put into real texts that state a fact, and others that ask for it.

`the code of <name> is <word>.` stands somewhere in a text of the shards, and somewhere else `the
code of <name> is [MASK].`; the word is to be found. Invariant: what is written, where, and what is
asked are a pure function of (seed, example id, shape of the example), and names and words of the
tokenizer alone; the words occur in the other text too, as rarely as they do.

B batch, L positions, K places for a sentence, F facts, Q questions, N tokens of a sentence,
W answers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data_prep.manifest import TOKENIZER_NAME
from data_prep.shards import TokenShards
from ponet.tokenizer import load_tokenizer
from pretrain.objectives import IGNORED_LABEL
from pretrain.packing import NUM_SPECIAL
from pretrain.randomness import (
    LAST,
    BoolArray,
    IntArray,
    UintArray,
    derive_key,
    random_below,
    random_bits,
    two_uniforms,
)

NUM_NAMES = 64
NUM_ANSWERS = 32
SENTENCE = ("the code of", None, "is", None, ".")
"""What a fact says; the gaps are for a name and a word."""
DISTANCES, CHOICES = "needle_distances", "needle_choices"
"""Names in a batch of what is known of its questions; see `Written`."""
_SPACE_MARKS = "▁Ġ"


@dataclass(frozen=True, kw_only=True)
class NeedleConfig:
    """Facts that are put into the texts and asked for, instead of masking as usual."""

    facts: int = 0
    """Facts in a text, from 1 to 32; then their words are all that is predicted. 0: none, and masks
    as usual."""
    questions: int = 8
    """Questions in a text, each about one of its facts; at least 1."""
    span: int = 0
    """Tokens of the longer text of which the example is a random part: facts that fall outside are
    asked for all the same, and nobody can know them. 0, or data.max_len: all are inside."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 <= self.facts <= NUM_ANSWERS:
            raise ValueError(f"needles.facts is {self.facts}; it must be from 0 to {NUM_ANSWERS}.")
        if self.questions < 1 or self.span < 0:
            raise ValueError(
                f"needles.questions is {self.questions}, needles.span {self.span}; they must be at "
                "least 1 and 0."
            )


class Written(NamedTuple):
    """The questions of a batch, (B, Q) int64 each, Q at most as many as fit; unused come last."""

    positions: IntArray
    """Of the hidden word; unused: 0."""
    labels: IntArray
    """The word; unused: -100."""
    distances: IntArray
    """Tokens between question and fact, at least N; unused: 0."""
    choices: IntArray
    """Different answers that the example shows; 0 where the fact is outside of it."""


class Needles:
    """Writes facts and questions over the tokens of whole batches."""

    def __init__(
        self, config: NeedleConfig, shards: TokenShards, *, max_len: int, seed: int
    ) -> None:
        """Choose the words, the same ones for every seed and split.

        Args:
            config: How many.
            shards: Their tokenizer says what words there are, their counts how frequent these are.
            max_len: L.
            seed: Of the places, names and answers.

        Raises:
            ValueError: If the vocabulary has not enough words of one piece, or L has no room for
                the facts and a question.
        """
        self.config = config
        tokenizer = load_tokenizer(shards.folder / TOKENIZER_NAME)
        self._names, self.answers = word_lists(tokenizer, shards)
        self._answer_V = np.full(shards.token_counts.size, NUM_ANSWERS)
        self._answer_V[self.answers] = np.arange(NUM_ANSWERS)
        self._mask_id = shards.manifest.tokenizer.mask_id
        parts = [
            [-1] if part is None else tokenizer.encode(part, add_special_tokens=False).ids
            for part in SENTENCE
        ]
        self._sentence_N = np.array(sum(parts, []), np.int64)
        self._name_at, self._word_at = np.flatnonzero(self._sentence_N == -1).tolist()
        needed = (config.facts + 2) * self._sentence_N.size + NUM_SPECIAL
        if max_len < needed:
            raise ValueError(
                f"data.max_len is {max_len}, but needles.facts {config.facts} and a question take "
                f"{needed} tokens; give a longer one, or fewer facts."
            )
        self._key = derive_key(seed, "needles")

    def write(
        self, ids_BL: IntArray, text_BL: BoolArray, example_ids_B: IntArray,
        segment_ids_BL: IntArray | None = None,
    ) -> Written:  # fmt: skip
        """Write facts and questions over `ids_BL` in place; return the questions.

        Where a text has too few places, it has fewer questions.

        Args:
            ids_BL: (B, L) int64, token ids.
            text_BL: (B, L) bool, True at tokens of the two texts; these are overwritten.
            example_ids_B: (B,) int64, sample numbers.
            segment_ids_BL: (B, L) int64, consecutive from 0; changed in place, so that every
                sentence that is written is a segment. None: there are no sentences.
        """
        (num_rows, length), size = ids_BL.shape, self._sentence_N.size
        num_facts, num_places = self.config.facts, (length - 1) // size
        num_questions = min(self.config.questions, num_places - num_facts)
        key_B1 = random_bits(self._key, example_ids_B)[:, None]
        text_BK = text_BL[:, 1 : 1 + num_places * size].reshape(num_rows, num_places, size).all(-1)
        order_BK = np.argsort(np.where(text_BK, draw(key_B1, "places", num_places), LAST), axis=1)
        count_B1 = text_BK.sum(1)[:, None]
        asked_B1 = np.clip(count_B1 - num_facts, 0, num_questions)
        used_BQ = np.arange(num_questions) < asked_B1

        column_F = np.arange(num_facts)
        at_BF = np.minimum(asked_B1 + column_F, num_places - 1)
        fact_BF = np.take_along_axis(order_BK, at_BF, 1)
        virtual_BF, is_inside_BF = self._in_span(key_B1, num_places)
        is_inside_BF &= asked_B1 + column_F < count_B1
        virtual_BF = np.where(is_inside_BF, fact_BF, virtual_BF)
        name_BF = self._names[np.argsort(draw(key_B1, "names", NUM_NAMES), axis=1)[:, :num_facts]]
        drawn_BW = np.argsort(draw(key_B1, "answers", NUM_ANSWERS), axis=1)
        answer_BF = self.answers[drawn_BW[:, :num_facts]]

        which_BQ = random_below(two_uniforms(draw(key_B1, "which", num_questions))[0], num_facts)
        question_BQ = order_BK[:, np.arange(num_questions) % num_places]

        def asked_for(value_BF: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return np.take_along_axis(value_BF, which_BQ, 1)

        starts_BL = None if segment_ids_BL is None else np.diff(segment_ids_BL, axis=1, prepend=0)
        self._put(ids_BL, starts_BL, fact_BF, is_inside_BF, name_BF, answer_BF)
        hidden_BQ = np.full_like(question_BQ, self._mask_id)
        self._put(ids_BL, starts_BL, question_BQ, used_BQ, asked_for(name_BF), hidden_BQ)
        if segment_ids_BL is not None and starts_BL is not None:
            np.cumsum(starts_BL, axis=1, out=segment_ids_BL)
        is_known_BQ = asked_for(is_inside_BF) & used_BQ
        distance_BQ = np.abs(asked_for(virtual_BF) - question_BQ) * size
        return Written(
            positions=np.where(used_BQ, 1 + question_BQ * size + self._word_at, 0),
            labels=np.where(used_BQ, asked_for(answer_BF), IGNORED_LABEL),
            distances=np.where(used_BQ, distance_BQ, 0),
            choices=np.where(is_known_BQ, self._shown(ids_BL)[:, None], 0),
        )

    def _in_span(self, key_B1: UintArray, num_places: int) -> tuple[IntArray, BoolArray]:
        """Return (B, F) places of facts in the longer text, counted from the example's first one.

        And whether they are inside the example.
        """
        num_all = max(num_places, self.config.span // self._sentence_N.size)
        first_B1 = random_below(two_uniforms(draw(key_B1, "first", 1))[0], num_all - num_places + 1)
        uniform_BF = two_uniforms(draw(key_B1, "span", self.config.facts))[0]
        place_BF = random_below(uniform_BF, num_all) - first_B1
        return place_BF, (place_BF >= 0) & (place_BF < num_places)

    def _put(
        self, ids_BL: IntArray, starts_BL: IntArray | None, place_BS: IntArray,
        is_used_BS: BoolArray, name_BS: IntArray, word_BS: IntArray,
    ) -> None:  # fmt: skip
        """Write sentences over the tokens, and their borders among the starts of segments."""
        size = self._sentence_N.size
        row_S1, first_S1 = (
            np.nonzero(is_used_BS)[0][:, None],
            1 + place_BS[is_used_BS][:, None] * size,
        )
        ids_BL[row_S1, first_S1 + np.arange(size)] = self._sentence_N
        ids_BL[row_S1[:, 0], first_S1[:, 0] + self._name_at] = name_BS[is_used_BS]
        ids_BL[row_S1[:, 0], first_S1[:, 0] + self._word_at] = word_BS[is_used_BS]
        if starts_BL is not None:
            starts_BL[row_S1, first_S1 + np.arange(1, size)] = 0
            starts_BL[row_S1, first_S1 + np.array([0, size])] = 1

    def _shown(self, ids_BL: IntArray) -> IntArray:
        """Return (B,) how many different answers stand in each row."""
        shown_BW = np.zeros((len(ids_BL), NUM_ANSWERS + 1), np.bool_)
        np.put_along_axis(shown_BW, self._answer_V[ids_BL], True, 1)
        shown_B: IntArray = shown_BW[:, :NUM_ANSWERS].sum(1)
        return shown_B


def draw(key_B1: UintArray, purpose: str, count: int) -> UintArray:
    """Return (B, count) random numbers of a purpose."""
    return random_bits(key_B1 ^ derive_key(purpose), np.arange(count))


def word_lists(tokenizer: Any, shards: TokenShards) -> tuple[IntArray, IntArray]:
    """Return names and answers, ids of words of one piece that are neither frequent nor rare.

    Raises:
        ValueError: If there are fewer than 96 such words.
    """
    counts_V = shards.token_counts
    by_count = np.argsort(-counts_V.astype(np.int64), kind="stable")
    by_count = by_count[(counts_V[by_count] > 0) & ~shards.is_continuation[by_count]]
    words = [
        number for number in by_count.tolist()
        if tokenizer.id_to_token(number).strip(_SPACE_MARKS).isalnum()
    ]  # fmt: skip
    middle = np.array(words[len(words) // 8 : -max(1, len(words) // 4)], np.int64)
    needed = NUM_NAMES + NUM_ANSWERS
    if middle.size < needed:
        raise ValueError(
            f"needles need {needed} words of one piece of middling frequency, the vocabulary of "
            f"{shards.folder} has {middle.size}; build the shards with a larger vocabulary."
        )
    order = np.argsort(random_bits(derive_key("needle words"), middle), kind="stable")
    return middle[order[:NUM_NAMES]], middle[order[NUM_NAMES:needed]]


@dataclass
class NeedleScores:
    """Counts answers by the distance of the fact, in doublings, beside what guessing scores."""

    _found: list[npt.NDArray[Any]] = field(default_factory=list)

    def add(self, batch: Mapping[str, Any], labels: Any, predictions: Any) -> None:
        """Count the questions of a batch; labels and predictions (B, Q) int64 tensors."""
        used = (labels != IGNORED_LABEL).cpu()
        columns = (batch[DISTANCES], batch[CHOICES], labels, predictions)
        self._found.append(np.stack([column.cpu()[used].numpy() for column in columns]))

    def rows(self) -> list[dict[str, float]]:
        """Return a row per doubling of the distance, and a last one of all questions.

        Returns:
            `distance`: at most so many tokens, and more than the half (the last row: all);
            `questions`, `accuracy`; `visible`, the share of the facts that the examples show;
            `anywhere`, what a guess among the answers that stand in the example scores;
            `majority`, the share of the most frequent answer.
        """
        if not self._found:
            return []
        distances, choices, labels, predictions = np.concatenate(self._found, axis=1)
        tops = 2 ** np.ceil(np.log2(np.maximum(distances, 1))).astype(np.int64)
        groups = [(float(top), tops == top) for top in np.unique(tops)]
        groups.append((float(tops.max()), np.full(tops.shape, True)))
        return [
            {
                "distance": top,
                "questions": float(group.sum()),
                "accuracy": float((labels == predictions)[group].mean()),
                "visible": float((choices > 0)[group].mean()),
                "anywhere": float(((choices > 0) / np.maximum(choices, 1))[group].mean()),
                "majority": float(
                    np.unique(labels[group], return_counts=True)[1].max() / group.sum()
                ),
            }
            for top, group in groups
        ]
