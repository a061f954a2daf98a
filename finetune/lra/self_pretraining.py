"""Guessing hidden tokens of the training inputs, before the labels are looked at.

B batch, L places, N hidden tokens, D width, V vocabulary.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from finetune.lra.tasks import LraTask
from ponet.batch import EncoderBatch
from ponet.config import EncoderConfig
from ponet.heads import MaskedLMHead


class TokenGuesser(nn.Module):
    """A masked-LM head on an encoder.

    Hidden tokens are replaced by the last id of the vocabulary, which no data use. The output
    weights are the encoder's embeddings where it is one of the house, else of their own.

    Args:
        encoder: The encoder, shared with the classifier.
        task: Says which share of the tokens is hidden.

    Source:
        Amos, Berant and Gupta 2024 (arXiv 2310.02980): 10 % of ListOps, 15 % of texts, half of the
        pixels, all replaced.
    """

    def __init__(self, encoder: nn.Module, task: LraTask) -> None:
        super().__init__()
        self._encoder: list[Any] = [encoder]  # in a list: its parameters are the classifier's
        self.share, self.mask_id = task.mask_share, task.vocab_size - 1
        config = getattr(encoder, "config", None)
        if not isinstance(config, EncoderConfig):
            width = int(encoder.hidden_size)  # type: ignore[arg-type]
            config = EncoderConfig(
                vocab_size=task.vocab_size, hidden_size=width, num_heads=1, init="torch"
            )
            self.output: nn.Parameter | None = nn.Parameter(
                torch.randn(task.vocab_size, width) * config.init_range
            )
        else:
            self.output = None
        self.head = MaskedLMHead(config)

    def forward(self, batch: EncoderBatch) -> Tensor:
        """Return the mean loss over the hidden tokens of a batch, in nats."""
        hidden_BL = (torch.rand(batch.mask.shape, device=batch.mask.device) < self.share) & (
            batch.mask
        )
        if not hidden_BL.any():
            hidden_BL = batch.mask
        encoder = self._encoder[0]
        shown = torch.where(hidden_BL, self.mask_id, batch.input_ids)
        states_ND = encoder(replace(batch, input_ids=shown))[hidden_BL]
        weight = self.output if self.output is not None else encoder.embeddings.word.weight
        found = self.head.loss(states_ND, weight, batch.input_ids[hidden_BL])
        loss: Tensor = found.loss / found.num_positions
        return loss
