"""Every YAML parses, says in its first line what it is, and the README's commands are real."""

import re
import shlex
from pathlib import Path

import pytest

CONFIGS = sorted((Path(__file__).resolve().parent.parent / "configs").rglob("*.yaml"))


def ids(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


@pytest.mark.parametrize("path", CONFIGS, ids=ids)
def test_first_line_says_what_the_config_reproduces(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ") and len(first) > 40


def parses_as_fit(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    from pretrain.lightning_cli import run_command

    with pytest.raises(SystemExit) as done:
        run_command([*arguments, "--print_config"])
    assert done.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "path", [p for p in CONFIGS if p.parent.name in ("pretrain", "encoder")], ids=ids
)
def test_pretraining_configs_parse(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = path.parent.parent / "encoder" / "ponet_nano.yaml"
    arguments = ["fit", "--config", str(encoder), "--config", str(path), "--data.folder", "x"]
    printed = parses_as_fit(arguments, capsys)
    assert "class_path: ponet." in printed and "global_batch_size" in printed


@pytest.mark.parametrize("path", [p for p in CONFIGS if p.parent.name == "strategy"], ids=ids)
def test_strategy_configs_parse(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = path.parent.parent / "encoder" / "ponet_nano.yaml"
    arguments = ["fit", "--config", str(encoder), "--config", str(path), "--data.folder", "x"]
    assert "strategy: auto" not in parses_as_fit(arguments, capsys)


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


def test_readme_commands_exist_and_parse(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(repository)
    commands = readme_commands(repository)
    assert "make quickstart" in commands and "make test" in commands
    makefile = (repository / "Makefile").read_text(encoding="utf-8")
    for command in commands:
        words = shlex.split(command, comments=True)
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, flags=re.MULTILINE), command
        elif words[1:4] == ["-m", "pretrain", "fit"]:
            parses_as_fit(words[3:], capsys)
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
        from finetune.cli import parse_config
        from finetune.config import FinetuneConfig, PredictConfig

        config_class = FinetuneConfig if arguments[0] == "fit" else PredictConfig
        assert parse_config(config_class, arguments[1:], command=arguments[0])
    else:
        assert package == "pretrain" and arguments[0] in ("fill", "summary", "export"), arguments


@pytest.mark.parametrize("path", [p for p in CONFIGS if p.parent.name == "finetune"], ids=ids)
def test_finetuning_configs_parse(path: Path) -> None:
    from finetune.cli import parse_config
    from finetune.config import FinetuneConfig

    files = ["--bundle", "b", "--train", "t.csv", "--validation", "d.csv", "--output", "o"]
    assert parse_config(FinetuneConfig, ["--config", str(path), *files], command="fit")
