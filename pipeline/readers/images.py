"""Folders of image files, recursively: a sample's key is its path inside the folder.

The sorted file list is cut into shards of a fixed number of files, so that a million loose files are published in
pieces. The list is taken once, when the run starts. A file metadata.jsonl, .csv or .parquet at the top of the folder
gives fields to the images named in its column `file_name`.
"""

import posixpath
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from conf.errors import UserError
from conf.schema import RetryConfig
from pipeline.plan import (
    MISSING_SHARD,
    Contents,
    Listing,
    Part,
    Sample,
    Shard,
    ShardIndex,
    ShardProblem,
    name_shards,
    resolve,
    unresolve,
)
from pipeline.readers import RawSample, ReadFailure, not_recorded
from pipeline.readers.files import TooLarge, read_file
from pipeline.readers.kinds import IMAGE_SUFFIXES
from pipeline.readers.records import BadRecord, places, read_records, schemas_of
from pipeline.retrying import USUAL_PATIENCE, Exhausted, Patient, retry
from pipeline.source_types import common_types

FILES_PER_SHARD = 10_000
FILE_NAME_COLUMN = "file_name"
_METADATA_NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_READ_THREADS = 8


@dataclass(frozen=True)
class ImageFolderReader:
    """Reads every image file below the given folders; `wants_fields` says whether their metadata are needed."""

    paths: tuple[str, ...]
    wants_fields: bool = False
    patience: RetryConfig = USUAL_PATIENCE
    max_bytes: int = 500_000_000

    def shards(self, known: Collection[Shard]) -> Listing:
        shards: list[Shard] = []
        folders: dict[str, list[tuple[str, int]]] = {}
        for path in self.paths:
            fs, inner = resolve(path)
            root = inner.rstrip("/")
            try:
                found = retry(partial(fs.find, root, detail=True), f"listing {path}", self.patience)
            except Exhausted as error:
                raise UserError(f"cannot list {path!r}: {error}") from None
            except Exception as error:  # each storage back end has its own exceptions
                raise UserError(f"cannot list {path!r}: {type(error).__name__}: {error}") from None
            if not found and any(shard.url == unresolve(fs, root) for shard in known):
                continue  # gone, or emptied, since an earlier run planned its files
            if not found and not fs.isdir(inner):
                raise UserError(f"image folder not found: {path!r}")
            files = [(posixpath.relpath(name, root), int(info.get("size") or 0)) for name, info in found.items()]
            images = sorted(pair for pair in files if pair[0].rsplit(".", 1)[-1].lower() in IMAGE_SUFFIXES)
            if not images:
                raise UserError(f"no image files below {path!r}")
            folders[unresolve(fs, root)] = images
        if not folders:
            raise UserError(f"nothing is left in the image folders {', '.join(self.paths)}")
        names = name_shards(folders, {})
        for folder, images in sorted(folders.items()):
            for number, first in enumerate(range(0, len(images), FILES_PER_SHARD)):
                group = images[first : first + FILES_PER_SHARD]
                name = names[folder] if len(images) <= FILES_PER_SHARD else f"{names[folder]}-{number:05d}"
                members = tuple(member for member, _ in group)
                shards.append(Shard(name, folder, sum(size for _, size in group), members))
        return Listing(tuple(shards))

    def field_types(self, shards: Sequence[Shard]) -> dict[str, pa.DataType]:
        if not self.wants_fields:
            return {}
        return common_types(schemas_of((_metadata_url(shard) for shard in shards), self.patience))

    def spans(self, shard: Shard, index: ShardIndex, todo: Sequence[int]) -> list[list[int]]:
        return [[chunk_index] for chunk_index in todo]

    def index(self, shard: Shard) -> Contents:
        if not shard.members:
            return Contents(problems=(not_recorded(shard),))
        records: dict[str, Part] = {}
        problems: list[ShardProblem] = []
        if self.wants_fields:
            try:
                records = _find_metadata(shard, self.patience)
            except Exception as error:  # storage and decompressor errors have no common base class
                message = f"{shard.name}: its metadata cannot be read: {type(error).__name__}: {error}"
                problems.append(ShardProblem("unreadable_metadata", message))
        samples = (
            Sample(row, name, (Part(name, 0, -1), *((records[name],) if name in records else ())))
            for row, name in enumerate(shard.members)
        )
        return Contents(tuple(samples), tuple(problems))

    def read(self, shard: Shard, samples: Sequence[Sample]) -> Iterator[RawSample]:
        fs, root = resolve(shard.url)
        fields, patient = _read_metadata(shard, samples), Patient(self.patience)

        def fetch(sample: Sample) -> RawSample:
            own, place = fields.get(sample.row, {}), f"{shard.url}/{sample.key}"
            if isinstance(own, BadRecord):
                return RawSample(sample, None, {}, "bad_record", f"{place}: its metadata: {own}")
            try:
                data = patient.retry(
                    partial(read_file, fs, f"{root.rstrip('/')}/{sample.key}", self.max_bytes), f"reading {place}"
                )
                return RawSample(sample, data, own)
            except FileNotFoundError:
                if fs.isdir(root):
                    return RawSample(sample, None, own, "missing_file", f"{place} is gone")
                return RawSample(sample, None, own, MISSING_SHARD, f"{place}: the whole folder is gone")
            except TooLarge as error:
                return RawSample(sample, None, own, "too_large", f"{place}: {error} (source.max_bytes)")
            except Exhausted as error:
                return RawSample(sample, None, own, "unreadable_file", f"{place}: {error}", error.attempts)
            except Exception as error:  # each storage back end has its own exceptions
                return RawSample(sample, None, own, "unreadable_file", f"{place}: {type(error).__name__}: {error}")

        with ThreadPoolExecutor(_READ_THREADS) as pool:
            for first in range(0, len(samples), _READ_THREADS):
                yield from pool.map(fetch, samples[first : first + _READ_THREADS])


def _metadata_url(shard: Shard) -> str | None:
    """The file that gives fields to the images of the folder; None if there is none."""
    fs, root = resolve(shard.url)
    there = (name for name in _METADATA_NAMES if fs.exists(f"{root}/{name}"))
    return next((f"{shard.url.rstrip('/')}/{name}" for name in there), None)


def _find_metadata(shard: Shard, patience: RetryConfig) -> dict[str, Part]:
    """image -> the place of its record, named after the metadata file; nothing if the folder has none."""
    fs, root = resolve(shard.url)
    for name in _METADATA_NAMES:
        url = f"{shard.url.rstrip('/')}/{name}"
        try:
            info = retry(partial(fs.info, f"{root}/{name}"), f"looking for {url}", patience)
        except FileNotFoundError:
            continue
        listed = _list_metadata(url, int(info.get("size") or 0), patience)
        rows = pc.index_in(pa.array(shard.members, pa.string()), listed.images).to_pylist()
        return {
            image: Part(name, int(listed.offsets[row]), int(listed.sizes[row]))
            for image, row in zip(shard.members, rows, strict=True)
            if row is not None
        }
    return {}


@dataclass(frozen=True)
class _Metadata:
    """Which image each record is about, and where the record is; compact, because a folder may have millions."""

    images: pa.Array
    offsets: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]


@lru_cache(maxsize=1)  # the shards of a folder follow each other: each process goes through the file once
def _list_metadata(url: str, size_bytes: int, patience: RetryConfig) -> _Metadata:
    """Later records first, so that the last one about an image is the one that is found."""

    def go_through() -> list[tuple[str, Part]]:
        found = list(places(url))
        records = zip(found, read_records(url, found, [FILE_NAME_COLUMN]), strict=True)
        return [
            (posixpath.normpath(record[FILE_NAME_COLUMN]), place)
            for place, record in records
            if not isinstance(record, BadRecord) and isinstance(record.get(FILE_NAME_COLUMN), str)
        ]

    listed = retry(go_through, f"reading {url}", patience)[::-1]
    return _Metadata(
        pa.array([name for name, _ in listed], pa.string()),
        np.array([place.offset for _, place in listed], np.int64),
        np.array([place.size for _, place in listed], np.int64),
    )


def _read_metadata(shard: Shard, samples: Sequence[Sample]) -> dict[int, Any]:
    """Row -> its record, for the samples that have one."""
    have = [(sample.parts[1], sample.row) for sample in samples if len(sample.parts) > 1]
    have.sort(key=lambda pair: pair[0].offset)
    if not have:
        return {}
    url = f"{shard.url.rstrip('/')}/{have[0][0].name}"
    places_in_order = [part for part, _ in have]
    try:
        records = list(read_records(url, places_in_order))
    except Exception as error:  # storage and decompressor errors have no common base class
        raise ReadFailure(f"{url}: {type(error).__name__}: {error}") from error
    return {row: record for (_, row), record in zip(have, records, strict=True)}
