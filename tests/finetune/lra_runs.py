"""Small data and runs of Long Range Arena that its tests share."""

from dataclasses import replace
from pathlib import Path

import pytest

from finetune.cli import main
from finetune.lra import generated, selection, tasks

LISTOPS = replace(
    tasks.LISTOPS, batch_size=8, steps=6, warmup_steps=2,
    sizes={"train": 32, "validation": 16, "test": 20},
)  # fmt: skip
ENCODER = """
model:
  encoder:
    class_path: ponet.{kind}
    init_args: {{hidden_size: 8, num_layers: 1, num_heads: 2, ffn_size: 8, type_vocab_size: 0,
                 norm_position: pre, final_norm: true, embedding_norm: false, init: torch{more}}}
"""


def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """ListOps of 68 samples, in blocks of 4."""
    monkeypatch.setattr(generated, "BLOCK", 4)
    monkeypatch.setattr(selection, "TASKS", {**tasks.TASKS, "listops": LISTOPS})
    monkeypatch.setattr("finetune.lra.lightning_cli.TASKS", {**tasks.TASKS, "listops": LISTOPS})


def write_encoder(folder: Path, kind: str = "PoNetConfig", more: str = "") -> Path:
    """Write a tiny encoder file."""
    path = folder / f"lra_{kind.removesuffix('Config').lower()}.yaml"
    path.write_text(ENCODER.format(kind=kind, more=more), encoding="utf-8")
    return path


def run_fit(folder: Path, name: str, *options: str, task: str = "listops") -> int:
    """Run a fit on the CPU, whose data are kept in the folder."""
    encoder = next(folder.glob("lra_*.yaml"), None) or write_encoder(folder)
    given = [] if "--model.encoder" in options else ["--model.encoder", str(encoder)]
    return main([
        "lra", "fit", "--data.task", task, "--data.cache", str(folder / "made"), *given,
        "--run.root", str(folder / "runs"), "--run.name", name, "--trainer.accelerator", "cpu",
        "--trainer.enable_progress_bar", "false", "--data.evaluations", "2", *options,
    ])  # fmt: skip
