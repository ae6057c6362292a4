"""The summary at the end of `deed demo` and `deed caption`, from the tables on storage alone."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.report.numbers import RunNumbers


def show_summary(url: str, *, references: bool = False, console: "Console | None" = None) -> "RunNumbers":
    """Print the summary of the run in `url`; with `references`, score it against those in the source."""
    from rich.console import Console

    from pipeline.report.folder import RunFolder
    from pipeline.report.numbers import numbers_of
    from pipeline.report.scan import scan_run
    from pipeline.report.terminal import print_summary

    folder = RunFolder(url)
    scan = scan_run(folder, num_examples=0, num_sampled=2000 if references else 0)
    quality = None
    if references:
        from jobs.references import score_sample

        quality = score_sample(folder, scan)
    numbers = numbers_of(scan, quality)
    print_summary(numbers, console or Console())
    return numbers
