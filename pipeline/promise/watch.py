"""The driver's side of the audit: losses come in chunk by chunk, and an alarm goes out when a promise is broken.

What it knows is rebuilt from storage at every start: published files have what was found in them in their metadata, and
staged chunks have it in their rows. An alarm is kept, in a file of its own: nothing that comes later takes it back.
"""

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

from conf.checkpoint_info import CheckpointInfo
from conf.guarantee import Guarantee
from conf.schema import BrokenPromise, JobConfig
from pipeline.metrics.intervals import wilson_interval
from pipeline.output.ledger import STATE, Ledger
from pipeline.output.publish import RESULTS, Counts, published_name
from pipeline.output.staging import read_chunk
from pipeline.output.storage import Storage
from pipeline.promise.choice import AuditPlan
from pipeline.promise.losses import METADATA, NOTHING, Audited, audited
from pipeline.promise.wealth import Wealth, images_to_see

ALARM_NAME = f"{STATE}/audit.json"
USUAL_DELTA = 0.05  # probability of a false alarm, where a promise comes without one of its own
_THREADS = 16
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Alarm:
    """When a promise was found to be broken."""

    images: int  # audited until then
    rows: int  # decoded until then, audited or not
    utc: str


@dataclass(frozen=True, slots=True)
class AuditState:
    """Where the audit is. `broken`: None where nothing was promised."""

    num_images: int
    mean_loss: float | None
    broken: bool | None


class Watch:
    """What the audit of an output has found, earlier starts of the command included."""

    def __init__(
        self, storage: Storage, plan: AuditPlan, promise: Guarantee | None = None,
        reaction: BrokenPromise = BrokenPromise.WARN,
    ) -> None:  # fmt: skip
        self.plan, self.promise, self.reaction, self._storage = plan, promise, reaction, storage
        self.wealth = None
        if promise is not None:
            self.wealth = Wealth(promise.risk, USUAL_DELTA if promise.level is None else 1 - promise.level)
        self.alarm: Alarm | None = None
        self._num_images = self._num_followed = self._num_rows = self._num_fallback_rows = self._num_twice = 0
        self._loss = self._device_s = 0.0
        self._taken: dict[str, set[int]] = {}  # shard -> chunks that have been counted
        self._flag: Any = None

    @classmethod
    def resume(cls, config: JobConfig, info: CheckpointInfo, storage: Storage, ledger: Ledger) -> "Watch | None":
        """Return the watch over an output with what is in it; None where nothing is audited."""
        plan = AuditPlan.of(config, info)
        if plan is None:
            return None
        watch = cls(storage, plan, info.promise, config.audit.on_broken_promise)
        kept = storage.read_json(ALARM_NAME)
        watch.alarm = None if kept is None else Alarm(kept["images"], kept["rows"], kept["utc"])
        with ThreadPoolExecutor(_THREADS) as pool:
            for found, num_rows in pool.map(lambda name: published_audit(storage, name), sorted(ledger.published)):
                watch._add(found, num_rows)
            chunks = [(name, chunk) for name in sorted(ledger.started) for chunk in sorted(ledger.open[name].staged)]
            for place, rows in zip(chunks, pool.map(lambda place: read_chunk(storage, *place), chunks), strict=True):
                if rows is not None:
                    watch._take(*place, audited(rows), rows.num_rows)
        return watch

    def follow(self, flag: Any) -> None:
        """`flag`: the handle that is told of an alarm (choice.Flag), if there is one."""
        self._flag = flag
        self._tell()

    @property
    def stops(self) -> bool:
        """Whether the run must end now."""
        return self.alarm is not None and self.reaction is BrokenPromise.STOP

    def take(self, summary: dict[str, Any]) -> bool:
        """Take a committed chunk in (tables.SUMMARY); return whether it raises the alarm."""
        found = NOTHING if summary["audit"] is None else Audited.from_json(summary["audit"])
        raised = self._take(summary["shard"], summary["chunk"], found, summary["num_rows"])
        if not found.num_fallback_rows:
            self._tell()  # again and again: the flag may have been lost with its node
        return raised

    def _tell(self) -> None:
        if self.alarm is not None and self._flag is not None:
            self._flag.hoist.remote()

    def _take(self, shard: str, chunk: int, found: Audited, num_rows: int) -> bool:
        """Count a chunk once, however often it is heard of; return whether it raises the alarm."""
        counted = self._taken.setdefault(shard, set())
        if chunk in counted:
            return False
        counted.add(chunk)
        return self._add(found, num_rows)

    def _add(self, found: Audited, num_rows: int) -> bool:
        self._num_images += len(found.losses)
        self._loss += sum(found.losses)
        self._device_s += found.device_s
        self._num_followed += found.num_followed
        self._num_fallback_rows += found.num_fallback_rows
        self._num_twice += found.num_twice
        self._num_rows += num_rows
        if self.wealth is None:
            return False
        self.wealth.take(found.losses)
        if self.alarm is not None or self.wealth.alarm_at is None:
            return False
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self.alarm = Alarm(self.wealth.alarm_at, self._num_rows - self._num_fallback_rows, now)
        self._storage.write_json(ALARM_NAME, asdict(self.alarm))
        return True

    @property
    def state(self) -> AuditState:
        broken = None if self.promise is None else self.alarm is not None
        return AuditState(self._num_images, self._mean, broken)

    @property
    def sentence(self) -> str:
        """What the alarm says."""
        assert self.promise is not None
        assert self.wealth is not None
        assert self.alarm is not None
        said = (
            f"the promise of early exit is broken, by {self.alarm.images:,} audited images: a mean loss "
            f"({self.plan.loss}) of at most {self.promise.risk:.2%} was promised, observed are {self._mean:.2%} "
            f"({self._low:.2%} to {self._high:.2%}); where it is kept, that is said with a probability of at most "
            f"{self.wealth.delta:.2g}"
        )
        if self.reaction is BrokenPromise.FULL_DEPTH:
            said += f"; chunks that follow are decoded at full depth, {self.alarm.rows:,} rows were not"
        return said

    @property
    def _mean(self) -> float | None:
        return self._loss / self._num_images if self._num_images else None

    @property
    def _low(self) -> float:
        return wilson_interval(self._loss, self._num_images)[0]

    @property
    def _high(self) -> float:
        return wilson_interval(self._loss, self._num_images)[1]

    def content(self, busy_s: float | None) -> dict[str, Any]:
        """Return the part of run.json; `busy_s`: of all engines."""
        return {
            "fraction": self.plan.fraction,
            "loss": self.plan.loss,
            "promise": None if self.promise is None else self._promised(self.promise),
            "images": self._num_images,
            "rows": self._num_twice,
            "mean_loss": self._mean,
            "low": self._low if self._num_images else None,
            "high": self._high if self._num_images else None,
            "images_after_fallback": self._num_followed,
            "rows_after_fallback": self._num_fallback_rows,
            "device_s": self._device_s,
            "device_share": self._device_s / busy_s if busy_s else None,
        }

    def _promised(self, promise: Guarantee) -> dict[str, Any]:
        assert self.wealth is not None
        needed = images_to_see(promise.risk, 2 * promise.risk, self.wealth.delta)
        return {
            **{name: getattr(promise, name) for name in ("method", "loss", "risk", "level", "observed", "bound")},
            "on_broken_promise": self.reaction.value,
            "wealth": self.wealth.value,
            "alarm_wealth": 1 / self.wealth.delta,
            "images_to_see_double": needed,
            "images_missing": None if needed is None else max(0, needed - self._num_images),
            "alarm": None if self.alarm is None else asdict(self.alarm),
        }


def published_audit(storage: Storage, shard_name: str) -> tuple[Audited, int]:
    """Return what was found in a published shard, and its rows."""
    metadata = storage.read_metadata(published_name(RESULTS, shard_name))
    found = metadata.get(METADATA)
    return NOTHING if found is None else Audited.from_json(found), Counts.from_json(metadata[b"deed.counts"]).num_rows
