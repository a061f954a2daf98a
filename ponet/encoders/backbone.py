"""Embeddings, feed-forward and post-norm stack around any token mixer.

B batch, L tokens, D width, P positions, R tokens of a row that are read. Invariant: nothing here
depends on which mixer is used. Under autocast the hidden states (the residual sum and the layer
norms) stay in float32.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ponet.batch import EncoderBatch
from ponet.config import EncoderConfig, FNetConfig
from ponet.dropout import Dropout
from ponet.encoders.freezing import FreezableStack
from ponet.encoders.hashed import HashedWords

PositionMethod = Literal["tile", "interpolate"]


class TokenMixer(nn.Module, ABC):
    """What replaces attention: the only part of a block that sees more than one token."""

    is_whole_block: ClassVar[bool] = False
    """The block has neither norms nor feed-forward nor residual: its states are the mixer's."""

    @property
    def keeps_texts_apart(self) -> bool:
        """Whether texts in one row (`EncoderBatch.text_places`) come out as if alone in theirs."""
        return False

    @abstractmethod
    def prepare(self, batch: EncoderBatch) -> Any:
        """Return what all layers need to know of a batch; computed once per forward pass."""

    @abstractmethod
    def forward(self, x_BLD: Tensor, plan: Any) -> Tensor:
        """Return the mixed (B, L, D) update that the block adds to x_BLD."""

    def mix_at(self, x_BLD: Tensor, plan: Any, read_BR: Tensor) -> Tensor:
        """Return the update (B, R, D) of some tokens alone; a mixer may spare itself the others."""
        return at_positions(self(x_BLD, plan), read_BR)


def at_positions(x_BLD: Tensor, positions_BR: Tensor) -> Tensor:
    """Return the values (B, R, D) at some positions, int64 (B, R) in [0, L), of each row."""
    return x_BLD.gather(1, positions_BR[..., None].expand(-1, -1, x_BLD.shape[-1]))


def activation_function(name: str) -> nn.GELU:
    """Return exact GELU for "gelu" and its tanh form for "gelu_tanh"; a module can be pickled."""
    return nn.GELU(approximate={"gelu": "none", "gelu_tanh": "tanh"}[name])


def norm_layer(config: EncoderConfig) -> nn.LayerNorm:
    """Return a layer norm over the width."""
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


def init_weights(module: nn.Module, std: float, *, tables_only: bool = False) -> None:
    """Set linear and embedding weights to N(0, std), biases to 0, layer norms to 1 and 0.

    Args:
        module: Changed in place.
        std: Standard deviation.
        tables_only: Leave all but the embedding tables as PyTorch made them.
    """
    for part in module.modules():
        if isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=std)
        if tables_only:
            continue
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=std)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
        if isinstance(part, nn.LayerNorm):
            part.reset_parameters()


def extend_positions(
    weight_PD: Tensor, max_positions: int, *, method: PositionMethod = "tile"
) -> Tensor:
    """Return a position table of max_positions rows made from a shorter one.

    Args:
        weight_PD: Learned table, any float dtype.
        max_positions: Rows of the result, >= P; need not be a multiple of P.
        method: "tile" repeats the rows in order; "interpolate" stretches them linearly with the
            first and last row fixed.

    Source:
        PoNet's long-text runs repeat the 512 rows eight times; interpolation is a common
        alternative.
    """
    num_positions = weight_PD.shape[0]
    _check_extension(num_positions, max_positions, method)
    if method == "tile":
        rows = torch.arange(max_positions, device=weight_PD.device) % num_positions
        return weight_PD[rows]
    where = torch.linspace(0, num_positions - 1, max_positions, dtype=torch.float64)
    lower = where.floor().long().clamp_(max=max(num_positions - 2, 0))
    upper = (lower + 1).clamp_(max=num_positions - 1)
    share = (where - lower).to(weight_PD)[:, None]
    lower, upper = lower.to(weight_PD.device), upper.to(weight_PD.device)
    return weight_PD[lower] * (1 - share) + weight_PD[upper] * share


def _check_extension(present: int, max_positions: int, method: str) -> None:
    """Refuse fewer positions than there are, and unknown methods."""
    if max_positions < present:
        raise ValueError(
            f"max_positions={max_positions} is below the present {present}; positions can only be "
            "extended"
        )
    if method not in get_args(PositionMethod):
        allowed = ", ".join(get_args(PositionMethod))
        raise ValueError(f"method {method!r} given; allowed are {allowed}")


class Embeddings(nn.Module):
    """Sum of word, token type and learned position embeddings, layer norm, dropout.

    Token types, positions and the norm are there where the configuration has them; with a
    projection `word` is the bottleneck over hashed words.
    """

    def __init__(self, config: EncoderConfig) -> None:
        """Build the tables of one configuration."""
        super().__init__()
        self.word = (
            HashedWords(config)
            if config.projection
            else nn.Embedding(config.vocab_size, config.hidden_size)
        )
        self.position = (
            nn.Embedding(config.max_positions, config.hidden_size) if config.use_positions else None
        )
        self.token_type = (
            nn.Embedding(config.type_vocab_size, config.hidden_size)
            if config.type_vocab_size
            else None
        )
        self.norm = norm_layer(config) if config.embedding_norm else nn.Identity()
        has_projection = isinstance(config, FNetConfig) and config.embedding_projection
        self.projection = (
            nn.Linear(config.hidden_size, config.hidden_size) if has_projection else nn.Identity()
        )
        self.dropout = Dropout(config.dropout_prob)

    def forward(self, batch: EncoderBatch) -> Tensor:
        """Return (B, L, D).

        Raises:
            ValueError: If the batch is longer than the position table.
        """
        x_BLD = self.word(batch if isinstance(self.word, HashedWords) else batch.input_ids)
        if self.token_type is not None:
            x_BLD = x_BLD + self.token_type(batch.token_type_ids)
        if self.position is not None:
            x_BLD = x_BLD + self._positions(batch)
        x_BLD = self.projection(self.norm(x_BLD))
        dropped: Tensor = self.dropout(x_BLD)
        return dropped

    def _positions(self, batch: EncoderBatch) -> Tensor:
        assert self.position is not None
        texts = batch.input_ids if batch.text_places is None else batch.text_places
        max_positions, num_tokens = self.position.num_embeddings, texts.shape[1]
        if num_tokens > max_positions:
            raise ValueError(
                f"a batch of {num_tokens} tokens was given to an encoder with {max_positions} "
                "positions; shorten it or call encoder.extend_positions first"
            )
        if batch.text_places is None:
            return self.position.weight[:num_tokens]
        positions_BL = (batch.text_slots % num_tokens).view_as(batch.input_ids)
        found: Tensor = self.position(positions_BL)
        return found


class FeedForward(nn.Module):
    """Position-wise linear, GELU, linear, dropout; where configured, dropout in between too."""

    def __init__(self, config: EncoderConfig) -> None:
        """Build both linear layers."""
        super().__init__()
        self.expand = nn.Linear(config.hidden_size, config.ffn_size)
        self.contract = nn.Linear(config.ffn_size, config.hidden_size)
        self.activation = activation_function(config.activation)
        self.dropout = Dropout(config.dropout_prob)
        self.inner_dropout = Dropout(config.ffn_dropout_prob)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Return (B, L, D)."""
        inner_BLF = self.inner_dropout(self.activation(self.expand(x_BLD)))
        update: Tensor = self.dropout(self.contract(inner_BLF))
        return update


class Block(nn.Module):
    """Mixer and feed-forward sub-layers, each added to its input.

    The sum is normalised, or with norm_position "pre" the input of each sub-layer.
    """

    def __init__(self, config: EncoderConfig, mixer: TokenMixer) -> None:
        """Wrap one mixer."""
        super().__init__()
        self.mixer = mixer
        self.mixer_norm = norm_layer(config)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = norm_layer(config)
        self.norm_first = config.norm_position == "pre"

    def forward(self, x_BLD: Tensor, plan: Any, read_BR: Tensor | None = None) -> Tensor:
        """Return the next (B, L, D) hidden states, or the (B, R, D) of some tokens.

        Args:
            x_BLD: Hidden states.
            plan: What the mixer's prepare returned for this batch.
            read_BR: int64, positions; what only other tokens need is then not computed.
        """
        mixed = self.mixer_norm(x_BLD) if self.norm_first else x_BLD
        if read_BR is None:
            x_BLD = x_BLD + self.mixer(mixed, plan)
        else:
            update_BRD = self.mixer.mix_at(mixed, plan, read_BR)
            x_BLD = at_positions(x_BLD, read_BR) + update_BRD
        if self.norm_first:
            summed: Tensor = x_BLD + self.feed_forward(self.feed_forward_norm(x_BLD))
            return summed
        x_BLD = self.mixer_norm(x_BLD)
        normed: Tensor = self.feed_forward_norm(x_BLD + self.feed_forward(x_BLD))
        return normed


class BareBlock(nn.Module):
    """A mixer that is the whole block."""

    def __init__(self, mixer: TokenMixer) -> None:
        """Take the mixer as it is."""
        super().__init__()
        self.mixer = mixer

    def forward(self, x_BLD: Tensor, plan: Any, read_BR: Tensor | None = None) -> Tensor:
        """Return the next (B, L, D) hidden states, or the (B, R, D) of some tokens."""
        mixed: Tensor = self.mixer(x_BLD, plan)
        return mixed if read_BR is None else at_positions(mixed, read_BR)


def make_block(config: EncoderConfig, mixer: TokenMixer) -> Block | BareBlock:
    """Return one layer around a mixer."""
    return BareBlock(mixer) if mixer.is_whole_block else Block(config, mixer)


class Encoder(FreezableStack):
    """Embeddings and a stack of blocks; forward(batch) gives the last hidden states.

    `gradient_checkpointing = True` makes training keep a block's input alone and compute the block
    again in the backward pass: less memory and about a third more time, the same gradients. With
    `checkpoint_every = k` only the first of every k blocks does so, at a k-th of the time.
    `sparse_last_block = False` computes the whole last block though only some tokens are read.
    They are no part of the configuration, because they do not change what is computed (but which
    units dropout draws). Nor is what `freeze` has frozen.
    """

    embeddings: Embeddings
    sparse_last_block: bool = True
    gradient_checkpointing: bool = False
    checkpoint_every: int = 1

    def __init__(self, config: EncoderConfig, make_mixer: Callable[[], TokenMixer]) -> None:
        """Build and initialise all layers.

        Args:
            config: Sizes.
            make_mixer: Returns a new mixer for each layer.
        """
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(
            make_block(config, make_mixer()) for _ in range(config.num_layers)
        )
        self.final_norm = norm_layer(config) if config.final_norm else nn.Identity()
        init_weights(self, config.init_range, tables_only=config.init == "torch")

    @property
    def keeps_texts_apart(self) -> bool:
        """Whether a batch may be one of `join_texts`; the window of hashed words sees beyond."""
        mixers: list[Any] = [block.mixer for block in self.layers]
        apart = all(mixer.keeps_texts_apart for mixer in mixers)
        return apart and bool(mixers) and self.config.projection is None

    def prepare(self, batch: EncoderBatch) -> Any:
        """Return the plan of the first layer; where all mixers are alike, that of every layer."""
        return self.plans(batch)[0] if self.layers else None

    def plans(self, batch: EncoderBatch) -> list[Any]:
        """Return the plan of each layer; mixers that prepare alike share one.

        Raises:
            ValueError: If the texts of a row would see each other.
        """
        if batch.text_places is not None and not self.keeps_texts_apart:
            raise ValueError(
                f"rows of several texts were given to {self.config.kind}, in which they would see "
                "each other; give every text a row of its own (PoNet needs "
                "guard_special_tokens=True and local_window <= 5, and none takes hashed words so)"
            )
        mixers: list[Any] = [block.mixer for block in self.layers]
        kinds = {type(mixer).prepare: mixer for mixer in mixers}
        made = {prepare: mixer.prepare(batch) for prepare, mixer in kinds.items()}
        return [made[type(mixer).prepare] for mixer in mixers]

    def forward(self, batch: EncoderBatch, read_BR: Tensor | None = None) -> Tensor:
        """Return the last hidden states (B, L, D), or those of some tokens (B, R, D).

        The same numbers up to rounding; of the last block only what the tokens that are read depend
        on is computed.

        Args:
            batch: Input.
            read_BR: int64 (B, R), in [0, L), the positions that are read; None: all.
        """
        if read_BR is not None and not (self.sparse_last_block and self.layers):
            return at_positions(self(batch), read_BR)
        with self.graph_of(0):
            x_BLD: Tensor = self.embeddings(batch)
        plans = self.plans(batch)
        recompute = self.gradient_checkpointing and self.training
        for number, (block, plan) in enumerate(zip(self.layers, plans, strict=True), start=1):
            inputs: tuple[Any, ...] = (x_BLD, plan)
            if read_BR is not None and number == len(self.layers):
                inputs = (*inputs, read_BR)
            is_first = (number - 1) % self.checkpoint_every == 0
            with self.graph_of(number):
                if recompute and is_first and torch.is_grad_enabled():
                    # It also repeats the block's dropout and autocast.
                    x_BLD = checkpoint(block, *inputs, use_reentrant=False)
                else:
                    x_BLD = block(*inputs)
        with self.graph_of(len(self.layers) + 1):
            normed: Tensor = self.final_norm(x_BLD)
        return normed

    def compile_blocks(self, mode: str = "default") -> None:
        """Compile every block in place; blocks of one kind share one graph for each shape.

        A graph of all blocks would take as many times as long to make. What cannot be one graph is
        an error and never runs in pieces, but for an LSTM, which PyTorch compiles around.

        Args:
            mode: Of torch.compile.
        """
        for block in self.layers:
            whole = not isinstance(block, BareBlock)
            block.compile(dynamic=False, fullgraph=whole, mode=None if mode == "default" else mode)

    def extend_positions(
        self, max_positions: int, *, method: PositionMethod = "tile", num_trained: int | None = None
    ) -> None:
        """Replace the position table by a longer one, in place; do it before making an optimizer.

        Args:
            max_positions: New length in tokens, not below the present one.
            method: See the function `extend_positions`.
            num_trained: First rows, of which the others are made; None: all there are.

        Raises:
            ValueError: If the new length is shorter, or the encoder's weights belong to places.
        """
        position, config = self.embeddings.position, self.config
        _check_extension(config.max_positions, max_positions, method)
        if config.fixed_places and max_positions > config.max_positions:
            raise ValueError(
                f"max_positions={max_positions} given, but the weights of {config.kind} belong to "
                f"its {config.max_positions} places; cut longer texts, or train one with more"
            )
        if position is not None:
            known_PD = position.weight.detach()[:num_trained]
            weight_PD = extend_positions(known_PD, max_positions, method=method)
            num_positions, width = weight_PD.shape
            self.embeddings.position = nn.Embedding(
                num_positions, width, _weight=weight_PD, _freeze=not position.weight.requires_grad
            )
        self.config = dataclasses.replace(config, max_positions=max_positions)
