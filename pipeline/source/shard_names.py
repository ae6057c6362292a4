"""Names of shards: what their files of results are called."""

import hashlib
import itertools
import re
from collections.abc import Iterable

_ARCHIVE_SUFFIX = re.compile(
    r"(\.tar|\.t(?:gz|bz2?|xz|zst)|\.parquet|\.csv|\.tsv|\.jsonl|\.ndjson|\.json|\.txt)?(\.gz|\.zst|\.bz2|\.xz)?$",
    re.IGNORECASE,
)
# File systems take 255 bytes, encrypted ones 143. Behind a shard's name come its number and a tick's, and a suffix.
_LONGEST_NAME = 143 - len("-00000-t000000-00000.parquet")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def name_shards(urls: Iterable[str], known: dict[str, str] | None = None) -> dict[str, str]:
    """url -> shard name: the file name without its suffixes, with parent folders in front where names would collide.

    One that is too long for what is put behind it, or differs from another in upper and lower case alone, which some
    file systems do not tell apart, is cut and gets a hash of the whole; so do those that differ in characters alone
    that no name may have. Names given out before (`known`) are kept, so that adding shards to a source never renames
    published ones.
    """
    names = dict(known or {})
    fresh = [url for url in urls if url not in names]
    for depth in itertools.count(1):
        candidates: dict[str, list[str]] = {}
        for url in fresh:
            candidates.setdefault(_short_name(url, depth), []).append(url)
        taken = set(names.values())
        folded = {name.lower() for name in taken}
        fresh = []
        for name, claimants in candidates.items():
            if len(claimants) == 1 and name not in taken:
                names[claimants[0]] = own = _hashed(name) if name.lower() in folded else name
                folded.add(own.lower())
            elif depth > max(url.count("/") for url in claimants) + 1:
                names.update({url: _hashed(_short_name(url, 1), url) for url in claimants})
            else:
                fresh.extend(claimants)
        if not fresh:
            return names
    raise AssertionError("unreachable")


def _short_name(url: str, depth: int) -> str:
    pieces = [piece for piece in url.split("/") if piece]
    pieces[-1] = _ARCHIVE_SUFFIX.sub("", pieces[-1]) or pieces[-1]
    name = _UNSAFE.sub("_", "__".join(pieces[-depth:])).lstrip("._") or "shard"
    return name if len(name) <= _LONGEST_NAME else _hashed(name)


def _hashed(name: str, whole: str | None = None) -> str:
    """Return the name with a hash behind it: of itself, or of what it stands for."""
    mark = hashlib.sha256((whole or name).encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{name[: _LONGEST_NAME - len(mark) - 1]}-{mark}"
