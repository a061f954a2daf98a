"""BERT token mixer: multi-head attention.

B batch, L tokens, R tokens that are read, D width, H heads, K head width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ponet.batch import EncoderBatch
from ponet.config import BertConfig
from ponet.encoders.backbone import TokenMixer, at_positions


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
        return self._attend(query, key, value, plan)

    def mix_at(self, x_BLD: Tensor, plan: Tensor | None, read_BR: Tensor) -> Tensor:
        """Return the (B, R, D) update of some tokens: they ask, all answer."""
        width, heads, layer = x_BLD.shape[-1], self.config.num_heads, self.query_key_value
        read_BRD = at_positions(x_BLD, read_BR)
        query_BRD = F.linear(read_BRD, layer.weight[:width], layer.bias[:width])
        both_BLE = F.linear(x_BLD, layer.weight[width:], layer.bias[width:])
        key, value = both_BLE.unflatten(-1, (2, heads, -1)).permute(2, 0, 3, 1, 4)
        query = query_BRD.unflatten(-1, (heads, -1)).transpose(1, 2)
        return self._attend(query, key, value, plan)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, plan: Tensor | None) -> Tensor:
        """Return the update (B, R, D), given queries (B, H, R, K) and (B, H, L, K)."""
        dropout_prob = self.config.attention_dropout_prob if self.training else 0.0
        attended_BHRK = F.scaled_dot_product_attention(
            query, key, value, attn_mask=plan, dropout_p=dropout_prob
        )
        attended_BRD = torch.flatten(attended_BHRK.transpose(1, 2), 2)
        update: Tensor = self.dropout(self.output(attended_BRD))
        return update
