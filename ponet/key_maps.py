"""Names of the same parameters here and in other code bases, as pure state-dict functions.

One table serves both directions: a native name and the foreign names whose tensors, put below
each other, make it up. Nothing is skipped silently: whatever a table does not explain is an error.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ponet.config import BertConfig, EncoderConfig, FNetConfig, PoNetConfig
from ponet.encoders.ponet import projections_in_use

KeyTable = list[tuple[str, tuple[str, ...]]]
_PONET_PROJECTIONS = {
    "query": "dense_q",
    "key": "dense_k",
    "gate": "dense_o",
    "segment": "dense_segment",
    "local": "dense_local",
}


def encoder_table(
    config: EncoderConfig, *, foreign_prefix: str = "", has_pooler: bool = True
) -> KeyTable:
    """Return the table of the encoder and, if it has one, the pooler.

    Native names are those of PretrainingModel; foreign ones those of the released PoNetModel and
    of transformers' BertModel and FNetModel.

    Args:
        config: Encoder configuration.
        foreign_prefix: What the foreign names start with, such as "ponet." or "bert.".
        has_pooler: Whether there is one; a model without a pair head has none.
    """
    names = [
        ("embeddings.word.weight", ("embeddings.word_embeddings.weight",)),
        ("embeddings.position.weight", ("embeddings.position_embeddings.weight",)),
        ("embeddings.token_type.weight", ("embeddings.token_type_embeddings.weight",)),
        *_affine("embeddings.norm", "embeddings.LayerNorm"),
    ]
    if isinstance(config, FNetConfig) and config.embedding_projection:
        names += _affine("embeddings.projection", "embeddings.projection")
    for layer in range(config.num_layers):
        names += _layer_table(config, f"layers.{layer}.", f"encoder.layer.{layer}.")
    table = [(f"encoder.{native}", foreign) for native, foreign in names]
    if has_pooler:
        table += _affine("pooler.dense", "pooler.dense")
    return [(native, tuple(foreign_prefix + key for key in keys)) for native, keys in table]


def head_table(*, has_mlm_head: bool = True, has_pair_head: bool = True) -> KeyTable:
    """Return the table of the pretraining heads, the same in all three code bases."""
    table: KeyTable = []
    if has_mlm_head:
        table.append(("mlm_head.bias", ("cls.predictions.bias",)))
        table += _affine("mlm_head.dense", "cls.predictions.transform.dense")
        table += _affine("mlm_head.norm", "cls.predictions.transform.LayerNorm")
    return table + _affine("pair_head", "cls.seq_relationship") if has_pair_head else table


def twin_table(names: Iterable[str], *, foreign_prefix: str = "ponet.") -> KeyTable:
    """Return the table of PoNet's own models of transformers, which keep the native names.

    Args:
        names: Native names.
        foreign_prefix: What stands before the encoder and the pooler: "" in a bare encoder.
    """
    inner = ("encoder.", "pooler.")
    return [(name, (foreign_prefix * name.startswith(inner) + name,)) for name in names]


def import_state(foreign: Mapping[str, Tensor], table: KeyTable) -> dict[str, Tensor]:
    """Return the native state dict of a foreign one.

    Raises:
        ValueError: If a foreign key is missing or unexpected; all of them are listed.
    """
    needed = [key for _, keys in table for key in keys]
    missing = sorted(set(needed) - set(foreign))
    unexpected = sorted(set(foreign) - set(needed))
    if missing or unexpected:
        raise ValueError(
            "the weights do not fit the configuration: "
            f"missing {', '.join(missing) or 'none'}; unexpected {', '.join(unexpected) or 'none'}"
        )
    return {
        native: foreign[keys[0]] if len(keys) == 1 else torch.cat([foreign[key] for key in keys])
        for native, keys in table
    }


def export_state(native: Mapping[str, Tensor], table: KeyTable) -> dict[str, Tensor]:
    """Return the foreign state dict of a native one; the inverse of import_state.

    Raises:
        ValueError: If a native key is missing or unexpected; all of them are listed.
    """
    needed = [name for name, _ in table]
    missing, unexpected = sorted(set(needed) - set(native)), sorted(set(native) - set(needed))
    if missing or unexpected:
        raise ValueError(
            "the state dict does not fit the table: "
            f"missing {', '.join(missing) or 'none'}; unexpected {', '.join(unexpected) or 'none'}"
        )
    foreign: dict[str, Tensor] = {}
    for name, keys in table:
        for key, part in zip(keys, native[name].chunk(len(keys)), strict=True):
            foreign[key] = part.clone()
    return foreign


def drop_tied_decoder(foreign: Mapping[str, Tensor], *, word_key: str) -> dict[str, Tensor]:
    """Return the state dict without position counters and the copies of tied output weights.

    Args:
        foreign: State dict in the released or transformers naming; legacy "gamma" and "beta" of
            layer norms are renamed.
        word_key: Name of the word embeddings that the decoder is tied to.

    Raises:
        ValueError: If a copy differs from what it is tied to.
    """
    state = {_modern_name(key): tensor for key, tensor in foreign.items()}
    for key in [key for key in state if key.endswith((".position_ids", ".token_type_ids"))]:
        del state[key]
    ties = {
        "cls.predictions.decoder.weight": word_key,
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }
    for copy_key, original_key in ties.items():
        copy = state.pop(copy_key, None)
        original = state.get(original_key)
        if copy is None:
            continue
        if original is None:
            state[original_key] = copy
        elif copy.shape != original.shape or not torch.equal(copy, original):
            raise ValueError(
                f"{copy_key} differs from {original_key}, but the model ties them; "
                "these weights come from a model with an untied decoder"
            )
    return state


def _modern_name(key: str) -> str:
    if key.endswith("LayerNorm.gamma"):
        return key.removesuffix("gamma") + "weight"
    return key.removesuffix("beta") + "bias" if key.endswith("LayerNorm.beta") else key


def _affine(native: str, *foreign: str) -> KeyTable:
    return [
        (f"{native}.{part}", tuple(f"{name}.{part}" for name in foreign))
        for part in ("weight", "bias")
    ]


def _layer_table(config: EncoderConfig, native: str, foreign: str) -> KeyTable:
    table = _mixer_table(config, f"{native}mixer.", foreign)
    table += _affine(f"{native}feed_forward.expand", f"{foreign}intermediate.dense")
    table += _affine(f"{native}feed_forward.contract", f"{foreign}output.dense")
    return table + _affine(f"{native}feed_forward_norm", f"{foreign}output.LayerNorm")


def _mixer_table(config: EncoderConfig, native: str, foreign: str) -> KeyTable:
    norm = native.removesuffix("mixer.") + "mixer_norm"
    if isinstance(config, FNetConfig):
        return _affine(norm, f"{foreign}fourier.output.LayerNorm")
    inner = f"{foreign}attention.self."
    table: KeyTable = []
    if isinstance(config, BertConfig):
        parts = (f"{inner}query", f"{inner}key", f"{inner}value")
        table += _affine(f"{native}query_key_value", *parts)
    elif isinstance(config, PoNetConfig):
        for name in projections_in_use(config):
            table += _affine(f"{native}{name}", f"{inner}{_PONET_PROJECTIONS[name]}")
    table += _affine(f"{native}output", f"{foreign}attention.output.dense")
    return table + _affine(norm, f"{foreign}attention.output.LayerNorm")
