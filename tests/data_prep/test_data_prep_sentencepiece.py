"""Tokenizers that say where a word begins, as that of the released FNet does."""

import json

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers

from data_prep.cli import main
from data_prep.config import TokenizerConfig
from data_prep.manifest import ShardError, TokenizerInfo, continuations
from data_prep.shards import TokenShards
from data_prep.tokenizer import load_tokenizer, vocabulary_notes
from data_prep.words import space_between
from finetune.data.encoding import TextEncoder
from finetune.tasks.spec import Row, TaggedText
from ponet.text_format import TextFormat

SPECIAL = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
PIECES = ["\u2581the", "\u2581cat", "s", "\u2581", *"abcdefghijklmnopqrstuvwxyz.<>"]


@pytest.fixture
def unigram(tmp_path):
    """Special tokens stand behind the first pieces, as no WordPiece vocabulary has them."""
    vocab = [(piece, -float(len(PIECES) - i)) for i, piece in enumerate(reversed(PIECES))]
    vocab = [("<unk>", 0.0), ("<pad>", 0.0), *vocab, *((name, 0.0) for name in SPECIAL[2:])]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=0))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.add_special_tokens([AddedToken(n, special=True, normalized=False) for n in SPECIAL])
    path = tmp_path / "given.json"
    tokenizer.save(str(path))
    return path


def test_a_build_gives_the_ids_of_the_tokenizer_and_knows_where_words_begin(unigram, tmp_path):
    sentences = ["The cats sat.", "A <pad> in a text is text."]
    rows = [{"text": " ".join(sentences)}, {"text": "A dog ran off."}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 2))
    options = {"source.path": tmp_path / "a.jsonl", "tokenizer.path": unigram,
               "output": tmp_path / "shards", "validation_fraction": 0}  # fmt: skip
    assert main(["build", *(f"--{name}={value}" for name, value in options.items())]) == 0

    shards = TokenShards.open(tmp_path / "shards", "train")
    tokenizer = load_tokenizer(TokenizerConfig(path=str(unigram)))
    pieces = [tokenizer.id_to_token(int(number)) for number in shards.tokens]
    text = "".join(pieces).replace("\u2581", " ")
    assert "the cats sat. a < pad> in a text is text." in text
    assert {"\u2581cat", "s"} <= set(pieces) and "<pad>" not in pieces
    assert shards.manifest.counters["special_tokens_neutralised"] == text.count("< pad>") > 0
    continues = shards.is_continuation
    vocab = tokenizer.get_vocab()
    begins = {piece for piece, number in vocab.items() if not continues[number]}
    assert begins == {*SPECIAL, "\u2581the", "\u2581cat", "\u2581"}
    info = shards.manifest.tokenizer
    assert (info.pad_id, info.unk_id, info.cls_id) == tuple(map(vocab.get, SPECIAL[:3]))
    assert np.all(np.asarray(shards.tokens) < info.vocab_size)


STORY = ["The state fell.", "While many fled, some stayed.", "These were few."]
UNMARKED = {
    "bytes": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "never": pre_tokenizers.Metaspace(prepend_scheme="never"),
}
MARKED = {
    "bytes": pre_tokenizers.ByteLevel(add_prefix_space=True),
    "first": pre_tokenizers.Metaspace(prepend_scheme="first"),
    "always": pre_tokenizers.Metaspace(prepend_scheme="always"),
    "BERT": pre_tokenizers.BertPreTokenizer(),
}


def write_bpe(path, splitter):
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = splitter
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([" ".join(STORY)] * 9, trainer)
    tokenizer.save(str(path))
    return tokenizer


@pytest.mark.parametrize("splitter", UNMARKED.values(), ids=UNMARKED)
def test_sentences_have_the_ids_of_running_text_where_spaces_begin_words(splitter, tmp_path):
    tokenizer = write_bpe(tmp_path / "bpe.json", splitter)
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": " ".join(STORY)}) + "\n")
    options = {"source.path": tmp_path / "a.jsonl", "tokenizer.path": tmp_path / "bpe.json",
               "output": tmp_path / "shards", "validation_fraction": 0}  # fmt: skip
    assert main(["build", *(f"--{name}={value}" for name, value in options.items())]) == 0

    shards = TokenShards.open(tmp_path / "shards", "train")
    whole = tokenizer.encode(" ".join(STORY), add_special_tokens=False).ids
    assert shards.tokens.tolist() == whole
    firsts = shards.tokens[shards.sentence_offsets[:-1]]
    assert shards.is_continuation[firsts].tolist() == [True, False, False]

    form = TextFormat(tmp_path / "bpe.json")
    (row,) = form.windows([" ".join(STORY)], max_len=500)
    assert row.ids[1:-1] == whole and max(row.segments) == len(STORY) + 1
    (row,) = form.windows([f"{STORY[0]} [MASK] many fled."], max_len=500, has_masks=True)
    head = tokenizer.encode(STORY[0], add_special_tokens=False).ids
    assert row.ids[1 : len(head) + 2] == [*head, tokenizer.token_to_id("[MASK]")]


def test_tagged_words_and_sentences_have_the_ids_of_running_text(tmp_path):
    tokenizer = write_bpe(tmp_path / "bpe.json", UNMARKED["bytes"])
    encoder = TextEncoder(tmp_path / "bpe.json", max_len=500)
    text = " ".join(STORY)
    whole = tokenizer.encode(text, add_special_tokens=False).ids
    words = ("The", "state", "fell", ".", "While")
    for parts in (words, tuple(STORY)):
        begins = [text.index(part) for part in parts]
        offsets = tuple((at, at + len(part)) for at, part in zip(begins, parts, strict=True))
        tagged = TaggedText(1, "", parts, None, None, text, offsets)
        (found,) = encoder.encode([Row(1, "", text, "", None, tagged)], "a")
        ids = found.input_ids[1:-1].tolist()
        assert ids == whole[: len(ids)] and len(ids) >= len(parts)
    assert sum(encoder.sizes(STORY)) >= len(whole)


@pytest.mark.parametrize("splitter", MARKED.values(), ids=MARKED)
def test_other_tokenizers_need_no_space_between_sentences(splitter, tmp_path):
    assert space_between(write_bpe(tmp_path / "bpe.json", splitter)) == ""


def test_added_tokens_decide_the_digest_where_special_tokens_are_entries_like_others(unigram):
    before = TokenizerInfo.from_file(unigram).digest
    content = json.loads(unigram.read_text())
    content["added_tokens"][0]["lstrip"] = True
    unigram.write_text(json.dumps(content))
    assert TokenizerInfo.from_file(unigram).digest != before


def test_what_only_wordpiece_has_is_left_out_or_refused(unigram, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("dog\n")
    config = TokenizerConfig(path=str(unigram), add_words=str(words))
    with pytest.raises(ValueError, match="added to WordPiece vocabularies alone, .* is Unigram"):
        load_tokenizer(config)
    assert vocabulary_notes(TokenizerConfig(path=str(unigram))) == []


def test_pieces_that_do_not_say_where_words_begin_are_refused(unigram):
    content = json.loads(unigram.read_text())
    content["pre_tokenizer"] = {"type": "Whitespace"}
    unigram.write_text(json.dumps(content))
    with pytest.raises(ShardError, match="nothing in its pieces says where a word begins"):
        continuations(unigram)
