"""Folders of image files, recursively: a sample's key is its path inside the folder.

The sorted file list is cut into shards of a fixed number of files, so that a million loose files are published in
pieces. The list is taken once, when the run starts.
"""

import posixpath
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from conf.errors import UserError
from pipeline.plan import Part, Sample, Shard, ShardProblem, name_shards, resolve, unresolve
from pipeline.readers import RawSample
from pipeline.readers.webdataset import IMAGE_SUFFIXES

FILES_PER_SHARD = 10_000
_READ_THREADS = 8


@dataclass(frozen=True)
class ImageFolderReader:
    """Reads every image file below the given folders; other files are ignored."""

    paths: tuple[str, ...]

    def shards(self, known_names: dict[str, str]) -> list[Shard]:
        shards: list[Shard] = []
        folders: dict[str, list[tuple[str, int]]] = {}
        for path in self.paths:
            fs, inner = resolve(path)
            if not fs.isdir(inner):
                raise UserError(f"image folder not found: {path!r}")
            root = inner.rstrip("/")
            found = fs.find(root, detail=True)
            files = [(posixpath.relpath(name, root), int(info.get("size") or 0)) for name, info in found.items()]
            images = sorted(pair for pair in files if pair[0].rsplit(".", 1)[-1].lower() in IMAGE_SUFFIXES)
            if not images:
                raise UserError(f"no image files below {path!r}")
            folders[unresolve(fs, root)] = images
        names = name_shards(folders, {})
        for folder, images in sorted(folders.items()):
            for number, first in enumerate(range(0, len(images), FILES_PER_SHARD)):
                group = images[first : first + FILES_PER_SHARD]
                name = names[folder] if len(images) <= FILES_PER_SHARD else f"{names[folder]}-{number:05d}"
                members = tuple(member for member, _ in group)
                shards.append(Shard(name, folder, sum(size for _, size in group), members))
        return shards

    def random_access(self, shard: Shard) -> bool:
        return True

    def index(self, shard: Shard) -> tuple[list[Sample], list[ShardProblem]]:
        return [Sample(row, name, (Part(name, 0, -1),)) for row, name in enumerate(shard.members)], []

    def read(self, shard: Shard, samples: Sequence[Sample]) -> Iterator[RawSample]:
        fs, root = resolve(shard.url)

        def fetch(sample: Sample) -> RawSample:
            try:
                return RawSample(sample, bytes(fs.cat_file(f"{root.rstrip('/')}/{sample.key}")))
            except FileNotFoundError:
                return RawSample(sample, None, {}, "missing_file", f"{shard.url}/{sample.key} is gone")
            except Exception as error:  # each storage back end has its own exceptions
                message = f"{shard.url}/{sample.key}: {type(error).__name__}: {error}"
                return RawSample(sample, None, {}, "unreadable_file", message)

        with ThreadPoolExecutor(_READ_THREADS) as pool:
            for first in range(0, len(samples), _READ_THREADS):
                yield from pool.map(fetch, samples[first : first + _READ_THREADS])
