"""Every sweep file of configs/ expands, and every trial's command line is one that parses."""

import functools
from pathlib import Path
from typing import Any

import pytest

from training.command_line import reject_decided_values
from training.studies.command import (
    SweepOptions,
    TrialOptions,
    parse_trial,
    planned_trials,
    with_run_folder,
)
from training.studies.sweep_file import read_sweep
from training.studies.trials import Trial

CONFIGS = Path(__file__).resolve().parent.parent.parent / "configs"
SWEEPS = sorted((CONFIGS / "sweeps").glob("*.yaml"))
SIZES = {
    **{"encoders": 9, "finetune_lr": 12, "objective": 9, "pooling": 18, "pools_or_attention": 9},
    "segments": 21,
}


@functools.cache
def parser_of(package: str) -> Any:
    """The parser of the `fit` of a package, built once."""
    if package == "pretrain":
        from pretrain.lightning_cli import PretrainCLI as cli_class
        from pretrain.lightning_cli import run_command
    else:
        from finetune.lightning_cli import FinetuneCLI as cli_class
        from finetune.lightning_cli import run_command

    class Built(BaseException):
        pass

    def stop_with_parser(self: Any, parser: Any, args: Any) -> None:
        raise Built(parser)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Built) as caught:
        patch.setattr(cli_class, "parse_arguments", stop_with_parser)
        run_command(["fit"])
    return caught.value.args[0]


@functools.cache
def parsed(package: str, options: tuple[str, ...]) -> Any:
    if package == "pretrain":
        from pretrain.lightning_cli import DECIDED_BY
    else:
        from finetune.lightning_cli import DECIDED_BY
    reject_decided_values(options, DECIDED_BY)
    return parser_of(package).parse_args(["fit", *options]).fit


def trials_of(name: str, *extra: str) -> list[Trial]:
    path = CONFIGS / "sweeps" / f"{name}.yaml"
    return planned_trials(read_sweep(path), Path("runs") / name, SweepOptions(file=path), extra)


def trial_options(trial: Trial) -> tuple[TrialOptions, list[str]]:
    words = list(trial.command)
    assert words[2:5] == ["-m", "pretrain", "trial"]
    return parse_trial(words[5:])


def fit_of(trial: Trial) -> Any:
    """What the real parser makes of a trial's fit."""
    options, fit = trial_options(trial)
    return parsed(options.package, tuple(fit))


def test_the_sweep_files_are_those_that_are_known() -> None:
    assert {path.stem: len(trials_of(path.stem)) for path in SWEEPS} == SIZES


@pytest.mark.parametrize("name", SIZES)
def test_every_trial_parses_and_has_a_folder_of_its_own(
    name: str, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    trials = trials_of(name)
    assert len({trial.folder for trial in trials}) == len(trials)
    for trial in trials:
        assert with_run_folder(trial_options(trial)[1], {})[1] == trial.folder
        if trial.parameters["seed_everything"] == 42:  # seeds differ in nothing else
            config = fit_of(trial)
            assert config.seed_everything == 42
            assert (config.run.root, config.run.name) == (f"runs/{name}", trial.name)
    assert {trial.parameters["seed_everything"] for trial in trials} == {42, 43, 44}


def changed(config: Any) -> dict[str, Any]:
    """The switches of PoNet that differ from the full model."""
    from ponet import PoNetConfig

    full, given = PoNetConfig(), config.model.encoder.init_args
    names = ("global_pool", "use_segment_pool", "use_local_pool", "fusion_product", "local_window")
    return {n: given[n] for n in names if given[n] != getattr(full, n)}


def test_a_pooling_trial_differs_from_the_full_model_in_one_switch(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    first_seed = trials_of("pooling")[:6]
    assert {trial.name.partition("--")[0]: changed(fit_of(trial)) for trial in first_seed} == {
        "full": {},
        "mean_global": {"global_pool": "mean"},
        "without_global": {"global_pool": "none"},
        "without_segment": {"use_segment_pool": False},
        "without_local": {"use_local_pool": False},
        "without_product": {"fusion_product": False},
    }
    for trial in first_seed:
        sizes = fit_of(trial).model.encoder.init_args
        assert (sizes.hidden_size, sizes.num_layers, sizes.vocab_size) == (256, 4, 8192)


def test_a_sweep_at_another_scale_varies_the_same(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    nano = ("configs/pretrain/nano.yaml", "configs/encoder/ponet_nano.yaml")
    extra = [word for path in nano for word in ("--config", path)]
    mean_global = fit_of(trials_of("pooling", *extra)[7])
    sizes = mean_global.model.encoder.init_args
    assert (sizes.hidden_size, sizes.num_layers, sizes.vocab_size) == (128, 2, 8192)
    assert (mean_global.seed_everything, changed(mean_global)) == (43, {"global_pool": "mean"})
    nsp = fit_of(trials_of("objective", *extra)[4])
    assert (nsp.seed_everything, nsp.model.objective) == (43, "mlm_nsp")
    assert nsp.trainer.max_steps == 2000


def test_the_other_trials_differ_in_what_their_sweep_is_about(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    encoders = [fit_of(t).model.encoder.class_path for t in trials_of("encoders")[:3]]
    assert encoders == ["ponet.PoNetConfig", "ponet.BertConfig", "ponet.FNetConfig"]
    objectives = [fit_of(t).model.objective for t in trials_of("objective")[:3]]
    assert objectives == ["mlm", "mlm_nsp", "mlm_sso"]
    rules = [fit_of(t).data.segments for t in trials_of("segments")[:7]]
    fixed = [("fixed", n) for n in (4, 8, 16, 32, 64)]
    found = [(s.rule, s.tokens_per_segment) for s in rules]
    assert found == [("sentence", 32), ("text", 32), *fixed]
    lrs = [fit_of(t).model.optimizer.lr for t in trials_of("finetune_lr")[:4]]
    assert lrs == [3e-5, 5e-5, 1e-4, 3e-4]


@pytest.mark.parametrize("name", ["pooling", "encoders"])
def test_the_place_of_wandbs_arguments_does_not_matter(
    name: str, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    trial = trials_of(name)[1]
    fit = trial_options(trial)[1]
    seed, config = f"--seed_everything={42}", f"--config={trial.parameters['config']}"
    assert abs(fit.index(seed) - fit.index(config)) == 1
    first, second = sorted((fit.index(seed), fit.index(config)))
    fit[first], fit[second] = fit[second], fit[first]
    assert parsed("pretrain", tuple(fit)) == fit_of(trial)
