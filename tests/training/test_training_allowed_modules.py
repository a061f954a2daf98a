"""A configuration cannot make the program import a module that is not allowed."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
import yaml
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback

from ponet import EncoderConfig
from pretrain.lightning_cli import Parser, run_command
from training.parsing import (
    DEFAULT_ALLOWED,
    only_allowed_modules,
    with_allowed_modules,
)

EVIL = """
from pathlib import Path
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger
Path(__file__).with_name("imported").touch()

class X(Callback):
    def __init__(self, number: int = 0) -> None:
        self.number = number

class L(CSVLogger):
    pass

def function(*arguments):
    pass
"""


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The marker file that the modules `evil` and `ponet_evil` leave when they are imported."""
    for name in ("evil", "ponet_evil"):
        (tmp_path / f"{name}.py").write_text(EVIL, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path / "imported"
    for name in ("evil", "ponet_evil"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def parser() -> Parser:
    """The options of a run that take classes; one parser for all tests, for it is slow to make."""
    from jsonargparse import set_parsing_settings

    set_parsing_settings(subclasses_enabled=[EncoderConfig])
    parser = Parser(default_env=True, env_prefix="PONET")
    parser.add_argument("--config", action="config")
    parser.add_lightning_class_args(Trainer, "trainer", required=False)
    parser.add_subclass_arguments(EncoderConfig, "model.encoder", required=False)
    parser.add_argument("--anything", type=Any)
    parser.add_argument("--kind", type=type[Callback])
    return parser


INSIDE = {
    "class_path": "ModelCheckpoint",
    "init_args": {"dirpath": {"class_path": "evil.X"}},
}
LAMBDA = {"class_path": "LambdaCallback", "init_args": {"on_fit_start": "evil.function"}}
TUNER = {
    "class_path": "pytorch_lightning.callbacks.LambdaCallback",
    "init_args": {"on_fit_start": {"class_path": "evil.X", "init_args": {"number": 1}}},
}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model.encoder", "evil.X"],
        ["--model.encoder=evil.X"],
        ["--model.encoder.class_path", "evil.X"],
        ["--model.encoder", "ponet_evil.X"],
        ["--trainer.logger=evil.L"],
        ["--trainer.logger", json.dumps({"class_path": "evil.L", "init_args": {"save_dir": "."}})],
        ["--trainer.logger", json.dumps([{"class_path": "evil.L"}])],
        ["--trainer.callbacks+=evil.X"],
        ["--trainer.callbacks", "evil.X"],
        ["--trainer.callbacks", json.dumps([LAMBDA])],
        ["--trainer.callbacks", json.dumps([TUNER])],
        ["--trainer.strategy.class_path", "evil.X"],
        ["--trainer.plugins+=evil.X"],
        ["--trainer.logger.help", "evil.L"],
        ["--trainer.logger.help=evil.L"],
        ["--model.encoder.help", "evil.X"],
        ["--kind", "evil.X"],
        ["--trainer.logger=evil.L", "--print_config"],
    ],
)
def test_no_option_imports_a_module_that_is_not_allowed(
    arguments: list[str], parser: Parser, evil: Path
) -> None:
    with pytest.raises(ValueError, match="not in an allowed module") as refused:
        with only_allowed_modules():
            parser.parse_args(arguments)
    message = str(refused.value)
    assert "evil." in message and "--allow_modules" in message and "ponet, pretrain" in message
    assert arguments[0].lstrip("-").split("+")[0].split("=")[0].split(".")[0] in message
    assert not evil.exists() and "evil" not in sys.modules and "ponet_evil" not in sys.modules


@pytest.mark.parametrize(
    "content",
    [
        {"model": {"encoder": {"class_path": "evil.X"}}},
        {"trainer": {"logger": {"class_path": "evil.L", "init_args": {"save_dir": "x"}}}},
        {"trainer": {"callbacks": [{"class_path": "TQDMProgressBar"}, {"class_path": "evil.X"}]}},
        {"trainer": {"callbacks": [LAMBDA]}},
        {"trainer": {"strategy": {"class_path": "evil.X"}}},
        {"allow_modules": ["evil"], "trainer": {"callbacks": [{"class_path": "evil.X"}]}},
    ],
)
def test_no_yaml_file_imports_a_module_that_is_not_allowed(
    content: dict[str, Any], parser: Parser, evil: Path, tmp_path: Path
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(ValueError, match="not in an allowed module|allow_modules"):
        with only_allowed_modules():
            parser.parse_args(["--config", str(path)])
    assert not evil.exists()


def test_no_file_named_by_an_option_and_no_environment_variable_does(
    parser: Parser, evil: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "encoder.yaml").write_text("class_path: evil.X\n", encoding="utf-8")
    with pytest.raises(ValueError, match="evil.X"), only_allowed_modules():
        parser.parse_args(["--model.encoder", str(tmp_path / "encoder.yaml")])
    monkeypatch.setenv("PONET_TRAINER__LOGGER", "evil.L")
    with pytest.raises(ValueError, match="evil.L"), only_allowed_modules():
        parser.parse_args([])
    assert not evil.exists()


@pytest.mark.parametrize("option", ["--trainer.strategy", "--trainer.profiler"])
def test_an_option_that_takes_text_keeps_it_as_text(
    option: str, parser: Parser, evil: Path
) -> None:
    with only_allowed_modules():
        config = parser.parse_args([option, '{"class_path": "evil.X"}'])
        parser.dump(config)
    assert isinstance(config[option.removeprefix("--")], str) and not evil.exists()


@pytest.mark.parametrize("value", [{"class_path": "evil.X"}, INSIDE])
def test_a_value_of_any_type_is_kept_and_never_becomes_an_object(
    value: dict[str, Any], parser: Parser, evil: Path
) -> None:
    with only_allowed_modules():
        config = parser.parse_args(["--anything", json.dumps(value)])
        kept = parser.instantiate(config).anything
    assert isinstance(kept, dict | jsonargparse.Namespace) and not evil.exists()


@pytest.mark.parametrize(
    "function",
    [
        "torch.load",
        "torch.hub.load",
        "torch.utils.cpp_extension.load",
        "pytorch_lightning.cli.instantiate_class",
        "pytorch_lightning.callbacks.model_checkpoint.os.system",
        "torch.nn.functional.torch.load",
        "builtins.eval",
        "os.system",
    ],
)
def test_no_function_that_runs_code_is_reached_by_an_allowed_name(
    function: str, parser: Parser
) -> None:
    callback = {"class_path": "LambdaCallback", "init_args": {"on_fit_start": function}}
    with pytest.raises(ValueError, match="not in an allowed module"), only_allowed_modules():
        parser.parse_args(["--trainer.callbacks", json.dumps(callback)])


def test_short_names_and_the_classes_of_a_run_stay_allowed(parser: Parser) -> None:
    fsdp = {
        "class_path": "FSDPStrategy",
        "init_args": {
            "mixed_precision": {
                "class_path": "torch.distributed.fsdp.MixedPrecision",
                "init_args": {"param_dtype": "torch.bfloat16"},
            },
            "auto_wrap_policy": ["torch.nn.TransformerEncoderLayer"],
        },
    }
    with only_allowed_modules():
        config = parser.parse_args(
            [
                "--model.encoder=PoNetConfig",
                *("--trainer.logger=CSVLogger", "--trainer.logger.save_dir=logs"),
                *("--trainer.callbacks+=LearningRateMonitor", "--trainer.plugins+=LSFEnvironment"),
                *("--trainer.strategy", json.dumps(fsdp)),
            ]
        )
        parser.dump(config)
    assert config.model.encoder.class_path == "ponet.PoNetConfig"
    assert config.trainer.strategy.class_path == "pytorch_lightning.strategies.FSDPStrategy"


def test_an_allowed_module_is_imported(parser: Parser, evil: Path) -> None:
    with only_allowed_modules(["evil"]):
        config = parser.parse_args(["--trainer.callbacks+=evil.X"])
        callbacks = parser.instantiate(config).trainer.callbacks
    assert evil.exists() and type(callbacks[0]).__name__ == "X"


def test_the_list_is_gone_afterwards_and_widens_inside_another(parser: Parser, evil: Path) -> None:
    with only_allowed_modules(["evil"]):
        with only_allowed_modules():
            parser.parse_args(["--kind", "evil.X"])
        parser.parse_args(["--kind", "evil.X"])
        with pytest.raises(ValueError, match="'ponet_evil.X'"), only_allowed_modules():
            parser.parse_args(["--kind", "ponet_evil.X"])
    assert parser.parse_args(["--kind", "ponet_evil.X"]).kind.__name__ == "X"


@pytest.mark.parametrize("command", ["fit", "validate"])
def test_the_commands_refuse_before_they_import(command: str, evil: Path) -> None:
    options = ["--model.encoder", "PoNetConfig", "--data.folder", "x", "--trainer.logger", "evil.L"]
    with pytest.raises(ValueError, match=r"^trainer.logger: 'evil.L' is not in an allowed"):
        with only_allowed_modules():
            run_command([command, *options])
    assert not evil.exists() and not os.path.exists("runs")


def test_a_command_takes_the_module_it_was_allowed(evil: Path) -> None:
    options = ["--model.encoder", "PoNetConfig", "--data.folder", "x", "--print_config"]
    with pytest.raises(SystemExit) as ended:
        run_command(["fit", *options, "--allow_modules", "evil", "--trainer.callbacks+=evil.X"])
    assert not ended.value.code and evil.exists()


@pytest.mark.parametrize("prefix", ["", "*", "a-b", "a..b", "jsonargparse", "jsonargparse.x"])
def test_what_is_no_module_cannot_be_allowed(prefix: str) -> None:
    with pytest.raises(ValueError, match="--allow_modules"), only_allowed_modules([prefix]):
        pass


def test_the_option_is_found_in_every_spelling_and_taken_out() -> None:
    arguments = ["fit", "--allow_modules", "a, b.c", "--x=1", "--allow-modules=d", "--y", "2"]
    assert with_allowed_modules(arguments) == (
        ["a", "b.c", "d"],
        ["fit", "--x=1", "--y", "2"],
    )
    others = ["fit", "-c", "x.yaml", "--x", "allow_modules", "--n", "-1", "--", "--allow", "y"]
    assert with_allowed_modules(others) == ([], others)
    for broken in (["--allow_modules"], ["--allow_modules", "--x"]):
        with pytest.raises(ValueError, match="--allow_modules has no value"):
            with_allowed_modules(broken)


def test_neither_torch_nor_lightning_is_allowed_as_a_whole() -> None:
    assert not {"torch", "pytorch_lightning", "lightning_fabric", "jsonargparse"} & set(
        DEFAULT_ALLOWED
    )
