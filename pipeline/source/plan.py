"""What there is to do: source paths -> shards (units of publication) -> chunks (units of work and retry).

A shard has a stable name, a sample a stable identity `shard/key`, and a chunk is a fixed range of a shard's rows, so
that two runs over the same source always agree on what "row 17 of shard a" is.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from pipeline.text import storable


@dataclass(frozen=True, slots=True)
class _Range:
    begin: int
    size: int

    @property
    def end(self) -> int:
        return self.begin + self.size


class ByteRange(_Range):
    """Bytes of a file, decompressed where it is compressed."""

    __slots__ = ()


class RowRange(_Range):
    """Rows of a Parquet file."""

    __slots__ = ()


Place = ByteRange | RowRange


class Role(str, Enum):
    """What is known of a member of an archive that its suffix does not say."""

    IMAGE = "image"
    UNWANTED = "unwanted"  # an image that is not asked for
    BROKEN_LINK = "broken_link"
    SPARSE_FILE = "sparse_file"


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of a sample: a member of its archive (by its suffix), or what stands beside it in its folder.

    `place`: where in the archive, or in the file of that name; None: the file is the piece.
    """

    name: str
    place: Place | None = None
    role: Role | None = None

    @property
    def byte_range(self) -> ByteRange:
        assert isinstance(self.place, ByteRange)
        return self.place


@dataclass(frozen=True, slots=True)
class Asked:
    """What a tick asks of a sample: some of its prompts, by number; none: all that it has."""

    prompts: tuple[int, ...]
    row: int  # of the sample in the whole shard


@dataclass(frozen=True, slots=True)
class Sample:
    """One input row: its position in the shard, its key, and where it is."""

    row: int
    key: str
    parts: tuple[Part, ...] = ()
    record: Place | None = None  # in a table
    row_group: int | None = None  # of a Parquet file: which one the record is in
    nth: int | None = None  # which image of its record it is, from 0, where one record may have several
    asked: Asked | None = None


class Unit(str, Enum):
    """What the weight of a shard counts."""

    BYTES = "bytes"
    ROWS = "rows"
    FILES = "files"


@dataclass(frozen=True, slots=True)
class Shard:
    """A file (or a fixed group of files, or a range of records) whose results are published together."""

    name: str
    url: str
    weight: int  # how much it holds, counted in `unit`; it tells another file of the same name
    members: tuple[str, ...] = ()  # image folders: its files, relative to url
    beside: tuple[str, ...] = ()  # image folders: files that give fields to the members
    version: str = ""  # of the file as it was listed (pipeline.source.versions); "" where nothing is known
    sizes: tuple[int, ...] = ()  # image folders: bytes of each member when it was planned
    records: Place | None = None  # manifests: which of the file
    file_bytes: int = 0  # manifests: of the whole file, to which records may be appended
    unit: Unit = Unit.BYTES

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Shard":
        return cls.from_fields(json.loads(text))

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> "Shard":
        """Return the shard of which JSON or the plan holds these fields; those that it lacks have their defaults."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
        }
        unit, records = Unit(values.pop("unit", Unit.BYTES)), values.pop("records", None)
        place = RowRange if unit is Unit.ROWS else ByteRange
        return cls(**values, unit=unit, records=None if records is None else place(**records))

    @classmethod
    def from_former(cls, fields: Mapping[str, Any]) -> "Shard":
        """Of version 1 (pipeline.output.formats): `members` were also where the records of a manifest begin and end."""
        values, unit = dict(fields), Unit.BYTES
        weight, members = values.pop("size_bytes"), values.get("members", ())
        if members and not values.get("sizes"):
            if len(members) == 2 and all(map(str.isdecimal, members)) and int(members[1]) - int(members[0]) == weight:
                unit = Unit.ROWS if values["url"].lower().endswith(".parquet") else Unit.BYTES
                values |= {"members": (), "records": {"begin": int(members[0]), "size": weight}}
            elif len(members) == weight:  # what is new in a folder, in a tick
                unit = Unit.FILES
        return cls.from_fields({**values, "weight": weight, "unit": unit})


_MOST_EXAMPLES = 5  # names of files that are left out, for each reason
UNREADABLE_SHARD = "unreadable_shard"  # storage does not give it, or nothing of it is what it should be
MISSING_SHARD = "missing_shard"  # the error type of rows and shards that were planned and are gone


@dataclass(frozen=True, slots=True)
class ShardProblem:
    """Something wrong with a shard as a whole; becomes one errors row without a key.

    `passing`: whether it is its storage, which was asked as patiently as it should be, that is away. Not recorded.
    """

    error_type: str
    message: str
    passing: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Files (or members) of a source that are no input rows, for one reason: how many, and a few of their names.

    The reason is a short fixed word, a plural (`hidden_files`); names are as `pipeline.text.storable` gives them.
    """

    reason: str
    count: int
    examples: tuple[str, ...] = ()

    @classmethod
    def of(cls, reason: str, names: Sequence[str]) -> "LeftOut":
        """Files of these names, as the system knows them."""
        return cls(reason, len(names), tuple(map(storable, names[:_MOST_EXAMPLES])))


def sum_left_out(parts: Iterable[LeftOut]) -> tuple[LeftOut, ...]:
    """Return one entry for each reason, the most frequent first."""
    counts: dict[str, int] = {}
    examples: dict[str, tuple[str, ...]] = {}
    for part in parts:
        counts[part.reason] = counts.get(part.reason, 0) + part.count
        examples[part.reason] = (*examples.get(part.reason, ()), *part.examples)[:_MOST_EXAMPLES]
    return tuple(LeftOut(r, n, examples[r]) for r, n in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


@dataclass(frozen=True, slots=True)
class Listing:
    """The shards of a source, sorted, and what a listing leaves out of them.

    `changed`: files of shards planned earlier that have another size now, by reason like those that are left out.
    """

    shards: tuple[Shard, ...]
    left_out: tuple[LeftOut, ...] = ()
    changed: tuple[LeftOut, ...] = ()


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in one shard: its samples in input order, what is wrong with it as a whole, what is no input row."""

    samples: tuple[Sample, ...] = ()
    problems: tuple[ShardProblem, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


def sample_id(shard_name: str, key: str) -> str:
    return f"{shard_name}/{key}"


def given_id(value: object, sample: Sample) -> str:
    """The identity that a field gives: of a record with several images, with the number of the image behind it."""
    return str(value) if sample.nth is None else f"{value}.{sample.nth}"
