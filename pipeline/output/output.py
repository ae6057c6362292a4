"""An output, read: what was begun, planned, staged and published in it, and how its runs went. Changes nothing.

The one place to ask, for a run, its preview, its status, its report and its exports. How a thing is stored is known by
its own module: pipeline.output.staging, publish, ledger, settings and run_record.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipeline.output import incarnation
from pipeline.output.ledger import RUN_NAME, STATE, known_shards, with_planned
from pipeline.output.publish import ERRORS, Counts, published_name, published_shards, read_counts
from pipeline.output.settings import CONFIG_NAME
from pipeline.output.staging import load_indexes, staged_shards
from pipeline.output.storage import Storage
from pipeline.source.left_out import load_listing
from pipeline.source.plan import LeftOut, Shard
from pipeline.source.readers import Reader

INVOCATIONS = f"{STATE}/invocations"
_THREADS = 16


@dataclass(frozen=True, slots=True)
class Output:
    """What is in one output now; every method asks its storage anew."""

    storage: Storage  # of the incarnation that is there

    @classmethod
    def at(cls, storage: Storage) -> "Output":
        return cls(incarnation.current(storage))

    @property
    def is_begun(self) -> bool:
        return self.storage.exists(CONFIG_NAME)

    def planned(self) -> dict[str, Shard]:
        """Return the shards it was begun with, by name; nothing where it was not."""
        return known_shards(self.storage)

    def shards(self, reader: Reader) -> dict[str, Shard]:
        """Return those of its source as it is now, and those planned that the source has no longer, by name."""
        planned = self.planned()
        return {shard.name: shard for shard in with_planned(planned, reader.shards(planned.values()).shards)}

    def published(self) -> set[str]:
        """Return the names of the shards whose rows are there."""
        return published_shards(self.storage)

    def reopened(self) -> set[str]:
        """Return those of them that are being worked on once more (pipeline.output.second_chance)."""
        return {name for name, staged in staged_shards(self.storage).items() if staged.reopened}

    def staged_samples(self, but: Collection[str]) -> dict[str, dict[int, int]]:
        """Shard -> staged chunk -> its samples, `but` of these shards. Chunks without a readable index do not count."""
        staged = {name: own for name, own in staged_shards(self.storage).items() if own.chunks and name not in but}
        return {
            name: {n: len(index.chunk_samples(n)) for n in staged[name].chunks if n < index.num_chunks}
            for name, index in load_indexes(self.storage, staged).items()
        }

    def counts(self, shard_names: Iterable[str]) -> dict[str, Counts]:
        """Return the counts of these published shards."""
        names = sorted(shard_names)
        with ThreadPoolExecutor(_THREADS) as pool:
            return dict(zip(names, pool.map(lambda name: read_counts(self.storage, name), names), strict=True))

    def errors_by_type(self, shard_names: Iterable[str]) -> dict[str, int]:
        """ "stage/error_type" -> rows of these published shards, the most frequent first."""
        found: Counter[str] = Counter()
        for name in shard_names:
            table = self.storage.read_table(published_name(ERRORS, name)).select(["stage", "error_type"])
            found.update(f"{row['stage']}/{row['error_type']}" for row in table.to_pylist())
        return dict(found.most_common())

    def left_out(self) -> tuple[LeftOut, ...]:
        """By the latest listing of the source; what a shard leaves out is in its counts."""
        return load_listing(self.storage)

    def record(self) -> dict[str, Any] | None:
        """Return what is in run.json; None before the first invocation has ended, and where it is damaged."""
        content = self.storage.read_json(RUN_NAME)
        return content if isinstance(content, dict) else None

    def invocations(self) -> list[dict[str, Any]]:
        """Return the note of each start of the command, as run_record writes it, the oldest first."""
        names = [name for name in self.storage.names(INVOCATIONS) if name.endswith(".json") and name[0] != "."]
        notes = [self.storage.read_json(f"{INVOCATIONS}/{name}") for name in names]
        return sorted(notes, key=lambda note: str(note["start_utc"]))


def invocation_s(note: Mapping[str, Any]) -> float:
    """Return how long one start of the command lasted, up to its last sign of life."""
    start, end = (datetime.fromisoformat(note[name]) for name in ("start_utc", "last_seen_utc"))
    return (end - start).total_seconds()
