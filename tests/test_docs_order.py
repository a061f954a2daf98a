"""The commands of a page can be given one after the other, as its reader gives them."""

from pathlib import Path

import pytest
from test_docs import PAGES, commands, name_of

from data_prep.command import read_yaml
from training.command_line import option_value

REPOSITORY = Path(__file__).resolve().parent.parent
README = REPOSITORY / "README.md"


def written_by(page: Path) -> tuple[set[str], set[str]]:
    """Return the folders of the runs of a page, and those of its grids, below `runs/`."""
    runs, grids = set(), set()
    for words, _ in commands(page):
        if "-m" not in words or words[-1] == "--help":
            continue
        options = words[words.index("-m") + 2 :]
        if name := option_value(options, "--run.name"):
            runs.add(f"runs/{name}")
        elif "grid" in options[:2]:
            config = option_value(options, "--config")
            stored = read_yaml(REPOSITORY / config) if config else {}
            grids.add(option_value(options, "--output") or stored.get("output", "runs/grid"))
    return runs, grids


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.name)
def test_no_grid_of_a_page_writes_into_a_run_of_it(page: Path) -> None:
    runs, grids = written_by(page)
    assert not runs & grids


def test_the_pages_have_runs_and_grids() -> None:
    found = {name_of(page): written_by(page) for page in PAGES}
    assert "runs/borders" in found["labels.md"][0]
    assert "runs/small_borders" in found["labels.md"][1]
