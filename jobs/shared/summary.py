"""The summary at the end of `deed demo` and `deed caption`, from the tables on storage alone."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.report.report_schema import RunNumbers

_NUM_SCORED = 2000


def show_summary(url: str, *, references: bool = False, console: "Console | None" = None) -> "RunNumbers":
    """Print the summary of the run in `url`; with `references`, scored against those in its source, if it has any."""
    from rich.console import Console

    from jobs.shared.source_rows import find_references
    from pipeline.report.build import build_report
    from pipeline.report.terminal import print_summary

    report = build_report(
        [url],
        num_items=0,
        num_sampled=_NUM_SCORED if references else 0,
        find_references=find_references if references else None,
    )
    print_summary(report.runs[0], console or Console())
    return report.runs[0]
