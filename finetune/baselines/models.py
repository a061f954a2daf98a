"""Linear baselines: TF-IDF with a linear classifier for texts, a linear-chain model for words.

Both are a few lines around kept libraries, with settings that were fixed before any test score was
seen (the usual ones; nothing is searched).
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

FEW_TEXTS = 2000
"""Below this number a word that occurs once counts too."""
TOKEN_PATTERN = r"(?u)\b\w+\b|[!?]"
_WINDOW = (-4, -3, -2, -1, 1, 2)
_PAIRS = ((-2, -1), (-1, 0), (0, 1), (1, 2))


def classify_texts(
    train: Sequence[str], labels: Sequence[str], texts: Sequence[str], *, characters: bool = False
) -> list[str]:
    """Return a label for every text: TF-IDF of words and word pairs, linear support vectors.

    Args:
        train: Training texts.
        labels: Their labels, of two or more kinds.
        texts: What to label.
        characters: Count pieces of 2 to 5 letters within words too; better for short texts.

    Raises:
        ImportError: scikit-learn is not installed; says what to install.
        ValueError: All training texts have one label.
    """
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import make_pipeline, make_union
        from sklearn.svm import LinearSVC
    except ImportError as error:
        raise ImportError("baselines need scikit-learn: pip install 'ponet[baselines]'") from error
    if len(set(labels)) < 2:
        raise ValueError("all training texts have one label; two or more are needed")
    least = 2 if len(train) >= FEW_TEXTS else 1
    counts = [
        TfidfVectorizer(
            ngram_range=(1, 2), min_df=least, sublinear_tf=True, token_pattern=TOKEN_PATTERN
        )
    ]
    if characters:
        counts.append(
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), min_df=least, sublinear_tf=True)
        )
    model = make_pipeline(make_union(*counts), LinearSVC(C=1.0))
    model.fit(train, labels)
    return [str(label) for label in model.predict(texts)]


def predict_scores(
    train: Sequence[str], scores: Sequence[float], texts: Sequence[str]
) -> list[float]:
    """Return a number for every text: ridge regression over TF-IDF of words and word pairs.

    Raises:
        ImportError: scikit-learn is not installed; says what to install.
    """
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import Ridge
        from sklearn.pipeline import make_pipeline
    except ImportError as error:
        raise ImportError("baselines need scikit-learn: pip install 'ponet[baselines]'") from error
    counts = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=TOKEN_PATTERN)
    model = make_pipeline(counts, Ridge(alpha=1.0))
    model.fit(train, scores)
    return [float(score) for score in model.predict(texts)]


def tag_words(
    train: Sequence[Sequence[str]],
    tags: Sequence[Sequence[str]],
    texts: Sequence[Sequence[str]],
    *,
    passes: int = 15,
) -> list[tuple[str, ...]]:
    """Return a tag for every word: averaged structured perceptron over a linear chain.

    Args:
        train: Training texts as words.
        tags: Theirs.
        texts: What to tag.
        passes: Over the training texts.

    Raises:
        ImportError: python-crfsuite is not installed; says what to install.
    """
    try:
        import pycrfsuite
    except ImportError as error:
        raise ImportError(
            "baselines need python-crfsuite: pip install 'ponet[baselines]'"
        ) from error
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
        tagger.close()
    return found


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
