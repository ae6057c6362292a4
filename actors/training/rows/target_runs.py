"""Runs whose texts are learned: whether they have ended, and the shards they are over."""

from collections.abc import Iterable
from typing import Any

from conf.errors import UserError
from pipeline.output.ending import Status
from pipeline.output.output import Output
from pipeline.output.storage import Storage
from pipeline.report.folder import RunFolder
from pipeline.source.plan import Place, Shard

_Part = tuple[str, tuple[str, ...], Place | None]
_HAS_TEXTS = (Status.COMPLETE.value, Status.SHARDS_MISSING.value)  # shards that are gone are not read either


def finished_record(run: str) -> dict[str, Any]:
    """Return run.json of a run that has texts; UserError where the folder holds none, or one that has not ended."""
    record = RunFolder(run).read_record()
    if record is None or record.get("status") not in _HAS_TEXTS:
        raise UserError(f"{run!r} is not the output of a run that has ended; run its command again to finish it")
    return record


def known_shards(runs: Iterable[str | None]) -> tuple[Shard, ...]:
    """Return the shards that these runs were begun with, as RowSource takes them; None is no run, and has none.

    UserError where two runs have given a part of the source different names, or different parts the same one: rows of
    both could not be found.
    """
    found: dict[str, Shard] = {}
    parts: dict[str, _Part] = {}
    names: dict[_Part, str] = {}
    for run in filter(None, runs):
        for name, shard in Output.at(Storage(run)).planned().items():
            part = (shard.url, shard.members, shard.records)
            if parts.setdefault(name, part) != part or names.setdefault(part, name) != name:
                raise UserError(
                    f"{run!r} divides {shard.url} into other shards than the run of another task; make it anew"
                )
            found[name] = shard
    return tuple(found.values())
