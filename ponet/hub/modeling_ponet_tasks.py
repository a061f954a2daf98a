"""PoNet with heads for tasks, as models of transformers.

B batch, L tokens, C labels, K choices. As modeling_ponet.py, the file runs as a copy beside
exported weights too. What a checkpoint has of pretraining heads is left aside, and these are new.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import (
    BaseModelOutputWithPooling,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from ponet.hub.configuration_ponet import PoNetHubConfig
from ponet.hub.modeling_ponet import PoNetModel, PoNetPreTrainedModel, WithHead, token_loss


class _WithClassifier(WithHead):
    """Encoder, dropout and a linear layer; the pretraining heads of a checkpoint are left aside."""

    def _build(self, config: PoNetHubConfig) -> None:
        self.num_labels = config.num_labels
        dropout_prob = config.classifier_dropout
        self.dropout = nn.Dropout(
            config.hidden_dropout_prob if dropout_prob is None else dropout_prob
        )
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)


class _WithTextClassifier(_WithClassifier):
    """The same behind the pooler, which it always has."""

    def __init__(self, config: PoNetHubConfig) -> None:
        config.has_pooler = True  # always
        super().__init__(config)


class PoNetForSequenceClassification(_WithTextClassifier):
    """Encoder, pooler, dropout and a linear layer: classes, several labels, or a number.

    Gives logits (B, C); labels are (B,) classes or numbers, or float (B, C) for several labels.

    Args:
        config: Configuration; `problem_type` as in transformers, and if it is None, it follows
            from num_labels (1: regression) and from the labels (float: several labels).
    """

    def _answer(self, encoded: BaseModelOutputWithPooling, labels: Tensor | None) -> ModelOutput:
        logits_BC = self.classifier(self.dropout(encoded.pooler_output))
        return SequenceClassifierOutput(
            loss=None if labels is None else self._loss(logits_BC.float(), labels),
            logits=logits_BC,
            hidden_states=encoded.hidden_states,
        )

    def _loss(self, logits_BC: Tensor, labels: Tensor) -> Tensor:
        kind = self.config.problem_type
        if kind == "regression" or (kind is None and self.num_labels == 1):
            return F.mse_loss(logits_BC.reshape(labels.shape), labels.float())
        if kind == "multi_label_classification" or (kind is None and labels.is_floating_point()):
            return F.binary_cross_entropy_with_logits(logits_BC, labels.float())
        return F.cross_entropy(logits_BC, labels)


class PoNetForTokenClassification(_WithClassifier):
    """Encoder, dropout and a linear layer: one prediction per token.

    Gives logits (B, L, C); labels are int64 (B, L), -100 at positions that do not count.

    Args:
        config: Configuration.
    """

    def _answer(self, encoded: BaseModelOutputWithPooling, labels: Tensor | None) -> ModelOutput:
        logits_BLC = self.classifier(self.dropout(encoded.last_hidden_state))
        return TokenClassifierOutput(
            loss=token_loss(logits_BLC, labels),
            logits=logits_BLC,
            hidden_states=encoded.hidden_states,
        )


class PoNetForQuestionAnswering(PoNetPreTrainedModel):
    """Encoder and a linear layer: which tokens of a text begin and end the answer to a question.

    Gives start_logits and end_logits, both (B, L). As transformers' BERT, without dropout.

    Args:
        config: Configuration.
    """

    def __init__(self, config: PoNetHubConfig) -> None:
        super().__init__(config)
        self.ponet = PoNetModel(config)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        segment_ids: Tensor | None = None,
        *,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        **options: Any,
    ) -> QuestionAnsweringModelOutput:
        """Return both logits and, with both positions, the mean of the two mean losses.

        Inputs and options are those of PoNetModel.forward; positions are int64 (B,). As in
        transformers' BERT one beyond the last token does not count, and one below 0 is 0.
        """
        inputs = (input_ids, attention_mask, token_type_ids, segment_ids)
        encoded = self.ponet(*inputs, return_dict=True, **options)
        start_BL, end_BL = self.qa_outputs(encoded.last_hidden_state).unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            losses = _place_loss(start_BL, start_positions), _place_loss(end_BL, end_positions)
            loss = sum(losses) / 2
        return QuestionAnsweringModelOutput(
            loss=loss, start_logits=start_BL, end_logits=end_BL, hidden_states=encoded.hidden_states
        )


class PoNetForMultipleChoice(_WithTextClassifier):
    """Encoder, pooler, dropout and a linear layer: which of several texts is the right one.

    Inputs are (B, K, L), logits (B, K); labels are int64 (B,).

    Args:
        config: Configuration.
    """

    def _build(self, config: PoNetHubConfig) -> None:
        super()._build(config)
        self.classifier = nn.Linear(config.hidden_size, 1)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        segment_ids: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        **options: Any,
    ) -> MultipleChoiceModelOutput:
        """Return logits and, with labels, the mean loss.

        Inputs and options are those of PoNetModel.forward, with the choices of a question in one
        more dimension.
        """
        given = (input_ids, attention_mask, token_type_ids, segment_ids)
        inputs = (None if tensor is None else tensor.flatten(0, 1) for tensor in given)
        encoded = self.ponet(*inputs, return_dict=True, **options)
        logits_BK = self.classifier(self.dropout(encoded.pooler_output)).view(input_ids.shape[:2])
        return MultipleChoiceModelOutput(
            loss=None if labels is None else F.cross_entropy(logits_BK.float(), labels),
            logits=logits_BK,
            hidden_states=encoded.hidden_states,
        )


def _place_loss(logits_BL: Tensor, places_B: Tensor) -> Tensor:
    """Return the mean cross-entropy of places in the texts, 0 if there is none."""
    beyond = logits_BL.shape[1]
    places_B = places_B.reshape(-1).clamp(0, beyond)
    losses_B = F.cross_entropy(logits_BL.float(), places_B, ignore_index=beyond, reduction="none")
    return losses_B.sum() / (places_B < beyond).sum().clamp(min=1)
