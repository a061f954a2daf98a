"""The `ponet-pretrain` command: help and dispatch; Lightning is imported where it is needed."""

from collections.abc import Sequence

from data_prep.command import quiet_output
from training.command_line import run_main
from training.interruption import EXIT_CODES

HELP = """usage: ponet-pretrain COMMAND ...     (also: python -m pretrain COMMAND ...)

  fit        pretrain an encoder: --config FILE.yaml [--config ...] [--run.name NAME] [options];
             from given weights: --model.start_from RUN|BUNDLE
  validate   masked-LM and pair metrics on fixed validation examples, of a run or --ckpt_path BUNDLE
  test       the same on the whole validation split
  predict    write what a run's model says at every masked position to the run's folder
  fill       fill the [MASK]s of your own sentences from a bundle
  score      texts and minimal pairs (BLiMP) by the masked-LM heads of bundles: score BUNDLES...
             --input FILE|FOLDER
  export     turn a checkpoint (also a sharded one) into a bundle or an ordinary checkpoint
  summary    print the table of one or more finished runs
  report     one self-contained HTML page about runs or a sweep: report RUNS... --out FOLDER
  compare    two runs side by side, in configuration, curves and results: compare A B
  sweep      run every trial of a sweep file in W&B's format, with or without W&B: sweep FILE.yaml
  tune       find a learning rate or a micro-batch size for a configuration: tune lr|batch_size ...
  trial      one fit and what follows it (validation, fine-tuning grids): --follow FILE.yaml -- ...

`ponet-pretrain fit --help` lists every option of a command; `--print_config` shows the result of
all configs and options together. A fit that was stopped goes on when its command is run again
(--resume auto). Class paths in options and YAML files may name this project's and Lightning's
classes; --allow_modules PACKAGE adds others. PONET_TRACEBACK=1 shows where an error comes from.

exit codes:
"""
TRAINS = ("pretrain.lightning_cli:run_command", ("fit", "validate", "test", "predict"))
COMMANDS = {
    "fill": "ponet.cli:run_fill",
    "score": "pretrain.score:run_score",
    "export": "pretrain.export:run_export",
    "summary": "training.summary:run_summary",
    "report": "training.reports.command:run_pretraining_report",
    "compare": "training.reports.compare:run_compare",
    "sweep": "training.studies.command:run_sweep",
    "tune": "pretrain.tuning:run_tune",
    "trial": "training.studies.command:run_trial",
}


@quiet_output
def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns one of `EXIT_CODES`."""
    codes = "".join(f"  {code:3d}  {text}\n" for code, text in EXIT_CODES.items())
    return run_main("ponet-pretrain", argv, help=HELP + codes, trains=TRAINS, commands=COMMANDS)
