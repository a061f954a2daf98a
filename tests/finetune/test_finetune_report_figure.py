"""The figure of a report on fine-tuning: everything in it can be read."""

import itertools
from pathlib import Path

import pytest
from grid_fakes import make_result, write
from matplotlib.figure import Figure
from test_finetune_report import report_of, write_seeds

from training.metrics_file import append_metrics
from training.reports.command import run_finetuning_report
from training.reports.figures import Column, Measure, Result, dot_panels, save_dots
from training.statistics import estimate


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved, as they were laid out."""
    figures: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k))
    )
    return figures


@pytest.mark.parametrize("tasks", [("cola",), ("cola", "mrpc", "rte", "imdb")])
def test_nothing_in_the_figure_is_clipped_or_covered(
    tmp_path: Path, tasks: tuple[str, ...], drawn: list[Figure]
) -> None:
    for task in tasks:
        write_seeds(tmp_path, {1: 0.4, 2: 0.5, 3: 0.44}, "an_encoder_with_a_long_name", task=task)
        lost = make_result(task, "bert", score=0.3, seed=3, diverged=True)
        write_seeds(tmp_path, {1: 0.3, 2: 0.35}, "bert", task=task)
        write(tmp_path, lost)
    report = report_of(tmp_path)
    save_dots(report.dots(), report.columns, tmp_path / "figure.png")
    figure = drawn[0]
    legend = figure.legends[0].get_window_extent()
    boxes = [axis.get_tightbbox() for axis in figure.axes if axis.axison]
    assert len(boxes) == len(tasks)
    for box in (legend, *boxes):
        assert box.x0 >= 0 and box.y0 >= 0
        assert box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1
    assert not any(legend.overlaps(box) for box in boxes)


def test_long_names_of_rows_and_measures_do_not_run_into_each_other(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    rows = [f"max_steps={n}, warmup_steps=10, max_len=128, and 3 more settings" for n in range(3)]
    cells = {row: Result(by_seed={1: 0.5}, estimate=estimate([0.5])) for row in rows}
    columns = [
        Column(measure=Measure(title=title), cells=cells, level=None, note="%, higher is better")
        for title in ("Masked-LM accuracy, whole split", "Pair accuracy, whole split", "Speed")
    ]
    save_dots(dot_panels(columns, rows), columns, tmp_path / "figure.png")
    axes = drawn[0].axes
    titles = [axis._left_title.get_window_extent() for axis in axes]
    names = [label.get_window_extent() for label in axes[0].get_yticklabels()]
    for boxes in (titles, names):
        assert not any(one.overlaps(two) for one, two in itertools.pairwise(boxes))


def test_a_key_of_many_published_models_fits_and_each_has_a_mark_of_its_own(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    names = [f"a published model with a name of its own, {number}" for number in range(12)]
    for task in ("cola", "mrpc", "rte"):
        write_seeds(tmp_path, {1: 0.4}, task=task)
        result = make_result(task, score=0.5, seed=2)
        result["task_facts"]["published"] = dict.fromkeys(names, 60.0)
        write(tmp_path, result)
    report = report_of(tmp_path)
    save_dots(report.dots(), report.columns, tmp_path / "figure.png")
    (legend,) = drawn[0].legends
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= drawn[0].bbox.width and box.y0 >= 0
    marks = {line.get_marker() for line in legend.get_lines() if "published" in line.get_label()}
    assert len(marks) == len(names)


def test_learning_curves_are_the_mean_and_the_band_of_the_seeds_behind_a_number(
    tmp_path: Path, drawn: list[Figure], capsys: pytest.CaptureFixture[str]
) -> None:
    curves = {1: (0.2, 0.4), 2: (0.3, 0.6), 3: (0.1, float("nan"))}
    for seed, scores in curves.items():
        result = make_result(score=0.5, seed=seed, diverged=seed == 3, majority=0.05)
        folder = write(tmp_path, result).parent
        for step, score in zip((10, 20), scores, strict=True):
            append_metrics(folder / "metrics.jsonl", {"val/score": score}, step=step, elapsed_s=1)
    write(tmp_path, make_result(encoder="bert"))  # kept no metrics, as committed results
    write(tmp_path, make_result("rte"))
    run_finetuning_report([str(tmp_path)])
    assert "figure.png, curves.png" in capsys.readouterr().out
    axes = [axis for axis in drawn[-1].axes if axis.axison]
    assert [axis._left_title.get_text() for axis in axes] == ["CoLA"]
    mean, stray, cross, level = axes[0].get_lines()
    assert mean.get_xydata().tolist() == [[10, 25], [20, pytest.approx(50)]]
    assert stray.get_xydata().tolist() == cross.get_xydata().tolist() == [[10, 10]]
    assert set(level.get_ydata()) == {5.0}
    (band,) = axes[0].collections
    assert band.get_paths()[0].get_extents().y1 == pytest.approx(60)
    assert [text.get_text() for text in drawn[-1].legends[0].get_texts()] == ["ponet"]
    assert "Learning curves" in (tmp_path / "report/index.html").read_text()


def test_without_kept_validations_there_are_no_learning_curves(tmp_path: Path) -> None:
    write(tmp_path, make_result())
    (tmp_path / "report").mkdir()
    (tmp_path / "report/curves.png").write_bytes(b"of an earlier report")
    run_finetuning_report([str(tmp_path)])
    assert not (tmp_path / "report/curves.png").exists()
    assert "Learning curves" not in (tmp_path / "report/index.html").read_text()
