"""What goes over from given weights to the model of a run: rows by their words, positions, heads.

Invariant: vocabulary and positions only grow, every weight is taken over or named as new, and
token ids mean in the shards what they mean in the weights.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data_prep.manifest import SPECIAL_ROLES, read_vocab
from ponet import PretrainingModel
from ponet.bundle import bundle_folder
from ponet.encoders.backbone import PositionMethod, extend_positions
from ponet.weight_files import TOKENIZER_NAME
from pretrain.run_config import NewWords
from training.moments import KeptOptimizer, States

_WORD, _BIAS = "encoder.embeddings.word.weight", "mlm_head.bias"
_OUTPUT = "mlm_head.weight"
"""Of an encoder of hashed words, which has no embeddings of a vocabulary."""
_POSITION = "encoder.embeddings.position.weight"
_HEADS = ("mlm_head", "pooler", "pair_head")
_NEW = -1


@dataclass(frozen=True, kw_only=True)
class GivenWeights:
    """A model to begin with, and what is known of it."""

    source: str
    """As it was given."""
    model: PretrainingModel
    """In evaluation mode, on the CPU."""
    tokenizer: str
    """Content of its tokenizer.json."""
    lineage: dict[str, Any]
    """`source`, `weights_sha256` and the `metadata` of its bundle, that of its own start in it."""
    checkpoint: Path | None = None
    """What they were read from, if that is a checkpoint."""
    optimizer: KeptOptimizer | None = None
    """What its optimiser remembers, if that was asked for."""

    @property
    def advice(self) -> str:
        """How to make shards that fit."""
        folder = bundle_folder(Path(self.source).expanduser())
        names = (TOKENIZER_NAME, "vocab.txt")
        file = next((folder / name for name in names if (folder / name).is_file()), None)
        return (
            "build the shards with the tokenizer of the weights: python -m data_prep build "
            "--config configs/data/local_text.yaml --source.path TEXTS --tokenizer.path "
            f"{file or 'ITS_TOKENIZER_JSON'} --output FOLDER (more words: --tokenizer.add_words)"
        )


def matched_rows(weights: GivenWeights, tokenizer_json: Path, *, vocab_size: int) -> list[int]:
    """Return for every token id the row of the weights that it takes, -1 for a new word.

    Rows beyond both tokenizers, which round a number up, keep their places.

    Args:
        weights: Their tokenizer must have no piece that the other one lacks.
        tokenizer_json: That of the shards.
        vocab_size: Length of the result.

    Raises:
        ValueError: The tokenizers differ by more than added words; says in what, and what to do.
    """
    theirs, own = _parts(weights.tokenizer), _parts(tokenizer_json.read_text(encoding="utf-8"))
    pieces, ids = theirs.pop("vocab"), own.pop("vocab")
    differing = [name for name in theirs if theirs[name] != own[name]]
    if lost := [piece for piece in pieces if piece not in ids]:
        differing.append(
            f"{len(lost):,} of {len(pieces):,} pieces of the weights are missing, such as "
            f"{', '.join(lost[:3])}"
        )
    if differing:
        raise ValueError(
            f"the shards' tokenizer {tokenizer_json} is not that of {weights.source}, with words "
            f"added or not: {'; '.join(differing)}. Token ids would mean other words; "
            f"{weights.advice}"
        )
    before = weights.model.config.vocab_size
    rows = [number if number < before else _NEW for number in range(vocab_size)]
    for piece, number in ids.items():
        rows[number] = pieces.get(piece, _NEW)
    return rows


def _parts(tokenizer_json: str) -> dict[str, Any]:
    """Return what decides which ids a text gets, as this version of the library writes it."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenizer_json)
    content = json.loads(tokenizer.to_str())
    model = {key: value for key, value in content["model"].items() if key != "vocab"}
    parts = {name: content.get(name) for name in ("normalizer", "pre_tokenizer")}
    return {**parts, "model": model, "vocab": tokenizer.get_vocab()}


def _new_rows(table: Tensor, weights: GivenWeights, tokens: Mapping[int, str]) -> dict[int, Tensor]:
    """Return for new words the mean of the rows of the pieces that they were cut into so far."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(weights.tokenizer)
    unknown = {tokenizer.token_to_id(name) for name in SPECIAL_ROLES["unk_token"]}
    found = {}
    for number, word in tokens.items():
        pieces = tokenizer.encode(word.removeprefix("##"), add_special_tokens=False).ids
        if known := [piece for piece in pieces if piece not in unknown]:
            found[number] = table[known].mean(0)
    return found


class _Growth(NamedTuple):
    """How the tables of given weights get the rows of a model that knows more."""

    weights: GivenWeights
    by_word: frozenset[str]
    """Names of the tables that have a row for every word."""
    rows: Tensor
    """For every word of the model its row in the weights, -1 for a new one."""
    words: Mapping[int, str]
    """New words whose rows begin as the mean of those of their pieces."""
    num_positions: int
    method: PositionMethod

    def grown(self, values: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return values with all the rows of the model.

        Args:
            values: By the names of the weights: these themselves, or a moment of each.
            fresh: Of the tables by word: whole ones, for the rows that no old one leads to.
        """
        found, kept = dict(values), self.rows != _NEW
        for name in self.by_word & values.keys():
            table = fresh[name].clone()
            table[kept] = values[name][self.rows[kept]]
            for number, row in _new_rows(values[name], self.weights, self.words).items():
                table[number] = row
            found[name] = table
        if _POSITION in found and len(found[_POSITION]) < self.num_positions:
            table = found[_POSITION]
            found[_POSITION] = extend_positions(table, self.num_positions, method=self.method)
        return found

    def grown_states(self, states: States) -> States:
        """Return what an optimiser remembers of tables, with all the rows of the model.

        A moment follows the rows of its weights. Of a row that no old one leads to, the first
        moment is 0, and the second the mean over all rows: at 0, with the step count of the whole
        table, its first steps would be several times as long as those of other rows.
        """
        found = {name: dict(state) for name, state in states.items()}
        for moment in ("exp_avg", "exp_avg_sq"):
            values = {name: state[moment] for name, state in states.items() if moment in state}
            means = {name: values[name].mean(0) for name in self.by_word & values.keys()}
            fresh = {
                name: (mean if moment == "exp_avg_sq" else torch.zeros_like(mean)).expand(
                    len(self.rows), *mean.shape
                )
                for name, mean in means.items()
            }
            for name, value in self.grown(values, fresh).items():
                found[name][moment] = value
        return found


class TakenOver(NamedTuple):
    """What did not go over from weights to a model, in words, and what their optimiser kept."""

    new: list[str]
    """Words, positions and heads that the weights lack."""
    left_out: list[str]
    """Heads that the objective has no use for."""
    states: States
    """Of the weights that went over, with the rows that these have now."""


def take_over(
    target: PretrainingModel,
    weights: GivenWeights,
    tokenizer_json: Path,
    *,
    new_positions: PositionMethod = "tile",
    new_words: NewWords = "pieces",
) -> TakenOver:
    """Put given weights into a model; returns what is new and what was left out.

    Args:
        target: Its encoder is that of the weights, or has more words and positions. It keeps the
            fresh values of what the weights lack.
        weights: See `given_weights`.
        tokenizer_json: That of the shards.
        new_positions: How a position table is made longer.
        new_words: Rows of words that the weights do not know: the mean of the rows of the pieces
            they were cut into so far, or fresh values.

    Source:
        New rows as means of old ones: J. Hewitt, "Initializing new word embeddings for pretrained
        language models", 2021; here of the word's own pieces.
    """
    fresh, size = target.state_dict(), target.config.vocab_size
    given = dict(weights.model.state_dict())
    untrained = set(weights.lineage["metadata"].get("untrained") or ())
    given = {name: value for name, value in given.items() if name not in untrained}
    rows = torch.tensor(matched_rows(weights, tokenizer_json, vocab_size=size))
    notes = []
    ids = read_vocab(tokenizer_json).items()
    words = dict(sorted((number, word) for word, number in ids if rows[number] == _NEW))
    growth = _Growth(
        weights=weights,
        by_word=frozenset({_OUTPUT if target.config.projection else _WORD, _BIAS}),
        rows=rows,
        words=words if new_words == "pieces" else {},
        num_positions=len(fresh.get(_POSITION, ())),
        method=new_positions,
    )
    state = growth.grown(given, fresh)
    if words:
        notes.append(f"{len(words):,} new words ({new_words}): {_some(list(words.values()))}")
    if _POSITION in given and len(given[_POSITION]) < len(state[_POSITION]):
        length = len(state[_POSITION])
        notes.append(f"positions {len(given[_POSITION])} -> {length} ({new_positions})")
    fitting = {n: v for n, v in state.items() if n in fresh and v.shape == fresh[n].shape}
    new, left = (_parts_of(names) for names in (fresh.keys() - fitting, state.keys() - fitting))
    assert set(new) <= set(_HEADS), new  # the encoders are the same
    target.load_state_dict({**fresh, **fitting})
    notes += [f"fresh values: {_some(new)}"] if new else []
    kept = weights.optimizer.states if weights.optimizer else {}
    states = growth.grown_states({n: state for n, state in kept.items() if n in fitting})
    return TakenOver(notes, [f"left out: {_some(left)}"] if left else [], states)


def _parts_of(names: Iterable[str]) -> list[str]:
    """Return the heads that weights belong to; what belongs to none stands for itself."""
    return sorted({next((h for h in _HEADS if name.startswith(h)), name) for name in names})


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
