"""The written forms of the report: the numbers are in them, unknown is "unknown", and hostile text is only text."""

import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from pipeline.report import number_formats as formats
from pipeline.report.build import Report, build_report
from pipeline.report.facts import Better, Fact, reconciliation, sections_of
from pipeline.report.json_form import render_json
from pipeline.report.markdown import render_markdown
from pipeline.report.page import render_html
from pipeline.report.safe_text import LONGEST, markdown, visible, visible_piece
from pipeline.report.side_by_side import compared_sections
from pipeline.source.references import Kind, Reference
from tests.pipeline.report.runs import HOSTILE, FakeRun

NOW = "2026-01-02 03:04 UTC"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Report:
    run = FakeRun(tmp_path_factory.mktemp("runs") / "one", num_rows=40, hostile=True).write()

    def references(_, wanted):
        return {key: lambda prompt: Reference(Kind.CAPTION, (HOSTILE,), (HOSTILE,)) for key in wanted}

    return build_report([str(run.path)], num_items=80, find_references=references)


@pytest.fixture(scope="module")
def double(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("runs")
    runs = [FakeRun(folder / name, full_depth=name == "full").write() for name in ("early", "full")]
    return build_report([str(run.path) for run in runs], num_items=30)


@pytest.fixture(scope="module")
def unknown(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A run that was killed: no run.json, no price, no statistics."""
    run = FakeRun(tmp_path_factory.mktemp("runs") / "killed", ended=False, num_actors=0, num_errors=0).write()
    return build_report([str(run.path)], num_items=10)


class Outline(HTMLParser):
    """Tags, attributes and ids of a page; fails on elements that are not closed."""

    VOID = frozenset({"meta", "link", "img", "input", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("name", ["single", "double", "unknown"])
def test_the_page_is_well_formed_and_needs_nothing_else(name: str, request: pytest.FixtureRequest) -> None:
    page = render_html(request.getfixturevalue(name), generated_utc=NOW)
    outline = Outline(page)
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes.get("href", "") for _, attributes in outline.tags if "href" in attributes]
    assert all(link.startswith("#") or link == "data:," for link in links)
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    sources = [attributes.get("src", "") for _, attributes in outline.tags if "src" in attributes]
    assert all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"https?://|@import|url\(", page)
    assert [tag for tag, _ in outline.tags].count("script") == 1
    assert all(not name.startswith("on") for _, attributes in outline.tags for name in attributes)


def test_hostile_text_is_only_text_in_the_page(single: Report) -> None:
    page = render_html(single, generated_utc=NOW)
    assert HOSTILE not in page
    assert html.escape(HOSTILE) in page.replace("&#34;", "&quot;").replace("&#39;", "&#x27;")
    for hidden in ("\x1b", "\u202e"):
        assert hidden not in page


def test_the_page_holds_the_numbers(single: Report) -> None:
    page = render_html(single, generated_utc=NOW)
    run = single.runs[0]
    for section in sections_of(run):
        for fact in section.facts:
            if section.id != "latency":  # shown as a table of all latencies
                assert html.escape(visible(fact.text), quote=False) in page
    assert "object naming F1" in page
    assert NOW in page


def test_pictures_are_embedded_and_other_bytes_are_not(single: Report) -> None:
    keys = [(item.shard, item.sample_key) for item in single.gallery]
    pictured = replace(single, thumbnails={keys[0]: PNG, keys[1]: b"<svg onload=alert(1)>"})
    page = render_html(pictured, generated_utc=NOW)
    assert page.count("data:image/png;base64,") == 1
    assert page.count("no preview") == len(keys) - 1


def test_unknown_is_never_zero(unknown: Report) -> None:
    run = unknown.runs[0]
    page = render_html(unknown, generated_utc=NOW)
    for text in (page, render_markdown(unknown, generated_utc=NOW)):
        assert "unfinished" in text
        assert "unknown" in text
        assert "cannot be reconciled" in text
    facts = {fact.label: fact.text for section in sections_of(run) for fact in section.facts}
    for label in ("per 1,000 images", "in all", "images per second", "device time busy", "utilization", "energy"):
        assert facts[label] == formats.UNKNOWN
    assert facts["texts equal to full depth"] == "not measured"
    content = json.loads(render_json(unknown, generated_utc=NOW))
    assert content["runs"][0]["cost"]["total"] is None
    assert content["runs"][0]["device_time"]["closes"] is None


def test_the_json_form_has_a_version_and_every_run(double: Report) -> None:
    content = json.loads(render_json(double, generated_utc=NOW))
    assert content["schema_version"] == 1
    assert [run["name"] for run in content["runs"]] == ["early", "full"]
    assert content["comparisons"][0] is None
    assert content["comparisons"][1]["equal_texts"] == 1.0
    assert content["runs"][0]["against_full_depth"]["num_rows"] == 200


def test_what_is_not_a_number_is_null_in_json(single: Report) -> None:
    run = replace(single.runs[0], speed=replace(single.runs[0].speed, images_per_s=float("nan")))
    content = json.loads(render_json(replace(single, runs=(run,)), generated_utc=NOW))
    assert content["runs"][0]["speed"]["images_per_s"] is None


def test_markdown_tables_survive_hostile_text(single: Report) -> None:
    text = render_markdown(single, generated_utc=NOW)
    assert "<script" not in text
    widths = {}
    for block in re.split(r"\n\n", text):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        if rows:
            widths[rows[0]] = {len(re.split(r"(?<!\\)\|", row)) for row in rows}
    assert widths
    assert all(len(found) == 1 for found in widths.values())


def test_markdown_of_two_runs_names_both(double: Report) -> None:
    text = render_markdown(double, generated_utc=NOW)
    assert "# Comparison of early and full" in text
    assert "100.0 % of the texts of full equal those of early" in text
    assert "| mean depth |" in text


def test_changes_are_told_relative_or_in_points(double: Report) -> None:
    rows = {row.label: row for _, facts in compared_sections(double.runs) for row in facts}
    assert rows["mean depth"].changes == ("", f"{100 * (8 / double.runs[0].exits.mean_depth - 1):+.1f} %")
    assert rows["mean depth"].improved == (None, False)
    assert rows["layers not computed"].changes[1].endswith(" points")
    assert rows["rows done"].changes == ("", "=")
    assert rows["rows done"].improved == (None, None)
    assert rows["images per second"].improved == (None, False)
    assert rows["status"].changes == ("", "")


def test_a_reconciliation_that_fails_says_why(single: Report) -> None:
    run = single.runs[0]
    assert "does not add up" not in reconciliation(run)
    time = replace(run.device_time, closes=False, unattributed_s=5.0)
    assert "5 s of work belong to rows that failed or ran twice" in reconciliation(replace(run, device_time=time))
    time = replace(run.device_time, closes=False, idle_s=-3.0)
    assert "more work than time" in reconciliation(replace(run, device_time=time))


def test_facts_know_which_way_is_better(single: Report) -> None:
    facts = {fact.label: fact for section in sections_of(single.runs[0]) for fact in section.facts}
    assert facts["per 1,000 images"].better is Better.LOWER
    assert facts["images per second"].better is Better.HIGHER
    assert facts["tokens per image"].better is None
    assert isinstance(facts["energy"], Fact)


def test_the_price_comes_with_its_source_and_failed_rows_with_their_share(single: Report) -> None:
    facts = {fact.label: fact for section in sections_of(single.runs[0]) for fact in section.facts}
    assert facts["price of all reserved hardware"].note == "price list, 2026-01-01"
    assert facts["of that, for failed rows"].note.endswith("rows read, at the same cost each; inside the total")


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (formats.count, 1234567, "1,234,567"),
        (formats.count, None, "unknown"),
        (formats.number, 0.0, "0"),
        (formats.number, 3.14159, "3.14"),
        (formats.number, 1234.5, "1,234"),
        (formats.number, 0.0000123, "0.0000123"),
        (formats.share, 0.415, "41.5 %"),
        (formats.share, 1.0, "100.0 %"),
        (formats.share, 0.9999, "99.99 %"),
        (formats.share, 0.0005, "0.05 %"),
        (formats.share, 1e-9, "< 0.01 %"),
        (formats.share, 0.0, "0.0 %"),
        (formats.seconds, 0.0123, "12.3 ms"),
        (formats.seconds, 1.5, "1.5 s"),
        (formats.seconds, 75, "1:15 min"),
        (formats.seconds, 4000, "1:06:40 h"),
        (formats.hours, 36, "36 s"),
        (formats.hours, 36_000, "10 h"),
        (formats.size, 1_500_000, "1.5 MB"),
        (formats.size, None, "unknown"),
    ],
)
def test_formats(function, value: float | None, text: str) -> None:
    assert function(value) == text


@pytest.mark.parametrize(
    ("value", "currency", "text"),
    [
        (12.5, "USD", "$12.50"),
        (0.0329, "EUR", "€0.0329"),
        (1234.5, "CHF", "1,234.50 CHF"),
        (None, "USD", "unknown"),
        (0, "USD", "$0.00"),
        (0.00054891, "USD", "$0.000549"),
        (0.000012, "USD", "< $0.0001"),
    ],
)
def test_money(value: float | None, currency: str, text: str) -> None:
    assert formats.money(value, currency) == text


def test_hidden_characters_become_visible() -> None:
    assert visible("a\x1b[31mb\u202ec\x00\n d") == "a\\u001b[31mb\\u202ec\\u0000 d"
    assert visible_piece(" a\n") == " a "
    assert len(visible("x" * 10**7)) == LONGEST
    assert visible("日本語 👨\u200d👩 é") == "日本語 👨\u200d👩 é"


def test_markdown_escapes_what_means_something() -> None:
    assert markdown("a|b `c` <i> [d](http://e) @f") == r"a\|b \`c\` &lt;i&gt; \[d\](http&#58;//e) &#64;f"
