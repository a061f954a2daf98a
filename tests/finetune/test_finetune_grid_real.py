"""A grid of real fits: two encoders, one task of own files, two seeds, then its table."""

import json
import random
import shutil
from pathlib import Path

import pytest

from finetune.grid import run_grid
from training.reports.command import run_finetuning_report

WORDS = {"yes": ["good", "great", "fine"], "no": ["bad", "awful", "poor"]}


def write_rows(path: Path, *, num_rows: int, seed: int) -> Path:
    generator = random.Random(seed)
    lines = ["text,label"]
    for _ in range(num_rows):
        label = generator.choice(["yes", "no", "yes"])
        filler = generator.choices(["a", "film", "it", "was", "the"], k=generator.randint(2, 8))
        filler.insert(generator.randrange(len(filler)), generator.choice(WORDS[label]))
        lines.append(f"{' '.join(filler)},{label}")
    path.write_text("\n".join(lines) + "\n")
    return path


pytest.importorskip("sklearn", reason="needs the extra 'baselines'")


def test_a_real_grid_learns_goes_on_and_makes_a_table(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("first", "second"):
        shutil.copytree(bundle, tmp_path / name / "bundle")
    train = write_rows(tmp_path / "train.csv", num_rows=160, seed=1)
    validation = write_rows(tmp_path / "validation.csv", num_rows=40, seed=2)
    options = [
        *f"--tasks own --lrs 5e-3 --batch_sizes 16 --seeds 1 2 --output {tmp_path}/grid".split(),
        *f"--encoder {tmp_path}/first --encoder {tmp_path}/second/bundle".split(),
        *f"--fit.data.train {train} --fit.data.validation {validation}".split(),
        *"--fit.data.max_len 16 --fit.trainer.max_epochs 2 --fit.trainer.accelerator cpu".split(),
        *"--baseline --in_process true".split(),
    ]
    run_grid(options)
    run_grid(options)
    assert "5 trials: 5 done, 0 failed, 0 to run" in capsys.readouterr().out
    assert len(list((tmp_path / "grid").rglob("model.safetensors"))) == 2
    run_finetuning_report([str(tmp_path / "grid")])
    printed = capsys.readouterr().out
    assert "## Own data" in printed and "| own | first | 2 |" in printed
    assert (
        "| own | TF-IDF + linear | 1 |" in printed
        and "first − TF-IDF + linear | own | 2 |" in printed
    )
    assert "Rows scored: own 40 (one row: 2.5 points)." in printed
    assert "equal in every pair" in printed  # the two encoders have the same weights
    assert (tmp_path / "grid/report/figure.png").is_file()
    for path in (train, tmp_path / "first" / "bundle" / "model.safetensors"):
        content = path.read_bytes()
        path.write_bytes(content[:-2] + bytes(2))
        with pytest.raises(ValueError, match=f"other settings or files .*{path} has changed"):
            run_grid(options)
        run_finetuning_report([str(tmp_path / "grid")])
        assert f"{path} has changed since" in capsys.readouterr().out
        path.write_bytes(content)
    run_grid(options)


def test_the_papers_grids_train_as_they_are_shipped(
    bundle: Path, tmp_path: Path, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{n}\ta film {n}\tit was\t{('not_', '')[n % 2]}entailment" for n in range(12)]
    (tmp_path / "RTE").mkdir()
    for stem in ("train", "dev"):
        text = "\n".join(["index\tsentence1\tsentence2\tlabel", *rows])
        (tmp_path / "RTE" / f"{stem}.tsv").write_text(text + "\n")
    for number in range(40):
        label = ("neg", "pos")[number % 2]
        for split in ("train", "test"):
            (tmp_path / "aclImdb" / split / label).mkdir(parents=True, exist_ok=True)
            path = tmp_path / "aclImdb" / split / label / f"{number}_{number % 2 * 8 + 1}.txt"
            path.write_text(f"a {split} film {'good' * (number % 2)} {number}")
    for name, task in (("glue", "rte"), ("long_documents", "imdb")):
        config = repository / "configs" / "finetune" / f"{name}.yaml"
        options = [f"--config={config}", f"--encoder={bundle}", f"--folder={tmp_path}"]
        options += ["--tasks", task, "--lrs", "1e-3", "--batch_sizes", "8", "--seeds", "1"]
        options += [f"--output={tmp_path / name}", "--in_process", "--fit.trainer.max_steps", "2"]
        run_grid([*options, "--fit.trainer.accelerator", "cpu"])
        assert "trials done: 1 of 1" in capsys.readouterr().out
        (path,) = (tmp_path / name).rglob("result.json")
        assert json.loads(path.read_text())["settings"]["precision"] == "bf16-mixed"
