"""The CRF against every sequence of tags, and the tagger's loss and decoding."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from ponet import BertConfig
from ponet.crf import CRF, FORBIDDEN, Chain, bio_transitions, log_likelihood, viterbi
from ponet.tagger import Tagger, TaggerOutput

NUM_TAGS = 3
LENGTHS = [4, 0, 1, 3, 2]


def make_case(dtype=torch.float64, scale=1.0):
    """Rows whose chain has 4 words to none, scattered over 6 tokens."""
    generator = torch.Generator().manual_seed(0)
    normal = lambda *shape: scale * torch.randn(*shape, generator=generator, dtype=dtype)  # noqa: E731
    mask = torch.zeros(len(LENGTHS), 6, dtype=torch.bool)
    for row, length in enumerate(LENGTHS):
        mask[row, torch.randperm(6, generator=generator)[:length]] = True
    tags = torch.randint(NUM_TAGS, mask.shape, generator=generator).masked_fill(~mask, -100)
    chain = Chain(normal(NUM_TAGS, NUM_TAGS), normal(NUM_TAGS), normal(NUM_TAGS))
    return normal(*mask.shape, NUM_TAGS), tags, mask, chain


def score(words, tags, chain):
    """Of one sequence, word by word."""
    total = chain.start_T[tags[0]] + chain.end_T[tags[-1]]
    total = total + sum(words[place, tag] for place, tag in enumerate(tags))
    return total + sum(chain.transitions_TT[a, b] for a, b in itertools.pairwise(tags))


def every_score(words, chain):
    sequences = list(itertools.product(range(len(chain.start_T)), repeat=len(words)))
    return sequences, torch.stack([score(words, tags, chain) for tags in sequences])


@pytest.mark.parametrize(
    ("dtype", "scale"), [(torch.float64, 1.0), (torch.float64, 20.0), (torch.float32, 5.0)]
)
def test_the_likelihood_is_a_share_of_all_sequences(dtype, scale):
    emissions, tags, mask, chain = make_case(dtype, scale)
    found = log_likelihood(emissions, tags, mask, chain)
    assert found.dtype == dtype and found[1] == 0
    for row, length in enumerate(LENGTHS):
        if length:
            words = emissions[row][mask[row]]
            total = every_score(words, chain)[1].logsumexp(0)
            expected = score(words, tags[row][mask[row]].tolist(), chain) - total
            torch.testing.assert_close(found[row], expected, rtol=1e-5, atol=1e-5)


def test_the_best_sequence_is_the_best_of_all():
    emissions, _, mask, chain = make_case()
    found = viterbi(emissions, mask, chain)
    assert not found[~mask].any()
    for row, length in enumerate(LENGTHS):
        if length:
            sequences, scores = every_score(emissions[row][mask[row]], chain)
            assert tuple(found[row][mask[row]].tolist()) == sequences[int(scores.argmax())]


def test_gradients_equal_differences():
    emissions, tags, mask, chain = make_case()
    inputs = [tensor.requires_grad_() for tensor in (emissions, *chain)]
    assert torch.autograd.gradcheck(
        lambda emissions, *scores: log_likelihood(emissions, tags, mask, Chain(*scores)), inputs
    )


def test_tokens_outside_the_chain_and_other_rows_never_matter():
    emissions, tags, mask, chain = make_case()
    noise = torch.where(mask[..., None], emissions, torch.randn_like(emissions) * 9)
    before, after = (log_likelihood(some, tags, mask, chain) for some in (emissions, noise))
    assert torch.equal(before, after)
    assert torch.equal(viterbi(noise, mask, chain), viterbi(emissions, mask, chain))
    for row in range(len(mask)):
        alone = log_likelihood(*(t[row : row + 1] for t in (emissions, tags, mask)), chain)
        torch.testing.assert_close(alone, before[row : row + 1])
    nothing = torch.zeros_like(mask)
    assert not log_likelihood(emissions, tags, nothing, chain).any()
    assert not viterbi(emissions, nothing, chain).any()


def test_logits_far_apart_give_finite_losses_and_gradients():
    emissions, tags, mask, chain = make_case(torch.float32, 1000.0)
    emissions.requires_grad_()
    found = log_likelihood(emissions, tags, mask, chain)
    found.sum().backward()
    assert found.isfinite().all() and emissions.grad.isfinite().all()


def test_half_precision_logits_are_scored_in_float32():
    emissions, tags, mask, chain = make_case(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = log_likelihood(emissions.bfloat16(), tags, mask, chain)
    expected = log_likelihood(emissions.bfloat16().float(), tags, mask, chain)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


TAGS = ["O", "B-a", "I-a", "I-b", "B-b"]


def test_bio_allows_an_inside_behind_its_own_name_alone():
    chain = bio_transitions(TAGS)
    for number, tag in enumerate(TAGS):
        reached = [TAGS[i] for i in (chain.transitions_TT[:, number] == 0).nonzero().flatten()]
        assert reached == ([f"B{tag[1:]}", tag] if tag == "I-a" else reached)
        assert set(reached) == ({f"B{tag[1:]}", tag} if tag[0] == "I" else set(TAGS))
    assert (chain.start_T == 0).tolist() == [True, True, False, False, True]
    assert not chain.end_T.any()


def make_tagger(**options) -> Tagger:
    config = BertConfig(vocab_size=9, hidden_size=8, num_heads=2, num_layers=1, ffn_size=8)
    return Tagger(config, num_tags=len(TAGS), **options)


def random_output() -> tuple[TaggerOutput, torch.Tensor]:
    mask = torch.arange(9) < torch.tensor([9, 5, 1])[:, None]
    logits = torch.randn(3, 9, len(TAGS), generator=torch.Generator().manual_seed(4))
    logits[..., 2:4] += 1
    return TaggerOutput(logits, None), mask & (torch.arange(9) % 3 != 1)


@pytest.mark.parametrize("use_crf", [False, True])
def test_without_trained_neighbours_the_loss_is_the_cross_entropy(use_crf):
    output, mask = random_output()
    tags = output.tag_logits.argmin(2).masked_fill(~mask, -100)
    expected = F.cross_entropy(output.tag_logits.transpose(1, 2), tags, reduction="none").sum(1)
    torch.testing.assert_close(make_tagger(use_crf=use_crf).loss(output, tags), expected)


@pytest.mark.parametrize("use_crf", [False, True])
def test_decoding_gives_the_best_tags_or_the_best_that_bio_allows(use_crf):
    tagger, (output, mask) = make_tagger(use_crf=use_crf), random_output()
    free = tagger.decode(output, mask)
    assert torch.equal(free, output.tag_logits.argmax(2).masked_fill(~mask, 0))
    tagger.allowed = allowed = bio_transitions(TAGS)
    bound = tagger.decode(output, mask)
    assert not torch.equal(free, bound)
    for row in range(3):
        words, found = output.tag_logits[row][mask[row]], bound[row][mask[row]]
        sequences, scores = every_score(words, allowed)
        assert tuple(found.tolist()) == sequences[int(scores.argmax())]


def test_training_starts_from_what_bio_allows_and_no_tag_is_impossible():
    config = BertConfig(vocab_size=9, hidden_size=8, num_heads=2, num_layers=1, ffn_size=8)
    tagger = Tagger.for_tags(config, TAGS, num_labels=0, decoder="crf")
    allowed = bio_transitions(TAGS)
    assert torch.equal(tagger.crf.transitions == 0, allowed.transitions_TT == 0)
    assert tagger.crf.transitions.min() == tagger.crf.start.min() == FORBIDDEN
    output, mask = random_output()
    stray = torch.full(mask.shape, TAGS.index("I-a")).masked_fill(~mask, -100)
    assert tagger.loss(output, stray).isfinite().all()
    assert tagger.loss(output, stray).min() > -FORBIDDEN


def test_a_crf_learns_what_no_token_shows():
    """The second tag repeats the first one, whose token alone tells it."""
    torch.manual_seed(0)
    emissions = torch.randn(64, 2, 4)
    first = emissions[:, 0].argmax(1)
    tags, mask = torch.stack([first, first], 1), torch.ones(64, 2, dtype=torch.bool)
    emissions[:, 0] *= 20
    crf = CRF(4)
    optimizer = torch.optim.Adam(crf.parameters(), lr=0.3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = -log_likelihood(emissions, tags, mask, crf()).mean()
        loss.backward()
        optimizer.step()
    right = (viterbi(emissions, mask, crf()) == tags).float().mean()
    alone = (emissions.argmax(2) == tags).float().mean()
    assert right > 0.95 and alone < 0.8
    assert {name for name, _ in crf.named_parameters()} == {"transitions", "start", "end"}
