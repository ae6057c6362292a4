r"""Names and texts that Unicode does not allow, in a form that every table and file can hold.

File names on Linux are bytes, and JSON can spell half a character (`"\ud83d"`). Python holds both as lone surrogates;
Arrow, Parquet and UTF-8 do not. `storable` writes each as the six characters `\udcXX` (a byte) or `\udXXX` (half a
character) and, in such a text only, a backslash as two; a text that merely looks as if it had been treated so is
treated as well. Every other text, Windows paths included, stays as it is, and `original` undoes it for all.
"""

import json
import math
import re
from typing import Any

_SURROGATE = re.compile("[\ud800-\udfff]")
_LOOKS_ESCAPED = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_ESCAPE = re.compile(r"\\(?:\\|u([dD][89a-fA-F][0-9a-fA-F]{2}))")


def storable(text: str) -> str:
    """Return the text itself where UTF-8 can hold it, else its escaped form; each form stands for one text only."""
    if is_utf8(text) and _LOOKS_ESCAPED.search(text) is None:
        return text
    return _SURROGATE.sub(lambda match: f"\\u{ord(match.group()):04x}", text.replace("\\", "\\\\"))


def is_utf8(text: str) -> bool:
    """Return whether UTF-8 can hold the text: it has no lone surrogate."""
    return _SURROGATE.search(text) is None


def original(text: str) -> str:
    """Return the inverse of `storable`."""
    if _LOOKS_ESCAPED.search(text) is None:
        return text
    return _ESCAPE.sub(lambda match: chr(int(match.group(1), 16)) if match.group(1) else "\\", text)


def storable_value(value: Any) -> Any:
    """Return a JSON-like value with every text in it, keys of objects included, as `storable` gives it."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, dict):
        return {storable_value(key): storable_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable_value(item) for item in value]
    return value


def encodable(value: Any) -> Any:
    """A text or JSON-like value in which only what UTF-8 cannot hold is changed, to its storable form: for models, and
    for texts of which some may be storable already."""
    if isinstance(value, str):
        return value if is_utf8(value) else storable(value)
    if isinstance(value, dict):
        return {encodable(key): encodable(item) for key, item in value.items()}
    return [encodable(item) for item in value] if isinstance(value, list) else value


def finite(value: Any) -> Any:
    """Return a JSON-like value with null for NaN and infinities, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return type(value)(map(finite, value)) if isinstance(value, list | tuple) else value


def json_text(value: Any, **options: Any) -> str:
    """JSON that UTF-8 can hold and that gives the very same texts back: lone surrogates are spelled as JSON does."""
    written = json.dumps(value, ensure_ascii=False, **options)
    return _SURROGATE.sub(lambda match: f"\\u{ord(match.group()):04x}", written)
