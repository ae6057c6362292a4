"""Device time and money: where each reserved second went, what an image costs, and whether the parts make the whole."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.report.engine_scan import EngineScan
from pipeline.report.sketch import Sketch

TOLERANCE = 0.01  # of the allocated time
_OVERLAP = 1.001  # parts may exceed the whole by rounding


@dataclass(frozen=True)
class DeviceTime:
    """Actor-seconds. allocated = attributed + audit + unattributed + idle + load, if every second is accounted for."""

    allocated_s: float | None  # reserved, from the start of the command to its end
    busy_s: float | None  # engines working, by their own clocks
    attributed_s: float  # of that, charged to rows that were captioned
    unattributed_s: float | None  # of that, charged to none: rows that failed or were done twice
    load_s: float | None  # starting models
    idle_s: float | None  # reserved, but neither working nor loading
    idle_in_windows_s: float | None  # of that, engines up and waiting for rows
    utilization: float | None  # busy / allocated
    parts_s: Mapping[str, float]  # where allocated time went: encode, decode, gate, .., idle, load
    gap: float | None  # |attributed + audit + idle + load - allocated| / allocated
    closes: bool | None  # gap within TOLERANCE, and no part negative
    audit_s: float = 0.0  # of busy time, full depth asked beside early exit; charged to no row


@dataclass(frozen=True)
class Cost:
    """Money in `currency`; error rows are paid for by those that succeeded."""

    price_per_hour: float | None
    currency: str
    source: str | None
    date: str | None
    total: float | None
    per_1000_images: float | None
    per_million_tokens: float | None
    device_s_per_image: float | None
    device_s_per_image_error: float | None  # half-width of the 95 % interval
    failed_rows: float | None = None  # of the total, if every row that was read cost the same


def device_time_of(
    *, allocated_s: float | None, attributed_s: float, engine: EngineScan, audit_s: float = 0.0
) -> DeviceTime:
    busy_s, load_s = engine.busy_s, engine.model_load_s
    idle_s = gap = None
    closes = None
    if allocated_s is not None and busy_s is not None:
        idle_s = allocated_s - busy_s - (load_s or 0.0)
        gap = (
            abs(attributed_s + audit_s + idle_s + (load_s or 0.0) - allocated_s) / allocated_s if allocated_s else None
        )
        closes = None if gap is None else gap <= TOLERANCE and idle_s >= -TOLERANCE * allocated_s
    return DeviceTime(
        allocated_s=allocated_s,
        busy_s=busy_s,
        attributed_s=attributed_s,
        unattributed_s=None if busy_s is None else busy_s - attributed_s - audit_s,
        load_s=load_s,
        idle_s=idle_s,
        idle_in_windows_s=None if engine.window_s is None or busy_s is None else max(0.0, engine.window_s - busy_s),
        utilization=busy_s / allocated_s if busy_s is not None and allocated_s else None,
        parts_s=_parts(engine, idle_s),
        gap=gap,
        closes=closes,
        audit_s=audit_s,
    )


def _parts(engine: EngineScan, idle_s: float | None) -> dict[str, float]:
    """Return where the time went, in the order of the work; busy time is one part if its own parts overlap."""
    if engine.busy_s is None:
        return {}
    kinds = {"encode": engine.encode_s, "decode": engine.decode_s, "gate": engine.gate_s, "host": engine.host_s}
    work = {kind: seconds for kind, seconds in kinds.items() if seconds}
    rest_s = engine.busy_s - sum(work.values())
    parts = {"busy": engine.busy_s} if sum(work.values()) > engine.busy_s * _OVERLAP else work
    if "busy" not in parts and rest_s > 0.001 * engine.busy_s:
        parts["other"] = rest_s
    if idle_s is not None and engine.window_s is not None:
        waiting_s = max(0.0, min(idle_s, engine.window_s - engine.busy_s))
        parts |= {"waiting": waiting_s, "start and end": max(0.0, idle_s - waiting_s)}
    if engine.model_load_s is not None:
        parts["load"] = engine.model_load_s
    return {kind: seconds for kind, seconds in parts.items() if seconds > 0}


def cost_of(
    price: Mapping[str, Any],
    wall_s: float | None,
    *,
    rows_ok: int,
    rows_error: int,
    num_tokens: int,
    device_s: Sketch,
) -> Cost:
    per_hour = price.get("price_per_hour")
    total = None if per_hour is None or wall_s is None else per_hour * wall_s / 3600
    error = device_s.standard_error
    return Cost(
        price_per_hour=per_hour,
        currency=price.get("currency") or "USD",
        source=price.get("source"),
        date=price.get("date"),
        total=total,
        per_1000_images=None if total is None or not rows_ok else total / rows_ok * 1e3,
        per_million_tokens=None if total is None or not num_tokens else total / num_tokens * 1e6,
        device_s_per_image=device_s.mean,
        device_s_per_image_error=None if error is None else 1.96 * error,
        failed_rows=None if total is None or not rows_ok + rows_error else total * rows_error / (rows_ok + rows_error),
    )
