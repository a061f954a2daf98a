"""The pages say what is so: commands parse or run, snippets run, messages and figures are real."""

import ast
import csv
import functools
import importlib
import json
import re
import shlex
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from test_configs import (
    check_finetune_command,
    check_ponet_command,
    check_pretrain_command,
    parsed_fit,
)

from training.statistics import paired_difference

REPOSITORY = Path(__file__).resolve().parent.parent
DOCS = REPOSITORY / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if path.parent.name != "results")
ELSEWHERE = ("GPU", "Hub", "cluster", "Docker", "onnx", "transformers")
_FENCE = re.compile(r"^( *)```(\w*)([^\n]*)\n(.*?)^\1```", flags=re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """One fenced block of a page."""

    language: str
    title: str
    text: str

    @property
    def is_elsewhere(self) -> bool:
        """Whether the title says that the block needs what a test machine lacks."""
        return self.title.startswith("needs ")


def name_of(path: Path) -> str:
    return path.relative_to(DOCS).as_posix()


def blocks(page: Path) -> list[Block]:
    found = []
    for indent, language, options, text in _FENCE.findall(page.read_text(encoding="utf-8")):
        title = re.search(r'title="([^"]*)"', options)
        lines = [line.removeprefix(indent) for line in text.splitlines()]
        found.append(Block(language, title[1] if title else "", "\n".join(lines) + "\n"))
    return found


def commands(page: Path) -> Iterator[tuple[list[str], Block]]:
    for block in blocks(page):
        if block.language != "bash":
            continue
        for line in block.text.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words, block


def check_module(package: str, arguments: list[str], block: Block) -> None:
    """Parse the options of one `python -m` command."""
    if package == "pretrain":
        if arguments[0] == "fit":
            assert parsed_fit("pretrain", arguments[1:]).data.folder
        else:
            check_pretrain_command(arguments)
    elif package == "finetune":
        if arguments[0] == "fit":
            assert parsed_fit("finetune", arguments[1:]).model.encoder
        else:
            check_finetune_command(arguments)
    elif package == "data_prep":
        check_data_prep(arguments, block)
    elif package == "ponet":
        check_ponet_command(*arguments)
    elif package.startswith("benchmarks."):
        check_measurement(package, arguments)
    else:
        assert package in ("venv", "build"), package


def check_measurement(package: str, arguments: list[str]) -> None:
    """Parse the options of a measurement, where they are a table of the module."""
    from benchmarks import report

    module = importlib.import_module(package)
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if options := getattr(module, "OPTIONS", None):
        report.parse(module.__doc__, options, own)


def check_data_prep(arguments: list[str], block: Block) -> None:
    from data_prep.cli import build_parser, parse_overrides
    from data_prep.config import BuildConfig

    options, rest = build_parser().parse_known_args(arguments)
    if options.command != "build":
        assert not rest
    elif Path(options.config).is_file():  # else it is a file of the page, which a test below runs
        assert BuildConfig.from_yaml(options.config, parse_overrides(rest)).output


@pytest.mark.parametrize("page", [*PAGES, DOCS / "results" / "README.md"], ids=name_of)
def test_every_measurement_that_a_sentence_names_takes_these_options(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for package, arguments in re.findall(r"`(?:python )?-m (benchmarks\.\w+)([^`]*)`", text):
        check_measurement(package, shlex.split(arguments))


def test_the_page_of_results_names_every_file_beside_it_with_its_machine_and_load() -> None:
    text = (DOCS / "results" / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `(\w+)\.", text, flags=re.MULTILINE))
    files = [path for path in (DOCS / "results").iterdir() if path.is_file()]
    assert named == {path.stem for path in files} - {"README"}
    folders = {f"records/{path.name}" for path in (DOCS / "results" / "records").iterdir()}
    assert folders == set(re.findall(r"^\| `(records/\w+)`", text, flags=re.MULTILINE))
    row = r"^\| `(\w+)\.[^|]*\|[^|]*\| (Xeon|EPYC|H100)(?:, ([\d.]+))?"
    for name, machine, load in re.findall(row, text, flags=re.MULTILINE):
        path = DOCS / "results" / f"{name}.json"
        content = json.loads(path.read_text()) if path.is_file() else {}
        if found := content.get("machine"):
            assert machine in content.get("gpu", found["cpu"]), name
            assert not load or abs(float(load) - found["load_average"][0]) < 0.06, name


def test_results_name_no_folder_of_the_machine_they_were_made_on() -> None:
    absolute = re.compile(r"""(?:^|[\s"',(])/(?:home|root|tmp|work|mnt|Users)/""", re.MULTILINE)
    texts = [path for path in (DOCS / "results").rglob("*") if path.suffix not in ("", ".png")]
    assert texts
    assert not [p.name for p in texts if p.is_file() and absolute.search(p.read_text("utf-8"))]


def test_intents_of_atis_are_told_apart_where_the_seeds_do() -> None:
    scores: dict[str, dict[str, float]] = {}
    with (DOCS / "results" / "pnlp_atis.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["split"] == "test":
                scores.setdefault(row["encoder"], {})[row["seed"]] = float(row["intent_accuracy"])
    linear = next(name for name in scores if name.startswith("TF-IDF"))
    scores[linear] = dict.fromkeys(scores["hashed_ponet"], scores[linear]["0"])
    separable = {}
    for first, second in combinations(sorted(scores, key=lambda name: name != "hashed_ponet"), 2):
        gap = paired_difference(scores[first], scores[second])
        if gap.verdict == "separable":
            ends = f"({100 * gap.low:.1f} to {100 * gap.high:.1f})"
            separable[first, second] = f"{100 * gap.mean:.1f} above {{}} {ends}"
    text = (DOCS / "semantic_parsing.md").read_text(encoding="utf-8")
    names = {"pnlp_mixer_base": "BASE", linear: "the linear model"}
    assert set(separable) == {("hashed_ponet", name) for name in names}
    for (_, name), words in separable.items():
        assert words.format(names[name]) in text


def without_launcher(words: list[str]) -> list[str]:
    """What torchrun or docker start, as a command of its own; other commands as they are."""
    if words[0] in ("torchrun", "docker") and "-m" in words:
        return ["python", *words[words.index("-m") :]]
    if words[0] == "sbatch":
        assert (REPOSITORY / words[1]).is_file()
        return ["python", "-m", "pretrain", "fit", *words[2:]]
    return words


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_of_a_page_is_one_that_exists_and_parses(
    page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for given, block in commands(page):
        words = without_launcher(given)
        if words[:2] == ["python", "-m"]:
            check_module(words[2], words[3:], block)
        elif words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, flags=re.MULTILINE), words
        elif words[0] == "python":
            assert (REPOSITORY / words[1]).is_file(), words
        elif words[0] == "docker":
            assert words[1] in ("build", "run") and block.is_elsewhere
        else:
            assert words[0] in ("source", "pip", "cd", "ponet-pretrain", "ray"), words


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_block_that_needs_more_than_a_test_machine_says_what(page: Path) -> None:
    for block in blocks(page):
        if block.is_elsewhere:
            assert any(word in block.title for word in ELSEWHERE), block.title
        if block.language == "bash" and not block.is_elsewhere:
            large = r"(?<!mixer)_base\.yaml|strategy/|--source\.id"
            assert not re.search(large, block.text), block.text


def put_files(page: Path, folder: Path) -> None:
    """Write every block that is titled with a file name, as a reader would."""
    for block in blocks(page):
        if re.fullmatch(r"[\w./-]+\.\w+", block.title):
            target = folder / block.title
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text, encoding="utf-8")


def run_data_prep(page: Path) -> list[str]:
    from data_prep.cli import main

    done = []
    for words, block in commands(page):
        if words[:3] == ["python", "-m", "data_prep"] and not block.is_elsewhere:
            quiet = ["--quiet", "--num_workers", "1"] if words[3] == "build" else []
            assert main([*words[3:], *quiet]) == 0, words
            done.append(words[3])
    return done


def run_python(page: Path) -> dict[str, Any]:
    space: dict[str, Any] = {"__name__": name_of(page)}
    for block in blocks(page):
        if block.language == "python" and not block.is_elsewhere:
            exec(compile(block.text, name_of(page), "exec"), space)
    return space


def test_the_three_examples_of_the_data_format_run_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    monkeypatch.chdir(tmp_path)
    page = DOCS / "data_format.md"
    put_files(page, tmp_path)
    assert run_data_prep(page) == ["build", "build", "inspect", "build", "verify"]
    shards = run_python(page)["shards"]
    assert (shards.num_documents, shards.num_sentences) == (2, 9)
    assert "tensor([[0, 1, 1, 2, 3, 3, 4]])\n" * 2 in capsys.readouterr().out
    listed = re.findall(r"[├└]── ([\w.]+)", page.read_text(encoding="utf-8"))
    assert {"manifest.json", "tokenizer.json", "tokens.bin"} < set(listed)
    present = {path.name for path in (tmp_path / "data/fables").rglob("*")}
    assert set(listed) - {"validation"} == present - {"validation"}


@pytest.mark.parametrize("name", ["recipes/extending.md", "recipes/long_documents.md"])
def test_python_of_the_recipes_runs_as_written(name: str) -> None:
    assert run_python(DOCS / name)


def make_bundle(folder: Path) -> None:
    import ponet
    from data_prep.config import TokenizerConfig
    from data_prep.tokenizer import train_wordpiece

    text = "Returns a new array of the same shape. Open the file for reading."
    config = TokenizerConfig(vocab_size=128, train_megabytes=0)
    tokenizer = train_wordpiece(lambda: [text] * 4, config)
    sizes = {"vocab_size": 128, "max_positions": 64, "hidden_size": 16, "ffn_size": 32}
    model = ponet.PretrainingModel(ponet.PoNetConfig.preset("nano", **sizes))
    tokenizer.save(str(folder.parent / "tokenizer.json"))
    ponet.save_bundle(folder, model, tokenizer_json=folder.parent / "tokenizer.json")


def test_python_of_using_a_model_runs_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs/quickstart/bundle"
    folder.parent.mkdir(parents=True)
    make_bundle(folder)
    assert run_python(DOCS / "use_a_model.md")["vectors"].shape == (2, 16)
    assert "torch.Size([2, 3])" in capsys.readouterr().out


def literal(node: ast.AST) -> str:
    """The text that an expression makes, with an ellipsis where a value is put in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(map(literal, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return literal(node.left) + literal(node.right)
    return "…"


@functools.cache
def source_texts() -> str:
    """All texts in the code of the packages, one under another."""
    files = (
        path
        for package in ("ponet", "data_prep", "training", "pretrain", "finetune")
        for path in sorted((REPOSITORY / package).rglob("*.py"))
    )
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in files)
    return "\n\0\n".join(literal(node) for tree in trees for node in ast.walk(tree))


def messages() -> list[str]:
    text = (DOCS / "errors.md").read_text(encoding="utf-8")
    return re.findall(r"``` \{ \.text \.message \}\n(.*?)\n```", text, flags=re.DOTALL)


@pytest.mark.parametrize("message", messages(), ids=lambda message: message[:40])
def test_every_message_of_the_errors_page_stands_in_the_code(message: str) -> None:
    assert message.rstrip("…. ") in source_texts()


def test_every_error_has_a_cause_and_a_way_out() -> None:
    text = (DOCS / "errors.md").read_text(encoding="utf-8")
    sections = text.split("\n### ")[1:]
    assert len(sections) == len(messages()) >= 20
    for section in sections:
        assert section.count("**Why.**") == section.count("**Do.**") == 1, section[:60]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(DOCS / "figures"))
    import draw

    return draw


def test_the_figures_are_what_their_code_draws(drawn: Any) -> None:
    figures = drawn.figures()
    assert {path.name for path in (DOCS / "figures").glob("*.svg")} == set(figures)
    for name, picture in figures.items():
        stored = (DOCS / "figures" / name).read_text(encoding="utf-8")
        assert stored == picture.svg(), f"{name} is old: python docs/figures/draw.py"


@pytest.mark.parametrize("pool", ["global", "segment", "local"])
def test_the_figure_of_the_pools_shows_what_the_model_reads(drawn: Any, pool: str) -> None:
    import torch

    from ponet import EncoderBatch, PoNetConfig
    from ponet.encoders.ponet import PoNetMixer

    torch.manual_seed(0)
    config = PoNetConfig(
        hidden_size=64,
        num_heads=2,
        global_pool="mean" if pool == "global" else "none",
        use_segment_pool=pool == "segment",
        use_local_pool=pool == "local",
        fusion_product=False,
        kernels="reference",
        dropout_prob=0.0,
    )
    segments = torch.tensor([drawn.pooling.SEGMENTS])
    special = torch.zeros_like(segments, dtype=torch.bool)
    special[:, list(drawn.pooling.SPECIAL)] = True
    batch = EncoderBatch(
        segments, torch.ones_like(special), torch.zeros_like(segments), segments, special
    )
    mixer = PoNetMixer(config)
    x_BLD = torch.randn(1, segments.shape[1], 64, requires_grad=True)
    pooled_BLD = mixer.pool(x_BLD, mixer.prepare(batch))
    for token in range(segments.shape[1]):
        if not pooled_BLD[0, token].requires_grad:
            continue
        (grad_BLD,) = torch.autograd.grad(pooled_BLD[0, token].sum(), x_BLD, retain_graph=True)
        read = grad_BLD[0].abs().sum(-1).nonzero().flatten().tolist()
        assert tuple(read) == drawn.pooling.reach(pool, token), (pool, token)


def test_pages_load_nothing_from_the_network_and_all_are_in_the_menu() -> None:
    settings = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    assert "font: false" in settings and not re.search(r"https?://", settings)
    for page in PAGES:
        assert f": {name_of(page)}\n" in settings, name_of(page)


def test_links_and_pictures_of_the_pages_are_there() -> None:
    for page in PAGES:
        text = _FENCE.sub("", page.read_text(encoding="utf-8"))
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{name_of(page)}: {target}"


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess
    import sys

    pytest.importorskip("material", reason="the extra docs is not installed")
    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "api" / "ponet.html").read_text(encoding="utf-8")
    for name in ("PoNetConfig", "EncoderBatch", "load_bundle"):
        assert f'id="ponet.{name}"' in page
