"""Folders of images cut into shards with lasting names: what was planned stays together, what is new comes behind."""

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from pipeline.plan import LeftOut, Shard, name_shards
from pipeline.readers.folder_files import FolderFiles
from pipeline.text import storable

FILES_PER_SHARD = 10_000
# Plans of older versions do not name their files; these are the suffixes whose files were in them.
_FORMER_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "ppm", "jp2"})


def cut_folders(folders: Mapping[str, FolderFiles], known: Collection[Shard]) -> list[Shard]:
    """The shards of the folders (by URL), in order of their names. Shards of `known` stay as they are, with the sizes
    that were planned, and files of theirs that are gone remain members. A known shard without members gives its folder
    no more than its name."""
    planned: dict[str, list[Shard]] = {}
    for shard in known:
        planned.setdefault(shard.url, []).append(shard)
    given = {url: container_of([shard.name for shard in own]) for url, own in planned.items()}
    names = name_shards(sorted(folders), {**{f"\0{shard.name}": shard.name for shard in known}, **given})
    taken = {*(shard.name for shard in known), *(names[url] for url in folders)}
    shards: list[Shard] = []
    for url, files in sorted(folders.items()):
        own = planned.get(url, [])
        own = [shard for shard in own if shard.members] or _as_before(own, names[url], files)
        covered = {member for shard in own for member in shard.members}
        new = [name for name in files.images if name not in covered]
        shards += own
        if len(new) <= FILES_PER_SHARD and not own:
            shards.append(_shard(names[url], url, new, files))
            continue
        numbers = itertools.count(len(own))
        for first in range(0, len(new), FILES_PER_SHARD):
            name = next(name for name in (f"{names[url]}-{n:05d}" for n in numbers) if name not in taken)
            taken.add(name)
            shards.append(_shard(name, url, new[first : first + FILES_PER_SHARD], files))
    return sorted(shards, key=lambda shard: shard.name)


def container_of(names: Sequence[str]) -> str:
    """The name of a folder by those of its shards: `photos` of `photos` and `photos-00001`, or of `photos-00000` and
    `photos-00001`."""
    shortest = min(names, key=lambda name: (len(name), name))
    if all(name == shortest or name.startswith(f"{shortest}-") for name in names):
        return shortest
    return shortest.rpartition("-")[0]


def _shard(name: str, url: str, members: Sequence[str], files: FolderFiles) -> Shard:
    return _shard_of(name, url, [(member, files.images[member]) for member in members])


def _shard_of(name: str, url: str, files: Sequence[tuple[str, int]]) -> Shard:
    sizes = tuple(size for _, size in files)
    return Shard(name, url, sum(sizes), tuple(member for member, _ in files), sizes=sizes)


def changed_files(files: FolderFiles, known: Iterable[Shard]) -> list[LeftOut]:
    """The folder's files that are there and have another size than when they were planned."""
    changed = [
        member
        for shard in known
        if len(shard.sizes) == len(shard.members)
        for member, size in zip(shard.members, shard.sizes, strict=True)
        if files.sizes.get(member, size) != size
    ]
    return [LeftOut("changed_files", len(changed), tuple(map(storable, changed[:5])))] if changed else []


def _as_before(own: Sequence[Shard], container: str, files: FolderFiles) -> list[Shard]:
    """The shards as an older version cut them, if these are still the same; nothing otherwise."""
    sizes = {shard.name: shard.size_bytes for shard in own if shard.size_bytes}
    found = (file for file in files.found if file.problem is None and not file.by_link)
    former = sorted((f.name, f.size) for f in found if f.name.rsplit(".", 1)[-1].lower() in _FORMER_SUFFIXES)
    shards = list(_cut_before(own[0].url, container, former)) if sizes else []
    return shards if {shard.name: shard.size_bytes for shard in shards} == sizes else []


def _cut_before(url: str, container: str, files: Sequence[tuple[str, int]]) -> Iterator[Shard]:
    for number, first in enumerate(range(0, len(files), FILES_PER_SHARD)):
        group = files[first : first + FILES_PER_SHARD]
        name = container if len(files) <= FILES_PER_SHARD else f"{container}-{number:05d}"
        yield _shard_of(name, url, group)
