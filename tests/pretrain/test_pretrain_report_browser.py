"""The report as a browser shows it: on a desk, on a phone, in the dark and on paper."""

import shutil
import subprocess
from pathlib import Path

import pytest
from report_runs import write_run, write_study

from pretrain.cli import main

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = ("--headless", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
MEASURE = """<script>document.title = JSON.stringify({
  page: document.documentElement.scrollWidth,
  figures: [...document.querySelectorAll('figure:not(.wide) svg')].map(svg => {
    const frame = svg.getBoundingClientRect();
    return {frame, texts: [...svg.querySelectorAll('text')].map(t => t.getBoundingClientRect())};
  })})</script>"""

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium here (Debian: apt-get install chromium)"
)
