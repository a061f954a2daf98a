"""Heads on the encoders: masked LM, pair, classification, tagging.

B batch, L tokens, M masked positions, D width, V vocabulary, P pair classes, C labels; N = B * M.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ponet.batch import EncoderBatch
from ponet.config import EncoderConfig
from ponet.dropout import Dropout
from ponet.encoders import build_encoder
from ponet.encoders.backbone import activation_function, at_positions, init_weights
from ponet.encoders.pairs import WordPairs
from ponet.losses import TokenLoss, linear_cross_entropy
from ponet.poolers import (
    ChannelAttentionPooler,
    Pooler,
    first_positions,
    first_states,
    make_pooler,
    pool,
    pooled_states,
    refuse_joined,
)

ClassifierT = TypeVar("ClassifierT", bound="_Classifier")


class PretrainingOutput(NamedTuple):
    """What PretrainingModel.forward returns."""

    last_hidden_state: Tensor
    """(B, L, D)."""
    mlm_logits: Tensor
    """(B, L, V)."""
    pair_logits: Tensor | None
    """(B, P), or None without a pair head."""


class MaskedOutput(NamedTuple):
    """What PretrainingModel.forward_masked returns."""

    mlm_logits: Tensor
    """(B, M, V)."""
    pair_logits: Tensor | None
    """(B, P), or None without a pair head."""


class MaskedLoss(NamedTuple):
    """What PretrainingModel.masked_loss returns."""

    mlm: TokenLoss
    """Sums over the masked positions."""
    pair_logits: Tensor | None
    """(B, P), or None without a pair head."""


class MaskedLMHead(nn.Module):
    """Linear, GELU, layer norm, then the word embeddings as output weights plus a bias.

    Of an encoder of hashed words, which has no embeddings of a vocabulary, the head has output
    weights of its own; only pretraining needs them.
    """

    def __init__(self, config: EncoderConfig) -> None:
        """Build the transform; the output weights come with each call, so they stay tied."""
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.activation = activation_function(config.activation)
        self.plain_loss = getattr(config, "kernels", "auto") in ("eager", "reference")
        weight_VD = torch.empty(config.vocab_size * bool(config.projection), config.hidden_size)
        nn.init.normal_(weight_VD, std=config.init_range)
        self.weight = nn.Parameter(weight_VD) if config.projection else None
        init_weights(self, config.init_range)

    def forward(self, x: Tensor, word_weight_VD: Tensor) -> Tensor:
        """Return logits (..., V) for hidden states (..., D).

        Args:
            x: Hidden states.
            word_weight_VD: Output weights.
        """
        return F.linear(self.transform(x), word_weight_VD, self.bias)

    def transform(self, x: Tensor) -> Tensor:
        """Return what the output weights are applied to, (..., D)."""
        transformed: Tensor = self.norm(self.activation(self.dense(x)))
        return transformed

    def loss(self, x_ND: Tensor, word_weight_VD: Tensor, labels_N: Tensor) -> TokenLoss:
        """Return the summed cross-entropy and hits of positions, without all their logits.

        Args:
            x_ND: Hidden states.
            word_weight_VD: Output weights.
            labels_N: int64, the words; -100 at positions that do not count.
        """
        inputs = (self.transform(x_ND), word_weight_VD, self.bias, labels_N)
        return linear_cross_entropy(*inputs, plain=self.plain_loss)


class PretrainingModel(nn.Module):
    """Encoder with a masked-LM head and, if asked for, a head for sentence-pair classes.

    Args:
        config: Encoder configuration.
        num_pair_classes: Classes of the pair task (2 for next sentence, 3 for sentence order);
            0 = no pair head and no pooler.
    """

    def __init__(self, config: EncoderConfig, *, num_pair_classes: int = 3) -> None:
        """Build and initialise everything."""
        super().__init__()
        if num_pair_classes < 0:
            raise ValueError(f"num_pair_classes={num_pair_classes} given; 0 or more is needed")
        self.num_pair_classes = num_pair_classes
        self.encoder = build_encoder(config)
        self.mlm_head = MaskedLMHead(config)
        self.pooler = make_pooler(config) if num_pair_classes else None
        self.pair_head = nn.Linear(config.hidden_size, num_pair_classes) if self.pooler else None
        if self.pair_head is not None:
            init_weights(self.pair_head, config.init_range)

    @property
    def config(self) -> EncoderConfig:
        """The encoder's configuration."""
        return self.encoder.config

    @property
    def decoder_weight(self) -> nn.Parameter:
        """Output weights (V, D): the word embeddings' own Parameter, or the head's."""
        weight_VD = self.encoder.embeddings.word.weight
        if self.mlm_head.weight is not None:
            weight_VD = self.mlm_head.weight
        assert isinstance(weight_VD, nn.Parameter)
        return weight_VD

    @property
    def reads_all(self) -> bool:
        """Whether the pooler reads every token, so that the last block is computed for all."""
        return isinstance(self.pooler, ChannelAttentionPooler)

    def forward(self, batch: EncoderBatch) -> PretrainingOutput:
        """Return hidden states and logits at every position."""
        x_BLD = self.encoder(batch)
        mlm_logits_BLV = self.mlm_head(x_BLD, self.decoder_weight)
        pair_logits_BP = self._pair_logits(pooled_states(x_BLD, batch), batch)
        return PretrainingOutput(x_BLD, mlm_logits_BLV, pair_logits_BP)

    def forward_masked(self, batch: EncoderBatch, masked_positions_BM: Tensor) -> MaskedOutput:
        """Return masked-LM logits at the given positions only.

        Args:
            batch: Input.
            masked_positions_BM: int64 (B, M), in [0, L); unused entries may point anywhere.
        """
        x_BMD, x_BLD = self._read(batch, masked_positions_BM)
        return MaskedOutput(
            self.mlm_head(x_BMD, self.decoder_weight), self._pair_logits(x_BLD, batch)
        )

    def masked_loss(
        self, batch: EncoderBatch, masked_positions_BM: Tensor, masked_labels_BM: Tensor
    ) -> MaskedLoss:
        """Return the masked-LM loss at the given positions; the path used in training.

        Args:
            batch: Input.
            masked_positions_BM: int64 (B, M), in [0, L); unused entries may point anywhere.
            masked_labels_BM: int64 (B, M), the words there; -100 at unused entries.
        """
        x_BMD, x_BLD = self._read(batch, masked_positions_BM)
        labels_N = masked_labels_BM.flatten()
        mlm = self.mlm_head.loss(x_BMD.flatten(0, 1), self.decoder_weight, labels_N)
        return MaskedLoss(mlm, self._pair_logits(x_BLD, batch))

    def _read(self, batch: EncoderBatch, positions_BM: Tensor) -> tuple[Tensor, Tensor]:
        """Return the states (B, M, D) at the positions, and those that the pooler needs."""
        if self.reads_all:
            x_BLD = self.encoder(batch)
            return at_positions(x_BLD, positions_BM), x_BLD
        first = first_positions(batch)
        x_BRD = self.encoder(batch, torch.cat([first, positions_BM], 1))
        return x_BRD[:, first.shape[1] :], first_states(x_BRD[:, : first.shape[1]])

    def _pair_logits(self, x_BLD: Tensor, batch: EncoderBatch) -> Tensor | None:
        if self.pooler is None or self.pair_head is None:
            return None
        logits_BP: Tensor = self.pair_head(pool(self.pooler, x_BLD, batch))
        return logits_BP


class _Classifier(nn.Module, ABC):
    """Encoder, pooler, dropout and a linear layer."""

    def __init__(
        self, encoder_config: EncoderConfig, *, num_labels: int, dropout_prob: float = 0.1
    ) -> None:
        """Build and initialise everything.

        Args:
            encoder_config: Encoder configuration.
            num_labels: Outputs C, >= 1; 1 for regression.
            dropout_prob: Dropout before the last layer, in [0, 1).
        """
        super().__init__()
        if num_labels < 1:
            raise ValueError(f"num_labels={num_labels} given; 1 or more is needed")
        self.encoder = build_encoder(encoder_config)
        self.pooler = self.make_pooler(encoder_config)
        self.dropout = Dropout(dropout_prob)
        self.classifier = nn.Linear(encoder_config.hidden_size, num_labels)
        if encoder_config.init == "normal":
            init_weights(self.classifier, encoder_config.init_range)

    @staticmethod
    @abstractmethod
    def make_pooler(config: EncoderConfig) -> nn.Module:
        """Return what makes of the states (B, L, D) the input of the last layer."""

    def forward(self, batch: EncoderBatch) -> Tensor:
        """Return logits: (B, C) for sequences, (B, L, C) for tokens."""
        if isinstance(self.pooler, Pooler):
            pooled = self.pooler(first_states(self.encoder(batch, first_positions(batch))))
        else:
            pooled = pool(self.pooler, self.encoder(batch), batch)
        logits: Tensor = self.classifier(self.dropout(pooled))
        return logits

    @classmethod
    def from_pretrained(
        cls: type[ClassifierT], model: PretrainingModel, *, num_labels: int, **options: float
    ) -> ClassifierT:
        """Return a classifier with a copy of the model's encoder and, if both have one, pooler."""
        classifier = cls(model.config, num_labels=num_labels, **options)
        classifier.encoder.load_state_dict(model.encoder.state_dict())
        if model.pooler is not None and not isinstance(classifier.pooler, nn.Identity):
            classifier.pooler.load_state_dict(model.pooler.state_dict())
        return classifier


class SequenceClassifier(_Classifier):
    """Encoder, pooler, dropout and a linear layer: one prediction per sequence.

    With `pair_rows` words and pairs of words have a say in the logits too.
    """

    def __init__(
        self, encoder_config: EncoderConfig, *, num_labels: int, dropout_prob: float = 0.1
    ) -> None:
        """Build and initialise everything; see `_Classifier`."""
        super().__init__(encoder_config, num_labels=num_labels, dropout_prob=dropout_prob)
        projection = encoder_config.projection
        has_pairs = projection is not None and projection.pair_rows > 0
        self.pairs = WordPairs(projection, num_labels) if projection and has_pairs else None

    @staticmethod
    def make_pooler(config: EncoderConfig) -> nn.Module:
        """Return the pooler that suits the encoder's input."""
        return make_pooler(config)

    def forward(self, batch: EncoderBatch) -> Tensor:
        """Return logits (B, C)."""
        logits_BC, of_pairs_BC = self.parts(batch)
        return logits_BC if of_pairs_BC is None else logits_BC + of_pairs_BC

    def parts(self, batch: EncoderBatch) -> tuple[Tensor, Tensor | None]:
        """Return the logits (B, C) of the encoder, and those of words and pairs where there are."""
        return super().forward(batch), None if self.pairs is None else self.pairs(batch)

    @torch.no_grad()
    def rescale(self, *, factor: float, shift: float) -> None:
        """Let every output be what it was, times a factor, plus a shift; for one output."""
        self.classifier.weight.mul_(factor)
        self.classifier.bias.mul_(factor).add_(shift)
        if self.pairs is not None:
            self.pairs.weight.mul_(factor)


class TokenClassifier(_Classifier):
    """Encoder, dropout and a linear layer: one prediction per token."""

    @staticmethod
    def make_pooler(config: EncoderConfig) -> nn.Module:
        """Return nothing that has parameters."""
        return nn.Identity()


class MeanClassifier(nn.Module):
    """Mean over a text's states, a hidden layer, ReLU, the last layer; for one text or two.

    Two texts pass one encoder; the head then sees both means, their product and their difference.

    Args:
        encoder: Encoder configuration; for the published classifiers norm_position="pre",
            final_norm, no embedding norm and no types, layer_norm_eps=1e-5, init="torch". Or a
            module that makes states (B, L, D) of a batch and has the attribute hidden_size.
        num_labels: Outputs C.
        hidden_size: Width of the hidden layer.
        has_pair: Whether two texts are given.

    Source:
        The Long Range Arena code of Nystromformer and PoNet.
    """

    def __init__(
        self, encoder: EncoderConfig | nn.Module, *, num_labels: int, hidden_size: int,
        has_pair: bool = False,
    ) -> None:  # fmt: skip
        """Build everything."""
        super().__init__()
        self.encoder = build_encoder(encoder) if isinstance(encoder, EncoderConfig) else encoder
        width = int(encoder.hidden_size) * (4 if has_pair else 1)  # type: ignore[arg-type]
        self.hidden = nn.Linear(width, hidden_size)
        self.classifier = nn.Linear(hidden_size, num_labels)

    def forward(
        self, batch: EncoderBatch, other: EncoderBatch | None = None, *, divisor: int | None = None
    ) -> Tensor:
        """Return logits (B, C).

        Args:
            batch: The texts.
            other: The second texts of a pair task.
            divisor: Divides the sums of the states: the padded length as published, whatever a
                batch was cut to; None takes the number of real tokens.
        """
        means = [self.mean(one, divisor) for one in (batch, other) if one is not None]
        if len(means) == 2:
            first, second = means
            means = [first, second, first * second, first - second]
        logits: Tensor = self.classifier(self.hidden(torch.cat(means, 1)).relu())
        return logits

    def mean(self, batch: EncoderBatch, divisor: int | None) -> Tensor:
        """Return the mean state (B, D) of every text; 0 for a text without a token.

        Raises:
            ValueError: If rows hold several texts.
        """
        refuse_joined(batch)
        summed_BD: Tensor = (self.encoder(batch) * batch.mask[..., None]).sum(1)
        if divisor is not None:
            return summed_BD / divisor
        return summed_BD / batch.mask.sum(1, keepdim=True).clamp(min=1)
