"""A line for each slow step and for each repetition, and none for anything else."""

import pytest

from pipeline.ops.crash_log import CrashLog
from pipeline.ops.slow import noted_if_slow


def test_only_what_took_long_is_noted(caplog: pytest.LogCaptureFixture) -> None:
    now_s = [0.0]
    for took_s in (60.0, 61.0):
        with noted_if_slow("listing s3://x", 60.0, lambda: now_s[0]):
            now_s[0] += took_s

    def fail() -> None:
        with noted_if_slow("reading y", 60.0, lambda: now_s[0]):
            now_s[0] += 75.4
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        fail()
    assert caplog.messages == ["listing s3://x took 61 s", "reading y took 75 s"]


def test_a_chunk_that_is_run_again_is_noted(caplog: pytest.LogCaptureFixture) -> None:
    log = CrashLog()
    log.begin("s", 0, 8)
    log.begin("s", 1, 8)
    log.done("s", 1)
    log.begin("s", 1, 8)
    log.begin("s", 0, 8)
    assert caplog.messages == ["chunk 0 of s is run again, attempt 2"]
