"""The settings of a build: one frozen dataclass per part; the field texts are the help texts."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data_prep.command import filled, read_yaml, with_overrides

LANGUAGES = frozenset(
    """
aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de
dv dz ee el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id
ie ig ii ik io is it iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu
lv mg mh mi mk ml mn mo mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt
qu rm rn ro ru rw sa sc sd se sg sh si sk sl sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn
to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu abs ace ady aeb aeb-arab aln alt ami
anp arn arq ary arz ast atj avk awa azb ban ban-bali bar bat-smg bbc bbc-latn bcc bcl be-tarask bgn
bho bjn bpy bqi btm bug bxr cbk-zam cdo ceb chr ckb crh crh-cyrl csb de-at de-ch de-formal diq dsb
dtp dty egl eml en-ca en-gb es-419 es-formal ext fiu-vro fit fil frc frp frr fur gag gan gan-hans
gan-hant gcr glk gom gom-deva gor gsw guc hak haw hif hil hrx hsb hu-formal hyw ilo inh jam jut kaa
kab kbd kbp khw kiu kjp kk-arab kk-cn kk-cyrl kk-kz kk-latn kk-tr ko-kp koi krc krl ks-arab ksh
ku-arab ku-latn kum lad lbe lez lij liv lki lld lmo lrc ltg luz lzh lzz mad mai map-bms mdf mhr min
mnw mrj ms-arab mwl myv mzn nah nan nap nds nds-nl new nia nl-informal nrm nso olo pam pap pcd pdc
pdt pfl pih pms pnb pnt pt-br qug rgn rmy roa-rup roa-tara rue rup ruq ruq-cyrl ruq-latn sah sat
scn sco sdc sdh ses sgs shi shn shy shy-latn simple skr skr-arab sli smn sr-ec sr-el srn stq sty
szl szy tay tcy tet tg-cyrl tg-latn trv tt-cyrl tt-latn tyv udm ug-arab vec vep vls vmf vot vro war
wuu xal xmf yue zea zgh zh-classical zh-cn zh-hans zh-hant zh-hk zh-min-nan zh-mo zh-my zh-sg zh-tw
zh-yue
""".split()
)
"""Codes that `sentences.language` takes. sentencex takes any word, and cuts by general rules what
it does not know: a misspelt code would be a silent loss."""
_NAMES = """
amharic=am arabic=ar armenian=hy bengali=bn bulgarian=bg burmese=my catalan=ca chinese=zh czech=cs
danish=da deutsch=de dutch=nl english=en espanol=es finnish=fi francais=fr french=fr german=de
greek=el gujarati=gu hebrew=he hindi=hi hungarian=hu italian=it italiano=it japanese=ja kannada=kn
kazakh=kk khmer=km korean=ko malayalam=ml marathi=mr norwegian=no persian=fa polish=pl
portuguese=pt punjabi=pa russian=ru slovak=sk spanish=es swedish=sv tamil=ta telugu=te thai=th
tibetan=bo turkish=tr ukrainian=uk urdu=ur vietnamese=vi
"""


def _check_least(settings: object, where: str = "", **least: float) -> None:
    """Refuse a field below its least value."""
    for name, bound in least.items():
        value = getattr(settings, name)
        if value < bound:
            raise ValueError(f"{where}{name} is {value}, allowed: {bound} or more.")


@dataclass(frozen=True, kw_only=True)
class _Limits:
    max_documents: int = 0
    """Use at most so many documents, counted before duplicates are dropped; 0: all."""
    max_megabytes: float = 0.0
    """Stop after so much cleaned text, in millions of characters; 0: all."""

    def __post_init__(self) -> None:
        """Check the limits."""
        _check_least(self, "source.", max_documents=0, max_megabytes=0)


@dataclass(frozen=True, kw_only=True)
class _Texts(_Limits):
    text_field: str = "text"
    """Field or column that holds the text; `meta.text` is `text` in `meta` (local files). In .csv
    and .tsv files also several columns, joined as paragraphs: `title,body`, and numbers from 1."""
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
    """File, folder (searched through) or glob: .txt .jsonl .parquet .csv .tsv, each also .gz or
    .zst."""
    document_separator: str = ""
    """Line that separates documents of a .txt file; `blank_line`: an empty line does (BERT's
    format); empty: one file is one document."""
    delimiter: str = ""
    """Character between the columns of .csv and .tsv files; empty: a tab in a .tsv, in a .csv the
    one of , ; tab | that cuts the header into most columns."""
    header: bool = True
    """Whether the first row of .csv and .tsv files names the columns."""
    quotes: Literal["csv", "none"] = "csv"
    """Double quotes in .csv and .tsv files hold a cell together (csv), or are characters (none)."""

    def __post_init__(self) -> None:
        """Check the limits and the separator."""
        super().__post_init__()
        separator = self.document_separator
        if separator and not re.sub(r"\\[rnt]", "", separator).strip():
            raise ValueError(
                f"document_separator is {separator!r}, but a separator is a whole line, such as "
                "***; for an empty line write blank_line."
            )
        mark = self.delimiter.replace(r"\t", "\t")
        if mark and (len(mark) != 1 or mark in '"\r\n'):
            raise ValueError(
                f"source.delimiter is {mark!r}, but one character is needed, such as ; or \\t (a "
                "tab), and no quote or line break."
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
        _check_least(self, "source.", rows_per_document=1)
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
        _check_least(self, "cleaning.", min_document_chars=1)


def check_language(code: str, option: str) -> None:
    """Refuse what is no language code; the option and the nearest code are named."""
    if code in LANGUAGES:
        return
    word = code.lower().replace("_", "-")
    known = {**dict(pair.split("=") for pair in _NAMES.split()), **{k: k for k in LANGUAGES}}
    near = [word, word.split("-")[0], *difflib.get_close_matches(word, known, n=1, cutoff=0.7)]
    found = next((known[item] for item in near if item in known), "")
    hint = f" Did you mean '{found}'?" if found else ""
    raise ValueError(
        f"{option} is '{code}', which is no language code.{hint} Allowed: ISO 639-1 "
        "codes such as en, de, zh, and longer ones of Wikipedia such as gsw or pt-br; give en "
        "for a language that has none."
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
        check_language(self.language, "sentences.language")
        _check_least(self, "sentences.", max_paragraph_chars=100)


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Which tokenizer makes the ids: a trained WordPiece, or a loaded one.

    A loaded one may be of WordPiece, or of SentencePiece (Unigram) or byte-level BPE, whose pieces
    say where a word begins.
    """

    path: str = ""
    """Load this `tokenizer.json`, `vocab.txt` or Hub id; empty: train one on the corpus."""
    revision: str = "main"
    """Revision of a Hub id."""
    add_words: str = ""
    """File of words, one in a line, that get entries of their own behind those of a loaded
    tokenizer; an encoder that begins with weights of that tokenizer (pretrain's model.start_from)
    grows by them."""
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
        _check_least(self, "tokenizer.", vocab_size=64, train_megabytes=0)
        _check_least(self, "tokenizer.", alphabet_size=1, min_frequency=1)
        if self.add_words and not self.path:
            raise ValueError(
                f"tokenizer.add_words {self.add_words} adds to a tokenizer that is loaded, and one "
                "that is trained finds its words itself; give tokenizer.path, or leave it out."
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
    """Replace a finished folder that was made with other settings or is damaged (hashes all)."""
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
        _check_least(self, num_workers=0, chunk_megabytes=1e-6)

    @classmethod
    def from_dict(
        cls, values: Mapping[str, Any], overrides: Mapping[str, Any] | None = None
    ) -> BuildConfig:
        """Return the config of plain values; `source` may stand for a list of one.

        Args:
            values: Field name -> value.
            overrides: Dotted key -> value, such as `{"source.path": "books", "output": "data"}`.
        """
        values = with_overrides(values, overrides or {})
        if "source" in values and "sources" in values:
            raise ValueError("both `source` and `sources` are given; use one of them.")
        if "source" in values:
            values["sources"] = [values.pop("source")]
        if "sources" not in values:
            raise ValueError(
                "'sources' is missing: write `source:` in a YAML file, or give --source.path "
                "FILE_FOLDER_OR_GLOB."
            )
        return filled(cls, values)

    @classmethod
    def from_yaml(cls, path: str | Path, overrides: Mapping[str, Any] | None = None) -> BuildConfig:
        """Return the config of a YAML file, or pipe; an empty path: the overrides say all."""
        try:
            values = read_yaml(path) if path else {}
        except ValueError as error:
            raise ValueError(f"config file {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"config file {path} must hold `key: value` lines.")
        return cls.from_dict(values, overrides)
