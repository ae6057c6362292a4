"""JSON that somebody else wrote -> values, or one error that is about this text alone.

Every reader parses the parts of its rows here, so that what is wrong with one row's JSON never speaks for another row.
"""

import json
from collections.abc import Mapping
from numbers import Number
from typing import Any

MAX_JSON_BYTES = 16 << 20  # of one row; parsed it takes up to twenty times as much memory
_MAX_DEPTH = 200  # what is nested deeper overflows the stack of whoever walks through it later


class BadJson(ValueError):
    """Why a text has no value; one line."""


def parse_json(data: bytes, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """The value of a JSON text in UTF-8 (or UTF-16 or -32), with or without a byte order mark; BadJson otherwise.

    NaN and Infinity, which are no JSON but which Python writes, are null. Of a key that occurs twice the last holds.
    """
    if len(data) > max_bytes:
        raise BadJson(f"{len(data)} bytes of JSON are more than the {max_bytes} that one row may have")
    try:
        value = json.loads(data, parse_constant=lambda _: None)
    except RecursionError:
        raise BadJson(f"nested more than {_MAX_DEPTH} deep") from None
    except ValueError as error:  # also of bytes that are no text, and of numbers with thousands of digits
        raise BadJson(str(error)) from None
    if data.count(b"[") + data.count(b"{") > _MAX_DEPTH and _is_deep(value):
        raise BadJson(f"nested more than {_MAX_DEPTH} deep")
    return value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_MAX_DEPTH + 1):
        level = [child for item in level for child in _children(item)]
        if not level:
            return False
    return True


def _children(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def in_words(value: Any) -> str:
    """Return what kind of value it is, in the words of those who write JSON and tables."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return "a text"
    if isinstance(value, bytes | bytearray | memoryview):
        return "bytes"
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, list | tuple) else "a number" if isinstance(value, Number) else "a value"
