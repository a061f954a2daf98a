"""Every YAML parses, says in its first line what it is, and the README's commands are real."""

import functools
import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

CONFIGS = sorted((Path(__file__).resolve().parent.parent / "configs").rglob("*.yaml"))


def ids(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


@pytest.mark.parametrize("path", CONFIGS, ids=ids)
def test_first_line_says_what_the_config_reproduces(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ") and len(first) > 40


@functools.cache
def fit_parser(package: str) -> Any:
    """The parser of `python -m PACKAGE fit`, built once."""
    cli = importlib.import_module(f"{package}.lightning_cli")
    cli_class = {
        "pretrain": "PretrainCLI", "finetune": "FinetuneCLI", "finetune.lra": "LraCLI",
    }[package]  # fmt: skip

    class Built(BaseException):
        pass

    def stop_with_parser(self: Any, parser: Any, args: Any) -> None:
        raise Built(parser)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Built) as caught:
        patch.setattr(getattr(cli, cli_class), "parse_arguments", stop_with_parser)
        cli.run_command(["fit"])
    return caught.value.args[0]


def parsed_fit(package: str, options: list[str]) -> Any:
    from training.command_line import reject_decided_values

    cli = importlib.import_module(f"{package}.lightning_cli")
    reject_decided_values(options, cli.DECIDED_BY)
    return fit_parser(package).parse_args(["fit", *options]).fit


@pytest.mark.parametrize(
    "path", [p for p in CONFIGS if p.parent.name in ("pretrain", "encoder")], ids=ids
)
def test_pretraining_configs_parse(path: Path) -> None:
    encoder = path.parent.parent / "encoder" / "ponet_nano.yaml"
    parsed = parsed_fit(
        "pretrain", ["--config", str(encoder), "--config", str(path), "--data.folder", "x"]
    )
    assert parsed.model.encoder.class_path.startswith("ponet.")
    assert parsed.data.global_batch_size > 0


@pytest.mark.parametrize("path", [p for p in CONFIGS if p.parent.name == "strategy"], ids=ids)
def test_strategy_configs_parse(path: Path) -> None:
    encoder = path.parent.parent / "encoder" / "ponet_nano.yaml"
    parsed = parsed_fit(
        "pretrain", ["--config", str(encoder), "--config", str(path), "--data.folder", "x"]
    )
    assert parsed.trainer.strategy != "auto"


@pytest.mark.parametrize("path", [p for p in CONFIGS if p.parent.name == "data"], ids=ids)
def test_data_configs_parse(path: Path) -> None:
    from data_prep.config import BuildConfig

    overrides = {"output": "x"}
    if path.name == "local_text.yaml":
        overrides["source.path"] = "x"
    assert BuildConfig.from_yaml(path, overrides).output


def readme_commands(repository: Path) -> list[str]:
    text = (repository / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    joined = "\n".join(blocks).replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def test_readme_commands_exist_and_parse(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    commands = readme_commands(repository)
    assert "make quickstart" in commands and "make test" in commands
    makefile = (repository / "Makefile").read_text(encoding="utf-8")
    for command in commands:
        words = shlex.split(command, comments=True)
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, flags=re.MULTILINE), command
        elif words[1:4] == ["-m", "pretrain", "fit"]:
            assert parsed_fit("pretrain", words[4:]).data.folder
        elif words[:2] == [".venv/bin/python", "-m"]:
            check_other_command(words[2], words[3:])
        else:
            assert words[0] in ("git", "cd"), f"README command not understood: {command}"


def test_the_readmes_encoder_has_an_embedding_for_every_entry_of_its_tokenizer(
    repository: Path,
) -> None:
    words = [shlex.split(command) for command in readme_commands(repository)[2:5]]
    build, fit = (next(w for w in words if name in w) for name in ("build", "fit"))
    size = build[build.index("--tokenizer.vocab_size") + 1]
    assert fit[fit.index("--model.encoder.vocab_size") + 1] == size
    assert build[build.index("--output") + 1] == fit[fit.index("--data.folder") + 1]


def check_other_command(package: str, arguments: list[str]) -> None:
    if package == "data_prep":
        from data_prep.cli import build_parser, parse_overrides
        from data_prep.config import BuildConfig

        options, rest = build_parser().parse_known_args(arguments)
        if options.command == "build":
            assert BuildConfig.from_yaml(options.config, parse_overrides(rest)).output
    elif package == "finetune":
        check_finetune_command(arguments)
    elif package == "ponet":
        check_ponet_command(*arguments)
    else:
        assert package == "pretrain", arguments
        check_pretrain_command(arguments)


def check_ponet_command(command: str, *options: str) -> None:
    from ponet import cli, encode_files

    if command == "export":
        pytest.importorskip("transformers", reason="the extra hub is not installed")
        from ponet.hub.export import _parser as parser
    elif command == "fill":
        assert len(options) >= 2
        return
    else:
        parser = {"import": cli._import_parser, "encode": encode_files._parser}[command]
    assert parser().parse_args(options).output


def check_pretrain_command(arguments: list[str]) -> None:
    command, *options = arguments
    if command == "sweep":
        from training.studies.command import parse_sweep

        assert parse_sweep(options)[0].file.is_file()
    elif command == "report":
        from training.reports.command import parse_pretraining

        assert parse_pretraining(options).runs
    elif command == "tune":
        from pretrain.tuning import KINDS

        assert options[0] in KINDS, arguments
    elif command == "validate":
        assert parsed_fit("pretrain", options).ckpt_path
    elif command == "predict":
        assert parsed_fit("pretrain", options).data.folder
    else:
        from pretrain.export import ExportOptions
        from pretrain.score import ScoreOptions
        from training.command_line import parse_options
        from training.reports.compare import CompareOptions
        from training.summary import SummaryOptions

        if command == "export":
            assert parse_options(ExportOptions, options, program=command, positional="source")
        elif command in ("summary", "compare", "score"):
            kind = {"summary": SummaryOptions, "compare": CompareOptions, "score": ScoreOptions}
            what = "bundles" if command == "score" else "runs"
            names: dict[str, Any] = {"positional": what, "repeated": (what,)}
            assert parse_options(kind[command], options, program=command, **names)
        else:
            assert command == "fill", arguments


def check_finetune_command(arguments: list[str]) -> None:
    from finetune.cli import COMMANDS, TRAINS

    command, *options = arguments
    assert command in (*TRAINS[1], *COMMANDS), arguments
    if command == "lra":
        check_lra_command(*options)
    if command == "fit":
        assert parsed_fit("finetune", options).model.encoder
    elif command == "predict":
        from finetune.predict import PredictConfig
        from training.command_line import parse_options

        assert parse_options(PredictConfig, options, program=command)
    elif command == "explain":
        from finetune.explain import ExplainConfig
        from training.command_line import parse_options

        assert parse_options(ExplainConfig, options, program=command)
    elif command == "grid":
        from finetune.grid import parse_grid

        assert parse_grid(options)
    elif command == "baseline":
        from finetune.baselines.command import BaselineOptions
        from training.command_line import parse_options

        parse_options(BaselineOptions, options, program=command).data.check_selection()
    elif command == "report":
        from training.reports.command import parse_finetuning

        assert parse_finetuning(options).folders


def check_lra_command(command: str, *options: str) -> None:
    from finetune.lra.baseline_command import LraBaselineOptions
    from finetune.lra.grid import expand, parse_lra_grid
    from training.command_line import parse_options
    from training.parsing import with_allowed_modules

    if command == "fit":
        assert parsed_fit("finetune.lra", with_allowed_modules(options)[1]).data.task
    elif command == "grid":
        assert expand(parse_lra_grid(options))
    else:
        assert parse_options(LraBaselineOptions, options, program=command).name


def is_grid(path: Path) -> bool:
    return "tasks" in yaml.safe_load(path.read_text(encoding="utf-8"))


FINETUNE = [path for path in CONFIGS if path.parent.name == "finetune" and path.stem[:4] != "lra_"]


@pytest.mark.parametrize("path", [p for p in FINETUNE if not is_grid(p)], ids=ids)
def test_finetuning_configs_parse(path: Path) -> None:
    given = ["--model.encoder", "b", "--data.train", "t.csv", "--data.validation", "d.csv"]
    assert parsed_fit("finetune", ["--config", str(path), *given]).data.encoder == "b"


def searched(task: str) -> tuple[list[float], list[int], int, int]:
    """Rates and batch sizes that the publication searched; its epochs and length.

    lxchtan/PoNet: 2-GLUE.sh, 3-LongTask.sh and run_long_classification.py.
    """
    from finetune.tasks.registry import GLUE

    if task in GLUE:
        return [3e-5, 5e-5, 1e-4, 3e-4], [8, 16, 32, 64, 128], 4, 128
    return [3e-5, 5e-5], [32], 2 if task == "yelp5" else 10, 4096


@pytest.mark.parametrize("path", [p for p in FINETUNE if is_grid(p)], ids=ids)
def test_every_trial_of_the_grids_is_a_fit_that_parses(path: Path) -> None:
    from finetune.grid import expand, parse_grid
    from finetune.tasks.registry import task_named

    grid = parse_grid(["--config", str(path), "--encoder", "runs/a"])
    named = [task for task in grid.tasks if task != "own"]
    trials = expand(grid, {task: task_named(task).num_folds for task in named})
    trials = [trial for trial in trials if "fit" in trial.command]
    first = {(t.parameters["task"], t.parameters["batch_size"]): t for t in reversed(trials)}
    for (task, _), trial in first.items():  # rates, seeds and folds are plain numbers in the rest
        given = {"subcommand": "fit", "fit": trial.settings}
        parsed = fit_parser("finetune").parse_object(given).fit
        _, batch_sizes, epochs, max_len = searched(task)
        assert (parsed.data.task, parsed.model.optimizer.lr) == (task, trial.parameters["lr"])
        if not path.name.startswith(("small", "pnlp", "tiny")):
            assert parsed.trainer.max_epochs == epochs
            assert parsed.data.max_len == max_len
            assert parsed.data.global_batch_size in batch_sizes


def test_the_papers_grids_search_all_that_the_papers_searched() -> None:
    from finetune.grid import parse_grid
    from finetune.tasks.registry import GLUE

    files = (str(FINETUNE[0].parent / f"{name}.yaml") for name in ("glue", "long_documents"))
    glue, long = (parse_grid(["--config", file, "--encoder", "x"]) for file in files)
    assert set(glue.tasks) == set(GLUE) - {"ax"}
    for grid in (glue, long):
        for task in grid.tasks:
            assert (list(grid.lrs), list(grid.batch_sizes)) == searched(task)[:2]
