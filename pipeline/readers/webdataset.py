"""WebDataset tar shards (plain, .gz, .zst): members grouped by key, byte ranges read per chunk.

A shard is listed once by hopping over its headers. A sample is every member with the same key (the path up to the
first dot of the file name), wherever in the archive they are. If `key.jpg` occurs twice, the second one starts a second
sample, `key~2`, or the next number that no file has. An archive without its end marker was cut: complete samples are
kept, the cut is one ShardProblem.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from conf.schema import RetryConfig
from pipeline.plan import Contents, Listing, Part, Sample, Shard, ShardIndex, ShardProblem, find_files, name_shards
from pipeline.readers import RawSample, ReadFailure
from pipeline.readers.kinds import IMAGE_SUFFIXES
from pipeline.readers.tar import CutArchive, Member, is_compressed, iter_members, open_stream, read_parts
from pipeline.retrying import USUAL_PATIENCE, retry


@dataclass(frozen=True)
class WebDatasetReader:
    """Reads WebDataset shards; `wants_fields` says whether JSON and text members are needed beside the image."""

    paths: tuple[str, ...]
    wants_fields: bool = True
    patience: RetryConfig = USUAL_PATIENCE
    max_bytes: int = 500_000_000

    def shards(self, known: Iterable[Shard]) -> Listing:
        files = find_files(self.paths, self.patience)
        names = name_shards([url for url, _ in files], {shard.url: shard.name for shard in known})
        return Listing(tuple(Shard(names[url], url, size) for url, size in files))

    def field_types(self, shards: Sequence[Shard]) -> dict[str, pa.DataType]:
        return {}

    def spans(self, shard: Shard, index: ShardIndex, todo: Sequence[int]) -> list[list[int]]:
        return [list(todo)] if is_compressed(shard.url) else [[chunk_index] for chunk_index in todo]

    def index(self, shard: Shard) -> Contents:
        members: list[Member] = []
        problem: ShardProblem | None = None
        cut = False

        def list_members() -> None:
            members.clear()
            with open_stream(shard.url) as stream:
                for member in iter_members(stream):  # one by one: what comes before a cut is kept
                    members.append(member)

        try:
            retry(list_members, f"listing {shard.url}", self.patience)
        except (CutArchive, EOFError) as error:
            cut = True
            problem = ShardProblem("truncated_shard", f"{shard.name}: {error or 'compressed data ends early'}")
        except Exception as error:  # storage back ends and decompressors have no common base class
            cut = bool(members)
            problem = ShardProblem("unreadable_shard", f"{shard.name}: {type(error).__name__}: {error}")
        samples = group_by_key(members)
        if problem is None:
            return Contents(tuple(samples))
        if cut and samples:
            samples, dropped = _drop_incomplete(samples, members[-1])
            kept = f"{len(samples)} complete samples kept"
            detail = f"{kept}, incomplete sample {dropped!r} dropped" if dropped else kept
            problem = ShardProblem(problem.error_type, f"{problem.message} ({detail})")
        return Contents(tuple(samples), (problem,))

    def read(self, shard: Shard, samples: Sequence[Sample]) -> Iterator[RawSample]:
        try:
            for sample, data in _collect(shard.url, samples, [self._needed_parts(sample) for sample in samples]):
                yield self._assemble(shard, sample, data)
        except Exception as error:  # storage and decompressor errors have no common base class
            raise ReadFailure(f"{type(error).__name__}: {error}") from error

    def _needed_parts(self, sample: Sample) -> tuple[Part, ...]:
        image = image_part(sample)
        wanted = (part for part in sample.parts if part == image or (self.wants_fields and not _is_image(part.name)))
        return tuple(part for part in wanted if part.size <= self.max_bytes)

    def _assemble(self, shard: Shard, sample: Sample, data: dict[str, bytes]) -> RawSample:
        image = image_part(sample)
        if image is None:
            names = ", ".join("." + part.name for part in sample.parts)
            return RawSample(
                sample, None, {}, "no_image", f"{shard.name}/{sample.key} has no image member, only {names}"
            )
        if image.name not in data:
            size = f"{image.size} bytes are more than source.max_bytes={self.max_bytes}"
            return RawSample(sample, None, {}, "too_large", f"{shard.name}/{sample.key}.{image.name}: {size}")
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


def _is_image(part_name: str) -> bool:
    return part_name.rsplit(".", 1)[-1].lower() in IMAGE_SUFFIXES


def image_part(sample: Sample) -> Part | None:
    """The sample's image: `key.jpg` rather than `key.mask.png`, else the first in the archive."""
    images = [part for part in sample.parts if _is_image(part.name)]
    return min(images, key=lambda part: part.name.count("."), default=None)


def group_by_key(members: Sequence[Member]) -> list[Sample]:
    """Members -> samples in order of first appearance; the n-th `key.ext` belongs to the n-th sample of that key."""
    samples: dict[tuple[str, int], list[Part]] = {}
    seen: dict[tuple[str, str], int] = {}
    for member in members:
        key, part_name = split_key(member.name)
        if not key:
            continue
        seen[key, part_name] = repeat = seen.get((key, part_name), 0) + 1
        samples.setdefault((key, repeat), []).append(Part(part_name, member.offset, member.size))
    taken = {key for key, _ in samples}
    names = [key if repeat == 1 else _free_name(key, repeat, taken) for key, repeat in samples]
    return [
        Sample(row, name, tuple(parts)) for row, (name, parts) in enumerate(zip(names, samples.values(), strict=True))
    ]


def _free_name(key: str, repeat: int, taken: set[str]) -> str:
    """`key~2` for the second sample of a key, or the next number, where the archive has a file called `key~2.jpg`."""
    while f"{key}~{repeat}" in taken:
        repeat += 1
    taken.add(f"{key}~{repeat}")
    return f"{key}~{repeat}"


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


def _collect(
    url: str, samples: Sequence[Sample], needed: Sequence[tuple[Part, ...]]
) -> Iterator[tuple[Sample, dict[str, bytes]]]:
    """Samples in order, parts in the order of the archive; a sample is held until the ones before it are complete."""
    wanted = sorted(((part, n) for n, parts in enumerate(needed) for part in parts), key=lambda pair: pair[0].offset)
    missing = [len(parts) for parts in needed]
    data: list[dict[str, bytes]] = [{} for _ in samples]
    head = 0
    for (part, n), content in zip(wanted, read_parts(url, [part for part, _ in wanted]), strict=True):
        data[n][part.name] = content
        missing[n] -= 1
        while head < len(samples) and not missing[head]:
            yield samples[head], data[head]
            data[head] = {}
            head += 1
    for n in range(head, len(samples)):
        yield samples[n], data[n]
