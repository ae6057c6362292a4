"""`deed report RUN..`: the tables of one run as a report, or of several runs side by side."""

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from conf.errors import UserError

if TYPE_CHECKING:
    from pipeline.report.build import Report

FORMATS = ("html", "md", "json", "text")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="deed report", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="output directory or URL of a run")
    parser.add_argument("--format", choices=FORMATS, default="html", help="default: %(default)s")
    parser.add_argument(
        "--out", metavar="FILE", help="- is the terminal; default: RUN/report.html for html, the terminal for the rest"
    )
    parser.add_argument("--items", type=int, default=96, help="rows in the gallery (default: %(default)s)")
    parser.add_argument(
        "--sample", type=int, default=2000, help="rows scored and compared between runs (default: %(default)s)"
    )
    parser.add_argument(
        "--references", metavar="FIELD", help="field of the source to score against; default: the usual names"
    )
    parser.add_argument("--no-source", action="store_true", help="do not read the source: no previews, no scores")
    parser.add_argument(
        "--ab",
        type=int,
        metavar="N",
        help="first decode N rows of the run again, with its own settings and at full depth",
    )
    options = parser.parse_args(arguments)
    if options.items < 0 or options.sample < 0:
        raise UserError("--items and --sample must not be negative")

    from jobs.shared.source_rows import find_references, find_thumbnails
    from pipeline.report.build import build_report

    if options.ab is not None:
        from jobs.shared.full_depth import measure_full_depth

        if options.ab < 1:
            raise UserError("--ab needs at least one row")
        for run in options.runs:
            measure_full_depth(run, options.ab)

    is_html = options.format == "html"
    report = build_report(
        options.runs,
        num_items=options.items if is_html else 0,
        num_sampled=options.sample,
        find_references=None if options.no_source else partial(find_references, field=options.references),
        find_thumbnails=find_thumbnails if is_html and not options.no_source else None,
    )
    if options.format == "text":
        from rich.console import Console

        from pipeline.report.terminal import print_summary

        for run in report.runs:
            print_summary(run, Console())
        return 0
    _deliver(_render(report, options.format), options.runs, options.out or ("" if is_html else "-"))
    return 0


def _render(report: "Report", form: str) -> str:
    generated_utc = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    if form == "html":
        from pipeline.report.page import render_html

        return render_html(report, generated_utc=generated_utc)
    if form == "md":
        from pipeline.report.markdown import render_markdown

        return render_markdown(report, generated_utc=generated_utc)
    from pipeline.report.json_form import render_json

    return render_json(report, generated_utc=generated_utc)


def _deliver(text: str, runs: Sequence[str], out: str) -> None:
    """Write to the terminal, a file, or beside the tables of the (first) run; say where."""
    if out == "-":
        sys.stdout.write(text)
        return
    if out:
        try:
            Path(out).write_text(text, encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write --out {out!r}: {error.strerror}") from None
        print(out)
        return
    from pipeline.output.storage import Storage

    storage, name = Storage(runs[0]), "report.html" if len(runs) == 1 else "comparison.html"
    storage.write(name, text.encode())
    print(storage.path(name))
