"""The version of what is kept on storage: what says none was written before there were versions, and is of version 1.

What an older version means is known where it is read: pipeline.source.plan (shards), shard_index (samples).
"""

from collections.abc import Mapping
from typing import Any

from conf.errors import UserError

VERSION = 2  # of all files of an output together; raise it when the meaning of one of them changes
KEY = "deed.format"
STAMP = {KEY.encode(): str(VERSION).encode()}  # in the metadata of a table; in JSON the same key holds the number


def version_of(stored: Mapping[Any, Any] | None, what: str) -> int:
    """By the metadata of a table, or the content of a JSON file. UserError if it is newer than this code."""
    stored = stored or {}
    version = int(stored.get(KEY) or stored.get(KEY.encode()) or 1)
    if version > VERSION:
        raise UserError(
            f"{what} was written by a newer version of this tool (format {version}, this one knows {VERSION}); "
            "use that version, or another output.path"
        )
    return version
