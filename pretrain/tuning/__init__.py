"""`tune lr` and `tune batch_size`: find a value for a configuration before it is trained.

Invariant: nothing heavy is imported for help or a mistake in the first words.
"""

from collections.abc import Sequence

HELP = """usage: ponet-pretrain tune lr|batch_size [--output FILE.yaml] [finder and fit options]

  lr          sweep the learning rate upwards and take the steepest fall of the loss
              (--min_lr, --max_lr, --num_steps, --stop_factor)
  batch_size  time and memory of micro-batch sizes that divide the global batch
              (--max_batch_size, --memory_share, --steps_per_size, --choose fastest|largest)

Give the --config files and options of the `fit` you mean. It writes FILE.yaml with the one value
found, to be given to `fit` as a further --config, and a plot FILE.png beside it. It trains fresh
weights on one device for a moment, without loggers, callbacks or checkpoints; run folders are left
alone. `tune lr --help` lists every option.
"""
KINDS = ("lr", "batch_size")


def run_tune(arguments: Sequence[str]) -> None:
    """`tune KIND [options]`.

    Raises:
        ValueError: A mistake in the options, or nothing usable was found.
    """
    kind = arguments[0] if arguments else ""
    if kind in ("-h", "--help"):
        print(HELP, end="")
        return
    if kind not in KINDS:
        raise ValueError(
            f"tune {kind}: say what to find, lr or batch_size (ponet-pretrain tune --help)"
        )
    from pretrain.tuning.cli import BatchSizeCLI, TuneCLI
    from training.cli import run_cli

    run_cli(TuneCLI if kind == "lr" else BatchSizeCLI, ["fit", *arguments[1:]])
