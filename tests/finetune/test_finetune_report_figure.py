"""The figure of a report on fine-tuning: everything in it can be read."""

from pathlib import Path

import pytest
from grid_fakes import make_result, write
from matplotlib.figure import Figure
from test_finetune_report import report_of, write_seeds

from training.reports.figures import save_dots


@pytest.mark.parametrize("tasks", [("cola",), ("cola", "mrpc", "rte", "imdb")])
def test_nothing_in_the_figure_is_clipped_or_covered(
    tmp_path: Path, tasks: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for task in tasks:
        write_seeds(tmp_path, {1: 0.4, 2: 0.5, 3: 0.44}, "an_encoder_with_a_long_name", task=task)
        lost = make_result(task, "bert", score=0.3, seed=3, diverged=True)
        write_seeds(tmp_path, {1: 0.3, 2: 0.35}, "bert", task=task)
        write(tmp_path, lost)
    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k))
    )
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
