"""The settings of a build: one frozen dataclass per part; the field texts are the help texts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from data_prep.config_parsing import filled, with_overrides
from data_prep.languages import check_language
from data_prep.yaml_files import read_yaml


@dataclass(frozen=True, kw_only=True)
class _Limits:
    max_documents: int = 0
    """Use at most so many documents, counted before duplicates are dropped; 0: all."""
    max_megabytes: float = 0.0
    """Stop after so much cleaned text, in millions of characters; 0: all."""

    def __post_init__(self) -> None:
        """Check the limits."""
        if self.max_documents < 0 or self.max_megabytes < 0:
            raise ValueError(
                f"source: max_documents ({self.max_documents}) and max_megabytes "
                f"({self.max_megabytes}) must be 0 (no limit) or more."
            )


@dataclass(frozen=True, kw_only=True)
class _Texts(_Limits):
    text_field: str = "text"
    """Field or column that holds the text; `meta.text` is `text` in `meta` (local files)."""
    wikitext_headings: bool = False
    """Whether lines or rows like ` = Title = ` start a new document (WikiText)."""
    on_error: Literal["error", "skip"] = "error"
    """Stop at a damaged row or file, or skip what is damaged and count it."""
    licence: str = ""
    """Licence of the text, such as `CC BY-SA 4.0`; for the manifest and model cards only."""
    date: str = ""
    """When the text is from, such as `2018-10`; for the manifest and model cards only."""


@dataclass(frozen=True, kw_only=True)
class LocalSource(_Texts):
    """Text files on this machine."""

    kind: Literal["local"] = "local"
    """Names this kind of source."""
    path: str
    """File, folder (searched through) or glob: .txt .jsonl .parquet, each also .gz or .zst."""
    document_separator: str = ""
    """Line that separates documents of a .txt file; `blank_line`: an empty line does (BERT's
    format); empty: one file is one document."""

    def __post_init__(self) -> None:
        """Check the limits and the separator."""
        super().__post_init__()
        separator = self.document_separator
        if separator and not re.sub(r"\\[rnt]", "", separator).strip():
            raise ValueError(
                f"document_separator is {separator!r}, but a separator is a whole line, such as "
                "***; for an empty line write blank_line."
            )
        if separator and self.wikitext_headings:
            raise ValueError(
                f"document_separator ({separator}) and wikitext_headings (true) both part "
                "documents; give one of them."
            )


@dataclass(frozen=True, kw_only=True)
class HubSource(_Texts):
    """A data set of the Hugging Face Hub, or a local folder that `datasets` can load."""

    kind: Literal["hub"] = "hub"
    """Names this kind of source."""
    id: str
    """Data set id such as `wikimedia/wikipedia`."""
    name: str = ""
    """Configuration of the data set such as `20231101.en`; empty: its only one."""
    revision: str
    """Commit hash, tag or branch; write it down so that the data cannot change."""
    data_files: tuple[str, ...] = ()
    """Files or globs inside the repository; empty: those of the configuration."""
    split: str = "train"
    """Split of the data set."""
    rows_per_document: int = 1
    """Rows joined to one document, each row a paragraph; for corpora of single sentences."""
    streaming: bool = False
    """Read rows while they are downloaded instead of downloading first."""

    def __post_init__(self) -> None:
        """Check the limits and the grouping of rows."""
        super().__post_init__()
        if self.rows_per_document < 1:
            raise ValueError(f"rows_per_document is {self.rows_per_document}, allowed: 1 or more.")
        if self.rows_per_document > 1 and self.wikitext_headings:
            raise ValueError(
                f"rows_per_document ({self.rows_per_document}) and wikitext_headings (true) both "
                "group rows; set rows_per_document to 1 or wikitext_headings to false."
            )


@dataclass(frozen=True, kw_only=True)
class PythonDocsSource(_Limits):
    """The documentation strings of Python and the installed packages, a document per module."""

    kind: Literal["python_docs"] = "python_docs"
    """Names this kind of source."""
    packages: tuple[str, ...] = ("stdlib", "torch", "numpy")
    """Packages to read, in order; `stdlib` is Python's own library; missing ones are skipped."""


Source = LocalSource | HubSource | PythonDocsSource


@dataclass(frozen=True, kw_only=True)
class CleaningConfig:
    """Repairs of the text; every repair is counted in the manifest."""

    unicode_form: Literal["none", "NFC", "NFKC"] = "NFC"
    """Unicode normal form of the stored text."""
    line_breaks: Literal["join", "paragraph"] = "join"
    """A single line break joins two lines of a paragraph, or separates two paragraphs."""
    min_document_chars: int = 1
    """Drop documents shorter than this after cleaning, in characters."""
    drop_duplicates: bool = True
    """Keep the first of documents that are equal up to letter case and white space."""

    def __post_init__(self) -> None:
        """Check the shortest length."""
        if self.min_document_chars < 1:
            raise ValueError(
                f"cleaning.min_document_chars is {self.min_document_chars}, allowed: 1 or more."
            )


@dataclass(frozen=True, kw_only=True)
class SentencesConfig:
    """How a document is cut into sentences."""

    language: str = "en"
    """Language code such as en, de or zh: abbreviations differ from language to language."""
    split: Literal["language", "line"] = "language"
    """Find sentences by the rules of the language; or every line is one already (BERT's format;
    needs cleaning.line_breaks paragraph)."""
    headings: Literal["keep", "drop"] = "keep"
    """Keep headings as sentences of their own, or drop them."""
    heading_max_words: int = 12
    """A paragraph without final punctuation and with at most so many words is a heading; words
    are estimated for scripts without spaces."""
    max_paragraph_chars: int = 20_000
    """Longer paragraphs are cut, at a space if there is one, so that time stays linear."""

    def __post_init__(self) -> None:
        """Check the language and the bounds."""
        check_language(self.language)
        if self.max_paragraph_chars < 100:
            raise ValueError(
                f"sentences.max_paragraph_chars is {self.max_paragraph_chars}, allowed: >= 100."
            )


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Which WordPiece tokenizer makes the ids: a trained one, or a loaded one."""

    path: str = ""
    """Load this `tokenizer.json`, `vocab.txt` or Hub id; empty: train one on the corpus."""
    revision: str = "main"
    """Revision of a Hub id."""
    vocab_size: int = 30_522
    """Entries of a trained tokenizer, special tokens included."""
    lowercase: bool = True
    """Lowercase and strip accents, as bert-base-uncased (trained, or loaded from vocab.txt)."""
    strip_accents: bool = True
    """Strip accents, umlauts and the vowel signs of Thai or Hindi when lowercasing; false keeps
    them."""
    train_megabytes: float = 100.0
    """Text used for training, in millions of characters, spread over the corpus; 0: all."""
    alphabet_size: int = 1000
    """Most characters that get an entry of their own."""
    min_frequency: int = 2
    """A piece must occur so often to become an entry."""

    def __post_init__(self) -> None:
        """Check the sizes."""
        if self.vocab_size < 64:
            raise ValueError(f"tokenizer.vocab_size is {self.vocab_size}, allowed: 64 or more.")
        if self.train_megabytes < 0 or self.alphabet_size < 1 or self.min_frequency < 1:
            raise ValueError(
                f"tokenizer: train_megabytes ({self.train_megabytes}) must be >= 0, alphabet_size "
                f"({self.alphabet_size}) and min_frequency ({self.min_frequency}) >= 1."
            )


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """Everything `data_prep build` needs."""

    output: str
    """Folder to make; `<output>.building` beside it holds unfinished work."""
    sources: tuple[Source, ...]
    """Where the text comes from, in order (in YAML: `source:` for one, `sources:` for a list)."""
    cleaning: CleaningConfig = CleaningConfig()
    """Repairs of the text."""
    sentences: SentencesConfig = SentencesConfig()
    """How a document is cut into sentences."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """Which tokenizer makes the ids."""
    validation_fraction: float = 0.01
    """Share of documents, chosen by content hash, in the validation split; in [0, 1)."""
    chunk_megabytes: float = 4.0
    """Text per unit of work, in millions of characters; memory grows with workers x this."""
    num_workers: int = 0
    """Worker processes; 0: one per core. The result does not depend on it."""
    overwrite: bool = False
    """Replace a finished folder that was made with other settings."""
    check_disk: bool = True
    """Refuse to start where the disk has no room for twice the files to read."""

    def __post_init__(self) -> None:
        """Check ranges and that there is something to read."""
        if not self.output:
            raise ValueError("output is empty; name the folder to make: --output FOLDER.")
        if not self.sources:
            raise ValueError("sources is empty; give `source:` or a list `sources:`.")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction is {self.validation_fraction}, allowed: 0 <= fraction < 1."
            )
        if self.sentences.split == "line" and self.cleaning.line_breaks != "paragraph":
            raise ValueError(
                f"sentences.split is line, but cleaning.line_breaks is {self.cleaning.line_breaks}"
                ": lines would be joined before; give --cleaning.line_breaks paragraph."
            )
        if self.chunk_megabytes <= 0 or self.num_workers < 0:
            raise ValueError(
                f"chunk_megabytes ({self.chunk_megabytes}) must be above 0 and num_workers "
                f"({self.num_workers}) 0 or more."
            )

    @classmethod
    def from_dict(
        cls, values: Mapping[str, Any], overrides: Mapping[str, Any] | None = None
    ) -> BuildConfig:
        """Return the config of plain values; `source` may stand for a list of one.

        Args:
            values: Field name -> value.
            overrides: Dotted key -> value, such as `{"source.path": "books", "output": "data"}`.

        Raises:
            ValueError: Unknown key, wrong type, or a value out of range; the message names the key.
        """
        values = with_overrides(values, overrides or {})
        if ("source" in values) == ("sources" in values):
            raise ValueError(
                "both `source` and `sources` are given; use one of them."
                if "source" in values
                else "'sources' is missing: write `source:` in a YAML file, or give --source.path "
                "FILE_FOLDER_OR_GLOB."
            )
        if "source" in values:
            values["sources"] = [values.pop("source")]
        return filled(cls, values)

    @classmethod
    def from_yaml(cls, path: str | Path, overrides: Mapping[str, Any] | None = None) -> BuildConfig:
        """Return the config of a YAML file, changed by dotted overrides.

        Args:
            path: The file, or a pipe; empty: none, the overrides say all.
            overrides: See `from_dict`.

        Raises:
            ValueError: No such file, not YAML, unknown key, wrong type, value out of range.
        """
        try:
            values = read_yaml(path) if path else {}
        except ValueError as error:
            raise ValueError(f"config file {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"config file {path} must hold `key: value` lines.")
        return cls.from_dict(values, overrides)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that `from_dict` reads back."""
        return asdict(self)
