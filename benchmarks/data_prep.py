"""Speed of data preparation beside the `tokenizers` library alone, per core, on the same text.

All are measured in turn, several times in one run, by the CPU time of worker processes that use
one thread each. `python benchmarks/data_prep.py [--text FILES] [--tokenizer JSON]` writes a JSON
file and a plot. With `--verify` nothing is measured: the ids of every sentence of the text are
compared with those that the library gives to the whole sentence.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

_HERE = str(Path(__file__).resolve().parent)
# This file is named like the package it measures: its folder must come after the repository root.
sys.path[:] = [
    str(Path(_HERE).parent),
    *(entry for entry in sys.path if str(Path(entry or ".").resolve()) != _HERE),
    _HERE,
]

from data_prep.cleaning import clean_document, document_hash  # noqa: E402
from data_prep.config import (  # noqa: E402
    CleaningConfig,
    LocalSource,
    PythonDocsSource,
    SentencesConfig,
    TokenizerConfig,
)
from data_prep.encoding import SentenceEncoder  # noqa: E402
from data_prep.pool import available_cores  # noqa: E402
from data_prep.python_docs import code_prose  # noqa: E402
from data_prep.sentences import split_sentences  # noqa: E402
from data_prep.sources import iterate_chunks  # noqa: E402
from data_prep.tokenizer import save_tokenizer, train_wordpiece  # noqa: E402
from data_prep.workers import encode_documents  # noqa: E402

LABELS = {
    "encode_batch": "library, encode_batch, documents",
    "encode_batch_fast": "library, encode_batch_fast, documents",
    "encode_batch_fast_sentences": "library, encode_batch_fast, sentences",
    "tokenise": "ours, sentences to ids, new table",
    "tokenise_known": "ours, sentences to ids, table of the same text",
    "split": "ours, documents to sentences",
    "split_and_tokenise": "ours, documents to sentences to ids",
    "clean_and_hash": "ours, cleaning and hashing",
    "whole": "ours, cleaning, hashing, sentences, ids",
}
_STATE: dict[str, Any] = {}


def start(tokenizer_json: str) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from tokenizers import Tokenizer

    _STATE["tokenizer"] = Tokenizer.from_file(tokenizer_json)
    _STATE["tokenizer"].encode_special_tokens = True
    _STATE["path"] = tokenizer_json


def clean_and_hash(documents: list[str]) -> None:
    counters: Counter[str] = Counter()
    for text in documents:
        document_hash(clean_document(text, CleaningConfig(), counters))


def sentences_of(documents: list[str]) -> list[str]:
    config, counters = SentencesConfig(), Counter[str]()
    return [item for text in documents for item in split_sentences(text, config, counters)]


def library_ids(texts: list[str], kind: str = "encode_batch_fast") -> Iterator[list[int]]:
    encode = getattr(_STATE["tokenizer"], kind)
    for first in range(0, len(texts), 64):
        found = encode(texts[first : first + 64], add_special_tokens=False)
        yield from (item.ids for item in found)


def run(name: str, documents: list[str]) -> tuple[float, int, int]:
    """Return CPU seconds, characters and tokens of one kind of work."""
    tokens = 0
    encoder = SentenceEncoder(_STATE["path"])
    texts = sentences_of(documents) if "sentences" in name or "tokenise" in name else documents
    if name == "tokenise_known":
        encoder.encode(texts)
    begin = time.process_time()
    if name.startswith("encode_batch"):
        kind = name.removesuffix("_sentences")
        tokens = sum(map(len, library_ids(texts, kind)))
    elif name.startswith("tokenise"):
        tokens = encoder.encode(texts)[0].size
    elif name == "split":
        sentences_of(documents)
    if name in ("clean_and_hash", "whole"):
        clean_and_hash(documents)
    if name in ("split_and_tokenise", "whole"):
        found = encode_documents(documents, encoder, SentencesConfig(), Counter())
        tokens = found["tokens"].size
    return time.process_time() - begin, sum(map(len, documents)), int(tokens)


def read_batches(path: str, megabytes: float) -> Iterator[list[str]]:
    """Yield clean documents in lists of about a million characters; 0 megabytes: all there are."""
    counters: Counter[str] = Counter()
    size = 0
    source = LocalSource(path=path) if path else PythonDocsSource(packages=("stdlib", "torch"))
    for chunk in iterate_chunks(source, 1_000_000):
        modules = (code_prose(code, counters) for code in chunk.code)
        documents: list[str] = []
        for raw in [*chunk.documents, *modules]:
            documents.append(clean_document(raw, CleaningConfig(), counters))
            size += len(documents[-1])
            if megabytes and size >= megabytes * 1e6:
                yield documents
                return
        yield documents


def measure(documents: list[str], tokenizer_json: Path, cores: int, repeats: int) -> dict[str, Any]:
    shares = [documents[index::cores] for index in range(cores)]
    rates: dict[str, list[float]] = {name: [] for name in LABELS}
    tokens: dict[str, int] = {}
    pool = ProcessPoolExecutor(
        cores, get_context("spawn"), initializer=start, initargs=(str(tokenizer_json),)
    )
    with pool:
        for _ in range(repeats):
            for name in LABELS:
                results = list(pool.map(run, [name] * cores, shares))
                seconds = sum(result[0] for result in results)
                rates[name].append(sum(result[1] for result in results) / seconds / 1e6)
                tokens[name] = sum(result[2] for result in results)
    if len({count for count in tokens.values() if count}) != 1:
        raise SystemExit(f"the ways disagree on the number of tokens: {tokens}")
    return {"rates": rates, "tokens": tokens["tokenise"]}


def verify(path: str, megabytes: float, tokenizer_json: Path) -> int:
    """Return 0 if every sentence has the ids that the library gives to it as a whole."""
    start(str(tokenizer_json))
    encoder = SentenceEncoder(tokenizer_json)
    sentences = tokens = chars = wrong = 0
    for documents in read_batches(path, megabytes):
        texts = sentences_of(documents)
        ids, lens = encoder.encode(texts)
        ends = np.cumsum(lens)
        for text, end, length, expected in zip(texts, ends, lens, library_ids(texts), strict=True):
            if ids[end - length : end].tolist() != expected:
                wrong += 1
                print(f"another result: {text[:200]!r}")
        sentences, tokens = sentences + len(texts), tokens + int(ids.size)
        chars += sum(map(len, documents))
    print(
        f"{chars / 1e6:.1f} million characters, {sentences} sentences, {tokens} tokens: "
        f"{wrong} sentences differ from the library"
    )
    return int(wrong > 0)


def plot(medians: dict[str, float], rates: dict[str, list[float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 4.2))
    names = list(medians)[::-1]
    axes.barh([LABELS[name] for name in names], [medians[name] for name in names], color="#4878a8")
    for row, name in enumerate(names):
        axes.plot(rates[name], [row] * len(rates[name]), "k.", markersize=4)
        axes.text(max(rates[name]) * 1.02, row, f"{medians[name]:.1f}", va="center")
    axes.set_xlabel("million characters per second and core (dots: single runs)")
    axes.margins(x=0.1)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def parse() -> argparse.Namespace:
    from _common import RESULTS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", default="", help="file, folder or glob; empty: Python's docs")
    parser.add_argument("--short", action="store_true", help="1.5 MB of text, one repeat")
    parser.add_argument("--verify", action="store_true", help="compare all ids, measure nothing")
    parser.add_argument("--tokenizer", default="", help="tokenizer.json; empty: train one of 8192")
    parser.add_argument("--megabytes", type=float, default=16.0, help="text to take; 0: all of it")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cores", type=int, default=available_cores())
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder")
    options = parser.parse_args()
    if options.short:
        options.megabytes, options.repeats = 1.5, 1
    return options


def summary(found: dict[str, Any], documents: list[str], cores: int) -> dict[str, Any]:
    from _common import machine
    from _targets import target

    medians = {name: statistics.median(values) for name, values in found["rates"].items()}
    stage, library = medians["split_and_tokenise"], medians["encode_batch_fast"]
    return {
        "machine": machine(),
        "cores": cores,
        "million_characters": sum(map(len, documents)) / 1e6,
        "tokens": found["tokens"],
        "mb_per_s_and_core": found["rates"],
        "median_mb_per_s_and_core": medians,
        "stage_over_encode_batch": stage / medians["encode_batch"],
        "stage_over_encode_batch_fast": stage / library,
        "targets": [
            target(
                "documents to sentences to ids / library alone (encode_batch_fast, documents)",
                stage / library,
                at_least=1.0,
            )
        ],
    }


def main() -> int:
    options = parse()
    from _common import save
    from _targets import targets_table

    options.output.mkdir(parents=True, exist_ok=True)
    tokenizer_json = Path(options.tokenizer or options.output / "data_prep_tokenizer.json")
    if not options.tokenizer:
        size = min(4.0, options.megabytes or 4.0)
        sample = [text for batch in read_batches(options.text, size) for text in batch]
        trained = train_wordpiece(lambda: sample, TokenizerConfig(vocab_size=8192))
        save_tokenizer(trained, tokenizer_json)
    if options.verify:
        return verify(options.text, options.megabytes, tokenizer_json)
    documents = [text for batch in read_batches(options.text, options.megabytes) for text in batch]
    found = measure(documents, tokenizer_json, options.cores, options.repeats)
    result = summary(found, documents, options.cores)
    medians = result["median_mb_per_s_and_core"]
    print(f"{options.cores} cores, {result['million_characters']:.1f} million characters")
    for name, rate in medians.items():
        ratio = rate / medians["encode_batch_fast"]
        print(f"{LABELS[name]:<48} {rate:8.2f} MB/s and core   {ratio:6.2f} x encode_batch_fast")
    print(targets_table(result["targets"]))
    print(save("data_prep", result, options.output))
    plot(medians, found["rates"], options.output / "data_prep.png")
    return 0 if all(entry["met"] for entry in result["targets"]) else 1


if __name__ == "__main__":
    sys.exit(main())
