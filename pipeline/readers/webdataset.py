"""WebDataset tar shards (plain, .gz, .zst): members grouped by key, byte ranges read per chunk.

A shard is listed once by hopping over its headers. A sample is every member with the same key (the path up to the
first dot of the file name), wherever in the archive they are. If `key.jpg` occurs twice, the second one starts a second
sample `key~2`. An archive without its end marker was cut: complete samples are kept, the cut is one ShardProblem.
"""

import gzip
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

from pipeline.plan import Part, Sample, Shard, ShardIndex, ShardProblem, find_files, name_shards, resolve
from pipeline.readers import RawSample, ReadFailure
from pipeline.retrying import is_transient, retry

IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "ppm", "jp2"})
_BLOCK = 512
_MERGE_GAP_BYTES = 64 * 1024  # members closer than this are fetched by one request: headers and unused members between
_HEADER_TYPES = frozenset({b"x", b"g", b"L", b"K"})  # pax and GNU headers that describe the next member
_MAX_HEADER_BYTES = 1 << 20


class CutArchive(Exception):
    """The archive ended before its end marker."""


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file in a tar: its name and the range of its bytes."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class WebDatasetReader:
    """Reads WebDataset shards; `wants_fields` says whether JSON and text members are needed beside the image."""

    paths: tuple[str, ...]
    wants_fields: bool = True

    def shards(self, known_names: dict[str, str]) -> list[Shard]:
        files = find_files(self.paths)
        names = name_shards([url for url, _ in files], known_names)
        return [Shard(names[url], url, size) for url, size in files]

    def spans(self, shard: Shard, index: ShardIndex, todo: Sequence[int]) -> list[list[int]]:
        return [list(todo)] if _is_compressed(shard) else [[chunk_index] for chunk_index in todo]

    def index(self, shard: Shard) -> tuple[list[Sample], list[ShardProblem]]:
        members: list[Member] = []
        problem: ShardProblem | None = None
        cut = False

        def list_members() -> None:
            members.clear()
            with _open_stream(shard.url) as stream:
                for member in iter_members(stream):  # one by one: what comes before a cut is kept
                    members.append(member)

        try:
            retry(list_members, transient=_is_storage_trouble)
        except (CutArchive, EOFError) as error:
            cut = True
            problem = ShardProblem("truncated_shard", f"{shard.name}: {error or 'compressed data ends early'}")
        except Exception as error:  # storage back ends and decompressors have no common base class
            cut = bool(members)
            problem = ShardProblem("unreadable_shard", f"{shard.name}: {type(error).__name__}: {error}")
        samples = group_by_key(members)
        if problem is None:
            return samples, []
        if cut and samples:
            samples, dropped = _drop_incomplete(samples, members[-1])
            kept = f"{len(samples)} complete samples kept"
            detail = f"{kept}, incomplete sample {dropped!r} dropped" if dropped else kept
            problem = ShardProblem(problem.error_type, f"{problem.message} ({detail})")
        return samples, [problem]

    def read(self, shard: Shard, samples: Sequence[Sample]) -> Iterator[RawSample]:
        needed = {sample.row: self._needed_parts(sample) for sample in samples}
        try:
            if not _is_compressed(shard):
                blobs = _read_ranges(shard.url, [part for parts in needed.values() for part in parts])
                for sample in samples:
                    yield self._assemble(shard, sample, {part.name: blobs[part] for part in needed[sample.row]})
            else:
                for sample, data in _read_stream(shard.url, samples, needed):
                    yield self._assemble(shard, sample, data)
        except Exception as error:  # storage and decompressor errors have no common base class
            raise ReadFailure(f"{type(error).__name__}: {error}") from error

    def _needed_parts(self, sample: Sample) -> tuple[Part, ...]:
        image = image_part(sample)
        return tuple(part for part in sample.parts if part == image or (self.wants_fields and not _is_image(part.name)))

    def _assemble(self, shard: Shard, sample: Sample, data: dict[str, bytes]) -> RawSample:
        image = image_part(sample)
        if image is None:
            names = ", ".join("." + part.name for part in sample.parts)
            return RawSample(
                sample, None, {}, "no_image", f"{shard.name}/{sample.key} has no image member, only {names}"
            )
        fields: dict[str, Any] = {}
        for part in sample.parts:
            if part.name not in data or part == image:
                continue
            if part.name == "json":
                try:
                    value = json.loads(data["json"])
                except ValueError as error:
                    return RawSample(sample, None, {}, "bad_json", f"{shard.name}/{sample.key}.json: {error}")
                fields.update(value if isinstance(value, dict) else {"json": value})
            else:
                fields.setdefault(part.name, data[part.name].decode("utf-8", errors="replace"))
        return RawSample(sample, data[image.name], fields)


def _is_compressed(shard: Shard) -> bool:
    return shard.url.endswith((".gz", ".tgz", ".zst"))


def _is_storage_trouble(error: Exception) -> bool:
    return is_transient(error) and not isinstance(error, gzip.BadGzipFile)  # which is an OSError


def _is_image(part_name: str) -> bool:
    return part_name.rsplit(".", 1)[-1].lower() in IMAGE_SUFFIXES


def image_part(sample: Sample) -> Part | None:
    """The sample's image: `key.jpg` rather than `key.mask.png`, else the first in the archive."""
    images = [part for part in sample.parts if _is_image(part.name)]
    return min(images, key=lambda part: part.name.count("."), default=None)


def group_by_key(members: Sequence[Member]) -> list[Sample]:
    """Members -> samples in order of first appearance; the n-th `key.ext` belongs to the n-th sample of that key."""
    samples: dict[str, list[Part]] = {}
    seen: dict[tuple[str, str], int] = {}
    for member in members:
        key, part_name = split_key(member.name)
        if not key:
            continue
        seen[key, part_name] = repeat = seen.get((key, part_name), 0) + 1
        samples.setdefault(key if repeat == 1 else f"{key}~{repeat}", []).append(
            Part(part_name, member.offset, member.size)
        )
    return [Sample(row, key, tuple(parts)) for row, (key, parts) in enumerate(samples.items())]


def split_key(name: str) -> tuple[str, str]:
    """`a/b.c.jpg` -> (`a/b`, `c.jpg`); files without a suffix and hidden files have no key."""
    folder, _, base = name.removeprefix("./").rpartition("/")
    stem, _, suffix = base.partition(".")
    if not stem or not suffix:
        return "", ""
    return (f"{folder}/{stem}" if folder else stem), suffix.lower()


def _drop_incomplete(samples: list[Sample], last: Member) -> tuple[list[Sample], str | None]:
    """Drop the sample the cut ran through, unless it already has every member the first sample has."""
    suspect = next(s for s in samples if any(part.offset == last.offset for part in s.parts) or s is samples[-1])
    expected = {part.name for part in samples[0].parts}
    if suspect is not samples[0] and expected <= {part.name for part in suspect.parts}:
        return samples, None
    kept = [sample for sample in samples if sample is not suspect]
    return [Sample(row, sample.key, sample.parts) for row, sample in enumerate(kept)], suspect.key


def iter_members(stream: IO[bytes]) -> Iterator[Member]:
    """Regular files of a tar in archive order; raises CutArchive when the end marker is missing."""
    overrides: dict[str, str] = {}  # from pax and GNU headers, for the next member only
    global_overrides: dict[str, str] = {}
    position = 0
    while True:
        block = _read_exactly(stream, _BLOCK, position)
        if block.count(0) == _BLOCK:
            return
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        position += _BLOCK
        if header.type in _HEADER_TYPES:
            if header.size > _MAX_HEADER_BYTES:
                raise ValueError(f"a tar header at byte {position} claims {header.size} bytes")
            payload = _read_exactly(stream, _padded(header.size), position)[: header.size]
            position += _padded(header.size)
            if header.type == b"L":
                overrides["path"] = payload.rstrip(b"\0").decode("utf-8", "surrogateescape")
            elif header.type in b"xg":
                (overrides if header.type == b"x" else global_overrides).update(_pax_records(payload))
            continue
        known = global_overrides | overrides
        size = int(known.get("size", header.size))
        if header.isreg():
            _skip(stream, _padded(size), position)
            name = known.get("path", header.name)
            yield Member(name.encode("utf-8", "surrogateescape").decode("utf-8", "replace"), position, size)
        elif header.size:
            _skip(stream, _padded(size), position)
        position += _padded(size) if header.isreg() or header.size else 0
        overrides = {}


def _pax_records(payload: bytes) -> dict[str, str]:
    records: dict[str, str] = {}
    position = 0
    while position < len(payload) and payload[position : position + 1] != b"\0":
        space = payload.index(b" ", position)
        length = int(payload[position:space])
        if length < 5:
            raise ValueError("malformed pax header")
        keyword, _, value = payload[space + 1 : position + length - 1].partition(b"=")
        records[keyword.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        position += length
    return records


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _read_exactly(stream: IO[bytes], size: int, position: int) -> bytes:
    data = stream.read(size)
    while len(data) < size:
        more = stream.read(size - len(data))
        if not more:
            raise CutArchive(f"the archive ends at byte {position + len(data)} without an end marker")
        data += more
    return data


def _skip(stream: IO[bytes], size: int, position: int) -> None:
    """Move over a member's bytes, making sure that they exist."""
    if size == 0:
        return
    if stream.seekable():
        stream.seek(position + size - 1)
        _read_exactly(stream, 1, position + size - 1)
        return
    while size > 0:
        step = min(size, 1 << 20)
        _read_exactly(stream, step, position)
        size, position = size - step, position + step


class _Decompressed:
    """A forward-only stream: seeking is reading, which the callers do knowingly."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw

    def read(self, size: int) -> bytes:
        return self._raw.read(size)

    def seekable(self) -> bool:
        return False

    def __enter__(self) -> "_Decompressed":
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()


def _open_stream(url: str) -> Any:
    fs, inner = resolve(url)
    raw = fs.open(inner, "rb")
    if url.endswith((".gz", ".tgz")):
        return _Decompressed(gzip.GzipFile(fileobj=raw))  # type: ignore[arg-type]
    if url.endswith(".zst"):
        try:
            import zstandard
        except ImportError:
            raise ValueError("reading .zst shards needs the zstd extra: pip install deed-pipeline[zstd]") from None
        return _Decompressed(zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True))
    return raw


def _read_ranges(url: str, parts: Sequence[Part]) -> dict[Part, bytes]:
    """The bytes of each part, fetched with few requests: parts that are close to each other share one."""
    fs, inner = resolve(url)
    runs: list[tuple[int, int, list[Part]]] = []
    for part in sorted(parts, key=lambda p: p.offset):
        end = part.offset + part.size
        if runs and part.offset - runs[-1][1] <= _MERGE_GAP_BYTES:
            start, last_end, together = runs[-1]
            runs[-1] = (start, max(end, last_end), [*together, part])
        else:
            runs.append((part.offset, end, [part]))
    blobs: dict[Part, bytes] = {}
    for start, end, together in runs:
        data = fs.cat_file(inner, start=start, end=end) if end > start else b""
        if len(data) < end - start:
            raise OSError(f"{url} gave {len(data)} of {end - start} bytes at {start}")
        for part in together:
            blobs[part] = bytes(data[part.offset - start : part.offset - start + part.size])
    return blobs


def _read_stream(
    url: str, samples: Sequence[Sample], needed: dict[int, tuple[Part, ...]]
) -> Iterator[tuple[Sample, dict[str, bytes]]]:
    """Samples in order from a stream that is read once; holds a sample only until the ones before it are complete."""
    wanted = sorted(((part, row) for row, parts in needed.items() for part in parts), key=lambda pair: pair[0].offset)
    missing = {row: len(parts) for row, parts in needed.items()}
    data: dict[int, dict[str, bytes]] = {sample.row: {} for sample in samples}
    waiting = iter(samples)
    head = next(waiting, None)
    position = 0
    with _open_stream(url) as stream:
        for part, row in wanted:
            _skip(stream, part.offset - position, position)
            data[row][part.name] = _read_exactly(stream, part.size, part.offset)
            position = part.offset + part.size
            missing[row] -= 1
            while head is not None and missing[head.row] == 0:
                yield head, data.pop(head.row)
                head = next(waiting, None)
    while head is not None:
        yield head, data.pop(head.row)
        head = next(waiting, None)
