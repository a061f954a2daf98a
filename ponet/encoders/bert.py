"""BERT token mixer: multi-head attention.

B batch, L tokens, R tokens that are read, D width, H heads, K head width; T texts that share rows,
P tokens of the longest, N = B * L.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ponet.batch import EncoderBatch
from ponet.config import BertConfig
from ponet.dropout import Dropout
from ponet.encoders.backbone import TokenMixer, at_positions


class TextPlan(NamedTuple):
    """Which tokens attend to each other where several texts share a row."""

    mask: Tensor
    """bool (T, 1, 1, P), what may be attended to in the texts, padded."""
    places: Tensor
    """int64 (T * P,), the token at every place of a padded text."""
    slots_N: Tensor
    """int64, the place of every token in `places`."""
    lengths: list[int]
    """Tokens of every text and, at the end, of the padding, on a CPU: it attends text by text and
    so computes no padding. Elsewhere empty: a device would have to be waited for."""


class BertMixer(TokenMixer):
    """Scaled dot-product attention over the real tokens, then a linear layer and dropout.

    `query_key_value` is one linear layer with the three projections in this order.
    """

    keeps_texts_apart = True

    def __init__(self, config: BertConfig) -> None:
        """Build both linear layers."""
        super().__init__()
        self.config = config
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = Dropout(config.dropout_prob)

    def prepare(self, batch: EncoderBatch) -> Any:
        """Return the bool (B, 1, 1, L) mask of tokens that may be attended to; None: all of them.

        Without a mask a GPU has its fastest attention kernel to choose. A row without a real token
        attends to everything, which keeps its softmax finite.
        """
        if batch.text_places is not None:
            return _plan_texts(batch.text_places, batch)
        if not batch.has_padding:
            return None
        allowed_BL: Tensor = batch.mask | ~batch.mask.any(1, keepdim=True)
        return allowed_BL[:, None, None]

    def forward(self, x_BLD: Tensor, plan: Tensor | TextPlan | None) -> Tensor:
        """Return the (B, L, D) update."""
        update: Tensor = self.dropout(self.output(self._attended(x_BLD, plan)))
        return update

    def _attended(self, x_BLD: Tensor, plan: Tensor | TextPlan | None) -> Tensor:
        """Return what the attention gives every token, (B, L, D)."""
        qkv_BLE = self.query_key_value(x_BLD)
        if not isinstance(plan, TextPlan):
            return self._attend(self._split(qkv_BLE, 3), plan)
        if _is_split(plan):
            parts = qkv_BLE.flatten(0, 1).split_with_sizes(plan.lengths)
            found = [self._attend(self._split(part[None], 3)) for part in parts]
            return torch.cat(found, 1).view_as(x_BLD)
        texts_TPE = qkv_BLE.flatten(0, 1).index_select(0, plan.places)
        texts_TPE = texts_TPE.view(len(plan.mask), -1, qkv_BLE.shape[-1])
        found_TPD = self._attend(self._split(texts_TPE, 3), plan.mask)
        return found_TPD.flatten(0, 1).index_select(0, plan.slots_N).view_as(x_BLD)

    def mix_at(self, x_BLD: Tensor, plan: Tensor | TextPlan | None, read_BR: Tensor) -> Tensor:
        """Return the (B, R, D) update of some tokens: they ask, all answer."""
        if isinstance(plan, TextPlan) and not _is_split(plan):
            attended_BRD = at_positions(self._attended(x_BLD, plan), read_BR)
        else:
            width, layer = x_BLD.shape[-1], self.query_key_value
            query_BRD = F.linear(
                at_positions(x_BLD, read_BR), layer.weight[:width], layer.bias[:width]
            )
            both_BLE = F.linear(x_BLD, layer.weight[width:], layer.bias[width:])
            if isinstance(plan, TextPlan):
                attended_BRD = self._ask(query_BRD, both_BLE, plan, read_BR)
            else:
                query, both = self._split(query_BRD, 1), self._split(both_BLE, 2)
                attended_BRD = self._attend((*query, *both), plan)
        update: Tensor = self.dropout(self.output(attended_BRD))
        return update

    def _ask(self, query_BRD: Tensor, both_BLE: Tensor, plan: TextPlan, read_BR: Tensor) -> Tensor:
        """Return what some tokens get of their texts, text by text."""
        rows_B1 = torch.arange(len(read_BR))[:, None] * both_BLE.shape[1]
        text_M = plan.slots_N[(read_BR + rows_B1).flatten()] // plan.mask.shape[-1]
        order_M = text_M.argsort(stable=True)
        counts = text_M.bincount(minlength=len(plan.mask)).tolist()
        queries = query_BRD.flatten(0, 1)[order_M].split_with_sizes(counts)
        both = both_BLE.flatten(0, 1).split_with_sizes(plan.lengths)
        found = [
            self._attend((*self._split(asking[None], 1), *self._split(text[None], 2)))
            for asking, text in zip(queries, both[: len(counts)], strict=True)
        ]
        return torch.cat(found, 1)[0, order_M.argsort()].view_as(query_BRD)

    def _split(self, values_BLE: Tensor, parts: int) -> tuple[Tensor, ...]:
        """Return the parts (B, H, L, K) of what projections gave."""
        # No -1 for the width of a head: there may be no token (a text of which none is read).
        heads = (parts, self.config.num_heads, self.config.hidden_size // self.config.num_heads)
        return values_BLE.view(*values_BLE.shape[:2], *heads).permute(2, 0, 3, 1, 4).unbind()

    def _attend(self, parts: tuple[Tensor, ...], mask: Tensor | None = None) -> Tensor:
        """Return (B, R, D), given queries (B, H, R, K), keys and values (B, H, L, K)."""
        query, key, value = parts
        dropout_prob = self.config.attention_dropout_prob if self.training else 0.0
        attended_BHRK = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout_prob
        )
        return torch.flatten(attended_BHRK.transpose(1, 2), 2)


def _is_split(plan: TextPlan) -> bool:
    """Return whether texts are attended to one by one; compiled, each length would be a graph."""
    return not torch.compiler.is_compiling() and bool(plan.lengths)


def _plan_texts(places_TP: Tensor, batch: EncoderBatch) -> TextPlan:
    """Return who attends to whom in a batch of `join_texts`."""
    num_tokens, is_real_TP = batch.mask.numel(), places_TP < batch.mask.numel()
    lengths: list[int] = []
    if is_real_TP.device.type == "cpu":
        lengths = is_real_TP.sum(1).tolist()
        missing = num_tokens - sum(lengths)
        lengths += [missing] * (missing > 0)
    allowed_TP = is_real_TP | ~is_real_TP.any(1, keepdim=True)
    places = places_TP.flatten().clamp(max=num_tokens - 1)
    return TextPlan(allowed_TP[:, None, None], places, batch.text_slots, lengths)
