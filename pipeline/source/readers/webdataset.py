"""WebDataset tar shards, compressed or not: members grouped by key (keys.py), byte ranges read per chunk.

A shard is listed once by hopping over its headers. A sample is every member with the same key, wherever in the archive
they are. An archive without its end marker was cut: complete samples are kept, the cut is one ShardProblem.
"""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from conf.source import RetryConfig
from pipeline.source.plan import Contents, Listing, Part, Role, Sample, Shard, ShardProblem
from pipeline.source.readers.byte_ranges import is_compressed, open_stream, read_ranges
from pipeline.source.readers.file_kinds import is_image_name
from pipeline.source.readers.keys import (
    Grouped,
    group_by_key,
    image_part,
    is_image_suffix,
    split_key,
    wants_head,
)
from pipeline.source.readers.reader import FirstFields, RawSample, read_failures, unreadable
from pipeline.source.readers.source_files import list_shards
from pipeline.source.readers.tables.json_values import MAX_JSON_BYTES, BadJson, parse_json
from pipeline.source.readers.tar import CutArchive, Member, follow_links, iter_members
from pipeline.source.readers.unchanged import unless_changed
from pipeline.source.retrying import USUAL_PATIENCE, retry
from pipeline.source.shard_index import ShardIndex

_LOST = {
    Role.BROKEN_LINK: "a link to a file that the archive does not hold",
    Role.SPARSE_FILE: "stored as a sparse file, in pieces; write the archive without --sparse",
}


@dataclass(frozen=True)
class WebDatasetReader:
    """Reads WebDataset shards; `fields` are wanted beside the image, of JSON and text members, "*" for all.

    `image_suffix`: which image of a key is wanted, the first that it has; none: see pipeline.source.readers.keys.
    """

    paths: tuple[str, ...]
    fields: tuple[str, ...] = ("*",)
    patience: RetryConfig = USUAL_PATIENCE
    max_bytes: int = 500_000_000
    image_suffix: tuple[str, ...] = ()

    def shards(self, known: Collection[Shard]) -> Listing:
        return list_shards(self.paths, self.patience, "webdataset", known)

    def field_types(self, shards: Sequence[Shard]) -> dict[str, pa.DataType]:
        return {}

    def first_fields(self, shard: Shard, most_rows: int, until_s: float) -> FirstFields:
        members, says_all = _first_members(shard, most_rows, until_s)
        samples = group_by_key(follow_links(members), self.image_suffix).samples[:most_rows]
        beside = [[part for part in self._needed_parts(s) if part != image_part(s)] for s in samples]
        rows: list[dict[str, Any]] = []
        for sample, data in _collect(shard, samples, beside):
            image = image_part(sample)
            if image is not None:
                rows.append(self._checked(shard, sample, {**data, image: b""}).fields)
        return FirstFields(None, tuple(rows), says_all)

    def spans(self, shard: Shard, index: ShardIndex, todo: Sequence[int]) -> list[list[int]]:
        try:
            together = is_compressed(shard)
        except Exception:  # storage fails just now: each chunk will wait for it
            together = False
        return [list(todo)] if together else [[chunk_index] for chunk_index in todo]

    def with_patience(self, patience: RetryConfig) -> "WebDatasetReader":
        return replace(self, patience=patience)

    def index(self, shard: Shard) -> Contents:
        return unless_changed(shard, self._index(shard), self.patience)

    def _index(self, shard: Shard) -> Contents:
        members: list[Member] = []
        problem: ShardProblem | None = None
        cut = False

        def list_members() -> None:
            members.clear()
            with open_stream(shard.url) as stream:
                members.extend(iter_members(stream, wants_head))  # one by one: what comes before a cut is kept

        try:
            retry(list_members, f"listing {shard.url}", self.patience)
        except (CutArchive, EOFError) as error:
            cut = True
            problem = ShardProblem("truncated_shard", f"{shard.name}: {error or 'compressed data ends early'}")
        except Exception as error:  # storage back ends and decompressors have no common base class
            cut = bool(members)
            problem = unreadable(shard, error)
        grouped = group_by_key(follow_links(members), self.image_suffix)
        if problem is None:
            return Contents(grouped.samples, (), grouped.left_out)
        samples = grouped.samples
        if cut and samples:
            samples, dropped = _drop_incomplete(grouped)
            kept = f"{len(samples)} complete samples kept"
            detail = f"{kept}, incomplete sample {dropped[0]!r} dropped" if dropped else kept
            problem = replace(problem, message=f"{problem.message} ({detail})")
        return Contents(samples, (problem,), grouped.left_out)

    def read(self, shard: Shard, samples: Sequence[Sample]) -> Iterator[RawSample]:
        with read_failures():
            for sample, data in _collect(shard, samples, [self._needed_parts(sample) for sample in samples]):
                yield self._checked(shard, sample, data)

    def _needed_parts(self, sample: Sample) -> list[Part]:
        """Return the image and the members with fields that are asked for, unless something about one is wrong."""
        image = image_part(sample)
        return [
            part
            for part in sample.parts
            if (part == image or self._has_fields(part)) and self._problem(part, part == image) is None
        ]

    def _has_fields(self, part: Part) -> bool:
        suffix = part.name
        if not self.fields or is_image_suffix(suffix):
            return False
        if "*" in self.fields:
            return suffix == "json" or part.byte_range.size <= MAX_JSON_BYTES
        return suffix == "json" or suffix in self.fields

    def _problem(self, part: Part, is_image: bool) -> tuple[str, str] | None:
        """Return why a member is not read."""
        if part.role in _LOST:
            return part.role.value, _LOST[part.role]
        size = part.byte_range.size
        if size > (self.max_bytes if is_image else MAX_JSON_BYTES):
            most = f"source.max_bytes={self.max_bytes}" if is_image else f"the {MAX_JSON_BYTES} a sidecar may have"
            return "too_large", f"{size} bytes are more than {most}"
        return None

    def _checked(self, shard: Shard, sample: Sample, data: Mapping[Part, bytes]) -> RawSample:
        """What is wrong with one sample's members is about this sample alone."""
        try:
            return self._assemble(shard, sample, data)
        except Exception as error:
            message = f"{shard.name}/{sample.key}: {type(error).__name__}: {error}"
            return RawSample(sample, None, {}, "bad_record", message)

    def _assemble(self, shard: Shard, sample: Sample, data: Mapping[Part, bytes]) -> RawSample:
        name, image = f"{shard.name}/{sample.key}", image_part(sample)
        if image is None:
            names = ", ".join("." + part.name for part in sample.parts)
            wanted = f" that ends in {' or '.join(self.image_suffix)}" if self.image_suffix else ""
            return RawSample(sample, None, {}, "no_image", f"{name} has no image{wanted}, only {names}")
        own: dict[str, Any] = {}
        texts: dict[str, Any] = {}
        for part in sample.parts:
            suffix = part.name
            if part == image or self._has_fields(part):
                problem = self._problem(part, part == image)
                if problem is not None:
                    return RawSample(sample, None, {}, problem[0], f"{name}.{suffix}: {problem[1]}")
            if part == image or part not in data:
                continue
            if suffix != "json":
                texts[suffix] = data[part].decode("utf-8", errors="replace")
                continue
            try:
                value = parse_json(data[part])
            except BadJson as error:
                return RawSample(sample, None, {}, "bad_json", f"{name}.json: {error}")
            own.update(value if isinstance(value, dict) else {"json": value})
        return RawSample(sample, data[image], {**texts, **own})


def _first_members(shard: Shard, most_keys: int, until_s: float) -> tuple[list[Member], bool]:
    """The members of the first keys, and whether they say what the other keys have: they do where the members of a key
    lie together and some are no images, or where the archive was gone through to its end."""
    members: list[Member] = []
    keys: dict[str, None] = {}
    together, has_fields = True, False
    with open_stream(shard.url) as stream:
        for member in iter_members(stream, wants_head):
            key = split_key(member.name)[0]
            is_new = key not in keys
            together = together and (is_new or key == next(reversed(keys)))
            if is_new and len(keys) >= most_keys and together and has_fields:
                return members, True
            if time.monotonic() > until_s:
                return members, False
            keys[key] = None
            members.append(member)
            has_fields = has_fields or is_image_name(member.name) is not True
    return members, True


def _drop_incomplete(grouped: Grouped) -> tuple[tuple[Sample, ...], list[str]]:
    """Drop the samples the cut ran through, unless they already have every member the first sample has."""
    first = grouped.samples[0]
    expected = {(part.name, part.role) for part in first.parts}
    dropped = {
        sample.row
        for sample in (grouped.samples[row] for row in grouped.last)
        if sample is first or not expected <= {(part.name, part.role) for part in sample.parts}
    }
    kept = [sample for sample in grouped.samples if sample.row not in dropped]
    samples = tuple(replace(sample, row=row) for row, sample in enumerate(kept))
    return samples, [grouped.samples[row].key for row in sorted(dropped)]


def _collect(
    shard: Shard, samples: Sequence[Sample], needed: Sequence[Sequence[Part]]
) -> Iterator[tuple[Sample, dict[Part, bytes]]]:
    """Samples in order, parts in the order of the archive; a sample is held until the ones before it are complete."""
    pairs = ((part, n) for n, parts in enumerate(needed) for part in parts)
    wanted = sorted(pairs, key=lambda pair: pair[0].byte_range.begin)
    missing = [len(parts) for parts in needed]
    data: list[dict[Part, bytes]] = [{} for _ in samples]
    head = 0
    for (part, n), content in zip(wanted, read_ranges(shard, [part.byte_range for part, _ in wanted]), strict=True):
        data[n][part] = content
        missing[n] -= 1
        while head < len(samples) and not missing[head]:
            yield samples[head], data[head]
            data[head] = {}
            head += 1
    for n in range(head, len(samples)):
        yield samples[n], data[n]
