"""Speed of data preparation beside `tokenizers.encode_batch` alone on the same text and cores.

Both are measured in turn, several times in one run, in worker processes of one core each.
`python benchmarks/data_prep.py [--text FILES]` writes a JSON file and a plot.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

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
from data_prep.python_docs import module_document  # noqa: E402
from data_prep.sentences import split_sentences  # noqa: E402
from data_prep.sources import iterate_chunks  # noqa: E402
from data_prep.tokenizer import save_tokenizer, train_wordpiece  # noqa: E402
from data_prep.workers import encode_documents  # noqa: E402

LABELS = {
    "encode_batch": "tokenizers.encode_batch alone (documents)",
    "encode_batch_fast": "tokenizers.encode_batch_fast alone",
    "tokenise": "our sentences to ids",
    "split_and_tokenise": "our whole stage: documents to sentences to ids",
    "clean_and_hash": "our cleaning and hashing",
}
_STATE: dict[str, Any] = {}


def start(tokenizer_json: str) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from tokenizers import Tokenizer

    _STATE["tokenizer"] = Tokenizer.from_file(tokenizer_json)
    _STATE["path"] = tokenizer_json


def run(name: str, documents: list[str]) -> tuple[float, int, int]:
    """Return seconds, characters and tokens of one kind of work; a fresh word table each time."""
    begin = time.perf_counter()
    tokens = 0
    if name.startswith("encode_batch"):
        encode = getattr(_STATE["tokenizer"], name)
        for first in range(0, len(documents), 64):
            found = encode(documents[first : first + 64], add_special_tokens=False)
            tokens += sum(len(item.ids) for item in found)
    elif name == "clean_and_hash":
        counters: Counter[str] = Counter()
        for text in documents:
            document_hash(clean_document(text, CleaningConfig(), counters))
    else:
        encoder = SentenceEncoder(_STATE["path"])
        config, counters = SentencesConfig(), Counter()
        if name == "tokenise":
            split = [split_sentences(text, config, counters) for text in documents]
            begin = time.perf_counter()
            tokens = encoder.encode([text for item in split for text in item])[0].size
        else:
            tokens = encode_documents(documents, encoder, config, counters)["tokens"].size
    return time.perf_counter() - begin, sum(map(len, documents)), int(tokens)


def read_text(path: str, megabytes: float) -> list[str]:
    documents: list[str] = []
    counters: Counter[str] = Counter()
    size = 0
    source = LocalSource(path=path) if path else PythonDocsSource(packages=("stdlib", "torch"))
    for chunk in iterate_chunks(source, 1_000_000):
        modules = (module_document(Path(name), counters) for name in chunk.modules)
        for raw in [*chunk.documents, *modules]:
            text = clean_document(raw, CleaningConfig(), counters)
            documents.append(text)
            size += len(text)
            if size >= megabytes * 1e6:
                return documents
    return documents


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
                seconds = max(result[0] for result in results)
                rates[name].append(sum(result[1] for result in results) / seconds / 1e6)
                tokens[name] = sum(result[2] for result in results)
    if len({tokens[name] for name in LABELS if tokens[name]}) != 1:
        raise SystemExit(f"the ways disagree on the number of tokens: {tokens}")
    return {"rates": rates, "tokens": tokens["tokenise"]}


def plot(medians: dict[str, float], rates: dict[str, list[float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3.2))
    names = list(medians)[::-1]
    axes.barh([LABELS[name] for name in names], [medians[name] for name in names], color="#4878a8")
    for row, name in enumerate(names):
        axes.plot(rates[name], [row] * len(rates[name]), "k.", markersize=4)
        axes.text(max(rates[name]) * 1.02, row, f"{medians[name]:.1f}", va="center")
    axes.set_xlabel("million characters per second, all cores (dots: single runs)")
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", default="", help="file, folder or glob; empty: Python's docs")
    parser.add_argument("--short", action="store_true", help="1.5 MB of text, one repeat")
    parser.add_argument("--tokenizer", default="", help="tokenizer.json; empty: train one of 8192")
    parser.add_argument("--megabytes", type=float, default=16.0, help="text to measure on")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cores", type=int, default=available_cores())
    parser.add_argument("--output", default="benchmarks/results/data_prep.json")
    options = parser.parse_args()
    if options.short:
        options.megabytes, options.repeats = 1.5, 1
    from _common import machine, save

    output = Path(options.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    documents = read_text(options.text, options.megabytes)
    tokenizer_json = Path(options.tokenizer or output.with_name("data_prep_tokenizer.json"))
    if not options.tokenizer:
        config = TokenizerConfig(vocab_size=8192)
        save_tokenizer(train_wordpiece(lambda: documents[::4], config), tokenizer_json)
    found = measure(documents, tokenizer_json, options.cores, options.repeats)
    medians = {name: statistics.median(values) for name, values in found["rates"].items()}
    base = medians["encode_batch"]
    print(f"{options.cores} cores, {sum(map(len, documents)) / 1e6:.1f} million characters")
    for name, rate in medians.items():
        print(f"{LABELS[name]:<48} {rate:8.2f} MB/s   {rate / base:6.2f} x encode_batch")
    result = {
        "machine": machine(),
        "cores": options.cores,
        "million_characters": sum(map(len, documents)) / 1e6,
        "tokens": found["tokens"],
        "mb_per_s": found["rates"],
        "median_mb_per_s": medians,
        "stage_over_encode_batch": medians["split_and_tokenise"] / base,
    }
    save(output.stem, result, output.parent)
    plot(medians, found["rates"], output.with_suffix(".png"))
    return 0 if result["stage_over_encode_batch"] >= 0.9 else 1


if __name__ == "__main__":
    sys.exit(main())
