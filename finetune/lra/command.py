"""`python -m finetune lra`: dispatch, without importing torch for help."""

from collections.abc import Sequence

from training.command_line import run_main

HELP = """usage: ponet-finetune lra COMMAND ...     (also: python -m finetune lra COMMAND ...)

  fit        train on a task: --data.task NAME --model.encoder FILE.yaml --run.name NAME [options]
  grid       run tasks x modes x encoders x seeds: --config configs/finetune/lra_table1.yaml
  baseline   what comes for free: --data.task NAME --name BASELINE --run.name NAME

tasks: listops, text, retrieval, image, pathfinder32, path_x. ListOps and Pathfinder are made where
no --data.folder is given. `python -m finetune report FOLDER` makes the table.
"""
TRAINS = ("finetune.lra.lightning_cli:run_lra_fit", ("fit",))
COMMANDS = {
    "grid": "finetune.lra.grid:run_lra_grid",
    "baseline": "finetune.lra.baseline_command:run_lra_baseline",
}


def run_lra(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code."""
    return run_main("ponet-finetune lra", arguments, help=HELP, trains=TRAINS, commands=COMMANDS)
