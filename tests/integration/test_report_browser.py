"""The HTML report in a real browser: no errors, nothing from the network, filters and search work, text stays text."""

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.report.build import Report, build_report
from pipeline.report.page import render_html
from tests.integration.browser import Browser, browser, missing
from tests.pipeline.report.runs import HOSTILE, FakeRun

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(missing() is not None, reason=f"the report is opened in Chromium: {missing()}"),
]
VISIBLE = "return [...document.querySelectorAll('.card')].filter(card => card.checkVisibility())"


def picture() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (64, 48), (90, 140, 160)).save(stream, "JPEG")
    return stream.getvalue()


def report_of(folder: Path, num_runs: int = 1) -> Report:
    """Small enough that every row is in the gallery, the hostile one with everything about it included."""
    runs = [FakeRun(folder / f"run-{i}", num_rows=60, hostile=True, full_depth=i == 1).write() for i in range(num_runs)]
    report = build_report([str(run.path) for run in runs], num_items=100)
    return replace(report, thumbnails={(item.shard, item.sample_key): picture() for item in report.gallery})


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    pages = {}
    for name, num_runs in (("one", 1), ("two", 2)):
        pages[name] = folder / f"{name}.html"
        report = report_of(folder / name, num_runs)
        pages[name].write_text(render_html(report, generated_utc="2026-01-02 03:04 UTC"), encoding="utf-8")
    return pages


@pytest.fixture(scope="module")
def page(pages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        opened.open(pages["one"])
        yield opened


@pytest.fixture
def fresh(page: Browser, pages: dict[str, Path]) -> Browser:
    page.open(pages["one"])
    page.console()
    return page


def shown(page: Browser, value: str) -> list[Any]:
    return page.run(f"{VISIBLE}.map(card => {value})")


@pytest.mark.parametrize("name", ["one", "two"])
def test_no_console_errors_and_nothing_from_the_network(page: Browser, pages: dict[str, Path], name: str) -> None:
    page.console()
    page.open(pages[name])
    assert page.console() == []
    entries = "return performance.getEntriesByType('resource').map(entry => entry.name)"
    assert [url for url in page.run(entries) if not url.startswith("data:")] == []


def test_hostile_text_stays_text(fresh: Browser) -> None:
    assert "pwned" not in fresh.run("return document.title")
    assert fresh.run("return document.scripts.length") == 1
    assert fresh.run("return document.querySelectorAll('img[onerror], [onerror], .card b, .card script').length") == 0
    texts = shown(fresh, "card.querySelector('.text')?.textContent ?? ''")
    hostile = [text for text in texts if HOSTILE in text]
    assert len(hostile) == 1
    assert "[bold red]markup[/]" in hostile[0]
    assert "<b>c</b>" in hostile[0]
    assert "\\u001b[31mred" in hostile[0]
    names = shown(fresh, "card.querySelector('.meta').textContent")
    assert any('k"><img src=x onerror=alert(1)>' in name for name in names)


def test_every_row_is_shown_with_its_picture_and_its_depths(fresh: Browser) -> None:
    assert len(shown(fresh, "1")) == 65
    assert all(shown(fresh, "card.querySelector('img').src.startsWith('data:image/jpeg;base64,')"))
    tokens = fresh.run("return [...document.querySelectorAll('.token')].map(t => [t.dataset.layer, t.className])")
    shades = {layer: classes.split()[1] for layer, classes in tokens}
    assert shades == {"2": "shade-1", "4": "shade-3", "6": "shade-6", "8": "shade-8"}
    token = "document.querySelector(`.token[data-layer='${layer}']`)"
    colors = fresh.run(f"return [2, 8].map(layer => getComputedStyle({token}).backgroundColor)")
    assert colors[0] != colors[1]


@pytest.mark.parametrize("tag", ["uncertain", "deep", "truncated", "looped", "error"])
def test_a_filter_shows_its_rows_only(fresh: Browser, tag: str) -> None:
    fresh.run("document.querySelector(`input[value='${arguments[0]}']`).click()", tag)
    tags = shown(fresh, "card.dataset.tags.split(' ')")
    assert tags
    assert all(tag in of_card for of_card in tags)
    assert fresh.run("return document.getElementById('shown').textContent") == f"{len(tags)} of 65 shown"
    fresh.run("document.querySelector(`input[name=tag]`).click()")
    assert len(shown(fresh, "1")) == 65


def test_search_finds_words_in_any_order_and_says_when_there_are_none(fresh: Browser) -> None:
    fresh.type("input[type=search]", "Sign says")
    found = shown(fresh, "card.textContent")
    assert 0 < len(found) < 65
    assert all("sign says" in text for text in found)
    fresh.type("input[type=search]", " nosuchword")
    assert shown(fresh, "1") == []
    assert fresh.run("return document.getElementById('none').checkVisibility()")


def test_search_reaches_errors(fresh: Browser) -> None:
    fresh.type("input[type=search]", "zero_bytes")
    assert shown(fresh, "card.dataset.tags") == ["error"]


def test_sorting_and_colours(fresh: Browser) -> None:
    def choose(name: str, value: str) -> None:
        fresh.click(f"select[name={name}] option[value='{value}']")

    choose("sort", "-depth")
    depths = shown(fresh, "Number(card.dataset.depth)")
    assert depths == sorted(depths, reverse=True)
    choose("sort", "confidence")
    confidences = shown(fresh, "Number(card.dataset.confidence)")
    assert confidences == sorted(confidences)
    choose("colour", "by-nothing")
    assert (
        fresh.run("return getComputedStyle(document.querySelector('.shade-8.token')).backgroundColor")
        == "rgba(0, 0, 0, 0)"
    )
    assert fresh.run(REACHABLE, "input[name=numbers]")
    fresh.run("document.querySelector('input[name=numbers]').click()")
    assert fresh.run("return document.body.classList.contains('numbers')")


def test_the_theme_button_goes_round(fresh: Browser) -> None:
    background = "return getComputedStyle(document.body).backgroundColor"
    seen = []
    for _ in range(3):
        fresh.click("#theme")
        seen.append((fresh.run("return document.querySelector('#theme span').textContent"), fresh.run(background)))
    assert [name for name, _ in seen] == ["light", "dark", "system"]
    assert seen[0][1] == seen[2][1] != seen[1][1]


@pytest.mark.parametrize("name", ["one", "two"])
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (1200, True), (390, False)])
def test_nothing_sticks_out_and_contrast_is_enough(
    page: Browser, pages: dict[str, Path], name: str, width: int, dark: bool
) -> None:
    page.look(width, dark=dark)
    try:
        page.open(pages[name])
        assert page.run(TOO_WIDE, width) == []
        ratios = page.run(CONTRAST)
        assert {selector: ratio for selector, ratio in ratios.items() if ratio < 4.5} == {}
    finally:
        page.look(1200)


def test_on_paper_there_are_no_controls_and_the_page_is_light(page: Browser, pages: dict[str, Path]) -> None:
    page.look(800, dark=True, media="print")
    try:
        page.open(pages["one"])
        hidden = "return ['nav', '#controls', '#theme'].some(s => document.querySelector(s).checkVisibility())"
        assert page.run(hidden) is False
        assert page.run("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    finally:
        page.look(1200)


REACHABLE = """
const element = document.querySelector(arguments[0]);
element.scrollIntoView({block: 'center', behavior: 'instant'});
const box = element.getBoundingClientRect();
return document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2) === element;
"""
TOO_WIDE = """
const scrolled = element => element.closest('.scroll, nav, pre, .unseen, .skip');
function edge(element) {  // of the card it lies in, inside its padding
  const card = element.parentElement.closest('section, .card, .tiles li');
  if (!card) return Infinity;
  const inside = card.matches('section') ? parseFloat(getComputedStyle(card).paddingRight) : 0;
  return card.getBoundingClientRect().right - inside;
}
const window_edge = arguments[0];
return [...document.querySelectorAll('body *')]
  .filter(e => !scrolled(e) && e.checkVisibility())
  .filter(e => e.getBoundingClientRect().right > Math.min(window_edge, edge(e)) + 0.5)
  .map(e => `${e.tagName}.${e.getAttribute('class')}`);
"""
CONTRAST = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
function rgb(color, under) {
  canvas.fillStyle = `rgb(${under.join(' ')})`; canvas.fillRect(0, 0, 1, 1);
  canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
}
function behind(element) {
  const chain = [];
  for (let e = element; e; e = e.parentElement) chain.unshift(getComputedStyle(e).backgroundColor);
  return chain.reduce((under, color) => rgb(color, under), [255, 255, 255]);
}
function luminance(color) {
  const [r, g, b] = color.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
const ratios = {};
const selectors = ['h1', '.sub', '.lead', '.facts dt', '.facts dd', 'small', 'nav a', '.tick', 'th', 'td', '.tag',
  '.meta', '.failure', '.status', '.compare .good', '.compare .bad', '.reference'];
for (let shade = 0; shade < 9; shade++) selectors.push(`.token.shade-${shade}`);
for (const selector of selectors) {
  const element = document.querySelector(selector);
  if (!element) continue;
  const back = behind(element);
  const [high, low] = [luminance(rgb(getComputedStyle(element).color, back)), luminance(back)].sort((a, b) => b - a);
  ratios[selector] = (high + 0.05) / (low + 0.05);
}
return ratios;
"""
