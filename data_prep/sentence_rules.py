"""Where sentences end in a paragraph: the borders of sentencex, corrected by rules of our own.

sentencex ends no sentence between quotation marks, nor between two inch marks, and cuts behind
abbreviations that it does not list. Rules here take borders away, move and add them; joined, the
sentences are the text. Sources: Unicode's Sentence_Terminal, and what sentencex 1.0.32 left.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from operator import itemgetter
from typing import NamedTuple

MARKS = (
    "\u0589\u061d-\u061f\u06d4\u0700-\u0702\u07f9\u0837\u0839\u083d\u083e\u0964\u0965\u0df4"
    "\u0f0d-\u0f12\u104a\u104b\u1362\u1366-\u1368\u166e\u1735\u1736\u17d4\u17d5\u1803\u1809\u1944"
    "\u1945\u1aa8-\u1aab\u1b4e\u1b4f\u1b5a\u1b5b\u1b5e\u1b5f\u1b7d-\u1b7f\u1c3b\u1c3c\u1c7e\u1c7f"
    "\u203c\u203d\u2047-\u2049\u2cf9-\u2cfb\u2e2e\u2e3c\u3002\ua4ff\ua60e\ua60f\ua6f3\ua6f7\ua876"
    "\ua877\ua8ce\ua8cf\ua92f\ua9c8\ua9c9\uaa5d-\uaa5f\uaaf0\uaaf1\uabeb\ufe12\ufe15\ufe16\ufe52"
    "\ufe56\ufe57\uff01\uff0e\uff1f\uff61"
)
"""Marks that end a sentence in other scripts (Unicode's Sentence_Terminal, and Tibetan's shad)."""
CLOSERS = "\"'”’)\\]»›」』】）〉》〕｝］＂＇"
"""Marks that may stand behind the mark that ends a sentence, as a class of `re`."""
_ATTACHED = CLOSERS + "“«‹›"
"""And, without a space between, marks that open in other languages than German or Danish."""
_QUOTES = '"“”„«»‟‹›「」『』'
_OPENERS = "\"'“„«»‟‹‘(\\[¿¡"
_LATIN_END = f"[.!?…][{_ATTACHED}]*"
_SPACED_CLOSER = "(?:[ \u00a0\u202f]»(?=\\s))?"
_MAY_MISS = re.compile(
    "[\u0370-\u03ff\u0df4\u0e00-\u0fff\u1361\u17d4\u17d5\u1b4e-\u1b7f\u1f00-\u1fff\u2cf9-\u2cfb\ufe12-\ufe16]"
)
_MISSED = re.compile(
    "(?:[\u0df4\u0f0d-\u0f12\u17d4\u17d5\u1b4e\u1b4f\u1b7f\u2cf9-\u2cfb\ufe12\ufe15\ufe16]"
    f"|\u1361\u1361)[{CLOSERS}]*(?: ?[\u0f0d-\u0f12])*(?:\\s+|(?=\\w))"
    '|(?<=[\u0370-\u03ff\u1f00-\u1fff]);\\s+(?=[«“"]?[\u0386\u0388-\u03ab\u1f08-\u1f0f\u1f18-\u1f1d'
    "\u1f28-\u1f2f\u1f38-\u1f3f\u1f48-\u1f4d\u1f59-\u1f5f\u1f68-\u1f6f])"
    "|(?<=[\u0e00-\u0eff]{10}) (?=[\u0e00-\u0eff]{10})"
)
"""Where sentences end that sentencex leaves together: marks of Sinhala, Tibetan, Khmer, Balinese,
Coptic and vertical Chinese, two Ethiopic word spaces, the Greek question mark before a capital,
and the space between clauses of Thai and Lao, which have no mark."""
_ELLIPSIS = re.compile(
    f"(?:(?<=[^\\W\\d_][^\\W\\d_])|(?<=[^\\W\\d_][!?]))…+[{_ATTACHED}]*{_SPACED_CLOSER}\\s+"
    f"(?=[{_OPENERS}]*([^\\W\\d_]))|……[”’」』]+(?=[\\w「『“‘])()"
)
"""The one character `…` behind a word and before a letter, which must be a capital; a Chinese or
Japanese `……` that ends what is quoted."""
_INNER_END = re.compile(f"{_LATIN_END}{_SPACED_CLOSER}\\s+[{_OPENERS}—–-]*[^\\Wa-z_]")
_INNER_MARK = re.compile(f"[{MARKS}](?=.*\\w)", re.DOTALL)
_PROTECTED = re.compile(f"[{_QUOTES}‘(\\[（<{{`']")
"""What sentencex may take for the opening of a quotation or bracket."""
_MASKED = re.compile(f"[{_QUOTES}‘`]|(?<!\\w)'(?=\\w)|(?<=[.!?…,])['’]")
_WHOLE_BRACKET = re.compile(
    '(?:(?<=[.!?…"”’)\\]]\\s)|\\A)[(\\[](?=["“‘]?[^\\W\\d_a-z])[^()\\[\\]]*[.!?…]["”’]?[)\\]]'
)
"""A bracket between sentences that holds sentences, as this: capital, ..., mark."""
_BRACKET_END = re.compile('(?<=[^\\W\\d_]{4})[.!?…]["”’]?[)\\]]\\s+(?=["“‘(]?[^\\W\\d_a-z])')
"""A mark within a bracket that begins in the clause and ends it (as it does here.) And goes on."""
_LONG_BRACKET = re.compile("[(（<{\\[]([^)\\]}>）]{150,})[)\\]}>）]")
"""What sentencex takes for a bracket, but long enough for sentences, or it was never closed."""
_AFTER_END = re.compile(f"[{_ATTACHED}]*{_SPACED_CLOSER}\\s+")
_SPACES = re.compile("[\u0085\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_CLOSED = re.compile(f"[{CLOSERS}]+")
_AFTER_MARK = re.compile(f"(?<=[。！？｡])[{CLOSERS}]*")
"""Chinese and Japanese: sentences end without a space."""
_GOES_ON = re.compile(f"([{_OPENERS}]*[—–]?\\s*)([^\\W\\d_])")
_QUOTING = re.compile("と(?!ても|ころ|にかく)|って")
"""Japanese particles behind what is quoted: the clause goes on."""
_NEXT_QUOTE = re.compile(f"[{_QUOTES}]")
_GLUED_LEFT = re.compile(
    f"(?<![./@_\\\\\\w])((?:[^\\W\\d_]+[-'’])*[^\\W\\d_]{{2,}})([.!?…{CLOSERS}]+)\\Z"
)
_GLUED_RIGHT = re.compile(f"[{_OPENERS}—–]*[^\\W\\d_]+(?:['’-][^\\W\\d_]+)*[,;:.!?]?(?:\\s|\\Z)")
_TOKEN = re.compile("[^\\s(\\[«“„\"'’]+\\Z")
_HYPHENATED_INITIAL = re.compile("[^\\W\\d_]\\.-[^\\W\\d_]\\.")
_VERSE = re.compile("\\d{1,3}:\\d")
"""Chapter and verse, behind the short name of a book: Jer. 4:23."""
_SHORT = re.compile("[^\\W\\d_]{1,4}\\.|\\S*\\.\\S*\\.")
_ORDINAL = re.compile(
    '(?:^|[\\s(„“"])(?:im|am|vom|zum|beim|ins|de[rmns]|des|die|das|dies\\w{1,2}|sein\\w{1,2}|'
    "ihr\\w{1,2}|jede\\w?|\\d{1,2}\\. (?:und|bis|oder)) \\d{1,2}\\.\\Z",
    re.IGNORECASE,
)
_NO_NOUN = frozenset(
    "Er Sie Es Ich Wir Ihr Man Der Die Das Den Dem Des Ein Eine Einen Einem Dann Danach Da Dabei "
    "Damit Daher Dort Doch Aber Und Oder Also Auch So Nach Vor In Im Am An Auf Aus Bei Mit Von Zu "
    "Zum Zur Als Wenn Weil Während Seit Bis Für Um Nur Noch Nun Jetzt Heute Hier Wie Was Wer Wo "
    "Warum Sein Seine Ihre Diese Dieser Dieses Nicht Kein Keine Alle Beide".split()
)
_TITLES = {
    "fr": "M. MM. Mme. Mmes. Mlle. Mlles. Dr. Pr. Prof. Mgr. St. Ste. cf. av. apr. éd.",
    "de": "Dipl.-Ing. Dipl.-Kfm. Dr.-Ing. Ing. Hr. Hrn. Fr. Frl. Hrsg. Mag. Mgr.",
    "es": "D. Dña. Sr. Sra. Srta. Dr. Dra. Sto. Sta. Prof. Mons.",
    "it": "S. SS. Sig. Dott. On. Ing. Avv. Mons. Prof.",
    "pt": "S. D. Sto. Sta. Sr. Sra. Dr. Dra. Av. Exmo. Exma. Eng. Prof. Profa.",
    "ru": "Им. им. Св. св. ул. оз. проф. Проф. акад. пос. дер.",
    "uk": "Ім. ім. Св. св. вул. проф. Проф. акад.",
    "nl": "Dhr. dhr. Mevr. mevr. Mw. mw. Ds. ds. Mgr. Prof. Dr. dr. Ir. ir.",
}
"""Abbreviations that stand before a name and so end no sentence."""
_COUNTED = {
    "en": "p. pp. vol. vols. Vol. chap. ca. No. Nos.",
    "fr": "p. pp. n. chap. vol. t. fig. env. janv. févr. avr. juill. sept. oct. nov. déc.",
    "es": "p. pp. pág. págs. n. núm. cap. vol. fig. ca.",
    "it": "p. pp. pag. pagg. n. cap. vol. fig. ca. gen. feb. apr. lug. ago. sett. ott. nov. dic.",
    "pt": "p. pp. pág. págs. n. cap. vol. fig. jan. fev. abr. ago. set. out. nov. dez.",
    "ru": "рис. Рис. табл. илл. гл. стр. ст. п. т. с.",
    "uk": "рис. Рис. табл. стор. ст. п. т. с.",
    "nl": "jan. feb. febr. mrt. apr. aug. sept. okt. nov. dec. blz. nr. fig. art. ca.",
}
"""Abbreviations that end no sentence where a number follows."""


class _Rules(NamedTuple):
    titles: frozenset[str] = frozenset()
    counted: frozenset[str] = frozenset()
    has_ordinals: bool = False


_FIRST, _LAST, _FOURTH_LAST = itemgetter(0), itemgetter(-1), itemgetter(slice(-4, -3))
_NO_RULES = _Rules()
_RULES = {
    code: _Rules(
        frozenset(_TITLES.get(code, "").split()),
        frozenset(_COUNTED.get(code, "").split()),
        code == "de",
    )
    for code in {*_TITLES, *_COUNTED}
}


def segment(language: str, text: str) -> list[str]:
    """Return the sentences of a paragraph with the space between them: joined they are the text.

    The text is short, some 20,000 characters: the time of sentencex grows with its square.

    Args:
        language: Code of sentencex, `fr`, or with a region, `pt-br`.
        text: One paragraph; of several, the blank line between two is a part of its own.
    """
    rules = _RULES.get(language.partition("-")[0].lower(), _NO_RULES)
    found = _of_sentencex(language, text)
    if rules.titles or not _are_plain(found, text):
        found = _parts(text, _checked(text, _borders(found, text), rules))
    is_ascii = text.isascii()
    if is_ascii and not _may_protect(text):
        return found
    sentences: list[str] = []
    for part in found:
        inner = [part]
        if _may_protect(part) and _may_end_inside(part):
            inner = _parts(part, _checked(part, _in_quotes(language, part), rules))
        if not is_ascii:
            inner = [last for one in inner for last in _split_missed(one)]
        sentences += inner
    return sentences


def _of_sentencex(language: str, text: str) -> list[str]:
    """Return the sentences of sentencex, which may lose white space.

    Its 1.0.32 panics at a single capital, a no-break space and a full stop: it gets common spaces.
    """
    import sentencex

    if text.isascii():
        return list(sentencex.segment(language, text))
    plain = _SPACES.sub(" ", text)
    found = list(sentencex.segment(language, plain))
    return found if plain == text else _parts(text, _borders(found, plain))


def _are_plain(found: list[str], text: str) -> bool:
    """Return whether all sentences end with a space and begin with a capital: most of English."""
    if sum(map(len, found)) != len(text) or "-" in "".join(map(_FOURTH_LAST, found)):
        return False  # white space was lost, or perhaps J.-P.
    if len(found) < 2:
        return True
    firsts = "".join(map(_FIRST, found[1:]))
    return firsts.isalpha() and firsts.isupper() and "".join(map(_LAST, found[:-1])).isspace()


def _may_protect(text: str) -> bool:
    """Return whether there may be a quotation or bracket: quick, as most have none."""
    if not text.isascii():
        return _PROTECTED.search(text) is not None
    if '"' in text or "(" in text or " '" in text or "[" in text:
        return True
    return "<" in text or "{" in text or "`" in text or text[:1] == "'"


def _may_end_inside(text: str) -> bool:
    """Return whether a sentence may end before the last one does."""
    if _INNER_END.search(text):
        return True
    return not text.isascii() and _INNER_MARK.search(text) is not None


def _parts(text: str, borders: list[int]) -> list[str]:
    if not borders:
        return [text]
    return [text[start:end] for start, end in pairwise([0, *borders, len(text)])]


def _borders(found: list[str], text: str) -> list[int]:
    """Return where the sentences of sentencex but the first begin; it may lose white space."""
    borders, place = [], 0
    for sentence in found:
        begin = place if text.startswith(sentence, place) else text.find(sentence, place)
        if begin >= 0:
            borders.append(begin)
            place = begin + len(sentence)
    return borders[1:]


def _in_quotes(language: str, text: str) -> list[int]:
    """Return where sentences begin if there were no quotation marks: each is read as a space.

    A closing mark stays with the sentence that it ends, an opening one goes to the next.
    """
    masked = _WHOLE_BRACKET.sub(lambda found: f" {found[0][1:-1]} ", text)
    masked = _MASKED.sub(" ", masked)
    if len(text) > 150:
        last = max(map(masked.rfind, ")]}>）")) + 1
        masked = _LONG_BRACKET.sub(r" \1 ", masked[:last]) + masked[last:]
    found_ends = {end.end() for end in _BRACKET_END.finditer(text)}
    for border in _borders(_of_sentencex(language, masked), masked):
        end = border
        while end and masked[end - 1].isspace():
            end -= 1
        found = _AFTER_END.match(text, end) or _AFTER_MARK.match(text, end)
        if end and found and found.end() < len(text):
            found_ends.add(found.end())
    return [
        end
        for end in sorted(found_ends)
        if not _goes_on(text, end) and not _closes_a_phrase(text, end)
    ]


def _goes_on(text: str, border: int) -> bool:
    """Return whether small letters follow, also behind a dash; Georgian has no others."""
    found = _GOES_ON.match(text, border)
    return bool(found and found[2].islower() and not "\u10d0" <= found[2] <= "\u10ff")


def _closes_a_phrase(text: str, border: int) -> bool:
    """Return whether the next quotation mark ends a title or phrase within a clause.

    As in: He sang "Stop! In the Name of Love" with her.
    """
    found = _NEXT_QUOTE.search(text, border, border + 300)
    if not found or not text[found.start() - 1].isalpha():
        return False
    after = text[found.end() : found.end() + 2]
    return len(after) == 2 and after[0] == " " and after[1].islower()


def _checked(text: str, borders: list[int], rules: _Rules) -> list[int]:
    """Return the borders that are ends of sentences, in order, some of them moved."""
    kept = []
    last = 0
    for border in borders:
        place = border
        if not text[border - 1].isspace():
            place = _unspaced(text, border)
        elif not text.endswith("\n\n", 0, border) and _is_inside(text, border, rules):
            continue
        if last < place < len(text):
            kept.append(place)
            last = place
    return kept


def _is_inside(text: str, border: int, rules: _Rules) -> bool:
    """Return whether a sentence goes on behind a mark and a space."""
    left = text[max(0, border - 40) : border].rstrip()
    is_quote = left[-1:] in "\"'”’»“"
    if (is_quote or text[border] in "—–") and _goes_on(text, border):
        return True
    found = _TOKEN.search(left)
    if not found or left[-1] != ".":
        return False
    if _is_abbreviation(found[0], text, border, rules):
        return True
    return rules.has_ordinals and _is_ordinal(left, text, border)


def _is_abbreviation(token: str, text: str, border: int, rules: _Rules) -> bool:
    """Return whether a token with a full stop is short for a word and the sentence goes on."""
    first = text[border]
    if first.isdigit():
        return token in rules.counted or bool(len(token) < 7 and _VERSE.match(text, border))
    if rules.titles and first.islower():
        return bool(_SHORT.fullmatch(token))
    if _HYPHENATED_INITIAL.fullmatch(token):
        return token != "J.-C."
    if token in ("a.", "d.") and text.startswith("C.", border):
        return bool(rules.titles)
    return token in rules.titles


def _is_ordinal(left: str, text: str, border: int) -> bool:
    """Return whether a German number with a stop counts the noun that follows."""
    if not left[-2:-1].isdigit():
        return False
    word = re.match("\\w+", text[border : border + 40])
    if not word or word[0] in _NO_NOUN:
        return False
    if word[0].startswith("Jahrhundert"):
        return True
    return bool(_ORDINAL.search(left))


def _unspaced(text: str, border: int) -> int:
    """Return where a border without white space before it belongs; 0: it is none."""
    before, after = text[border - 1], text[border]
    if (
        before in "\"'“„«»‘‹›"
        and (border == 1 or text[border - 2].isspace())
        and not after.isspace()
    ):
        return border - 1  # an opening mark belongs to what it opens
    if before in "。！？｡」』":
        closed = _CLOSED.match(text, border)
        place = closed.end() if closed else border
        return 0 if text[place - 1] in "」』" and _QUOTING.match(text, place) else place
    if before not in ".!?…\"'”’»)":
        return border
    closed = _AFTER_END.match(text, border)
    if closed:
        return 0 if _goes_on(text, closed.end()) else closed.end()
    return border if _begins_unspaced(text, border) else 0


def _begins_unspaced(text: str, border: int) -> bool:
    """Return whether a sentence begins where a space is missing, not the rest of a name or URL."""
    after = text[border]
    if not after.isupper():
        is_rest = after in "-‑,:;%)]}/_&=" or after.isdigit()
        return not is_rest and not _goes_on(text, border)
    left = _GLUED_LEFT.search(text[max(0, border - 40) : border])
    is_acronym = text[border + 1 : border + 2].isupper()
    if not left or is_acronym or not _GLUED_RIGHT.match(text, border):
        return False
    is_closed = bool(left[2].strip(".!?…"))
    return is_closed or left[1][-3:].islower()


def _split_missed(sentence: str) -> Iterator[str]:
    """Yield the parts of what sentencex took for one sentence."""
    borders = []
    if _MAY_MISS.search(sentence):
        borders = [found.end() for found in _MISSED.finditer(sentence)]
    if "…" in sentence:
        for found in _ELLIPSIS.finditer(sentence):
            end = found.end()
            opened = sentence.rfind("(", 0, end) > sentence.rfind(")", 0, end)
            capital = found[1] is None or found[1].isupper()
            if capital and not opened and not _closes_a_phrase(sentence, end):
                borders.append(end)
        borders.sort()
    start = 0
    for border in borders:
        yield sentence[start:border]
        start = border
    yield sentence[start:]
