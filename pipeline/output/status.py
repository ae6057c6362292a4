"""How far a running, dead or finished run is: read from its output alone, changing nothing and without Ray."""

from dataclasses import dataclass, field
from typing import Any

from conf.errors import UserError
from conf.schema import how_to_continue
from pipeline.output.lease import look
from pipeline.output.output import Output, invocation_s
from pipeline.output.publish import NO_ROWS
from pipeline.output.second_chance import is_transient
from pipeline.output.storage import Storage
from pipeline.source.plan import LeftOut, sum_left_out

RUNNING, KILLED = (
    "running",
    "killed",
)  # beside the states of pipeline.output.run_record.Status, which runs write themselves


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds the lease, and how long ago it was last heard of."""

    host: str
    pid: int
    age_s: float
    alive: bool


@dataclass(frozen=True, slots=True)
class RunStatus:
    """The books of one output. Rows of published shards are audited; staged ones are samples whose chunk is there."""

    output: str
    state: str
    message: str | None
    owner: Owner | None
    last_seen_utc: str | None
    on_existing: str  # as the last invocation was told
    shards: int
    shards_published: int
    shards_started: int  # not published, with chunks staged
    shards_open: int  # nothing of them is there
    shards_missing: int  # published without some or all of their rows, because they were gone
    rows_ok: int
    rows_error: int
    shard_errors: int
    left_out: tuple[LeftOut, ...]  # by the latest listing and in the published shards
    chunks_staged: int
    samples_staged: int
    errors_by_type: dict[str, int]  # "stage/error_type", published shards only
    wall_s: float  # over all invocations, up to their last signs of life
    actor_s: float  # the same times the actors of each
    command: list[str] = field(default_factory=list)  # the last that ended, as typed


def read_status(url: str) -> RunStatus:
    """Return the status of the output at `url`; UserError if no run was ever begun there."""
    output = Output.at(Storage(url))
    storage = output.storage
    if not output.is_begun:
        raise UserError(f"no run was begun in {storage.url!r}")
    held, notes, record = look(storage), output.invocations(), output.record() or {}
    owner = None if held is None else Owner(held[0].content["host"], int(held[0].content["pid"]), held[1], held[2])
    published = output.published()
    staged, counts = output.staged_samples(but=published), output.counts(published)
    total = sum(counts.values(), NO_ROWS)
    wall_s = [invocation_s(note) for note in notes]
    shards, started = output.planned().keys() | published, {name for name, chunks in staged.items() if chunks}
    return RunStatus(
        output=storage.url,
        state=_state(owner, notes),
        message=record.get("message") if notes and notes[-1]["ended"] else None,
        owner=owner,
        last_seen_utc=notes[-1]["last_seen_utc"] if notes else None,
        on_existing=notes[-1].get("on_existing", "resume") if notes else "resume",
        shards=len(shards),
        shards_published=len(published),
        shards_started=len(started),
        shards_open=len(shards - published - started),
        shards_missing=total.num_missing,
        rows_ok=total.num_ok,
        rows_error=total.num_errors,
        shard_errors=total.num_shard_errors,
        left_out=sum_left_out([*output.left_out(), *total.left_out]),
        chunks_staged=sum(len(chunks) for chunks in staged.values()),
        samples_staged=sum(sum(chunks.values()) for chunks in staged.values()),
        errors_by_type=output.errors_by_type(name for name, own in counts.items() if own.num_failed),
        wall_s=sum(wall_s),
        actor_s=sum(s * note["num_actors"] for s, note in zip(wall_s, notes, strict=True)),
        command=list(record.get("command", ())),
    )


def next_step(status: RunStatus) -> str:
    """Return what to do now, in one sentence."""
    same = "the same command" + ("" if status.on_existing == "resume" else " with output.on_existing=resume")
    if status.state == RUNNING:
        return f"wait; stopping it and running {same} again continues where it was"
    if status.state == "shards_missing":
        return f"bring the missing shards back, and run {same} and --set output.retry_errors=transient"
    if status.state == "nothing_succeeded":
        return f"look at the errors, mend their cause, and run {same} and --set output.retry_errors=all"
    if status.state == "complete":
        if status.rows_error + status.shard_errors:
            if any(is_transient(name.rpartition("/")[2]) for name in status.errors_by_type):
                return f"look at the errors; {same} and --set output.retry_errors=transient tries those that may pass"
            return f"look at the errors; where you mend their cause, {same} and --set output.retry_errors=all"
        return f"nothing is left to do; {same} takes up shards that were added since"
    if status.state == "too_many_errors":
        return f"look at the errors; mend the source, or raise output.max_error_fraction, and run {same} again"
    if status.state == "promise_broken":
        return f"run {same} and --set audit.on_broken_promise=full_depth, or warn; or calibrate again for this source"
    if status.owner is not None and not status.owner.alive:
        return f"run {same} again: it takes the dead run's lease over and continues"
    return how_to_continue(status.on_existing)


def _state(owner: Owner | None, notes: list[dict[str, Any]]) -> str:
    if owner is not None and owner.alive:
        return RUNNING
    return str(notes[-1]["status"]) if notes and notes[-1]["ended"] else KILLED
