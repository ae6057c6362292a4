"""Which state of a file it was that was listed: a short text that changes when the file does.

`content:..` stands for what is in the file, as object stores and many web servers say it (an ETag, a checksum);
`time:..` is when it was last written, where nothing better is known; "" where storage says neither.
"""

from collections.abc import Mapping
from typing import Any

_CONTENT = ("blob_id", "md5Hash", "crc32c", "ETag", "etag", "e_tag")  # as fsspec's back ends call them
_TIMES = ("mtime", "LastModified", "last_modified", "Last-Modified", "updated", "modified")


def version_of(info: Mapping[str, Any]) -> str:
    """By what fsspec says of a file."""
    for name in _CONTENT:
        if info.get(name):
            return "content:" + str(info[name]).removeprefix("W/").strip('"')
    for name in _TIMES:
        time = info.get(name)
        if time:
            return f"time:{time:.6f}" if isinstance(time, float) else f"time:{time}"
    return ""


def differ(then: str, now: str) -> bool:
    """Return whether the file has been written since; versions of different kinds say nothing about each other."""
    return then != now and "" not in (then, now) and then.partition(":")[0] == now.partition(":")[0]


def differ_in_content(then: str, now: str) -> bool:
    """Return whether something else is in the file; a copy of it may have another time and the same content."""
    return differ(then, now) and now.startswith("content:")
