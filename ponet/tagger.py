"""A label for every token or sentence and, if asked for, one for the whole text, from one encoder.

B batch, L tokens, D width, T tags, C labels.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ponet.batch import EncoderBatch
from ponet.config import EncoderConfig
from ponet.crf import CRF, Chain, bio_transitions, log_likelihood, viterbi
from ponet.dropout import Dropout
from ponet.encoders import build_encoder
from ponet.encoders.backbone import init_weights
from ponet.poolers import make_pooler, pool, pooled_states
from ponet.pooling.plan import at_least_float32, segment_rows
from ponet.pooling.reference import segment_max

Decoder = Literal["independent", "bio", "crf"]


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
        use_crf: Score neighbouring tags too, by a linear-chain CRF.

    Source:
        One linear layer per token as in pNLP-Mixer (arXiv 2202.04350), whose sizes count no label
        of the text; the joint form is that of JointBERT (arXiv 1902.10909).
    """

    tags_are_bio: ClassVar[bool] = True
    """Whether BIO says which tags may follow each other."""

    def __init__(
        self,
        encoder_config: EncoderConfig,
        *,
        num_tags: int,
        num_labels: int = 0,
        dropout_prob: float = 0.0,
        use_crf: bool = False,
    ) -> None:
        super().__init__()
        if num_tags < 1 or num_labels < 0:
            raise ValueError(
                f"num_tags={num_tags}, num_labels={num_labels} given; 1 or more and 0 or more are "
                "needed"
            )
        if encoder_config.projection is not None and encoder_config.projection.pair_rows:
            raise ValueError(
                f"pair_rows={encoder_config.projection.pair_rows} given, which a tagger has no use "
                "for; give 0"
            )
        self.encoder = build_encoder(encoder_config)
        self.dropout = Dropout(dropout_prob)
        self.tagger = nn.Linear(encoder_config.hidden_size, num_tags)
        self.crf = CRF(num_tags) if use_crf else None
        self.allowed: Chain | None = None
        """0 and -inf for what may follow what, as ponet.crf.bio_transitions gives it; None: all."""
        self.pooler = make_pooler(encoder_config) if num_labels else None
        self.classifier = nn.Linear(encoder_config.hidden_size, num_labels) if num_labels else None
        if encoder_config.init == "normal":
            for layer in (self.tagger, self.classifier):
                if layer is not None:
                    init_weights(layer, encoder_config.init_range)

    @classmethod
    def for_tags(
        cls,
        encoder_config: EncoderConfig,
        tags: Sequence[str],
        *,
        num_labels: int,
        decoder: Decoder = "independent",
        dropout_prob: float = 0.0,
    ) -> "Tagger":
        """Return a tagger for BIO tags.

        Args:
            encoder_config: Encoder configuration.
            tags: Name of each output of a token.
            num_labels: Outputs of the text.
            decoder: independent: the likeliest tag of every token; bio: the likeliest sequence that
                BIO allows; crf: the same, with trained scores of neighbouring tags.
            dropout_prob: See the class.
        """
        tagger = cls(
            encoder_config,
            num_tags=len(tags),
            num_labels=num_labels,
            dropout_prob=dropout_prob,
            use_crf=decoder == "crf",
        )
        if cls.tags_are_bio and decoder != "independent":
            tagger.allowed = bio_transitions(tags)
        if tagger.crf is not None and tagger.allowed is not None:
            tagger.crf.discourage(tagger.allowed)
        return tagger

    def forward(self, batch: EncoderBatch) -> TaggerOutput:
        """Return the logits of every token and of every text, of joined ones too."""
        x_BLD = self.encoder(batch)
        tag_logits_BLT = self.tagger(self.dropout(self.tagged_states(x_BLD, batch)))
        if self.pooler is None or self.classifier is None:
            return TaggerOutput(tag_logits_BLT, None)
        pooled_BD = pool(self.pooler, pooled_states(x_BLD, batch), batch)
        return TaggerOutput(tag_logits_BLT, self.classifier(self.dropout(pooled_BD)))

    def tagged_states(self, x_BLD: Tensor, batch: EncoderBatch) -> Tensor:
        """Return what is tagged at every token, (B, L, D): its state."""
        return x_BLD

    def loss(self, output: TaggerOutput, tags_BL: Tensor) -> Tensor:
        """Return minus the log-likelihood of each row's tags, (B,), summed over its tagged tokens.

        Args:
            output: Of the same rows.
            tags_BL: int64 in [0, T); below 0 where a token has no tag (padding, later pieces of a
                word), which the chain of a CRF then skips.
        """
        if self.crf is not None:
            return -log_likelihood(output.tag_logits, tags_BL, tags_BL >= 0, self.crf())
        flat = tags_BL.clamp(min=-1).flatten()
        logits_NT = at_least_float32(output.tag_logits.flatten(0, 1))
        losses = F.cross_entropy(logits_NT, flat, ignore_index=-1, reduction="none")
        return losses.view_as(tags_BL).sum(1)

    def decode(self, output: TaggerOutput, mask_BL: Tensor) -> Tensor:
        """Return the best tags, int64 (B, L); 0 where a token has none.

        Args:
            output: What forward returned.
            mask_BL: bool, True at the tokens that have a tag.
        """
        chains = [self.crf()] if self.crf is not None else []
        chains += [self.allowed] if self.allowed is not None else []
        if not chains:
            return output.tag_logits.argmax(2).masked_fill(~mask_BL, 0)
        device = output.tag_logits.device
        parts = zip(*chains, strict=True)
        chain = Chain(*(torch.stack([part.to(device) for part in same]).sum(0) for same in parts))
        return viterbi(output.tag_logits, mask_BL, chain)


class SentenceTagger(Tagger):
    """A tagger of segments: what is tagged is the maximum over the states of a segment's tokens.

    Every token of a segment has the same logits, those of the segment; a batch says at which of
    them a tag counts. The vector of a segment is the elementwise maximum of the last hidden states
    of its tokens, the operation of PoNet's segment pool, for every encoder alike: encoders without
    segments are tagged by the same spans and the same head.

    Source: PoNet (arXiv 2110.02442), segment max-pooling.
    """

    tags_are_bio = False

    def tagged_states(self, x_BLD: Tensor, batch: EncoderBatch) -> Tensor:
        """Return for every token the maximum over its segment, (B, L, D); 0 at padding."""
        rows_N = segment_rows(batch.segment_ids, batch.mask)
        return segment_max(x_BLD.flatten(0, 1), rows_N, rows_N).view_as(x_BLD)

    def margins(self, output: TaggerOutput) -> Tensor | None:
        """Return log-odds of the second of two tags, (B, L); None: more tags, or a chain of them.

        Args:
            output: What forward returned.
        """
        if self.crf is not None or output.tag_logits.shape[2] != 2:
            return None
        return output.tag_logits[..., 1] - output.tag_logits[..., 0]
