"""What a learned hash table knows a word by: its attributes, as strings to hash."""

import re
from itertools import groupby

LONGEST_END = 4
NUM_TRIGRAMS = 16
_RUN = 4


def attributes_of(word: str) -> list[str]:
    """Return 26 strings: name and value of each attribute; the same number for every word.

    They are the word in lower case, its first and last 1 to 4 letters, its shape and 16 trigrams
    with the word's borders. A shorter word repeats some of its trigrams, about equally often; of a
    longer one every second or third is left out.

    Source:
        MultiHashEmbed of spaCy (lower case, prefix, suffix, shape) and fastText (arXiv
        1607.04606, trigrams with borders), in one table.
    """
    lower = word.lower()
    ends = range(1, LONGEST_END + 1)
    found = [f"lower {lower}", f"shape {shape_of(word)}"]
    found += [f"prefix{size} {lower[:size]}" for size in ends]
    found += [f"suffix{size} {lower[-size:]}" for size in ends]
    bordered = f"<{lower}>"
    number = max(len(bordered) - 2, 1)
    starts = (place * number // NUM_TRIGRAMS for place in range(NUM_TRIGRAMS))
    return found + [f"trigram {bordered[start : start + 3]}" for start in starts]


def shape_of(word: str) -> str:
    """Return the word with X for capitals, x for other letters, d for digits, runs cut to 4."""
    letters = re.sub(r"\d", "d", re.sub(r"[^\W\d_]", _letter, word))
    return "".join("".join(run)[:_RUN] for _, run in groupby(letters))


def _letter(found: re.Match[str]) -> str:
    return "X" if found[0].isupper() else "x"
