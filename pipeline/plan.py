"""What there is to do: source paths -> shards (units of publication) -> chunks (units of work and retry).

A shard has a stable name, a sample a stable identity `shard/key`, and a chunk is a fixed range of a shard's rows, so
that two runs over the same source always agree on what "row 17 of shard a" is.
"""

import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import fsspec
import pyarrow as pa

from conf.errors import UserError

_ARCHIVE_SUFFIX = re.compile(
    r"(\.tar|\.t(?:gz|bz2?|xz|zst)|\.parquet|\.csv|\.tsv|\.jsonl|\.ndjson|\.json|\.txt)?(\.gz|\.zst|\.bz2|\.xz)?$",
    re.IGNORECASE,
)
# File systems take 255 bytes, encrypted ones 143. Behind a shard's name come its number and a tick's, and a suffix.
_LONGEST_NAME = 143 - len("-00000-t000000-00000.parquet")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of a sample inside its shard: what it is called and where its bytes are."""

    name: str
    offset: int
    size: int


# A part whose offset is the record's row in its file and whose size is the number of the image, -1 where it has none.
NTH_IMAGE = "/nth"


@dataclass(frozen=True, slots=True)
class Sample:
    """One input row: its position in the shard, its key, its pieces."""

    row: int
    key: str
    parts: tuple[Part, ...]

    @property
    def nth(self) -> int | None:
        """Which image of its record it is, from 0, where one record may have several."""
        return next((part.size for part in self.parts if part.name == NTH_IMAGE and part.size >= 0), None)


@dataclass(frozen=True, slots=True)
class Shard:
    """A file (or a fixed group of files) whose results are published together."""

    name: str
    url: str
    size_bytes: int
    members: tuple[
        str, ...
    ] = ()  # image folders: its files, relative to url; manifests: where its records begin and end
    beside: tuple[str, ...] = ()  # image folders: files that give fields to the members
    version: str = ""  # of the file as it was listed (pipeline.versions); "" where nothing is known
    sizes: tuple[int, ...] = ()  # image folders: bytes of each member when it was planned
    file_bytes: int = 0  # manifests: of the whole file, to which records may be appended

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Shard":
        return cls.from_fields(json.loads(text))

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> "Shard":
        """The shard of which JSON holds these fields; those that it lacks have their defaults."""
        lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
        return cls(**{**fields, **lists})


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


_MOST_EXAMPLES = 5


def sum_left_out(parts: Iterable[LeftOut]) -> tuple[LeftOut, ...]:
    """One entry for each reason, the most frequent first."""
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


INDEX_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("key", pa.string()),
        ("parts", pa.list_(pa.struct([("name", pa.string()), ("offset", pa.int64()), ("size", pa.int64())]))),
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
        metadata = {
            "chunk_rows": str(self.chunk_rows),
            "problems": json.dumps([[problem.error_type, problem.message] for problem in self.problems]),
            "version": self.version,
            "left_out": json.dumps([[part.reason, part.count, part.examples] for part in self.left_out]),
        }
        parts = [[{"name": p.name, "offset": p.offset, "size": p.size} for p in s.parts] for s in self.samples]
        rows, keys = [sample.row for sample in self.samples], [sample.key for sample in self.samples]
        columns = {"row": rows, "key": keys, "parts": parts}
        return pa.table(columns, schema=INDEX_SCHEMA).replace_schema_metadata(metadata)

    @classmethod
    def from_table(cls, table: pa.Table) -> "ShardIndex":
        metadata = table.schema.metadata
        columns = (table[name].to_pylist() for name in INDEX_SCHEMA.names)
        return cls(
            samples=tuple(
                Sample(row, key, tuple(Part(**part) for part in pieces))
                for row, key, pieces in zip(*columns, strict=True)
            ),
            problems=tuple(ShardProblem(*pair) for pair in json.loads(metadata[b"problems"])),
            chunk_rows=int(metadata[b"chunk_rows"]),
            version=metadata.get(b"version", b"").decode(),
            left_out=tuple(
                LeftOut(reason, count, tuple(names))
                for reason, count, names in json.loads(metadata.get(b"left_out", b"[]"))
            ),
        )


def sample_id(shard_name: str, key: str) -> str:
    return f"{shard_name}/{key}"


def given_id(value: object, sample: Sample) -> str:
    """The identity that a field gives: of a record with several images, with the number of the image behind it."""
    return str(value) if sample.nth is None else f"{value}.{sample.nth}"


def resolve(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The filesystem of a path or URL and the path within it; an unusable URL is a user's error."""
    try:
        if "://" not in path:  # whatever else is in it: `::` and `%` are parts of a name
            return fsspec.filesystem("file"), os.path.abspath(os.path.expanduser(path))
        fs, inner = fsspec.core.url_to_fs(path)
        return fs, str(inner)
    except (ImportError, ValueError) as error:
        raise UserError(f"cannot open {path!r}: {error}") from None


def is_local(fs: fsspec.AbstractFileSystem) -> bool:
    return "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol))


def unresolve(fs: fsspec.AbstractFileSystem, inner: str) -> str:
    """The inverse of `resolve`: local paths stay plain and absolute, everything else gets its protocol back."""
    return inner if is_local(fs) else str(fs.unstrip_protocol(inner))


def name_shards(urls: Iterable[str], known: dict[str, str] | None = None) -> dict[str, str]:
    """url -> shard name: the file name without its suffixes, with parent folders in front where names would collide.

    One that is too long for what is put behind it, or differs from another in upper and lower case alone, which some
    file systems do not tell apart, is cut and gets a hash of the whole; so do those that differ in characters alone
    that no name may have. Names given out before (`known`) are kept, so that adding shards to a source never renames
    published ones.
    """
    names = dict(known or {})
    fresh = [url for url in urls if url not in names]
    for depth in itertools.count(1):
        candidates: dict[str, list[str]] = {}
        for url in fresh:
            candidates.setdefault(_short_name(url, depth), []).append(url)
        taken = set(names.values())
        folded = {name.lower() for name in taken}
        fresh = []
        for name, claimants in candidates.items():
            if len(claimants) == 1 and name not in taken:
                names[claimants[0]] = own = _hashed(name) if name.lower() in folded else name
                folded.add(own.lower())
            elif depth > max(url.count("/") for url in claimants) + 1:
                names.update({url: _hashed(_short_name(url, 1), url) for url in claimants})
            else:
                fresh.extend(claimants)
        if not fresh:
            return names
    raise AssertionError("unreachable")


def _short_name(url: str, depth: int) -> str:
    pieces = [piece for piece in url.split("/") if piece]
    pieces[-1] = _ARCHIVE_SUFFIX.sub("", pieces[-1]) or pieces[-1]
    name = _UNSAFE.sub("_", "__".join(pieces[-depth:])).lstrip("._") or "shard"
    return name if len(name) <= _LONGEST_NAME else _hashed(name)


def _hashed(name: str, whole: str | None = None) -> str:
    """The name with a hash behind it: of itself, or of what it stands for."""
    mark = hashlib.sha256((whole or name).encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{name[: _LONGEST_NAME - len(mark) - 1]}-{mark}"
