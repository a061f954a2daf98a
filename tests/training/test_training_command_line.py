"""What the commands share: keys that follow other keys, lists of objects, seeds."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.command import EXIT_MISTAKE
from data_prep.files import DiskFull
from training import command_line
from training.command_line import listed, reject_decided_values, seed_number
from training.interruption import EXIT_STORAGE
from training.reports.command import parse_finetuning, parse_pretraining

DECIDED_BY = {"data.seed": "seed_everything", "max_steps": "trainer.max_steps"}


@pytest.mark.parametrize(
    "arguments",
    [["--data.seed", "3"], ["--data.seed=3"], ["--max_steps=4"], ["--a", "--max_steps"]],
)
def test_an_option_that_follows_another_is_refused_with_the_one_to_set(
    arguments: list[str],
) -> None:
    with pytest.raises(ValueError, match="follows (seed_everything|trainer.max_steps): set --"):
        reject_decided_values(arguments, DECIDED_BY)


@pytest.mark.parametrize("how", [["--config", "{}"], ["-c", "{}"], ["--config={}"]])
def test_a_key_of_a_file_that_follows_another_is_refused(tmp_path: Path, how: list[str]) -> None:
    path = tmp_path / "run.yaml"
    arguments = [part.format(path) for part in how]
    path.write_text("data: {seed: 3}")
    with pytest.raises(ValueError, match=r"run.yaml: data.seed follows seed_everything"):
        reject_decided_values(arguments, DECIDED_BY)
    path.write_text("max_steps: 3")
    with pytest.raises(ValueError, match=r"run.yaml: max_steps follows trainer.max_steps"):
        reject_decided_values(arguments, DECIDED_BY)
    for harmless in ("", "data: {folder: x}", "data: a.yaml", "seed_everything: 3"):
        path.write_text(harmless)
        reject_decided_values(arguments, DECIDED_BY)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), DiskFull("no room")])
def test_a_full_disk_is_no_mistake_in_the_options(error, monkeypatch, capsys) -> None:
    def write_a_line(arguments: list[str], *, started: float) -> None:
        raise error

    monkeypatch.setattr(command_line, "_found", lambda target: write_a_line)
    for command, code in (("fit", EXIT_STORAGE), ("nothing", EXIT_MISTAKE)):
        found = command_line.run_main(
            "ponet-pretrain", [command], help="", trains=("a:b", ("fit",)), commands={}
        )
        assert found == code
    assert str(error) in capsys.readouterr().err


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--config nowhere.yaml: no such file"):
        reject_decided_values(["--config", "nowhere.yaml"], DECIDED_BY)
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [")
    with pytest.raises(ValueError, match="broken.yaml: is not valid YAML"):
        reject_decided_values(["--config", str(broken)], DECIDED_BY)


def test_objects_are_listed_without_switches_and_seeds_are_numbers() -> None:
    assert listed(None) == listed(True) == listed([False]) == []
    assert listed("a") == ["a"] and listed(["a", None, "b"]) == ["a", "b"]
    assert seed_number(7) == 7
    with pytest.raises(ValueError, match="whole number"):
        seed_number(True)


@pytest.mark.parametrize(
    ("parse", "program", "name"),
    [
        (parse_pretraining, "ponet-pretrain", "RUNS"),
        (parse_finetuning, "ponet-finetune", "FOLDERS"),
    ],
)
def test_what_a_command_without_a_file_lacks_is_named_as_it_is_given(
    parse: Callable[[list[str]], object], program: str, name: str
) -> None:
    with pytest.raises(ValueError, match=rf"^{program} report needs {name} \({program} report --h"):
        parse([])
