r"""Are the words that `explain` names those that decide? Take them out and see.

    python -m benchmarks.deciding_words --models runs/imdb42 runs/imdb43 runs/imdb44 \\
        --input reviews.jsonl

Of every text the words that a way to rank them puts first are taken out, and as many random ones
(the mean of several draws). What counts is by how much the log-odds of the answer that the whole
text got fall. Only words with a letter or digit are ranked, drawn and taken out; only texts that
the model reads whole are used. The models are fits of PoNet that differ in their seed; of each text
the mean over models is formed, and the interval is that of the mean over texts.

The ways: what the pools gave (`explain --method pools`); the bare counts of won segment and local
maxima and the share of the global pool, over all layers; the gradient times the input, at the
embeddings, which needs no pools; and the answer without the word (`--method removal`), one text a
word.
"""

import random
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks import report
from benchmarks.report import Option, Options
from finetune.artifact import load_classifier
from finetune.deciding import Decider, Reading, without
from finetune.predict import Predictor
from finetune.tasks.incoming import InputReader
from finetune.tasks.spec import Columns, Row
from training.statistics import estimate

OPTIONS = {
    "models": Option(["runs/imdb42", "runs/imdb43", "runs/imdb44"], "fine-tuned PoNets"),
    "input": Option(
        "reviews.jsonl", "rows with the text column of the models, .jsonl, .csv or .tsv"
    ),
    "rows": Option(60, "texts, from the first that are read whole", short=2),
    "shares": Option([0.02, 0.05, 0.1, 0.2], "of the words of a text that are taken out"),
    "draws": Option(10, "of random words", short=2),
    "threads": Option(1, "of the CPU"),
}
RANDOM = "random words"
GIVEN = "given through the pools"
COUNTS = {
    "segment maxima won": "segment_maxima",
    "local maxima won": "local_maxima",
    "share of the global pool": "global_share",
}
GRADIENT = "gradient x input"
REMOVAL = "answer without the word"
Ranks = dict[str, list[float]]
Drops = dict[tuple[str, float], list[float]]
"""(way, share) -> how far the log-odds fell: random words, each draw; else one number."""


def gradient_times_input(decider: Decider, found: Reading, place: int) -> list[float]:
    """Return the input of the encoder times the answer's gradient there, per word."""
    predictor, seen = decider.predictor, list[torch.Tensor]()
    model = predictor.classifier.model
    batch = predictor.classifier.encoder.batch([found.text]).to(predictor.device)
    handle = model.encoder.embeddings.register_forward_hook(lambda *given: seen.append(given[2]))
    score = decider.measure(model(batch), place).sum()
    handle.remove()
    (grad_BLD,) = torch.autograd.grad(score, seen)
    return found.by_word((grad_BLD * seen[0]).sum(-1)[0])[:-1]


def rank(decider: Decider, row: Row, found: Reading, place: int, clock: dict[str, float]) -> Ranks:
    """Return the figure of every word in every way; the clock adds up the seconds of some."""
    ranks: Ranks = {}
    start = time.perf_counter()
    told = decider(row)["words"]
    clock[GIVEN] = clock.get(GIVEN, 0.0) + time.perf_counter() - start
    ranks[GIVEN] = [word["given"] for word in told]
    ranks |= {way: [sum(word[key]) for word in told] for way, key in COUNTS.items()}
    slow = Decider(decider.predictor, method="removal")
    for way, figures in (
        (GRADIENT, lambda: gradient_times_input(decider, found, place)),
        (REMOVAL, lambda: [word["given"] for word in slow(row)["words"]]),
    ):
        start = time.perf_counter()
        ranks[way] = figures()
        clock[way] = clock.get(way, 0.0) + time.perf_counter() - start
    return ranks


def drops(decider: Decider, row: Row, options: Options, clock: dict[str, float]) -> Drops:
    """Return how far the log-odds of the answer fall without the first words of every way."""
    found = decider.read(row)
    place = decider.place(decider.outputs([found.text])[0])
    is_word = [any(map(str.isalnum, row.text[word.start : word.end])) for word in found.words]
    usable = [number for number, fits in enumerate(is_word) if fits]
    orders = {
        way: [sorted(usable, key=lambda number: -figures[number])]  # noqa: B023
        for way, figures in rank(decider, row, found, place, clock).items()
    }
    draw = random.Random(row.line)
    orders[RANDOM] = [draw.sample(usable, len(usable)) for _ in range(options.draws)]
    cases = [
        (way, share, order[: max(1, round(share * len(usable)))])
        for way, several in orders.items()
        for order in several
        for share in options.shares
    ]
    rows = [row, *(without(row, [found.words[n] for n in taken]) for _, _, taken in cases)]
    whole, *rest = decider.scores(rows, place).tolist()
    fallen: Drops = {}
    for (way, share, _), score in zip(cases, rest, strict=True):
        fallen.setdefault((way, share), []).append(whole - score)
    return fallen


def chosen_rows(options: Options, decider: Decider) -> list[Row]:
    """Return the first rows that are read whole and have ten words or more."""
    columns = Columns(text=decider.predictor.classifier.info.text, label="")
    rows: list[Row] = []
    for item in InputReader(options.input, columns).rows():
        if isinstance(item.row, Row) and len(rows) < options.rows:
            found = decider.read(item.row)
            if not found.text.is_truncated and len(found.words) >= 10:
                rows.append(item.row)
    if len(rows) < 2:
        raise SystemExit(
            f"{options.input}: {len(rows)} texts of ten words or more in column {columns.text!r} "
            "are read whole by the model; two or more are needed"
        )
    return rows


def measure(options: Options) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return a row per way and share, and what was measured beside them."""
    per_model: list[list[Drops]] = []
    clock: dict[str, float] = {}
    rows: list[Row] = []
    for path in options.models:
        decider = Decider(Predictor(load_classifier(path), source=options.input), method="pools")
        rows = rows or chosen_rows(options, decider)
        per_model.append([drops(decider, row, options, clock) for row in rows])
        print(f"{path}: {len(rows)} texts", flush=True)
    table = []
    for way, share in per_model[0][0]:
        means = [[_mean(text[way, share]) for text in texts] for texts in per_model]
        by_text = [_mean(column) for column in zip(*means, strict=True)]
        chance = [_mean([_mean(texts[n][RANDOM, share]) for texts in per_model])
                  for n in range(len(rows))]  # fmt: skip
        gaps = [one - other for one, other in zip(by_text, chance, strict=True)]
        table.append({
            "way": way, "share": share, "fall": asdict(estimate(by_text)),
            "above_random": asdict(estimate(gaps)), "per_model": [_mean(one) for one in means],
        })  # fmt: skip
    texts = len(rows) * len(options.models)
    seconds = {way: total / texts for way, total in clock.items()}
    return table, {"texts": len(rows), "words": _mean([len(r.text.split()) for r in rows]),
                   "s_per_text": seconds}  # fmt: skip


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def main(arguments: Sequence[str] | None = None) -> None:
    options = report.parse(__doc__, OPTIONS, arguments)
    table, facts = measure(options)
    targets = [
        report.target(
            f"words that explain names, {share:.0%} of the text taken out: fall of the log-odds "
            "above that of random words",
            report.find(table, "above_random", "low", way=GIVEN, share=share),
            at_least=0.0,
        )
        for share in options.shares
    ]
    options.models = [Path(path).name for path in options.models]
    options.input = Path(options.input).name
    content = {**facts, "rows": table, "targets": targets}
    shown = report.finish("deciding_words", content, options)
    (options.output / "deciding_words.md").write_text(f"# Words taken out\n\n{shown}\n")
    lines: dict[str, list[tuple[float, report.Spread]]] = {}
    for row in table:
        fall = row["fall"]
        ends = {"median": fall["mean"], "min": fall["low"], "max": fall["high"]}
        lines.setdefault(row["way"], []).append((100 * row["share"], ends))
    report.line_chart(
        {"fall of the answer's log-odds (mean, 95 % interval over texts)": lines},
        options.output / "deciding_words.png",
        title=f"Words taken out of {facts['texts']} texts, {len(options.models)} models",
        xlabel="per cent of a text's words taken out",
        is_linear=True,
    )


if __name__ == "__main__":
    main()
