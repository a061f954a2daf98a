"""Speed of data preparation beside the `tokenizers` library alone, per core, on the same text.

    python -m benchmarks.text [--text FILES] [--tokenizer JSON]

All ways are measured in turn, several times in one run, by the CPU time of worker processes that
use one thread each. With `--verify` nothing is measured: the ids of every sentence of the text are
compared with those that the library gives to the whole sentence.
"""

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.harness import interleaved
from benchmarks.report import Option, Options
from data_prep.config import (
    CleaningConfig,
    LocalSource,
    PythonDocsSource,
    SentencesConfig,
    TokenizerConfig,
)
from data_prep.pool import available_cores
from data_prep.python_docs import code_prose
from data_prep.sentences import split_sentences
from data_prep.sources import iterate_chunks
from data_prep.tokenizer import save_tokenizer, train_wordpiece
from data_prep.words import SentenceEncoder
from data_prep.workers import clean_document, document_hash, encode_documents

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
OPTIONS = {
    "text": Option("", "file, folder or glob; empty: Python's docs"),
    "verify": Option(False, "compare all ids, measure nothing"),
    "tokenizer": Option("", "tokenizer.json; empty: train one of 8192"),
    "megabytes": Option(16.0, "text to take; 0: all of it", short=1.5),
    "repeats": Option(3, short=1),
    "cores": Option(available_cores()),
}
_STATE: dict[str, Any] = {}


def start(tokenizer_json: str) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from tokenizers import Tokenizer

    _STATE["tokenizer"] = Tokenizer.from_file(tokenizer_json)
    _STATE["tokenizer"].encode_special_tokens = True
    _STATE["path"] = tokenizer_json


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
    encoder = SentenceEncoder.from_file(_STATE["path"])
    texts = sentences_of(documents) if "sentences" in name or "tokenise" in name else documents
    if name == "tokenise_known":
        encoder.encode(texts)
    begin = time.process_time()
    if name.startswith("encode_batch"):
        tokens = sum(map(len, library_ids(texts, name.removesuffix("_sentences"))))
    elif name.startswith("tokenise"):
        tokens = encoder.encode(texts)[0].size
    elif name == "split":
        sentences_of(documents)
    if name in ("clean_and_hash", "whole"):
        for text in documents:
            document_hash(clean_document(text, CleaningConfig(), Counter()))
    if name in ("split_and_tokenise", "whole"):
        tokens = encode_documents(documents, encoder, SentencesConfig(), Counter())["tokens"].size
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


def measure(documents: list[str], tokenizer_json: Path, options: Options) -> dict[str, Any]:
    """Return the rates of every way in million characters per second and core."""
    cores, tokens = options.cores, dict[str, int]()
    shares = [documents[index::cores] for index in range(cores)]
    started = {"initializer": start, "initargs": (str(tokenizer_json),)}
    with ProcessPoolExecutor(cores, get_context("spawn"), **started) as pool:  # type: ignore[arg-type]

        def rate(name: str) -> float:
            results = list(pool.map(run, [name] * cores, shares))
            seconds, chars, found = (sum(column) for column in zip(*results, strict=True))
            tokens[name] = found
            return float(chars / seconds / 1e6)

        ways = {name: lambda name=name: rate(name) for name in LABELS}
        rates = interleaved(ways, rounds=options.repeats)
    if len({count for count in tokens.values() if count}) != 1:
        raise SystemExit(f"the ways disagree on the number of tokens: {tokens}")
    return {"tokens": tokens["tokenise"], "mb_per_s_and_core": rates}


def verify(options: Options, tokenizer_json: Path) -> int:
    """Return 0 if every sentence has the ids that the library gives to it as a whole."""
    start(str(tokenizer_json))
    encoder = SentenceEncoder.from_file(tokenizer_json)
    sentences = tokens = chars = wrong = 0
    for documents in read_batches(options.text, options.megabytes):
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if the claim holds, or with `--verify` if all ids are the library's."""
    options = report.parse(__doc__, OPTIONS, arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    tokenizer_json = Path(options.tokenizer or options.output / "text_tokenizer.json")
    if not options.tokenizer:
        size = min(4.0, options.megabytes or 4.0)
        sample = [text for batch in read_batches(options.text, size) for text in batch]
        trained = train_wordpiece(lambda: sample, TokenizerConfig(vocab_size=8192))
        save_tokenizer(trained, tokenizer_json)
    if options.verify:
        return verify(options, tokenizer_json)
    documents = [text for batch in read_batches(options.text, options.megabytes) for text in batch]
    found = measure(documents, tokenizer_json, options)
    rates = found["mb_per_s_and_core"]
    medians = {name: values["median"] for name, values in rates.items()}
    claim = "documents to sentences to ids / library alone (encode_batch_fast, documents)"
    measured = medians["split_and_tokenise"] / medians["encode_batch_fast"]
    targets = [report.target(claim, measured, at_least=1.0)]
    found |= {"million_characters": sum(map(len, documents)) / 1e6, "targets": targets}
    found |= {"median_mb_per_s_and_core": medians}
    report.finish("text", found, options)
    panels = {"Data preparation": {"median": {LABELS[name]: rates[name] for name in rates}}}
    report.bar_chart(
        panels, options.output / "text.png", unit="million characters per second and core"
    )
    return int(not targets[0]["met"])


if __name__ == "__main__":
    sys.exit(main())
