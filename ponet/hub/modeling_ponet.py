"""PoNet as models of transformers: a thin shell around the package's own encoder and heads.

Here are the encoder and what pretraining leaves; heads for tasks: modeling_ponet_tasks.py.

B batch, L tokens, D width, V vocabulary, P pair classes. Invariant: no part of the model is written
a second time here, and the file runs as a copy beside exported weights too (see standalone.py), so
it imports torch, transformers and the package's models only.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling, MaskedLMOutput
from transformers.models.bert.modeling_bert import BertForPreTrainingOutput
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from ponet.batch import EncoderBatch
from ponet.encoders import Encoder, build_encoder
from ponet.encoders.backbone import Block, PositionMethod
from ponet.heads import MaskedLMHead
from ponet.hub.configuration_ponet import PoNetHubConfig, native_config
from ponet.poolers import Pooler
from ponet.segments import segments_from_separators

_IS_COPY = not __name__.startswith("ponet.")


class PoNetPreTrainedModel(PreTrainedModel):
    """What all PoNet models share: configuration, initialisation, and what may be left aside."""

    config_class = PoNetHubConfig
    config: PoNetHubConfig
    base_model_prefix = "ponet"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _no_split_modules = ["Block"]
    _can_record_outputs = {"hidden_states": Block}
    _keys_to_ignore_on_load_unexpected = [r"^pair_head\.", r"^mlm_head\."]

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MaskedLMHead):
            init.zeros_(module.bias)


class PoNetModel(PoNetPreTrainedModel):
    """Encoder and, if the configuration has one, pooler.

    Args:
        config: Configuration.
    """

    def __init__(self, config: PoNetHubConfig) -> None:
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

    @capture_outputs
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        segment_ids: Tensor | None = None,
        *,
        output_hidden_states: bool | None = None,
    ) -> BaseModelOutputWithPooling:
        """Return the hidden states of a batch; all inputs are (B, L).

        Args:
            input_ids: int64.
            attention_mask: 1 or True = real token; None: all are real.
            token_type_ids: int64; None: all 0.
            segment_ids: int64 in [0, L), the pooling unit of each token; None: each [CLS], each
                text and each [SEP] is one.
            output_hidden_states: Whether to return those before and after every block too; like
                `return_dict=False`, which gives a tuple, it is answered by transformers.

        Raises:
            ValueError: If a tensor has another shape, dtype or range, or the batch is longer than
                the position table.
        """
        separators = [self.config.cls_token_id, self.config.sep_token_id]
        x_BLD = self.encoder(
            make_batch(input_ids, attention_mask, token_type_ids, segment_ids, separators)
        )
        pooled_BD = None if self.pooler is None else self.pooler(x_BLD)
        return BaseModelOutputWithPooling(last_hidden_state=x_BLD, pooler_output=pooled_BD)


def make_batch(
    input_ids: Tensor,
    attention_mask: Tensor | None,
    token_type_ids: Tensor | None,
    segment_ids: Tensor | None,
    separators: Sequence[int | None],
) -> EncoderBatch:
    """Return the encoder's input; what is None gets its default (see PoNetModel.forward)."""
    special_BL = torch.zeros_like(input_ids, dtype=torch.bool)
    for separator in separators:
        if separator is not None:
            special_BL = special_BL | (input_ids == separator)
    mask_BL = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    return EncoderBatch(
        input_ids=input_ids,
        mask=mask_BL.bool(),
        token_type_ids=torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids,
        segment_ids=segments_from_separators(special_BL) if segment_ids is None else segment_ids,
        special_mask=special_BL,
        segments_are_runs=segment_ids is None and attention_mask is None,
        has_padding=attention_mask is not None,
    )


class WithHead(PoNetPreTrainedModel):
    """Encoder with a head, which `_build` makes; `_answer` says what it makes of the encoder's."""

    def __init__(self, config: PoNetHubConfig) -> None:
        super().__init__(config)
        self.ponet = PoNetModel(config)
        self._build(config)
        self.post_init()

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
    ) -> ModelOutput:
        """Return logits and, with labels, the mean loss.

        Inputs and options are those of PoNetModel.forward; the class says what labels are.
        """
        inputs = (input_ids, attention_mask, token_type_ids, segment_ids)
        return self._answer(self.ponet(*inputs, return_dict=True, **options), labels)

    def _build(self, config: PoNetHubConfig) -> None:
        raise NotImplementedError

    def _answer(self, encoded: BaseModelOutputWithPooling, labels: Tensor | None) -> ModelOutput:
        raise NotImplementedError


class PoNetForMaskedLM(WithHead):
    """Encoder with a masked-LM head; the head for text pairs of a checkpoint is left aside.

    Gives logits (B, L, V); labels are int64 (B, L), -100 at positions that do not count.

    Args:
        config: Configuration.
    """

    def _build(self, config: PoNetHubConfig) -> None:
        self.mlm_head = MaskedLMHead(native_config(config))

    def _answer(self, encoded: BaseModelOutputWithPooling, labels: Tensor | None) -> ModelOutput:
        # The output weights are the word embeddings' own.
        weight_VD = self.ponet.get_input_embeddings().weight
        logits_BLV = self.mlm_head(encoded.last_hidden_state, weight_VD)
        return MaskedLMOutput(
            loss=token_loss(logits_BLV, labels),
            logits=logits_BLV,
            hidden_states=encoded.hidden_states,
        )

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Resize the word embeddings and the bias of their logits, new entries of which are 0."""
        word = cast(nn.Embedding, super().resize_token_embeddings(*args, **kwargs))
        bias_V = self.mlm_head.bias.detach()
        if missing := word.num_embeddings - len(bias_V):
            self.mlm_head.bias = nn.Parameter(F.pad(bias_V, (0, missing)))
        return word


class PoNetForPreTraining(PoNetForMaskedLM):
    """Encoder with both pretraining heads: masked words and the relation of two texts.

    Args:
        config: Configuration with a pooler and num_pair_classes above 0.

    Raises:
        ValueError: If the configuration has no pair head.
    """

    def __init__(self, config: PoNetHubConfig) -> None:
        if config.num_pair_classes < 1 or not config.has_pooler:
            raise ValueError(
                f"num_pair_classes={config.num_pair_classes}, has_pooler={config.has_pooler}: "
                "this model was trained without text pairs; load it with AutoModelForMaskedLM"
            )
        super().__init__(config)

    def _build(self, config: PoNetHubConfig) -> None:
        super()._build(config)
        self.pair_head = nn.Linear(config.hidden_size, config.num_pair_classes)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        segment_ids: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        next_sentence_label: Tensor | None = None,
        **options: Any,
    ) -> ModelOutput:
        """Return both logits and, with labels, the sum of the mean losses.

        As PoNetForMaskedLM; next_sentence_label is the class of the pair, int64 (B,).
        """
        inputs = (input_ids, attention_mask, token_type_ids, segment_ids)
        encoded = self.ponet(*inputs, return_dict=True, **options)
        words = self._answer(encoded, labels)
        pair_logits_BP = self.pair_head(encoded.pooler_output)
        losses = [] if words.loss is None else [words.loss]
        if next_sentence_label is not None:
            losses.append(F.cross_entropy(pair_logits_BP.float(), next_sentence_label))
        return BertForPreTrainingOutput(
            loss=sum(losses[1:], start=losses[0]) if losses else None,
            prediction_logits=words.logits,
            seq_relationship_logits=pair_logits_BP,
            hidden_states=encoded.hidden_states,
        )


def token_loss(logits_BLC: Tensor, labels_BL: Tensor | None) -> Tensor | None:
    """Return the mean cross-entropy at labels other than -100; None without labels."""
    if labels_BL is None:
        return None
    return F.cross_entropy(logits_BLC.flatten(0, 1).float(), labels_BL.flatten())
