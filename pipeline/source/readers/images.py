"""Folders of image files, recursively: a sample's key is its path inside the folder.

The sorted file list is cut into shards of a fixed number of files, so that a million loose files are published in
pieces. The list is taken when a run starts; files that an earlier run has planned stay in its shards, and files that
have come since make shards of their own. What stands beside the images gives them fields (folder_fields).
"""

import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa

from conf.errors import UserError
from conf.source import RetryConfig
from pipeline.source.file_systems import is_local, resolve, unresolve
from pipeline.source.left_out import sentence
from pipeline.source.plan import (
    MISSING_SHARD,
    Contents,
    LeftOut,
    Listing,
    Part,
    Sample,
    Shard,
    ShardProblem,
    sum_left_out,
)
from pipeline.source.readers.fetching.files import NotAFile, TooLarge, read_file, read_plain
from pipeline.source.readers.file_kinds import suffix_of
from pipeline.source.readers.folders.folder_fields import (
    fields_of_sidecars,
    find_records,
    is_metadata,
    metadata_urls,
    read_metadata,
    records_of_no_image,
    sidecars_of,
)
from pipeline.source.readers.folders.folder_files import Companions, FolderFiles, list_folder
from pipeline.source.readers.folders.folder_shards import changed_files, cut_folders, follow
from pipeline.source.readers.reader import FirstFields, RawSample, not_recorded
from pipeline.source.readers.source_files import cannot_list
from pipeline.source.readers.tables.json_values import MAX_JSON_BYTES, BadJson
from pipeline.source.readers.tables.records import BadRecord, schemas_of
from pipeline.source.retrying import USUAL_PATIENCE, Exhausted, Patient, is_passing
from pipeline.source.shard_index import ShardIndex
from pipeline.source.source_types import common_types
from pipeline.text import original, storable

_READ_THREADS = 8


@dataclass(frozen=True)
class ImageFolderReader:
    """Reads every image file below the given folders; `fields`: what is wanted of that beside them, "*" for all."""

    paths: tuple[str, ...]
    fields: tuple[str, ...] = ()
    patience: RetryConfig = USUAL_PATIENCE
    max_bytes: int = 500_000_000

    def shards(self, known: Collection[Shard]) -> Listing:
        folders: dict[str, FolderFiles] = {}
        for path in self.paths:
            url, files = self._list(path, {shard.url for shard in known})
            if files is not None:
                folders[url] = files
        if not folders:
            raise UserError(f"nothing is left in the image folders {', '.join(map(storable, self.paths))}")
        known = follow(known, folders)
        shards = cut_folders(folders, known)
        left_out: list[LeftOut] = []
        changed: list[LeftOut] = []
        for url, files in folders.items():
            changed.extend(changed_files(files, [shard for shard in known if shard.url == url]))
            left_out.extend(files.left_out)
            if self.fields:
                left_out.extend(records_of_no_image(url, files.beside.metadata, files.images, self.patience))
                shards = [self._with_companions(shard, files) if shard.url == url else shard for shard in shards]
        return Listing(tuple(shards), sum_left_out(left_out), sum_left_out(changed))

    def _with_companions(self, shard: Shard, files: FolderFiles) -> Shard:
        return replace(shard, beside=tuple(filter(self._wants, files.beside.of(shard.members))))

    def _list(self, path: str, planned: set[str]) -> tuple[str, FolderFiles | None]:
        """Return a folder's URL and its files; None where a folder that an earlier run has planned is gone."""
        fs, inner = resolve(path)
        root = inner.rstrip("/")
        url, shown = unresolve(fs, root or "/"), storable(path)
        try:
            files = list_folder(fs, root or "/", url, self.patience)
        except FileNotFoundError:
            if url in planned:
                return url, None
            raise UserError(f"image folder not found: {shown!r}") from None
        except NotADirectoryError:
            raise UserError(f"{shown!r} is a file, not a folder of images") from None
        except Exception as error:  # each storage back end has its own exceptions
            raise cannot_list(path, error) from None
        if not files.images and url not in planned:
            said = sentence(files.left_out)
            raise UserError(f"no image files below {shown!r}" + (f"; {said}" if said else ""))
        return url, files

    def _wants(self, name: str) -> bool:
        suffix = suffix_of(name)
        return is_metadata(name) or suffix == "json" or suffix in self.fields or "*" in self.fields

    def field_types(self, shards: Sequence[Shard]) -> dict[str, pa.DataType]:
        urls: list[str | None] = [url for shard in shards for url in metadata_urls(shard)]
        if any(suffix_of(name) == "json" and not is_metadata(name) for shard in shards for name in shard.beside):
            urls.append(None)  # sidecars may have fields of the same names, without types
        return common_types(schemas_of(urls, self.patience)) if self.fields else {}

    def first_fields(self, shard: Shard, most_rows: int, until_s: float) -> FirstFields:
        if not most_rows:
            return FirstFields(None, ())
        samples = self.index(shard).samples
        with_fields = [sample for sample in samples if sample.parts][:most_rows]
        without_images = replace(self, max_bytes=0)  # too large, all of them, which does not concern their fields
        rows: list[dict[str, Any]] = []
        for raw in without_images.read(shard, with_fields):
            rows.append(raw.fields)
            if time.monotonic() > until_s:
                break
        return FirstFields(None, tuple(rows) or ({},) * min(most_rows, len(samples)))

    def spans(self, shard: Shard, index: ShardIndex, todo: Sequence[int]) -> list[list[int]]:
        return [[chunk_index] for chunk_index in todo]

    def with_patience(self, patience: RetryConfig) -> "ImageFolderReader":
        return replace(self, patience=patience)

    def index(self, shard: Shard) -> Contents:
        if not shard.members:
            return Contents(problems=(not_recorded(shard),))
        problems: list[ShardProblem] = []

        def broken(name: str, error: Exception) -> None:
            message = f"{shard.name}: {storable(name)} cannot be read: {type(error).__name__}: {error}"
            problems.append(ShardProblem("unreadable_metadata", message, is_passing(error)))

        records = find_records(shard, self.patience, broken) if self.fields else {}
        beside = Companions(shard.beside)
        samples: list[Sample] = []
        for row, name in enumerate(shard.members):
            record = (records[name],) if name in records else ()
            sidecars = (Part(storable(sidecar)) for sidecar in beside.sidecars_of(name))
            samples.append(Sample(row, storable(name), (*record, *sidecars)))
        return Contents(tuple(samples), tuple(problems))

    def read(self, shard: Shard, samples: Sequence[Sample]) -> Iterator[RawSample]:
        fs, root = resolve(shard.url)
        records, patient = read_metadata(shard, samples), Patient(self.patience)
        shown, is_plain = storable(shard.url), is_local(fs)

        def read_one(name: str, most: int) -> bytes:
            path = f"{root.rstrip('/')}/{original(name)}"
            call = partial(read_plain, path, most) if is_plain else partial(read_file, fs, path, most)
            return patient.retry(call, f"reading {shown}/{name}")

        def fetch(sample: Sample) -> RawSample:
            fields = records.get(sample.row, {})
            name, most = sample.key, MAX_JSON_BYTES

            def failed(error_type: str, why: str, attempts: int = 1) -> RawSample:
                return RawSample(sample, None, fields, error_type, f"{shown}/{name}{why}", attempts)

            if isinstance(fields, BadRecord):
                return RawSample(sample, None, {}, "bad_record", f"{shown}/{name}: its metadata: {fields}")
            try:
                sidecars: dict[str, bytes] = {}
                for name in sidecars_of(sample):
                    sidecars[name] = read_one(name, most)
                fields = {**fields, **fields_of_sidecars(sidecars)}
                name, most = sample.key, self.max_bytes
                return RawSample(sample, read_one(name, most), fields)
            except BadJson as error:
                return failed("bad_json", f": {error}")
            except FileNotFoundError:
                return (
                    failed("missing_file", " is gone")
                    if fs.isdir(root)
                    else failed(MISSING_SHARD, ": the whole folder is gone")
                )
            except TooLarge as error:
                return failed("too_large", f": {error}" + (" (source.max_bytes)" if name == sample.key else ""))
            except NotAFile as error:
                return failed("not_a_file", f": {error}")
            except Exhausted as error:
                return failed("unreadable_file", f": {error}", error.attempts)
            except Exception as error:  # each storage back end has its own exceptions
                return failed("unreadable_file", f": {type(error).__name__}: {error}")

        with ThreadPoolExecutor(_READ_THREADS) as pool:
            for first in range(0, len(samples), _READ_THREADS):
                yield from pool.map(fetch, samples[first : first + _READ_THREADS])
