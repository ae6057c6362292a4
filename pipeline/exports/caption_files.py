"""One caption file: what is in it, what it is to hold, and which captions of ours it has held before."""

import errno
import hashlib
import json
from dataclasses import dataclass, field

from pipeline.exports.options import Existing, SidecarOptions
from pipeline.output.ledger import SIDECARS
from pipeline.output.storage import Storage
from pipeline.text import storable

_BOM = "\ufeff"
EXISTING = "existing_caption_files"  # left as they are by --existing skip


class LeftAlone(Exception):
    """A file that is not to be touched; the message is the reason, a short fixed word."""


@dataclass
class Written:
    """Captions of ours that a file holds or held, and the hashes of what the whole file then was; newest last."""

    pieces: list[str] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)


class Captions:
    """What was written into the caption files of one folder; kept in the output, also when it is begun anew."""

    def __init__(self, folder: str, files: dict[str, Written]) -> None:
        self._folder, self._files = folder, files

    @classmethod
    def load(cls, storage: Storage, folder: str) -> "Captions":
        try:
            content = json.loads(storage.read(_record_name(folder)))
        except (FileNotFoundError, ValueError):
            return cls(folder, {})
        return cls(folder, {name: Written(**entry) for name, entry in content["files"].items()})

    def save(self, storage: Storage) -> None:
        files = {name: {"pieces": own.pieces, "hashes": own.hashes} for name, own in self._files.items()}
        content = {"folder": storable(self._folder), "files": files}
        storage.write(_record_name(self._folder), json.dumps(content).encode())

    def of(self, name: str) -> Written:
        return self._files.get(storable(name), Written())

    def add(self, name: str, piece: str, content: str) -> None:
        """The file is about to hold this; what it held before counts until `forget_older`."""
        own = self._files.setdefault(storable(name), Written())
        for values, value in ((own.pieces, piece), (own.hashes, _hash(content))):
            if value in values:
                values.remove(value)
            values.append(value)

    def forget_older(self) -> None:
        self._files = {name: Written(own.pieces[-1:], own.hashes[-1:]) for name, own in self._files.items()}


def merged(current: str | None, piece: str, before: Written, options: SidecarOptions) -> str:
    """Return what a file with this content is to hold; LeftAlone if it is somebody else's and to be kept."""
    if current is None or options.existing is Existing.OVERWRITE:
        return piece
    untouched = _hash(current) in before.hashes
    if options.existing is Existing.SKIP and not untouched:
        raise LeftAlone(EXISTING)
    prepend = options.existing is Existing.PREPEND
    for known in reversed(before.pieces):
        if known in current:
            head, _, tail = current.partition(known) if prepend else current.rpartition(known)
            return head + piece + tail
    mark, text = (_BOM, current[1:]) if current.startswith(_BOM) else ("", current)
    body = text.rstrip("\r\n")
    line_end = text[len(body) :]
    if body == piece or body.startswith(piece + options.join) or body.endswith(options.join + piece):
        return current
    pieces = [piece, body] if prepend else [body, piece]
    return mark + options.join.join(part for part in pieces if part.strip()) + line_end


def read_text(path: str) -> str | None:
    """Return the file's text, bytes that are not UTF-8 as lone surrogates; None if there is no file."""
    try:
        with open(path, "rb") as stream:
            data = stream.read()
    except FileNotFoundError:
        return None
    except IsADirectoryError:
        raise LeftAlone("folders_with_the_name_of_a_caption") from None
    except OSError as error:
        too_long = error.errno == errno.ENAMETOOLONG
        raise LeftAlone("names_too_long" if too_long else "existing_files_that_cannot_be_read") from None
    if b"\0" in data:  # an image, or UTF-16
        raise LeftAlone("existing_files_that_are_no_text")
    return data.decode("utf-8", "surrogateescape")


def _hash(content: str) -> str:
    return hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _record_name(folder: str) -> str:
    return f"{SIDECARS}/{hashlib.sha256(folder.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}.json"
