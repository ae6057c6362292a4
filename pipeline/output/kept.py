"""What a shard that is published again keeps of its first publication: every answer that the second does not have.

A published shard is only replaced by rows that hold at least the same answers. A row that failed the second time keeps
its answer; a listing that no longer names every sample (its storage was away, the archive is cut) replaces nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from pipeline.source.shard_index import ShardIndex


@dataclass(frozen=True)
class PublishedRows:
    """The rows of a published shard; errors of the shard as a whole are left out."""

    results: pa.Table
    errors: pa.Table

    def gone(self, index: ShardIndex) -> set[str]:
        """Return the keys of published rows that a new listing of the shard does not name."""
        keys: set[str] = {*self.results["key"].to_pylist(), *self.errors["key"].to_pylist()}
        return keys.difference(sample.key for sample in index.samples)


def keep_answers(rows: pa.Table, index: ShardIndex, before: PublishedRows) -> pa.Table:
    """Staged rows, with the published ones taken for samples or prompts that were answered then and failed now.

    The index names every sample that is published.
    """
    row_of = {sample.key: sample.row for sample in index.samples}
    together = pa.concat_tables([rows, *(_as_staged(t, rows.schema, row_of) for t in (before.results, before.errors))])
    old = _places(together.slice(rows.num_rows), rows.num_rows)
    chosen: list[int] = []
    for key, places in _places(rows, 0).items():
        chosen.extend(_better(places, old.get(key, _NO_PLACES)))
    return together.take(pa.array(chosen, pa.int64()))


@dataclass(frozen=True)
class _Places:
    """Where the rows of one sample are, by prompt; None is the prompt of a sample that failed as a whole."""

    answered: dict[int | None, int]
    failed: dict[int | None, int]


_NO_PLACES = _Places({}, {})


def _places(table: pa.Table, first: int) -> dict[str, _Places]:
    found: dict[str, _Places] = {}
    columns = (table[name].to_pylist() for name in ("key", "prompt_index", "stage"))
    for place, (key, prompt_index, stage) in enumerate(zip(*columns, strict=True), first):
        own = found.setdefault(key, _Places({}, {}))
        (own.answered if stage is None else own.failed)[prompt_index] = place
    return found


def _better(new: _Places, old: _Places) -> list[int]:
    """Return one row for each prompt: an answer before an error, what is new before what is old."""
    if not old.answered:
        return [*new.answered.values(), *new.failed.values()]
    failed = old.failed if None in new.failed else new.failed  # failed as a whole: its prompts are those of before
    best = {**failed, **old.answered, **new.answered}
    best.pop(None, None)
    return list(best.values())


def _as_staged(table: pa.Table, schema: pa.Schema, row_of: Mapping[str, int]) -> pa.Table:
    """Published rows in the columns of staged ones; what they do not have is null."""
    rows = pa.array([row_of[key] for key in table["key"].to_pylist()], pa.int64())
    columns = {name: table[name] for name in table.column_names} | {"row": rows}
    return pa.table(
        [
            columns[field.name].cast(field.type) if field.name in columns else pa.nulls(table.num_rows, field.type)
            for field in schema
        ],
        schema=schema,
    )
