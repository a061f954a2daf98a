"""A label for every token and, if asked for, one for the whole text, from one encoder.

B batch, L tokens, D width, T tags, C labels.
"""

from typing import NamedTuple

from torch import Tensor, nn

from ponet.batch import EncoderBatch
from ponet.config import EncoderConfig
from ponet.encoders import build_encoder
from ponet.encoders.backbone import init_weights
from ponet.heads import make_pooler, pool


class TaggerOutput(NamedTuple):
    """What Tagger.forward returns."""

    tag_logits: Tensor
    """(B, L, T)."""
    label_logits: Tensor | None
    """(B, C), or None without a label of the text."""


class Tagger(nn.Module):
    """Encoder, dropout and a linear layer for the tag of every token; pooler and one for the text.

    Args:
        encoder_config: Encoder configuration.
        num_tags: Outputs T of a token, >= 1.
        num_labels: Outputs C of the text; 0: no layer and no pooler for it.
        dropout_prob: Dropout before both last layers, in [0, 1).

    Source:
        One linear layer per token as in pNLP-Mixer (arXiv 2202.04350), whose sizes count no label
        of the text; the joint form is that of JointBERT (arXiv 1902.10909).
    """

    def __init__(
        self,
        encoder_config: EncoderConfig,
        *,
        num_tags: int,
        num_labels: int = 0,
        dropout_prob: float = 0.0,
    ) -> None:
        super().__init__()
        if num_tags < 1 or num_labels < 0:
            raise ValueError(
                f"num_tags={num_tags}, num_labels={num_labels} given; 1 or more and 0 or more are "
                "needed"
            )
        self.encoder = build_encoder(encoder_config)
        self.dropout = nn.Dropout(dropout_prob)
        self.tagger = nn.Linear(encoder_config.hidden_size, num_tags)
        self.pooler = make_pooler(encoder_config) if num_labels else None
        self.classifier = nn.Linear(encoder_config.hidden_size, num_labels) if num_labels else None
        if encoder_config.init == "normal":
            for layer in (self.tagger, self.classifier):
                if layer is not None:
                    init_weights(layer, encoder_config.init_range)

    def forward(self, batch: EncoderBatch) -> TaggerOutput:
        """Return the logits of every token and of the text."""
        x_BLD = self.encoder(batch)
        tag_logits_BLT = self.tagger(self.dropout(x_BLD))
        if self.pooler is None or self.classifier is None:
            return TaggerOutput(tag_logits_BLT, None)
        pooled_BD = pool(self.pooler, x_BLD, batch)
        return TaggerOutput(tag_logits_BLT, self.classifier(self.dropout(pooled_BD)))
