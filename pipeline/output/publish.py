"""Audit and publication: a shard is published when all its chunks are staged, each row of each of its samples once.

Staged and published files are whole or absent, and the audit compares what is on storage with the shard's index, so a
task that ran twice, or died half-way, cannot lose or double a row.

A shard is two files, and no store replaces two files in one step. The first time, errors come before results: the
results file is the sign that the shard is done, and without it everything staged is still there. When a shard is
published again (second_chance.py), a mark beside its staged chunks says so before either file changes and goes
when both have: whoever finds the mark publishes once more. Results are then replaced first, so that even between the
two a row is in one file or in both, never in neither. What was answered before stays answered (pipeline.output.kept).
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.output import incarnation
from pipeline.output.kept import PublishedRows, keep_answers
from pipeline.output.staging import chunk_name, load_index, mark_reopened, read_chunk, remove_staging, reopened_name
from pipeline.output.storage import Storage, is_temporary
from pipeline.promise import losses
from pipeline.source.left_out import as_dicts, from_dicts
from pipeline.source.plan import MISSING_SHARD, LeftOut, ShardProblem, sum_left_out
from pipeline.source.shard_index import ShardIndex
from pipeline.tables import ENGINE_STATS as ENGINE_STATS_SCHEMA
from pipeline.tables import IN_ORDER, Passthrough, errors_schema, results_schema, to_table

RESULTS, ERRORS, ENGINE_STATS = "results", "errors", "engine_stats"


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows of one published shard. num_rows = num_ok + num_errors; errors of the whole shard, and what in it is no
    input row, are apart.

    `num_missing` is 1 for a shard that was gone when it, or some of its rows, were to be read.
    """

    num_samples: int
    num_rows: int
    num_ok: int
    num_errors: int
    num_shard_errors: int
    left_out: tuple[LeftOut, ...] = ()
    num_missing: int = 0

    @property
    def num_failed(self) -> int:
        """Rows of the errors table."""
        return self.num_errors + self.num_shard_errors

    def __add__(self, other: "Counts") -> "Counts":
        total: dict[str, Any] = {name: getattr(self, name) + getattr(other, name) for name in _NUMBERS}
        return Counts(**total | {"left_out": sum_left_out([*self.left_out, *other.left_out])})

    def to_json(self) -> str:
        return json.dumps({**{name: getattr(self, name) for name in _NUMBERS}, "left_out": as_dicts(self.left_out)})

    @classmethod
    def from_json(cls, text: bytes) -> "Counts":
        content = json.loads(text)
        return cls(**{**content, "left_out": from_dicts(content.get("left_out", ()))})


_NUMBERS = ("num_samples", "num_rows", "num_ok", "num_errors", "num_shard_errors", "num_missing")


NO_ROWS = Counts(0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Publication:
    """What came of trying to publish a shard: its counts, or the chunks that have to be done again.

    `left`: why a shard that was to be published again stays as it was, in one sentence.
    """

    shard: str
    counts: Counts | None
    redo: tuple[int, ...] = ()
    left: str | None = None


def published_name(folder: str, shard_name: str) -> str:
    return f"{folder}/{shard_name}.parquet"


def table_names(storage: Storage, folder: str) -> list[str]:
    """Return what the tables in a folder are called, without their suffix, sorted; what killed writers left is none."""
    names = storage.names(folder)
    return [name.removesuffix(".parquet") for name in names if name.endswith(".parquet") and not is_temporary(name)]


def published_shards(storage: Storage) -> set[str]:
    """Return the names of the shards that are published, those that are open again among them."""
    return set(table_names(storage, RESULTS))


def publish_shard(storage: Storage, shard_name: str, passthrough: Passthrough = ()) -> Publication:
    """Audit the staged chunks of a shard, publish it and remove the staging; killed anywhere, it can be called again.

    Chunks that fail the audit are removed and reported in `redo`. What was published before is only replaced by rows
    with at least the same answers. Superseded if the output was begun anew.
    """
    again = storage.exists(published_name(RESULTS, shard_name))
    index = load_index(storage, shard_name)
    if index is None:
        if again and not storage.exists(reopened_name(storage, shard_name)):
            remove_staging(storage, shard_name)  # an earlier call got that far, then was killed
            return Publication(shard_name, read_counts(storage, shard_name))
        remove_staging(storage, shard_name, marked=again)  # without its index nothing staged can be audited
        return Publication(shard_name, None, redo=(0,))
    chunks, redo = _audited_chunks(storage, shard_name, index)
    if redo:
        storage.remove(chunk_name(storage, shard_name, chunk_index) for chunk_index in redo)
        return Publication(shard_name, None, tuple(redo))
    rows = pa.concat_tables(chunks)
    if again:
        before = read_published(storage, shard_name)
        if (left := why_left(shard_name, before, index)) is not None:
            incarnation.check(storage)
            remove_staging(storage, shard_name, marked=True)
            return Publication(shard_name, read_counts(storage, shard_name), left=left)
        rows = keep_answers(rows, index, before)
    results, errors = _tables(shard_name, rows, index.problems, passthrough)
    counts = Counts(
        num_samples=len(index.samples),
        num_rows=rows.num_rows,
        num_ok=results.num_rows,
        num_errors=rows.num_rows - results.num_rows,
        num_shard_errors=len(index.problems),
        left_out=index.left_out,
        num_missing=int(MISSING_SHARD in errors["error_type"].to_pylist()),
    )
    incarnation.check(storage)
    files = [(ERRORS, errors), (RESULTS, results)]
    if again:
        mark_reopened(storage, shard_name)
        files.reverse()
    metadata: dict[str | bytes, str] = {"deed.counts": counts.to_json()}
    if (audited := losses.audited(results)) != losses.NOTHING:
        metadata[losses.METADATA] = audited.to_json()
    for folder, table in files:
        storage.write_table(published_name(folder, shard_name), table.replace_schema_metadata(metadata))
    remove_staging(storage, shard_name, marked=again)
    return Publication(shard_name, counts)


def _audited_chunks(storage: Storage, shard_name: str, index: ShardIndex) -> tuple[list[pa.Table], list[int]]:
    """Return the staged chunks that are as they should be, and the numbers of the others."""
    good: list[pa.Table] = []
    redo: list[int] = []
    for chunk_index in range(index.num_chunks):
        chunk = read_chunk(storage, shard_name, chunk_index)
        if chunk is None or audit_chunk(index, chunk_index, chunk):
            redo.append(chunk_index)
        else:
            good.append(chunk)
    return good, redo


def _tables(
    shard_name: str, rows: pa.Table, problems: Sequence[ShardProblem], passthrough: Passthrough
) -> tuple[pa.Table, pa.Table]:
    """Results and errors, in input order; errors of the whole shard come first."""
    rows = rows.sort_by(IN_ORDER)
    failed = pc.is_valid(rows["stage"])
    errors = rows.filter(failed).select(errors_schema(passthrough).names)
    return (
        rows.filter(pc.invert(failed)).select(results_schema(passthrough).names),
        pa.concat_tables([_shard_errors(shard_name, problems, passthrough), errors]),
    )


def write_engine_stats(storage: Storage, name: str, windows: Sequence[dict[str, object]]) -> None:
    """Replace or create a file of statistics. Superseded if the output was begun anew."""
    incarnation.check(storage)
    storage.write_table(
        f"{ENGINE_STATS}/{name}.parquet", pa.Table.from_pylist(list(windows), schema=ENGINE_STATS_SCHEMA)
    )


def audit_chunk(index: ShardIndex, chunk_index: int, chunk: pa.Table) -> list[str]:
    """What is wrong with a staged chunk, in words; nothing if each of its samples has each of its rows exactly once."""
    rows, prompts = chunk["row"].to_pylist(), chunk["prompt_index"].to_pylist()
    num_prompts, keys = chunk["num_prompts"].to_pylist(), chunk["key"].to_pylist()
    found: dict[int, Counter[int]] = {}
    expected_prompts: dict[int, int] = {}
    found_keys: dict[int, str] = {}
    for row, prompt_index, count, key in zip(rows, prompts, num_prompts, keys, strict=True):
        found.setdefault(row, Counter())[0 if prompt_index is None else prompt_index] += 1
        expected_prompts[row], found_keys[row] = count, key
    problems: list[str] = []
    for sample in index.chunk_samples(chunk_index):
        seen = found.pop(sample.row, Counter())
        if seen != Counter(range(expected_prompts.get(sample.row, 1))):
            problems.append(f"row {sample.row}: prompts {sorted(seen.elements())}")
        elif found_keys[sample.row] != sample.key:
            problems.append(f"row {sample.row}: key {found_keys[sample.row]!r} instead of {sample.key!r}")
    problems.extend(f"row {row} is not of this chunk" for row in found)
    return problems


def read_published(storage: Storage, shard_name: str) -> PublishedRows:
    """Return the rows of a shard as it is published."""
    results, errors = (storage.read_table(published_name(folder, shard_name)) for folder in (RESULTS, ERRORS))
    return PublishedRows(results, errors.filter(pc.is_valid(errors["key"])))


def why_left(shard_name: str, before: PublishedRows, index: ShardIndex) -> str | None:
    """Why a published shard must stay as it is, in one sentence; None if a new listing names all that is published."""
    gone = before.gone(index)
    if not gone:
        return None
    said = "; ".join(f"{problem.error_type}, {problem.message}" for problem in index.problems)
    return f"{shard_name} stays as it was published: listed again, {len(gone)} of its samples are not there" + (
        f" ({said})" if said else ""
    )


def replace_results(storage: Storage, name: str, before: pa.Table, after: pa.Table) -> None:
    """Put other answers in the place of those of a published file of results; it must have the same rows."""
    identity = ["sample_id", "prompt_index"]
    assert after.select(identity).equals(before.select(identity)), f"{name} would lose rows"
    storage.write_table(name, after)


def read_counts(storage: Storage, shard_name: str) -> Counts:
    """Return the counts of a shard published earlier, from its file's metadata."""
    metadata = storage.read_metadata(published_name(RESULTS, shard_name))
    return Counts.from_json(metadata[b"deed.counts"])


def _shard_errors(shard_name: str, problems: Sequence[ShardProblem], passthrough: Passthrough) -> pa.Table:
    schema = errors_schema(passthrough)
    rows = [
        {
            "sample_id": shard_name,
            "shard": shard_name,
            "stage": "read",
            "error_type": problem.error_type,
            "message": problem.message,
            "attempts": 1,
        }
        for problem in problems
    ]
    return to_table(rows, schema)
