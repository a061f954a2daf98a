"""`explain`: new rows -> which words decided each answer, as a page and as JSON lines.

Invariant: rows are streamed and their order is kept; a row that cannot be explained costs nothing
but itself; the page loads nothing from elsewhere.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from data_prep.command import counted
from data_prep.files import new_file
from finetune.artifact import load_classifier
from finetune.deciding import Decider, Explanation, Method
from finetune.predict import NewRows, Predictor, Unanswered, count_rows, new_rows
from finetune.tasks.incoming import BadRow, InputReader
from finetune.tasks.spec import Row
from ponet.inference import Progress
from training.command_line import parse_options
from training.reports.page import Cell, render

TEMPLATE = "words.j2"
LISTED = 12
"""Words in the table of a text."""
_FAINTEST = 0.04
"""A word that gave less than this share of the greatest has no colour."""
_NO_ANSWER = {"line", "error"}
"""Keys of the line of a row that cannot be explained."""


@dataclass(frozen=True, kw_only=True)
class ExplainConfig(NewRows):
    """Say which words decided a classifier's answers."""

    output: str
    """Page to write, .html; the same as JSON lines is written beside it, .jsonl, in the place of
    nothing but the lines of an earlier page."""
    method: Method = "pools"
    """pools: what PoNet's segment and local maxima and its global pool took from each word, and
    what that gave to the answer. removal: the answer less the answer to the text without the word,
    for any encoder; it computes a text for each word."""
    label: str = ""
    """Explain the answer that it is this label; empty: the likeliest one, where several may hold of
    those that predict gives, if it gives any."""
    page_rows: int = 50
    """Rows on the page, from the first, >= 1; the JSON lines have all of them."""

    def __post_init__(self) -> None:
        """Check ranges and the ending of the output."""
        super().__post_init__()
        if Path(self.output).suffix.lower() != ".html":
            raise ValueError(f"--output {self.output} must end in .html")
        if self.page_rows < 1:
            raise ValueError(f"page_rows is {self.page_rows}; it must be 1 or more")


def run_explain(arguments: Sequence[str]) -> Path:
    """Write the page and the JSON lines of all input rows, and return the page."""
    config = parse_options(ExplainConfig, arguments, program="ponet-finetune explain")
    classifier = load_classifier(config.model, max_len=config.max_len)
    predictor = Predictor(classifier, source=config.input, batch_size=config.batch_size)
    decider = Decider(predictor, method=config.method, label=config.label)
    reader, notes = new_rows(config, classifier.info), Counter[str]()
    num_rows = count_rows(reader, notes)
    page = Path(config.output)
    lines = page.with_suffix(".jsonl")
    _check_replaceable(lines, config)
    with new_file(page) as page_path, new_file(lines) as lines_path:
        with lines_path.open("w", encoding="utf-8", newline="") as stream:
            shown, bad = _write(decider, reader, stream, num_rows=num_rows, most=config.page_rows)
        content = {"texts": shown, "num_rows": num_rows, "lines": lines.name, "config": config}
        content["scores"] = classifier.info.is_regression
        page_path.write_text(render(TEMPLATE, "html", **content), encoding="utf-8", newline="")
    print(f"{counted(num_rows, 'row(s)')}: {lines}; {len(shown):,} of them: {page}")
    for what, count in (+notes).items():
        print(f"{count:,} {what}")
    bad.warn("could not be explained, kept with the reason", config.input)
    return page


def _check_replaceable(lines: Path, config: ExplainConfig) -> None:
    """Refuse to write lines over the input, or over a file that holds no explanations."""
    if not lines.is_file():
        return
    if lines.resolve() == Path(config.input).resolve():
        raise ValueError(
            f"--output {config.output}: {lines} beside it is the input; give another name"
        )
    with lines.open("rb") as stream:
        first = stream.readline()
    try:
        told = json.loads(first)
    except (ValueError, RecursionError):
        told = None
    is_explanation = isinstance(told, dict) and ("words_cut" in told or told.keys() == _NO_ANSWER)
    if first and not is_explanation:
        raise ValueError(
            f"--output {config.output}: the lines would be written to {lines}, which holds "
            "something other than explanations; give the page another name, or move that file away"
        )


def _write(
    decider: Decider, reader: InputReader, stream: TextIO, *, num_rows: int, most: int
) -> tuple[list[dict[str, Any]], Unanswered]:
    """Write a line for every row; return what the page shows, and the rows without an answer."""
    shown, bad = list[dict[str, Any]](), Unanswered()
    progress = Progress(num_rows, told="{done:,.0f}{of} rows, {rate:,.2f} rows/s")
    for number, item in enumerate(reader.rows(), 1):
        row = item.row
        told = _explained(decider, row)
        stream.write(json.dumps(told, ensure_ascii=False) + "\n")
        if "error" in told:
            bad.add(told["line"], told["error"])
        if number <= most:
            texts = (row.text, row.text_pair) if isinstance(row, Row) else ()
            shown.append(page_text(told, texts))
        progress.add(1)
    return shown, bad


def _explained(decider: Decider, row: Row | BadRow) -> Explanation:
    if isinstance(row, BadRow):
        return {"line": row.line, "error": row.reason}
    try:
        return decider(row)
    except ValueError as error:
        return {"line": row.line, "error": str(error)}


def page_text(told: Explanation, texts: Sequence[str]) -> dict[str, Any]:
    """Return what the page shows of a row: a title, parts of its texts with tones, and a table.

    Args:
        told: What `Decider` returned, or a line with an error.
        texts: The text, and the second one of a pair.
    """
    title = f"Line {told['line']}: "
    if "error" in told:
        return {"title": title + "no answer", "note": told["error"], "texts": [], "table": []}
    if "score" in told:
        title += f"{told['score']:.6g}"
    else:
        title += f"{told['label']} ({told['probability']:.1%})"
    if "labels" in told:
        names = ", ".join(told["labels"])
        title += f"; labels given: {names}" if names else "; no label is given"
    greatest = max((abs(word["given"]) for word in told["words"]), default=0.0) or 1.0
    parts = [
        _parts(text, [word for word in told["words"] if word["text"] == number], greatest)
        for number, text in enumerate(texts)
        if text
    ]
    note = f"{told['words_cut']:,} words at the end were not read." if told["words_cut"] else ""
    return {"title": title, "note": note, "texts": parts, "table": _table(told)}


def _parts(
    text: str, words: Sequence[Mapping[str, Any]], greatest: float
) -> list[tuple[str, float, str]]:
    """Return a text in pieces: characters, tone in [-1, 1], and what to say of them.

    The piece behind the last word has the tone 0; it is said of it that it was not read.
    """
    parts, done = list[tuple[str, float, str]](), 0
    for word in words:
        tone = word["given"] / greatest
        if abs(tone) >= _FAINTEST:
            parts.append((text[done : word["start"]], 0.0, ""))
            parts.append((text[word["start"] : word["end"]], tone, f"{word['given']:+.3g}"))
            done = word["end"]
    end = words[-1]["end"] if words else 0
    return [*parts, (text[done:end], 0.0, ""), (text[end:], 0.0, "not read")]


def _table(told: Explanation) -> list[list[Cell | str]]:
    """Return the words that gave most, either way, with what the pools took from them."""
    words = sorted(told["words"], key=lambda word: -abs(word["given"]))[:LISTED]
    head: list[Cell | str] = ["word", "gave"]
    if "channels" not in told:
        return [head, *([word["word"], f"{word['given']:+.3f}"] for word in words)]
    head += ["of its segment's maxima", "of all local maxima", "of the global pool"]
    all_local = sum(map(sum, (word["local_maxima"] for word in told["words"]))) or 1.0
    rows: list[list[Cell | str]] = [head]
    for word in words:
        layers = len(word["segment_maxima"])
        shares = (
            sum(word["segment_maxima"]) / layers / told["channels"],
            sum(word["local_maxima"]) / all_local,
            sum(word["global_share"]) / layers,
        )
        rows.append([word["word"], f"{word['given']:+.3f}", *(f"{one:.2%}" for one in shares)])
    return rows
