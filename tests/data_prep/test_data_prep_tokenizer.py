import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.config import TokenizerConfig
from data_prep.manifest import SPECIAL_TOKENS, ShardError, TokenizerInfo
from data_prep.tokenizer import (
    load_tokenizer,
    save_tokenizer,
    train_wordpiece,
    vocabulary_notes,
    wordpiece_from_vocab,
)
from data_prep.words import SentenceEncoder, is_word_local

TEXTS = [
    f"The quick brown fox {i} jumps over lazy dogs, résumé no. {i * 7}! 中文 [MASK]"
    for i in range(200)
]


def train(**options):
    config = TokenizerConfig(**{"vocab_size": 200, **options})
    return train_wordpiece(lambda: TEXTS, config)


@pytest.fixture(scope="module")
def tokenizer_json(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    save_tokenizer(train(), path)
    return path


def test_two_trainings_give_identical_bytes():
    assert len({train().to_str() for _ in range(4)}) == 1


def test_special_tokens_come_first_and_nothing_else_is_special(tokenizer_json):
    info = TokenizerInfo.from_file(tokenizer_json)
    assert (info.pad_id, info.unk_id, info.cls_id, info.sep_id, info.mask_id) == (0, 1, 2, 3, 4)
    content = json.loads(tokenizer_json.read_text())
    assert [token["content"] for token in content["added_tokens"]] == list(SPECIAL_TOKENS)
    assert info.vocab_size == len(content["model"]["vocab"]) == 200 and info.lowercase


def test_cased_training_keeps_capitals():
    assert "T" in train(lowercase=False).get_vocab()
    assert "T" not in train().get_vocab()


def test_accents_and_vowel_signs_stay_where_they_are_asked_for():
    def words(*texts, **options):
        config = TokenizerConfig(vocab_size=200, **options)
        tokenizer = train_wordpiece(lambda: texts * 10, config)
        return tokenizer.decode(tokenizer.encode(" ".join(texts)).ids)

    texts = ("Müller geht früh.", "हिन्दी", "ภาษาไทย", "Ĉu vi")
    assert words(*texts, strip_accents=False) == "müller geht früh. हिन्दी ภาษาไทย ĉu vi"
    assert words(*texts[:1]) == "muller geht fruh."
    assert '"strip_accents":null' in train().to_str(), "the default is BERT's, byte for byte"


@pytest.mark.parametrize(
    ("entries", "options", "words"),
    [
        (["Paris", "the", "##s"], {}, r"1 of 3 entries can never occur.*Paris.*lowercase false"),
        (["früh", "the"], {}, r"1 of 2 entries.*früh.*strip_accents false"),
        (["paris", "the"], {"lowercase": False}, "no entry has a capital.*lowercase true"),
        (["früh", "the"], {"strip_accents": False}, None),
        (["paris", "the", "中"], {}, None),
        (["Paris", "the"], {"lowercase": False}, None),
    ],
)
def test_a_vocabulary_that_does_not_fit_its_normaliser_is_said(entries, options, words, tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join([*SPECIAL_TOKENS, "[unused1]", *entries]))
    found = vocabulary_notes(TokenizerConfig(path=str(path), **options))
    assert len(found) == (words is not None)
    assert not found or re.search(words, found[0])


def test_options_that_a_loaded_tokenizer_json_decides_are_said(tokenizer_json):
    for options in ({"strip_accents": False}, {"lowercase": False}):
        [note] = vocabulary_notes(TokenizerConfig(path=str(tokenizer_json), **options))
        assert "have no effect" in note
    assert vocabulary_notes(TokenizerConfig(path=str(tokenizer_json))) == []


def test_too_small_a_vocabulary_names_both_numbers():
    with pytest.raises(ValueError, match=r"vocab_size is 64, .* characters need \d+"):
        train(vocab_size=64)
    with pytest.raises(ValueError, match="no text"):
        train_wordpiece(lambda: [], TokenizerConfig(vocab_size=200))


def test_vocab_txt_and_tokenizer_json_give_the_same_ids(shared_dir):
    folder = shared_dir / "data" / "bert_vocab"
    by_text = load_tokenizer(TokenizerConfig(path=str(folder / "vocab.txt")))
    by_json = load_tokenizer(TokenizerConfig(path=str(folder / "tokenizer.json")))
    for text in TEXTS[:3]:
        assert by_text.encode(text).ids == by_json.encode(text).ids


def test_padding_and_truncation_stored_in_a_file_are_switched_off(tmp_path, tokenizer_json):
    from tokenizers import Tokenizer

    stored = Tokenizer.from_file(str(tokenizer_json))
    stored.enable_padding(length=64)
    stored.enable_truncation(4)
    stored.save(str(tmp_path / "stored.json"))
    found = load_tokenizer(TokenizerConfig(path=str(tmp_path / "stored.json")))
    plain = load_tokenizer(TokenizerConfig(path=str(tokenizer_json)))
    assert found.encode(TEXTS[0]).ids == plain.encode(TEXTS[0]).ids
    assert found.to_str() == plain.to_str()


def test_wrong_tokenizer_files_are_clear_errors(tmp_path):
    (tmp_path / "bad.json").write_text("{}")
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    for name, word in (("bad.json", "WordPiece"), ("vocab.txt", "lacks"), ("no.json", "no such")):
        with pytest.raises(ValueError, match=word):
            load_tokenizer(TokenizerConfig(path=str(tmp_path / name)))


def whole(tokenizer, sentence):
    return tokenizer.encode(sentence, add_special_tokens=False).ids


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
        | st.sampled_from(["", "  fox  dog ", "[MASK] fox", "a\nb", "fox's (dogs),", "ΑΣ ός İi"]),
        min_size=1,
        max_size=5,
    )
)
def test_the_word_table_gives_the_ids_of_the_tokenizer(tokenizer_json, sentences):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_json))
    tokenizer.encode_special_tokens = True
    encoder = SentenceEncoder.from_file(tokenizer_json)
    assert encoder._is_word_local
    for _ in range(2):  # the second time from the table alone
        tokens, lens = encoder.encode(sentences)
        parts = np.split(tokens, np.cumsum(lens)[:-1])
        assert [part.tolist() for part in parts] == [whole(tokenizer, s) for s in sentences]


def test_a_full_word_table_starts_again_with_the_same_ids(tokenizer_json, monkeypatch):
    monkeypatch.setattr("data_prep.words.MAX_TABLE_WORDS", 3)
    encoder, other = (
        SentenceEncoder.from_file(tokenizer_json),
        SentenceEncoder.from_file(tokenizer_json),
    )
    expected = other.encode(TEXTS)[0]
    found = np.concatenate([encoder.encode([text])[0] for text in TEXTS])
    assert np.array_equal(found, expected)


def test_special_tokens_spelled_in_text_never_become_special_ids(tokenizer_json):
    tokens, _ = SentenceEncoder.from_file(tokenizer_json).encode(["a [MASK] b[SEP] [CLS][PAD]"])
    assert not np.isin(tokens, [0, 2, 3, 4]).any()


def test_other_kinds_of_tokenizers_are_called_on_whole_sentences(tmp_path):
    from tokenizers import pre_tokenizers

    tokenizer = wordpiece_from_vocab(
        {t: i for i, t in enumerate([*SPECIAL_TOKENS, "a"])}, lowercase=False
    )
    assert is_word_local(json.loads(tokenizer.to_str()))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    assert not is_word_local(json.loads(tokenizer.to_str()))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    save_tokenizer(tokenizer, tmp_path / "t.json")
    with pytest.raises(ShardError, match="special id"):
        SentenceEncoder.from_file(tmp_path / "t.json").encode(["[MASK]"])


def test_added_words_stand_behind_the_entries_of_a_loaded_tokenizer(tmp_path):
    vocab = [*SPECIAL_TOKENS, "har", "##bour", "sea", "h", "##a"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocab))
    words = tmp_path / "words.txt"
    words.write_text("Harbour\n\nsea\nQuay\n")
    path = str(tmp_path / "vocab.txt")
    before = load_tokenizer(TokenizerConfig(path=path))
    after = load_tokenizer(TokenizerConfig(path=path, add_words=str(words)))
    assert before.encode("harbour", add_special_tokens=False).tokens == ["har", "##bour"]
    tokens = after.encode("harbour sea quay", add_special_tokens=False)
    assert tokens.tokens == ["harbour", "sea", "quay"] and tokens.ids == [10, 7, 11]
    assert before.get_vocab().items() <= after.get_vocab().items()
    words.write_text("sea\nthe sea\n")
    with pytest.raises(ValueError, match=r"words\.txt, line 2: 'the sea' is 2 words"):
        load_tokenizer(TokenizerConfig(path=path, add_words=str(words)))
    with pytest.raises(ValueError, match="no such file"):
        load_tokenizer(TokenizerConfig(path=path, add_words="absent"))
    with pytest.raises(ValueError, match="give tokenizer.path"):
        TokenizerConfig(add_words=str(words))
