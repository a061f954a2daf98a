"""One table of names: configurations and weights here and in other code bases, both directions.

The others are the released PoNet and transformers (whose PoNet is ours: ponet.hub). Nothing is
skipped silently: a setting that would change what is computed and that our encoders do not have is
an error, as is a weight that a table does not explain; bookkeeping of others is ignored. A copy of
this file lies beside exported weights (hub/standalone.py), so it imports torch and ponet.config.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from ponet.config import BertConfig, EncoderConfig, FNetConfig, PoNetConfig

KeyTable = list[tuple[str, tuple[str, ...]]]
"""Native names, each with the foreign ones whose tensors, put below each other, make it up."""

_SHARED_NAMES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "ffn_size": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "type_vocab_size": "type_vocab_size",
    "dropout_prob": "hidden_dropout_prob",
    "layer_norm_eps": "layer_norm_eps",
    "init_range": "initializer_range",
}
"""Our fields and their names elsewhere, in every encoder."""
_OWN_NAMES: dict[str, dict[str, str]] = {
    "ponet": {
        "num_heads": "num_attention_heads",
        **{
            name: name
            for name in (
                "global_pool",
                "use_segment_pool",
                "use_local_pool",
                "local_window",
                "fusion_product",
                "guard_special_tokens",
            )
        },
    },  # fmt: skip
    "bert": {
        "num_heads": "num_attention_heads",
        "attention_dropout_prob": "attention_probs_dropout_prob",
    },
    "fnet": {},
}
_PUBLISHED: dict[str, Any] = {
    "projection": None, "norm_position": "post", "final_norm": False, "embedding_norm": True,
    "use_positions": True, "ffn_dropout_prob": 0.0,
}  # fmt: skip
"""Our fields that the others have no name for, as they always have it."""
RELEASED_GUARD = "clsgsepg"
"""What the release of PoNet calls guard_special_tokens."""
_KINDS: dict[str, type[EncoderConfig]] = {
    "ponet": PoNetConfig, "bert": BertConfig, "fnet": FNetConfig,
}  # fmt: skip
_ACTIVATIONS: dict[str, Literal["gelu", "gelu_tanh"]] = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}
"""Names elsewhere, of two for the same the one that is written first, and ours."""
_SUPPORTED = {"position_embedding_type": "absolute", "is_decoder": False,
              "add_cross_attention": False}  # fmt: skip
_WEIGHT_NAMES = {
    "encoder.embeddings.word.": "embeddings.word_embeddings.",
    "encoder.embeddings.position.": "embeddings.position_embeddings.",
    "encoder.embeddings.token_type.": "embeddings.token_type_embeddings.",
    "encoder.embeddings.norm.": "embeddings.LayerNorm.",
    "encoder.embeddings.projection.": "embeddings.projection.",
    "encoder.layers.": "encoder.layer.",
    ".mixer.query.": ".attention.self.dense_q.",
    ".mixer.key.": ".attention.self.dense_k.",
    ".mixer.gate.": ".attention.self.dense_o.",
    ".mixer.segment.": ".attention.self.dense_segment.",
    ".mixer.local.": ".attention.self.dense_local.",
    ".mixer.output.": ".attention.output.dense.",
    ".mixer_norm.": ".attention.output.LayerNorm.",
    ".feed_forward.expand.": ".intermediate.dense.",
    ".feed_forward.contract.": ".output.dense.",
    ".feed_forward_norm.": ".output.LayerNorm.",
    "mlm_head.bias": "cls.predictions.bias",
    "mlm_head.dense.": "cls.predictions.transform.dense.",
    "mlm_head.norm.": "cls.predictions.transform.LayerNorm.",
    "pair_head.": "cls.seq_relationship.",
}
"""Parts of our weights' names and what they are elsewhere; other parts are the same."""
_FNET_NORM = ".fourier.output.LayerNorm."
_FUSED, _FUSED_PARTS = ".mixer.query_key_value.", ("query", "key", "value")


def config_names(kind: str) -> dict[str, str]:
    """Return our field -> its name elsewhere, for an encoder; the activation aside."""
    return _SHARED_NAMES | _OWN_NAMES[kind]


def foreign_fields(config: EncoderConfig) -> dict[str, Any]:
    """Return a configuration of ours by the names of others.

    Raises:
        ValueError: It has a part that the others have no name for.
    """
    own = [] if config.kind in _KINDS else [f"kind {config.kind}"]
    own += [name for name, usual in _PUBLISHED.items() if getattr(config, name) != usual]
    if own or not config.type_vocab_size:
        parts = ", ".join([*own, *["no token types"] * (not config.type_vocab_size)])
        raise ValueError(
            f"transformers has no form of this encoder, which differs in: {parts}; export it with "
            "--format onnx, or --format bits8 for this package"
        )
    values = {theirs: getattr(config, ours) for ours, theirs in config_names(config.kind).items()}
    named = {ours: theirs for theirs, ours in reversed(_ACTIVATIONS.items())}
    return {**values, "hidden_act": named[config.activation]}


def native_activation(name: str) -> Literal["gelu", "gelu_tanh"]:
    """Return our name of an activation."""
    if name not in _ACTIVATIONS:
        allowed = ", ".join(_ACTIVATIONS)
        raise ValueError(f"config has hidden_act={name!r}; supported: {allowed}")
    return _ACTIVATIONS[name]


def foreign_config(values: Mapping[str, Any]) -> EncoderConfig:
    """Return the configuration that a config.json of the released PoNet, BERT or FNet describes.

    Source:
        The released config.json has model_type "bert" beside the architecture
        PoNetForPreTraining: it was made from BERT's. So the architecture is asked first.
    """
    names = values.get("architectures") or ()
    is_ponet = any(str(name).startswith("PoNet") for name in names)
    kind = "ponet" if is_ponet else values.get("model_type")
    if kind not in _KINDS:
        raise ValueError(f"config has model_type={kind!r}; supported: {', '.join(_KINDS)}")
    for key, supported in _SUPPORTED.items():
        if values.get(key, supported) != supported:
            raise ValueError(f"config has {key}={values[key]!r}; supported: {supported}")
    table = config_names(kind).items()
    fields = {ours: values[theirs] for ours, theirs in table if theirs in values}
    if kind == "ponet":
        fields.setdefault("guard_special_tokens", values.get(RELEASED_GUARD, True))
    if kind == "fnet":
        fields["embedding_projection"] = True
    activation = values.get("hidden_act", "gelu_new" if kind == "fnet" else "gelu")
    return _KINDS[kind](**fields, activation=native_activation(activation))


def weight_table(
    kind: str, names: Iterable[str], *, prefix: str = "", renamed: bool = True
) -> KeyTable:
    """Return the table of native names, which are those of our models.

    Args:
        kind: Of the encoder.
        names: Native names.
        prefix: What the foreign names of encoder and pooler start with, such as "ponet.".
        renamed: Whether the foreign ones are those of the released PoNet and of transformers'
            BERT and FNet. PoNet's own models of transformers keep the native names.
    """
    parts = _WEIGHT_NAMES | ({".mixer_norm.": _FNET_NORM} if kind == "fnet" else {})
    table: KeyTable = []
    for name in names:
        foreign = name
        for ours, theirs in parts.items() if renamed else ():
            foreign = foreign.replace(ours, theirs)
        foreign = prefix * name.startswith(("encoder.", "pooler.")) + foreign
        keys: tuple[str, ...] = (foreign,)
        if renamed and _FUSED in foreign:
            stem, ending = foreign.split(_FUSED)
            keys = tuple(f"{stem}.attention.self.{part}.{ending}" for part in _FUSED_PARTS)
        table.append((name, keys))
    return table


def import_state(foreign: Mapping[str, Tensor], table: KeyTable) -> dict[str, Tensor]:
    """Return the native state dict of a foreign one.

    Raises:
        ValueError: If a foreign key is missing or unexpected; all of them are listed.
    """
    _check_keys(foreign, {key for _, keys in table for key in keys})
    return {
        native: foreign[keys[0]] if len(keys) == 1 else torch.cat([foreign[key] for key in keys])
        for native, keys in table
    }


def export_state(native: Mapping[str, Tensor], table: KeyTable) -> dict[str, Tensor]:
    """Return the foreign state dict of a native one; the inverse of import_state.

    Raises:
        ValueError: If a native key is missing or unexpected; all of them are listed.
    """
    _check_keys(native, {name for name, _ in table})
    return {
        key: part.clone()
        for name, keys in table
        for key, part in zip(keys, native[name].chunk(len(keys)), strict=True)
    }


def drop_tied_decoder(
    foreign: Mapping[str, Tensor], *, word_key: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the state dict without position counters and tied output weights, and their names.

    Args:
        foreign: State dict in the released or transformers naming; legacy "gamma" and "beta" of
            layer norms are renamed.
        word_key: Name of the word embeddings that the decoder is tied to.
    """
    copies = [key for key in foreign if key.endswith((".position_ids", ".token_type_ids"))]
    state = {_modern_name(key): value for key, value in foreign.items() if key not in copies}
    ties = {
        "cls.predictions.decoder.weight": word_key,
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }
    for copy_key, original_key in ties.items():
        if copy_key not in state:
            continue
        copy = state.pop(copy_key)
        copies.append(copy_key)
        original = state.setdefault(original_key, copy)
        if copy.shape != original.shape or not torch.equal(copy, original):
            raise ValueError(
                f"{copy_key} differs from {original_key}, but the model ties them; "
                "these weights come from a model with an untied decoder"
            )
    return state, sorted(copies)


def _check_keys(state: Mapping[str, Tensor], needed: set[str]) -> None:
    missing, unexpected = sorted(needed - state.keys()), sorted(state.keys() - needed)
    if missing or unexpected:
        raise ValueError(
            "the weights do not fit the configuration: "
            f"missing {', '.join(missing) or 'none'}; unexpected {', '.join(unexpected) or 'none'}"
        )


def _modern_name(key: str) -> str:
    if key.endswith("LayerNorm.gamma"):
        return key.removesuffix("gamma") + "weight"
    return key.removesuffix("beta") + "bias" if key.endswith("LayerNorm.beta") else key
