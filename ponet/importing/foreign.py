"""A PretrainingModel from foreign weights, with an account of every key."""

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ponet.bundle import load_strictly
from ponet.config import BertConfig, EncoderConfig, FNetConfig
from ponet.heads import PretrainingModel
from ponet.names import (
    KeyTable,
    drop_tied_decoder,
    encoder_table,
    head_table,
    import_state,
    official_config,
    twin_table,
)
from ponet.weight_files import (
    CONFIG_NAME,
    find_weights,
    read_config_metadata,
    read_json,
    read_safetensors,
    read_weights,
)

_OFFICIAL_GROUP = "weights."
_WRAPPERS = ("module.", "_orig_mod.", "model.")
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, kw_only=True)
class ForeignModel:
    """A model and what became of every foreign key."""

    model: PretrainingModel
    """In evaluation mode, on the CPU, float32."""
    table: KeyTable
    """Native names and the foreign ones that each was made of."""
    copies: tuple[str, ...]
    """Foreign keys left out because they repeat what is known: counters and tied weights."""
    dropped: tuple[str, ...]
    """Foreign keys left out because the caller asked for it."""
    untrained: tuple[str, ...]
    """Native names that no foreign key gives; they hold fresh random values."""


def load_official(path: str | Path) -> PretrainingModel:
    """Return the authors' released model, in evaluation mode.

    Args:
        path: A folder with config.json and model.safetensors or pytorch_model.bin, or one
            .safetensors file with the configuration as JSON under the metadata key "config". In a
            file with groups of tensors, only "weights." is read.

    Raises:
        ValueError: If a file is missing or damaged, the configuration is not PoNet's, or a key is
            missing, unexpected, or contradicts what it is tied to.
    """
    source = Path(path)
    if source.is_dir():
        values, state = read_json(source / CONFIG_NAME), read_weights(find_weights(source))
    else:
        state = read_safetensors(source)
        values = read_config_metadata(source)
    state = weights_group(state)
    return foreign_model(official_config(values), state, where=str(source)).model


def weights_group(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under "weights.", without that prefix, or all where there are none.

    What a wrapper has put before every name, such as "module.", is left out too.
    """
    inner = {
        key.removeprefix(_OFFICIAL_GROUP): tensor
        for key, tensor in state.items()
        if key.startswith(_OFFICIAL_GROUP)
    } or dict(state)
    while prefix := next((p for p in _WRAPPERS if all(key.startswith(p) for key in inner)), ""):
        inner = {key.removeprefix(prefix): tensor for key, tensor in inner.items()}
    return inner


def foreign_model(
    config: EncoderConfig,
    foreign: Mapping[str, Tensor],
    *,
    where: str,
    drop: Sequence[str] = (),
    add_missing_heads: bool = False,
) -> ForeignModel:
    """Return the model of a foreign state dict.

    Args:
        config: Our configuration of the same encoder.
        foreign: State dict in the released or transformers naming, with or without "bert." and
            the like before the encoder's names.
        where: What to call the weights in an error.
        drop: Shell patterns of keys to leave out, such as "classifier.*"; each must match.
        add_missing_heads: Give a masked-LM head, or a pair head beside a pooler, fresh values
            where the weights have none. Otherwise that is an error.

    Raises:
        ValueError: If a key is missing, unexpected, of the wrong shape or dtype, or contradicts
            what it is tied to, or a pattern matches nothing.
    """
    kept, dropped = without(foreign, drop)
    _check_dtypes(kept, where)
    names = _Naming.of(config, kept)
    state = drop_tied_decoder(kept, word_key=names.word_key)
    if names.word_key not in state:
        raise ValueError(
            f"{where} has no word embeddings ({names.word_key}); its names are like "
            f"{', '.join(sorted(state)[:3]) or 'nothing'}: take off what stands before the "
            "encoder's names, or give the whole model's weights"
        )
    has_mlm, has_pair, has_pooler = names.parts(state)
    if not add_missing_heads:
        _check_heads(where, names, has_mlm=has_mlm, has_pair=has_pair, has_pooler=has_pooler)
    num_pair_classes = _num_pair_classes(config, state, names) if has_pooler else 0
    model = _fresh_model(config, num_pair_classes)
    table = names.table(model, has_mlm=has_mlm, has_pair=has_pair)
    native = import_state(state, table)
    fresh = {name: value for name, value in model.state_dict().items() if name not in native}
    load_strictly(model, {**fresh, **native}, where)
    return ForeignModel(
        model=model.eval(),
        table=table,
        copies=tuple(sorted(_left_out(kept, state))),
        dropped=dropped,
        untrained=tuple(fresh),
    )


@dataclass(frozen=True, kw_only=True)
class _Naming:
    """Which names a state dict uses: the released ones (transformers' too), or native ones."""

    is_native: bool
    """Our own models of transformers keep the native names."""
    prefix: str
    """What stands before the encoder's names: "", or "ponet." and the like."""
    mlm: str
    """What the names of the masked-LM head start with."""
    pair: str
    """What the names of the pair head start with."""

    @classmethod
    def of(cls, config: EncoderConfig, keys: Iterable[str]) -> "_Naming":
        keys = list(keys)
        own = f"{config.kind}."
        prefix = own if any(key.startswith(own) for key in keys) else ""
        if f"{prefix}encoder.embeddings.word.weight" in keys:
            return cls(is_native=True, prefix=prefix, mlm="mlm_head.", pair="pair_head.")
        return cls(is_native=False, prefix=prefix, mlm="cls.predictions.",
                   pair="cls.seq_relationship.")  # fmt: skip

    @property
    def word_key(self) -> str:
        inner = "encoder.embeddings.word." if self.is_native else "embeddings.word_embeddings."
        return f"{self.prefix}{inner}weight"

    def parts(self, state: Iterable[str]) -> tuple[bool, bool, bool]:
        """Return whether there are a masked-LM head, a pair head and a pooler."""
        keys = list(state)
        starts = (self.mlm, self.pair, f"{self.prefix}pooler.")
        mlm, pair, pooler = (any(key.startswith(start) for key in keys) for start in starts)
        return mlm, pair, pooler or pair

    def table(self, model: PretrainingModel, *, has_mlm: bool, has_pair: bool) -> KeyTable:
        """Return the table of the parts that are there."""
        has_pooler = model.pooler is not None
        if not self.is_native:
            table = encoder_table(model.config, foreign_prefix=self.prefix, has_pooler=has_pooler)
            return table + head_table(has_mlm_head=has_mlm, has_pair_head=has_pair)
        absent = tuple(
            start for start, there in ((self.mlm, has_mlm), (self.pair, has_pair)) if not there
        )
        names = [name for name in model.state_dict() if not name.startswith(absent)]
        return twin_table(names, foreign_prefix=self.prefix)


def without(
    foreign: Mapping[str, Tensor], patterns: Sequence[str]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the state dict without the keys that match a shell pattern, and those keys.

    Raises:
        ValueError: If a pattern matches nothing.
    """
    dropped: set[str] = set()
    for pattern in patterns:
        matches = fnmatch.filter(foreign, pattern)
        if not matches:
            raise ValueError(f"--drop {pattern!r} matches none of the {len(foreign)} weights")
        dropped.update(matches)
    kept = {key: tensor for key, tensor in foreign.items() if key not in dropped}
    return kept, tuple(sorted(dropped))


def _check_dtypes(state: Mapping[str, Tensor], where: str) -> None:
    for key, tensor in state.items():
        is_counter = key.endswith((".position_ids", ".token_type_ids"))
        if tensor.dtype not in _FLOATS and not is_counter:
            raise ValueError(
                f"{where}: {key} is {tensor.dtype}; float32, float16 or bfloat16 is needed, "
                "because a bundle is float32 and would lose anything finer"
            )


def _check_heads(
    where: str, names: _Naming, *, has_mlm: bool, has_pair: bool, has_pooler: bool
) -> None:
    advice = (
        "; --add-missing-heads gives it fresh values, which is right for a model that will be "
        "fine-tuned or asked for embeddings"
    )
    if not has_mlm:
        raise ValueError(f"{where} has no masked-LM head (missing {names.mlm}*){advice}")
    if has_pooler and not has_pair:
        raise ValueError(
            f"{where} has a pooler but no pair head (missing {names.pair}*){advice}, or "
            "leave the pooler out by --drop '*pooler.*'"
        )


def _num_pair_classes(config: EncoderConfig, state: Mapping[str, Tensor], names: _Naming) -> int:
    """Classes of the pair head; of one to be made up: next sentence, or PoNet's sentence order."""
    weight = state.get(f"{names.pair}weight")
    if weight is not None:
        return weight.shape[0]
    return 2 if isinstance(config, (BertConfig, FNetConfig)) else 3


def _fresh_model(config: EncoderConfig, num_pair_classes: int) -> PretrainingModel:
    """Return a model with the same random values whenever it is called."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PretrainingModel(config, num_pair_classes=num_pair_classes)


def _left_out(kept: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """Return the keys that drop_tied_decoder left out, looking through its renaming."""
    renamed = {"gamma": "weight", "beta": "bias"}
    left = []
    for key in kept:
        stem, _, ending = key.rpartition(".")
        if key not in state and f"{stem}.{renamed.get(ending, ending)}" not in state:
            left.append(key)
    return left
