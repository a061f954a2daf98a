"""The report as a browser shows it: on a desk, on a phone, in the dark and on paper."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Page, browser, chromium_path
from report_runs import write_run, write_study

from pretrain.cli import main

pytestmark = pytest.mark.skipif(
    chromium_path() is None, reason="no Chromium here (Debian: apt-get install chromium)"
)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_study(folder / "runs")
    name = "a_setting_with_a_name_that_is_longer_than_a_phone_is_wide_" * 3
    write_run(folder / "runs" / name, model__objective=name, diverged_at=30)
    assert main(["report", str(folder / "runs"), "--out", str(folder / "out")]) == 0
    return folder / "out" / "index.html"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize(("width", "dark"), [(390, False), (1280, False), (1280, True)])
def test_the_page_fits_its_window_and_asks_and_complains_about_nothing(
    page: Page, report: Path, width: int, dark: bool
) -> None:
    page.open(report, width=width, dark=dark)
    assert page.value("document.documentElement.scrollWidth") <= width
    assert page.requests == [report.resolve().as_uri()]
    assert page.complaints == []
    background = page.value("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") != dark


def test_text_in_figures_can_be_read_on_a_phone(page: Page, report: Path) -> None:
    page.open(report, width=390)
    sizes = page.value(
        "[...document.querySelectorAll('figure svg')].map(s => 12 * s.clientWidth / "
        "s.viewBox.baseVal.width)"
    )
    assert len(sizes) > 4 and min(sizes) > 9.5


def test_a_switch_hides_a_configuration_in_every_figure(page: Page, report: Path) -> None:
    page.open(report, width=1280)
    shown = (
        "[...document.querySelectorAll('svg .s1')].filter(e => e.getClientRects().length).length"
    )
    assert page.value(shown) > 5
    page.value("document.getElementById('show1').click()")
    assert page.value(shown) == 0


def test_pointing_at_a_mark_tells_its_value(page: Page, report: Path) -> None:
    page.open(report, width=1280, height=6000)
    x, y = page.value(
        "(r => [r.x + r.width / 2, r.y + r.height / 2])"
        "(document.querySelector('#seeds .s1 .mark').getBoundingClientRect())"
    )
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert page.value("document.getElementById('tip').style.display") == "block"
    assert "seed 4" in page.value("document.getElementById('tip').textContent")


def test_the_page_prints(page: Page, report: Path) -> None:
    page.open(report, width=1280)
    assert page.pdf().startswith(b"%PDF")
