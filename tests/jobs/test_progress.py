"""Progress as plain lines: rarely, and always the last one."""

import io
from dataclasses import replace

import pytest

from jobs.shared.progress import describe, duration, plain_lines
from pipeline.driver import Progress


def progress(fraction: float, eta_s: float | None = None, mean_depth: float | None = 3.5) -> Progress:
    return Progress(
        num_rows=120,
        num_errors=3,
        mean_depth=mean_depth,
        computed_depth=None if mean_depth is None else 2 * mean_depth,
        rows_per_s=24.25,
        fraction=fraction,
        eta_s=eta_s,
        num_shards_published=1,
        num_shards=4,
    )


def test_a_line_says_what_matters() -> None:
    shown = "120 images, 24.2/s, 1:15 left, depth 3.50, 7.00 computed, 3 errors, 1 of 4 shards"
    assert describe(progress(0.25, 75.0)) == shown
    assert describe(progress(0.25, 75.0), 0.25, "EUR") == shown.replace("errors,", "errors, €0.25,")


def test_what_is_unknown_is_left_out() -> None:
    first_chunk = replace(progress(0.0, None, None), rows_per_s=0.0, num_errors=1)
    assert describe(first_chunk) == "120 images, 1 error, 1 of 4 shards"


def test_lines_are_rare_but_the_last_one_is_shown() -> None:
    now_s, terminal = [100.0], io.StringIO()
    show = plain_lines(terminal, 10.0, lambda: now_s[0])
    for second in range(25):
        now_s[0] = 100.0 + second
        show(progress(0.5))
    show(progress(1.0))  # all is computed, and being published
    show(replace(progress(1.0), num_shards_published=4))
    assert [line[:4] for line in terminal.getvalue().splitlines()] == [" 50%"] * 3 + ["100%"]


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (75, "1:15"), (4000, "1:06:40")])
def test_durations_read_like_a_clock(seconds: float, text: str) -> None:
    assert duration(seconds) == text
