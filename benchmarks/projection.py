"""Hashed words: the layer over them, reading them, and what one utterance costs.

    python -m benchmarks.projection [--tokenizer JSON]             (one CPU thread, 5 minutes)

All by CPU time. Layer: forward and backward over 1,024 words from given fingerprints, w 1, 1,024
features, 64 hashes. *Counts over windows* is the published form: a float matrix of the counts of
every place and its neighbours, times a wide matrix; *counts of words* multiplies the counts of the
distinct words and adds their products up. The words: all different in full texts of 64 places,
running words of Python's documentation in full texts, the same in utterances of 8, each padded to
64 places as published. Reading: words per second. Utterance: from a text to outputs, nothing
remembered of its words, batch 1: taggers of 137 tags, BERT and TF-IDF with a linear model for as
many labels.
"""

import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import report
from benchmarks.harness import Clock, Step, in_rounds, interleaved, ratio, run_rounds, spread, times
from benchmarks.report import DEVICE, ROUNDS, Option, Options, Row
from benchmarks.text import read_batches
from data_prep.config import TokenizerConfig
from data_prep.tokenizer import save_tokenizer, train_wordpiece
from ponet import BertConfig, EncoderBatch, SequenceClassifier
from ponet.config import MLPMixerConfig
from ponet.config_fields import ProjectionConfig
from ponet.encoders.hashed import HashedWords
from ponet.hub.bits import rounded
from ponet.hub.cost import Cost, measure, text_reader
from ponet.hub.huggingface import SpecialTokens
from ponet.hub.modeling_ponet import make_batch
from ponet.hub.onnx_bits import pack_onnx
from ponet.hub.onnx_export import OnnxModel, open_session, run_session, write_onnx
from ponet.projection import WordFeatures
from ponet.projection.minhash import HashFamily, fingerprints
from ponet.tagger import Tagger

NUM_WORDS, PLACES, UTTERANCE, CLASSES, MEGABYTES = 1024, 64, 8, 137, 2.0
OURS, PUBLISHED = "ours", "counts over windows"
FAMILIES: tuple[HashFamily, ...] = ("sha-v1", "multiply-v1")
OPTIONS = {
    **DEVICE,
    "rounds": Option(9, ROUNDS, short=2),
    "graphs": Option(True, "utterances in onnxruntime too", short=False),
    "tokenizer": Option("", "tokenizer.json; empty: train one of 8192"),
}


class Dense(nn.Module):
    """The same layer by counts; `over_windows`: as published, else of distinct words."""

    def __init__(self, layer: HashedWords, *, over_windows: bool) -> None:
        super().__init__()
        self.size, self.places, self.width = layer.weight.shape
        self.over_windows, weight = over_windows, layer.weight.detach()
        form = weight.permute(1, 0, 2).flatten(0, 1) if over_windows else weight.flatten(1)
        self.weight, self.bias = nn.Parameter(form.clone()), nn.Parameter(layer.bias.detach())

    def forward(self, batch: EncoderBatch) -> Tensor:
        """Return (B, L, D)."""
        features, mask_BL1 = batch.word_features, batch.mask[..., None]
        assert features is not None
        words = features[batch.input_ids] if self.over_windows else features
        counts = torch.zeros(*words.shape[:-1], self.size)
        counts.scatter_add_(-1, words, torch.ones(()).expand(words.shape))
        window, length = self.places // 2, batch.mask.shape[1]
        if not self.over_windows:
            counts = (counts @ self.weight)[batch.input_ids]
        padded = F.pad(counts * mask_BL1, (0, 0, window, window))
        seen = [padded[:, place : place + length] for place in range(self.places)]
        if self.over_windows:
            return (torch.cat(seen, 2) * mask_BL1) @ self.weight + self.bias
        parts = [part.chunk(self.places, 2)[place] for place, part in enumerate(seen)]
        return torch.stack(parts).sum(0) * mask_BL1 + self.bias


def batches_of(words: list[str], features: WordFeatures) -> dict[str, EncoderBatch]:
    """Return 1,024 words in the three ways."""

    def batch(chosen: list[str], length: int) -> EncoderBatch:
        distinct = list(dict.fromkeys(chosen))
        ids = torch.tensor([distinct.index(word) for word in chosen]).view(-1, length)
        mask, ids = (F.pad(x, (0, PLACES - length)) for x in (torch.ones_like(ids), ids))
        made = torch.from_numpy(features(distinct).astype("i8"))
        return replace(make_batch(ids, mask, None, None, ()), word_features=made)

    different, running = list(dict.fromkeys(words))[:NUM_WORDS], words[:NUM_WORDS]
    return {"all different": batch(different, PLACES), "running text": batch(running, PLACES),
            "utterances": batch(running, UTTERANCE)}  # fmt: skip


def measure_layer(words: list[str], tokenizer: Tokenizer, options: Options) -> list[Row]:
    """Return seconds of every way to compute the layer, and how much faster ours is."""
    rows: list[Row] = []
    clock = Clock(device="cpu", threads=options.threads)
    layer = HashedWords(MLPMixerConfig.preset("base"))
    ways = {OURS: layer, "counts of words": Dense(layer, over_windows=False),
            PUBLISHED: Dense(layer, over_windows=True)}  # fmt: skip
    for case, batch in batches_of(words, WordFeatures(tokenizer, ProjectionConfig())).items():
        for way in ways.values():
            torch.testing.assert_close(way(batch), layer(batch), atol=1e-4, rtol=1e-4)
        steps = {name: _step(way, batch) for name, way in ways.items()}
        samples = run_rounds(steps, rounds=options.rounds, clock=clock)
        for name, own in samples.items():
            speed = ratio(own, samples[OURS], clock.deciding)
            row: Row = {"rival": name, "case": case, "s": times(own, clock.deciding)}
            distinct = len(batch.input_ids[batch.mask].unique())
            rows.append({**row, "ours_times_as_fast": speed, "distinct_words": distinct})
    return rows


def _step(layer: nn.Module, batch: EncoderBatch) -> Step:
    gradient = torch.randn_like(layer(batch))

    def step() -> None:
        layer.zero_grad(set_to_none=True)
        layer(batch).backward(gradient)

    return step


def measure_reading(words: list[str], tokenizer: Tokenizer, options: Options) -> Row:
    """Return words per second and thread, and seconds that the vocabulary's hashes take."""
    distinct, pieces = list(dict.fromkeys(words)), list(tokenizer.get_vocab())
    new, known = (WordFeatures(tokenizer, ProjectionConfig()) for _ in range(2))
    known(distinct)

    def seconds(step: Step) -> float:
        start = time.process_time()
        step()
        return time.process_time() - start

    def read_new() -> float:
        new.forget()
        new(distinct[:1])
        return len(distinct) / seconds(lambda: new(distinct))

    ways = {
        "new words": read_new,
        "new words, tokenising alone": lambda: len(distinct) / seconds(
            lambda: tokenizer.encode_batch(distinct)
        ),
        "running text, words known": lambda: len(words) / seconds(lambda: known(words)),
    }  # fmt: skip
    hashing = {
        family: seconds(lambda family=family: fingerprints(pieces, num_hashes=64, family=family))  # type: ignore[misc]
        for family in FAMILIES
    }
    rates = interleaved(ways, rounds=options.rounds)
    return {"distinct_words": len(distinct), "num_pieces": len(pieces), "vocabulary_s": hashing,
            "words_per_s": rates}  # fmt: skip


def linear_model(words: list[str]) -> Callable[[Any], object]:
    """Return TF-IDF of words and word pairs with linear support vectors, fitted to any labels."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    texts = [" ".join(words[n : n + 10]) for n in range(0, min(len(words), 20_000), 10)]
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LinearSVC())
    model.fit(texts, [number % CLASSES for number in range(len(texts))])
    return lambda text: model.predict([text])


def measure_utterances(words: list[str], tokenizer: Path, options: Options) -> dict[str, Row]:
    """Return milliseconds of one utterance of every model, and megabytes of its weights."""
    answers: dict[str, Callable[[], Cost]] = {}
    sizes: dict[str, float] = {}
    predict, read_plain = linear_model(words), lambda text: text
    answers["TF-IDF, linear model"] = lambda: measure(read_plain, predict)
    vocab_size = Tokenizer.from_file(str(tokenizer)).get_vocab_size()
    bert = BertConfig.preset("small", vocab_size=vocab_size)
    models: dict[str, nn.Module] = {"BERT small": SequenceClassifier(bert, num_labels=CLASSES)}
    for name in ("x_small", "base"):
        models[f"pNLP-Mixer {name}"] = Tagger(MLPMixerConfig.preset(name), num_tags=CLASSES)
    with tempfile.TemporaryDirectory() as folder:
        for name, model in models.items():
            read = text_reader(model.eval().encoder.config, tokenizer)  # type: ignore[arg-type, union-attr]
            answers[name] = lambda read=read, model=model: measure(read, model)  # type: ignore[misc]
            sizes[name] = 4e-6 * sum(value.numel() for value in model.parameters())
            for bits in (32, 8) if options.graphs and isinstance(model, Tagger) else ():
                label = f"{name}, ONNX {bits} bit"
                form, path = model if bits == 32 else rounded(model), Path(folder) / label
                live = OnnxModel(form, SpecialTokens(cls_token_id=0, sep_token_id=0))
                write_onnx(live, path)
                if bits == 8:
                    pack_onnx(path)
                session, sizes[label] = open_session(path, threads=1), path.stat().st_size / 1e6
                run = lambda batch, s=session, m=live: run_session(s, m.inputs(batch))  # noqa: E731
                answers[label] = lambda read=read, run=run: measure(read, run)  # type: ignore[misc]
    found = in_rounds(answers, options.rounds)
    return {
        name: {"megabytes": sizes.get(name),
               **{key: spread([getattr(cost, key) for cost in costs]) for key in Cost._fields}}
        for name, costs in found.items()
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    options = report.parse(__doc__, OPTIONS, arguments)
    texts = [text for batch in read_batches("", MEGABYTES) for text in batch]
    words = [word for text in texts for word in re.findall(r"\w+|[^\w\s]", text)]
    options.output.mkdir(parents=True, exist_ok=True)
    path = Path(options.tokenizer or options.output / "projection_tokenizer.json")
    if not options.tokenizer:
        save_tokenizer(train_wordpiece(lambda: texts, TokenizerConfig(vocab_size=8192)), path)
    tokenizer = Tokenizer.from_file(str(path))
    rows = measure_layer(words, tokenizer, options)
    utterances = measure_utterances(words, path, options)
    targets = [
        report.target(f"hashed words, {NUM_WORDS} words, {row['case']}: x {PUBLISHED}",
                      row["ours_times_as_fast"]["median"], at_least=10)
        for row in rows if row["rival"] == PUBLISHED
    ]  # fmt: skip
    reading = measure_reading(words, tokenizer, options)
    content = {"targets": targets, "rows": rows, "reading": reading, "utterances": utterances}
    report.finish("projection", content, options)
    panels: dict[str, Any] = {f"layer, {row['case']}": {"": {}} for row in rows}
    for row in rows:
        panels[f"layer, {row['case']}"][""][row["rival"]] = spread(
            [1e3 * s for s in row["s"]["all"]]
        )
    panels["one utterance"] = {
        part: {name: row[f"{part}_ms"] for name, row in utterances.items()}
        for part in ("reading", "network")
    }
    report.bar_chart(panels, options.output / "projection.png", unit="milliseconds")


if __name__ == "__main__":
    main()
