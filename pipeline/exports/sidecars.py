"""Captions beside their images: `photo.jpg` gets `photo.txt`, one line, as trainers and taggers read them.

Files that exist are kept, replaced or added to, as asked. What was written is remembered in the output, by folder, so
that doing it again adds nothing twice, puts a new caption where the old one was, and leaves alone what a person has
written around it. The record of a folder is saved before its files are touched and once more afterwards: whatever is
killed in between, both the old and the new caption are known.
"""

import errno
import hashlib
import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from conf.errors import UserError
from conf.source import SourceConfig, SourceKind
from pipeline.exports.caption_files import EXISTING, Captions, LeftAlone, merged, read_text
from pipeline.exports.options import Exported, Options, SidecarOptions
from pipeline.exports.rows import Published, whole_local_file
from pipeline.output.storage import Storage
from pipeline.source.file_systems import is_local, resolve
from pipeline.source.plan import LeftOut, Shard, sum_left_out
from pipeline.source.readers import make_reader
from pipeline.source.readers.fetching.uris import BadUri, absolute, local_path, scheme_of
from pipeline.source.readers.file_kinds import IMAGE_SUFFIXES
from pipeline.source.readers.folders.folder_shards import container_of
from pipeline.source.readers.manifest import ManifestReader
from pipeline.text import original, storable

_BESIDE = "captions are written beside images of local folders and of manifests that name local files"
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT)
_NO_SUCH_NAME = (errno.ENAMETOOLONG, errno.EINVAL, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)


def check(source: SourceConfig, options: SidecarOptions, out: str | None) -> None:
    """Raise UserError where captions of this source's images could not be written; before a run is begun."""
    suffix = options.extension
    if not suffix.startswith(".") or "/" in suffix or "\0" in suffix or suffix[1:].lower() in IMAGE_SUFFIXES | {""}:
        raise UserError(f"{suffix!r} is no suffix of caption files; .txt and .caption are usual")
    if source.kind not in (SourceKind.IMAGES, SourceKind.MANIFEST):
        raise UserError(f"{_BESIDE}; this run's source.kind is {source.kind.value}, for which --to webdataset is made")
    if out is not None:
        if not is_local(resolve(out)[0]):
            raise UserError(f"captions are written to local folders, not to {out!r}")
        return
    for path in source.paths if source.kind is SourceKind.IMAGES else ():
        fs, inner = resolve(path)
        if not is_local(fs):
            raise UserError(f"{_BESIDE}, which {path!r} is not; --out FOLDER writes them elsewhere")
        folder = local_path(inner)
        if os.path.isdir(folder) and not os.access(folder, os.W_OK):
            raise _not_writable(folder, "it is read-only")


def write(published: Published, out: str | None, options: Options) -> Exported:
    """Write one caption file for each image with a result. `out`: a folder for them instead of the images' own."""
    source, sidecars = SourceConfig.model_validate(published.source()), options.sidecars
    check(source, sidecars, out)
    places = _Places(published, source, out, sidecars.extension)
    writer = _Writer(published.storage, sidecars, beside=out is None)
    for shard in published.shards:
        by_folder: dict[str, list[_Place]] = {}
        for place in places.of_shard(shard, writer):
            by_folder.setdefault(place.folder, []).append(place)
        for folder, own in by_folder.items():
            writer.write(folder, own)
    failed = sum(own.num_errors for own in published.output.counts(published.shards).values())
    if failed:
        writer.left_out.append(LeftOut("failed_rows", failed))
    where = "beside their images" if out is None else f"in {storable(out)}"
    said = f"{writer.written} files written, {writer.images - writer.written} as they were"
    return Exported(writer.rows, sum_left_out(writer.left_out), summary=f"{writer.images} captions {where}: {said}")


def _not_writable(folder: str, why: str) -> UserError:
    hint = "--out FOLDER writes the captions to another folder"
    return UserError(f"cannot write captions into {storable(folder)!r}: {why}; {hint}")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one caption goes, and what it is made of."""

    folder: str
    name: str
    image: str  # its path, or where it is if it is not a local file
    texts: tuple[str, ...]


class _Places:
    """Samples of a run -> the caption files of their images."""

    def __init__(self, published: Published, source: SourceConfig, out: str | None, extension: str) -> None:
        self._published, self._out, self._extension = published, out, extension
        self._shards = published.output.planned()
        self._folders = _folders_below(self._shards.values())
        self._reader = reader = make_reader(source) if source.kind is SourceKind.MANIFEST else None
        if reader is not None:
            self._shards = published.output.shards(reader)

    def of_shard(self, name: str, writer: "_Writer") -> Iterator[_Place]:
        """In input order, each file once; images without one are counted by the writer."""
        shard = self._shards.get(name)
        texts = {
            key: tuple(row["text"] or "" for row in rows)
            for key, rows in groupby(self._published.rows(name, ("key", "text")), lambda row: row["key"])
        }
        if shard is None:
            writer.leave("images_of_shards_gone", name, len(texts))
            return
        for key, image, mirrored in self._images(shard, texts):
            if image is None:
                writer.leave("images_that_are_no_local_files", f"{name}/{key}")
                continue
            path = image if self._out is None else os.path.join(self._out, mirrored)
            folder, file_name = os.path.split(os.path.splitext(path)[0] + self._extension)
            yield _Place(folder, file_name, image, texts[key])

    def _images(self, shard: Shard, keys: Iterable[str]) -> Iterator[tuple[str, str | None, str]]:
        """(key, path of the image, its path below `out`); None for an image that is no local file."""
        if isinstance(self._reader, ManifestReader):
            for key, uri in self._reader.uris(shard, set(keys)):
                path = _local(uri, shard.url)
                yield key, path, "" if path is None else _mirrored(path, shard.url)
            return
        fs, inner = resolve(shard.url)
        folder = local_path(inner) if is_local(fs) else shard.url
        for key in keys:
            name = original(key)
            mirrored = os.path.join(self._folders[shard.url], name)
            yield key, os.path.join(folder, name), mirrored


def _folders_below(shards: Iterable[Shard]) -> dict[str, str]:
    """URL of a folder -> the one that mirrors it: none of its own if it is the only one; of its name, or, where others
    have the same, of the name of its shards."""
    names: dict[str, list[str]] = {}
    for shard in shards:
        names.setdefault(shard.url, []).append(shard.name)
    if len(names) == 1:
        return dict.fromkeys(names, "")
    bases = Counter(posixpath.basename(url) for url in names)
    return {
        url: base if bases[base := posixpath.basename(url)] == 1 else container_of(own) for url, own in names.items()
    }


def _local(uri: str | None, manifest: str) -> str | None:
    found = absolute(uri, manifest) if uri else ""
    try:
        return local_path(found) if uri and scheme_of(found) == "file" else None
    except BadUri:
        return None


def _mirrored(path: str, manifest: str) -> str:
    """Below the manifest's folder as there, elsewhere from the root on."""
    if scheme_of(manifest) == "file":
        relative = os.path.relpath(path, os.path.dirname(local_path(manifest)))
        if relative.split("/")[0] != "..":
            return relative
    return os.path.abspath(path).lstrip("/")


class _Writer:
    """Writes the files of one folder after the other, and counts."""

    def __init__(self, storage: Storage, options: SidecarOptions, *, beside: bool) -> None:
        self._storage, self._options, self._beside = storage, options, beside
        self._seen: set[bytes] = set()  # of the files' paths, hashed: two images may have one stem
        self.left_out: list[LeftOut] = []
        self.rows = self.images = self.written = 0

    def leave(self, reason: str, example: str, count: int = 1) -> None:
        self.left_out.append(LeftOut(reason, count, (storable(example),)))

    def write(self, folder: str, places: list[_Place]) -> None:
        captions = Captions.load(self._storage, folder)
        changes: list[tuple[str, str]] = []  # path, new content
        for place in places:
            path = os.path.join(folder, place.name)
            try:
                content = self._content(path, place, captions)
            except LeftAlone as reason:
                self.leave(str(reason), path if str(reason) == EXISTING else place.image)
                continue
            self.images += 1
            self.rows += len(place.texts)
            if content is not None:
                changes.append((path, content))
        if not changes:
            return
        captions.save(self._storage)
        for path, content in changes:
            self._replace(path, content)
        captions.forget_older()
        captions.save(self._storage)

    def _content(self, path: str, place: _Place, captions: Captions) -> str | None:
        """Return what the file is to hold, None if it does; LeftAlone with the reason if it is not to be touched."""
        if path == place.image:
            raise LeftAlone("images_named_like_a_caption")
        hashed = hashlib.sha256(os.fsencode(path)).digest()[:16]
        if hashed in self._seen:
            raise LeftAlone("images_with_the_name_of_another")
        if self._beside and not os.path.lexists(place.image):
            raise LeftAlone("images_gone")
        piece = self._options.piece(place.texts)
        if not piece:
            raise LeftAlone("empty_captions")
        current = read_text(path)
        self._seen.add(hashed)
        content = merged(current, piece, captions.of(place.name), self._options)
        captions.add(place.name, piece, content)
        return None if content == current else content

    def _replace(self, path: str, content: str) -> None:
        try:
            with whole_local_file(os.path.realpath(path) if os.path.islink(path) else path) as stream:
                stream.write(content.encode("utf-8", "surrogateescape"))
            self.written += 1
        except OSError as error:
            if error.errno in _NO_SUCH_NAME:
                self.images -= 1
                self.leave("names_too_long", path)
                return
            if error.errno in _REFUSED:
                raise _not_writable(os.path.dirname(path), os.strerror(error.errno)) from None
            raise UserError(f"cannot write {storable(path)!r}: {error.strerror or error}") from None
