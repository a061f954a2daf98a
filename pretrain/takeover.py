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


class TakenOver(NamedTuple):
    """What did not go over from weights to a model, in words."""

    new: list[str]
    """Words, positions and heads that the weights lack."""
    left_out: list[str]
    """Heads that the objective has no use for."""


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
    state = dict(weights.model.state_dict())
    untrained = set(weights.lineage["metadata"].get("untrained") or ())
    state = {name: value for name, value in state.items() if name not in untrained}
    rows = torch.tensor(matched_rows(weights, tokenizer_json, vocab_size=size))
    notes = []
    ids = read_vocab(tokenizer_json).items()
    words = dict(sorted((number, word) for word, number in ids if rows[number] == _NEW))
    table_name = _OUTPUT if target.config.projection else _WORD
    for name in {table_name, _BIAS} & state.keys():
        table, kept = fresh[name].clone(), rows != _NEW
        table[kept] = state[name][rows[kept]]
        if new_words == "pieces":
            for number, row in _new_rows(state[name], weights, words).items():
                table[number] = row
        state[name] = table
    if words:
        notes.append(f"{len(words):,} new words ({new_words}): {_some(list(words.values()))}")
    if _POSITION in state and len(state[_POSITION]) < (length := len(fresh[_POSITION])):
        notes.append(f"positions {len(state[_POSITION])} -> {length} ({new_positions})")
        state[_POSITION] = extend_positions(state[_POSITION], length, method=new_positions)
    fitting = {n: v for n, v in state.items() if n in fresh and v.shape == fresh[n].shape}
    new, left = (_parts_of(names) for names in (fresh.keys() - fitting, state.keys() - fitting))
    assert set(new) <= set(_HEADS), new  # the encoders are the same
    target.load_state_dict({**fresh, **fitting})
    notes += [f"fresh values: {_some(new)}"] if new else []
    return TakenOver(notes, [f"left out: {_some(left)}"] if left else [])


def _parts_of(names: Iterable[str]) -> list[str]:
    """Return the heads that weights belong to; what belongs to none stands for itself."""
    return sorted({next((h for h in _HEADS if name.startswith(h)), name) for name in names})


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
