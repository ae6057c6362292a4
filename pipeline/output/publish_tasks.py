"""Publication of shards in Ray tasks, beside the dataflow: the driver neither reads nor writes a result."""

from typing import Any

from pipeline.ops.slow import noted_if_slow
from pipeline.output.publish import Publication, publish_shard
from pipeline.output.storage import Storage
from pipeline.tables import Passthrough

_MOST_AT_ONCE = 8


class RayPublisher:
    """A few publications at a time; they reserve no CPU, because they mostly wait for storage."""

    def __init__(self, storage: Storage, passthrough: Passthrough) -> None:
        import ray

        self._task: Any = ray.remote(num_cpus=0, max_retries=10)(_publish)
        self._storage, self._passthrough = storage, tuple(passthrough)
        self._under_way: dict[Any, str] = {}  # reference to the result -> shard

    @property
    def busy(self) -> set[str]:
        return set(self._under_way.values())

    @property
    def full(self) -> bool:
        return len(self._under_way) >= _MOST_AT_ONCE

    def start(self, shard_name: str) -> None:
        self._under_way[self._task.remote(self._storage, shard_name, self._passthrough)] = shard_name

    def finished(self, *, wait: bool) -> list[Publication]:
        import ray

        if not self._under_way:
            return []
        ready, _ = ray.wait(list(self._under_way), timeout=None if wait else 0)
        publications: list[Publication] = ray.get(ready)
        for reference in ready:
            del self._under_way[reference]
        return publications


def _publish(storage: Storage, shard_name: str, passthrough: Passthrough) -> Publication:
    with noted_if_slow(f"publishing {shard_name}"):
        return publish_shard(storage, shard_name, passthrough)
