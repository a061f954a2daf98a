"""What is trained on, and by: shards of random tokens, a silent trainer, fits to be killed."""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from benchmarks.report import REPOSITORY
from data_prep.manifest import SPECIAL_TOKENS
from data_prep.shards import SplitWriter, finish_shards
from training.metrics_file import read_metrics

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

Process = subprocess.Popen[bytes]


def synthetic_folder(
    folder: Path,
    *,
    num_sentences: int,
    vocab_size: int = 30_522,
    validation_sentences: int = 0,
    words_per_document: int = 0,
    sentences_per_document: int = 40,
) -> Path:
    """Write shards of random tokens: 25 per sentence on average, as are sentences per document.

    A document has `words_per_document` different tokens, which can be learnt; 0: all there are.
    """
    random = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    pieces = [*SPECIAL_TOKENS, *(f"w{number}" for number in range(vocab_size - 5))]
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##"}
    model |= {"max_input_chars_per_word": 100, "vocab": {p: i for i, p in enumerate(pieces)}}
    content = {"version": "1.0", "normalizer": None, "pre_tokenizer": None, "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    writers = []
    for split, count in (("train", num_sentences), ("validation", validation_sentences)):
        if not count:
            continue
        lens = random.geometric(1 / 25, count)
        documents = random.geometric(1 / sentences_per_document, count // sentences_per_document)
        documents = documents[np.cumsum(documents) < count]
        documents = np.append(documents, count - documents.sum())
        tokens = random.integers(5, vocab_size, int(lens.sum()))
        if words_per_document:
            words = random.integers(5, vocab_size, (len(documents), words_per_document))
            places = np.repeat(np.repeat(np.arange(len(documents)), documents), lens)
            tokens = words[places, tokens % words_per_document]
        writer = SplitWriter(folder, split, vocab_size=vocab_size)
        writer.append(tokens, lens, documents)
        writers.append(writer)
    finish_shards(folder, writers)
    return folder


@contextlib.contextmanager
def shards_in(folder: Path | None, **sizes: Any) -> Iterator[tuple[Path, Path]]:
    """Give a folder of shards, made of random tokens where none is given, and one for anything."""
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        yield folder or synthetic_folder(place / "shards", **sizes), place


def bare_trainer(device: str, **form: Any) -> Trainer:
    """Return a trainer for one device that says nothing; `form` is what else it is given."""
    from pytorch_lightning import Trainer

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning.*|torch.utils.data.*")
    return Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        **form,
    )


def told_of(error: BaseException, path: Path) -> str:
    """Keep where a run failed, in a file; return a line about it.

    Args:
        error: Of a process of its own; its traceback there is the cause.
        path: File to write.
    """
    path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    return f"{path.stem} failed: {error!r}; its traceback stands in {path}"


def start_fit(options: list[str], root: Path, name: str) -> Process:
    """Start `pretrain fit` in a process group of its own, its output added to a .log file."""
    root.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pretrain", "fit", *options]
    command += ["--run.root", str(root.resolve()), "--run.name", name]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with (root / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True, env=environment
        )


def kill(process: Process) -> None:
    """End a program with its data workers, as a machine that goes down does."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_within(seconds: float, command: Sequence[str], output: IO[Any], **form: Any) -> int:
    """Run a program with its output in a file; its exit code, -9 if it was ended for its time."""
    process = subprocess.Popen(
        command, stdout=output, stderr=output, start_new_session=True, **form
    )
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(timeout=seconds)
    kill(process)
    return -signal.SIGKILL


def last_step(run: Path) -> int:
    """Return the newest optimiser step in a run's metrics, 0 if there is none."""
    path = run / "metrics.jsonl"
    if not path.exists() or not path.read_text():
        return 0
    return max((int(row["step"] or 0) for row in read_metrics(path)), default=0)


def end_with_parent() -> None:
    """Let a worker process end when the one that started it is gone, also by a kill."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        assert parent is not None
        parent.join()
        os._exit(1)

    if parent is not None:
        threading.Thread(target=watch, daemon=True).start()
