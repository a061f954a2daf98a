"""The report as a browser shows it: on a desk, on a phone, in the dark and on paper."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from report_runs import write_run, write_study

from pretrain.cli import main

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = ("--headless", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
# A window has a least width, a frame has none.
FRAME = """<iframe srcdoc="{page}" style="border:0;width:{width}px;height:900px"></iframe>
<script>onload = () => {{
  const page = document.querySelector('iframe').contentDocument;
  document.title = JSON.stringify({{
    width: page.documentElement.scrollWidth,
    figures: [...page.querySelectorAll('figure:not(.wide) svg')].map(svg => {{
      const texts = [...svg.querySelectorAll('text')].map(text => text.getBoundingClientRect());
      return {{frame: svg.getBoundingClientRect(), texts}};
    }})
  }})
}}</script>"""

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium here (Debian: apt-get install chromium)"
)


def shown(page: Path, *options: str) -> str:
    """What the browser has after it ran the page."""
    assert BROWSER is not None
    # It opens nothing but our own page, and containers lack what a sandbox needs.
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [BROWSER, *FLAGS, "--no-sandbox", profile, *options, page.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_study(folder / "runs")
    name = "a_setting_with_a_name_that_is_longer_than_a_phone_is_wide_" * 3
    write_run(folder / "runs" / name, model__objective=name, diverged_at=30)
    assert main(["report", str(folder / "runs"), "--out", str(folder / "out")]) == 0
    return folder / "out" / "index.html"


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_its_window_and_every_label_fits_its_figure(report: Path, width: int) -> None:
    framed = report.parent / f"{width}.html"
    page = html.escape(report.read_text(encoding="utf-8"))
    framed.write_text(FRAME.format(page=page, width=width), encoding="utf-8")
    dom = shown(framed, f"--window-size={width + 100},1000", "--dump-dom")
    found = re.search(r"<title>(\{.*?\})</title>", dom)
    assert found
    sizes = json.loads(found[1])
    assert sizes["width"] <= width and len(sizes["figures"]) > 6
    for figure in sizes["figures"]:
        frame = figure["frame"]
        for text in figure["texts"]:
            assert frame["left"] - 1 <= text["left"] and text["right"] <= frame["right"] + 1
            assert frame["top"] - 1 <= text["top"] and text["bottom"] <= frame["bottom"] + 1
            assert text["height"] > 7.5 or not text["width"]


def test_the_page_prints(report: Path) -> None:
    shown(report, f"--print-to-pdf={report.parent / 'page.pdf'}")
    assert (report.parent / "page.pdf").read_bytes().startswith(b"%PDF")
