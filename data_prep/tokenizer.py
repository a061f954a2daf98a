"""WordPiece tokenizers: trained on the corpus, the same bytes every time, or loaded.

Training by the `tokenizers` library alone gives another result on every run, because the order
in which characters are numbered is random there. Here all characters are numbered beforehand.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from data_prep.config import TokenizerConfig
from data_prep.files import write_atomic
from data_prep.manifest import SPECIAL_TOKENS, TokenizerInfo


def train_wordpiece(texts: Callable[[], Iterable[str]], config: TokenizerConfig) -> Any:
    """Return a `tokenizers.Tokenizer` trained on texts; equal texts give equal bytes.

    Args:
        texts: Called twice; returns the texts to learn from, in a fixed order.
        config: Size, lowercasing, alphabet and least frequency.
    """
    from tokenizers import Tokenizer, models, trainers

    alphabet = count_alphabet(texts(), config)
    if not alphabet:
        raise ValueError("tokenizer: there is no text to train on; check the sources.")
    needed = len(SPECIAL_TOKENS) + 2 * len(alphabet)
    if config.vocab_size < needed:
        raise ValueError(
            f"tokenizer.vocab_size is {config.vocab_size}, but {len(alphabet)} characters need "
            f"{needed}; enlarge vocab_size or lower alphabet_size."
        )
    continuing = [f"##{character}" for character in alphabet]
    trainer = trainers.WordPieceTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=[*SPECIAL_TOKENS, *continuing],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.normalizer, learner.pre_tokenizer = _bert_parts(config)
    learner.train_from_iterator(texts(), trainer)
    return _bert_tokenizer(learner.get_vocab(), config)


def count_alphabet(texts: Iterable[str], config: TokenizerConfig) -> list[str]:
    """Return the most frequent characters after normalisation, sorted by code point."""
    raw: Counter[str] = Counter()
    for text in texts:
        raw.update(text)
    normalizer, _ = _bert_parts(config)
    counts: Counter[str] = Counter()
    for character, count in raw.items():
        for part in normalizer.normalize_str(character):
            if not part.isspace() and unicodedata.category(part) != "Cs":
                counts[part] += count
    ranked = sorted(counts, key=lambda part: (-counts[part], part))
    return sorted(ranked[: config.alphabet_size])


def _bert_parts(config: TokenizerConfig) -> tuple[Any, Any]:
    from tokenizers import normalizers, pre_tokenizers

    strip = None if config.strip_accents else False  # None: where it lowercases, as in BERT
    normalizer = normalizers.BertNormalizer(lowercase=config.lowercase, strip_accents=strip)
    return normalizer, pre_tokenizers.BertPreTokenizer()


def wordpiece_from_vocab(vocab: dict[str, int], *, lowercase: bool) -> Any:
    """Return a BERT-style tokenizer of a vocabulary with the five special tokens.

    Args:
        vocab: Piece -> id.
        lowercase: Whether to lowercase and strip accents.
    """
    return _bert_tokenizer(vocab, TokenizerConfig(lowercase=lowercase))


def _bert_tokenizer(vocab: dict[str, int], config: TokenizerConfig) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, processors

    missing = [token for token in SPECIAL_TOKENS if token not in vocab]
    if missing:
        raise ValueError(
            f"the vocabulary lacks {', '.join(missing)}; it must hold {', '.join(SPECIAL_TOKENS)}."
        )
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = _bert_parts(config)
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocab[token]) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    return tokenizer


def load_tokenizer(config: TokenizerConfig) -> Any:
    """Return the tokenizer named by `config.path`: `tokenizer.json`, `vocab.txt` or a Hub id.

    The padding and truncation that a `tokenizer.json` may store are left out; `config.add_words`
    stand behind its entries.
    """
    loaded = _loaded(config)
    return _with_words(loaded, Path(config.add_words).expanduser()) if config.add_words else loaded


def _with_words(tokenizer: Any, path: Path) -> Any:
    """Return a tokenizer with further whole words; those that it knows stay as they are."""
    from tokenizers import Tokenizer

    content = json.loads(tokenizer.to_str())
    if content["model"]["type"] != "WordPiece":
        raise ValueError(
            f"tokenizer.add_words {path}: words are added to WordPiece vocabularies alone, and "
            f"this one is {content['model']['type']}; leave it out."
        )
    vocab, size = content["model"]["vocab"], max(tokenizer.get_vocab().values()) + 1
    if not path.is_file():
        raise ValueError(f"tokenizer.add_words {path}: no such file; give one word in a line.")
    splitter = tokenizer.pre_tokenizer
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        text = tokenizer.normalizer.normalize_str(line) if tokenizer.normalizer else line
        words = splitter.pre_tokenize_str(text) if splitter else [(text, (0, len(text)))]
        if len(words) > 1:
            raise ValueError(
                f"tokenizer.add_words {path}, line {number}: {line.strip()!r} is "
                f"{len(words)} words to this tokenizer; give single ones, one in a line."
            )
        if words and words[0][0] not in vocab:
            vocab[words[0][0]] = size
            size += 1
    return Tokenizer.from_str(json.dumps(content))


def _loaded(config: TokenizerConfig) -> Any:
    from tokenizers import Tokenizer

    path = Path(config.path).expanduser()
    if path.is_dir():
        path = path / "tokenizer.json"
    if path.suffix == ".txt" and path.is_file():
        return _bert_tokenizer(read_vocab_txt(path), config)
    if not path.is_file():
        path = _from_hub(config, path)
    TokenizerInfo.from_file(path)
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _from_hub(config: TokenizerConfig, path: Path) -> Path:
    if path.suffix in (".json", ".txt") or config.path.count("/") > 1:
        raise ValueError(
            f"tokenizer.path {config.path}: no such file; give a tokenizer.json, a vocab.txt, "
            "a Hub id such as google-bert/bert-base-uncased, or leave it empty to train one."
        )
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(config.path, "tokenizer.json", revision=config.revision))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"tokenizer.path {config.path}: neither a file here nor to be had from the Hub at "
            f"revision {config.revision} ({type(error).__name__}); download its tokenizer.json "
            "and give the path."
        ) from error


def vocabulary_notes(config: TokenizerConfig) -> list[str]:
    """Return what is odd about a loaded vocabulary: entries that no text can give.

    Capitals where text is lowercased, accents where they are stripped; or no capitals at all where
    text keeps them.
    """
    start = f"tokenizer.path {config.path}: "
    if not config.path:
        return []
    tokenizer = load_tokenizer(config)
    if type(tokenizer.model).__name__ != "WordPiece":
        return []
    words = [piece.removeprefix("##") for piece in tokenizer.get_vocab() if piece[:1] != "["]
    normalized = tokenizer.normalizer.normalize_str if tokenizer.normalizer else str
    lost = sorted(word for word in words if normalized(word).strip() != word.strip())
    keeps_case, keeps_accents = (normalized(mark).strip() == mark for mark in ("A", "é"))
    if not (config.lowercase or keeps_case) or not (config.strip_accents or keeps_accents):
        return [
            f"{start}brings a normaliser of its own, so that lowercase and "
            "strip_accents have no effect; give its vocab.txt to choose them."
        ]
    if len(lost) > len(words) // 100:
        return [
            f"{start}{len(lost):,} of {len(words):,} entries can never "
            f"occur, for the text is lowercased or loses its accents first (such as "
            f"{', '.join(lost[:: max(1, len(lost) // 3)][:3])}); words that need them become "
            "[UNK]. Set tokenizer.lowercase false, or strip_accents false, for this vocabulary."
        ]
    if keeps_case and all(word == word.lower() for word in words) and any(map(str.islower, words)):
        return [
            f"{start}no entry has a capital letter and the text keeps "
            "them: words with one become [UNK]. Set tokenizer.lowercase true."
        ]
    return []


def read_vocab_txt(path: Path) -> dict[str, int]:
    """Return the pieces of a vocab.txt, one in a line, with their numbers.

    Raises:
        ValueError: It is missing or not UTF-8, or a piece stands there twice.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give the path of a vocab.txt")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}); convert it") from error
    vocab: dict[str, int] = {}
    for number, line in enumerate(text.removesuffix("\n").split("\n")):
        first = vocab.setdefault(line, number)
        if first != number:
            where = f"{path}:{number + 1}: {line!r} stands in line {first + 1} too"
            raise ValueError(f"{where}, so numbers are not clear; give the unchanged file")
    return vocab


def save_tokenizer(tokenizer: Any, path: str | Path) -> TokenizerInfo:
    """Write a `tokenizer.json` at once; return its description."""
    write_atomic(path, tokenizer.to_str(pretty=False).encode("utf-8"))
    return TokenizerInfo.from_file(path)


def iterate_limited(texts: Iterable[str], piece_chars: int = 20_000) -> Iterator[str]:
    """Yield texts in pieces of bounded length, cut at spaces, so that memory stays bounded."""
    for text in texts:
        start = 0
        while len(text) - start > piece_chars:
            end = max(0, text.rfind(" ", start + 1, start + piece_chars)) or start + piece_chars
            yield text[start:end]
            start = end
        yield text[start:]
