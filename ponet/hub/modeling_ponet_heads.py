"""PoNet's heads as models of transformers: masked words, pretraining, sequences, tokens.

B batch, L tokens, D width, V vocabulary, P pair classes, C labels. The invariant of modeling_ponet
holds here too.
"""

from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import (
    MaskedLMOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils import ModelOutput

from ponet.heads import MaskedLMHead
from ponet.hub.configuration_ponet import PoNetHubConfig, native_config
from ponet.hub.modeling_ponet import PoNetModel, PoNetPreTrainedModel


class _WithVocabulary(PoNetPreTrainedModel):
    """Encoder with the masked-LM head, whose output weights are the word embeddings' own."""

    def __init__(self, config: PoNetHubConfig) -> None:
        super().__init__(config)
        self.ponet = PoNetModel(config)
        self.mlm_head = MaskedLMHead(native_config(config))

    def word_logits(self, x_BLD: Tensor) -> Tensor:
        """Return (B, L, V)."""
        logits_BLV: Tensor = self.mlm_head(x_BLD, self.ponet.get_input_embeddings().weight)
        return logits_BLV

    def word_loss(self, logits_BLV: Tensor, labels: Tensor | None) -> Tensor | None:
        """Return the mean cross-entropy at labels other than -100; None without labels."""
        if labels is None:
            return None
        return F.cross_entropy(logits_BLV.flatten(0, 1).float(), labels.flatten())

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Resize the word embeddings and the bias of their logits, new entries of which are 0."""
        word = cast(nn.Embedding, super().resize_token_embeddings(*args, **kwargs))
        bias_V = self.mlm_head.bias.detach()
        missing = word.num_embeddings - len(bias_V)
        if missing:
            self.mlm_head.bias = nn.Parameter(F.pad(bias_V, (0, missing)))
        return word


class PoNetForMaskedLM(_WithVocabulary):
    """Encoder with a masked-LM head; the head for text pairs of a checkpoint is left aside.

    Args:
        config: Configuration.
    """

    _keys_to_ignore_on_load_unexpected = [r"^pair_head\."]

    def __init__(self, config: PoNetHubConfig) -> None:
        """Build and initialise everything."""
        super().__init__(config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        segment_ids: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> MaskedLMOutput | tuple[Any, ...]:
        """Return logits (B, L, V) and, with labels, the mean loss.

        Args:
            input_ids: See PoNetModel.forward, as the next three and the last two.
            attention_mask: See there.
            token_type_ids: See there.
            segment_ids: See there.
            labels: int64 (B, L), the words; -100 at positions that do not count.
            output_hidden_states: See there.
            return_dict: See there.
        """
        hidden = self.ponet(
            input_ids, attention_mask, token_type_ids, segment_ids,
            output_hidden_states=output_hidden_states, return_dict=True,
        )  # fmt: skip
        logits_BLV = self.word_logits(hidden.last_hidden_state)
        loss = self.word_loss(logits_BLV, labels)
        output = MaskedLMOutput(loss=loss, logits=logits_BLV, hidden_states=hidden.hidden_states)
        return cast(MaskedLMOutput, self._finish(output, return_dict))


@dataclass
class PoNetForPreTrainingOutput(ModelOutput):
    """What PoNetForPreTraining returns."""

    loss: Tensor | None = None
    """Sum of the losses whose labels were given."""
    prediction_logits: Tensor | None = None
    """(B, L, V)."""
    seq_relationship_logits: Tensor | None = None
    """(B, P)."""
    hidden_states: tuple[Tensor, ...] | None = None
    """If asked for: before and after every block."""


class PoNetForPreTraining(_WithVocabulary):
    """Encoder with both pretraining heads: masked words and the relation of two texts.

    Args:
        config: Configuration with a pooler and num_pair_classes above 0.

    Raises:
        ValueError: If the configuration has no pair head.
    """

    def __init__(self, config: PoNetHubConfig) -> None:
        """Build and initialise everything."""
        if config.num_pair_classes < 1 or not config.has_pooler:
            raise ValueError(
                f"num_pair_classes={config.num_pair_classes}, has_pooler={config.has_pooler}: "
                "this model was trained without text pairs; load it with AutoModelForMaskedLM"
            )
        super().__init__(config)
        self.pair_head = nn.Linear(config.hidden_size, config.num_pair_classes)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        segment_ids: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        next_sentence_label: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> PoNetForPreTrainingOutput | tuple[Any, ...]:
        """Return both logits and, with labels, the sum of the mean losses.

        Args:
            input_ids: See PoNetModel.forward, as the next three and the last two.
            attention_mask: See there.
            token_type_ids: See there.
            segment_ids: See there.
            labels: int64 (B, L), the words; -100 at positions that do not count.
            next_sentence_label: int64 (B,), the class of the pair.
            output_hidden_states: See there.
            return_dict: See there.
        """
        hidden = self.ponet(
            input_ids, attention_mask, token_type_ids, segment_ids,
            output_hidden_states=output_hidden_states, return_dict=True,
        )  # fmt: skip
        logits_BLV = self.word_logits(hidden.last_hidden_state)
        pair_logits_BP = self.pair_head(hidden.pooler_output)
        losses = [self.word_loss(logits_BLV, labels)]
        if next_sentence_label is not None:
            losses.append(F.cross_entropy(pair_logits_BP.float(), next_sentence_label))
        given = [loss for loss in losses if loss is not None]
        output = PoNetForPreTrainingOutput(
            loss=sum(given[1:], start=given[0]) if given else None,
            prediction_logits=logits_BLV,
            seq_relationship_logits=pair_logits_BP,
            hidden_states=hidden.hidden_states,
        )
        return cast(PoNetForPreTrainingOutput, self._finish(output, return_dict))


class _WithClassifier(PoNetPreTrainedModel):
    """Encoder, dropout and a linear layer; the pretraining heads of a checkpoint are left aside."""

    _keys_to_ignore_on_load_unexpected = [r"^pair_head\.", r"^mlm_head\."]

    def __init__(self, config: PoNetHubConfig) -> None:
        """Build and initialise everything."""
        super().__init__(config)
        self.num_labels = config.num_labels
        self.ponet = PoNetModel(config)
        dropout_prob = config.classifier_dropout
        self.dropout = nn.Dropout(
            config.hidden_dropout_prob if dropout_prob is None else dropout_prob
        )
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()


class PoNetForSequenceClassification(_WithClassifier):
    """Encoder, pooler, dropout and a linear layer: classes, several labels, or a number.

    Args:
        config: Configuration; `problem_type` as in transformers, and if it is None, it follows
            from num_labels (1: regression) and from the labels (float: several labels).
    """

    def __init__(self, config: PoNetHubConfig) -> None:
        """Build and initialise everything; a pooler is always there."""
        config.has_pooler = True
        super().__init__(config)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        segment_ids: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput | tuple[Any, ...]:
        """Return logits (B, C) and, with labels, the mean loss.

        Args:
            input_ids: See PoNetModel.forward, as the next three and the last two.
            attention_mask: See there.
            token_type_ids: See there.
            segment_ids: See there.
            labels: (B,) classes or numbers, or float (B, C) for several labels.
            output_hidden_states: See there.
            return_dict: See there.
        """
        hidden = self.ponet(
            input_ids, attention_mask, token_type_ids, segment_ids,
            output_hidden_states=output_hidden_states, return_dict=True,
        )  # fmt: skip
        logits_BC = self.classifier(self.dropout(hidden.pooler_output))
        output = SequenceClassifierOutput(
            loss=None if labels is None else self._loss(logits_BC.float(), labels),
            logits=logits_BC,
            hidden_states=hidden.hidden_states,
        )
        return cast(SequenceClassifierOutput, self._finish(output, return_dict))

    def _loss(self, logits_BC: Tensor, labels: Tensor) -> Tensor:
        kind = self.config.problem_type
        if kind is None and self.num_labels == 1:
            kind = "regression"
        if kind == "regression":
            return F.mse_loss(logits_BC.reshape(labels.shape), labels.float())
        if kind == "multi_label_classification" or (kind is None and labels.is_floating_point()):
            return F.binary_cross_entropy_with_logits(logits_BC, labels.float())
        return F.cross_entropy(logits_BC, labels)


class PoNetForTokenClassification(_WithClassifier):
    """Encoder, dropout and a linear layer: one prediction per token.

    Args:
        config: Configuration.
    """

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        segment_ids: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> TokenClassifierOutput | tuple[Any, ...]:
        """Return logits (B, L, C) and, with labels, the mean loss.

        Args:
            input_ids: See PoNetModel.forward, as the next three and the last two.
            attention_mask: See there.
            token_type_ids: See there.
            segment_ids: See there.
            labels: int64 (B, L), the classes; -100 at positions that do not count.
            output_hidden_states: See there.
            return_dict: See there.
        """
        hidden = self.ponet(
            input_ids, attention_mask, token_type_ids, segment_ids,
            output_hidden_states=output_hidden_states, return_dict=True,
        )  # fmt: skip
        logits_BLC = self.classifier(self.dropout(hidden.last_hidden_state))
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits_BLC.flatten(0, 1).float(), labels.flatten())
        output = TokenClassifierOutput(
            loss=loss, logits=logits_BLC, hidden_states=hidden.hidden_states
        )
        return cast(TokenClassifierOutput, self._finish(output, return_dict))
