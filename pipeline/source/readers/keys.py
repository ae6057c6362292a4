"""Members of an archive -> samples by their keys, so that every image is a sample or is counted among what is left out.

A key is the path up to the first dot of the file name, as in WebDataset. `key.jpg` is the image of its key, and images
beside it that are named after a word, `key.mask.png`, are its companions. Any other second image of a key is a sample
of its own: `22.05.png` and `22.06.png` are the samples `22.05` and `22.06`, each with the sidecars of its own name and
those of the key; `key.png` beside `key.jpg`, and a second `key.jpg`, is `key~2`, or the next number that no file has.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from pipeline.source.plan import ByteRange, LeftOut, Part, Role, Sample, sum_left_out
from pipeline.source.readers.file_kinds import image_format, is_hidden, is_image_name
from pipeline.source.readers.tar import Kind, Member

_WITHOUT_BYTES = {Kind.BROKEN_LINK: Role.BROKEN_LINK, Kind.SPARSE: Role.SPARSE_FILE}
_MOST_SHARED = 100  # sidecars of a key that each of its images gets: an archive may have one key alone


@dataclass(frozen=True, slots=True)
class Grouped:
    """The samples of an archive, in order of first appearance; `last`: those the last member belongs to, by row."""

    samples: tuple[Sample, ...]
    left_out: tuple[LeftOut, ...]
    last: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _Entry:
    """A member under its key."""

    suffix: str  # what follows the key's dot, in lower case
    written: str  # the same as it is in the archive
    part: Part
    format: str | None  # of an image, by its first bytes where they were looked at


def group_by_key(members: Sequence[Member], image_suffix: Sequence[str] = ()) -> Grouped:
    """Members, links followed -> samples; the n-th `key.ext` belongs to the n-th samples of that key.

    `image_suffix`: which images are wanted, the first that a key has; none: any.
    """
    groups: dict[tuple[str, int], list[_Entry]] = {}
    seen: dict[tuple[str, str], int] = {}
    ignored: list[LeftOut] = []
    last: tuple[str, int] | None = None
    for member in members:
        if member.kind is Kind.FOLDER:
            continue
        entry = _entry_of(member)
        if isinstance(entry, str):
            ignored.append(LeftOut(entry, 1, (member.name,)))
            continue
        key = split_key(member.name)[0]
        seen[key, entry.suffix] = repeat = seen.get((key, entry.suffix), 0) + 1
        groups.setdefault((key, repeat), []).append(entry)
        last = (key, repeat)
    suffixes: dict[str, dict[str, bool]] = {}  # of each key: those of images, with whether content alone says so
    for (key, _), entries in groups.items():
        for entry in entries:
            by_name = is_image_suffix(entry.suffix, image_suffix)
            if by_name or entry.format is not None:
                suffixes.setdefault(key, {}).setdefault(entry.suffix, by_name)
    bases: list[str] = []
    parts_of: list[tuple[Part, ...]] = []
    last_rows: list[int] = []
    for (key, repeat), entries in groups.items():
        images = suffixes.get(key, {})
        stems = _stems([s for s, by_name in images.items() if by_name] or list(images), image_suffix)
        first = len(bases)
        for base, parts in _samples_of(key, entries, stems, ignored):
            bases.append(base)
            parts_of.append(parts)
        if (key, repeat) == last:
            last_rows = list(range(first, len(bases)))
        for entry in entries:
            if entry.suffix not in stems and images.get(entry.suffix):
                reason = "unwanted_images" if image_suffix else "companion_images"
                ignored.append(LeftOut(reason, 1, (f"{key}.{entry.written}",)))
    samples = (Sample(row, key, parts) for row, (key, parts) in enumerate(zip(_unique(bases), parts_of, strict=True)))
    return Grouped(tuple(samples), sum_left_out(ignored), tuple(last_rows))


def _entry_of(member: Member) -> _Entry | str:
    """Return a member under its key, or why it is left out."""
    if member.kind is Kind.AFTER_END:
        return "bytes_after_the_end"
    if is_hidden(member.name):
        return "hidden_files"
    if member.kind is Kind.SPECIAL:
        return "special_files"
    key, written = split_key(member.name)
    found = image_format(member.head) if member.head else None
    if not written and (not key or found is None):
        return "other_files"
    suffix = written.lower() or str(found).lower()
    part = Part(suffix, ByteRange(member.offset, member.size), _WITHOUT_BYTES.get(member.kind))
    return _Entry(suffix, written or suffix, part, found)


def wants_head(name: str) -> bool:
    """Return whether the name of a member leaves open if it is an image."""
    base = name.rpartition("/")[2]
    return _named_an_image(base.rpartition(".")[2].lower() if "." in base else "") is None


def is_image_suffix(suffix: str, image_suffix: Sequence[str] = ()) -> bool:
    """Return whether what follows a key's dot is the suffix of an image, or one that the user takes for one."""
    return bool(_named_an_image(suffix.rpartition(".")[2])) or _rank(suffix, image_suffix) is not None


@lru_cache(maxsize=4096)  # the same few are asked about for every member
def _named_an_image(last_suffix: str) -> bool | None:
    return is_image_name(f"x.{last_suffix}")


def _rank(suffix: str, image_suffix: Sequence[str]) -> int | None:
    """Which of the suffixes that the user named it has: `left.jpg` has `jpg`, too."""
    return next((n for n, wanted in enumerate(image_suffix) if f".{suffix}".endswith(f".{wanted}")), None)


def _stems(images: Sequence[str], image_suffix: Sequence[str]) -> dict[str, str | None]:
    """Of a key's images, those that are samples: their suffix -> what their own sidecars begin with and, where the key
    has several, their key ends with. None: the whole key is theirs."""
    if image_suffix:
        ranks = {suffix: rank for suffix in images if (rank := _rank(suffix, image_suffix)) is not None}
        best = min(ranks.values(), default=0)
        images = [suffix for suffix, rank in ranks.items() if rank == best]
    plain = [suffix for suffix in images if "." not in suffix]
    chosen = [suffix for suffix in images if "." not in suffix or not plain or not suffix[0].isalpha()]
    return {suffix: suffix.rpartition(".")[0] or None for suffix in chosen}


def _samples_of(
    key: str, entries: Sequence[_Entry], stems: dict[str, str | None], ignored: list[LeftOut]
) -> Iterator[tuple[str, tuple[Part, ...]]]:
    """(key, parts) of each sample that the members of one key make."""
    images = [entry for entry in entries if entry.suffix in stems]
    if not images:
        yield key, tuple(_with_role(e.part, Role.UNWANTED) if is_image_suffix(e.suffix) else e.part for e in entries)
        return
    own: dict[str | None, list[Part]] = {}  # by stem; None: sidecars of all images of the key
    named = {stem for stem in stems.values() if stem is not None}
    alone = len(stems) == 1
    for entry in entries:
        if entry.suffix in stems or is_image_suffix(entry.suffix):
            continue
        owner = next((stem for stem in _beginnings(entry.suffix) if stem in named), None)
        if owner is not None:
            own.setdefault(owner, []).append(_after(entry.part, owner))
        elif alone or (entry.suffix[0].isalpha() and len(own.get(None, ())) < _MOST_SHARED):
            own.setdefault(None, []).append(entry.part)
        else:
            ignored.append(LeftOut("lone_sidecars", 1, (f"{key}.{entry.written}",)))
    for image in images:
        stem = stems[image.suffix]
        part = image.part if is_image_suffix(image.suffix) else _with_role(image.part, Role.IMAGE)
        sidecars = [*own.get(None, ()), *(own.get(stem, ()) if stem is not None else ())]  # its own hold over the key's
        if alone or stem is None:
            yield key, (part, *sidecars)
        else:
            yield f"{key}.{image.written.rpartition('.')[0]}", (_after(part, stem), *sidecars)


def _beginnings(suffix: str) -> Iterator[str]:
    """`a.b.json` -> `a.b`, `a`."""
    while "." in suffix:
        suffix = suffix.rpartition(".")[0]
        yield suffix


def _after(part: Part, stem: str) -> Part:
    return replace(part, name=part.name[len(stem) + 1 :])


def _with_role(part: Part, role: Role) -> Part:
    return part if part.role is not None else replace(part, role=role)


def image_part(sample: Sample) -> Part | None:
    """Return the sample's image."""
    images = [part for part in sample.parts if part.role is Role.IMAGE or _looks_wanted(part)]
    return min(images, key=lambda part: part.name.count("."), default=None)  # of older listings, which had them all


def _looks_wanted(part: Part) -> bool:
    return part.role is not Role.UNWANTED and is_image_suffix(part.name)


def _unique(bases: Sequence[str]) -> list[str]:
    """The second of a name becomes `name~2`, or the next number, where the archive has a file called `name~2.jpg`."""
    taken, counts = set(bases), dict[str, int]()
    names: list[str] = []
    for base in bases:
        counts[base] = number = counts.get(base, 0) + 1
        if number == 1:
            names.append(base)
            continue
        while f"{base}~{number}" in taken:
            number += 1
        taken.add(f"{base}~{number}")
        names.append(f"{base}~{number}")
    return names


def split_key(name: str) -> tuple[str, str]:
    """`a/b.c.jpg` -> (`a/b`, `c.jpg`); files without a suffix have a key alone, hidden ones neither."""
    folder, _, base = name.removeprefix("./").rpartition("/")
    stem, _, suffix = base.partition(".")
    if not stem:
        return "", ""
    return (f"{folder}/{stem}" if folder else stem), suffix
