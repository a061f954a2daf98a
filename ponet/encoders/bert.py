"""BERT token mixer: multi-head attention. B batch, L tokens, D width, H heads, K head width."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ponet.batch import EncoderBatch
from ponet.config import BertConfig
from ponet.encoders.backbone import TokenMixer


class BertMixer(TokenMixer):
    """Scaled dot-product attention over the real tokens, then a linear layer and dropout.

    `query_key_value` is one linear layer with the three projections in this order.
    """

    def __init__(self, config: BertConfig) -> None:
        """Build both linear layers."""
        super().__init__()
        self.config = config
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout_prob)

    def prepare(self, batch: EncoderBatch) -> Tensor | None:
        """Return the bool (B, 1, 1, L) mask of tokens that may be attended to; None: all of them.

        Without a mask a GPU has its fastest attention kernel to choose. A row without a real token
        attends to everything, which keeps its softmax finite.
        """
        if not batch.has_padding:
            return None
        allowed_BL: Tensor = batch.mask | ~batch.mask.any(1, keepdim=True)
        return allowed_BL[:, None, None]

    def forward(self, x_BLD: Tensor, plan: Tensor | None) -> Tensor:
        """Return the (B, L, D) update."""
        heads = (3, self.config.num_heads, -1)
        query, key, value = self.query_key_value(x_BLD).unflatten(-1, heads).permute(2, 0, 3, 1, 4)
        dropout_prob = self.config.attention_dropout_prob if self.training else 0.0
        attended_BHLK = F.scaled_dot_product_attention(
            query, key, value, attn_mask=plan, dropout_p=dropout_prob
        )
        attended_BLD = torch.flatten(attended_BHLK.transpose(1, 2), 2)
        update: Tensor = self.dropout(self.output(attended_BLD))
        return update
