"""Linear baselines: TF-IDF with a linear model for texts, an averaged perceptron for words.

Each is a few lines around a kept library, with settings that were fixed before any test score was
seen (the usual ones; nothing is searched). The same rows give the same answers every time.
"""

import contextlib
import ctypes
import importlib
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

FEW_TEXTS = 2000
"""Below this number a word that occurs once counts too."""
_CERTAIN = 10.0
"""Margin of a label that holds always, beside those of support vectors, which are near 1."""
SHORT_TEXT = 50
"""Words; single texts whose median is not above it are also counted by their letters."""
TOKEN_PATTERN = r"(?u)\b\w+\b|[!?]"
_WINDOW = (-4, -3, -2, -1, 1, 2)
_PAIRS = ((-2, -1), (-1, 0), (0, 1), (1, 2))
Text = tuple[str, str]
"""A text and the second one of a pair; empty: there is none."""


class Answers(NamedTuple):
    """What a linear model says of some texts, in their order, and how large it is."""

    values: list[Any]
    """Labels, numbers, or a tag for every word."""
    num_features: int
    """Different things that it counts."""
    num_weights: int
    """Numbers that were fitted."""


def are_short(texts: Sequence[Text]) -> bool:
    """Return whether letters are worth counting: single texts, most of them short."""
    has_pairs = any(second for _, second in texts)
    return not has_pairs and median(len(first.split()) for first, _ in texts) <= SHORT_TEXT


def classify_texts(
    train: Sequence[Text], labels: Sequence[str], texts: Sequence[Text], *, letters: bool
) -> Answers:
    """Return a label for every text: linear support vectors over weighted counts.

    Args:
        train: Training texts, or pairs of texts.
        labels: Their labels, of two or more kinds.
        texts: What to label.
        letters: Count pieces of 2 to 5 letters within words too; better for short texts.

    Raises:
        ValueError: scikit-learn is not installed, or all training texts have one label.
    """
    with extra("scikit-learn"):
        from sklearn.svm import LinearSVC
    if len(set(labels)) < 2:
        raise ValueError("all training texts have one label; two or more are needed")
    found = _fitted(LinearSVC(C=1.0, random_state=0), train, labels, texts, letters=letters)
    return found._replace(values=[str(label) for label in found.values])


def several_labels(
    train: Sequence[Text],
    holds: NDArray[np.float32],
    texts: Sequence[Text],
    *,
    letters: bool,
) -> Answers:
    """Return for every text how much speaks for each label, a list of numbers.

    Linear support vectors over the counts of `classify_texts`, for every label by itself against
    the rest; none of it is a probability. A label that no training text has, or every one, is
    certain.

    Args:
        train: Training texts, or pairs of texts.
        holds: (rows, labels), 1 where a label holds.
        texts: What to label.
        letters: See `classify_texts`.

    Raises:
        ValueError: scikit-learn is not installed.
    """
    with extra("scikit-learn"):
        from sklearn.multiclass import OneVsRestClassifier
        from sklearn.svm import LinearSVC
    counts = _counts(train, letters=letters)
    counted = counts.fit_transform(train)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Label (not )?[0-9]+ is present in all")
        model = OneVsRestClassifier(LinearSVC(C=1.0, random_state=0)).fit(counted, holds)
    margins = model.decision_function(counts.transform(texts)).reshape(len(texts), -1)
    is_constant = holds.min(0) == holds.max(0)  # its margin is 0, a half for the common threshold
    margins[:, is_constant] = np.where(holds[0, is_constant] > 0, _CERTAIN, -_CERTAIN)
    found = [estimator for estimator in model.estimators_ if hasattr(estimator, "coef_")]
    num_weights = sum(np.size(one.coef_) + np.size(one.intercept_) for one in found)
    return Answers(margins.tolist(), int(counts.transform(texts[:1]).shape[1]), int(num_weights))


def predict_scores(
    train: Sequence[Text], scores: Sequence[float], texts: Sequence[Text], *, letters: bool
) -> Answers:
    """Return a number for every text: ridge regression over the counts of `classify_texts`.

    Raises:
        ValueError: scikit-learn is not installed.
    """
    with extra("scikit-learn"):
        from sklearn.linear_model import Ridge
    found = _fitted(Ridge(alpha=1.0), train, scores, texts, letters=letters)
    return found._replace(values=[float(score) for score in found.values])


def _fitted(
    model: Any, train: Sequence[Text], targets: Sequence[Any], texts: Sequence[Text], **how: bool
) -> Answers:
    counts = _counts(train, **how)
    model.fit(counts.fit_transform(train), targets)
    num_weights = np.size(model.coef_) + np.size(model.intercept_)
    answers = list(model.predict(counts.transform(texts)))
    return Answers(answers, int(model.n_features_in_), int(num_weights))


def _counts(train: Sequence[Text], *, letters: bool) -> Any:
    """What counts words and word pairs of each text apart, and how much the two share."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_union
    from sklearn.preprocessing import FunctionTransformer

    least = 2 if len(train) >= FEW_TEXTS else 1
    has_pairs = any(second for _, second in train)
    parts = []
    for read in (_first, _second)[: 1 + has_pairs]:
        shared = {"preprocessor": read, "min_df": least, "sublinear_tf": True}
        parts.append(TfidfVectorizer(ngram_range=(1, 2), token_pattern=TOKEN_PATTERN, **shared))
        if letters:
            parts.append(TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), **shared))
    return make_union(*parts, *[FunctionTransformer(overlaps)] * has_pairs)


def _first(text: Text) -> str:
    return text[0].lower()


def _second(text: Text) -> str:
    return text[1].lower()


def overlaps(texts: Sequence[Text]) -> NDArray[np.float64]:
    """Return how much the two texts of each pair share, (texts, 5), in [0, 1].

    The share of each one's words, then word pairs, that the other has too; the shorter length as a
    share of the longer one.
    """
    rows = []
    for first, second in texts:
        words = [text.lower().split() for text in (first, second)]
        singles = [set(found) for found in words]
        doubles = [set(zip(found, found[1:], strict=False)) for found in words]
        shares: list[float] = []
        for one, other in (singles, doubles):
            both = len(one & other)
            shares += [both / max(1, len(one)), both / max(1, len(other))]
        lengths = [max(1, len(found)) for found in words]
        rows.append([*shares, min(lengths) / max(lengths)])
    return np.array(rows)


def tag_words(
    train: Sequence[Sequence[str]],
    tags: Sequence[Sequence[str]],
    texts: Sequence[Sequence[str]],
    *,
    passes: int = 15,
) -> Answers:
    """Return the tags of every text: averaged structured perceptron over a linear chain.

    Args:
        train: Training texts as words.
        tags: Theirs.
        texts: What to tag.
        passes: Over the training texts.

    Raises:
        ValueError: python-crfsuite is not installed.
    """
    with extra("python-crfsuite"):
        import pycrfsuite
    with contextlib.suppress(OSError, AttributeError, TypeError):  # where C's library has no name
        ctypes.CDLL(None).srand(1)  # crfsuite shuffles by C's rand(): as in a fresh process
    trainer = pycrfsuite.Trainer(verbose=False)
    trainer.select("ap")
    trainer.set_params({"max_iterations": passes})
    for words, names in zip(train, tags, strict=True):
        trainer.append(word_features(words), list(names))
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "tagger")
        trainer.train(path)
        tagger: Any = pycrfsuite.Tagger()
        tagger.open(path)
        found = [tuple(tagger.tag(word_features(words))) for words in texts]
        info = tagger.info()
        tagger.close()
    num_weights = len(info.state_features) + len(info.transitions)
    return Answers(found, len(info.attributes), num_weights)


def check_packages() -> None:
    """Refuse to begin without what baselines need.

    Raises:
        ValueError: Names the package that is not installed.
    """
    for package, module in (("scikit-learn", "sklearn"), ("python-crfsuite", "pycrfsuite")):
        with extra(package):
            importlib.import_module(module)


@contextlib.contextmanager
def extra(package: str) -> Iterator[None]:
    """Say how to install a package, where importing it fails."""
    try:
        yield
    except ImportError as error:
        raise ValueError(
            f"a baseline needs {package}, which is not installed; run `pip install "
            "-c constraints.txt -e '.[baselines]'`"
        ) from error


def word_features(words: Sequence[str]) -> list[list[str]]:
    """Return the features of every word: itself, affixes of 2 to 4 letters, shape, neighbours."""
    lowered = [word.lower() for word in words]

    def at(place: int) -> str:
        return lowered[place] if 0 <= place < len(words) else f"<{place < 0}>"

    def of(place: int) -> Iterator[str]:
        word = lowered[place]
        yield from ("bias", f"w={word}", f"shape={word_shape(words[place])}")
        for size in range(2, 5):
            yield f"pre={word[:size]}"
            yield f"suf={word[-size:]}"
        yield from (f"w{step}={at(place + step)}" for step in _WINDOW)
        yield from (f"w{a},{b}={at(place + a)}|{at(place + b)}" for a, b in _PAIRS)

    return [list(of(place)) for place in range(len(words))]


def word_shape(word: str) -> str:
    """Return letters as x and X, digits as 9, the rest as it is; repeats once."""
    shape = ""
    for letter in word:
        kind = "X" if letter.isupper() else "x" if letter.isalpha() else letter
        kind = "9" if letter.isdigit() else kind
        shape += kind if not shape.endswith(kind) else ""
    return shape
