"""What oneDNN keeps of products of many shapes."""

import os
import subprocess
import sys
from collections import Counter

import pytest

from ponet.kept_kernels import KEPT, keep_few_kernels

SHAPES = 70
SCRIPT = f"""
import torch, ponet
weight = torch.ones(64, 64, dtype=torch.bfloat16)
for _ in range(2):
    for rows in range(1, {SHAPES + 1}):
        torch.ones(rows, 64, dtype=torch.bfloat16) @ weight
"""


def kernels(**environment: str) -> Counter[str]:
    """What became of the kernels that a process asked for, by what oneDNN says of each."""
    inherited = {name: value for name, value in os.environ.items() if name not in KEPT}
    said = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=inherited | environment | {"ONEDNN_VERBOSE": "2"},
        check=True,
        text=True,
        stdout=subprocess.PIPE,
    ).stdout
    lines = [line for line in said.splitlines() if ",create:" in line and ",matmul," in line]
    return Counter(line.split("create:")[1].split(",")[0] for line in lines)


def test_kernels_of_more_shapes_than_are_kept_are_made_again_and_the_user_may_keep_more() -> None:
    theirs = kernels(**dict.fromkeys(KEPT, "1024"))
    if not theirs:
        pytest.skip("this CPU's products in bfloat16 are not oneDNN's")
    assert theirs["cache_hit"] >= SHAPES - 1
    assert int(KEPT["ONEDNN_PRIMITIVE_CACHE_CAPACITY"]) < SHAPES - 1
    assert kernels()["cache_hit"] == 0


def test_numbers_that_the_user_has_set_stay() -> None:
    chosen, other = KEPT
    environment = {chosen: "7"}
    keep_few_kernels(environment)
    assert environment == {chosen: "7", other: KEPT[other]}
