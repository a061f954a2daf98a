"""What a build made, for a reader who wants to trust it: its summary, and a look into a folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.command import counted
from data_prep.manifest import TOKENIZER_NAME, Manifest
from data_prep.readers import BLANK_LINE, INVALID_UTF8, WIDE_FILES, left_out_words
from data_prep.shards import TokenShards
from data_prep.sources import LEFT_OUT
from data_prep.tables import DAMAGED_LINES

BAR_WIDTH = 40
MAX_PAIRS = 20_000
MAX_SENTENCES = 2_000_000
COMMON_IDS = 200
ORDER_RATIO = 1.15
"""Adjacent sentences of running text share clearly more rare ids than random pairs."""
_DROPPED = {
    "documents_empty": "empty document(s)",
    "documents_short": "short document(s)",
    "documents_duplicate": "duplicate document(s)",
    "documents_over_limit": "document(s) over the limit",
    "documents_without_tokens": "document(s) without tokens",
    "sentences_without_tokens": "sentence(s) without tokens",
    "headings_dropped": "heading(s)",
    "damaged_rows": "damaged row(s)",
    DAMAGED_LINES: "line(s) in damaged rows of several lines",
    "truncated_files": "damaged file(s)",
    WIDE_FILES: "file(s) in UTF-16 or UTF-32",
    "packages_missing": "package(s) not installed",
    "modules_too_large": "too large module(s)",
    "modules_unreadable": "unreadable module(s)",
}
_REPLACED = {INVALID_UTF8: "byte(s) outside UTF-8"}
_REPAIRED = {
    "byte_order_marks": "byte order mark(s)",
    "carriage_returns": "carriage return(s)",
    "control_characters": "control character(s)",
    "lone_surrogates": "lone surrogate(s)",
    "unicode_line_separators": "Unicode line separator(s)",
    "special_tokens_neutralised": "special token(s)",
    "documents_unicode_normalised": "document(s) in another Unicode form",
    "documents_cut": "document(s) cut for length",
}
MOST_UNKNOWN = 0.05
MOST_MARKS_LOST = 0.01


def summary_lines(manifest: Manifest) -> Iterator[str]:
    """Yield what every split holds, what was read and left out, then a note for each doubt."""
    for split, counts in sorted(manifest.splits.items()):
        yield (
            f"{split}: {counted(counts.documents, 'document(s)')}, "
            f"{counted(counts.sentences, 'sentence(s)')}, {counted(counts.tokens, 'token(s)')}"
        )
    counters = Counter(manifest.counters)
    files = sum(len(source.get("files", ())) for source in manifest.sources)
    places = f" in {counted(files, 'file(s)')}" if files else ""
    parts = [counted(counters["documents_read"], "document(s)") + places]
    titles = {"dropped": _DROPPED, "replaced": _REPLACED, "repaired": _REPAIRED}
    for title, names in titles.items():
        found = [counted(counters[k], text) for k, text in names.items() if counters[k]]
        if found:
            parts.append(f"{title}: {', '.join(found)}")
    yield f"read: {'; '.join(parts)}"
    if left_out := _named(LEFT_OUT, counters):
        yield f"left out: {left_out_words(left_out)}"
    for note in (_encoding_notes, _row_notes, _separator_notes, _token_notes, _split_notes):
        yield from (f"note: {text}" for text in note(manifest, counters))


def _named(start: str, counters: Counter[str]) -> Counter[str]:
    """Return the counters whose names start so, by the rest of their names."""
    found = {name.removeprefix(start): n for name, n in counters.items() if name.startswith(start)}
    return Counter(found)


def _encoding_notes(_: Manifest, counters: Counter[str]) -> Iterator[str]:
    if files := _named(f"{INVALID_UTF8}: ", counters):
        worst = sorted(files, key=lambda name: (-files[name], name))[:3]
        names = ", ".join(f"{name} ({files[name]:,})" for name in worst)
        more = f" and {len(files) - 3:,} more" if len(files) > 3 else ""
        yield (
            f"{files.total():,} bytes are not UTF-8 and were replaced: {names}{more}. What stands "
            "in their place (U+FFFD) is left out by the tokenizers that are built here and BERT's, "
            "so that words lack letters. Convert these files, for example with `iconv -f LATIN1 "
            "-t UTF-8`, and build again."
        )
    if files := _named(f"{WIDE_FILES}: ", counters):
        names = ", ".join(sorted(files)[:3])
        more = f" and {len(files) - 3:,} more" if len(files) > 3 else ""
        yield (
            f"files in UTF-16 or UTF-32 were left out: {names}{more}. Convert them, for example "
            "with `iconv -f UTF-16 -t UTF-8`."
        )


def _row_notes(manifest: Manifest, counters: Counter[str]) -> Iterator[str]:
    quotes = {source.get("quotes", "csv") for source in manifest.settings.get("sources", ())}
    if counters[DAMAGED_LINES] and "csv" in quotes:
        yield (
            f"{counters[DAMAGED_LINES]:,} lines of tables were left out in damaged rows of several "
            "lines: a double quote that is not closed takes the lines behind it into its row. "
            "Where quotes are characters of the text, build with --source.quotes none."
        )


def _separator_notes(manifest: Manifest, counters: Counter[str]) -> Iterator[str]:
    read = manifest.settings.get("sources", ())
    wanted = [source.get("document_separator", "") for source in read]
    if any(wanted) and not counters["separator_lines"]:
        names = ", ".join(filter(None, wanted)).replace(BLANK_LINE, "an empty line")
        yield (
            f"document_separator ({names}) stands on no line of any .txt file, so that every "
            "file is one document. It must be a whole line; for empty lines write blank_line."
        )
    if counters["wikiextractor_lines"] and "</doc>" not in wanted:
        yield (
            f"{counters['wikiextractor_lines']:,} lines such as <doc id=...> of WikiExtractor were "
            "read as text; give --source.document_separator '</doc>' to part documents there."
        )


def _token_notes(manifest: Manifest, counters: Counter[str]) -> Iterator[str]:
    tokens = sum(split.tokens for split in manifest.splits.values())
    unknown = counters["tokens_unknown"] / max(tokens, 1)
    if unknown > MOST_UNKNOWN:
        yield (
            f"{unknown:.0%} of the tokens are [UNK]: the tokenizer does not know this text's "
            "characters; enlarge tokenizer.alphabet_size and vocab_size, or load another."
        )
    lost = counters["sampled_marks_lost"] / max(counters["sampled_characters"], 1)
    if lost > MOST_MARKS_LOST:
        yield (
            f"the tokenizer drops accents, umlauts or vowel signs: {lost:.0%} of the characters, "
            "and words that differ in them alone become one. --tokenizer.strip_accents false keeps "
            "them."
        )


def _split_notes(manifest: Manifest, _: Counter[str]) -> Iterator[str]:
    counts = {name: split.documents for name, split in manifest.splits.items()}
    validation, total = counts.get("validation", 0), sum(counts.values())
    if "validation_fraction" not in manifest.settings:
        return
    if not validation and not manifest.settings["validation_fraction"]:
        yield (
            "there is no validation split (validation_fraction 0), which pretraining needs: build "
            "with --validation_fraction 0.01 or more to train on these shards."
        )
    elif not validation:
        yield (
            "all text is one document, so that there is no validation split, which pretraining "
            "needs: part it into documents (--source.document_separator blank_line, or a line such "
            "as ***), or add files."
        )
    elif min(counts.values()) < 2:
        yield (
            f"of {total} documents {validation} validate, and pair objectives (mlm_sso, mlm_nsp) "
            "need two on either side: add documents, or part them (--source.document_separator); "
            "the objective mlm needs one."
        )


def inspect_lines(folder: str | Path, *, num_samples: int = 5) -> Iterator[str]:
    """Yield the lines of the report on a shard folder, with so many decoded samples."""
    manifest = Manifest.load(folder)
    info = manifest.tokenizer
    yield f"{folder}"
    yield (
        f"tokenizer   {info.vocab_size:,} entries, {'lowercased' if info.lowercase else 'cased'}, "
        f"digest {info.digest[:12]}"
    )
    yield from summary_lines(manifest)
    totals = [f"{name} {n:,}" for name, n in manifest.counters.items() if ": " not in name]
    if totals:
        yield f"counters    {', '.join(totals)}"
    shards = TokenShards.open(folder, "train")
    yield _ids_line(shards)
    borders = shards.sentence_offsets[shards.document_offsets]
    yield from _histogram_lines("tokens per sentence", np.diff(shards.sentence_offsets))
    yield from _histogram_lines("tokens per document", np.diff(borders))
    yield from _histogram_lines("sentences per document", np.diff(shards.document_offsets))
    share, looked_at = _duplicate_share(shards)
    yield ""
    yield f"duplicate sentences: {share:.1%} of {looked_at:,} (equal to an earlier one)"
    yield order_line(shards)
    yield from _sample_lines(shards, num_samples)


def _ids_line(shards: TokenShards) -> str:
    counts = shards.token_counts
    unknown = int(counts[shards.manifest.tokenizer.unk_id])
    used = int(np.count_nonzero(counts))
    share = unknown / max(shards.num_tokens, 1)
    first = shards.tokens[shards.sentence_offsets[shards.document_offsets[:-1]]]
    begun = int(np.count_nonzero(shards.is_continuation[first]))  # nothing stands before these
    words = shards.num_tokens - int(counts[shards.is_continuation].sum()) + begun
    return (
        f"ids         {used:,} of {counts.size:,} entries occur, [UNK] {share:.3%}, "
        f"{shards.num_tokens / max(words, 1):.2f} tokens per word"
    )


def _histogram_lines(title: str, values: npt.NDArray[Any]) -> Iterator[str]:
    """Yield a histogram over powers of two, with quantiles."""
    if values.size == 0:
        return
    quantiles = np.quantile(values, [0.01, 0.1, 0.5, 0.9, 0.99]).astype(int)
    names = ("1%", "10%", "median", "90%", "99%")
    summary = ", ".join(f"{name} {value:,}" for name, value in zip(names, quantiles, strict=True))
    yield ""
    yield f"{title}: mean {values.mean():,.1f}, {summary}, max {values.max():,}"
    bins = np.floor(np.log2(np.maximum(values, 1))).astype(int)
    counts = np.bincount(bins)
    for power in range(int(bins.min()), counts.size):
        bar = "#" * int(round(BAR_WIDTH * counts[power] / counts.max()))
        yield (
            f"  {2**power:>9,} - {2 ** (power + 1) - 1:<9,} {counts[power] / values.size:>6.1%} "
            f"{bar}"
        )


def _duplicate_share(shards: TokenShards) -> tuple[float, int]:
    """Return the share of sentences equal to an earlier one, and how many were looked at."""
    count = min(shards.num_sentences, MAX_SENTENCES)
    seen: set[int] = set()
    tokens, offsets = shards.tokens, shards.sentence_offsets[: count + 1]
    data = np.asarray(tokens[: int(offsets[-1])]).tobytes()
    borders = (offsets * tokens.itemsize).tolist()
    for start, end in zip(borders[:-1], borders[1:], strict=True):
        seen.add(hash(data[start:end]))
    return 1 - len(seen) / max(count, 1), count


def _order_overlaps(shards: TokenShards) -> tuple[float, float, int]:
    """Return the overlap of adjacent sentences, that of random ones of the same document, pairs.

    Overlap is the share of the shorter sentence's rarer ids (all but the `COMMON_IDS` most
    frequent) found in the other. Comparing within documents keeps the topic equal, so that only
    the order counts.
    """
    generator = np.random.default_rng(0)
    document_lens = np.diff(shards.document_offsets)
    long_enough = np.flatnonzero(document_lens >= 8)
    if not long_enough.size:
        return 0.0, 0.0, 0
    documents = generator.choice(long_enough, MAX_PAIRS)
    lens, start = document_lens[documents], shards.document_offsets[documents]
    first = start + generator.integers(0, lens - 1)
    other = start + (first - start + generator.integers(3, lens - 3)) % lens
    common_ids = min(COMMON_IDS, shards.token_counts.size // 10)
    common = set(np.argsort(shards.token_counts)[::-1][:common_ids].tolist())
    pairs = [
        (_overlap(shards, here, here + 1, common), _overlap(shards, here, there, common))
        for here, there in zip(first.tolist(), other.tolist(), strict=True)
    ]
    found = [pair for pair in pairs if None not in pair]
    adjacent, distant = np.array(found or [(0.0, 0.0)], float).mean(axis=0).tolist()
    return adjacent, distant, len(found)


def _overlap(shards: TokenShards, a: int, b: int, common: set[int]) -> float | None:
    offsets = shards.sentence_offsets
    one, other = (
        set(shards.tokens[int(offsets[i]) : int(offsets[i + 1])].tolist()) - common for i in (a, b)
    )
    size = min(len(one), len(other))
    return len(one & other) / size if size >= 2 else None


def order_line(shards: TokenShards) -> str:
    """Return the verdict on the order of sentences."""
    adjacent, distant, pairs = _order_overlaps(shards)
    if pairs < 50:
        return "sentence order: too few documents of eight sentences or more to judge"
    ratio = adjacent / max(distant, 1e-9)
    if ratio >= ORDER_RATIO:
        verdict = "looks like running text"
    else:
        verdict = "LOOKS SHUFFLED: sentence-order objectives would learn nothing from it"
    return (
        f"sentence order: neighbours share {adjacent:.1%} of their rarer ids, other sentences of "
        f"the same document {distant:.1%} ({ratio:.2f} times, {pairs:,} pairs): {verdict}"
    )


def _sample_lines(shards: TokenShards, num_samples: int) -> Iterator[str]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(shards.folder / TOKENIZER_NAME))
    generator = np.random.default_rng(0)
    count = min(num_samples, shards.num_documents)
    documents = sorted(generator.choice(shards.num_documents, count, replace=False).tolist())
    for document in documents:
        start, end = (int(i) for i in shards.document_offsets[document : document + 2])
        first = start + int(generator.integers(0, max(end - start - 3, 1)))
        yield ""
        yield f"document {document:,}, sentences {first - start + 1:,} ... of {end - start:,}:"
        for sentence in range(first, min(first + 4, end)):
            left, right = (int(i) for i in shards.sentence_offsets[sentence : sentence + 2])
            text = tokenizer.decode(shards.tokens[left:right].tolist(), skip_special_tokens=False)
            yield f"  | {text if len(text) <= 300 else text[:300] + ' ...'}"
