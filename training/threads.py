"""How the threads of OpenMP wait for each other; decided before torch is imported."""

import os

DECIDED_BY = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
"""Whoever sets one of these has decided already."""


def wait_asleep() -> None:
    """Let threads that wait sleep instead of spin, here and in the processes started from here.

    Two threads that spin beside other programs keep the cores from the very threads that they wait
    for; asleep they cost nothing on a quiet machine (`benchmarks.busy_machine`). It has no
    effect once torch is imported, because OpenMP reads its settings when it is loaded.
    """
    if not any(name in os.environ for name in DECIDED_BY):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
