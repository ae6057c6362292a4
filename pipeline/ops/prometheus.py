"""What a running job exports to Prometheus through Ray's metrics, which put `ray_` before and `_total` after counters.

Engines count what they do; the driver says where the run is. Every series has the tag `run`, the output's path. Every
node of the cluster serves its own; Ray writes their addresses into a file for Prometheus's service discovery.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from conf.schema import CostConfig

if TYPE_CHECKING:
    from pipeline.driver import Progress  # which imports readers, and the actors need none

# fmt: off
# name -> (kind, tags beside `run`, what it is)
METRICS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "deed_rows":              ("counter", ("outcome",),    "Rows committed; outcome is ok or error."),
    "deed_error_rows":        ("counter", ("error_type",), "Rows that failed, by stage/error_type."),
    "deed_tokens":            ("counter", (),              "Decoding steps, end-of-sequence included."),
    "deed_layers":            ("counter", (),              "Layers those steps left at; by tokens: mean depth."),
    "deed_segment_visits":    ("counter", ("segment",),    "Times a segment ran."),
    "deed_segment_rows":      ("counter", ("segment",),    "Sequences in those runs: by visits, the batch size."),
    "deed_engine_seconds":    ("counter", ("kind",),       "Engine time by kind: encode, decode, gate, host, idle."),
    "deed_slots_in_use":      ("gauge",   ("actor",),      "Mean share of an engine's slots in use, last window."),
    "deed_images_per_second": ("gauge",   (),              "Rows per second of this start, once warm."),
    "deed_mean_depth":        ("gauge",   (),              "Decoder layers a token, of this start."),
    "deed_computed_depth":    ("gauge",   (),              "Decoder layers computed for a token, of this start."),
    "deed_progress":          ("gauge",   (),              "Share of the source that is done, by bytes."),
    "deed_seconds_left":      ("gauge",   (),              "Estimated time to the end."),
    "deed_shards":            ("gauge",   ("state",),      "Shards; state is published or all."),
    "deed_audited_images":    ("gauge",   (),              "Images decoded at full depth too, of the whole output."),
    "deed_audit_loss":        ("gauge",   (),              "Their mean loss for leaving early, 0 to 1."),
    "deed_promise_broken":    ("gauge",   (),              "1 once the audit has found the promise broken, else 0."),
    "deed_cost":              ("gauge",   ("currency",),   "Money spent by this start, where a price is set."),
}
# fmt: on


class Series:
    """The metrics of one process, made when first used; silent where Ray does not run."""

    def __init__(self, run: str, make: Callable[[str], Any] | None = None) -> None:
        self._run = run
        self._make = make if make is not None else _ray_metric if _ray_runs() else None
        self._made: dict[str, Any] = {}

    def add(self, name: str, value: float, **tags: str) -> None:
        """Add to a counter; adding 0 does nothing."""
        if value > 0 and (metric := self._metric(name)) is not None:
            metric.inc(value, tags={"run": self._run, **tags})

    def set(self, name: str, value: float | None, **tags: str) -> None:
        """Set a gauge; what is unknown is not set."""
        if value is not None and (metric := self._metric(name)) is not None:
            metric.set(value, tags={"run": self._run, **tags})

    def _metric(self, name: str) -> Any:
        if self._make is None:
            return None
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]


class EngineMeter:
    """What one actor exports."""

    def __init__(self, run: str, actor: str, series: Series | None = None) -> None:
        self._actor, self._series = actor, Series(run) if series is None else series

    def chunk(self, summary: Mapping[str, Any]) -> None:
        """A committed chunk (tables.SUMMARY)."""
        self._series.add("deed_rows", summary["num_rows"] - summary["num_errors"], outcome="ok")
        self._series.add("deed_rows", summary["num_errors"], outcome="error")
        self._series.add("deed_layers", summary["num_layers_run"])
        self._series.add("deed_tokens", summary["num_steps"])
        for error_type, count in json.loads(summary["error_types"]).items():
            self._series.add("deed_error_rows", count, error_type=error_type)

    def window(self, stats: Any) -> None:
        """A closed window of the engine."""
        for segment, (visits, rows) in enumerate(zip(stats.segment_visits, stats.segment_rows, strict=True)):
            self._series.add("deed_segment_visits", visits, segment=str(segment + 1))
            self._series.add("deed_segment_rows", rows, segment=str(segment + 1))
        for kind in ("encode", "decode", "gate", "host"):
            self._series.add("deed_engine_seconds", getattr(stats, f"{kind}_s"), kind=kind)
        self._series.add("deed_engine_seconds", stats.end_s - stats.start_s - stats.busy_s, kind="idle")
        self._series.set("deed_slots_in_use", stats.occupancy, actor=self._actor)


class DriverMeter:
    """What the driver exports, whenever it tells its progress; `then` hears of it afterwards."""

    def __init__(
        self,
        run: str,
        cost: CostConfig,
        *,
        then: "Callable[[Progress], None]" = lambda _: None,
        series: Series | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._series, self._cost, self._then = Series(run) if series is None else series, cost, then
        self._clock, self._start_s = clock, clock()

    def __call__(self, progress: "Progress") -> None:
        self._series.set("deed_images_per_second", progress.rows_per_s)
        self._series.set("deed_mean_depth", progress.mean_depth)
        self._series.set("deed_computed_depth", progress.computed_depth)
        self._series.set("deed_progress", progress.fraction)
        self._series.set("deed_seconds_left", progress.eta_s)
        self._series.set("deed_shards", progress.num_shards_published, state="published")
        self._series.set("deed_shards", progress.num_shards, state="all")
        if progress.audit is not None:
            self._series.set("deed_audited_images", progress.audit.num_images)
            self._series.set("deed_audit_loss", progress.audit.mean_loss)
            broken = progress.audit.broken
            self._series.set("deed_promise_broken", None if broken is None else float(broken))
        if self._cost.price_per_hour is not None:
            spent = self._cost.price_per_hour * (self._clock() - self._start_s) / 3600
            self._series.set("deed_cost", spent, currency=self._cost.currency)
        self._then(progress)


def _ray_runs() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _ray_metric(name: str) -> Any:
    from ray.util.metrics import Counter, Gauge

    kind, tags, description = METRICS[name]
    return (Counter if kind == "counter" else Gauge)(name, description, ("run", *tags))
