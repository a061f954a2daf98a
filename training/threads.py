"""How long the threads of OpenMP spin while they wait; decided before torch is imported."""

import os

DECIDED_BY = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
"""Whoever sets one of these has decided already."""
SPINS = "1000"
"""Of GNU's OpenMP, whose default spins for milliseconds; some microseconds."""


def wait_briefly() -> None:
    """Let threads that wait spin for a moment and then sleep, here and in processes started here.

    Two threads that spin beside other programs keep the cores from the very threads that they wait
    for. A short spin keeps the speed of a quiet machine, which sleeping at once does not
    (`python -m benchmarks.busy_machine`, docs/results/busy_machine.json). It has no effect once
    torch is imported, because OpenMP reads its settings when it is loaded.
    """
    if not any(name in os.environ for name in DECIDED_BY):
        os.environ["GOMP_SPINCOUNT"] = SPINS
