"""Write every drawn figure of the documentation beside this file: python docs/figures/draw.py."""

from pathlib import Path

import pipeline
import pooling
import shards
from drawing import Drawing


def figures() -> dict[str, Drawing]:
    """Return all figures by file name."""
    return {
        "pooling.svg": pooling.one_token(),
        "pooling_reach.svg": pooling.all_tokens(),
        "pipeline.svg": pipeline.pipeline(),
        "shards.svg": shards.shards(),
    }


if __name__ == "__main__":
    for name, picture in figures().items():
        picture.save(Path(__file__).with_name(name))
        print(f"docs/figures/{name}")
