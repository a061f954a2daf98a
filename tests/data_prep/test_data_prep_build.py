import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from build_processes import content, story
from shard_files import write_shards

from data_prep import files, pipeline, workers
from data_prep.cli import main
from data_prep.config import BuildConfig
from data_prep.inspection import order_line
from data_prep.manifest import SPECIAL_TOKENS, Manifest
from data_prep.pipeline import build, content_digest
from data_prep.shards import TokenShards
from data_prep.sources import describe
from data_prep.tokenizer import save_tokenizer, wordpiece_from_vocab


def write_rows(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    rows = [story(i) for i in range(40)]
    write_rows(folder / "a.jsonl", rows[:25])
    write_rows(folder / "b.jsonl", [*rows[25:], rows[3], rows[4].upper(), "", " \n"])
    return folder


def config_of(texts, output, **changes):
    values = {
        "output": str(output),
        "source": {"kind": "local", "path": str(texts)},
        "tokenizer": {"vocab_size": 150},
        "validation_fraction": 0.2,
        "chunk_megabytes": 0.005,
        "num_workers": 1,
    }
    return BuildConfig.from_dict({**values, **changes})


def test_the_result_is_the_same_bytes_for_any_number_of_workers_and_chunk_size(texts, tmp_path):
    one = build(config_of(texts, tmp_path / "one"), progress=False)
    two = build(config_of(texts, tmp_path / "two", num_workers=2), progress=False)
    big = build(config_of(texts, tmp_path / "big", chunk_megabytes=4), progress=False)
    assert content(one) == content(two) == content(big)
    assert not (tmp_path / "one.building").exists()


def test_licence_and_date_stand_in_the_manifest_and_change_nothing_else(texts, tmp_path):
    def built(**labels):
        source = {"kind": "local", "path": str(texts), **labels}
        files = content(build(config_of(texts, tmp_path / "one", source=source), progress=False))
        return json.loads(files.pop("manifest.json")), files

    manifest, files = built()
    assert not {"licence", "date"} & set(manifest["sources"][0])
    labels = {"licence": "CC0-1.0", "date": "2018-10"}
    labelled, same_files = built(**labels)  # the folder is up to date: only the labels are new
    assert labelled["sources"] == [{**manifest["sources"][0], **labels}]
    assert same_files == files and built() == (manifest, files)
    assert {**labelled, "sources": manifest["sources"]} == manifest


@pytest.mark.parametrize("limit", [{"max_documents": 7}, {"max_megabytes": 0.006}])
def test_limits_give_the_same_bytes_for_any_number_of_workers(limit, texts, tmp_path):
    source = {"kind": "local", "path": str(texts), **limit}
    one = build(config_of(texts, tmp_path / "one", source=source), progress=False)
    changes = {"source": source, "num_workers": 2, "chunk_megabytes": 0.003}
    two = build(config_of(texts, tmp_path / "two", **changes), progress=False)
    first, second = content(one), content(two)
    manifests = [json.loads(files.pop("manifest.json")) for files in (first, second)]
    assert first == second and manifests[0]["splits"] == manifests[1]["splits"]
    documents = sum(split["documents"] for split in manifests[0]["splits"].values())
    assert 0 < documents <= 8


@pytest.mark.parametrize(
    ("module", "stage"),
    [
        *((workers, name) for name in ("clean_chunk", "train_tokenizer", "encode_part")),
        *((pipeline, "finish_shards"), (files, "publish")),
    ],
)
def test_a_build_killed_in_any_stage_goes_on_to_the_same_bytes(
    module, stage, texts, tmp_path, monkeypatch
):
    expected = content(build(config_of(texts, tmp_path / "whole"), progress=False))
    calls = []
    original = getattr(module, stage)

    def dying(*arguments, **options):
        calls.append(1)
        if len(calls) > 1 or stage not in ("clean_chunk", "encode_part"):
            raise KeyboardInterrupt
        return original(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, stage, dying)
        with pytest.raises(KeyboardInterrupt):
            build(config_of(texts, tmp_path / "killed"), progress=False)
    assert not (tmp_path / "killed").exists()
    cleaned = []
    original_clean = workers.clean_chunk
    monkeypatch.setattr(
        workers, "clean_chunk", lambda *task: cleaned.append(1) or original_clean(*task)
    )
    assert content(build(config_of(texts, tmp_path / "killed"), progress=False)) == expected
    if stage not in ("clean_chunk",):
        assert not cleaned, "finished parts are used again"


def test_a_damaged_part_is_made_again(texts, tmp_path, monkeypatch):
    expected = content(build(config_of(texts, tmp_path / "whole"), progress=False))
    with monkeypatch.context() as patch:
        patch.setattr(files, "publish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build(config_of(texts, tmp_path / "cut"), progress=False)
    for part in (tmp_path / "cut.building").glob("*/000001.npz"):
        part.write_bytes(part.read_bytes()[:-30])
    assert content(build(config_of(texts, tmp_path / "cut"), progress=False)) == expected


def test_changed_settings_invalidate_unfinished_work(texts, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(files, "publish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build(config_of(texts, tmp_path / "out"), progress=False)
    changes = {"sentences": {"headings": "drop"}}
    expected = content(build(config_of(texts, tmp_path / "fresh", **changes), progress=False))
    assert content(build(config_of(texts, tmp_path / "out", **changes), progress=False)) == expected


def test_a_finished_folder_is_used_again_and_never_silently_replaced(texts, tmp_path):
    folder = build(config_of(texts, tmp_path / "out"), progress=False)
    before = (folder / "manifest.json").stat().st_mtime_ns
    build(config_of(texts, tmp_path / "out", num_workers=2), progress=False)
    assert (folder / "manifest.json").stat().st_mtime_ns == before
    other = config_of(texts, tmp_path / "out", validation_fraction=0.3)
    with pytest.raises(ValueError, match="--overwrite true"):
        build(other, progress=False)
    (texts / "b.jsonl").write_text('{"text": "Changed text, same settings."}\n')
    with pytest.raises(ValueError, match="other text or settings"):
        build(config_of(texts, tmp_path / "out"), progress=False)
    build(config_of(texts, tmp_path / "out", overwrite=True), progress=False)
    occupied = tmp_path / "mine"
    occupied.mkdir()
    (occupied / "thesis.txt").write_text("x")
    with pytest.raises(ValueError, match="no shard folder"):
        build(config_of(texts, occupied, overwrite=True), progress=False)


@pytest.mark.parametrize(
    ("name", "damaged", "is_seen_at_once"),
    [
        ("train/tokens.bin", lambda old: old[:-2], True),
        ("train/tokens.bin", lambda old: bytes(len(old)), False),
        ("manifest.json", lambda old: b"{", True),
        ("manifest.json", lambda old: old.replace(b'"mask_id": 4', b'"mask_id": 9'), True),
    ],
)
def test_a_damaged_folder_is_no_finished_one_and_overwrite_makes_it_whole(
    name, damaged, is_seen_at_once, texts, tmp_path
):
    folder = build(config_of(texts, tmp_path / "out"), progress=False)
    whole = content(folder)
    (folder / name).write_bytes(damaged((folder / name).read_bytes()))
    if is_seen_at_once:
        with pytest.raises(ValueError, match="build the folder again with --overwrite true"):
            build(config_of(texts, tmp_path / "out"), progress=False)
    assert (
        content(build(config_of(texts, tmp_path / "out", overwrite=True), progress=False)) == whole
    )


def test_every_setting_that_changes_the_content_changes_the_digest(texts, tmp_path):
    def digest(**changes):
        config = config_of(texts, "out", **changes)
        return content_digest(config, [describe(s) for s in config.sources])

    changed = [
        {"validation_fraction": 0.3},
        {"cleaning": {"unicode_form": "NFKC"}},
        {"cleaning": {"drop_duplicates": False}},
        {"sentences": {"headings": "drop"}},
        {"tokenizer": {"vocab_size": 151}},
        {"source": {"kind": "local", "path": str(texts), "max_documents": 3}},
        {"source": {"kind": "local", "path": str(texts / "a.jsonl")}},
    ]
    digests = {digest(), *(digest(**change) for change in changed)}
    assert len(digests) == len(changed) + 1
    assert digest(num_workers=7, overwrite=True, chunk_megabytes=1) == digest()
    assert config_of(texts, "out").output != "other"


def test_duplicates_are_dropped_and_splits_share_no_document(texts, tmp_path):
    folder = build(config_of(texts, tmp_path / "out"), progress=False)
    manifest = Manifest.load(folder)
    assert manifest.counters["documents_duplicate"] == 2
    assert manifest.counters["documents_empty"] == 2
    assert manifest.counters["documents_read"] == 44
    found = {}
    for split in ("train", "validation"):
        shards = TokenShards.open(folder, split, verify_hashes=True)
        borders = shards.sentence_offsets[shards.document_offsets]
        found[split] = {
            shards.tokens[a:b].tobytes() for a, b in zip(borders[:-1], borders[1:], strict=True)
        }
        assert len(found[split]) == shards.num_documents > 0
    assert not found["train"] & found["validation"]
    assert sum(map(len, found.values())) == 40


def test_stored_ids_are_those_of_the_tokenizer_on_the_whole_text(texts, tmp_path):
    from tokenizers import Tokenizer

    changes = {"validation_fraction": 0.0}
    folder = build(config_of(texts, tmp_path / "out", **changes), progress=False)
    shards = TokenShards.open(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    expected = [tokenizer.encode(story(i), add_special_tokens=False).ids for i in range(40)]
    borders = shards.sentence_offsets[shards.document_offsets]
    assert [len(ids) for ids in expected] == np.diff(borders).tolist()
    assert shards.tokens.tolist() == [i for ids in expected for i in ids]
    assert (np.diff(shards.sentence_offsets) > 0).all()
    assert np.diff(shards.document_offsets).tolist() == [25] * 40
    assert shards.token_counts.sum() == shards.num_tokens


def test_faulty_input_gives_clean_shards_and_counters(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_bytes(b"\xef\xbb\xbfOne [MASK] two.\r\nThr\x00ee \xff four.")
    (folder / "copy.txt").write_bytes(b"\xef\xbb\xbfOne [MASK] two.\r\nThr\x00ee \xff four.")
    (folder / "empty.txt").write_bytes(b"")
    (folder / "one.txt").write_text("Just one sentence.")
    (folder / "line.txt").write_text("many words on one line " * 2000)
    config = config_of(folder, tmp_path / "out", tokenizer={"vocab_size": 80})
    shards = TokenShards.open(build(config, progress=False))
    counters = shards.manifest.counters
    expected = {
        "byte_order_marks": 2,
        "carriage_returns": 2,
        "control_characters": 2,
        "documents_duplicate": 1,
        "documents_empty": 1,
        "invalid_utf8": 2,
        "paragraphs_cut": 1,
        "special_tokens_neutralised": 2,
    }
    assert {name: counters[name] for name in expected} == expected
    assert not np.isin(shards.tokens, [0, 2, 3, 4]).any()


def test_a_single_document_is_for_training_and_nothing_at_all_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_text("Only this one. And no more.")
    config = config_of(tmp_path / "a.txt", tmp_path / "out", tokenizer={"vocab_size": 64})
    manifest = Manifest.load(build(config, progress=False))
    assert manifest.splits["train"].documents == 1
    assert manifest.splits["validation"].documents == 0
    (tmp_path / "b.txt").write_text(" \n")
    with pytest.raises(ValueError, match="no document is left"):
        build(config_of(tmp_path / "b.txt", tmp_path / "out2"), progress=False)


def test_several_sources_are_joined_in_order(texts, tmp_path):
    from_python = {"kind": "python_docs", "packages": ["yaml", "absent.sub", "json"]}
    sources = [{"kind": "local", "path": str(texts / "a.jsonl"), "max_documents": 2}, from_python]
    values = asdict(config_of(texts, tmp_path / "out")) | {"sources": sources}
    values["tokenizer"] = {"vocab_size": 300}
    manifest = Manifest.load(build(BuildConfig.from_dict(values), progress=False))
    assert [source["kind"] for source in manifest.sources] == ["local", "python_docs"]
    assert manifest.counters["packages_missing"] == 1
    assert sum(split.documents for split in manifest.splits.values()) > 2


def test_build_inspect_and_verify_from_the_command_line(texts, tmp_path, capsys):
    path = tmp_path / "c.yaml"
    path.write_text(
        "output: unset\nsource: {kind: local, path: unset}\ntokenizer: {vocab_size: 150}\n"
        "validation_fraction: 0.2\nnum_workers: 1\n"
    )
    out = str(tmp_path / "out")
    arguments = ["build", "--config", str(path), "--source.path", str(texts), "--output", out]
    assert main([*arguments, "--quiet"]) == 0
    assert main(["verify", out]) == 0
    capsys.readouterr()
    assert main(["inspect", out]) == 0
    report = capsys.readouterr().out
    for words in ("tokens per sentence", "documents_duplicate 2", "duplicate sentences", "| the"):
        assert words in report
    tokens = tmp_path / "out" / "validation" / "tokens.bin"
    data = bytearray(tokens.read_bytes())
    data[7] ^= 4
    tokens.write_bytes(data)
    assert main(["verify", out]) == 1
    assert "validation/tokens.bin" in capsys.readouterr().err


def test_shuffled_sentences_are_told_from_running_text(tmp_path):
    pieces = [*SPECIAL_TOKENS, *(f"w{number}" for number in range(300))]
    tokenizer = wordpiece_from_vocab({p: i for i, p in enumerate(pieces)}, lowercase=True)
    save_tokenizer(tokenizer, tmp_path / "tokenizer.json")
    generator = np.random.default_rng(0)
    running, shuffled = [], []
    for _ in range(30):
        words = 5 + generator.permutation(300)[:100]
        document = [words[3 * k : 3 * k + 6].tolist() for k in range(30)]
        running.append(document)
        shuffled.append([document[k] for k in generator.permutation(30)])
    lines = []
    for name, documents in (("running", running), ("shuffled", shuffled)):
        write_shards(tmp_path / name, {"train": documents}, tmp_path / "tokenizer.json")
        lines.append(order_line(TokenShards.open(tmp_path / name)))
    assert "looks like running text" in lines[0]
    assert "LOOKS SHUFFLED" in lines[1]


def test_a_build_needs_neither_torch_nor_lightning_nor_a_main_guard(texts, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from data_prep.config import BuildConfig\n"
        "from data_prep.pipeline import build\n"
        "import data_prep.cli, data_prep.inspection\n"
        f"source = {{'kind': 'local', 'path': {str(texts)!r}}}\n"
        f"values = {{'output': {str(tmp_path / 'out')!r}, 'source': source, 'num_workers': 2,\n"
        "          'chunk_megabytes': 0.005, 'tokenizer': {'vocab_size': 150}}\n"
        "build(BuildConfig.from_dict(values), progress=False)\n"
        "bad = {'torch', 'pytorch_lightning', 'ponet', 'pretrain', 'datasets'}\n"
        "print('imported', sorted(bad & set(sys.modules)))\n"
    )
    repository = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(repository), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "imported []\n"
