"""JSON files that somebody else wrote, read with a sentence for whatever is wrong with them."""

import json
from pathlib import Path
from typing import Any

from conf.errors import UserError

MOST_BYTES = 200_000_000  # tokenizers of large vocabularies have some tens of millions


def read_json(path: str | Path, what: str) -> Any:
    """Return the content of a file; UserError, which begins with `what` and the path, where it is no readable JSON."""
    path = Path(path)
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise UserError(f"{what} {str(path)!r} is too large to be one: {size} bytes")
        return parse_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{what} {str(path)!r} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{what} {str(path)!r} is not readable JSON: {error}") from None


def parse_json(data: bytes | str) -> Any:
    """Parse JSON; every complaint about the text is a ValueError, nesting that is too deep included."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_object(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file, None where there is no file; UserError where it is none or not readable."""
    if not path.is_file():
        return None
    content = read_json(path, "file")
    if not isinstance(content, dict):
        raise UserError(f"{str(path)!r} is not a JSON object")
    return content
