"""A shard that is replaced in the middle of a run is noticed, so that nothing is read at places where it is no more.

What was read counts when the file's version, asked for after it was read, is still the one that was listed.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from conf.source import RetryConfig
from pipeline.source.file_systems import is_local, resolve
from pipeline.source.plan import Contents, Shard, ShardProblem
from pipeline.source.readers.fetching.files import REQUEST_S, within
from pipeline.source.readers.reader import ReadFailure
from pipeline.source.retrying import retry
from pipeline.source.versions import differ, version_of

Item = TypeVar("Item")

_HELD_BYTES, _HELD_ITEMS = 32 << 20, 1000
_THREADS = 16


class ShardChanged(ReadFailure):
    """A shard is not the file that was listed."""

    @property
    def error_type(self) -> str:
        return "shard_changed"


def check_unchanged(shard: Shard) -> None:
    """Raise ShardChanged if the shard was replaced since it was listed; storage's own errors if it cannot be asked."""
    if not shard.version:
        return
    size, version = _now(shard.url)
    then = shard.file_bytes or shard.weight
    if shard.file_bytes and size is not None and size > then:
        return  # records were appended
    if differ(shard.version, version) or (size is not None and size != then):
        raise ShardChanged(
            f"{shard.url} was replaced while it was read ({then} bytes, {shard.version} when it was "
            f"listed; now {size} bytes, {version}); give changed shards new names"
        )


def _now(url: str) -> tuple[int | None, str]:
    fs, inner = resolve(url)

    def ask() -> tuple[int | None, str]:
        fs.invalidate_cache(inner)  # listings are remembered, and are what is in question
        info = fs.info(inner)
        return info.get("size"), version_of(info)

    return ask() if is_local(fs) else within(REQUEST_S, ask)


def unless_changed(shard: Shard, contents: Contents, patience: RetryConfig) -> Contents:
    """Return what was listed of a shard, if it is still the shard that was planned."""
    try:
        retry(lambda: check_unchanged(shard), f"looking at {shard.url}", patience)
    except ShardChanged as error:
        return Contents(problems=(ShardProblem(error.error_type, f"{shard.name}: {error}"),))
    except Exception:  # storage back ends have no common base class; whoever reads the shard will hear of it
        return contents
    return contents


def unless_replaced(items: Iterable[Item], shard: Shard) -> Iterator[Item]:
    """Yield the items; where getting them fails because the shard was replaced, that is what is said."""
    try:
        yield from items
    except ReadFailure:
        raise
    except Exception:
        check_unchanged(shard)
        raise


def verified(items: Iterable[Item], shard: Shard, size_of: Callable[[Item], int]) -> Iterator[Item]:
    """The items, in lots of 32 MB or 1,000, each lot after the shard was looked at; what they raise comes after them.

    Of a shard whose version is unknown, one by one.
    """
    if not shard.version:
        yield from items
        return
    held: list[Item] = []
    held_bytes = 0
    try:
        for item in items:
            held.append(item)
            held_bytes += size_of(item)
            if held_bytes >= _HELD_BYTES or len(held) >= _HELD_ITEMS:
                check_unchanged(shard)
                yield from held
                held, held_bytes = [], 0
    except ShardChanged:
        raise
    except Exception:
        check_unchanged(shard)
        yield from held
        raise
    check_unchanged(shard)
    yield from held


def as_of_now(shards: Sequence[Shard]) -> tuple[Shard, ...]:
    """Shards planned earlier, with the times they have now: a copy of the same size may have another. One of another
    size or with other content keeps what was planned, and its rows will be said to have changed."""

    def look(shard: Shard) -> Shard:
        if not shard.version.startswith("time:"):
            return shard
        try:
            size, version = _now(shard.url)
        except Exception:  # as above
            return shard
        return replace(shard, version=version) if size == (shard.file_bytes or shard.weight) else shard

    with ThreadPoolExecutor(_THREADS) as pool:
        return tuple(pool.map(look, shards))
