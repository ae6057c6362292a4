"""The samples of a shard, cut into chunks, and the table they are kept and sent as."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.output.formats import STAMP, version_of
from pipeline.source.plan import (
    Asked,
    ByteRange,
    Contents,
    LeftOut,
    Part,
    Place,
    Role,
    RowRange,
    Sample,
    ShardProblem,
    Unit,
)

_PLACE = [("unit", pa.string()), ("begin", pa.int64()), ("size", pa.int64())]
_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("key", pa.string()),
        ("parts", pa.list_(pa.struct([("name", pa.string()), ("role", pa.string()), *_PLACE]))),
        ("record", pa.struct(_PLACE)),
        ("row_group", pa.int32()),
        ("nth", pa.int32()),
        ("asked", pa.struct([("prompts", pa.list_(pa.int32())), ("row", pa.int64())])),
    ]
)


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """All samples of one shard in input order, cut into chunks of `chunk_rows`."""

    samples: tuple[Sample, ...]
    problems: tuple[ShardProblem, ...]
    chunk_rows: int
    left_out: tuple[LeftOut, ...] = ()
    version: str = ""  # of the file it was taken from

    @classmethod
    def of(cls, contents: Contents, chunk_rows: int, version: str = "") -> "ShardIndex":
        return cls(contents.samples, contents.problems, chunk_rows, contents.left_out, version)

    @property
    def num_chunks(self) -> int:
        """At least one: an empty shard has one empty chunk, so that it too is worked on and published."""
        return max(1, -(-len(self.samples) // self.chunk_rows))

    def chunk_samples(self, chunk_index: int) -> tuple[Sample, ...]:
        first_row = chunk_index * self.chunk_rows
        return self.samples[first_row : first_row + self.chunk_rows]

    def to_table(self) -> pa.Table:
        metadata: dict[Any, Any] = {
            **STAMP,
            "chunk_rows": str(self.chunk_rows),
            "problems": json.dumps([[problem.error_type, problem.message] for problem in self.problems]),
            "version": self.version,
            "left_out": json.dumps([[part.reason, part.count, part.examples] for part in self.left_out]),
        }
        samples = self.samples
        columns = {
            "row": [sample.row for sample in samples],
            "key": [sample.key for sample in samples],
            "parts": [[_part_fields(part) for part in sample.parts] for sample in samples],
            "record": [sample.record and _place_fields(sample.record) for sample in samples],
            "row_group": [sample.row_group for sample in samples],
            "nth": [sample.nth for sample in samples],
            "asked": [s.asked and {"prompts": s.asked.prompts, "row": s.asked.row} for s in samples],
        }
        return pa.table(columns, schema=_SCHEMA).replace_schema_metadata(metadata)

    @classmethod
    def from_table(cls, table: pa.Table) -> "ShardIndex":
        metadata = table.schema.metadata
        read = _samples if version_of(metadata, "the index of a shard") > 1 else _former_samples
        return cls(
            samples=tuple(read(table)),
            problems=tuple(ShardProblem(*pair) for pair in json.loads(metadata[b"problems"])),
            chunk_rows=int(metadata[b"chunk_rows"]),
            version=metadata.get(b"version", b"").decode(),
            left_out=tuple(
                LeftOut(reason, count, tuple(names))
                for reason, count, names in json.loads(metadata.get(b"left_out", b"[]"))
            ),
        )


def _place_fields(place: Place | None) -> dict[str, Any]:
    if place is None:
        return {}
    unit = Unit.BYTES if isinstance(place, ByteRange) else Unit.ROWS
    return {"unit": unit.value, "begin": place.begin, "size": place.size}


def _place(unit: str | None, begin: int, size: int) -> Place | None:
    if unit is None:
        return None
    return (ByteRange if unit == "bytes" else RowRange)(begin, size)


def _part_fields(part: Part) -> dict[str, Any]:
    return {"name": part.name, "role": part.role and part.role.value, **_place_fields(part.place)}


def _part(name: str, role: str | None, *place: Any) -> Part:
    return Part(name, _place(*place), None if role is None else Role(role))


def _samples(table: pa.Table) -> Iterator[Sample]:
    lists = table["parts"].combine_chunks()  # read at one go: there are several for each sample
    parts = map(_part, *(column.to_pylist() for column in lists.flatten().flatten()))
    for row, num_parts in zip(table.drop_columns("parts").to_pylist(), lists.value_lengths().to_pylist(), strict=True):
        record, asked = row["record"], row["asked"]
        yield Sample(
            row["row"],
            row["key"],
            tuple(itertools.islice(parts, num_parts)),
            None if record is None else _place(**record),
            row["row_group"],
            row["nth"],
            None if asked is None else Asked(tuple(asked["prompts"]), asked["row"]),
        )


def _former_samples(table: pa.Table) -> Iterator[Sample]:
    """Of version 1, in which all of this was a list of parts with a name, an offset and a size."""
    return map(_former_sample, *(table[name].to_pylist() for name in ("row", "key", "parts")))


def _former_sample(row: int, key: str, pieces: list[dict[str, Any]]) -> Sample:
    parts = [(piece["name"], piece["offset"], piece["size"]) for piece in pieces]
    source_row = next((offset for name, offset, _ in parts if name == "__row"), None)
    masks = [(offset, size) for name, offset, size in parts if name == "__mask"]
    asked = None
    if source_row is not None:
        bits = sorted(62 * word + bit for mask, word in masks for bit in range(62) if mask >> bit & 1)
        asked = Asked(tuple(bits), source_row)
    own = [part for part in parts if part[0] not in ("__row", "__mask", "/nth")]
    nth = next(((offset, size) for name, offset, size in parts if name == "/nth"), None)
    kind, offset, size = own[0] if own else ("", 0, 0)
    numbered = key[:8].isdecimal()
    if kind == "row_group" and numbered:
        file_row, image = nth or (row if source_row is None else source_row, -1)
        return Sample(row, key, (), RowRange(file_row, 1), offset, image if image >= 0 else None, asked)
    if len(own) == 1 and numbered and len(key) == 8 and kind in ("record", "row"):
        return Sample(row, key, (), (RowRange if kind == "row" else ByteRange)(offset, size), asked=asked)
    if own and size == -1:  # the image of a folder
        own = own[1:]
    return Sample(row, key, tuple(_former_part(*part) for part in own), asked=asked)


def _former_part(name: str, offset: int, size: int) -> Part:
    if size < 0:
        return Part(name)
    if name.endswith("metadata.parquet") and size == 1:
        return Part(name, RowRange(offset, 1))
    suffix, _, role = name.partition("/")
    if role in {known.value for known in Role}:
        return Part(suffix, ByteRange(offset, size), Role(role))
    return Part(name, ByteRange(offset, size))
