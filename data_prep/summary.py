"""What a finished build says: what was read, dropped, repaired, left out, and what is in doubt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from data_prep.documents import BLANK_LINE
from data_prep.find import left_out_words
from data_prep.manifest import Manifest
from data_prep.readers import INVALID_UTF8
from data_prep.sources import LEFT_OUT

_DROPPED = {
    "documents_empty": "empty documents",
    "documents_short": "short documents",
    "documents_duplicate": "duplicate documents",
    "documents_over_limit": "documents over the limit",
    "documents_without_tokens": "documents without tokens",
    "sentences_without_tokens": "sentences without tokens",
    "headings_dropped": "headings",
    "damaged_rows": "damaged rows",
    "truncated_files": "damaged files",
    "packages_missing": "packages that are not installed",
    "modules_too_large": "modules that are too large",
    "modules_unreadable": "unreadable modules",
}
_REPAIRED = {
    INVALID_UTF8: "bytes that are not UTF-8",
    "byte_order_marks": "byte order marks",
    "carriage_returns": "carriage returns",
    "control_characters": "control characters",
    "lone_surrogates": "lone surrogates",
    "unicode_line_separators": "Unicode line separators",
    "special_tokens_neutralised": "special tokens",
    "documents_unicode_normalised": "documents in another Unicode form",
    "documents_cut": "documents cut for their length",
}
MOST_UNKNOWN = 0.05
MOST_MARKS_LOST = 0.01


def summary_lines(manifest: Manifest) -> Iterator[str]:
    """Yield the lines: counts in one, left-out files in one, then a note for each doubt."""
    counters = Counter(manifest.counters)
    files = sum(len(source.get("files", ())) for source in manifest.sources)
    places = f" in {files:,} file{'s' if files > 1 else ''}" if files else ""
    parts = [f"{counters['documents_read']:,} documents{places}"]
    for title, names in (("dropped", _DROPPED), ("repaired", _REPAIRED)):
        found = [f"{counters[name]:,} {text}" for name, text in names.items() if counters[name]]
        if found:
            parts.append(f"{title}: {', '.join(found)}")
    yield f"read: {'; '.join(parts)}"
    left_out = Counter(
        {
            name.removeprefix(LEFT_OUT): n
            for name, n in counters.items()
            if name.startswith(LEFT_OUT)
        }
    )
    if left_out:
        yield f"left out: {left_out_words(left_out)}"
    notes = (_encoding_notes, _separator_notes, _token_notes, _split_notes)
    for note in notes:
        yield from (f"note: {text}" for text in note(manifest, counters))


def _encoding_notes(_: Manifest, counters: Counter[str]) -> Iterator[str]:
    start = f"{INVALID_UTF8}: "
    files = {name.removeprefix(start): n for name, n in counters.items() if name.startswith(start)}
    if files:
        worst = sorted(files, key=lambda name: (-files[name], name))[:3]
        names = ", ".join(f"{name} ({files[name]:,})" for name in worst)
        more = f" and {len(files) - 3:,} more" if len(files) > 3 else ""
        yield (
            f"{sum(files.values()):,} bytes are not UTF-8 and were replaced: {names}{more}. "
            "Convert these files, for example with `iconv -f LATIN1 -t UTF-8`."
        )


def _separator_notes(manifest: Manifest, counters: Counter[str]) -> Iterator[str]:
    wanted = [
        source.get("document_separator", "") for source in manifest.settings.get("sources", ())
    ]
    if any(wanted) and not counters["separator_lines"]:
        names = ", ".join(
            "an empty line" if name == BLANK_LINE else name for name in wanted if name
        )
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
