"""How a run ends: its status in run.json, and what is said where that is not success."""

import itertools
from collections.abc import Collection, Mapping
from enum import Enum

from pipeline.output.output import Output
from pipeline.output.publish import NO_ROWS, Counts

_MOST_LOOKED_AT = 16  # shards whose errors are counted by type, where every row is one


class Status(str, Enum):
    RUNNING = "running"
    COMPLETE = "complete"
    SHARDS_MISSING = "shards_missing"  # complete but for shards that were planned and are gone
    NOTHING_SUCCEEDED = "nothing_succeeded"  # every row is there, as an error
    TOO_MANY_ERRORS = "too_many_errors"
    PROMISE_BROKEN = "promise_broken"  # and the run was to stop then
    INTERRUPTED = "interrupted"
    FAILED = "failed"


FINISHED = frozenset(  # nothing is left to do
    {Status.COMPLETE.value, Status.SHARDS_MISSING.value, Status.NOTHING_SUCCEEDED.value}
)


def ending(
    output: Output, total: Counts, own: Mapping[str, Counts], published: Collection[str]
) -> tuple[Status, str | None]:
    """The status and message of a run that has come to its end. `total`: over all published shards; `own`: of each that
    this invocation has published.

    Shards may be missing, and not one row may have succeeded: of all that are there, or of those that were done now.
    """
    if total.num_missing:
        return Status.SHARDS_MISSING, missing_message(total.num_missing)
    for counts in (total, sum(own.values(), NO_ROWS)):
        if counts.num_failed and not counts.num_ok:
            names = itertools.islice(sorted(own or published), _MOST_LOOKED_AT)
            frequent = output.errors_by_type(names)
            return Status.NOTHING_SUCCEEDED, nothing_succeeded_message(counts.num_failed, frequent)
    return Status.COMPLETE, None


def nothing_succeeded_message(failed: int, frequent: Mapping[str, int]) -> str:
    """Return what it means that no row has succeeded, and what to do."""
    what = "the only row failed" if failed == 1 else f"all {failed:,} rows failed"
    kinds = ", ".join(f"{count} x {kind}" for kind, count in list(frequent.items())[:5])
    return (
        f"{what}: {kinds}; errors/ says why. Mend the cause and run the same command with --set output.retry_errors=all"
    )


def missing_message(num_missing: int) -> str:
    """Return what it means that shards are missing, and what to do."""
    what = (
        "a shard that was planned is gone" if num_missing == 1 else f"{num_missing} shards that were planned are gone"
    )
    return (
        f"{what}, errors/ names them (missing_shard); bring them back and run the same command with "
        "--set output.retry_errors=transient"
    )
