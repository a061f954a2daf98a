"""Which trials a grid has and what each is told; mistakes in a grid's file."""

from dataclasses import replace
from pathlib import Path

import pytest

from finetune.grid import Grid, encoder_names, expand, parse_grid
from training.command_line import merged
from training.configuration import flatten
from training.run_config import largest_divisor


def grid(**changed) -> Grid:
    values = {
        "tasks": ("cola", "rte"),
        "encoders": ("runs/a", "runs/b"),
        "lrs": (3e-5, 1e-4),
        "batch_sizes": (8, 32),
        "seeds": (42, 43, 44),
    }
    return Grid(**{**values, **changed})


def test_every_combination_is_a_trial_once() -> None:
    trials = expand(grid(), {})
    names = ("task", "encoder", "lr", "batch_size", "seed")
    combinations = {tuple(trial.parameters[name] for name in names) for trial in trials}
    assert len(trials) == len(combinations) == 2 * 2 * 2 * 2 * 3
    assert len({trial.name for trial in trials}) == len(trials)


def test_all_settings_of_a_seed_come_before_the_next_seed() -> None:
    seeds = [trial.parameters["seed"] for trial in expand(grid(), {})]
    assert seeds == sorted(seeds)


def test_a_trial_is_told_all_that_decides_it() -> None:
    config = grid(
        fit={"trainer": {"max_epochs": 4}, "data": {"max_len": 64}}, folder=("glue_data",)
    )
    trial = expand(config, {})[0]
    options = flatten(trial.settings)
    assert trial.name == "cola/a/lr3e-05-bs8-seed42"
    assert options["model.encoder"] == "runs/a" and options["model.random_init"] is False
    assert options["model.optimizer.lr"] == 3e-5 and options["seed_everything"] == 42
    assert options["data.global_batch_size"] == options["data.micro_batch_size"] == 8
    assert options["data.max_len"] == 64 and options["data.folder"] == "glue_data"
    assert options["trainer.max_epochs"] == 4 and options["trainer.devices"] == 1


def test_a_task_may_have_its_own_options_rates_and_seeds() -> None:
    own = {"lrs": (1e-3,), "seeds": (1,), "trainer": {"max_epochs": 1}}
    config = grid(fit={"trainer": {"max_epochs": 4, "precision": "32-true"}}, task_fit={"rte": own})
    rte = [trial for trial in expand(config, {}) if trial.parameters["task"] == "rte"]
    assert {(t.parameters["lr"], t.parameters["seed"]) for t in rte} == {(1e-3, 1)} and len(
        rte
    ) == 4
    expected = {"devices": 1, "enable_progress_bar": False, "max_epochs": 1}
    assert rte[0].settings["trainer"] == {**expected, "precision": "32-true"}


def test_seeds_of_a_cross_validated_task_walk_through_folds_then_repeats() -> None:
    trials = expand(grid(seeds=(1, 2, 3, 4, 5, 6, 7), lrs=(1e-4,), batch_sizes=(32,)), {"rte": 5})
    of_a = [t for t in trials if t.parameters["encoder"] == "a"]
    rte = [t for t in of_a if t.parameters["task"] == "rte"]
    assert [(t.parameters["fold"], t.parameters["repeat"]) for t in rte] == [
        *((fold, 0) for fold in range(5)),
        *((fold, 1) for fold in range(2)),
    ]
    assert rte[1].name.endswith("seed2-fold1") and rte[6].name.endswith("seed7-fold1-repeat1")
    assert all(t.parameters["fold"] == 0 for t in of_a if t not in rte)


def test_a_baseline_is_scored_once_and_in_a_cross_validation_once_for_every_fold() -> None:
    fit = {"data": {"max_len": 64, "max_eval_rows": 9}, "trainer": {"max_epochs": 4}}
    config = grid(seeds=(1, 2, 3, 4, 5, 6), fit=fit, folder=("glue_data",), baseline=True)
    free = [trial for trial in expand(config, {"rte": 5}) if "baseline" in trial.command]
    cola = [trial for trial in free if trial.parameters["task"] == "cola"]
    assert [trial.name for trial in cola] == ["cola/linear-baseline/whole"]
    assert cola[0].settings == {
        "data": {"task": "cola", "folder": "glue_data", "max_eval_rows": 9, "fold": 0, "repeat": 0},
        "run": {"root": "runs/grid/cola/linear-baseline", "name": "whole"},
    }
    assert [trial.folder.name for trial in free if trial not in cola] == [
        *(f"fold{fold}" for fold in range(5)),
        "fold0-repeat1",
    ]
    assert not [trial for trial in expand(grid(), {"rte": 5}) if "baseline" in trial.command]


@pytest.mark.parametrize(
    ("number", "at_most", "divisor"), [(8, 32, 8), (128, 32, 32), (24, 16, 12)]
)
def test_micro_batches_always_divide_the_batch(number: int, at_most: int, divisor: int) -> None:
    assert largest_divisor(number, at_most) == divisor


def test_encoders_are_called_after_their_runs() -> None:
    assert list(encoder_names(["runs/small/bundle"])) == list(encoder_names(["runs/small"]))
    given = ("runs/a", "random:runs/a/bundle")
    assert encoder_names(given) == {"a": given[0], "a-random": given[1]}
    both = grid(tasks=("cola",), encoders=given, lrs=(1e-4,), batch_sizes=(8,), seeds=(1,))
    models = [trial.settings["model"] for trial in expand(both, {})]
    assert [model["encoder"] for model in models] == ["runs/a", "runs/a/bundle"]
    assert [model["random_init"] for model in models] == [False, True]


def test_two_encoders_of_one_name_are_an_error() -> None:
    with pytest.raises(ValueError, match="runs/a and old/a/bundle are both called 'a'"):
        encoder_names(["runs/a", "old/a/bundle"])


@pytest.mark.parametrize(
    ("options", "decisive"),
    [
        ({"model": {"optimizer": {"lr": 1e-3}}}, "lrs"),
        ({"data": {"global_batch_size": 8}}, "batch_sizes"),
        ({"seed_everything": 1}, "seeds"),
        ({"run": {"name": "x"}}, "--output"),
    ],
)
def test_an_option_that_the_grid_decides_is_an_error(options, decisive: str) -> None:
    with pytest.raises(ValueError, match=f"which the grid decides: set {decisive}"):
        expand(grid(fit=options), {})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seeds": (1, 1)}, r"seeds is \[1, 1\].* each once"),
        ({"seeds": (-1,)}, r"seeds, in \[0, 2"),
        ({"lrs": ()}, "lrs is .*; give one or more"),
        ({"lrs": (0.0,)}, "learning rates, > 0"),
        ({"batch_sizes": (0,)}, "numbers of examples, >= 1"),
        ({"encoders": ()}, "--encoder PATH"),
        ({"task_fit": {"rte": {"lrs": ()}}}, "lrs of rte is .*; give one or more"),
        ({"task_fit": {"rte": {"seeds": [1.5]}}}, r"seeds of rte is \[1.5\]"),
    ],
)
def test_impossible_grids_are_errors(changed, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grid(**changed)


def test_a_grids_file_and_the_command_line_over_it(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(
        "tasks: [cola, rte]\nlrs: [3e-5, 1.0e-4]\nseeds: 42\nencoders: [runs/a]\n"
        "fit:\n  data: {max_len: 128}\ntask_fit:\n  rte: {lrs: [1e-3]}\n"
    )
    config = parse_grid(["--config", str(path)])
    assert config.lrs == (3e-5, 1e-4) and config.seeds == (42,)
    assert config.searched("lrs", "rte") == [1e-3] and config.output == Path("runs/grid")
    options = "--encoder x --encoder y --seeds 1 2 --folder data --folder rte=other".split()
    options += "--fit.data.max_len 64 --fit.trainer.max_epochs=1 --dry_run true --jobs 3".split()
    config = parse_grid(["--config", str(path), *options])
    assert config.encoders == ("x", "y") and config.seeds == (1, 2)
    assert config.fit == {"data": {"max_len": 64}, "trainer": {"max_epochs": 1}}
    assert config.dry_run and config.jobs == 3
    folders = {t.parameters["task"]: t.settings["data"]["folder"] for t in expand(config, {})}
    assert folders == {"cola": "data", "rte": "other"}
    with pytest.raises(ValueError, match=r"folder rtf=other: rtf is none of the tasks cola, rte"):
        expand(replace(config, folder=("rtf=other",)), {})


@pytest.mark.parametrize("tasks", [['["cola", "rte"]'], ["[cola,", "rte]"], ["cola", "rte"]])
def test_a_list_may_stand_in_brackets_as_in_yaml(tasks: list[str]) -> None:
    config = parse_grid(
        ["--encoder", "[x, y]", "--encoder", "z", "--lrs=[1e-4]", "--tasks", *tasks]
    )
    assert config.tasks == ("cola", "rte") and config.lrs == (1e-4,)
    assert config.encoders == ("x", "y", "z")
    config = parse_grid(
        ["--encoders", "x", "y", "--encoder", "z", "--lrs", "1e-4", "--tasks", *tasks]
    )
    assert config.encoders == ("x", "y", "z")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3", "grid.yaml: holds no options"),
        ("lrs: [1]", r"tasks is \[\]; give one or more"),
        ("tasks: [cola]\nlr: 1", "unknown key 'lr'. Did you mean 'lrs'"),
        ("tasks: [cola]\nlrs: [fast]", "'lrs.0' is 'fast', it must be a number"),
        ("tasks: [cola]\nseeds: [1.5]", "'seeds.0' is 1.5, it must be a whole number"),
        ("tasks: [cola]\nfit: 3", "'fit' is 3"),
        ("tasks: [cola]\nlrs: [1]\nencoders: [x]\ntask_fit: {cola: 3}", "task_fit.*3"),
        ("tasks: [", "grid.yaml: is not valid YAML"),
    ],
)
def test_mistakes_in_a_grids_file_name_the_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        parse_grid(["--config", str(path)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--config", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["--tasks", "cola", "--encoder", "a"], "lrs is .*; give one or more"),
        (["--lrs", "x"], "'lrs.0' is 'x', it must be a number"),
        (
            ["--tasks", "cola", "--lrs", "1", "--encoder", "a", "--speed", "9"],
            "unknown key 'speed'",
        ),
        (["--tasks", "cola", "--lrs", "1", "--encoder", "a", "--fit.x"], "--fit.x has no value"),
        (["--lrs", "[1e-4", "--tasks", "cola"], r"'lrs.0' is '\[1e-4', it must be a number"),
        (["--tasks", "[]"], "--tasks has no value"),
        (["--dry_run", "perhaps"], "'dry_run' is 'perhaps', it must be true or false"),
    ],
)
def test_mistakes_on_the_command_line_are_one_message(options: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_grid(options)


def test_merging_goes_group_by_group_and_changes_nothing_given() -> None:
    base = {"a": {"b": 1, "c": {"d": 2}}, "e": [1]}
    assert merged(base, {"a": {"c": {"f": 3}}, "e": [2]}) == {
        "a": {"b": 1, "c": {"d": 2, "f": 3}},
        "e": [2],
    }
    assert base == {"a": {"b": 1, "c": {"d": 2}}, "e": [1]}
