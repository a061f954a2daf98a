"""Shared by the benchmarks: machine, random shards, interleaved medians, JSON and a bar chart."""

import json
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path("benchmarks/results")


def machine() -> dict[str, Any]:
    """Return what a reader needs to judge the numbers."""
    import os

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].split(":", 1)[1].strip() if names else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def interleaved(
    rivals: Mapping[str, Callable[[], float]], *, rounds: int
) -> dict[str, dict[str, Any]]:
    """Measure every rival once per round, in turn, so that a disturbance hits them all.

    Args:
        rivals: Name -> function that runs once and returns a rate.
        rounds: How often; a first round is thrown away.

    Returns:
        Name -> median, lowest and highest rate and all rates.
    """
    rates: dict[str, list[float]] = {name: [] for name in rivals}
    for number in range(rounds + 1):
        for name, run in rivals.items():
            rate = run()
            if number:
                rates[name].append(rate)
    return {name: {**spread(values), "all": values} for name, values in rates.items()}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, lowest and highest value."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def synthetic_folder(
    folder: Path, *, num_sentences: int, vocab_size: int = 30_522, validation_sentences: int = 0
) -> Path:
    """Write shards of random tokens: 25 per sentence, 40 sentences per document on average.

    Args:
        folder: Where to; is created.
        num_sentences: Of the training split.
        vocab_size: Word pieces, the special tokens included.
        validation_sentences: Of the validation split; 0: there is none.
    """
    import numpy as np

    from data_prep.manifest import SPECIAL_TOKENS, Manifest, TokenizerInfo
    from data_prep.shards import SplitWriter, write_token_counts

    random = np.random.default_rng(0)
    pieces = [*SPECIAL_TOKENS, *(f"w{number}" for number in range(vocab_size - 5))]
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##"}
    model |= {"max_input_chars_per_word": 100, "vocab": {p: i for i, p in enumerate(pieces)}}
    content = {"version": "1.0", "normalizer": None, "pre_tokenizer": None, "model": model}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    splits, files, counts = {}, {}, np.zeros(vocab_size, np.uint64)
    for split, count in (("train", num_sentences), ("validation", validation_sentences)):
        if not count:
            continue
        lens = random.geometric(1 / 25, count)
        documents = random.geometric(1 / 40, count // 40)
        documents = documents[np.cumsum(documents) < count]
        documents = np.append(documents, count - documents.sum())
        writer = SplitWriter(folder, split, vocab_size=vocab_size)
        writer.append(random.integers(5, vocab_size, int(lens.sum())), lens, documents)
        splits[split], written = writer.close()
        files |= written
        counts = writer.token_counts if split == "train" else counts
    files["token_counts.bin"] = write_token_counts(folder, counts)
    tokenizer = TokenizerInfo.from_file(folder / "tokenizer.json")
    Manifest(tokenizer=tokenizer, splits=splits, files=files).save(folder)
    return folder


def save(name: str, content: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Write `<folder>/<name>.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path


def bar_chart(
    name: str, bars: Mapping[str, float], *, title: str, unit: str, folder: Path = RESULTS
) -> Path:
    """Write `<folder>/<name>.png`, one horizontal bar per entry with its number."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(figsize=(8.0, 1.2 + 0.45 * len(bars)))
    drawn = axes.barh(list(bars), list(bars.values()))
    axes.bar_label(drawn, fmt=lambda value: f"{value:,.0f}", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set(title=title, xlabel=unit)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    path = folder / f"{name}.png"
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path
