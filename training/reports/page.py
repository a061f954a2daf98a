"""The page: one HTML file that opens from disk and asks the network for nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.events import versions
from training.reports.configurations import Configuration, Study
from training.reports.curves import make_curves
from training.reports.dot_figure import draw_dots
from training.reports.line_figure import LineFigure, draw_lines
from training.reports.measures import ACCURACY, LOSS, PAIRS, SPEED, Column, make_columns
from training.reports.parallel_figure import draw_parallel
from training.reports.runs import Problem
from training.reports.style import SCRIPT, style
from training.reports.summary import findings, warnings
from training.reports.svg import escape, swatch, tag
from training.reports.tables import (
    commands_of,
    differences_table,
    levels_text,
    results_table,
    runs_table,
    settings_table,
    table,
)
from training.run_config import CONFIG_FILE, METRICS_FILE

CURVES = (("mlm_loss", LOSS), ("mlm_accuracy", ACCURACY), ("pair_accuracy", PAIRS))
METHOD = (
    "A configuration is a set of runs that differ only in their seed. A cell is the mean of its "
    "seeds at their last validation; ± is half of the 95 % Student t interval of that mean. Two "
    "seeds are shown as they are, one seed has no spread.",
    "Differences are paired: the same seed of both configurations is subtracted first. A "
    "difference is called separable where its 95 % interval leaves out zero. The intervals are "
    "not corrected for the number of comparisons: of twenty true zeros, one looks separable.",
    "A star marks a configuration that is separably better than every other one in its column.",
    "Validation always masks the same 15 % of the same examples, whatever training masked.",
    "Downstream scores are per cent (100 x correlation where the metric is one) of each run's "
    "study.json, there the mean over fine-tuning seeds; n in the table counts pretraining seeds.",
    "Training speed is the median over the logged windows of training; it compares only where all "
    "runs had the same machine to themselves.",
)


@dataclass(frozen=True, kw_only=True)
class Content:
    """Everything the page says."""

    title: str
    """Heading."""
    study: Study
    """Runs in their configurations."""
    baseline: Configuration
    """What differences are taken from."""
    problems: Sequence[Problem]
    """Folders without a usable run."""
    out: Path
    """Folder of the page."""


def make_page(content: Content) -> str:
    """The whole HTML document."""
    columns = make_columns(content.study)
    sections = [
        ("results", "Results", _results(content, columns)),
        ("differences", "Difference from the baseline", _differences(content, columns)),
        ("curves", "Learning curves", _curves(content.study)),
        ("seeds", "Every seed", _dots(content.study, columns, is_speed=False)),
        ("parallel", "Configuration against result", _parallel(content.study, columns)),
        ("speed", "Throughput", _dots(content.study, columns, is_speed=True)),
        ("settings", "What differs", _settings(content.study)),
        ("runs", "Runs, commands and configurations", _runs(content)),
        ("missing", "Missing or broken", _problems(content.problems)),
        ("method", "How to read this, and versions", _method()),
    ]
    present = [section for section in sections if section[2]]
    links = (tag("a", escape(title), href=f"#{name}") for name, title, _ in present)
    body = [
        tag("h1", escape(content.title)),
        _opening(content, columns),
        tag("nav", *links, aria_label="sections"),
        *(tag("section", tag("h2", escape(t)), text, id=name) for name, t, text in present),
        tag("script", SCRIPT),
    ]
    head = [
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        '<link rel="icon" href="data:,">',
        tag("title", escape(content.title)),
        tag("style", style(len(content.study.configurations))),
    ]
    html = tag("html", tag("head", *head), "\n", tag("body", *body), lang="en")
    return f"<!doctype html>\n{html}\n"


def _opening(content: Content, columns: Sequence[Column]) -> str:
    study = content.study
    told = warnings(study, columns, content.problems)
    return "".join(
        [
            tag("ul", *(tag("li", escape(line)) for line in findings(study, columns))),
            *(tag("p", escape(line), class_="warn") for line in told),
        ]
    )


def _soft(line: str) -> str:
    return tag("p", escape(line), class_="soft")


def _results(content: Content, columns: Sequence[Column]) -> str:
    parts = [results_table(content.study, columns)]
    if content.study.unchanged:
        meant = ", ".join(f"{name}={value}" for name, value in content.study.unchanged.items())
        parts.append(_soft(f"What the name of a configuration leaves unsaid: {meant}."))
    parts.append(
        _soft(
            "± is half of a 95 % Student t interval over n seeds; a star (★) marks what is "
            "separably better than everything else in its column."
        )
    )
    return "".join(parts)


def _differences(content: Content, columns: Sequence[Column]) -> str:
    if len(content.study.configurations) < 2:
        return ""
    note = "Seed by seed, then the mean; ± is half of a 95 % interval over n pairs of seeds."
    return differences_table(content.study, columns, content.baseline) + _soft(note)


def _keys(study: Study) -> str:
    items = []
    for number, configuration in enumerate(study.configurations):
        box = f'<input type="checkbox" id="show{number}" checked autocomplete="off">'
        items.append(tag("li", tag("label", box, swatch(number), escape(configuration.label))))
    box = '<input type="checkbox" id="showtraining" checked autocomplete="off">'
    items.append(tag("li", tag("label", box, "training (thin lines)")))
    return tag("ul", *items, class_="keys")


def _curves(study: Study) -> str:
    figures = []
    for number, (metric, measure) in enumerate(CURVES):
        main = make_curves(study, f"val/{metric}", scale=measure.scale)
        if not main:
            continue
        levels = {level for run in study.runs if (level := measure.level(run)) is not None}
        drawn = draw_lines(
            LineFigure(
                number=number,
                title=f"{measure.title} over optimiser steps",
                unit=measure.unit,
                digits=measure.digits,
                main=main,
                faint=make_curves(study, f"train/{metric}", scale=measure.scale),
                levels=sorted(levels)[:3],
                level_title=measure.baseline_title,
            )
        )
        figures.append(_figure(measure.title, f"{measure.unit}, over optimiser steps", drawn))
    if not figures:
        return ""
    note = (
        "Marks: validation, mean over seeds; the band runs from the least to the greatest seed. "
        "Thin lines: training. A dotted line that ends in a cross is a run that diverged or has "
        "not ended. Tick boxes hide configurations in all figures."
    )
    return _keys(study) + tag("div", *figures, class_="figures") + _soft(note)


def _figure(title: str, note: str, drawn: str) -> str:
    if not drawn:
        return ""
    caption = tag("figcaption", escape(title), tag("span", escape(note), class_="soft"))
    return tag("figure", caption, drawn)


def _dots(study: Study, columns: Sequence[Column], *, is_speed: bool) -> str:
    labels = [configuration.label for configuration in study.configurations]
    figures = []
    for column in columns:
        if (column.measure is SPEED) == is_speed:
            better = f"{column.measure.unit}, {column.measure.better} is better"
            if column.levels:
                better += f"; {levels_text(column)}"
            drawn = draw_dots(column, labels, from_zero=is_speed)
            figures.append(_figure(column.measure.title, better, drawn))
    if not any(figures):
        return ""
    note = (
        "Median over the logged windows of training, one mark per seed, from zero."
        if is_speed
        else "One mark per seed, a bar at the mean, a thick line over the 95 % interval (from "
        "three seeds on), a dashed line at what guessing scores where it is near."
    )
    return tag("div", *figures, class_="figures") + _soft(note)


def _parallel(study: Study, columns: Sequence[Column]) -> str:
    drawn = draw_parallel(study, columns)
    if not drawn:
        return ""
    note = (
        "One line per run, from its settings on the left to its results on the right; better is "
        "higher on every result axis."
    )
    return tag("div", drawn, class_="scroll", tabindex="0", role="region") + _soft(note)


def _settings(study: Study) -> str:
    return settings_table(study) if study.keys else ""


def _runs(content: Content) -> str:
    parts = [runs_table(content.study, content.out)]
    for run in content.study.runs:
        facts = ", ".join(f"{name} {value}" for name, value in run.metadata.items())
        inside = [tag("pre", escape(commands_of(run)))]
        if facts:
            inside.append(_soft(f"Bundle: {facts}"))
        if run.downstream_notes:
            inside.append(_soft(f"Fine-tuning: {'; '.join(run.downstream_notes)}"))
        if run.config_text:
            inside.append(tag("pre", escape(run.config_text)))
        summary = tag("summary", f"{escape(run.name)}: command and {CONFIG_FILE}")
        parts.append(tag("details", summary, *inside))
    return "".join(parts)


def _problems(problems: Sequence[Problem]) -> str:
    if not problems:
        return ""
    rows = [
        tag("tr", tag("th", escape(item.folder)), tag("td", escape(item.reason)))
        for item in problems
    ]
    return table(["Folder", "Why it is not in the tables"], rows, kind="words")


def _method() -> str:
    lines = [*METHOD, f"Made from {METRICS_FILE} and {CONFIG_FILE} of every run. {_versions()}"]
    return tag("ul", *(tag("li", escape(line)) for line in lines))


def _versions() -> str:
    told = ", ".join(f"{name} {value}" for name, value in versions().items())
    return (
        f"This page: {told}. The versions a run was made "
        "with stand beside its command where it recorded them."
    )
