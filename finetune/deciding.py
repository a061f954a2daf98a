"""Which words decided an answer: what the pools took from each, or the answer without each.

Invariant: characters are those of the text as it was given; what a text gets depends on it alone.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from finetune.data.batches import EncodedText
from finetune.predict import Predictor
from finetune.tagging.files import split_words
from finetune.tasks.spec import Row
from ponet.config import PoNetConfig
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
        label: Explain the answer that it is this label; empty: that it is the likeliest one.

    Raises:
        ValueError: The model gives tags, has no such label, or has no pools.
    """

    def __init__(self, predictor: Predictor, *, method: Method, label: str = "") -> None:
        info, encoder = predictor.classifier.info, predictor.classifier.model.encoder
        if info.tags:
            raise ValueError(
                "a model that tags words was given; explain takes whole texts' answers"
            )
        if label and label not in info.labels:
            known = ", ".join(info.labels) or "none, it gives a score"
            raise ValueError(f"--label {label} is not a label of this model; it has {known}")
        if method == "pools" and not isinstance(encoder.config, PoNetConfig):
            raise ValueError(
                f"this encoder ({encoder.config.kind}) has no pools, so that nothing in it has a "
                "winner; --method removal explains any encoder, by taking out every word in turn"
            )
        self.predictor, self.method, self.label = predictor, method, label

    def __call__(self, row: Row) -> Explanation:
        """Return the answer to a row and what its words gave to it.

        Keys: line; label, probability, log_odds (of the label against all others together), or
        score; words_cut, words beyond the longest text; given_by_others, what [CLS] and [SEP] gave
        (pools); words, each with text (0 or 1), start, end, word and given, in log-odds or on the
        scale of the score; with pools for every layer, from the first, segment_maxima (won channels
        of its segment's maximum, out of `channels`), local_maxima (won pairs of window and channel)
        and global_share too.

        Raises:
            ValueError: The row cannot be encoded, or has nothing left without one of its words.
        """
        (text,) = self._encoded([row])
        words = words_of(row)
        word_of_T = _words_of_tokens(words, self.predictor.classifier.encoder.characters(row))
        kept = sorted(set(word_of_T) - {-1})
        outputs_C = self._outputs([text])[0]
        place = self._place(outputs_C)
        answer = self._answer(outputs_C, place)
        if self.method == "pools":
            told = self._pools(text, place, word_of_T)
        else:
            rows = [without(row, [words[number]]) for number in kept]
            encoded = self._encoded(rows, "without one of its words: ")
            others = self.measure(self._outputs(encoded), place)
            given = (self.measure(outputs_C[None], place) - others).tolist()
            told = {"words": [{"given": _short(value)} for value in given]}
        named = [
            {**words[number]._asdict(), "word": _characters(row, words[number]), **said}
            for number, said in zip(kept, told.pop("words"), strict=True)
        ]
        rest = {"words_cut": len(words) - len(kept), **told, "words": named}
        return {"line": row.line, **answer, **rest}

    def measure(self, outputs_BC: Tensor, place: int) -> Tensor:
        """Return what is explained, (B,): the log-odds of a label, or the score."""
        info = self.predictor.classifier.info
        if info.is_regression:
            return info.scale.outer(outputs_BC[:, 0])
        others = [number for number in range(outputs_BC.shape[1]) if number != place]
        return outputs_BC[:, place] - outputs_BC[:, others].logsumexp(1)

    def _encoded(self, rows: Sequence[Row], what: str = "") -> list[EncodedText]:
        texts = list[EncodedText]()
        for text in self.predictor.encoded(rows):
            if isinstance(text, str):
                raise ValueError(what + text)
            texts.append(text)
        return texts

    def _outputs(self, texts: Sequence[EncodedText]) -> Tensor:
        return torch.stack([outputs_C for outputs_C, _ in self.predictor.answers(texts)])

    def _place(self, outputs_C: Tensor) -> int:
        labels = self.predictor.classifier.info.labels
        return labels.index(self.label) if self.label else int(outputs_C.argmax())

    def _answer(self, outputs_C: Tensor, place: int) -> Explanation:
        info, value = self.predictor.classifier.info, self.measure(outputs_C[None], place)
        if info.is_regression:
            return {"score": float(value)}
        chance = float(value.sigmoid())
        return {"label": info.labels[place], "probability": chance, "log_odds": float(value)}

    def _pools(self, text: EncodedText, place: int, word_of_T: Sequence[int]) -> Explanation:
        predictor, kept = self.predictor, sorted(set(word_of_T) - {-1})
        batch = predictor.classifier.encoder.batch([text]).to(predictor.device)
        _, layers = pool_winners(
            predictor.classifier.model, batch, lambda outputs: self.measure(outputs, place)
        )
        given_T = sum(part for layer in layers for part in layer.given)
        assert isinstance(given_T, Tensor)
        rows = torch.stack([given_T, *(part for layer in layers for part in layer.taken)])
        sums = np.zeros((len(rows), len(kept) + 1))
        slots = np.searchsorted(kept, word_of_T)
        slots[np.array(word_of_T) < 0] = len(kept)  # [CLS], [SEP]
        np.add.at(sums.T, slots, rows[:, 0].double().cpu().numpy().T[: len(slots)])
        names = ("segment_maxima", "local_maxima", "global_share")
        table = [[_short(value) for value in column] for column in sums.T.tolist()]
        said = [
            {"given": given, **{name: taken[k::3] for k, name in enumerate(names)}}
            for given, *taken in table
        ]
        width = predictor.classifier.model.encoder.config.hidden_size
        return {"channels": width, "given_by_others": table[-1][0], "words": said[:-1]}


def _words_of_tokens(words: Sequence[Word], places: Sequence[tuple[int, int] | None]) -> list[int]:
    """Return the number of the word that each token belongs to; -1: to none."""
    begins = [(word.text, word.start) for word in words]
    return [-1 if place is None else bisect_right(begins, place) - 1 for place in places]


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _characters(row: Row, word: Word) -> str:
    return (row.text, row.text_pair)[word.text][word.start : word.end]
