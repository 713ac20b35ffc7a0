"""The page in a real browser: it loads without the network, sorts, is light and dark, and prints."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from reported_study import make

from softnce_ray.report import build_report, to_html
from softnce_ray.study.reporting import collect
from softnce_ray.tracking import load_results

BROWSER = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="needs Debian's chromium"),
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="needs pip's playwright"),
]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Path) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    store = make(
        folder, tiny_corpus, diagnostics={"weight_entropy": 1.0, "floor_share": 0.00123, "uniformity_codes": -12345.6}
    )
    results = load_results(store, "small")
    report = build_report(results, versus_paper=True)
    path = folder / "report.html"
    path.write_text(to_html(report, collect(store, results, report)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def opened(browser: Any, page_file: Path) -> Iterator[Any]:
    """The page, on a machine without a network; anything it asks for or complains of fails the test."""
    context = browser.new_context(offline=True, viewport={"width": 1280, "height": 900})
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if not request.url.startswith("file:") else None)
    page.goto(page_file.as_uri())
    yield page
    assert said == []
    context.close()


def column(page: Any, number: int) -> list[str]:
    return page.locator("table.sortable tbody tr:not(.group)").evaluate_all(
        "(rows, number) => rows.map((row) => row.cells[number].innerText.trim())", number
    )


def test_everything_that_is_drawn_has_a_size_and_a_name(opened: Any) -> None:
    drawn = opened.locator("svg").evaluate_all(
        "all => all.map(one => [one.getAttribute('aria-label'), one.getBBox().width, one.checkVisibility()])"
    )
    assert len(drawn) >= 6
    assert all(name and width > 100 for name, width, visible in drawn if visible)
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")  # nothing hangs over the edge


def test_no_text_of_a_picture_is_cut_off_or_lies_outside_it(opened: Any) -> None:
    opened.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
    outside = opened.locator("svg text").evaluate_all(
        """all => all.filter(one => {
          const own = one.getBoundingClientRect(), whole = one.ownerSVGElement.getBoundingClientRect();
          return own.left < whole.left - 1 || own.right > whole.right + 1
            || own.top < whole.top - 2 || own.bottom > whole.bottom + 2;
        }).map(one => one.textContent)"""
    )
    assert outside == []


def test_a_click_on_a_heading_sorts_the_rows_of_each_group(opened: Any) -> None:
    assert column(opened, 0) == ["infonce", "soft", "flat"]
    heading = opened.get_by_role("button", name="test MRR")
    heading.click()
    values = [float(text.lstrip("≈")) for text in column(opened, 2)]
    assert values == sorted(values, reverse=True) and column(opened, 0)[0] == "soft"
    heading.click()
    assert [float(text.lstrip("≈")) for text in column(opened, 2)] == sorted(values)
    opened.get_by_role("button", name="arm").click()
    assert column(opened, 0) == ["flat", "infonce", "soft"]
    assert opened.locator("[aria-sort]").count() == 1


def test_without_scripts_the_table_is_as_the_study_has_it(browser: Any, page_file: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert page.locator("table.sortable tbody tr:not(.group) th").all_inner_texts() == ["infonce", "soft", "flat"]
    assert page.locator("table.sortable button").count() == 0
    context.close()


def test_text_and_paper_stand_apart_in_light_and_in_dark(opened: Any) -> None:
    def brightness(colour: str) -> float:
        red, green, blue = (float(each) for each in colour[colour.index("(") + 1 : -1].split(",")[:3])
        return 0.299 * red + 0.587 * green + 0.114 * blue

    for scheme, paper_is_bright in (("light", True), ("dark", False)):
        opened.emulate_media(color_scheme=scheme)
        paper, ink, tick = opened.evaluate(
            "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color, "
            "getComputedStyle(document.querySelector('svg .tick')).fill]"
        )
        assert (brightness(paper) > 128) == paper_is_bright
        assert abs(brightness(paper) - brightness(ink)) > 150
        assert abs(brightness(paper) - brightness(tick)) > 80


def test_print_is_dark_on_white_and_has_the_searches(opened: Any, tmp_path: Path) -> None:
    opened.emulate_media(media="print", color_scheme="dark")
    assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not opened.locator("nav").is_visible()
    opened.locator("section > details").evaluate_all("all => all.forEach(one => one.open = false)")
    opened.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.locator("section > details:not([open])").count() == 0
    assert opened.locator("td details[open]").count() == 0  # the code of queries would take pages
    opened.evaluate("dispatchEvent(new Event('afterprint'))")
    assert opened.locator("section > details[open]").count() == 0
    opened.pdf(path=tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


def test_it_fits_a_telephone(opened: Any) -> None:
    opened.set_viewport_size({"width": 390, "height": 800})
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth + 1")
