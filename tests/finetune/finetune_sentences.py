"""Toy documents whose sentences have labels, and fits on them."""

import json
import random
from pathlib import Path
from typing import Any

from finetune_runs import BAD, FILLER, GOOD, QUICK
from finetune_taggers import encoder_file

from finetune.cli import main


def toy_document(generator: random.Random) -> dict[str, Any]:
    """Runs of sentences that praise or blame; every sentence is labelled with what it does."""
    sentences, labels = [], []
    kind = generator.choice(["praise", "blame"])
    for _ in range(generator.randint(2, 4)):
        for _ in range(generator.randint(1, 3)):
            opinion = generator.choice(GOOD if kind == "praise" else BAD)
            sentences.append(" ".join([generator.choice(FILLER), opinion, "film"]))
            labels.append(kind)
        kind = "blame" if kind == "praise" else "praise"
    return {"sentences": sentences, "labels": labels}


def write_documents(path: Path, *, num_rows: int, seed: int) -> Path:
    generator = random.Random(seed)
    rows = [toy_document(generator) for _ in range(num_rows)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def document_options(folder: Path, *, num_rows: int = 120) -> list[str]:
    """Write the files that are not there yet and return the options that name them."""
    for number, split in enumerate(("train", "validation", "test")):
        if not (folder / f"{split}.jsonl").exists():
            size = 30 if number else num_rows
            write_documents(folder / f"{split}.jsonl", num_rows=size, seed=number)
    files = [f"--data.{s}={folder / s}.jsonl" for s in ("train", "validation", "test")]
    return [*files, "--data.kind", "sentences", "--data.marks", "sections"]


def fit_documents(folder: Path, tokenizer_json: Path, name: str, *options: str) -> int:
    """Run a fit with the encoder of that name, which is the run's, and return the exit code."""
    return main([
        *("fit", "--model.encoder", str(encoder_file(folder, name)), "--run.root", str(folder)),
        *("--model.tokenizer", str(tokenizer_json), "--run.name", name),
        *document_options(folder), *QUICK, *options,
    ])  # fmt: skip
