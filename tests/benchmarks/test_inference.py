"""Encoding is measured from the same rows for all, and its memory hangs on tokens, not lengths."""

import argparse
import json
import random
from functools import partial

import torch

from benchmarks import harness, inference, report
from ponet import PoNetConfig, build_encoder
from ponet.frozen import freeze
from ponet.inference import groups

SIZES = {"vocab_size": 30_000, "hidden_size": 64, "num_heads": 4, "num_layers": 2,
         "ffn_size": 256, "max_positions": 2048}  # fmt: skip


def rows_of(length, number):
    return [inference.row(n, length, random.Random(n)) for n in range(number)]


def test_memory_of_a_batch_hangs_on_its_tokens_and_not_on_the_length_of_its_texts() -> None:
    encoder = freeze(build_encoder(PoNetConfig(**SIZES)))
    peaks = {}
    for length, number in ((64, 256), (512, 32), (2048, 8), (2048, 1)):
        run = partial(inference.run_ours, encoder, False, rows_of(length, number), 2048)
        run()
        peaks[length, number] = harness.peak_bytes(run, "cpu")
    values = sorted(peaks.values())
    assert values[-1] < 1.25 * values[0], peaks
    most = 2048 * (64 * 9 + 256) * 4  # hidden states of a layer, and inner ones
    assert values[-1] < most, peaks


def test_every_way_to_run_gives_the_mean_of_the_same_texts() -> None:
    torch.manual_seed(0)
    encoder = build_encoder(PoNetConfig(**SIZES)).eval()
    rows = [row for length in (9, 30, 64) for row in rows_of(length, 3)]
    found = inference.run_ours(freeze(encoder), False, rows, 128)
    plain = []
    for group in groups(rows, 128, is_exact=False):
        for batch in inference.padded(group, 128, "cpu"):
            with torch.no_grad():
                plain.append(inference.mean(encoder(batch), batch))
    torch.testing.assert_close(found, torch.cat(plain), atol=1e-5, rtol=0)


def test_real_texts_are_read_by_paragraphs(tmp_path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "one", "two"]
    tokenizer = Tokenizer(models.WordLevel({w: n for n, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    texts = [{"text": "one two\n\ntwo"}, {"text": "one one one"}]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(text) + "\n" for text in texts))
    options = argparse.Namespace(texts=str(path), tokenizer=str(tmp_path / "tokenizer.json"))
    options.mixed_len, options.tokens = 16, 1000
    assert [len(row.ids) for row in inference.mixed_rows(options)] == [4, 3, 5]


def test_claims_are_held_against_the_fastest_form_of_the_rival() -> None:
    names = {"transformers BERT": 1.5, "transformers BERT, compiled": 1.2, "BERT": 1.1}
    row = {"rival": "PoNet", "size": "small", "precision": "32", "num_tokens": 512}
    row |= {"times_as_fast_as": {name: {"median": value} for name, value in names.items()}}
    row["kib_per_token"] = 4.0
    [first] = [e for e in inference.claims([row], device="cpu") if e["measured"] is not None]
    assert first["measured"] == 1.2 and first["met"] is False
    assert "width 256, 512 tokens" in first["claim"]
    tables = report.tables("inference", {
        "machine": report.machine(), "ours": "PoNet", "rows": [],
        "settings": {"rounds": 1, "tokens": 10, "texts": "", "mixed_len": 9},
    })  # fmt: skip
    assert "log-normal" in tables
