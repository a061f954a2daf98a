"""Sentence and paragraph starts on raw text."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data import boundaries
from finetune.data.boundaries import paragraph_starts, sentence_starts, starts_of_pieces


def pieces(text: str, starts: list[int]) -> list[str]:
    return [text[a:b] for a, b in pairwise([*starts, len(text)])]


SCRAPS = ["A film.", "Mr. Poe", '"', "“", "”", "(", ")", "why?", "<br />", "\n", "\n\n", "😀", "é."]


@settings(max_examples=200, deadline=None)
@given(
    text=st.lists(st.sampled_from(SCRAPS), max_size=200).map(" ".join) | st.text(max_size=60),
    rule=st.sampled_from([sentence_starts, paragraph_starts]),
)
def test_starts_grow_from_zero_and_lie_inside_the_text(text, rule) -> None:
    starts = rule(text)
    assert starts == sorted(set(starts))
    assert starts[:1] == ([0] if text else [])
    assert "".join(pieces(text, starts)) == text


def test_sentences_begin_after_full_stops_but_not_after_abbreviations() -> None:
    text = "Mr. Smith came in. Was he late?  No! He was not."
    found = pieces(text, sentence_starts(text))
    assert found == ["Mr. Smith came in. ", "Was he late?  ", "No! ", "He was not."]


def test_positions_count_characters_not_bytes() -> None:
    text = "Zoë said 😀 hi. Then she left."
    assert sentence_starts(text) == [0, text.index("Then")]


@pytest.mark.parametrize("breaks", ["<br /><br />", "<br><br/>", "<BR /> <br />"])
def test_a_double_html_break_begins_a_sentence_even_without_a_full_stop(breaks) -> None:
    text = f"a film (of sorts.){breaks}but fine"
    assert sentence_starts(text) == [0, text.index("<")]


def test_a_single_html_break_is_text() -> None:
    assert sentence_starts("a film<br />that is fine") == [0]


def test_a_quotation_mark_that_is_never_closed_does_not_swallow_the_article() -> None:
    sentence = "The minister said that nothing of the kind had been planned. "
    text = "He began: “" + 10 * sentence + "The end was “near”."
    found = pieces(text, sentence_starts(text))
    assert len(found) == 11
    assert found[-1] == "The end was “near”."


def test_an_opening_mark_goes_with_the_sentence_it_opens() -> None:
    text = (
        "“We know this very well here. "
        + 12 * "It was said again and again. "
        + "“So be it.” (Yes."
    )
    starts = sentence_starts(text)
    assert text.rindex("“") in starts
    assert text.rindex("(") in starts


def test_a_short_quotation_stays_in_one_sentence() -> None:
    text = 'She wrote: "It was fine. It was good." Then she left.'
    assert sentence_starts(text) == [0, text.index("Then")]


def test_paragraphs_begin_after_blank_lines_only() -> None:
    text = "one\nstill one\n\ntwo\r\n \r\n\n three\n\n"
    assert paragraph_starts(text) == [0, text.index("two"), text.index("three")]


def test_pieces_that_lost_white_space_are_still_found() -> None:
    assert starts_of_pieces("a b.  c d.  a b.", ["a b.", "c d.", "a b."]) == ([0, 6, 12], 0)


def test_a_piece_that_is_not_in_the_text_is_counted_and_stays_with_the_one_before(
    monkeypatch,
) -> None:
    import sentencex

    monkeypatch.setattr(sentencex, "segment", lambda language, text: ["One. ", "Tow. ", "Three."])
    counters: Counter[str] = Counter()
    assert boundaries.sentence_starts("One. Two. Three.", counters=counters) == [0, 10]
    assert sum(counters.values()) == 1


@pytest.mark.parametrize(
    ("unit", "num_starts"),
    [("“Word lies here. ", 3000), ("“word and ", 1), ("“word,and", 1), ("(word and ", 1)],
)
def test_no_text_is_too_long_for_the_splitter(
    monkeypatch: pytest.MonkeyPatch, unit: str, num_starts: int
) -> None:
    """sentencex looks for the end of every opening mark in all that follows."""
    import sentencex

    lengths: list[int] = []
    whole = sentencex.segment

    def segment(language: str, text: str) -> list[str]:
        lengths.append(len(text))
        return whole(language, text)

    monkeypatch.setattr(sentencex, "segment", segment)
    text = unit * 3000
    starts = sentence_starts(text)
    assert max(lengths) <= 20_000 < len(text)
    assert len(starts) == num_starts


@pytest.mark.parametrize(
    "sentences",
    [
        ("\u1798\u1793\u17bb\u179f\u17d4 ", "\u1796\u17bc\u1780\u1782\u17c1\u17d4"),  # Khmer
        ("\u0f51\u0f7a\u0f0b\u0f62\u0f72\u0f44\u0f0d ", "\u0f61\u0f72\u0f53\u0f0d"),  # Tibetan
        ("\u6211\u5011\u4f86\u4e86\u3002", "\u4ed6\u5011\u8d70\u4e86\u3002"),  # Chinese
        (
            "\u092f\u0939 \u0918\u0930 \u0939\u0948\u0964 ",
            "\u0935\u0939 \u092f\u0939\u093e\u0901\u0964",
        ),  # Hindi
    ],
)
def test_sentences_end_at_the_marks_of_every_script(sentences: tuple[str, str]) -> None:
    assert sentence_starts("".join(sentences)) == [0, len(sentences[0])]
