"""Raw text to sentences, the pooling segments of pretraining.

Invariant: the sentences are those of data preparation, with headings kept, once the text has the
form that it gives to a document: paragraphs of single lines.
"""

import re
from collections import Counter

from data_prep.config import LANGUAGES, SentencesConfig
from data_prep.sentences import split_sentences

MAX_PARAGRAPH_CHARS = SentencesConfig().max_paragraph_chars
_BLANK_LINE = re.compile(r"\n\s*\n")
_SURROGATE = re.compile("[\ud800-\udfff]")


def sentences_of(text: str, *, language: str = "en") -> list[str]:
    """Return the sentences of a text in order; nothing but white space is lost.

    Args:
        text: Paragraphs are parted by blank lines; other line breaks count as spaces. A lone
            surrogate, which is half a character, counts as U+FFFD.
        language: Language code; one that is not known is cut by the rules of English.
    """
    parts = _BLANK_LINE.split(_SURROGATE.sub("\ufffd", text))
    paragraphs = [" ".join(part.split()) for part in parts if part.strip()]
    if not paragraphs:
        return []
    config = SentencesConfig(language=language if language in LANGUAGES else "en")
    return split_sentences("\n\n".join(paragraphs), config, Counter())
