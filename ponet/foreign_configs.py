"""Configurations of other layouts, as ours: PoNet released or exported, BERT and FNet.

Invariant: a setting that would change what is computed and that our encoders do not have is an
error; what is bookkeeping of the other code base is ignored.
"""

from collections.abc import Mapping
from typing import Any, Literal

from ponet.config import BertConfig, EncoderConfig, FNetConfig, PoNetConfig

ForeignKind = Literal["ponet", "bert", "fnet"]
_ACTIVATIONS: dict[str, Literal["gelu", "gelu_tanh"]] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
_SHARED = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_layers",
    "intermediate_size": "ffn_size",
    "max_position_embeddings": "max_positions",
    "type_vocab_size": "type_vocab_size",
    "hidden_dropout_prob": "dropout_prob",
    "layer_norm_eps": "layer_norm_eps",
    "initializer_range": "init_range",
}
_OWN: dict[str, dict[str, str]] = {
    "ponet": {
        "num_attention_heads": "num_heads",
        "clsgsepg": "guard_special_tokens",  # the release; what follows is in our exports alone
        "guard_special_tokens": "guard_special_tokens",
        "global_pool": "global_pool",
        "use_segment_pool": "use_segment_pool",
        "use_local_pool": "use_local_pool",
        "local_window": "local_window",
        "fusion_product": "fusion_product",
    },
    "bert": {
        "num_attention_heads": "num_heads",
        "attention_probs_dropout_prob": "attention_dropout_prob",
    },
    "fnet": {},
}
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
}


def foreign_kind(values: Mapping[str, Any]) -> ForeignKind | None:
    """Return which encoder a config.json of another code base describes; None: none that we have.

    Source:
        The released config.json has model_type "bert" beside the architecture
        PoNetForPreTraining: it was made from BERT's. So the architecture is asked first.
    """
    architectures = values.get("architectures") or ()
    if values.get("model_type") == "ponet" or any(
        str(name).startswith("PoNet") for name in architectures
    ):
        return "ponet"
    kinds: dict[Any, ForeignKind] = {"bert": "bert", "fnet": "fnet"}
    return kinds.get(values.get("model_type"))


def official_config(values: Mapping[str, Any]) -> PoNetConfig:
    """Return the configuration that a config.json of PoNet describes, released or exported by us.

    Raises:
        ValueError: If it describes another model or a function that this PoNet does not compute.
    """
    if "model_type" in values and foreign_kind(values) != "ponet":
        raise ValueError(f"config has model_type={values['model_type']!r}; supported: ponet")
    return PoNetConfig(**_fields(values, "ponet"), activation=_activation(values, "gelu"))


def foreign_config(values: Mapping[str, Any]) -> EncoderConfig:
    """Return the configuration that a config.json of the released PoNet, BERT or FNet describes.

    Raises:
        ValueError: If it describes another model or a function that our encoder does not compute.
    """
    kind = foreign_kind(values)
    if kind == "ponet":
        return official_config(values)
    if kind == "bert":
        return BertConfig(**_fields(values, "bert"), activation=_activation(values, "gelu"))
    if kind == "fnet":
        return FNetConfig(
            **_fields(values, "fnet"),
            activation=_activation(values, "gelu_new"),
            embedding_projection=True,
        )
    raise ValueError(
        f"config has model_type={values.get('model_type')!r}; supported: ponet, bert, fnet"
    )


def _fields(values: Mapping[str, Any], kind: ForeignKind) -> dict[str, Any]:
    for key, allowed in _SUPPORTED.items():
        if values.get(key, allowed[0]) not in allowed:
            shown = ", ".join(str(value) for value in allowed)
            raise ValueError(f"config has {key}={values[key]!r}; supported: {shown}")
    names = _SHARED | _OWN[kind]
    return {ours: values[theirs] for theirs, ours in names.items() if theirs in values}


def _activation(values: Mapping[str, Any], default: str) -> Literal["gelu", "gelu_tanh"]:
    activation = values.get("hidden_act", default)
    if activation not in _ACTIVATIONS:
        raise ValueError(
            f"config has hidden_act={activation!r}; supported: {', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[activation]
