"""How far a running, dead or finished run is: read from its output alone, changing nothing and without Ray."""

import json
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from conf.errors import UserError
from conf.schema import how_to_continue
from pipeline import generation
from pipeline.lease import look
from pipeline.ledger import RUN_NAME, STATE, known_shards
from pipeline.left_out import load_listing
from pipeline.plan import LeftOut, sum_left_out
from pipeline.second_chance import is_transient
from pipeline.settings import CONFIG_NAME
from pipeline.sink import (
    ERRORS,
    NO_ROWS,
    RESULTS,
    load_index,
    published_name,
    read_counts,
    staged_chunk_of,
    staging,
)
from pipeline.storage import Storage

RUNNING, KILLED = "running", "killed"  # beside the states of pipeline.run_record.Status, which runs write themselves
_THREADS = 16


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

    @property
    def rows_done(self) -> int:
        return self.rows_ok + self.rows_error + self.samples_staged


def read_status(url: str) -> RunStatus:
    """The status of the output at `url`; UserError if no run was ever begun there."""
    storage = generation.current(Storage(url))
    if not storage.exists(CONFIG_NAME):
        raise UserError(f"no run was begun in {storage.url!r}")
    held, notes, record = look(storage), _invocations(storage), _run_record(storage)
    owner = None if held is None else Owner(held[0].content["host"], int(held[0].content["pid"]), held[1], held[2])
    published = {name.removesuffix(".parquet") for name in storage.names(RESULTS) if name.endswith(".parquet")}
    staged = staged_samples(storage, published)
    known = {shard.name for shard in known_shards(storage).values()}
    with ThreadPoolExecutor(_THREADS) as pool:
        in_order = sorted(published)
        counts = dict(zip(in_order, pool.map(lambda name: read_counts(storage, name), in_order), strict=True))
    total = sum(counts.values(), NO_ROWS)
    wall_s = [_seconds(note["start_utc"], note["last_seen_utc"]) for note in notes]
    shards, started = known | published, {name for name, chunks in staged.items() if chunks}
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
        left_out=sum_left_out([*load_listing(storage), *total.left_out]),
        chunks_staged=sum(len(chunks) for chunks in staged.values()),
        samples_staged=sum(sum(chunks.values()) for chunks in staged.values()),
        errors_by_type=errors_by_type(
            storage, (name for name, count in counts.items() if count.num_errors + count.num_shard_errors)
        ),
        wall_s=sum(wall_s),
        actor_s=sum(s * note["num_actors"] for s, note in zip(wall_s, notes, strict=True)),
        command=list(record.get("command", ())),
    )


def staged_samples(storage: Storage, published: set[str]) -> dict[str, dict[int, int]]:
    """Unpublished shard -> staged chunk -> its samples. Chunks of a shard without a readable index do not count."""
    chunks: dict[str, list[int]] = {}
    for path in storage.walk(staging(storage)):
        shard_name, _, file_name = path.rpartition("/")
        chunk_index = staged_chunk_of(file_name)
        if chunk_index is not None and shard_name not in published:
            chunks.setdefault(shard_name, []).append(chunk_index)
    with ThreadPoolExecutor(_THREADS) as pool:
        indexes = pool.map(lambda name: load_index(storage, name), chunks)
        return {
            name: {n: len(index.chunk_samples(n)) for n in numbers if n < index.num_chunks}
            for (name, numbers), index in zip(chunks.items(), indexes, strict=True)
            if index is not None
        }


def next_step(status: RunStatus) -> str:
    """What to do now, in one sentence."""
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
    if status.owner is not None and not status.owner.alive:
        return f"run {same} again: it takes the dead run's lease over and continues"
    return how_to_continue(status.on_existing)


def _state(owner: Owner | None, notes: list[dict[str, Any]]) -> str:
    if owner is not None and owner.alive:
        return RUNNING
    return str(notes[-1]["status"]) if notes and notes[-1]["ended"] else KILLED


def _invocations(storage: Storage) -> list[dict[str, Any]]:
    folder = f"{STATE}/invocations"
    names = [name for name in storage.names(folder) if name.endswith(".json") and not name.startswith(".")]
    notes = [json.loads(storage.read(f"{folder}/{name}")) for name in names]
    return sorted(notes, key=lambda note: str(note["start_utc"]))


def _run_record(storage: Storage) -> dict[str, Any]:
    record = storage.read_json(RUN_NAME)
    return record if isinstance(record, dict) else {}


def errors_by_type(storage: Storage, shard_names: Iterable[str]) -> dict[str, int]:
    """ "stage/error_type" -> rows of these published shards, the most frequent first."""
    found: Counter[str] = Counter()
    for name in shard_names:
        table = storage.read_table(published_name(ERRORS, name)).select(["stage", "error_type"])
        found.update(f"{row['stage']}/{row['error_type']}" for row in table.to_pylist())
    return dict(found.most_common())


def _seconds(start_utc: str, end_utc: str) -> float:
    return (datetime.fromisoformat(end_utc) - datetime.fromisoformat(start_utc)).total_seconds()
