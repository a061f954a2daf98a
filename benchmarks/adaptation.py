r"""An encoder of Wikipedia taught novels: masked words and a task, before and after, over seeds.

    python -m benchmarks.adaptation --wiki 'wiki/*.jsonl.zst' --novels books.jsonl.zst

Per seed: a nano PoNet on Wikipedia; from it, and from fresh values, the same few steps on novels.
Masked words are scored on held-out novels, and on held-out articles for what was forgotten. The
task: which held-out novel is a passage from? Training passages are from the first 60 % of each,
test passages from its last fifth, and without words that stand mostly with a capital letter, as
names do; a linear classifier reads the encoder's vectors, which are not trained for it. The rates
were not searched. What is done is not done again.
"""

import csv
import importlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import report
from benchmarks.report import CONFIGS, Option, Options
from data_prep.config import CleaningConfig, LocalSource
from data_prep.readers import ReadLog
from data_prep.sources import read_documents
from data_prep.workers import clean_document, document_hash
from ponet import PretrainingModel, load_bundle
from training.metrics_file import read_metrics, series
from training.run_config import BUNDLE_FOLDER, EVALUATIONS_FILE, RESULT_FILE
from training.statistics import estimate, paired_difference

OPTIONS = {
    "wiki": Option("", "articles: file, folder or pattern for data_prep"),
    "novels": Option("", "one file of novels, a document each"),
    "root": Option(Path("runs/adaptation"), "folder of shards and runs"),
    "seeds": Option([42, 43, 44], short=[42]),
    "before": Option(1000, "steps on Wikipedia", short=20),
    "steps": Option(300, "steps on novels", short=10),
    "passages": Option(60, "of each held-out novel to train on", short=10),
}
HELD_OUT = 0.15
"""Share of the novels that no encoder is trained on."""
WORDS = 80
"""In a passage."""
PARTS = {"train": (0.0, 0.6), "dev": (0.6, 0.8), "test": (0.8, 1.0)}
NAMES = {
    "wiki": "Wikipedia, no adaptation",
    "adapted": "Wikipedia, then novels",
    "novels": "novels alone, as many steps",
    "random": "fresh values",
}


def call(package: str, *arguments: object) -> None:
    """Run a command of the project, in this process: a fit is short beside its imports."""
    given = [str(argument) for argument in arguments]
    print("+", package, *given, flush=True)
    if code := importlib.import_module(f"{package}.cli").main(given):
        raise SystemExit(code)


def build(options: Options) -> None:
    """Shards of both corpora, by the tokenizer of the first."""
    config, quiet = CONFIGS / "data/local_text.yaml", ("--num_workers", 1, "--quiet")
    first, second = options.root / "wiki", options.root / "novels"
    call("data_prep", "build", "--config", config, "--source.path", options.wiki, "--output", first,
         "--tokenizer.vocab_size", 8192, "--validation_fraction", 0.02, *quiet)  # fmt: skip
    call("data_prep", "build", "--config", config, "--source.path", options.novels, "--output",
         second, "--tokenizer.path", first / "tokenizer.json", "--validation_fraction", HELD_OUT,
         *quiet)  # fmt: skip


def pretrain(options: Options, name: str, seed: int, *more: object) -> Path:
    """The folder of a pretraining run, which is trained unless it is there."""
    folder: Path = options.root / "runs" / f"{name}-{seed}"
    if not (folder / BUNDLE_FOLDER).exists():
        shards = options.root / ("wiki" if name == "wiki" else "novels")
        call("pretrain", "fit", "--config", CONFIGS / "pretrain/nano.yaml", "--data.folder", shards,
             "--data.num_workers", 0, "--seed_everything", seed, "--run.root", folder.parent,
             "--run.name", folder.name, *more)  # fmt: skip
    return folder


def pretrain_all(options: Options, seed: int) -> dict[str, Path]:
    """The three encoders of a seed."""
    fresh = ("--config", CONFIGS / "encoder/ponet_nano.yaml", "--model.encoder.vocab_size", 8192,
             "--model.encoder.dropout_prob", 0.0)  # fmt: skip
    steps = options.before
    wiki = pretrain(options, "wiki", seed, *fresh, "--trainer.max_steps", steps,
                    "--run.eval_every_n_steps", max(1, steps // 2))  # fmt: skip
    half = max(1, options.steps // 2)
    short = ("--trainer.max_steps", options.steps, "--model.optimizer.warmup_steps",
             options.steps // 10, "--run.eval_every_n_steps", half)  # fmt: skip
    start = ("--model.start_from", wiki, "--model.optimizer.lr", 1e-3)
    return {
        "wiki": wiki,
        "adapted": pretrain(options, "adapted", seed, *short, *start),
        "novels": pretrain(options, "novels", seed, *short, *fresh),
    }


def masked_scores(folder: Path, *, first: bool = False) -> dict[str, float]:
    """Loss (nats) and accuracy of a run's last or first validation."""
    rows = read_metrics(folder / "metrics.jsonl")
    found = {key: series(rows, f"val/{key}")[1] for key in ("mlm_loss", "mlm_accuracy")}
    return {key: values[0 if first else -1] for key, values in found.items()}


def forgotten(options: Options, run: Path) -> dict[str, float]:
    """Loss and accuracy of an encoder of novels on held-out articles."""
    record = options.root / "evaluations" / run.name / EVALUATIONS_FILE
    if not record.exists():
        call("pretrain", "validate", "--config", CONFIGS / "pretrain/nano.yaml", "--ckpt_path", run,
             "--data.folder", options.root / "wiki", "--data.num_workers", 0, "--run.root",
             options.root / "evaluations", "--run.name", run.name)  # fmt: skip
    metrics = json.loads(record.read_text(encoding="utf-8").splitlines()[-1])["metrics"]
    return {key: metrics[f"val/{key}"] for key in ("mlm_loss", "mlm_accuracy")}


def held_out_novels(path: Path) -> list[str]:
    """The novels that data_prep puts into the validation split."""
    source, found = LocalSource(path=str(path)), []
    for text in read_documents(path, source, ReadLog()):
        key = document_hash(clean_document(text, CleaningConfig(), Counter()))[:8]
        if int.from_bytes(key, "big") < int(HELD_OUT * 2**64):
            found.append(text)
    return found


def without_names(text: str) -> list[str]:
    """The words of a text but those that mostly begin with a capital letter."""
    words = re.findall(r"[^\W\d_]+|[^\w\s]", text)
    counts = Counter(words)
    return [w for w in words if len(w) == 1 or counts[w] <= counts[w.lower()] or w.islower()]


def write_passages(options: Options) -> Path:
    """CSV files with passages of the held-out novels, evenly spread over each part of them."""
    folder: Path = options.root / "passages"
    folder.mkdir(parents=True, exist_ok=True)
    texts = [without_names(text) for text in held_out_novels(Path(options.novels))]
    for part, (begin, end) in PARTS.items():
        count = options.passages if part == "train" else options.passages // 2
        with (folder / f"{part}.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(["text", "label"])
            for number, words in enumerate(texts):
                first, room = int(begin * len(words)), int((end - begin) * len(words)) - WORDS
                for start in (first + room * k // count for k in range(count)):
                    table.writerow([" ".join(words[start : start + WORDS]), f"novel {number}"])
    return folder


def read_passages(path: Path) -> tuple[list[str], list[str]]:
    """Texts and labels of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], [row["label"] for row in rows]


def vectors_score(passages: Path, run: Path, *, fresh: bool) -> float:
    """Accuracy of a linear classifier on an encoder's mean vectors, which are not trained.

    Its strength of regularisation is the best of three on the dev passages.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    bundle = load_bundle(run)
    if fresh:
        bundle = replace(bundle, model=PretrainingModel(bundle.model.config).eval())
    parts = {}
    for part in PARTS:
        texts, labels = read_passages(passages / f"{part}.csv")
        parts[part] = (bundle.encode(texts, progress=False).numpy(), labels)
    found = []
    for strength in (0.01, 0.1, 1.0):
        model = LogisticRegression(C=strength, max_iter=1000)
        classifier = make_pipeline(StandardScaler(), model).fit(*parts["train"])
        found.append((classifier.score(*parts["dev"]), classifier.score(*parts["test"])))
    return chosen(found)


def chosen(scores: Sequence[tuple[float, float]]) -> float:
    """The test score beside the best dev score, of equal ones the first: test decides nothing."""
    return float(max(scores, key=lambda both: both[0])[1])


def linear_score(options: Options, passages: Path) -> float:
    """Accuracy of a linear model over counted words on the test passages."""
    folder: Path = options.root / "task" / "linear-0"
    files = [word for part, key in (("train", "train"), ("dev", "validation"), ("test", "test"))
             for word in (f"--data.{key}", passages / f"{part}.csv")]  # fmt: skip
    if not (folder / RESULT_FILE).exists():
        run = ("--run.root", folder.parent, "--run.name", folder.name)
        call("finetune", "baseline", *files, *run)
    result = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
    return float(result["evaluation"]["test"]["accuracy"])


def summary(scores: dict[str, dict[str, dict[int, float]]]) -> list[dict[str, Any]]:
    """A row per encoder: what was scored -> its values, mean and interval, difference to before."""
    rows = []
    for name, found in scores.items():
        row: dict[str, Any] = {"encoder": NAMES.get(name, name)}
        for what, values in found.items():
            change = paired_difference(values, scores["wiki"].get(what, {}))
            row[what] = {
                "values": list(values.values()),
                **asdict(estimate(list(values.values()))),
                "change": change and {**asdict(change), "verdict": change.verdict},
            }
        rows.append(row)
    return rows


def measure(options: Options) -> list[dict[str, Any]]:
    """Train and score everything."""
    scores: dict[str, dict[str, dict[int, float]]] = {name: {} for name in NAMES}

    def note(name: str, corpus: str, seed: int, found: dict[str, float]) -> None:
        for key, value in found.items():
            scores[name].setdefault(f"{corpus}_{key}", {})[seed] = value

    encoders = {seed: pretrain_all(options, seed) for seed in options.seeds}
    for seed, runs in encoders.items():
        note("wiki", "novels", seed, masked_scores(runs["adapted"], first=True))
        note("wiki", "wiki", seed, masked_scores(runs["wiki"]))
        for name in ("adapted", "novels"):
            note(name, "novels", seed, masked_scores(runs[name]))
        note("adapted", "wiki", seed, forgotten(options, runs["adapted"]))
    passages = write_passages(options)
    linear = linear_score(options, passages)
    for name in NAMES:
        for seed, runs in encoders.items():
            torch.manual_seed(seed)
            run = runs.get(name, runs["wiki"])  # "random" takes its sizes and tokenizer alone
            score = vectors_score(passages, run, fresh=name == "random")
            note(name, "task", seed, {"accuracy": score})
            print(name, seed, f"{score:.4f}", flush=True)
    return [*summary(scores), *summary({"wiki": {"task_accuracy": {0: linear}}})]


def main(arguments: Sequence[str] | None = None) -> None:
    options = report.parse(__doc__, OPTIONS, arguments)
    options.root = options.root.absolute()
    build(options)
    rows = measure(options)
    rows[-1]["encoder"] = "linear model over counted words"
    rows[-1]["task_accuracy"]["change"] = None
    options.root, options.wiki = options.root.name, Path(options.wiki).name
    options.novels = Path(options.novels).name
    shown = report.finish("adaptation", {"rows": rows}, options)
    page = f"# Adaptation\n\n{shown}\n"
    (options.output / "adaptation.md").write_text(page, encoding="utf-8")
    keys = {
        "novels_mlm_accuracy": "masked words of held-out novels",
        "wiki_mlm_accuracy": "masked words of held-out articles",
        "task_accuracy": "which novel is the passage from",
    }
    panels = {
        title: {"": {row["encoder"]: report.of_seeds(row[key]) for row in rows if key in row}}
        for key, title in keys.items()
    }
    report.bar_chart(
        panels, options.output / "adaptation.png", unit="accuracy; lowest to highest seed"
    )


if __name__ == "__main__":
    main()
