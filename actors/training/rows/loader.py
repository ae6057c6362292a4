"""Batches of decoded rows, made in the background, in an order that depends on the seed alone.

Every worker of a group reads images of its own. An epoch's order is a pure function of (seed, epoch) and the listing,
and where a worker stands is a pair of numbers, so that a resumed run goes on with the image that came next.
"""

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar, cast

import numpy as np

from actors.training.rows.row import DecodedRows, ImageRows, Row
from actors.training.rows.row_source import Label, Place, RowSource
from conf.errors import UserError
from conf.rows import LoadingConfig
from pipeline.source.left_out import in_words

Item = TypeVar("Item")
Made = TypeVar("Made")
_BARREN_EPOCHS = 3  # of a worker among several, without one usable image


@dataclass(frozen=True, slots=True)
class Position:
    """Where a worker stands: its epoch, and how many of the epoch's images it has taken, usable or not."""

    epoch: int = 0
    taken: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """Some images with their rows, and where the worker stands once they are done."""

    images: tuple[DecodedRows, ...]
    after: Position


class Loader:
    """Yields a worker's batches for ever. UserError where an epoch has fewer usable images than a batch.

    `waiting_s` is how long its callers have waited for it.
    """

    def __init__(
        self, source: RowSource, places: Sequence[Place], label: Label, config: LoadingConfig, *, batch_images: int,
        rows_per_image: int, rank: int = 0, count: int = 1,
    ) -> None:  # fmt: skip
        self.source, self.label, self.config = source, label, config
        self.batch_images, self.rows_per_image = batch_images, rows_per_image
        self.rank, self.count = rank, count
        self._units = source.units(places)
        self.waiting_s = 0.0
        if len(places) < count * batch_images:
            raise self._too_small(len(places) // count)

    def batches(self, position: Position) -> Iterator[Batch]:
        """Yield batches from a position on. Reading and decoding go on while the caller works."""
        with ThreadPoolExecutor(1) as reading, ThreadPoolExecutor(self.config.threads) as decoding:
            windows = _ahead(self._windows(position), reading, 1)
            images = (one for window in windows for one in window)
            decoded = _mapped(self._decoded, images, decoding, self.config.batches_ahead * self.batch_images)
            try:
                yield from self._grouped(decoded, position)
            finally:
                for pool in (decoding, reading):
                    pool.shutdown(wait=False, cancel_futures=True)

    def _grouped(self, decoded: Iterator[tuple[DecodedRows | None, Position]], start: Position) -> Iterator[Batch]:
        """Batches of usable images; what is left of an epoch when it ends goes into the next one's first batch."""
        found: list[DecodedRows] = []
        epoch, usable, is_whole, barren = start.epoch, 0, not start.taken, 0
        while True:
            started = time.perf_counter()
            one, after = next(decoded)
            self.waiting_s += time.perf_counter() - started
            if after.epoch != epoch:
                barren = 0 if usable or not is_whole else barren + 1
                if is_whole and ((self.count == 1 and usable < self.batch_images) or barren == _BARREN_EPOCHS):
                    raise self._too_small(usable)
                epoch, usable, is_whole = after.epoch, 0, True
            if one is not None:
                usable += 1
                found.append(one)
            if len(found) == self.batch_images:
                yield Batch(tuple(found), after)
                found = []

    def _too_small(self, usable: int) -> UserError:
        whose = f" of worker {self.rank + 1} of {self.count}" if self.count > 1 else ""
        paths = ", ".join(self.source.config.source.paths)
        why = "; ".join(in_words(part) for part in self.source.left_out)
        return UserError(
            f"{paths}: {usable} usable images to learn from{whose} are fewer than one step takes, {self.batch_images}; "
            f"lower optimizer.batch_images or add images{f' (left out: {why})' if why else ''}"
        )

    def _decoded(self, one: tuple[ImageRows | None, Position]) -> tuple[DecodedRows | None, Position]:
        image, after = one
        if image is None:
            return None, after
        rows = self._chosen(image.rows, after.epoch)
        return self.source.decode(ImageRows(image.image, rows)), after

    def _chosen(self, rows: Sequence[Row], epoch: int) -> tuple[Row, ...]:
        """Return the rows of an image for this epoch, with one target each; a function of (seed, epoch, image)."""
        first = rows[0]
        seed = (self.source.config.seed, epoch, *f"{first.shard}/{first.key}".encode("utf-8", "surrogatepass"))
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(rows))[: self.rows_per_image]
        return tuple(
            replace(rows[i], targets=(rows[i].targets[int(rng.integers(len(rows[i].targets)))],)) for i in sorted(order)
        )

    def _windows(self, position: Position) -> Iterator[list[tuple[ImageRows | None, Position]]]:
        """Yield what is read together, in the order of the epochs, from a position on."""
        for epoch in itertools.count(position.epoch):
            skip = position.taken if epoch == position.epoch else 0
            end = 0
            for window in self._order(epoch):
                start, end = end, end + len(window)
                if end <= skip:
                    continue
                wanted = window[max(0, skip - start) :]
                first = end - len(wanted)
                by_place = sorted(range(len(wanted)), key=lambda i: (wanted[i].shard, wanted[i].sample.row))
                images: list[ImageRows | None] = [None] * len(wanted)
                read = self.source.read([wanted[i] for i in by_place], self.label)
                for i, image in zip(by_place, read, strict=True):
                    images[i] = image
                yield [(image, Position(epoch, first + n + 1)) for n, image in enumerate(images)]

    def _order(self, epoch: int) -> Iterator[list[Place]]:
        """Yield this worker's images of an epoch, mixed within windows of `shuffle_images`."""
        rng = np.random.default_rng((self.source.config.seed, epoch))
        units = [self._units[i] for i in rng.permutation(len(self._units))]
        own = units[self.rank :: self.count]
        if len(units) < self.count:  # fewer than workers: each takes some images of every one
            own = [unit[self.rank :: self.count] for unit in units]
        rng = np.random.default_rng((self.source.config.seed, epoch, self.rank))
        window: list[Place] = []
        for place in itertools.chain.from_iterable(own):
            window.append(place)
            if len(window) == self.config.shuffle_images:
                yield [window[i] for i in rng.permutation(len(window))]
                window = []
        if window:
            yield [window[i] for i in rng.permutation(len(window))]


def _ahead(items: Iterator[Item], pool: ThreadPoolExecutor, count: int) -> Iterator[Item]:
    """Yield the items, so many of them made before they are asked for, by the pool's one thread."""
    end = object()
    waiting: deque[Future[object]] = deque(pool.submit(next, items, end) for _ in range(count))
    while True:
        waiting.append(pool.submit(next, items, end))
        item = waiting.popleft().result()
        if item is end:
            return
        yield cast(Item, item)


def _mapped(
    function: Callable[[Item], Made], items: Iterator[Item], pool: ThreadPoolExecutor, count: int
) -> Iterator[Made]:
    """Yield the function of every item, in order, with up to `count` of them under way."""
    under_way: deque[Future[Made]] = deque()
    for item in items:
        under_way.append(pool.submit(function, item))
        if len(under_way) > count:
            yield under_way.popleft().result()
    while under_way:
        yield under_way.popleft().result()
