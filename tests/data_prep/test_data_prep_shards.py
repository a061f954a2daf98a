import json
import pickle

import numpy as np
import pytest
from shard_files import write_shards

from data_prep.cli import main
from data_prep.config import TokenizerConfig
from data_prep.manifest import SPECIAL_TOKENS, Manifest
from data_prep.shards import ShardError, TokenShards, token_dtype
from data_prep.tokenizer import save_tokenizer, train_wordpiece, wordpiece_from_vocab

DOCUMENTS = [[[5, 6], [7]], [[8, 9, 10]]]


@pytest.fixture
def folder(tmp_path):
    pieces = [*SPECIAL_TOKENS, *"abc", "##a", "##b", "##"]
    tokenizer = wordpiece_from_vocab({p: i for i, p in enumerate(pieces)}, lowercase=True)
    save_tokenizer(tokenizer, tmp_path / "source.json")
    target = tmp_path / "shards"
    write_shards(target, {"train": DOCUMENTS, "validation": []}, tmp_path / "source.json")
    return target


def test_what_is_written_is_read_back_with_offsets_and_counts(folder):
    shards = TokenShards.open(folder, verify_hashes=True)
    assert shards.tokens.tolist() == [5, 6, 7, 8, 9, 10] and shards.tokens.dtype == np.uint16
    assert shards.sentence_offsets.tolist() == [0, 2, 3, 6]
    assert shards.document_offsets.tolist() == [0, 2, 3]
    assert (shards.num_tokens, shards.num_sentences, shards.num_documents) == (6, 3, 2)
    assert np.flatnonzero(shards.is_continuation).tolist() == [8, 9]
    assert shards.token_counts.tolist() == [0] * 5 + [1] * 6
    assert TokenShards.open(folder, "validation").num_documents == 0


def test_shards_travel_to_other_processes_as_a_path(folder):
    shards = TokenShards.open(folder)
    data = pickle.dumps(shards)
    assert len(data) < 500
    assert pickle.loads(data).tokens.tolist() == shards.tokens.tolist()


def test_token_dtype_follows_the_vocabulary():
    assert token_dtype(65_535) == np.uint16 and token_dtype(65_536) == np.uint32


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "manifest.json").unlink(), "no manifest.json"),
        (lambda f: (f / "manifest.json").write_text("{"), "damaged"),
        (lambda f: (f / "train/tokens.bin").unlink(), "tokens.bin: is missing"),
        (lambda f: (f / "train/tokens.bin").write_bytes(b"12"), "has 2 bytes"),
        (lambda f: set_version(f, 99), "format version 99"),
    ],
)
def test_a_damaged_folder_is_refused_with_file_and_mend(folder, damage, words):
    damage(folder)
    with pytest.raises(ShardError, match=words):
        TokenShards.open(folder)


@pytest.mark.parametrize(
    ("group", "name", "value", "words"),
    [
        ("tokenizer", "mask_id", 7, "says mask_id 7, and tokenizer.json has 4"),
        ("tokenizer", "vocab_size", 10, "says vocab_size 10, and tokenizer.json has 11"),
        ("tokenizer", "digest", "0" * 64, "says digest 000"),
        ("splits", "train", {"documents": 2, "sentences": 3, "tokens": 5}, "holds SplitCounts"),
        ("splits", "validation", None, "missing or too many: validation/document_offsets.bin"),
        ("files", "train/tokens.bin", None, "missing or too many: train/tokens.bin"),
        ("files", "token_counts.bin", None, "missing or too many: token_counts.bin"),
    ],
)
def test_a_damaged_manifest_is_found(folder, group, name, value, words, capsys):
    assert main(["verify", str(folder)]) == 0
    content = json.loads((folder / "manifest.json").read_text())
    content[group][name] = value
    if value is None:
        del content[group][name]
    (folder / "manifest.json").write_text(json.dumps(content))
    assert main(["verify", str(folder)]) == 1
    said = capsys.readouterr().err
    assert words in said and "manifest" in said and "--overwrite true" in said
    if name != "digest":
        with pytest.raises(ShardError, match="overwrite"):
            TokenShards.open(folder)


def set_version(folder, number):
    content = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**content, "format_version": number}))


def test_a_changed_byte_is_found_when_hashes_are_checked(folder):
    path = folder / "train" / "tokens.bin"
    data = bytearray(path.read_bytes())
    data[4] ^= 1
    path.write_bytes(data)
    TokenShards.open(folder)
    with pytest.raises(ShardError, match=r"tokens\.bin"):
        TokenShards.open(folder, verify_hashes=True)


def test_an_unknown_split_names_those_there(folder):
    with pytest.raises(ShardError, match="'test'; it has train, validation"):
        TokenShards.open(folder, "test")


@pytest.mark.parametrize("documents", [[[]], [[[]]], [[[99]]]])
def test_empty_sentences_and_ids_outside_the_vocabulary_are_refused(folder, documents):
    with pytest.raises(ShardError):
        write_shards(folder.parent / "other", {"train": documents}, folder / "tokenizer.json")


def test_the_tokenizer_digest_depends_on_its_content_not_on_its_layout(tmp_path, folder):
    text = (folder / "tokenizer.json").read_text()
    (tmp_path / "pretty.json").write_text(json.dumps(json.loads(text), indent=3))
    write_shards(tmp_path / "other", {"train": DOCUMENTS}, tmp_path / "pretty.json")
    digest = Manifest.load(folder).tokenizer.digest
    assert Manifest.load(tmp_path / "other").tokenizer.digest == digest
    config = TokenizerConfig(vocab_size=64)
    other = save_tokenizer(train_wordpiece(lambda: ["abc abc"], config), tmp_path / "t.json")
    assert other.digest != digest
