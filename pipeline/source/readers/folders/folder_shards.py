"""Folders of images cut into shards with lasting names: what was planned stays together, what is new comes behind."""

import itertools
import logging
import posixpath
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from pipeline.source.file_systems import resolve
from pipeline.source.plan import LeftOut, Shard
from pipeline.source.readers.folders.folder_files import FolderFiles
from pipeline.source.shard_names import name_shards
from pipeline.text import storable

FILES_PER_SHARD = 10_000
_SAME = 0.9  # of the files of a folder that was moved
_LOG = logging.getLogger(__name__)
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


def follow(known: Collection[Shard], folders: Mapping[str, FolderFiles]) -> list[Shard]:
    """The known shards, where a folder was moved with the URL it has now: the earlier one is no more, and the other is
    called like it and holds nearly all of its files, in the same sizes."""
    planned: dict[str, list[Shard]] = {}
    for shard in known:
        planned.setdefault(shard.url, []).append(shard)
    new = [url for url in folders if url not in planned]
    moved: dict[str, str] = {}
    for url, own in planned.items() if new else ():
        files = [file for shard in own for file in zip(shard.members, shard.sizes, strict=False)]
        if url in folders or not files or not _is_gone(url):
            continue
        for now in new:
            same = sum(1 for member, size in files if folders[now].sizes.get(member) == size)
            if posixpath.basename(now) == posixpath.basename(url) and same >= _SAME * len(files):
                _LOG.warning(
                    "%s is gone, and %s is taken for it: it holds the same files", storable(url), storable(now)
                )
                moved[url] = now
                new.remove(now)
                break
    return [replace(shard, url=moved.get(shard.url, shard.url)) for shard in known]


def _is_gone(url: str) -> bool:
    fs, inner = resolve(url)
    try:
        return not fs.exists(inner)
    except Exception:  # each storage back end has its own exceptions; what cannot be asked may be there
        return False


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
    """Return the folder's files that are there and have another size than when they were planned."""
    changed = [
        member
        for shard in known
        if len(shard.sizes) == len(shard.members)
        for member, size in zip(shard.members, shard.sizes, strict=True)
        if files.sizes.get(member, size) != size
    ]
    return [LeftOut.of("changed_files", changed)] if changed else []


def _as_before(own: Sequence[Shard], container: str, files: FolderFiles) -> list[Shard]:
    """Return the shards as an older version cut them, if these are still the same; nothing otherwise."""
    sizes = {shard.name: shard.weight for shard in own if shard.weight}
    found = (file for file in files.found if file.problem is None and not file.by_link)
    former = sorted((f.name, f.size) for f in found if f.name.rsplit(".", 1)[-1].lower() in _FORMER_SUFFIXES)
    shards = list(_cut_before(own[0].url, container, former)) if sizes else []
    return shards if {shard.name: shard.weight for shard in shards} == sizes else []


def _cut_before(url: str, container: str, files: Sequence[tuple[str, int]]) -> Iterator[Shard]:
    for number, first in enumerate(range(0, len(files), FILES_PER_SHARD)):
        group = files[first : first + FILES_PER_SHARD]
        name = container if len(files) <= FILES_PER_SHARD else f"{container}-{number:05d}"
        yield _shard_of(name, url, group)
