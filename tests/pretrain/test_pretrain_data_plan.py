"""Chunks and pairs: nothing lost, nothing doubled, every label right, no hint in the lengths."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pretrain_corpora import (
    Documents,
    document_of,
    make_shards,
    random_documents,
    write_shards,
    write_tokenizer,
)
from scipy.stats import binomtest, chi2_contingency, ks_2samp

from data_prep.shards import TokenShards
from pretrain.objectives import OBJECTIVES, objective_named
from pretrain.packing import Examples, PackingConfig, cut_chunks
from pretrain.plan import exchange, make_plan
from pretrain.randomness import random_bits, two_uniforms

RELATIONS = {name: objective.relations for name, objective in OBJECTIVES.items()}


def plan_of(
    shards: TokenShards, name: str = "mlm_sso", *, seed: int = 1, epoch: int = 0, max_len: int = 64
) -> Examples:
    packing = PackingConfig(max_len=max_len)
    return make_plan(shards, OBJECTIVES[name], packing, seed=seed, epoch=epoch)


def a_end(plan: Examples) -> np.ndarray:
    """The token after text1."""
    return plan.a_start + plan.a_len


def b_end(plan: Examples) -> np.ndarray:
    """The token after text2."""
    return plan.b_start + plan.b_len


def times_used(plan: Examples, num_tokens: int) -> np.ndarray:
    """How often each token position occurs in the examples."""
    change = np.zeros(num_tokens + 1, np.int64)
    for start, end in ((plan.a_start, a_end(plan)), (plan.b_start, b_end(plan))):
        np.add.at(change, start, 1)
        np.add.at(change, end, -1)
    return np.cumsum(change)[:-1]


def check_plan(shards: TokenShards, plan: Examples, name: str, max_len: int) -> None:
    """Every promise of a plan, on any corpus."""
    stats = plan.stats
    assert stats.examples == len(plan) > 0
    assert (plan.a_len >= 1).all() and (plan.b_len >= 1).all()
    assert (plan.a_len.astype(int) + plan.b_len <= max_len - 3).all()
    used = times_used(plan, shards.num_tokens)
    if not stats.partners_reused:
        assert used.max() == 1
        assert used.sum() == stats.tokens_used
    lost = stats.tokens_unusable + stats.tokens_truncated + stats.tokens_displaced
    assert stats.tokens_used == stats.tokens_total - lost
    assert (used == 0).sum() <= lost
    for start, end in ((plan.a_start, a_end(plan)), (plan.b_start, b_end(plan))):
        assert (document_of(shards, start) == document_of(shards, end - 1)).all()
    document_a, document_b = document_of(shards, plan.a_start), document_of(shards, plan.b_start)
    if not RELATIONS[name]:
        assert (plan.label == -100).all()
        assert (a_end(plan) == plan.b_start).all() and (document_a == document_b).all()
    for label, relation in enumerate(RELATIONS[name]):
        here = plan.label == label
        if relation == "in_order":
            assert (a_end(plan)[here] == plan.b_start[here]).all()
            assert (document_a[here] == document_b[here]).all()
        elif relation == "swapped":
            assert (b_end(plan)[here] == plan.a_start[here]).all()
            assert (document_a[here] == document_b[here]).all()
        else:
            assert (document_a[here] != document_b[here]).all()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> TokenShards:
    return make_shards(tmp_path_factory.mktemp("plan"), random_documents(1500, seed=5))


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
@pytest.mark.parametrize("max_len", [16, 64, 512])
def test_every_pair_label_is_right_by_construction(
    shards: TokenShards, name: str, max_len: int
) -> None:
    plan = plan_of(shards, name, max_len=max_len)
    check_plan(shards, plan, name, max_len)
    assert plan.stats.coverage >= 0.99
    assert plan.stats.partners_reused == 0


def test_published_label_order() -> None:
    assert RELATIONS["mlm_sso"] == ("in_order", "swapped", "random")
    assert RELATIONS["mlm_nsp"] == ("in_order", "random")
    with pytest.raises(ValueError, match="mlm_nsp"):
        objective_named("sop")


@pytest.mark.parametrize("name", ["mlm_nsp", "mlm_sso"])
def test_classes_are_balanced_within_binomial_limits(shards: TokenShards, name: str) -> None:
    plan = plan_of(shards, name)
    classes = len(RELATIONS[name])
    for label in range(classes):
        count = int((plan.label == label).sum())
        assert binomtest(count, len(plan), 1 / classes).pvalue > 1e-3


def test_lengths_and_sentence_counts_tell_nothing_about_the_label(shards: TokenShards) -> None:
    plan = plan_of(shards, "mlm_sso", max_len=64)
    offsets = np.asarray(shards.sentence_offsets)

    def sentences(start: np.ndarray, end: np.ndarray) -> np.ndarray:
        return np.searchsorted(offsets, end - 1, "right") - np.searchsorted(offsets, start, "right")

    values = {
        "text1": plan.a_len,
        "text2": plan.b_len,
        "both": plan.a_len.astype(int) + plan.b_len,
        "sentences of text1": sentences(plan.a_start, a_end(plan)),
        "sentences of text2": sentences(plan.b_start, b_end(plan)),
    }
    for name, value in values.items():
        for one, two in ((0, 1), (0, 2), (1, 2)):
            result = ks_2samp(value[plan.label == one], value[plan.label == two])
            assert result.pvalue > 1e-3, (name, one, two)
        table = [np.bincount(np.minimum(value[plan.label == k], 30)) for k in range(3)]
        width = max(map(len, table))
        counts = np.array([np.pad(row, (0, width - len(row))) for row in table])
        counts = counts[:, counts.sum(0) >= 15]
        assert chi2_contingency(counts).pvalue > 1e-3, name


def test_parts_meet_at_sentence_borders_unless_there_is_only_one_sentence(
    shards: TokenShards,
) -> None:
    plan = plan_of(shards, "mlm")
    inside = ~np.isin(plan.b_start, shards.sentence_offsets)
    assert inside.sum() == plan.stats.split_inside_sentence
    sentence = np.searchsorted(shards.sentence_offsets, plan.a_start, side="right") - 1
    assert (b_end(plan)[inside] <= shards.sentence_offsets[sentence[inside] + 1]).all()


def test_a_tenth_of_the_chunks_is_short_and_the_rest_full(tmp_path: Path) -> None:
    documents = [[[7]] * 40_000, [[8]] * 40_000]
    shards = make_shards(tmp_path, documents)
    plan = plan_of(shards, "mlm", max_len=103)
    lens = plan.a_len.astype(int) + plan.b_len
    short = int((lens < 100).sum())
    assert binomtest(max(0, short - 12), len(plan), 0.1).pvalue > 1e-3
    assert abs(lens[lens < 100].mean() - 51) < 12


def test_every_epoch_has_a_new_segmentation_and_order(shards: TokenShards) -> None:
    plans = [plan_of(shards, "mlm_sso", epoch=epoch) for epoch in range(3)]
    for one, two in ((0, 1), (1, 2), (0, 2)):
        first = set(zip(plans[one].a_start.tolist(), plans[one].b_start.tolist(), strict=True))
        second = set(zip(plans[two].a_start.tolist(), plans[two].b_start.tolist(), strict=True))
        assert len(first & second) < 0.3 * len(first)
    assert (np.diff(plans[0].a_start) < 0).mean() > 0.4


def test_cuts_move_between_epochs_even_without_short_targets(tmp_path: Path) -> None:
    shards = make_shards(tmp_path, random_documents(40, seed=2, sentences=60))
    packing = PackingConfig(max_len=64, short_prob=0.0)
    starts = [set(cut_chunks(shards, packing, seed=1, epoch=e).a_start.tolist()) for e in (0, 1)]
    documents = set(np.asarray(shards.sentence_offsets)[shards.document_offsets].tolist())
    assert len((starts[0] & starts[1]) - documents) < 0.6 * len(starts[0] - documents)


def test_a_plan_is_a_pure_function_of_its_arguments(shards: TokenShards) -> None:
    one, two = plan_of(shards), plan_of(shards)
    for name in ("a_start", "b_start", "a_len", "b_len", "label"):
        assert np.array_equal(getattr(one, name), getattr(two, name))
    assert one.stats == two.stats
    assert not np.array_equal(one.a_start, plan_of(shards, seed=2).a_start)


def test_blocks_do_not_change_the_invariants(
    shards: TokenShards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pretrain.packing._BLOCK_TOKENS", 997)
    monkeypatch.setattr("pretrain.packing._SECTION_CHUNKS", 3)
    plan = plan_of(shards, max_len=16)
    check_plan(shards, plan, "mlm_sso", 16)
    assert plan.stats.coverage >= 0.99


def test_objectives_with_a_random_class_need_two_documents(tmp_path: Path) -> None:
    documents: Documents = [[[5, 6, 7], [8, 9]] * 30, [[5]]]
    shards = make_shards(tmp_path, documents)
    for name in ("mlm_nsp", "mlm_sso"):
        with pytest.raises(ValueError, match=r"'train' has 1 document .*two, .*objective mlm$"):
            plan_of(shards, name)
    assert plan_of(shards, "mlm").stats.tokens_unusable == 1


def test_a_corpus_without_a_single_pair_is_an_error(tmp_path: Path) -> None:
    shards = make_shards(tmp_path, [[[5]], [[6]]])
    with pytest.raises(ValueError, match=r"has 0 documents .*document_separator \(blank_line"):
        plan_of(shards, "mlm")


def test_too_few_validation_documents_are_refused_with_every_way_out(tmp_path: Path) -> None:
    text = [[5, 6, 7], [8, 9]] * 9
    made = write_tokenizer(tmp_path / "made.json", vocab_size=20)
    write_shards(tmp_path / "shards", {"train": [text] * 59, "validation": [text]}, made)
    shards = TokenShards.open(tmp_path / "shards", "validation")
    with pytest.raises(ValueError, match="'validation' has 1 document of") as raised:
        plan_of(shards, "mlm_sso")
    ways = (
        "--validation_fraction, such as 0.042",
        "objective mlm",
        "--trainer.limit_val_batches 0",
    )
    assert all(way in str(raised.value) for way in ways)


def test_a_document_that_dominates_gets_partners_from_the_others(tmp_path: Path) -> None:
    shards = make_shards(tmp_path, [[[5] * 9] * 900, [[6] * 9] * 60, [[7] * 9] * 60])
    plan = plan_of(shards, "mlm_nsp")
    check_plan(shards, plan, "mlm_nsp", 64)
    assert plan.stats.partners_reused > 0
    assert plan.stats.tokens_displaced > 0


def test_two_documents_of_equal_size_exchange_nearly_everything(tmp_path: Path) -> None:
    shards = make_shards(tmp_path, [[[5] * 7] * 400, [[6] * 7] * 400])
    plan = plan_of(shards, "mlm_nsp")
    check_plan(shards, plan, "mlm_nsp", 64)
    assert plan.stats.coverage > 0.95


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=2, max_size=8),
    seed=st.integers(0, 1000),
)
def test_exchange_is_a_permutation_into_other_documents_where_one_exists(
    sizes: list[int], seed: int
) -> None:
    documents = np.repeat(np.arange(len(sizes)), sizes)
    bits = random_bits(np.uint64(seed), np.arange(documents.size))
    lens = 1 + (two_uniforms(bits)[1] * 20).astype(np.int64)
    partner = exchange(lens, documents, bits)
    matched = partner >= 0
    assert (documents[matched] != documents[partner[matched]]).all()
    assert len(set(partner[matched].tolist())) == matched.sum()
    if 2 * max(sizes) <= documents.size:
        assert matched.all()


def test_parts_whose_bits_are_equal_keep_their_order_on_every_machine() -> None:
    number, documents = 1000, np.arange(1000)
    lens, bits = np.full(number, 7, np.int64), np.zeros(number, np.uint64)
    assert exchange(lens, documents, bits).tolist() == [*range(1, number), 0]


def test_partners_are_of_nearly_equal_length() -> None:
    bits = random_bits(np.uint64(3), np.arange(5000))
    lens = 1 + (two_uniforms(bits)[1] * 500).astype(np.int64)
    documents = np.arange(5000) // 5
    partner = exchange(lens, documents, bits)
    assert np.sort(partner).tolist() == list(range(5000))
    assert np.percentile(np.abs(lens[partner] - lens), 99) <= 2


sentence_lens = st.one_of(
    st.just(1), st.integers(1, 12), st.integers(10, 16), st.integers(100, 400)
)
corpora = st.lists(st.lists(sentence_lens, min_size=1, max_size=30), min_size=1, max_size=12)


@settings(max_examples=120, deadline=None)
@given(
    lens=corpora,
    max_len=st.sampled_from([8, 9, 16, 40]),
    epoch=st.integers(0, 3),
    name=st.sampled_from(sorted(OBJECTIVES)),
)
def test_odd_corpora_keep_every_promise(
    lens: list[list[int]], max_len: int, epoch: int, name: str
) -> None:
    documents = [[[5 + number % 50] * n for number, n in enumerate(one)] for one in lens]
    usable = sum(sum(one) >= 2 for one in lens)
    with TemporaryDirectory() as folder:
        shards = make_shards(Path(folder), documents)
        if usable < (2 if RELATIONS[name] else 1):
            with pytest.raises(ValueError, match="document"):
                plan_of(shards, name, epoch=epoch, max_len=max_len)
            return
        plan = plan_of(shards, name, epoch=epoch, max_len=max_len)
        check_plan(shards, plan, name, max_len)
        alone = sum(sum(one) == 1 for one in lens)
        assert plan.stats.tokens_unusable >= alone


@pytest.mark.parametrize(
    "documents",
    [
        [[[5]] * 700, [[6]] * 500, [[7]] * 900],
        [[[5] * 20_000], [[6] * 15_000], [[7] * 9000, [8]]],
        [[[5 + n % 90] * (2 + n % 9)] for n in range(400)],
        [[[5] * 13, [6]] * 200, [[7] * 13, [8]] * 200, [[9] * 26] * 200],
    ],
    ids=["one-token sentences", "giant sentences", "one-sentence documents", "full and lone"],
)
def test_coverage_of_odd_corpora(tmp_path: Path, documents: Documents) -> None:
    shards = make_shards(tmp_path, documents)
    for epoch in range(2):
        plan = plan_of(shards, "mlm_sso", epoch=epoch, max_len=32)
        check_plan(shards, plan, "mlm_sso", 32)
        assert plan.stats.coverage >= 0.95


def test_settings_out_of_range_are_refused() -> None:
    for settings_ in ({"max_len": 7}, {"max_len": 65_536}, {"short_prob": 1.1}):
        with pytest.raises(ValueError, match="must be"):
            PackingConfig(**settings_)
