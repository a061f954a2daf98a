"""Masks: the published shares, a fixed number of slots, never a special token."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from data_prep.manifest import TokenizerInfo
from pretrain.masking import Masker, MaskingConfig, choose_words
from pretrain.randomness import derive_key, random_below, random_bits, two_uniforms

VOCAB = 1000
PAD, UNK, CLS, SEP, MASK = range(5)
TOKENIZER = TokenizerInfo(
    digest="", vocab_size=VOCAB, pad_id=0, unk_id=1, cls_id=2, sep_id=3, mask_id=4, lowercase=False
)
CONTINUATION = np.arange(VOCAB) >= 700


def masker(max_len: int = 128, *, seed: int = 1, **config: object) -> Masker:
    return Masker(
        MaskingConfig(**config),
        max_len=max_len,
        tokenizer=TOKENIZER,
        is_continuation_V=CONTINUATION,
        seed=seed,
    )


def rows(count: int, max_len: int = 128, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random ids and which of them are text; rows of different lengths."""
    random = np.random.default_rng(seed)
    ids = random.integers(5, VOCAB, (count, max_len))
    ends = random.integers(3, max_len + 1, count)
    text = np.arange(max_len) < ends[:, None]
    text[:, 0] = False
    ids[~text] = PAD
    ids[:, 0] = CLS
    return ids, text


@pytest.mark.parametrize("whole_word", [False, True])
def test_shares_of_replaced_random_and_kept_tokens_pass_chi_square_at_100k(
    whole_word: bool,
) -> None:
    ids, text = rows(13_000, seed=3)
    before = ids.copy()
    positions, labels = masker(whole_word=whole_word).mask(ids, text, np.arange(len(ids)))
    used = labels != -100
    assert used.sum() > 100_000
    shown = np.take_along_axis(ids, positions, 1)[used]
    original = np.take_along_axis(before, positions, 1)[used]
    assert np.array_equal(labels[used], original)
    # A random piece is the original one time in V - 5.
    kept_by_chance = 0.1 / (VOCAB - 5)
    observed = [(shown == MASK).sum(), (shown == original).sum()]
    observed.append(used.sum() - sum(observed))
    expected = np.array([0.8, 0.1 + kept_by_chance, 0.1 - kept_by_chance]) * used.sum()
    assert chisquare(observed, expected).pvalue > 1e-3
    replaced = shown[(shown != MASK) & (shown != original)]
    assert replaced.min() >= 5
    counts = np.bincount(replaced, minlength=VOCAB)[5:]
    assert chisquare(counts).pvalue > 1e-3


def test_every_place_is_equally_likely(shape: tuple[int, int] = (20_000, 43)) -> None:
    ids, text = np.full(shape, 9), np.ones(shape, bool)
    positions, labels = masker(43).mask(ids, text, np.arange(shape[0]))
    counts = np.bincount(positions[labels != -100], minlength=43)
    assert chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("whole_word", [False, True])
def test_the_number_of_slots_is_fixed_and_the_number_used_follows_the_length(
    whole_word: bool,
) -> None:
    ids, text = rows(300)
    before = ids.copy()
    positions, labels = masker(whole_word=whole_word).mask(ids, text, np.arange(300))
    assert positions.shape == labels.shape == (300, MaskingConfig().num_slots(128))
    used = labels != -100
    wanted = np.maximum(1, np.floor(0.15 * text.sum(1) + 0.5))
    if whole_word:
        assert (used.sum(1) <= wanted).all() and (used.sum(1) >= 1).all()
        assert used.sum() > 0.97 * wanted.sum()
    else:
        assert (used.sum(1) == wanted).all()
    for row in range(300):
        places = positions[row, used[row]]
        assert (np.diff(places) > 0).all()
        assert text[row, places].all()
        assert (positions[row, ~used[row]] == 0).all()
        untouched = np.setdiff1d(np.arange(128), places)
        assert np.array_equal(ids[row, untouched], before[row, untouched])


def test_special_tokens_inside_the_text_are_never_masked() -> None:
    ids = np.tile(np.array([CLS, UNK, SEP, MASK, PAD, 77, SEP, PAD]), (500, 1))
    text = np.tile(np.array([0, 1, 1, 1, 1, 1, 0, 0], bool), (500, 1))
    positions, labels = masker(8).mask(ids, text, np.arange(500))
    assert (positions[labels != -100] == 5).all() and (labels[labels != -100] == 77).all()
    only_unknown = np.array([[CLS, UNK, UNK, SEP, UNK, UNK, SEP, PAD]])
    shown = only_unknown.copy()
    _, labels = masker(8).mask(shown, only_unknown == UNK, np.arange(1))
    assert (labels == -100).all() and np.array_equal(shown, only_unknown)


def test_masks_depend_on_the_example_and_not_on_its_neighbours() -> None:
    ids, text = rows(40)
    together = ids.copy()
    positions, labels = masker().mask(together, text, np.arange(40))
    for row in (0, 7, 39):
        alone = ids[row : row + 1].copy()
        position, label = masker().mask(alone, text[row : row + 1], np.array([row]))
        assert np.array_equal(position[0], positions[row])
        assert np.array_equal(label[0], labels[row])
        assert np.array_equal(alone[0], together[row])
    other = ids.copy()
    assert not np.array_equal(masker(seed=2).mask(other, text, np.arange(40))[0], positions)
    other = ids.copy()
    assert not np.array_equal(masker().mask(other, text, np.arange(40) + 40)[0], positions)


def test_whole_words_are_masked_whole() -> None:
    ids, text = rows(400, seed=8)
    before = ids.copy()
    positions, labels = masker(whole_word=True).mask(ids, text, np.arange(400))
    partial = 0
    for row in range(400):
        used = labels[row] != -100
        chosen = np.zeros(129, bool)
        chosen[positions[row, used]] = True
        place = 1
        while place < 128 and text[row, place]:
            end = place + 1
            while end < 128 and text[row, end] and CONTINUATION[before[row, end]]:
                end += 1
            share = chosen[place:end].mean()
            if 0 < share < 1:
                partial += 1
                assert used.sum() == chosen[place:end].sum(), "only a lone word may be cut"
            place = end
    assert partial < 40


def slow_words(
    bits: np.ndarray, maskable: np.ndarray, continuation: np.ndarray, wanted: int
) -> np.ndarray:
    """The rule of `choose_words` for one row, one word at a time."""
    words: list[list[int]] = []
    for place in np.flatnonzero(maskable):
        joins = place > 0 and continuation[place] and maskable[place - 1]
        if joins:
            words[-1].append(place)
        else:
            words.append([place])
    chosen: list[int] = []
    order = sorted(range(len(words)), key=lambda word: int(bits[word]))
    for word in order:
        if len(chosen) + len(words[word]) <= wanted:
            chosen += words[word]
    if not chosen and words:
        chosen = words[order[0]][:wanted]
    result = np.zeros(maskable.size, bool)
    result[chosen] = True
    return result


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), density=st.floats(0.1, 0.95), share=st.floats(0.02, 0.9))
def test_whole_word_choice_equals_a_word_by_word_reference(
    seed: int, density: float, share: float
) -> None:
    random = np.random.default_rng(seed)
    maskable = random.random((5, 30)) < 0.85
    continuation = random.random((5, 30)) < density
    bits = random_bits(derive_key(seed), np.arange(150)).reshape(5, 30)
    count = maskable.sum(1)
    wanted = np.minimum(np.maximum(1, (share * count).astype(np.int64)), count)
    got = choose_words(bits, maskable, continuation, wanted)
    for row in range(5):
        expected = slow_words(bits[row], maskable[row], continuation[row], wanted[row])
        assert np.array_equal(got[row], expected)


def test_the_random_numbers_are_uniform_and_distinct() -> None:
    bits = random_bits(derive_key(1, "a"), np.arange(200_000))
    assert np.unique(bits).size == bits.size
    upper, lower = two_uniforms(bits)
    for value in (upper, lower):
        assert value.min() >= 0 and value.max() < 1
        assert chisquare(np.bincount(random_below(value, 97), minlength=97)).pvalue > 1e-3
    assert abs(np.corrcoef(upper, lower)[0, 1]) < 0.01
    assert derive_key(1, "a") != derive_key("1", "a") != derive_key("a", 1)
    # Frozen: another value here means that old runs cannot be resumed.
    assert random_bits(np.uint64(0), np.array([1]))[0] == 0xE220A8397B1DCDAF


def test_impossible_shares_are_refused() -> None:
    for config in ({"mask_prob": 0.0}, {"mask_prob": 1.0}, {"replace_prob": 1.2}):
        with pytest.raises(ValueError, match="must be"):
            MaskingConfig(**config)
    with pytest.raises(ValueError, match="more than 1"):
        MaskingConfig(replace_prob=0.8, random_prob=0.3)
