"""What there is to do: source paths -> shards (units of publication) -> chunks (units of work and retry).

A shard has a stable name, a sample a stable identity `shard/key`, and a chunk is a fixed range of a shard's rows, so
that two runs over the same source always agree on what "row 17 of shard a" is.
"""

import itertools
import json
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import fsspec
import pyarrow as pa

from conf.errors import UserError
from conf.schema import RetryConfig
from pipeline.retrying import Exhausted, retry

_LISTING_THREADS = 32
_ARCHIVE_SUFFIX = re.compile(
    r"(\.tar|\.t(?:gz|bz2?|xz|zst)|\.parquet|\.csv|\.tsv|\.jsonl|\.ndjson|\.json|\.txt)?(\.gz|\.zst|\.bz2|\.xz)?$",
    re.IGNORECASE,
)
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


MISSING_SHARD = "missing_shard"  # the error type of rows and shards that were planned and are gone


@dataclass(frozen=True, slots=True)
class ShardProblem:
    """Something wrong with a shard as a whole; becomes one errors row without a key."""

    error_type: str
    message: str


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
    """The shards of a source, sorted, and what a listing leaves out of them."""

    shards: tuple[Shard, ...]
    left_out: tuple[LeftOut, ...] = ()


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

    @classmethod
    def of(cls, contents: Contents, chunk_rows: int) -> "ShardIndex":
        return cls(contents.samples, contents.problems, chunk_rows, contents.left_out)

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


def expand_braces(pattern: str) -> list[str]:
    """`a-{000..002}.tar` and `{x,y}.tar` -> every path they stand for, in order."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    head, body, tail = pattern[: match.start()], match.group(1), pattern[match.end() :]
    span = re.fullmatch(r"(\d+)\.\.(\d+)", body)
    if span is not None:
        first, last = span.groups()
        if int(last) < int(first):
            raise UserError(f"brace range {{{body}}} in {pattern!r} runs backwards")
        width = len(first) if first.startswith("0") or len(first) == len(last) else 0
        choices = [str(number).zfill(width) for number in range(int(first), int(last) + 1)]
    else:
        choices = body.split(",")
        if len(choices) < 2:
            raise UserError(f"{{{body}}} in {pattern!r} is neither a range like {{000..003}} nor a list like {{a,b}}")
    return list(itertools.chain.from_iterable(expand_braces(head + choice + tail) for choice in choices))


def find_files(paths: Sequence[str], patience: RetryConfig, known: Iterable[Shard] = ()) -> list[tuple[str, int]]:
    """(url, size in bytes) of every file the paths stand for, sorted, each once; a path without a file is an error.

    A path whose shards are all gone is none if an earlier run planned them (`known`), but a source of which nothing is
    there any more is one all the same.
    """
    planned = sorted(shard.url for shard in known)
    files: dict[str, int] = {}
    expanded = [path for pattern in paths for path in expand_braces(pattern)]
    with ThreadPoolExecutor(max_workers=min(_LISTING_THREADS, max(1, len(expanded)))) as pool:
        for found in pool.map(lambda path: _files_of_path(path, patience, planned), expanded):
            files.update(found)
    if not files:
        raise UserError(f"nothing is left of the source, which had {len(planned)} shards when this output was begun")
    return sorted(files.items())


def _files_of_path(path: str, patience: RetryConfig, planned: Sequence[str]) -> list[tuple[str, int]]:
    fs, inner = resolve(path)
    fixed = unresolve(fs, re.split(r"[*?[]", inner)[0])
    is_planned = any(url == fixed or (fixed != inner and url.startswith(fixed)) for url in planned)
    try:
        found = retry(lambda: _list(fs, inner, path), f"listing {path}", patience)
        if not found and not is_planned:
            raise UserError(f"no shard matches {path!r}")
        return [(unresolve(fs, name), int(info.get("size") or 0)) for name, info in found]
    except UserError:
        raise
    except FileNotFoundError:
        if is_planned:
            return []
        raise UserError(f"shard not found: {path!r}") from None
    except PermissionError as error:
        raise UserError(f"not allowed to read {path!r}: {error}") from None
    except Exhausted as error:
        raise UserError(f"cannot list {path!r}: {error}") from None
    except Exception as error:  # each storage back end has its own exceptions
        raise UserError(f"cannot list {path!r}: {type(error).__name__}: {error}") from None


def _list(fs: fsspec.AbstractFileSystem, inner: str, path: str) -> list[tuple[str, dict[str, Any]]]:
    if any(character in inner for character in "*?["):
        details: dict[str, dict[str, Any]] = fs.glob(inner, detail=True)
        return [(name, info) for name, info in details.items() if info["type"] != "directory"]
    info = fs.info(inner)
    if info["type"] == "directory":
        raise UserError(f"{path!r} is a folder; name the shards in it, for example {path.rstrip('/')}/*.tar")
    return [(inner, info)]


def resolve(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The filesystem of a path or URL and the path within it; an unusable URL is a user's error."""
    try:
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

    Names given out before (`known`) are kept, so that adding shards to a source never renames published ones.
    """
    names = dict(known or {})
    fresh = [url for url in urls if url not in names]
    for depth in itertools.count(1):
        candidates: dict[str, list[str]] = {}
        for url in fresh:
            candidates.setdefault(_short_name(url, depth), []).append(url)
        taken = set(names.values())
        fresh = []
        for name, claimants in candidates.items():
            if len(claimants) == 1 and name not in taken:
                names[claimants[0]] = name
            elif depth > max(url.count("/") for url in claimants) + 1:
                raise UserError(f"cannot tell the shards {claimants} apart by name; rename one of them")
            else:
                fresh.extend(claimants)
        if not fresh:
            return names
    raise AssertionError("unreachable")


def _short_name(url: str, depth: int) -> str:
    pieces = [piece for piece in url.split("/") if piece]
    pieces[-1] = _ARCHIVE_SUFFIX.sub("", pieces[-1]) or pieces[-1]
    return _UNSAFE.sub("_", "__".join(pieces[-depth:])).lstrip("._") or "shard"
