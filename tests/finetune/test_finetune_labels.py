"""What is said about the names of classes."""

import unicodedata

import pytest

from finetune.tasks.labels import label_hints

NFD = unicodedata.normalize("NFD", "schön")


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        (("BAD", "Bad", "bad", "good"), ["'BAD', 'Bad', 'bad' differ in case"]),
        (("schön", NFD, "gut"), ["look the same (Unicode forms); they count as 2 classes"]),
        (("1", "1.0", "2"), ["'1', '1.0' are the same number"]),
        (("01", "1"), ["'01', '1' are the same number"]),
        (("bad", "good", "nan"), ["'nan' is what programs write for a missing value"]),
        (("N/A", "good"), ["'N/A' is what"]),
        (("bad", "bad,late", "late"), ["'bad,late' looks like several"]),
        (("bad", "bad | late"), ["'bad | late' looks like several"]),
        (("bad", "good"), []),
        (("0", "1"), []),
        (("Paris, France", "Rome, Italy"), []),
        ((), []),
    ],
)
def test_odd_labels_are_told(labels: tuple[str, ...], wanted: list[str]) -> None:
    hints = label_hints(labels)
    assert len(hints) == len(wanted)
    assert all(text in hint for text, hint in zip(wanted, hints, strict=True))
