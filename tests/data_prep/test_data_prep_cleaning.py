import hashlib
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.config import CleaningConfig, SentencesConfig
from data_prep.python_docs import prose_paragraphs
from data_prep.sentences import cut_long, is_heading, split_sentences
from data_prep.workers import _RARE, clean_document, document_hash


def clean(text, **options):
    counters: Counter[str] = Counter()
    return clean_document(text, CleaningConfig(**options), counters), +counters


@pytest.mark.parametrize(
    ("raw", "expected", "counter"),
    [
        ("a\x00b", "ab", "control_characters"),
        ("One\x1ftwo\x1cthree", "One two three", "control_characters"),
        ("a\x85b", "a b", "unicode_line_separators"),
        ("\ufeffa", "a", "byte_order_marks"),
        ("a\r\nb\rc", "a b c", "carriage_returns"),
        ("a\u2028b\u2029c", "a b\n\nc", "unicode_line_separators"),
        ("a\ud800b", "a\ufffdb", "lone_surrogates"),
        ("e\u0301", "\u00e9", "documents_unicode_normalised"),
        ("x [MASK]y[SEP]", "x [ MASK ]y[ SEP ]", "special_tokens_neutralised"),
        ("[MA\x00SK]", "[ MASK ]", "special_tokens_neutralised"),
    ],
)
def test_each_fault_of_a_text_is_repaired_and_counted(raw, expected, counter):
    text, counters = clean(raw)
    assert text == expected
    assert counters[counter] >= 1


def test_blank_lines_with_spaces_separate_paragraphs_and_line_breaks_join():
    assert clean("a\nb\n \t\n\n c  d\n")[0] == "a b\n\nc d"
    assert clean("a\nb\n\nc", line_breaks="paragraph")[0] == "a\n\nb\n\nc"


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(), max_size=60))
def test_cleaning_a_clean_text_changes_nothing(raw):
    once = clean(raw)[0]
    again, counters = clean(once)
    assert again == once and not counters
    once.encode("utf-8")
    assert document_hash(once) == document_hash(once.upper().lower()) or once.lower() != once


WHITE = st.text(
    "ab\u00e9 \t\n\r\x0b\x1c\x85\u00a0\u2000\u2028\u3000\u200b\u037a\u00df\u0130", max_size=40
)


@settings(max_examples=150, deadline=None)
@given(WHITE, st.sampled_from(["join", "paragraph"]), st.sampled_from(["NFC", "none"]))
def test_a_clean_text_has_single_spaces_and_blank_lines_and_no_other_white_space(
    raw, line_breaks, unicode_form
):
    text = clean(raw, line_breaks=line_breaks, unicode_form=unicode_form)[0]
    paragraphs = text.split("\n\n") if text else []
    assert all(item and item == " ".join(item.split()) for item in paragraphs)
    assert "".join(text.split()) == "".join(
        clean("".join(raw.split()), unicode_form=unicode_form)[0].split()
    )


@settings(max_examples=150, deadline=None)
@given(WHITE | st.text(max_size=60))
def test_the_hash_of_a_clean_text_is_over_its_folded_words(raw):
    text = clean(raw)[0]
    words = " ".join(text.casefold().split())
    assert document_hash(text) == hashlib.blake2b(words.encode(), digest_size=16).digest()


def test_the_space_is_the_only_printable_white_space_and_folding_case_makes_no_other():
    characters = list(map(chr, range(sys.maxunicode + 1)))
    assert [item for item in characters if item.isspace() and item.isprintable()] == [" "]
    rare = [item for item in characters if item != "\n" and _RARE.search(item)]
    assert len(rare) > 2000 and not any(item.isprintable() for item in rare)
    folded = [item for item in characters if any(part.isspace() for part in item.casefold())]
    assert folded == [item for item in characters if item.isspace()]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("abc A.B!? \"'1", max_size=40), max_size=6))
def test_sentences_hold_all_characters_and_never_cross_a_paragraph(paragraphs):
    text = clean("\n\n".join(paragraphs))[0]
    sentences = split_sentences(text, SentencesConfig(), Counter())
    assert "".join("".join(sentences).split()) == "".join(text.split())
    for sentence in sentences:
        assert any(sentence in paragraph for paragraph in text.split("\n\n"))


def test_headings_are_kept_as_sentences_or_dropped():
    text = "Early life\n\nHe was born. He lived on"
    kept, dropped = Counter(), Counter()
    assert split_sentences(text, SentencesConfig(), kept) == ["Early life", "He was born."] + [
        "He lived on"
    ]
    config = SentencesConfig(headings="drop", heading_max_words=2)
    assert split_sentences(text, config, dropped) == ["He was born.", "He lived on"]
    assert kept["headings_kept"] == dropped["headings_dropped"] == 1
    assert not is_heading("A whole sentence.", 12)


def test_long_paragraphs_are_cut_at_spaces_and_lose_nothing():
    for text in ("word " * 5000, "x" * 20_000, "One two. " * 3000):
        pieces = list(cut_long(text, 1000))
        assert "".join(pieces) == text
        assert max(map(len, pieces)) <= 1000


def test_documentation_strings_keep_prose_and_drop_code_tables_and_types():
    text = """Return the sum of all the elements in order.

    Parameters
    ----------
    a : array_like, optional
        Elements to sum, given as a list of numbers.
    :type a: list of some other things here.

    ======  ======
    table   row
    ======  ======

    >>> add([1, 2])
    3 is the sum of these two numbers.

    See :func:`~numpy.add` for ``more`` about these matters.

    .. code-block:: python

        this is a line of code that looks like prose.

    Args:
        x (int): The number that is added at last.
    """
    assert prose_paragraphs(text) == [
        "Return the sum of all the elements in order.",
        "Elements to sum, given as a list of numbers.",
        "See numpy.add for more about these matters.",
        "The number that is added at last.",
    ]
