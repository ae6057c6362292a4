"""Files of a source that are no input rows: kept beside the plan, counted into run.json, and said in one line."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.output.storage import Storage
from pipeline.source.plan import LeftOut

LISTING_NAME = "_state/left_out.json"  # of the latest listing; what a shard leaves out is kept with its results


def save_listing(storage: Storage, parts: Sequence[LeftOut]) -> None:
    storage.write(LISTING_NAME, json.dumps(as_dicts(parts)).encode())


def load_listing(storage: Storage) -> tuple[LeftOut, ...]:
    """Return what the latest listing of this output's source left out; nothing where that was never noted."""
    try:
        return from_dicts(json.loads(storage.read(LISTING_NAME)))
    except (FileNotFoundError, ValueError):
        return ()


def as_dicts(parts: Iterable[LeftOut]) -> list[dict[str, Any]]:
    """In JSON's types."""
    return [{"reason": part.reason, "count": part.count, "examples": list(part.examples)} for part in parts]


def from_dicts(entries: Iterable[dict[str, Any]]) -> tuple[LeftOut, ...]:
    return tuple(LeftOut(entry["reason"], entry["count"], tuple(entry["examples"])) for entry in entries)


def in_words(part: LeftOut) -> str:
    """`1,100 hidden files (._a.jpg, ._b.jpg, ...)`: reasons are plural nouns that end with an s."""
    noun = part.reason.replace("_", " ")
    more = ", ..." if part.count > len(part.examples) else ""
    names = f" ({', '.join(part.examples)}{more})" if part.examples else ""
    return f"{part.count:,} {noun.removesuffix('s') if part.count == 1 else noun}{names}"


def sentence(parts: Iterable[LeftOut], what: str = "no input rows") -> str:
    """Return all of them in one line; empty if there is nothing to say."""
    said = "; ".join(map(in_words, parts))
    return f"left out, {what}: {said}" if said else ""
