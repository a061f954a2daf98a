"""PoNet as models of transformers: a thin shell around the package's own encoder and heads.

B batch, L tokens, D width, V vocabulary, P pair classes, C labels. Invariant: no part of the model
is written a second time here, and the file runs as a copy beside exported weights too (see
standalone.py), so it imports torch, transformers and the package's models only.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import (
    BaseModelOutputWithPooling,
    MaskedLMOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.models.bert.modeling_bert import BertForPreTrainingOutput
from transformers.utils import ModelOutput

from ponet.batch import EncoderBatch
from ponet.encoders import Encoder, build_encoder
from ponet.encoders.backbone import PositionMethod
from ponet.heads import MaskedLMHead, Pooler
from ponet.hub.configuration_ponet import PoNetHubConfig, native_config
from ponet.segments import segments_from_separators

_IS_COPY = not __name__.startswith("ponet.")


class PoNetPreTrainedModel(PreTrainedModel):
    """What all PoNet models share: configuration, initialisation, and what may be missing."""

    config_class = PoNetHubConfig
    config: PoNetHubConfig
    base_model_prefix = "ponet"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _no_split_modules = ["Block"]

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MaskedLMHead):
            init.zeros_(module.bias)

    def _finish(self, output: ModelOutput, return_dict: bool | None) -> Any:
        """Return the output as it is, or as a tuple where that is asked for."""
        wants_dict = self.config.return_dict if return_dict is None else return_dict
        return output if wants_dict else output.to_tuple()


class PoNetModel(PoNetPreTrainedModel):
    """Encoder and, if the configuration has one, pooler.

    Args:
        config: Configuration.
    """

    _keys_to_ignore_on_load_unexpected = [r"^pair_head\.", r"^mlm_head\."]

    def __init__(self, config: PoNetHubConfig) -> None:
        """Build and initialise everything."""
        super().__init__(config)
        # The Triton kernels are not among the copies that stand beside exported weights.
        native = native_config(config, kernels="eager" if _IS_COPY else "auto")
        self.encoder: Encoder = build_encoder(native)
        self.pooler = Pooler(native) if config.has_pooler else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the word embeddings."""
        return self.encoder.embeddings.word

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the word embeddings."""
        self.encoder.embeddings.word = value

    def extend_positions(self, max_positions: int, *, method: PositionMethod = "tile") -> None:
        """Replace the position table by a longer one, in place; do it before making an optimizer.

        Args:
            max_positions: New length in tokens, not below the present one.
            method: "tile" repeats the table (PoNet's long-text runs), "interpolate" stretches it.

        Raises:
            ValueError: If the new length is shorter.
        """
        self.encoder.extend_positions(max_positions, method=method)
        self.config.max_position_embeddings = max_positions

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        segment_ids: Tensor | None = None,
        *,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutputWithPooling | tuple[Any, ...]:
        """Return the hidden states of a batch; all inputs are (B, L).

        Args:
            input_ids: int64.
            attention_mask: 1 or True = real token; None: all are real.
            token_type_ids: int64; None: all 0.
            segment_ids: int64 in [0, L), the pooling unit of each token; None: each [CLS], each
                text and each [SEP] is one.
            output_hidden_states: Whether to return those before and after every block too.
            return_dict: False: a tuple.

        Raises:
            ValueError: If a tensor has another shape, dtype or range, or the batch is longer than
                the position table.
        """
        batch = self.make_batch(input_ids, attention_mask, token_type_ids, segment_ids)
        wanted = self.config.output_hidden_states
        if output_hidden_states is not None:
            wanted = output_hidden_states
        with _recorded(self.encoder, enabled=bool(wanted)) as states:
            x_BLD = self.encoder(batch)
        output = BaseModelOutputWithPooling(
            last_hidden_state=x_BLD,
            pooler_output=None if self.pooler is None else self.pooler(x_BLD),
            hidden_states=tuple(states) if wanted else None,
        )
        return cast(BaseModelOutputWithPooling, self._finish(output, return_dict))

    def make_batch(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        segment_ids: Tensor | None,
    ) -> EncoderBatch:
        """Return the encoder's input; what is None gets its default (see forward)."""
        mask_BL = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        mask_BL = mask_BL.bool()
        special_BL = torch.zeros_like(mask_BL)
        for separator in (self.config.cls_token_id, self.config.sep_token_id):
            if separator is not None:
                special_BL = special_BL | (input_ids == separator)
        default_BL = segments_from_separators(special_BL) if segment_ids is None else segment_ids
        return EncoderBatch(
            input_ids=input_ids,
            mask=mask_BL,
            token_type_ids=torch.zeros_like(input_ids)
            if token_type_ids is None
            else token_type_ids,
            segment_ids=default_BL,
            special_mask=special_BL,
            segments_are_runs=segment_ids is None and attention_mask is None,
            has_padding=attention_mask is not None,
        )


class _WithHead(PoNetPreTrainedModel):
    """Encoder with a head; `_answer` says what the head makes of the encoder's output."""

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
    ) -> ModelOutput | tuple[Any, ...]:
        """Return logits and, with labels, the mean loss.

        Args:
            input_ids: As for PoNetModel.forward, like the next three and the last two.
            attention_mask: 1 or True = real token.
            token_type_ids: int64 (B, L).
            segment_ids: int64 (B, L).
            labels: What the class says.
            output_hidden_states: Whether to return all hidden states.
            return_dict: False: a tuple.
        """
        inputs = (input_ids, attention_mask, token_type_ids, segment_ids)
        return self._answered(inputs, output_hidden_states, return_dict, labels=labels)

    def _answered(
        self,
        inputs: tuple[Tensor | None, ...],
        output_hidden_states: bool | None,
        return_dict: bool | None,
        **labels: Tensor | None,
    ) -> ModelOutput | tuple[Any, ...]:
        hidden = self.ponet(*inputs, output_hidden_states=output_hidden_states, return_dict=True)
        output = self._answer(hidden, **labels)
        if hidden.hidden_states is not None:
            output["hidden_states"] = hidden.hidden_states
        return cast(ModelOutput, self._finish(output, return_dict))

    def _answer(self, hidden: BaseModelOutputWithPooling, **labels: Tensor | None) -> ModelOutput:
        raise NotImplementedError


class _WithVocabulary(_WithHead):
    """Encoder with the masked-LM head, whose output weights are the word embeddings' own."""

    def __init__(self, config: PoNetHubConfig) -> None:
        super().__init__(config)
        self.ponet = PoNetModel(config)
        self.mlm_head = MaskedLMHead(native_config(config))

    def word_logits(self, x_BLD: Tensor) -> Tensor:
        """Return (B, L, V)."""
        return cast(Tensor, self.mlm_head(x_BLD, self.ponet.get_input_embeddings().weight))

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Resize the word embeddings and the bias of their logits, new entries of which are 0."""
        word = cast(nn.Embedding, super().resize_token_embeddings(*args, **kwargs))
        bias_V = self.mlm_head.bias.detach()
        if missing := word.num_embeddings - len(bias_V):
            self.mlm_head.bias = nn.Parameter(F.pad(bias_V, (0, missing)))
        return word


class PoNetForMaskedLM(_WithVocabulary):
    """Encoder with a masked-LM head; the head for text pairs of a checkpoint is left aside.

    Gives logits (B, L, V); labels are int64 (B, L), -100 at positions that do not count.

    Args:
        config: Configuration.
    """

    _keys_to_ignore_on_load_unexpected = [r"^pair_head\."]

    def __init__(self, config: PoNetHubConfig) -> None:
        """Build and initialise everything."""
        super().__init__(config)
        self.post_init()

    def _answer(self, hidden: BaseModelOutputWithPooling, **labels: Tensor | None) -> ModelOutput:
        logits_BLV = self.word_logits(hidden.last_hidden_state)
        loss = _token_loss(logits_BLV, labels["labels"])
        return MaskedLMOutput(loss=loss, logits=logits_BLV)


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
    ) -> ModelOutput | tuple[Any, ...]:
        """Return both logits and, with labels, the sum of the mean losses.

        As the other models with heads; labels are the words, int64 (B, L), -100 at positions that
        do not count, and next_sentence_label is the class of the pair, int64 (B,).
        """
        return self._answered(
            (input_ids, attention_mask, token_type_ids, segment_ids),
            output_hidden_states,
            return_dict,
            labels=labels,
            next_sentence_label=next_sentence_label,
        )

    def _answer(self, hidden: BaseModelOutputWithPooling, **labels: Tensor | None) -> ModelOutput:
        logits_BLV = self.word_logits(hidden.last_hidden_state)
        pair_logits_BP = self.pair_head(hidden.pooler_output)
        losses = [_token_loss(logits_BLV, labels["labels"])]
        if (pair_labels_B := labels["next_sentence_label"]) is not None:
            losses.append(F.cross_entropy(pair_logits_BP.float(), pair_labels_B))
        given = [loss for loss in losses if loss is not None]
        return BertForPreTrainingOutput(
            loss=sum(given[1:], start=given[0]) if given else None,
            prediction_logits=logits_BLV,
            seq_relationship_logits=pair_logits_BP,
        )


class _WithClassifier(_WithHead):
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

    Gives logits (B, C); labels are (B,) classes or numbers, or float (B, C) for several labels.

    Args:
        config: Configuration; `problem_type` as in transformers, and if it is None, it follows
            from num_labels (1: regression) and from the labels (float: several labels).
    """

    def __init__(self, config: PoNetHubConfig) -> None:
        """Build and initialise everything; a pooler is always there."""
        config.has_pooler = True
        super().__init__(config)

    def _answer(self, hidden: BaseModelOutputWithPooling, **labels: Tensor | None) -> ModelOutput:
        logits_BC, given = self.classifier(self.dropout(hidden.pooler_output)), labels["labels"]
        loss = None if given is None else self._loss(logits_BC.float(), given)
        return SequenceClassifierOutput(loss=loss, logits=logits_BC)

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

    Gives logits (B, L, C); labels are int64 (B, L), -100 at positions that do not count.

    Args:
        config: Configuration.
    """

    def _answer(self, hidden: BaseModelOutputWithPooling, **labels: Tensor | None) -> ModelOutput:
        logits_BLC, given = (
            self.classifier(self.dropout(hidden.last_hidden_state)),
            labels["labels"],
        )
        loss = None
        if given is not None:
            loss = F.cross_entropy(logits_BLC.flatten(0, 1).float(), given.flatten())
        return TokenClassifierOutput(loss=loss, logits=logits_BLC)


def _token_loss(logits_BLC: Tensor, labels_BL: Tensor | None) -> Tensor | None:
    """Return the mean cross-entropy at labels other than -100; None without labels."""
    if labels_BL is None:
        return None
    return F.cross_entropy(logits_BLC.flatten(0, 1).float(), labels_BL.flatten())


@contextmanager
def _recorded(encoder: Encoder, *, enabled: bool) -> Iterator[list[Tensor]]:
    """Collect the outputs of the embeddings and of every block while the context is open."""
    states: list[Tensor] = []
    parts: list[nn.Module] = [encoder.embeddings, *encoder.layers] if enabled else []
    handles = [
        part.register_forward_hook(lambda module, inputs, output: states.append(output))
        for part in parts
    ]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()
