"""Which words decided an answer: what the pools took from each, or the answer without each.

Invariant: characters are those of the text as it was given; what a text gets depends on it alone.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from torch import Tensor

from finetune.data.batches import EncodedText, IntArray
from finetune.predict import Predictor
from finetune.tagging.files import split_words
from finetune.tasks.spec import Row
from finetune.thresholds import above, given_labels
from ponet.config import PoNetConfig, PoolingConfig
from ponet.winners import pool_winners

Method = Literal["pools", "removal"]
Explanation = dict[str, Any]
"""What `Decider` returns."""
_DIGITS = 6


class Word(NamedTuple):
    """A word of a row, as BERT's pre-tokenizer parts them: a mark of punctuation is one too."""

    text: int
    """0 or 1: of the second text of a pair."""
    start: int
    """First character in its text."""
    end: int
    """One past the last character."""


class Reading(NamedTuple):
    """What a model reads of a row."""

    text: EncodedText
    words: list[Word]
    """Those with a token, in order."""
    word_of_T: IntArray
    """(tokens,): place in `words` of the word of every token; one past the last: of none."""

    def by_word(self, values_T: Tensor) -> list[float]:
        """Return the sums of values over the tokens of every word, then over [CLS] and [SEP]."""
        values = values_T.detach().double().cpu().numpy()[: len(self.word_of_T)]
        sums = np.bincount(self.word_of_T, values, minlength=len(self.words) + 1)
        return [_short(value) for value in sums.tolist()]


def words_of(row: Row) -> list[Word]:
    """Return the words of both texts of a row, in order."""
    texts = enumerate((row.text, row.text_pair))
    return [Word(number, *ends) for number, text in texts for _, ends in split_words(text)]


def without(row: Row, words: Sequence[Word]) -> Row:
    """Return a row in whose texts a space stands in the place of some words."""
    texts = [row.text, row.text_pair]
    for number, start, end in sorted(words, reverse=True):
        texts[number] = f"{texts[number][:start]} {texts[number][end:]}"
    return row._replace(text=texts[0].strip(), text_pair=texts[1].strip())


class Decider:
    """Says of every word of a text what it gave to a classifier's answer.

    `Decider(Predictor(load_classifier("runs/my_task")))(row)` explains one row.

    Args:
        predictor: A classifier or regression of whole texts.
        method: pools: what PoNet's pools took from the words and gave to the answer (see
            `ponet.winners`). removal: the answer less the answer to the text without the word,
            for any encoder, at the cost of one text for each word.
        label: Explain the answer that it is this label; empty: that it is the likeliest one, where
            several may hold the likeliest of those that are given.

    Raises:
        ValueError: The model gives tags, has no such label, or has no pools.
    """

    def __init__(self, predictor: Predictor, *, method: Method, label: str = "") -> None:
        info, encoder = predictor.classifier.info, predictor.classifier.model.encoder
        if info.tags:
            raise ValueError(
                "a model that labels words or sentences was given; explain takes answers to whole "
                "texts"
            )
        if label and label not in info.labels:
            known = ", ".join(info.labels) or "none, it gives a score"
            raise ValueError(f"--label {label} is not a label of this model; it has {known}")
        if method == "pools" and not isinstance(encoder.config, PoNetConfig):
            pools_somewhere = isinstance(encoder.config, PoolingConfig)
            lack = "layers without pools" if pools_somewhere else "no pools"
            raise ValueError(
                f"this encoder ({encoder.config.kind}) has {lack}, so that winners do not account "
                "for its answer; --method removal explains any encoder, by taking out every word "
                "in turn"
            )
        projection = encoder.config.projection
        if method == "pools" and projection is not None and projection.pair_rows:
            raise ValueError(
                f"pair_rows={projection.pair_rows}: words and pairs have a say in the answer of "
                "this model beside its pools; take --method removal"
            )
        self.predictor, self.method, self.label = predictor, method, label

    def __call__(self, row: Row) -> Explanation:
        """Return the answer to a row and what its words gave to it.

        Keys: line; label, probability, log_odds (of the label against all others together), or
        score; where several labels may hold, log_odds is that of the label itself, and labels has
        those that `predict` gives; words_cut, words beyond the longest text; given_by_others, what
        [CLS] and [SEP] gave (pools); words, each with text (0 or 1), start, end, word and given, in
        log-odds or on the scale of the score; with pools for every layer, from the first,
        segment_maxima (won channels of its segment's maximum, out of `channels`), local_maxima (won
        pairs of window and channel) and global_share too.

        Raises:
            ValueError: The row cannot be encoded, or has nothing left without one of its words.
        """
        self.predictor.classifier.encoder.forget()
        found = self.read(row)
        outputs_C = self.outputs([found.text])[0]
        place = self.place(outputs_C)
        answer = self._answer(outputs_C, place)
        if self.method == "pools":
            told = self._pools(found, place)
        else:
            rows = [without(row, [word]) for word in found.words]
            given_W = self.measure(outputs_C[None], place) - self.scores(
                rows, place, "without one of its words: "
            )
            told = {"words": [{"given": _short(value)} for value in given_W.tolist()]}
        named = [
            {**word._asdict(), "word": _characters(row, word), **said}
            for word, said in zip(found.words, told.pop("words"), strict=True)
        ]
        rest = {"words_cut": _num_cut(row, found), **told, "words": named}
        return {"line": row.line, **answer, **rest}

    def read(self, row: Row) -> "Reading":
        """Return what the model reads of a row; see `__call__` for errors."""
        (text,) = self._encoded([row])
        words = words_of(row)
        begins = [(word.text, word.start) for word in words]
        places = self.predictor.classifier.encoder.characters(row)
        numbers = [-1 if place is None else bisect_right(begins, place) - 1 for place in places]
        kept = sorted(set(numbers) - {-1})
        slots = {number: slot for slot, number in enumerate(kept)}
        word_of_T = np.array([slots.get(number, len(kept)) for number in numbers])
        return Reading(text, [words[number] for number in kept], word_of_T)

    def scores(self, rows: Sequence[Row], place: int, what: str = "") -> Tensor:
        """Return what is explained of each row, as `measure`; errors begin with `what`."""
        return self.measure(self.outputs(self._encoded(rows, what)), place)

    def measure(self, outputs_BC: Tensor, place: int) -> Tensor:
        """Return what is explained, (B,): the log-odds of a label, or the score."""
        info = self.predictor.classifier.info
        if info.is_regression:
            return info.scale.outer(outputs_BC[:, 0])
        if info.is_multilabel:
            return outputs_BC[:, place]
        others = [number for number in range(outputs_BC.shape[1]) if number != place]
        return outputs_BC[:, place] - outputs_BC[:, others].logsumexp(1)

    def _encoded(self, rows: Sequence[Row], what: str = "") -> list[EncodedText]:
        texts = list[EncodedText]()
        for text in self.predictor.encoded(rows):
            if isinstance(text, str):
                raise ValueError(what + text)
            texts.append(text)
        return texts

    def outputs(self, texts: Sequence[EncodedText]) -> Tensor:
        """Return the model's outputs for some texts, (texts, C)."""
        return self.predictor.answers(texts).outputs

    def place(self, outputs_C: Tensor) -> int:
        """Return the place of the label that is explained, given the outputs for a text.

        Where several may hold, it is the likeliest of those that `predict` gives, if it gives any.
        """
        info = self.predictor.classifier.info
        if self.label:
            return info.labels.index(self.label)
        if not info.is_multilabel:
            return int(outputs_C.argmax())
        is_given_C = above(outputs_C, info.thresholds)
        given_C = outputs_C.masked_fill(~is_given_C, -math.inf)
        return int((given_C if is_given_C.any() else outputs_C).argmax())

    def _answer(self, outputs_C: Tensor, place: int) -> Explanation:
        info, value = self.predictor.classifier.info, self.measure(outputs_C[None], place)
        if info.is_regression:
            return {"score": float(value)}
        chance = float(value.sigmoid())
        said = {"label": info.labels[place], "probability": chance, "log_odds": float(value)}
        if info.is_multilabel:
            said["labels"] = given_labels(info.labels, outputs_C, info.thresholds)
        return said

    def _pools(self, found: "Reading", place: int) -> Explanation:
        predictor = self.predictor
        batch = predictor.classifier.encoder.batch([found.text]).to(predictor.device)
        _, layers = pool_winners(
            predictor.classifier.model, batch, lambda outputs: self.measure(outputs, place)
        )
        given_1L = sum(part for layer in layers for part in layer.given)
        assert isinstance(given_1L, Tensor)
        taken = [part for layer in layers for part in layer.taken]
        table = [found.by_word(values_1L[0]) for values_1L in (given_1L, *taken)]
        names = ("segment_maxima", "local_maxima", "global_share")
        said = [
            {"given": given, **{name: taken[k::3] for k, name in enumerate(names)}}
            for given, *taken in zip(*table, strict=True)
        ]
        width = predictor.classifier.model.encoder.config.hidden_size
        return {"channels": width, "given_by_others": table[0][-1], "words": said[:-1]}


def _num_cut(row: Row, found: Reading) -> int:
    """Return how many words stand behind the last one read of their text, of one that was cut.

    A word of characters that the tokenizer drops has no token either, wherever it stands.
    """
    last = {word.text: word.start for word in found.words}
    behind = (word.start > last.get(word.text, -1) for word in words_of(row))
    return sum(behind) if found.text.is_truncated else 0


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _characters(row: Row, word: Word) -> str:
    return (row.text, row.text_pair)[word.text][word.start : word.end]
