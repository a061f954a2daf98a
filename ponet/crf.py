"""Linear-chain CRF: how likely a sequence of tags is, and which is best.

B batch, L tokens, T tags, N words of a chain in all rows together. The chain of a row runs over the
marked tokens alone, as if the others (padding, later pieces of a word) were not there.

Source: Lafferty et al. 2001. The forward pass keeps probabilities, scaled to sum to 1 at every
word, instead of logarithms, so that a step is one matrix product (Rabiner 1989, V.A); what is less
than about 1e-38 of the best tag of a word counts as nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ponet.batch import real_first
from ponet.pooling.plan import at_least_float32


class Chain(NamedTuple):
    """Scores that depend on neighbouring tags; they add to those of the words. -inf: impossible."""

    transitions_TT: Tensor
    """From the tag of the row to that of the column."""
    start_T: Tensor
    """Of the first tag."""
    end_T: Tensor
    """Of the last tag."""


def bio_transitions(tags: Sequence[str]) -> Chain:
    """Return 0 for what BIO allows and -inf for the rest: I- needs B- or I- of its name before it.

    Args:
        tags: Names such as "O", "B-time", "I-time", by number.
    """
    names = [tag[2:] if tag.startswith(("B-", "I-")) else None for tag in tags]
    inside = torch.tensor([tag.startswith("I-") for tag in tags], dtype=torch.bool)
    same_TT = torch.tensor([[one == other for other in names] for one in names])
    start_T = torch.zeros(len(tags)).masked_fill(inside, float("-inf"))
    transitions_TT = torch.zeros(len(tags), len(tags)).masked_fill(inside & ~same_TT, float("-inf"))
    return Chain(transitions_TT, start_T, torch.zeros(len(tags)))


FORBIDDEN = -6.0
"""Score that an impossible move starts with in training, which may still need it: 1 in 400."""


class CRF(nn.Module):
    """The trained scores of a chain; at first all 0: every tag by itself."""

    def __init__(self, num_tags: int) -> None:
        """Make the parameters."""
        super().__init__()
        self.transitions = nn.Parameter(torch.zeros(num_tags, num_tags))
        self.start = nn.Parameter(torch.zeros(num_tags))
        self.end = nn.Parameter(torch.zeros(num_tags))

    @torch.no_grad()
    def discourage(self, allowed: Chain) -> None:
        """Let what is not allowed start at FORBIDDEN instead of 0, so that it need not be learnt.

        Args:
            allowed: 0 and -inf, as bio_transitions gives it.
        """
        for mine, theirs in zip(self(), allowed, strict=True):
            mine.copy_(theirs.clamp(min=FORBIDDEN))

    def forward(self) -> Chain:
        """Return the scores."""
        return Chain(self.transitions, self.start, self.end)


class _Packed(NamedTuple):
    """The marked tokens, first all first words, then all second ones; longest rows first."""

    places_N: Tensor
    """int64 in [0, B * L)."""
    rows_N: Tensor
    """int64 in [0, B)."""
    counts: list[int]
    """Rows that have a first, second ... word, falling."""
    num_rows: int
    """B."""

    def previous(self) -> Tensor:
        """Return for all but the first words the index in [0, N) of the word before."""
        counts = torch.tensor(self.counts, device=self.places_N.device)
        index = torch.arange(self.counts[0], len(self.places_N), device=counts.device)
        return index - counts[:-1].repeat_interleave(counts[1:])


def _pack(mask_BL: Tensor) -> _Packed:
    """Waits for the device, which alone knows how long the rows are."""
    lengths_B, rows_B = mask_BL.sum(1).sort(descending=True, stable=True)
    steps_L1 = torch.arange(mask_BL.shape[1], device=mask_BL.device)[:, None]
    is_word_LB = steps_L1 < lengths_B
    counts = [count for count in is_word_LB.sum(1).tolist() if count]
    places_LB = (real_first(mask_BL)[rows_B] + rows_B[:, None] * mask_BL.shape[1]).T
    rows_LB = rows_B.expand_as(is_word_LB)
    return _Packed(places_LB[is_word_LB], rows_LB[is_word_LB], counts, len(mask_BL))


def log_likelihood(emissions_BLT: Tensor, tags_BL: Tensor, mask_BL: Tensor, chain: Chain) -> Tensor:
    """Return the log-probability of every row's tags, (B,), in float32 or wider; 0 for no word.

    Args:
        emissions_BLT: Scores of every token by itself.
        tags_BL: int64 in [0, T) where marked, anything elsewhere.
        mask_BL: bool, True at the tokens of the chain.
        chain: Scores of neighbours.
    """
    packed = _pack(mask_BL)
    if not packed.counts:
        return at_least_float32(emissions_BLT).sum((1, 2)) * 0
    with torch.autocast(emissions_BLT.device.type, enabled=False):
        words_NT = at_least_float32(emissions_BLT.flatten(0, 1).index_select(0, packed.places_N))
        chain = Chain(*(scores.to(words_NT.dtype) for scores in chain))
        tags_N = tags_BL.flatten()[packed.places_N]
        return _score(words_NT, tags_N, packed, chain) - _log_partition(words_NT, packed, chain)


def _score(words_NT: Tensor, tags_N: Tensor, packed: _Packed, chain: Chain) -> Tensor:
    """Score of the given tags, (B,), less the best score of every word."""
    first, before = packed.counts[0], packed.previous()
    is_last_N = torch.ones_like(tags_N, dtype=torch.bool)
    is_last_N[before] = False
    moves = tags_N[before] * len(chain.start_T) + tags_N[first:]
    rows_N, parts = packed.rows_N, words_NT.gather(1, tags_N[:, None])[:, 0]
    total_B = words_NT.new_zeros(packed.num_rows)
    for rows, scores in (
        (rows_N, parts - words_NT.detach().amax(1)),
        (rows_N[first:], chain.transitions_TT.flatten().index_select(0, moves)),
        (rows_N[:first], chain.start_T[tags_N[:first]]),
        (rows_N[is_last_N], chain.end_T[tags_N[is_last_N]]),
    ):
        total_B = total_B.index_add(0, rows, scores)
    return total_B


def _log_partition(words_NT: Tensor, packed: _Packed, chain: Chain) -> Tensor:
    """Logarithm of the sum over all sequences, (B,), less the best score of every word."""
    tops = [scores.detach().amax() for scores in chain]
    between_TT, start_T, end_T = (
        (scores - top).exp() for scores, top in zip(chain, tops, strict=True)
    )
    relative_NT = (words_NT - words_NT.detach().amax(1, keepdim=True)).exp()
    factors = torch.split(relative_NT, packed.counts)
    tiny = torch.finfo(words_NT.dtype).tiny
    state_nT, sums, ended = start_T * factors[0], [], []
    for step, factor_nT in enumerate(factors):
        if step:
            ended.append(state_nT[len(factor_nT) :])
            state_nT = (state_nT[: len(factor_nT)] @ between_TT) * factor_nT
        sum_n1 = state_nT.sum(1, keepdim=True).clamp(min=tiny)
        sums.append(sum_n1[:, 0])
        state_nT = state_nT / sum_n1
    last_BT = torch.cat([state_nT, *reversed(ended)])
    first = packed.counts[0]
    total_B = words_NT.new_zeros(packed.num_rows).index_add(
        0, packed.rows_N, torch.cat(sums).log() + tops[0]
    )
    whole = (last_BT @ end_T).clamp(min=tiny).log() + tops[1] + tops[2] - tops[0]
    return total_B.index_add(0, packed.rows_N[:first], whole)


@torch.no_grad()
def viterbi(emissions_BLT: Tensor, mask_BL: Tensor, chain: Chain) -> Tensor:
    """Return the best tags, int64 (B, L); 0 where a token is not marked.

    Args:
        emissions_BLT: Scores of every token by itself.
        mask_BL: bool, True at the tokens of the chain.
        chain: Scores of neighbours.
    """
    packed = _pack(mask_BL)
    best_P = torch.zeros_like(mask_BL, dtype=torch.int64).flatten()
    if not packed.counts:
        return best_P.view_as(mask_BL)
    words_NT = at_least_float32(emissions_BLT.flatten(0, 1)[packed.places_N])
    into_TT, start_T, end_T = (scores.to(words_NT.dtype) for scores in chain)
    into_TT = into_TT.T.contiguous()
    words = torch.split(words_NT, packed.counts)
    state_BT, came_from = start_T + words[0], []
    for word_nT in words[1:]:
        number = len(word_nT)
        found_nT, before_nT = (state_BT[:number, None] + into_TT).max(2)
        state_BT[:number] = found_nT + word_nT
        came_from.append(before_nT)
    tags_B = (state_BT + end_T).argmax(1)
    path = []
    for before_nT in reversed(came_from):
        number = len(before_nT)
        path.append(tags_B[:number])
        earlier_n = before_nT.gather(1, tags_B[:number, None])[:, 0]
        tags_B = torch.cat([earlier_n, tags_B[number:]])
    best_P[packed.places_N] = torch.cat([tags_B, *reversed(path)])
    return best_P.view_as(mask_BL)
