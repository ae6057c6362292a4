"""Keys and identities as names inside an archive or below a folder: they stay inside it, and every system takes them.

Names come from sources that others have made: `../../x`, `/etc/x`, line breaks and names of five thousand characters
are all possible.
"""

import hashlib
import re
from collections.abc import Iterator

from pipeline.text import original

_DANGEROUS = re.compile(r"[\x00-\x1f\x7f\\]|%(?=[0-9A-Fa-f]{2})|(?<=^[A-Za-z]):")
_UNUSUAL = re.compile(r"[^A-Za-z0-9._/-]+")
_LONGEST_PART, _LONGEST_PATH = 150, 700  # characters of one name and of a whole path; systems allow 255 and about 1000


def inside(name: str) -> str:
    """The name, with what would lead out of its archive or folder percent-encoded (urllib.parse.unquote undoes it)."""
    parts = _DANGEROUS.sub(lambda match: f"%{ord(match.group()):02X}", name).split("/")
    safe = ["%2E%2E" if part == ".." else part for part in parts]
    return "%2F".join(("", "/".join(safe[1:]))) if len(safe) > 1 and not safe[0] else "/".join(safe)


def member_name(key: str) -> str:
    """Return the key as the name of an archive's member: the bytes it had in the source, unless they lead out of it."""
    raw = original(key)
    try:
        raw.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a character, which no archive can hold
        raw = key
    return inside(raw)


def plain_path(key: str) -> str:
    """The key as a path of letters, digits, `._-` and `/` that every system can hold; a long one ends in its hash.

    Different keys may have the same path.
    """
    parts = [part for part in _UNUSUAL.sub("_", key).split("/") if part not in ("", ".")]
    short = "/".join(_shortened(part.lstrip(".") or "_", key) for part in parts) or "_"
    return short if len(short) <= _LONGEST_PATH else _shortened(flat(short), key)


def flat(path: str) -> str:
    """Return the path as the name of one file."""
    return _shortened(path.replace("/", "__"), path)


def _shortened(part: str, key: str) -> str:
    if len(part) <= _LONGEST_PART:
        return part
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    return f"{part[: _LONGEST_PART - 13]}~{digest}"


def numbered(stem: str, suffix: str) -> Iterator[str]:
    """stem.suffix, stem~2.suffix, stem~3.suffix and so on."""
    yield f"{stem}{suffix}"
    number = 2
    while True:
        yield f"{stem}~{number}{suffix}"
        number += 1
