"""Tokenizer files, the Hub, and checkpoint files of our own training."""

import json
import shutil
import sys
import types

import pytest
import torch
from ponet_bundles import VOCAB, foreign_values, make_model, write_foreign, write_tokenizer

from data_prep.manifest import TokenizerInfo
from data_prep.tokenizer import read_vocab_txt, wordpiece_from_vocab
from ponet import BertConfig, PoNetConfig, load_bundle
from ponet.bundle_import import import_bundle, report_lines
from ponet.tokenizer import load_tokenizer

SENTENCES = ["The Harbour is café-like, [MASK]!", "Ünïcode  中文 and\ttabs's", "the SUN rises."]


def do_import(source, output, **options):
    return import_bundle(str(source), output, **options)


@pytest.mark.parametrize("lowercase", [True, False])
def test_a_vocab_txt_becomes_what_transformers_makes_of_it(lowercase):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.BertTokenizer(vocab=VOCAB, do_lower_case=lowercase)
    ours = wordpiece_from_vocab(VOCAB, lowercase=lowercase)
    for sentence in SENTENCES:
        assert ours.encode(sentence).ids == theirs(sentence)["input_ids"]
    pair = ours.encode(*SENTENCES[1:])
    expected = theirs(*SENTENCES[1:])
    assert (pair.ids, pair.type_ids) == (expected["input_ids"], expected["token_type_ids"])


def test_the_settings_beside_a_vocab_txt_are_followed(tmp_path):
    folder = write_foreign(tmp_path / "m", make_model())
    (folder / "tokenizer_config.json").write_text(
        '{"do_lower_case": false, "strip_accents": null, "tokenize_chinese_chars": false}'
    )
    imported = do_import(folder, tmp_path / "b")
    tokenizer = load_tokenizer(imported.bundle.tokenizer_path)
    assert tokenizer.encode("SUN").tokens == ["[CLS]", "[UNK]", "[SEP]"]
    text = "\n".join(report_lines(imported))
    assert "vocab.txt -> tokenizer.json; lowercase false" in text
    with pytest.raises(ValueError, match="contradicts .*tokenizer_config.json"):
        do_import(folder, tmp_path / "c", lowercase=True)


def test_a_tokenizer_json_is_copied_as_it_is_and_comes_first(tmp_path):
    folder = write_foreign(tmp_path / "m", make_model())
    path = write_tokenizer(folder, lowercase=False)
    bundle = do_import(folder, tmp_path / "b").bundle
    assert bundle.tokenizer_path.read_bytes() == path.read_bytes()
    with pytest.raises(ValueError, match="--lowercase is for a vocab.txt"):
        do_import(folder, tmp_path / "c", lowercase=True)


def write_json(path, **values):
    path.write_text(json.dumps(values))


def with_added_tokens(folder, how):
    """A model with two more words than its vocabulary file, as several versions save it."""
    model = make_model(vocab_size=len(VOCAB) + 2)
    write_foreign(folder, model)
    ids = {"covid19": len(VOCAB), "[E1]": len(VOCAB) + 1}
    flags = {"lstrip": False, "rstrip": False, "single_word": False}
    decoder = {
        str(ids["covid19"]): {"content": "covid19", **flags, "normalized": True, "special": False},
        str(ids["[E1]"]): {"content": "[E1]", **flags, "normalized": False, "special": True},
    }
    if how != "decoder":
        write_json(folder / "added_tokens.json", **ids)
        write_json(folder / "special_tokens_map.json", additional_special_tokens=["[E1]"])
    if how != "listed":
        write_json(folder / "tokenizer_config.json", added_tokens_decoder=decoder)
    if how == "tokenizer.json":
        write_tokenizer(folder)
    return folder


@pytest.mark.parametrize("how", ["listed", "decoder", "both", "tokenizer.json"])
def test_added_tokens_beside_a_vocabulary_keep_their_ids(how, tmp_path):
    folder = with_added_tokens(tmp_path / "m", how)
    imported = do_import(folder, tmp_path / "b")
    assert "2 added tokens" in imported.tokenizer
    form = imported.bundle.text_format
    [row] = form.windows(["the COVID19 is [E1]"], max_len=24)
    assert row.ids[2] == len(VOCAB)  # a word, in any case
    assert len(VOCAB) + 1 not in row.ids  # but a special token in a text is text
    assert load_tokenizer(imported.bundle.tokenizer_path).token_to_id("[E1]") == len(VOCAB) + 1


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        (
            "added_tokens.json",
            {"new": len(VOCAB) + 7},
            rf"'new' has the id {len(VOCAB) + 7} .* tokenizer has {len(VOCAB)}",
        ),
        ("added_tokens.json", {"sun": 0}, "added token 'sun' has the id 0"),
        ("special_tokens_map.json", {"additional_special_tokens": ["[E1]"]}, r"names '\[E1\]' in"),
        ("special_tokens_map.json", {"cls_token": "<s>"}, "'<s>' for its cls_token"),
        ("tokenizer_config.json", {"tokenizer_class": "BertJapaneseTokenizer"}, "is for a BertJap"),
        ("tokenizer_config.json", {"tokenizer_class": "TapasTokenizer"}, "is for a TapasTokenizer"),
        ("tokenizer_config.json", {"word_tokenizer_type": "mecab"}, "word_tokenizer_type='mecab'"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["a.B", None]}}, "has auto_map="),
        ("tokenizer_config.json", {"do_basic_tokenize": False}, "do_basic_tokenize=False"),
        ("tokenizer_config.json", {"never_split": ["sun"]}, "never_split="),
        ("tokenizer_config.json", {"added_tokens_decoder": {"1": {}}}, "decoder has no token"),
    ],
)
def test_what_stands_beside_a_vocabulary_is_never_passed_over(name, values, message, tmp_path):
    folder = write_foreign(tmp_path / "m", make_model())
    write_json(folder / name, **values)
    with pytest.raises(ValueError, match=message):
        do_import(folder, tmp_path / "b")
    assert not (tmp_path / "b").exists()
    assert do_import(folder, tmp_path / "b", tokenizer="none").tokenizer is None


def test_a_tokenizer_class_named_by_the_model_is_refused_too(tmp_path):
    values = foreign_values(make_model(), tokenizer_class="BertJapaneseTokenizer")
    folder = write_foreign(tmp_path / "m", make_model(), values=values)
    with pytest.raises(ValueError, match="BertJapaneseTokenizer"):
        do_import(folder, tmp_path / "b")
    given = write_tokenizer(tmp_path)  # a file that the user names says all by itself
    assert do_import(folder, tmp_path / "b", tokenizer=str(given)).tokenizer is not None


def test_settings_that_contradict_a_tokenizer_json_are_refused(tmp_path):
    folder = write_foreign(tmp_path / "m", make_model())
    write_tokenizer(folder)
    write_json(folder / "tokenizer_config.json", do_lower_case=False)
    with pytest.raises(ValueError, match="do_lower_case False, but tokenizer.json lowercase True"):
        do_import(folder, tmp_path / "b")


def test_stored_padding_does_not_come_into_the_bundle(tmp_path):
    folder = write_foreign(tmp_path / "m", make_model())
    tokenizer = load_tokenizer(write_tokenizer(folder))
    tokenizer.enable_padding(length=64)
    tokenizer.enable_truncation(8)
    tokenizer.save(str(folder / "tokenizer.json"))
    imported = do_import(folder, tmp_path / "b")
    assert "stored padding left out; stored truncation left out" in imported.tokenizer
    content = json.loads(imported.bundle.tokenizer_path.read_text())
    assert content["padding"] is None and content["truncation"] is None


def add_words(folder):
    with (folder / "vocab.txt").open("a") as file:
        file.write("more\nwords\n")


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda f: (f / "vocab.txt").unlink(), "neither tokenizer.json nor vocab.txt"),
        (lambda f: (f / "vocab.txt").rename(f / "spiece.model"), "must be converted first"),
        (add_words, "entries, but the model's word embeddings have"),
        (lambda f: (f / "vocab.txt").write_text("[PAD]\n[UNK]\n"), r"lacks \[CLS\], \[SEP\]"),
        (lambda f: (f / "vocab.txt").write_text("a\nb\na\n"), "vocab.txt:3: 'a' stands in line 1"),
        (lambda f: (f / "vocab.txt").write_bytes(b"\xff\n"), "is not UTF-8"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "holds no vocabulary"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused(prepare, message, tmp_path):
    folder = write_foreign(tmp_path / "m", make_model())
    prepare(folder)
    with pytest.raises(ValueError, match=message):
        do_import(folder, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_a_vocab_txt_keeps_pieces_of_odd_characters(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes("a\r\n\u2028\n\u00a0\n".encode())
    assert read_vocab_txt(path) == {"a": 0, "\u2028": 1, "\u00a0": 2}


class FakeHub:
    """`huggingface_hub` with one repository, and what was asked of it."""

    def __init__(self, repository, cache, monkeypatch):
        self.repository, self.cache, self.asked = repository, cache, []
        hub = types.ModuleType("huggingface_hub")
        hub.snapshot_download = self.download
        monkeypatch.setitem(sys.modules, "huggingface_hub", hub)

    def download(self, repo, *, revision, allow_patterns):
        if repo != "chtan/ponet-base-uncased":
            raise FileNotFoundError(repo)
        self.asked.append(revision)
        self.cache.mkdir(exist_ok=True)
        for pattern in allow_patterns:
            for path in self.repository.glob(pattern):
                shutil.copy(path, self.cache)
        return str(self.cache)


@pytest.mark.parametrize("pickled", [False, True])
def test_a_hub_id_is_downloaded_at_one_commit_without_a_second_form_of_the_weights(
    pickled, tmp_path, monkeypatch
):
    commit = "0123456789" * 4
    folder = write_foreign(tmp_path / "m", make_model(), pickled=pickled)
    (folder / "flax_model.msgpack").write_bytes(b"never looked at")
    if not pickled:
        (folder / "pytorch_model.bin").write_bytes(b"never looked at")
    hub = FakeHub(folder, tmp_path / commit, monkeypatch)
    imported = do_import("chtan/ponet-base-uncased", tmp_path / "b", revision="v1")
    assert hub.asked == ["v1", commit][: 1 + pickled]
    weights = "pytorch_model.bin" if pickled else "model.safetensors"
    assert {path.name for path in hub.cache.iterdir()} == {"config.json", "vocab.txt", weights}
    metadata = imported.bundle.metadata
    assert metadata["imported_from"] == "chtan/ponet-base-uncased"
    assert metadata["revision"] == commit
    assert f"commit {commit}" in "\n".join(report_lines(imported))
    with pytest.raises(ValueError, match="nor to be had from the Hub at revision main"):
        do_import("someone/else", tmp_path / "c")
    shutil.rmtree(hub.cache)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"has no config.json at revision main"):
        do_import("chtan/ponet-base-uncased", tmp_path / "c")


def test_the_real_hub_client_says_that_it_cannot_connect(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="nor to be had from the Hub"):
        do_import("nobody/nothing-of-this-name", tmp_path / "b")


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint as pretraining writes it, with its digest, and its folder of shards."""
    from training.checkpoints.storage import write_checkpoint

    model = make_model()
    shards = tmp_path / "shards"
    shards.mkdir()
    digest = TokenizerInfo.from_file(write_tokenizer(shards)).digest
    content = {
        "ponet_run": {
            **model.config.to_dict(),
            "objective": "mlm_sso",
            "config": {"data": {"folder": str(shards)}},
        },
        "state_dict": {f"model.{name}": value for name, value in model.state_dict().items()},
        "global_step": 7,
        "PretrainDataModule": {
            "samples_seen": 28,
            "fingerprint": {
                "max_len": 16,
                "data": "abc",
                "tokenizer": digest,
            },
        },
        "optimizer_states": [{"state": {0: {"step": torch.tensor(7.0)}}}],
    }
    path = tmp_path / "step-00000007.ckpt"
    write_checkpoint(content, path)
    return path, content, shards


def test_a_checkpoint_file_becomes_the_bundle_that_pretraining_would_export(checkpoint, tmp_path):
    from pretrain.export import write_bundle

    path, content, _ = checkpoint
    (tmp_path / "last.ckpt").symlink_to(path.name)
    imported = do_import(tmp_path / "last.ckpt", tmp_path / "b")
    write_bundle(content, tmp_path / "exported")
    ours, theirs = load_bundle(tmp_path / "b"), load_bundle(tmp_path / "exported")
    assert ours.metadata == theirs.metadata and ours.metadata["steps"] == 7
    assert ours.model.config == theirs.model.config
    assert ours.tokenizer_path.read_bytes() == theirs.tokenizer_path.read_bytes()
    for bundle in (ours, theirs):
        assert {f"model.{name}" for name in bundle.model.state_dict()} == set(content["state_dict"])
        for name, value in bundle.model.state_dict().items():
            assert torch.equal(value, content["state_dict"][f"model.{name}"]), name
    assert "whole, as its digest says" in "\n".join(report_lines(imported))


def test_a_bundle_reads_texts_by_the_language_and_the_segments_of_its_run(checkpoint, tmp_path):
    from pretrain.export import write_bundle

    _, content, shards = checkpoint
    text = "the sun rises am 3. März in the west. The sun sets."
    manifest = {"digest": "abc", "settings": {"sentences": {"language": "de"}}}
    (shards / "manifest.json").write_text(json.dumps(manifest))
    write_bundle(content, tmp_path / "german")
    (row,) = load_bundle(tmp_path / "german").text_format.windows([text], max_len=128)
    assert row.segments[-1] == 3  # two sentences between [CLS] and [SEP]
    fingerprint = content["PretrainDataModule"]["fingerprint"]
    fingerprint |= {"data": "others", "segments": {"rule": "fixed", "tokens_per_segment": 3}}
    write_bundle(content, tmp_path / "fixed")
    bundle = load_bundle(tmp_path / "fixed")
    assert "language" not in bundle.metadata  # those shards are not the run's
    (row,) = bundle.text_format.windows(["the sun rises. the sun"], max_len=128)
    assert row.segments == [0, 1, 1, 1, 2, 2, 2, 3]
    fingerprint["segments"] = {"rule": "text", "tokens_per_segment": 3}
    write_bundle(content, tmp_path / "text")
    form = load_bundle(tmp_path / "text").text_format
    rows = form.windows(["the sun rises. the sun", ""], max_len=128)
    assert [row.segments for row in rows] == [[0, 1, 1, 1, 1, 1, 1, 2], [0, 1]]


def test_a_damaged_or_foreign_checkpoint_file_is_refused(checkpoint, tmp_path):
    path, content, _ = checkpoint
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="not a checkpoint of"):
        do_import(tmp_path / "other.ckpt", tmp_path / "b")
    del content["state_dict"]["model.mlm_head.bias"]
    torch.save(content, tmp_path / "less.ckpt")
    with pytest.raises(ValueError, match=r"missing mlm_head.bias; unexpected none"):
        do_import(tmp_path / "less.ckpt", tmp_path / "b")
    file = path / "state.pt"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="is damaged: its content is not what"):
        do_import(path, tmp_path / "b")


def test_a_checkpoint_without_its_shards_needs_their_tokenizer(checkpoint, tmp_path):
    path, _, shards = checkpoint
    tokenizer = (shards / "tokenizer.json").rename(tmp_path / "kept.json")
    other = tmp_path / "other"
    other.mkdir()
    write_tokenizer(other, lowercase=False)
    shards.rmdir()
    with pytest.raises(
        ValueError, match="neither tokenizer.json nor vocab.txt; give one by --tokenizer"
    ):
        do_import(path, tmp_path / "b")
    with pytest.raises(ValueError, match="not the tokenizer of the run"):
        do_import(path, tmp_path / "b", tokenizer=str(other / "tokenizer.json"))
    assert do_import(path, tmp_path / "b", tokenizer=str(tokenizer)).tokenizer is not None
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "bundle").mkdir()
    tokenizer.rename(run / "bundle" / "tokenizer.json")
    shutil.copytree(path, run / "checkpoints" / path.name)
    in_run = do_import(run / "checkpoints" / path.name, tmp_path / "b")
    assert in_run.bundle.tokenizer_path is not None
    (path / "SHA256SUMS").unlink()
    imported = do_import(path, tmp_path / "c", tokenizer="none")
    text = "\n".join(report_lines(imported))
    assert "there is no digest beside it" in text and "tokenizer   none" in text


@pytest.mark.parametrize(("config_class", "rule"), [(PoNetConfig, "text"), (BertConfig, "fixed")])
def test_a_text_is_one_segment_to_what_sentence_transformers_saved(config_class, rule, tmp_path):
    model = make_model(config_class)
    before = {"language": "de", "segments": {"rule": "fixed", "tokens_per_segment": 2}}
    values = foreign_values(model, pretraining=before)
    folder = write_foreign(tmp_path / "m", model, values=values)
    assert do_import(folder, tmp_path / "a").bundle.metadata["segments"] == before["segments"]
    module = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
    (folder / "modules.json").write_text(json.dumps([module]))
    imported = do_import(folder, tmp_path / "b")
    metadata, is_text = imported.bundle.metadata, rule == "text"
    assert metadata["segments"]["rule"] == rule and metadata["language"] == "de"
    lines = list(report_lines(imported))
    assert ("segments    each text is one, as in its training" in lines) == is_text
    if is_text:
        row = imported.bundle.text_format.windows(["the sun. boats."], max_len=16)[0]
        assert row.segments == [0, *[1] * (len(row.ids) - 2), 2]
