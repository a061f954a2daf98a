"""PoNet as a model of transformers: a thin shell around the package's own encoder.

B batch, L tokens, D width. Invariant: no part of the model is written a second time here, and the
file runs as a copy beside exported weights too (see standalone.py), so it imports torch,
transformers and the package's models only.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput

from ponet.batch import EncoderBatch
from ponet.encoders import Encoder, build_encoder
from ponet.heads import MaskedLMHead, Pooler
from ponet.hub.configuration_ponet import PoNetHubConfig, native_config
from ponet.positions import PositionMethod
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
