"""The ids of the fast path are those of the library, for any text and any tokenizer."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers

from data_prep import words as module
from data_prep.manifest import SPECIAL_TOKENS, ShardError
from data_prep.tokenizer import save_tokenizer, wordpiece_from_vocab
from data_prep.word_table import MAX_PROBES, WordTable
from data_prep.words import SentenceEncoder, UnitRule, cut_units, is_word_local, unit_rule

PIECES = (
    [chr(code) for code in range(33, 127)]
    + [f"##{chr(code)}" for code in [*range(48, 58), *range(65, 91), *range(97, 123)]]
    + ["é", "##é", "ß", "##ß", "中", "文", "the", "##ing", "fox", "##es", "12", "##34", "а", "##б"]
    + ["\u0301", "##\u0301", "i\u0307", "‑", "…", "™", "##™", "ab", "##cd", "mask", "MASK"]
)
NASTY = [
    *("[SEP]", "a[MASK]b", "[CLS] [PAD]", "[ MASK ]", "snake_case__x", "don't", "e-mail@x.org"),
    *("naïve café", "e\u0301a\u0300,\u0301x", "=\u0338", "<\u0338 >", "İstanbul ΑΣ ός ﬁ", "K K"),
    *(
        "中文字 和English混合",
        "한국어 かな",
        "🙂👩‍👩‍👧 flag🇩🇪",
        "zero\u200bwidth\u200d \ufeff",
        "soft\u00adhyphen",
    ),
    *(
        "nul\x00inside",
        "\x00",
        "ab\x00 ab",
        "tab\tand\rreturn",
        "\x85next\x0bline\x1c",
        "\u2028\u2029",
    ),
    *(
        "x" * 99,
        "x" * 100,
        "x" * 101,
        "x" * 300,
        "é" * 120,
        "-" * 150,
        "a" * 14,
        "a" * 15,
        "a" * 16,
    ),
    *(
        "",
        " ",
        "   ",
        "  fox   foxes ",
        "\u00a0nbsp\u3000wide",
        "\ufffd",
        "¿qué? «oui»",
        "1,234.56%",
    ),
    *(
        "\U0001d400\U0001d401",
        "q\u0323\u0307 q\u0307\u0323",
        "\u0301start",
        "`^~|<>$+=",
        "ﷺ",
        "\u037e",
    ),
]


def text_of(alphabet):
    return st.text(alphabet, max_size=40)


SENTENCES = st.lists(
    st.sampled_from(NASTY)
    | text_of(st.characters(exclude_categories=("Cs",)))
    | text_of(st.sampled_from("aBé .,'_-[]S中\u0301\u0338\x00\t\x85\u200b#"))
    | st.lists(st.sampled_from(NASTY), max_size=4).map(" ".join),
    min_size=1,
    max_size=6,
)


def bert(tmp_path, **normalizer):
    vocab = {piece: index for index, piece in enumerate([*SPECIAL_TOKENS, *PIECES])}
    tokenizer = wordpiece_from_vocab(vocab, lowercase=True)
    tokenizer.normalizer = normalizers.BertNormalizer(**normalizer)
    return save(tokenizer, tmp_path)


def save(tokenizer, folder):
    save_tokenizer(tokenizer, folder / "tokenizer.json")
    return folder / "tokenizer.json"


def library_ids(path, sentences):
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in sentences]


def our_ids(encoder, sentences):
    tokens, lens = encoder.encode(sentences)
    return [part.tolist() for part in np.split(tokens, np.cumsum(lens)[:-1])]


def rule_of(path):
    return unit_rule(json.loads(path.read_text(encoding="utf-8")))


VARIANTS = {
    "uncased": {"lowercase": True},
    "cased": {"lowercase": False},
    "cased, accents stripped": {"lowercase": False, "strip_accents": True},
    "lowercased, accents kept": {"lowercase": True, "strip_accents": False},
    "nothing cleaned": {"clean_text": False, "handle_chinese_chars": False, "lowercase": True},
}


@pytest.fixture(scope="module", params=list(VARIANTS))
def bert_json(request, tmp_path_factory):
    return bert(tmp_path_factory.mktemp("bert"), **VARIANTS[request.param])


def test_berts_parts_are_recognised(bert_json):
    rule = rule_of(bert_json)
    assert rule.isolates_punctuation
    assert rule.lowercases == ('"lowercase":true' in bert_json.read_text())
    assert rule.isolates_ideographs == ('"handle_chinese_chars":true' in bert_json.read_text())


@settings(max_examples=60, deadline=None)
@given(SENTENCES)
def test_any_text_gets_the_ids_of_the_library(bert_json, sentences):
    encoder = SentenceEncoder.from_file(bert_json)
    expected = library_ids(bert_json, sentences)
    assert our_ids(encoder, sentences) == expected
    assert our_ids(encoder, sentences[::-1]) == expected[::-1]  # now from the table


def test_every_character_of_unicode_gets_the_ids_of_the_library(bert_json):
    codes = [code for code in range(0x30000) if not 0xD800 <= code < 0xE000 and code != 10]
    letters = list(map(chr, codes))
    sentences = [
        "".join(f"A{c}b {c},{c}" for c in letters[i : i + 512]) for i in range(0, 0x4000, 512)
    ]
    assert our_ids(SentenceEncoder.from_file(bert_json), sentences) == library_ids(
        bert_json, sentences
    )
    far = [
        " ".join(f"A{c}.b" for c in letters[i : i + 64 : 7])
        for i in range(0x4000, len(letters), 1024)
    ]
    assert our_ids(SentenceEncoder.from_file(bert_json), far) == library_ids(bert_json, far)


def test_sentences_longer_than_a_block_and_blocks_of_one_sentence_change_nothing(
    bert_json, monkeypatch
):
    sentences = [text for text in NASTY for _ in range(2)]
    expected = library_ids(bert_json, sentences)
    for size in (0, 1, 7, 64):
        monkeypatch.setattr(module, "BLOCK_BYTES", size)
        assert our_ids(SentenceEncoder.from_file(bert_json), sentences) == expected


def test_what_is_remembered_is_bounded(bert_json, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", 256)
    monkeypatch.setattr(module, "MAX_OTHERS_BYTES", 1000)
    encoder = SentenceEncoder.from_file(bert_json)
    sentences = [f"{'longword' * 4}{index}" for index in range(200)]
    assert our_ids(encoder, sentences) == library_ids(bert_json, sentences)
    assert len(encoder._others) < 100
    monkeypatch.setattr(module, "MAX_TABLE_WORDS", 50)
    sentences = [f"word{index}" for index in range(1000)]
    assert our_ids(encoder, sentences) == library_ids(bert_json, sentences)
    assert len(encoder._lens) < 150


def test_an_error_of_the_library_leaves_the_encoder_as_it_was(bert_json):
    encoder = SentenceEncoder.from_file(bert_json)
    with pytest.raises((TypeError, UnicodeError)):
        encoder.encode(["fresh words here \ud800 and more"])
    sentences = ["fresh words here", "and more"]
    assert our_ids(encoder, sentences) == library_ids(bert_json, sentences)


def test_no_sentence_at_all_gives_nothing(bert_json):
    tokens, lens = SentenceEncoder.from_file(bert_json).encode([])
    assert tokens.size == lens.size == 0


OTHERS = {
    "another pre-tokenizer": (normalizers.BertNormalizer(), pre_tokenizers.Whitespace()),
    "another normalizer": (normalizers.NFKC(), pre_tokenizers.BertPreTokenizer()),
    "no normalizer": (None, pre_tokenizers.BertPreTokenizer()),
    "one normalizer more": (
        normalizers.Sequence([normalizers.NFC(), normalizers.BertNormalizer()]),
        pre_tokenizers.BertPreTokenizer(),
    ),
    "not word by word": (normalizers.BertNormalizer(), pre_tokenizers.Metaspace()),
}


@pytest.fixture(scope="module", params=list(OTHERS))
def other_json(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("other")
    tokenizer = Tokenizer.from_file(str(bert(folder)))
    normalizer, tokenizer.pre_tokenizer = OTHERS[request.param]
    if normalizer is None:
        content = json.loads(tokenizer.to_str())
        tokenizer = Tokenizer.from_str(json.dumps({**content, "normalizer": None}))
    else:
        tokenizer.normalizer = normalizer
    return save(tokenizer, folder)


@settings(max_examples=25, deadline=None)
@given(SENTENCES)
def test_other_tokenizers_take_the_general_path_with_the_ids_of_the_library(other_json, sentences):
    rule = rule_of(other_json)
    assert not any((rule.isolates_punctuation, rule.isolates_ideographs, rule.lowercases))
    encoder = SentenceEncoder.from_file(other_json)
    try:
        found = our_ids(encoder, sentences)
    except ShardError:  # not split at brackets: a special token as a text
        assert any(
            id_ < 5 and id_ != 1 for ids in library_ids(other_json, sentences) for id_ in ids
        )
    else:
        assert found == library_ids(other_json, sentences)


def test_special_tokens_that_are_not_marked_as_special_are_still_refused(tmp_path):
    content = json.loads(bert(tmp_path).read_text())
    content["added_tokens"][4]["special"] = False
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    assert not rule_of(path).isolates_punctuation
    with pytest.raises(ShardError, match="special id 4"):
        SentenceEncoder.from_file(path).encode(["a [MASK] b"])


def test_words_that_a_user_added_are_found(tmp_path):
    tokenizer = Tokenizer.from_file(str(bert(tmp_path)))
    tokenizer.add_tokens([AddedToken("fox den", normalized=False)])
    path = save(tokenizer, tmp_path)
    assert not is_word_local(json.loads(path.read_text()))
    sentences = ["the fox den, foxes", "fox  den"]
    assert our_ids(SentenceEncoder.from_file(path), sentences) == library_ids(path, sentences)


def units_of(text, **rule):
    choices = ("isolates_punctuation", "isolates_ideographs", "lowercases")
    rule = UnitRule(**{**dict.fromkeys(choices, True), **rule})
    units = cut_units(text.encode(), rule)
    words = [
        units.text[start:end].decode() for start, end in zip(units.starts, units.ends, strict=True)
    ]
    return words, units


def test_units_are_runs_and_single_punctuation_marks():
    words, units = units_of("Don't  go, É\tB.\n\n Two__x\n")
    assert words == ["don", "'", "t", "go", ",", "É\tb", ".", "two", "_", "_", "x"]
    assert units.sentence_ends.tolist() == [7, 7, 11]
    words, _ = units_of("一b中文,ん\u4dff\u4e00\u9fff\ua000 鿿\n一\n")
    assert words == [
        "一",
        "b",
        "中",
        "文",
        ",",
        "ん\u4dff",
        "\u4e00",
        "\u9fff",
        "\ua000",
        "鿿",
        "一",
    ]
    words, _ = units_of("b中文\n", isolates_ideographs=False)
    assert words == ["b中文"]
    words, _ = units_of("Don't  go,\n", isolates_punctuation=False, lowercases=False)
    assert words == ["Don't", "go,"]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text("ab\x00é", min_size=1, max_size=26), min_size=1, max_size=12))
def test_equal_keys_are_equal_units(words):
    words = [word + end for word in words for end in ("", "\x00")]
    found, units = units_of(" ".join(words) + "\n", lowercases=False)
    assert found == words
    by_key = {}
    for word, key in zip(words, units.keys.T.tolist(), strict=True):
        assert (key[2] == 0) == (len(word.encode()) > 23)
        if key[2]:
            assert by_key.setdefault(tuple(key), word) == word
    assert len(by_key) == len({word for word in words if len(word.encode()) <= 23})


def random_keys(count):
    rows = np.random.default_rng(0).choice(2**40, (3, count), replace=False).astype(np.uint64)
    rows[2] += np.uint64(1)
    return rows


def some(keys, places):
    return keys[:, places]


def test_the_word_table_finds_what_was_put_in_and_nothing_else_while_it_grows():
    table, keys = WordTable(), random_keys(30_000)
    numbers = np.arange(30_000)
    for first in range(0, 30_000, 1500):
        places = slice(first, first + 1500)
        assert table.insert(some(keys, places), numbers[places]).mean() > 0.999
        found = table.find(keys)
        assert (found[: first + 1500] >= 0).mean() > 0.999
        assert np.array_equal(found[found >= 0], numbers[found >= 0])
        assert (found[first + 1500 :] == -1).all()
    low, middle, high = keys
    others = ((middle, low, high), (low, low, high), (low, middle, low), (low, middle, 0 * low))
    for other in others:
        assert (table.find(np.array(other)) == -1).all()


def test_keys_that_all_want_the_same_slot_are_refused_after_a_bounded_search(monkeypatch):
    monkeypatch.setattr(WordTable, "_slots", lambda self, keys: np.full(keys[0].size, 4090))
    table, keys = WordTable(), random_keys(100)
    placed = table.insert(keys, np.arange(100))
    assert placed.sum() == MAX_PROBES  # the last slots, then on from the first
    found = table.find(keys)
    assert np.array_equal(found >= 0, placed)
    assert np.array_equal(found[placed], np.flatnonzero(placed))


def test_words_without_a_place_in_the_table_are_remembered_elsewhere(bert_json, monkeypatch):
    monkeypatch.setattr(WordTable, "_slots", lambda self, keys: 0 * keys[0].astype(int))
    encoder = SentenceEncoder.from_file(bert_json)
    sentences = [f"fox{index} the é" for index in range(100)]
    for _ in range(2):
        assert our_ids(encoder, sentences) == library_ids(bert_json, sentences)
    assert len(encoder._others) > 30 and len(encoder._lens) < 110
