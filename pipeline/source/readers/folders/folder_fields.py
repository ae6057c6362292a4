"""What stands beside the images of a folder and gives them fields: records of metadata files, and sidecars.

A record names its image by `file_name`, relative to the folder of the metadata file. Where no file has just this name,
one that differs in the kind of slash or in the Unicode normal form alone is meant.
"""

import posixpath
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from conf.source import RetryConfig
from pipeline.source.file_systems import resolve
from pipeline.source.plan import ByteRange, LeftOut, Part, Place, Sample, Shard
from pipeline.source.readers.file_kinds import suffix_of
from pipeline.source.readers.folders.folder_files import METADATA_NAMES, SIDECAR_SUFFIXES
from pipeline.source.readers.reader import read_failures
from pipeline.source.readers.tables.json_values import parse_json
from pipeline.source.readers.tables.records import BadRecord, places, read_records
from pipeline.source.retrying import retry
from pipeline.text import original, storable

FILE_NAME_COLUMN = "file_name"
_EXAMPLES = 5


def is_metadata(name: str) -> bool:
    return posixpath.basename(name) in METADATA_NAMES


def metadata_urls(shard: Shard) -> list[str]:
    """Return the metadata files that speak of the shard's images."""
    return [f"{shard.url.rstrip('/')}/{name}" for name in shard.beside if is_metadata(name)]


def find_records(shard: Shard, patience: RetryConfig, broken: Callable[[str, Exception], None]) -> dict[str, Part]:
    """image -> its record in a metadata file; the nearest file above the image counts.

    `broken` is told of metadata that cannot be read.
    """
    records: dict[str, Part] = {}
    files = [name for name in shard.beside if is_metadata(name)]
    for name in sorted(files, key=lambda name: -name.count("/")):
        folder = posixpath.dirname(name)
        left = [image for image in shard.members if image not in records and _is_below(image, folder)]
        try:
            listed = _list_records(f"{shard.url.rstrip('/')}/{name}", patience)
        except Exception as error:  # storage and decompressor errors have no common base class
            broken(name, error)
            continue
        for image, row in listed.find([posixpath.relpath(image, folder or ".") for image in left], left):
            records[image] = Part(storable(name), listed.place(row))
    return records


def records_of_no_image(
    url: str, metadata: Iterable[str], images: Iterable[str], patience: RetryConfig
) -> list[LeftOut]:
    """Records of the metadata files of a folder that name none of its images, or cannot be parsed."""
    found: list[LeftOut] = []
    for name in metadata:
        folder = posixpath.dirname(name)
        try:
            listed = _list_records(f"{url.rstrip('/')}/{name}", patience)
        except Exception:  # the index of each shard says so, as a problem
            continue
        below = [posixpath.relpath(image, folder or ".") for image in images if _is_below(image, folder)]
        known = pa.array([*map(storable, below), *map(_loosely, below)], pa.string())
        lost = pc.invert(pc.or_(pc.is_in(listed.images, known), pc.is_in(listed.loosely, known)))
        names = listed.images.filter(lost)
        if len(names):
            found.append(LeftOut("metadata_records_of_no_image", len(names), tuple(names[:_EXAMPLES].to_pylist())))
        if listed.num_bad:
            found.append(LeftOut("bad_metadata_records", listed.num_bad, (storable(name),)))
    return found


def _is_below(image: str, folder: str) -> bool:
    return not folder or image.startswith(f"{folder}/")


@dataclass(frozen=True)
class _Records:
    """Which image each record is about, and where the record is; compact, because a folder may have millions."""

    images: pa.Array  # as the record says, storable
    loosely: pa.Array
    kind: type[Place]
    begins: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    num_bad: int

    def place(self, row: int) -> Place:
        return self.kind(int(self.begins[row]), int(self.sizes[row]))

    def find(self, names: Sequence[str], images: Sequence[str]) -> Iterable[tuple[str, int]]:
        """(image, row) for each of the images that has a record, looked for by its name."""
        rows = pc.index_in(pa.array(map(storable, names), pa.string()), self.images).to_pylist()
        taken = {row for row in rows if row is not None}
        loose = pc.index_in(pa.array(map(_loosely, names), pa.string()), self.loosely).to_pylist()
        for image, row, other in zip(images, rows, loose, strict=True):
            if row is not None:
                yield image, row
            elif other is not None and other not in taken:
                yield image, other


def _loosely(name: str) -> str:
    return storable(unicodedata.normalize("NFC", posixpath.normpath(name.replace("\\", "/"))))


@lru_cache(maxsize=4)  # the shards of a folder follow each other: each process goes through a file once
def _list_records_of(url: str, size_bytes: int, patience: RetryConfig) -> _Records:
    """Later records first, so that the last one about an image is the one that is found."""
    num_bad = 0

    def go_through() -> list[tuple[str, Place]]:
        nonlocal num_bad
        found, named = list(places(url)), list[tuple[str, Place]]()
        num_bad = 0
        for place, record in zip(found, read_records(url, found, [FILE_NAME_COLUMN]), strict=True):
            if isinstance(record, BadRecord) or not isinstance(record.get(FILE_NAME_COLUMN), str):
                num_bad += 1
            else:  # a name that UTF-8 cannot hold may be written as this project writes it
                named.append((original(record[FILE_NAME_COLUMN]), place))
        return named

    listed = retry(go_through, f"reading {storable(url)}", patience)[::-1]
    return _Records(
        pa.array([storable(posixpath.normpath(name)) for name, _ in listed], pa.string()),
        pa.array([_loosely(name) for name, _ in listed], pa.string()),
        type(listed[0][1]) if listed else ByteRange,
        np.array([place.begin for _, place in listed], np.int64),
        np.array([place.size for _, place in listed], np.int64),
        num_bad,
    )


def _list_records(url: str, patience: RetryConfig) -> _Records:
    fs, inner = resolve(url)
    info = retry(partial(fs.info, inner), f"looking for {storable(url)}", patience)
    return _list_records_of(url, int(info.get("size") or 0), patience)


def read_metadata(shard: Shard, samples: Sequence[Sample]) -> dict[int, Any]:
    """Row -> its record, a dict or a BadRecord, for the samples that have one."""
    wanted: dict[str, list[tuple[Place, int]]] = {}
    for sample in samples:
        for part in sample.parts:
            if part.place is not None:
                wanted.setdefault(part.name, []).append((part.place, sample.row))
    read: dict[int, Any] = {}
    for name, have in wanted.items():
        have.sort(key=lambda pair: pair[0].begin)
        url = f"{shard.url.rstrip('/')}/{original(name)}"
        with read_failures(f"{storable(url)}: "):
            records = list(read_records(url, [place for place, _ in have]))
        read.update({row: record for (_, row), record in zip(have, records, strict=True)})
    return read


def sidecars_of(sample: Sample) -> list[str]:
    return [part.name for part in sample.parts if part.place is None]


def fields_of_sidecars(contents: Mapping[str, bytes]) -> dict[str, Any]:
    """Name -> bytes, the one that counts most last: the keys of JSON objects, and texts by their suffix. BadJson if one
    cannot be parsed."""
    fields: dict[str, Any] = {}
    texts: dict[str, str] = {}
    for name, data in contents.items():
        suffix = suffix_of(name)
        assert suffix in SIDECAR_SUFFIXES
        if suffix == "json":
            value = parse_json(data)
            fields.update(value if isinstance(value, dict) else {"json": value})
        else:
            texts[suffix] = data.decode("utf-8-sig", "replace")
    return {**texts, **fields}
