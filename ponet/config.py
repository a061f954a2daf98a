"""Frozen configurations of the encoders; their defaults are the published base models.

Invariant: two configurations of different kinds with the same base fields build encoders that
differ in the token mixer and in nothing else.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

from ponet.config_fields import ProjectionConfig, check_fields, refuse_unknown

ConfigT = TypeVar("ConfigT", bound="EncoderConfig")

_PRESETS: dict[str, dict[str, Any]] = {
    "base": {"num_layers": 12, "hidden_size": 768, "num_heads": 12, "ffn_size": 3072},
    "small": {"num_layers": 4, "hidden_size": 256, "num_heads": 4, "ffn_size": 1024},
    "nano": {"num_layers": 2, "hidden_size": 128, "num_heads": 2, "ffn_size": 512},
}


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Sizes shared by every encoder; use one of its subclasses to build one."""

    kind: ClassVar[str] = ""
    presets: ClassVar[dict[str, dict[str, Any]]] = _PRESETS
    least_layers: ClassVar[int] = 1
    sees_padding: ClassVar[bool] = False
    """Whether the outputs at real tokens depend on how far a batch is padded. Where they do, texts
    are answered in batches of one length, so that none depends on the texts beside it."""

    vocab_size: int = 30522
    """Number of word pieces, from the tokenizer. Published models: 30522."""
    hidden_size: int = 768
    """Width D of the hidden states."""
    num_layers: int = 12
    """Number of blocks (mixer + feed-forward; of an LSTM the layers)."""
    num_heads: int = 12
    """Heads of the attention or of PoNet's global pool; must divide hidden_size. Others: unused."""
    ffn_size: int = 3072
    """Inner width of the feed-forward layer; published models use 4 x hidden_size."""
    max_positions: int = 512
    """Longest sequence in tokens (rows of the learned position table)."""
    type_vocab_size: int = 2
    """Number of token types (0 = first text, 1 = second text of a pair); 0: no types."""
    dropout_prob: float = 0.1
    """Dropout on embeddings and sub-layer outputs, in [0, 1)."""
    ffn_dropout_prob: float = 0.0
    """Dropout between the two linear layers of the feed-forward too, in [0, 1); BERT has none."""
    layer_norm_eps: float = 1e-12
    """Epsilon of every layer norm, > 0."""
    init_range: float = 0.02
    """Standard deviation of the normal initialisation of all weight matrices, > 0."""
    activation: Literal["gelu", "gelu_tanh"] = "gelu"
    """Feed-forward activation: exact erf GELU (BERT, PoNet) or its tanh form (released FNet)."""
    norm_position: Literal["post", "pre"] = "post"
    """Where a block normalises: the sum behind each sub-layer (BERT) or the input before it."""
    final_norm: bool = False
    """A layer norm behind the last block; usual with norm_position=pre."""
    embedding_norm: bool = True
    """A layer norm behind the embeddings."""
    use_positions: bool = True
    """Add learned positions to the embeddings."""
    init: Literal["normal", "torch"] = "normal"
    """Initial weights: all N(0, init_range), biases 0 (BERT); or PyTorch's own for every layer but
    the embedding tables (Long Range Arena's classifiers)."""
    projection: ProjectionConfig | None = None
    """Hashed words in the place of the table of word pieces."""

    def __post_init__(self) -> None:
        """Check every field by its type and name, and the relation of heads and width."""
        check_fields(self, least={"num_layers": self.least_layers, "type_vocab_size": 0})
        if (
            self.kind in ("ponet", "bert", "local_global", "hybrid")
            and self.hidden_size % self.num_heads
        ):
            raise ValueError(
                f"num_heads={self.num_heads} does not divide hidden_size={self.hidden_size}; "
                "change one of them"
            )

    @property
    def fixed_places(self) -> bool:
        """Whether a batch must be padded to exactly max_positions places.

        The empty places are then a part of the model, poolers included, and as there are always
        equally many, no text depends on the texts beside it.
        """
        return False

    @property
    def first_sees_all(self) -> bool:
        """Whether the first token is a delimiter whose state knows the whole text ([CLS])."""
        return self.projection is None

    def attended(self, layer: int) -> float | None:
        """Return how many tokens around it each one attends to in a layer, counted from 0.

        Infinity: all of its text. None: the layer has no attention.
        """
        return None

    @classmethod
    def preset(cls: type[ConfigT], name: str, **overrides: Any) -> ConfigT:
        """Return the configuration of a named size, with some fields replaced.

        Args:
            name: A key of `presets`: "base" (12 layers x 768), "small" (4 x 256) or "nano"
                (2 x 128); the MLP mixer has its published sizes "x_small" to "x_large".
            **overrides: Fields that replace the preset's.

        Raises:
            ValueError: If the name or an override is unknown.
        """
        if name not in cls.presets:
            raise ValueError(f"preset {name!r} given; allowed are {', '.join(cls.presets)}")
        refuse_unknown(cls, overrides)
        return cls(**{**cls.presets[name], **overrides})

    def to_dict(self) -> dict[str, Any]:
        """Return a plain dict (JSON types only) with the extra key "kind"."""
        return {"kind": self.kind, **dataclasses.asdict(self)}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "EncoderConfig":
        """Return the configuration that to_dict wrote; the class follows from "kind".

        Raises:
            ValueError: If "kind" is unknown or a key is not a field of that kind.
        """
        classes: tuple[type[EncoderConfig], ...] = (
            PoNetConfig, BertConfig, LocalGlobalConfig, FNetConfig, HybridConfig, MLPMixerConfig,
            HyperMixerConfig, LSTMConfig,
        )  # fmt: skip
        kinds = {config_class.kind: config_class for config_class in classes}
        fields = dict(values)
        if isinstance(fields.get("projection"), dict):
            refuse_unknown(ProjectionConfig, fields["projection"])
            fields["projection"] = ProjectionConfig(**fields["projection"])
        kind = fields.pop("kind", None)
        if kind not in kinds:
            raise ValueError(f"encoder kind {kind!r} given; allowed are {', '.join(kinds)}")
        refuse_unknown(kinds[kind], fields)
        return kinds[kind](**fields)


@dataclass(frozen=True, kw_only=True)
class PoolingConfig(EncoderConfig):
    """What PoNet's pools are made of, in every encoder that has some; no encoder by itself."""

    global_pool: Literal["attention", "mean", "none"] = "attention"
    """Global aggregation: attention of the mean query (paper), its first stage only, or none."""
    use_segment_pool: bool = True
    """Maximum over the tokens of each segment."""
    use_local_pool: bool = True
    """Maximum over a window of neighbouring tokens."""
    local_window: int = 3
    """Width of the local window in tokens, odd and >= 1. Paper: 3."""
    fusion_product: bool = True
    """Multiply global and segment pools by a projection of the token itself; else plain sum."""
    guard_special_tokens: bool = True
    """Keep [CLS] and [SEP] out of local windows and give them the global pool alone."""
    kernels: Literal["auto", "reference", "eager", "triton"] = field(default="auto", compare=False)
    """Code that computes pools and masked-LM loss, never what is computed: auto = Triton on CUDA,
    else eager."""

    def __post_init__(self) -> None:
        """Check the window, and that something pools."""
        super().__post_init__()
        if not self.local_window % 2:
            raise ValueError(f"local_window={self.local_window} given; an odd number is needed")
        if self.global_pool == "none" and not (self.use_segment_pool or self.use_local_pool):
            raise ValueError(
                "global_pool='none', use_segment_pool=False and use_local_pool=False leave nothing "
                "that mixes tokens; switch at least one pool on"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return a plain dict without `kernels`: that is how a run computes, not what."""
        values = super().to_dict()
        del values["kernels"]
        return values


@dataclass(frozen=True, kw_only=True)
class PoNetConfig(PoolingConfig):
    """PoNet: pooling at three granularities instead of attention (arXiv 2110.02442)."""

    kind: ClassVar[str] = "ponet"


@dataclass(frozen=True, kw_only=True)
class BertConfig(EncoderConfig):
    """BERT: multi-head softmax attention (arXiv 1810.04805)."""

    kind: ClassVar[str] = "bert"

    attention_dropout_prob: float = 0.1
    """Dropout on the attention probabilities, in [0, 1)."""

    def attended(self, layer: int) -> float:
        """Return infinity: every layer sees everything."""
        return math.inf


@dataclass(frozen=True, kw_only=True)
class LocalGlobalConfig(BertConfig):
    """BERT whose layers see a window of neighbours, but for every few (as arXiv 2412.13663).

    The first layer sees everything. Linear in the length but for the global layers.
    """

    kind: ClassVar[str] = "local_global"

    window: int = 128
    """Tokens that a local layer sees, half of them on each side; even. ModernBERT: 128."""
    global_every: int = 3
    """Every so many layers, from the first, one is global; 1: all of them. ModernBERT: 3."""

    def __post_init__(self) -> None:
        """Check the window."""
        super().__post_init__()
        if self.window % 2:
            raise ValueError(f"window={self.window} given; an even number is needed")

    def attended(self, layer: int) -> float:
        """Return the window, of a global layer infinity."""
        return self.window if layer % self.global_every else math.inf


@dataclass(frozen=True, kw_only=True)
class HybridConfig(PoolingConfig):
    """PoNet with attention in the place of its pools in every few layers, the first one too.

    Linear in the length as long as the attention is local.

    Source:
        Pools and attention in one encoder: HybridBERT, by PoNet's authors (arXiv 2307.07258). Which
        of its layers attend is not known here; one in three is ModernBERT's share of global ones.
    """

    kind: ClassVar[str] = "hybrid"

    attention: Literal["local", "global"] = "local"
    """What a layer without pools sees: a window of neighbours, or everything as in BERT."""
    attention_every: int = 3
    """Every so many layers, from the first, one attends; 1: all of them."""
    window: int = 128
    """Tokens that local attention sees, half of them on each side; even."""
    attention_dropout_prob: float = 0.1
    """Dropout on the attention probabilities, in [0, 1)."""

    def __post_init__(self) -> None:
        """Check the sizes of both kinds of layers."""
        super().__post_init__()
        self.attention_sizes()

    def attended(self, layer: int) -> float | None:
        """Return the window or infinity, of a layer that pools None."""
        if layer % self.attention_every:
            return None
        return self.window if self.attention == "local" else math.inf

    def attention_sizes(self) -> LocalGlobalConfig:
        """Return local/global attention with the sizes of the layers that attend."""
        own = {entry.name for entry in dataclasses.fields(self)}
        names = [entry.name for entry in dataclasses.fields(LocalGlobalConfig)]
        return LocalGlobalConfig(**{name: getattr(self, name) for name in names if name in own})


@dataclass(frozen=True, kw_only=True)
class FNetConfig(EncoderConfig):
    """FNet: a 2-D Fourier transform without parameters (arXiv 2105.03824).

    The released google/fnet checkpoints also need embedding_projection=True,
    activation="gelu_tanh" and type_vocab_size=4; the defaults here keep BERT's embeddings so that
    a comparison changes the mixer alone.
    """

    kind: ClassVar[str] = "fnet"
    sees_padding: ClassVar[bool] = True

    embedding_projection: bool = False
    """A D x D linear layer after the embedding norm, as in the released FNet."""


@dataclass(frozen=True, kw_only=True)
class MLPMixerConfig(EncoderConfig):
    """pNLP-Mixer: hashed words, then MLP-Mixer blocks (arXiv 2202.04350).

    The defaults are its base model for 64 words. Tokens are mixed by an MLP over exactly
    max_positions places (inner width ffn_size too): longer texts do not fit, and in shorter ones
    the empty places take part, as published.
    """

    kind: ClassVar[str] = "mlp_mixer"
    least_layers: ClassVar[int] = 0
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "x_small": {"hidden_size": 64, "projection": ProjectionConfig(window=0)},
        "small": {"projection": ProjectionConfig(window=0)},
        "base": {},
        "large": {"num_layers": 4, "projection": ProjectionConfig(feature_size=2048)},
        "x_large": {"hidden_size": 512, "num_layers": 4,
                    "projection": ProjectionConfig(feature_size=2048)},
    }  # fmt: skip
    """Published sizes; SMALL and LARGE are inferred from their published parameter counts."""

    hidden_size: int = 256
    """Width of the bottleneck."""
    num_layers: int = 2
    """Number of mixer blocks; 0: the bottleneck alone."""
    num_heads: int = 1
    """Unused."""
    ffn_size: int = 256
    """Inner width of both MLPs of a block."""
    max_positions: int = 64
    """Number of places that the token MLP mixes."""
    type_vocab_size: int = 0
    """Number of token types; published: none."""
    dropout_prob: float = 0.0
    """Dropout on embeddings and sub-layer outputs; the paper names none."""
    layer_norm_eps: float = 1e-5
    """Epsilon of every layer norm, > 0."""
    norm_position: Literal["post", "pre"] = "pre"
    """Where a block normalises."""
    embedding_norm: bool = False
    """A layer norm behind the bottleneck; published: none."""
    use_positions: bool = False
    """Add learned positions; published: none, the token MLP knows its places."""
    init: Literal["normal", "torch"] = "torch"
    """Initial weights: PyTorch's own as in the public code."""
    projection: ProjectionConfig | None = field(default_factory=ProjectionConfig)
    """The features of a word."""

    @property
    def fixed_places(self) -> bool:
        """Whether there is a token MLP, whose weights belong to places."""
        return self.num_layers > 0


@dataclass(frozen=True, kw_only=True)
class HyperMixerConfig(EncoderConfig):
    """HyperMixer: an MLP over tokens whose weights are made from the tokens (arXiv 2203.03691).

    Linear in the length and bound to none. num_heads is unused.
    """

    kind: ClassVar[str] = "hyper_mixer"

    mixing_size: int = 256
    """Inner width of the MLP over tokens. Its inner values, mixing_size x hidden_size for each
    text whatever its length, are most of the cost of short ones. Paper: 512."""

    tie_weights: bool = False
    """Take one generated matrix, transposed, for both layers of the MLP over tokens."""


@dataclass(frozen=True, kw_only=True)
class LSTMConfig(EncoderConfig):
    """LSTM: plain layers of long short-term memory, without norms, residuals and feed-forward.

    num_heads and ffn_size are unused.
    """

    kind: ClassVar[str] = "lstm"

    bidirectional: bool = True
    """Read in both directions, each with half of the width; else from left to right alone."""

    def __post_init__(self) -> None:
        """Check that both directions get the same width."""
        super().__post_init__()
        if self.bidirectional and self.hidden_size % 2:
            raise ValueError(
                f"hidden_size={self.hidden_size} given; two directions need an even one"
            )

    @property
    def first_sees_all(self) -> bool:
        """Whether the first state has read the text, which takes the way back."""
        return self.bidirectional and super().first_sees_all


def projections_in_use(config: PoolingConfig) -> tuple[str, ...]:
    """Return the names of the projections that a configuration needs.

    The gate multiplies the global and segment pools, so it is absent when both are off.
    """
    has_shared = config.global_pool != "none" or config.use_segment_pool
    needed = {
        "query": config.global_pool != "none",
        "key": config.global_pool == "attention",
        "gate": config.fusion_product and has_shared,
        "segment": config.use_segment_pool,
        "local": config.use_local_pool,
    }
    return tuple(name for name, is_needed in needed.items() if is_needed)
