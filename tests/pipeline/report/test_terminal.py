"""The summary says what happened in plain text, fits narrow terminals, and nothing in it can drive a terminal."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.report.folder import RunFolder
from pipeline.report.numbers import numbers_of
from pipeline.report.quality import quality_of
from pipeline.report.report_schema import RunNumbers
from pipeline.report.scan import scan_run
from pipeline.report.terminal import bar, print_summary
from pipeline.source.references import Kind, Reference
from tests.pipeline.report.runs import FakeRun


def numbers(run: FakeRun) -> RunNumbers:
    quality = quality_of([(row["text"], Reference(Kind.CAPTION, (row["text"],), ("dog",))) for row in run.rows])
    return numbers_of(scan_run(RunFolder(str(run.path))), quality)


def printed(run: RunNumbers, width: int = 120, encoding: str = "utf-8") -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    print_summary(run, Console(file=stream, width=width))
    stream.seek(0)
    return stream.read()


def test_it_says_what_happened(tmp_path: Path) -> None:
    text = printed(numbers(FakeRun(tmp_path / "run").write()))
    assert "206 read = 200 done + 6 failed" in text
    for word in (
        "images/s",
        "p50",
        "p99",
        "about 31 % of full depth's time",
        "about 50 % of the decoder's",
        "of 8, ",
        "layers computed",
        "object naming F1",
        "per 1,000 images",
        "truncated_image",
    ):
        assert word in text
    assert f"{tmp_path}/run/results/*.parquet" in text
    assert "do not reconcile" not in text


def test_what_is_unknown_is_called_unknown(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run", ended=False).write()
    text = printed(numbers_of(scan_run(RunFolder(str(run.path)))))
    assert "unfinished" in text
    assert "unknown images/s" in text
    assert "per 1,000" not in text


def test_counts_that_do_not_reconcile_are_shouted(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run").write()
    (run.path / "results" / "part-001.parquet").unlink()
    assert "counts do not reconcile" in printed(numbers(run))


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    text = printed(numbers(FakeRun(tmp_path / "run", hostile=True).write()))
    assert "\x1b" not in text
    assert "[red]x[/]" in text
    assert "\\u001b[2J" in text


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_is_wider_than_the_terminal(tmp_path: Path, width: int) -> None:
    lines = printed(numbers(FakeRun(tmp_path / "r").write()), width).splitlines()
    assert max(map(len, lines)) <= width


def test_a_terminal_without_unicode_gets_none(tmp_path: Path) -> None:
    assert "####" in printed(numbers(FakeRun(tmp_path / "r").write()), encoding="ascii")


def test_bars() -> None:
    assert bar(1.0, 4) == "████"
    assert bar(0.5, 4) == "██"
    assert bar(0.0, 4) == ""
    assert bar(1e-9, 4) == "▏"
    assert bar(0.3, 10, ascii_only=True) == "###"
