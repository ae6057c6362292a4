"""Which files of a folder are images, which give them fields, and which are neither: each is counted once."""

import posixpath
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import fsspec

from conf.source import RetryConfig
from pipeline.source.file_systems import is_local
from pipeline.source.plan import LeftOut, sum_left_out
from pipeline.source.readers.fetching.files import cat
from pipeline.source.readers.file_kinds import SNIFF_BYTES, image_format, is_hidden, is_image_name, suffix_of
from pipeline.source.readers.folders.folder_walk import Found, walk
from pipeline.source.retrying import Exhausted, Patient, retry
from pipeline.text import storable

METADATA_NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
SIDECAR_SUFFIXES = ("txt", "caption", "json")
_SNIFF_THREADS = 32
_OUTPUT_MARK = "_state/config.json"  # every output of a run has it


@dataclass(frozen=True)
class FolderFiles:
    """A folder's images by name with their sizes, what stands beside them, and everything else by reason."""

    images: dict[str, int]
    beside: "Companions"
    left_out: tuple[LeftOut, ...]
    found: tuple[Found, ...]

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Of everything that is there."""
        return {file.name: file.size for file in self.found}


class Companions:
    """Files that give fields to images: the metadata of a folder to all below it, a sidecar to the image it is named
    after (`a.txt`, or `a.jpg.txt`, for `a.jpg`)."""

    def __init__(self, names: Iterable[str]) -> None:
        self._metadata: dict[str, str] = {}  # of a folder
        self._sidecars: dict[str, list[str]] = {}  # of a name without its suffix
        for name in sorted(names):
            folder, base = posixpath.split(name)
            if base in METADATA_NAMES:
                best = min((base, posixpath.basename(self._metadata.get(folder, base))), key=METADATA_NAMES.index)
                self._metadata[folder] = posixpath.join(folder, best)
            elif suffix_of(name) in SIDECAR_SUFFIXES:
                self._sidecars.setdefault(posixpath.splitext(name)[0], []).append(name)

    @property
    def metadata(self) -> list[str]:
        return list(self._metadata.values())

    def sidecars_of(self, image: str) -> list[str]:
        """The nearer its name, the later it comes."""
        stems = dict.fromkeys((posixpath.splitext(image)[0], image))
        return [name for stem in stems for name in self._sidecars.get(stem, ()) if name != image]

    def metadata_of(self, image: str) -> list[str]:
        """Of the folders above it, the nearest first."""
        found, folder = [], posixpath.dirname(image)
        while self._metadata:
            if folder in self._metadata:
                found.append(self._metadata[folder])
            if not folder:
                break
            folder = posixpath.dirname(folder)
        return found

    def of(self, images: Iterable[str]) -> tuple[str, ...]:
        """Of a few of the images, in order."""
        names: set[str] = set()
        for image in images:
            names.update(self.sidecars_of(image))
            names.update(self.metadata_of(image))
        return tuple(sorted(names))


def list_folder(fs: fsspec.AbstractFileSystem, root: str, url: str, patience: RetryConfig) -> FolderFiles:
    """Go through the folder. Where a suffix says nothing, the first bytes are read, many files at a time: on object
    storage that is one small request for each such file. OSErrors and Exhausted are about the folder as a whole."""
    found = retry(lambda: walk(fs, root), f"listing {storable(url)}", patience)
    outputs = tuple(f.name.removesuffix(_OUTPUT_MARK) for f in found if f.name.endswith(f"/{_OUTPUT_MARK}"))
    images: dict[str, int] = {}
    reasons: dict[str, list[str]] = {}
    unsure: list[Found] = []
    maybe_beside: list[str] = []
    for file in sorted(found, key=lambda file: file.name):
        reason = _reason(file, outputs)
        if reason is not None:
            reasons.setdefault(reason, []).append(file.name)
        elif (is_image := is_image_name(file.name)) is None and file.size:
            unsure.append(file)
        elif is_image:
            images[file.name] = file.size
        elif suffix_of(file.name) in SIDECAR_SUFFIXES:
            maybe_beside.append(file.name)
        else:
            reasons.setdefault("other_files", []).append(file.name)
    for file, reason in zip(unsure, _look(fs, root, unsure, patience), strict=True):
        if reason is None:
            images[file.name] = file.size
        elif reason:
            reasons.setdefault(reason, []).append(file.name)
    beside = Companions([*maybe_beside, *reasons.get("metadata_files", ())])
    used = {name for image in images for name in beside.sidecars_of(image)}
    for name in maybe_beside:
        reasons.setdefault("sidecar_files" if name in used else "other_files", []).append(name)
    left_out = (LeftOut.of(*reason) for reason in reasons.items())
    return FolderFiles(dict(sorted(images.items())), beside, sum_left_out(left_out), tuple(found))


def _reason(file: Found, outputs: tuple[str, ...]) -> str | None:
    """Return why a file is no input by what is known without looking into it."""
    if is_hidden(file.name):
        return "hidden_files"
    if file.problem is not None:
        return file.problem
    if outputs and file.name.startswith(outputs):
        return "run_output_files"
    return "metadata_files" if posixpath.basename(file.name) in METADATA_NAMES else None


def _look(
    fs: fsspec.AbstractFileSystem, root: str, files: Sequence[Found], patience: RetryConfig
) -> Iterable[str | None]:
    """None for each that is an image by its first bytes, else why it is left out; "" for one that is gone meanwhile."""
    patient, here = Patient(patience), is_local(fs)

    def beginning(path: str) -> bytes:
        if here:
            with open(path, "rb") as stream:
                return stream.read(SNIFF_BYTES)
        return bytes(cat(fs, path, None, start=0, end=SNIFF_BYTES))

    def look(file: Found) -> str | None:
        path = f"{root}/{file.name}"
        try:
            data = patient.retry(lambda: beginning(path), f"looking into {storable(path)}")
        except FileNotFoundError:
            return ""
        except Exhausted:
            raise
        except Exception:  # each storage back end has its own exceptions
            return "unreadable_files"
        return None if image_format(data) is not None else "other_files"

    with ThreadPoolExecutor(_SNIFF_THREADS) as pool:
        return list(pool.map(look, files))
