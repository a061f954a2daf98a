"""`score`: pretrained encoders compared on texts or minimal pairs, without any training of them.

Invariant: all bundles score the same texts, so their differences are paired; a file is written
whole or not at all.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

from data_prep.command import counted
from data_prep.files import new_file, write_json
from pretrain.minimal_pairs import Pair, PairColumns, holds_pairs, read_pairs
from pretrain.score_tables import (
    Line,
    as_json,
    outcome,
    pair_lines,
    pair_table,
    text_lines,
    text_table,
)
from training.command_line import parse_options
from training.run_config import BUNDLE_FOLDER

if TYPE_CHECKING:
    from ponet.scoring import TextScore

PROGRAM = "ponet-pretrain score"
_NOWHERE = Path()


@dataclass(frozen=True, kw_only=True)
class _TextOptions:
    """What is scored by what, and how."""

    bundles: tuple[Path, ...]
    """Folders of bundles, or of runs that hold one; the others are compared with the first."""
    input: str
    """A file of texts: lines, .jsonl, .csv, .tsv or .parquet, also .gz or .zst, or - for lines from
    stdin. Or minimal pairs: such a table with both sentences in a row, or two contexts and two
    targets (EWoK), or a folder of tables."""
    output: Path = _NOWHERE
    """.json to write: the table and what it rests on."""
    rows: Path = _NOWHERE
    """.jsonl to write: what each bundle gives to each text or pair."""
    method: Literal["word_l2r", "original"] = "word_l2r"
    """What is hidden where a token is scored: it and the pieces of its word to the right of it
    (Kauf and Ivanova 2023), or it alone (Salazar et al. 2020)."""
    field: str = ""
    """Key or column of the text in a table of texts (default: text); meta.text is the text inside
    of meta."""
    max_len: int = 0
    """Longest row in tokens; 0: as in each bundle's pretraining. Longer texts are cut into windows,
    and each token is scored in its own."""
    batch_tokens: int = 0
    """Tokens of a batch, which memory grows with; 0: 65,536 on a GPU, 4,096 a thread on a CPU, up
    to four."""
    precision: Literal["32", "bf16"] = "32"
    """bf16: faster on a GPU or a CPU with AMX or AVX512-BF16, to about two digits."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, ..."""


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(PairColumns, _TextOptions):
    """Compare pretrained encoders by their masked-LM heads, without fine-tuning.

    How likely they find texts (pseudo-perplexity), or how often the right one of two sentences, or
    of two contexts of a sentence, is the likelier one (BLiMP, EWoK and the like).
    """


def run_score(arguments: Sequence[str]) -> None:
    """`score BUNDLE [BUNDLE ...] --input FILE|FOLDER`."""
    options = parse_options(
        ScoreOptions, arguments, program=PROGRAM, positional="bundles", repeated=("bundles",)
    )
    from ponet.encode_files import DEFAULT_FIELD

    _check_files(options)
    names = bundle_names(options.bundles)
    is_pairs = holds_pairs(options.input, options, text=options.field or DEFAULT_FIELD)
    if is_pairs and options.field:
        raise ValueError(
            f"--field {options.field} would do nothing: {options.input} holds minimal pairs, whose "
            "columns are --good, --bad and --context"
        )
    usual = PairColumns()
    for name in ("context", "paradigm", "groups"):
        if not is_pairs and getattr(options, name) != getattr(usual, name):
            raise ValueError(f"--{name} would do nothing: {options.input} holds texts, not pairs")
    score = _score_pairs if is_pairs else _score_texts
    with ExitStack() as stack:  # what was scored is written before a reader of the table may leave
        rows = None
        if options.rows != _NOWHERE:
            path = stack.enter_context(new_file(options.rows))
            rows = stack.enter_context(path.open("w", encoding="utf-8"))
        report, printed = score(options, names, rows)
        if options.output != _NOWHERE:
            options.output.parent.mkdir(parents=True, exist_ok=True)
            write_json(options.output, report)
    print("\n".join(printed))
    for given in (options.output, options.rows):
        if given != _NOWHERE:
            print(f"written: {given}")


def bundle_names(folders: Sequence[Path]) -> list[str]:
    """Return what the bundles are called: the last parts of their paths that tell them apart.

    Raises:
        ValueError: One is given twice.
    """
    runs = [f.parent if f.name == BUNDLE_FOLDER else f for f in map(Path.absolute, folders)]
    if len(set(runs)) < len(runs):
        twice = next(run for run in runs if runs.count(run) > 1)
        raise ValueError(f"{twice} is given twice; give every bundle once")
    depth = 1
    while len({run.parts[-depth:] for run in runs}) < len(runs):
        depth += 1
    return ["/".join(run.parts[-depth:]) for run in runs]


def _check_files(options: ScoreOptions) -> None:
    from ponet.encode_files import check_output

    for name, ending in (("output", ".json"), ("rows", ".jsonl")):
        path: Path = getattr(options, name)
        if path != _NOWHERE:
            check_output(f"--{name}", path, options.input, endings=(ending,))
            source = Path(options.input)
            if source.is_dir() and path.absolute().parent == source.absolute():
                raise ValueError(
                    f"--{name} {path} is in the folder of the input, where it would be read as "
                    "pairs the next time; choose another folder"
                )


class _Scorer:
    """Several bundles that score the same texts."""

    def __init__(self, options: ScoreOptions, num_texts: int | None) -> None:
        """Load all, and refuse what one of them cannot do before any of them begins.

        Args:
            options: Which, and how.
            num_texts: That will be given; None: not known.
        """
        from ponet.bundle import load_bundle
        from ponet.encode_files import device_named
        from ponet.inference import Progress, default_max_len
        from ponet.scoring import SCORED
        from ponet.tokenizer import ids_digest

        device = device_named(options.device)
        self._form: dict[str, Any] = {
            "method": options.method,
            "precision": options.precision,
            "max_len": options.max_len or None,
            "batch_tokens": options.batch_tokens or None,
        }
        self._bundles, digests, self.max_lens = [], [], []
        for folder in options.bundles:
            bundle = load_bundle(folder)
            try:
                bundle.score([], **self._form)
            except ValueError as error:
                raise ValueError(f"{folder}: {error}") from error
            assert bundle.tokenizer_path is not None
            digests.append(ids_digest(bundle.tokenizer_path))
            usual = default_max_len(bundle.model, bundle.metadata)
            self.max_lens.append(options.max_len or usual)
            bundle.model.to(device)
            self._bundles.append(bundle)
        self.is_comparable = [digest == digests[0] for digest in digests]
        """Whether a bundle cuts texts into the same tokens as the first."""
        self._num_tokens, self._num_unknown = [0] * len(digests), [0] * len(digests)
        num_scores = None if num_texts is None else num_texts * len(self._bundles)
        self._progress = Progress(num_scores, told=SCORED)

    def __call__(
        self, texts: Sequence[str], contexts: Sequence[str] | None = None
    ) -> "list[list[TextScore]]":
        """Return what each bundle gives to each text."""
        form = {"contexts": contexts, "progress": self._progress, **self._form}
        found = [bundle.score(texts, **form) for bundle in self._bundles]
        for number, scores in enumerate(found):
            self._num_unknown[number] += sum(score.num_unknown for score in scores)
            self._num_tokens[number] += sum(score.num_tokens for score in scores)
        return found

    def notes(self, names: Sequence[str]) -> Iterator[str]:
        """Yield what makes all these scores doubtful."""
        counts = zip(names, self._num_unknown, self._num_tokens, strict=True)
        for name, unknown, tokens in counts:
            if unknown:
                yield (
                    f"NOTE: {unknown:,} of {tokens:,} tokens are unknown to the tokenizer of "
                    f"{name} ([UNK]), which pretraining here never asks for: what they add to a "
                    "score says little"
                )


def _score_texts(
    options: ScoreOptions, names: Sequence[str], rows: TextIO | None
) -> tuple[dict[str, Any], list[str]]:
    """Score a file of texts; return what --output says, and what is printed."""
    from ponet.encode_files import TextFile, in_blocks
    from ponet.inference import BLOCK_TEXTS

    texts = TextFile(options.input, field=options.field or None)
    # Read once before the work begins: a bad last line must not cost what stands before it.
    scorer = _Scorer(options, None if texts.is_stream else sum(1 for _ in texts))
    scores: list[list[TextScore]] = [[] for _ in names]
    for block in in_blocks(texts, BLOCK_TEXTS):
        start = len(scores[0])
        for name, known, found in zip(names, scores, scorer(block), strict=True):
            known.extend(found)
            for number, score in enumerate(found, start):
                _write(rows, {"bundle": name, "row": number, **score._asdict()})
    lines = text_lines(scores, scorer.is_comparable)
    num_texts, num_scored = len(scores[0]), lines[-1].counts["texts"]
    printed = [f"{counted(num_texts, 'text(s)')} of {options.input} ({options.method})"]
    printed += text_table(lines, names)
    if num_texts > num_scored:
        left = counted(num_texts - num_scored, "text(s)")
        printed.append(f"without a token, and left out: {left}")
    printed += [*_notes(scorer, names, scores), *scorer.notes(names)]
    own = {"num_texts": num_texts, "same_tokenizer": scorer.is_comparable}
    return _report(options, scorer, names, lines, own, measure="nats_per_token"), printed


def _notes(
    scorer: _Scorer, names: Sequence[str], scores: "Sequence[Sequence[TextScore]]"
) -> Iterator[str]:
    """Yield what makes figures of texts unlike."""
    if not all(scorer.is_comparable):
        yield (
            f"NOTE: not all tokenizers are that of {names[0]}: their tokens are others, and a "
            "pseudo-perplexity a token of one says nothing against that of another"
        )
    shortest, longest = min(scorer.max_lens), max(of.num_tokens for of in scores[0]) + 2
    if shortest < min(longest, max(scorer.max_lens)):
        lengths = ", ".join(map("{} {:,}".format, names, scorer.max_lens))
        yield (
            f"NOTE: longer texts are cut into windows of unlike lengths in tokens ({lengths}); "
            f"give --max_len {shortest} to let all see as much of a text"
        )


def _score_pairs(
    options: ScoreOptions, names: Sequence[str], rows: TextIO | None
) -> tuple[dict[str, Any], list[str]]:
    """Score minimal pairs; return what --output says, and what is printed."""
    from ponet.encode_files import in_blocks
    from ponet.inference import BLOCK_TEXTS
    from ponet.scoring import ContextError

    pairs = read_pairs(options.input, options)
    scorer = _Scorer(options, 2 * len(pairs))
    has_contexts = any(pair.has_contexts for pair in pairs)
    outcomes: list[list[float]] = [[] for _ in names]
    for block in in_blocks(pairs, BLOCK_TEXTS // 2):
        # Both sentences in one call: of the same tokens they get the same number, which is a tie.
        texts = [*(pair.good for pair in block), *(pair.bad for pair in block)]
        contexts = [pair.contexts[n] for n in (0, 1) for pair in block] if has_contexts else None
        try:
            found = scorer(texts, contexts)
        except ContextError as error:
            raise ValueError(f"{block[error.number % len(block)].place}: {error}") from error
        for name, known, scores in zip(names, outcomes, found, strict=True):
            for row in _judged(name, block, scores):
                known.append(row["outcome"])
                _write(rows, row)
    lines = pair_lines(pairs, outcomes)
    num_pairs = counted(len(pairs), "minimal pair(s)")
    printed = [f"{num_pairs} of {options.input} ({options.method})"]
    if any(pair.target for pair in pairs):
        printed[0] += ": a row has two contexts and two targets, which are two pairs"
    printed += [*pair_table(lines, names), *scorer.notes(names)]
    own = {"num_pairs": len(pairs)}
    return _report(options, scorer, names, lines, own, measure="accuracy_percent"), printed


def _judged(
    name: str, pairs: Sequence[Pair], scores: "Sequence[TextScore]"
) -> Iterator[dict[str, Any]]:
    """Yield what is said of each pair; first come the scores of all right sentences."""
    for pair, good, bad in zip(pairs, scores[: len(pairs)], scores[len(pairs) :], strict=True):
        if not (good.num_tokens and bad.num_tokens):
            raise ValueError(
                f"{pair.place}: a sentence has no token in the tokenizer of {name}; take the pair "
                "out"
            )
        yield {
            "bundle": name,
            "file": pair.file,
            "line": pair.line,
            **({"target": pair.target} if pair.target else {}),
            "paradigm": pair.paradigm,
            "groups": pair.groups,
            "good": good._asdict(),
            "bad": bad._asdict(),
            "outcome": outcome(good.log_likelihood, bad.log_likelihood),
        }


def _write(rows: TextIO | None, row: dict[str, Any]) -> None:
    if rows is not None:
        rows.write(json.dumps(row, ensure_ascii=False) + "\n")


def _report(
    options: ScoreOptions,
    scorer: _Scorer,
    names: Sequence[str],
    lines: Sequence[Line],
    own: dict[str, Any],
    *,
    measure: str,
) -> dict[str, Any]:
    """Return the content of --output."""
    return {
        "input": options.input,
        "method": options.method,
        "precision": options.precision,
        "bundles": {
            name: {"folder": str(folder), "max_len": max_len}
            for name, folder, max_len in zip(names, options.bundles, scorer.max_lens, strict=True)
        },
        **own,
        "lines": [as_json(line, names, measure=measure) for line in lines],
    }
