"""Where sentences end: quoted speech, abbreviations, names with stops, and the ellipsis."""

import random
import time

import pytest

from data_prep.sentence_rules import segment
from finetune.data.encoding import sentence_starts

ENDS = [
    (
        "en",
        '"I came. |I saw. |I won. |It was a long day and the sun was hot. |Nobody spoke to me at '
        'all. |Then I went home." |He sat.',
    ),
    (
        "en",
        'The 6" pipe broke. |It was old. |Nobody saw it. |We left. |The 8" pipe held.',
    ),
    ("en", "‘I came. |I saw.’ |He sat. |'I came. |I saw it.' |He sat."),
    ("en", "“I came. |I saw,” he said. |“I won! |Did I?” |It’s John’s. |The dogs’ bone."),
    ("en", 'He left. |"I saw it!" muttered he. |"Now go. |Then come."'),
    ("en", "He spoke. |(Come here. |I saw it. |It was good.) |He left."),
    ("de", "„Ich kam. |Ich sah. |Ich siegte. |Es war ein langer Tag.“ |Er saß."),
    ("de", "»Ich kam. |Ich sah.« |Er saß."),
    ("de", "›Ja. |Nein.‹ |Er saß."),
    ("fr", "« Je suis venu. |J'ai vu. |J'ai vaincu. » |Il était assis."),
    ("es", "«Vine. |Vi. |Vencí.» |Se sentó."),
    ("ru", "«Я пришёл. |Я увидел. |Я победил.» |Он сел."),
    ("pl", "„Przyszedłem. |Zobaczyłem.” |Usiadł."),
    ("sv", "”Jag kom. |Jag såg.” |Han satt."),
    ("el", "«Ήρθα. |Είδα.» |Κάθισε."),
    ("ar", "«جئت. |رأيت. |انتصرت.» |جلس."),
    ("hi", "“मैं आया। |मैंने देखा।” |वह बैठा।"),
    ("ka", "„მოვედი. |ვნახე.“ |ის იჯდა."),
    ("zh", "他说：“我来了。|我看见了。|我赢了。”|然后他走了。"),
    ("ja", "「来た。|見た。」|彼は言った。"),
    ("en", "He waited… |Then he left. |He waited... |Then he left. |“Wait…” |He left."),
    ("ru", "Он ждал… |Потом ушёл."),
    ("de", "Er ging… |„Sie blieb.“"),
    ("fr", "« Mon Dieu… » |Il part."),
    ("zh", "“我……”|他走了。"),
    ("de", "Er wurde 19. |Dann ging er."),
    ("de", "Er kam am 19. |Dann ging er. |Am 19. |Die Leute kamen."),
    ("fr", "En 50 av. J.-C. |Il vint."),
    ("en", "He walked out (as I did in other years.) |I would not."),
    (
        "en",
        "I know what a good one is.|This is not.  |He went.|Then he left. |It ended (at last).|The "
        "end.",
    ),
    ("en", '"It is the battlefield."|What now?'),
]
"""Language, and a text with a bar before each sentence but the first."""
WHOLE = [
    ("en", '"Are you mad?" he said.'),
    ("en", '"Why?" asked Tom.'),
    ("en", "“Wait…” he said."),
    ("en", "I… I do… the word… the thing… and so on."),
    ("en", "He (born 1920 in St. Petersburg. See below) was here."),
    ("en", "He met her (They wed in 1920. They left.) and went."),
    ("en", 'He sang "Stop! In the Name of Love" with her.'),
    ("en", 'It was "Mr. Smith and Dr. Bo went." that he read.'),
    ("en", "The .NET Framework and ASP.NET Core."),
    ("en", "See www.Example.com/Foo.Bar for it."),
    ("en", "The J.-P. Sartre book, version 10.X of N.W.A, the MUL.APIN and Ada.Text_IO."),
    ("en", "The vs.-incident curve and p. 5 of vol. 2."),
    ("en", 'Some "Apatosaurus" sp.BYU 601 lay here (eds.) The end.'),
    ("en", "Who knows that?—and so it went."),
    ("en", "He read (Jer. 4:23, Matt. 5:5) there."),
    ("fr", "Hier M. Macron a reçu M. Scholz."),
    ("fr", "Le Dr. Dupont et Mme. Durand sont là."),
    ("fr", "En 50 av. J.-C. il vint."),
    ("fr", "J.-J. Rousseau est mort."),
    ("fr-ca", "M. Macron est là."),
    ("fr", "« Oui ! » dit-il."),
    ("de", "Im 19. Jahrhundert war es so, im 19. und 20. Jahrhundert."),
    ("de", "Der 2. Weltkrieg kam."),
    ("de", "Das 1. Kapitel ist lang."),
    ("de", "Zum 50. Geburtstag kam Dipl.-Ing. Meier."),
    ("de-at", "Die 2. Auflage kam am 15. Februar."),
    ("de", "„Bist du verrückt?“ fragte er."),
    ("ru", "см. рис. 3."),
    ("ru", "Музей Им. Ленина."),
    ("ru", "Св. Пётр пришёл."),
    ("ru", "«Кто?» — спросил он."),
    ("pt", "Fui a S. Paulo em 50 a. C. e voltei."),
    ("pt-br", "A Av. Brasil de S. Paulo."),
    ("es", "D. Juan y Dña. Ana."),
    ("it", "Il Sig. Rossi a S. Pietro."),
    ("nl", "Op 3 jan. 1900 kwam hij."),
    ("zh", "他等了……然后走了。"),
    ("zh", "《你好！再见》是书。"),
    ("ja", "「来た。」と言った。"),
]
"""Language, and one sentence."""


@pytest.mark.parametrize(("language", "marked"), ENDS)
def test_sentences_end_also_in_quotations(language: str, marked: str) -> None:
    assert segment(language, marked.replace("|", "")) == marked.split("|")


@pytest.mark.parametrize(("language", "text"), WHOLE)
def test_a_sentence_is_not_cut(language: str, text: str) -> None:
    assert segment(language, text) == [text]


def test_a_language_without_lists_is_cut_as_before() -> None:
    text = "Im 19. Jahrhundert. M. Bo."
    assert segment("vec", text) == ["Im 19. ", "Jahrhundert. ", "M. Bo."]


def test_a_single_capital_before_a_no_break_space_does_not_end_the_program() -> None:
    """sentencex 1.0.32 panics there, which is no Exception: it would kill a whole build."""
    assert segment("fr", "Le plan Z\u00a0. Il vint.") == ["Le plan Z\u00a0. Il vint."]
    assert segment("fr", "Le mot\u202f! Il vint.") == ["Le mot\u202f! ", "Il vint."]


@pytest.mark.parametrize(("language", "marked"), ENDS)
def test_fine_tuning_cuts_as_data_preparation(language: str, marked: str) -> None:
    starts, place = [], 0
    for sentence in marked.split("|"):
        starts.append(place)
        place += len(sentence)
    assert sentence_starts(marked.replace("|", ""), language=language) == starts


@pytest.mark.parametrize("language", ["en", "fr", "de", "ru", "ja", "vec"])
def test_sentences_joined_are_the_text(language: str) -> None:
    rng = random.Random(0)
    pieces = list("aZé.!?…。！ \n\u00a0\"'“”„«»‹›「」()[]<>{}`’-—–_/,;:1") + [
        "Word ", "word. ", "M. ", "am 19. ", "J.-C. ", ". ", "…” ", "\n\n", "a. C. ", "Я ", "来。",
    ]  # fmt: skip
    for _ in range(2000):
        text = "".join(rng.choices(pieces, k=rng.randint(0, 60)))
        found = segment(language, text)
        assert "".join(found) == text
        assert all(found) or not text


@pytest.mark.parametrize(
    "unit",
    [
        "“Word a. ",
        '"He said. ',
        "(Word a. ",
        "(",
        '" ',
        "Ab… C",
        '."',
        "<a ",
        "a> <",
        "He.—",
        "'A. ",
    ],
)
def test_time_does_not_grow_with_the_square_of_a_paragraph(unit: str) -> None:
    text = (unit * 20_000)[:20_000]
    begin = time.perf_counter()
    assert "".join(segment("de", text)) == text
    assert time.perf_counter() - begin < 2.0  # about 0.1; sentencex alone takes up to a half
