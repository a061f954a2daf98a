"""Writes the table of faults and outcomes into docs/guarantees.md, from the run itself.

Only with `--write-guarantees` (as `make test-faults` does): one row per test, its name in words,
how many cases of it ran and how they ended.
"""

import ast
from collections import defaultdict
from datetime import date
from pathlib import Path
from typing import Any

import pytest

BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"
_OUTCOMES: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
_SKIPPED: dict[str, set[str]] = defaultdict(set)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-guarantees", default="", help="Markdown file with the table to fill")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    path, _, name = report.nodeid.partition("::")
    if "faults" not in Path(path).parts:
        return
    test = name.partition("[")[0]
    if report.skipped and isinstance(report.longrepr, tuple):
        _OUTCOMES[path][test].append("skipped")
        _SKIPPED[test].add(report.longrepr[2].removeprefix("Skipped: "))
    elif report.when == "call" or report.failed:
        _OUTCOMES[path][test].append(report.outcome)


def _words(test: str) -> str:
    return test.removeprefix("test_").replace("_", " ").capitalize()


def _rows(path: str, root: Path) -> list[str]:
    title = ast.get_docstring(ast.parse((root / path).read_text(encoding="utf-8"))) or path
    rows = [f"| **{title.splitlines()[0]}** | | |"]
    for test, outcomes in _OUTCOMES[path].items():
        kept = outcomes.count("passed")
        text = f"held in {kept} of {len(outcomes)}" if kept < len(outcomes) else "held"
        if reasons := _SKIPPED.get(test):
            text += f" (skipped {outcomes.count('skipped')}: {'; '.join(sorted(reasons))})"
        rows.append(f"| {_words(test)} | {len(outcomes)} | {text} |")
    return rows


def pytest_sessionfinish(session: pytest.Session) -> None:
    target = session.config.getoption("--write-guarantees", default="")
    if not target or not _OUTCOMES or hasattr(session.config, "workerinput"):
        return
    root = Path(str(session.config.rootpath))
    page = root / target
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    lines: list[Any] = [f"Run on {date.today():%Y-%m-%d} by `make test-faults`.", ""]
    lines += ["| what was done | cases | what was promised |", "|---|---|---|"]
    for path in sorted(_OUTCOMES):
        lines += _rows(path, root)
    page.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}", encoding="utf-8")
