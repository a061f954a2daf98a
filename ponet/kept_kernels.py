"""How many kernels oneDNN keeps on a CPU."""

import os
from collections.abc import MutableMapping

KEPT = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "64"}
"""Of oneDNN and of PyTorch's layer above it, each of which keeps 1,024 otherwise."""


def keep_few_kernels(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let oneDNN keep few kernels in this process, unless the user has said how many.

    It makes one for each shape of a product, in bfloat16 or with packed weights, with up to
    megabytes of working memory. Where every batch has another number of tokens a thousand of them
    come to gigabytes, and memory grows until then; 64 are more than a step of one shape needs. Both
    numbers are read at the first such product, so it works after `import torch` too.

    Args:
        environment: Changed in place.

    Source:
        https://github.com/pytorch/pytorch/issues/27971 tells of memory that grows so.
    """
    for name, number in KEPT.items():
        environment.setdefault(name, number)
