"""Sums of a run -> the numbers of its report."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from conf.resolve import exits_that_can_fire
from pipeline.report.audit import audit_of
from pipeline.report.compare import recorded_comparison
from pipeline.report.cost import cost_of, device_time_of
from pipeline.report.engine_scan import FullDepthScan
from pipeline.report.quality import Quality
from pipeline.report.report_schema import (
    Check,
    Depth,
    ErrorKind,
    Exits,
    FullDepthEstimate,
    Identity,
    Outcome,
    Quantiles,
    RunNumbers,
    Segment,
    Speed,
)
from pipeline.report.scan import RunScan
from pipeline.report.sketch import Sketch
from pipeline.report.work import computed_depth, work_of
from pipeline.source.left_out import from_dicts

_MIN_STEPS_AT_POSITION = 5  # fewer say nothing about a position


def numbers_of(scan: RunScan, quality: Quality | None = None) -> RunNumbers:
    record = scan.record or {}
    audit = audit_of(record)
    outcome = _outcome(scan, record)
    wall_s = _get(record, "time", "wall_s")
    num_tokens = int(scan.results.sketches["num_tokens"].total)
    device_time = device_time_of(
        allocated_s=_get(record, "device", "allocated_s"),
        attributed_s=scan.results.sketches["device_s"].total if outcome.rows_ok else 0.0,
        engine=scan.engine,
        audit_s=0.0 if audit is None else audit.device_s,
    )
    return RunNumbers(
        name=scan.url.rstrip("/").rsplit("/", 1)[-1],
        identity=_identity(scan, record),
        outcome=outcome,
        speed=_speed(scan, record, outcome.rows_ok, num_tokens, wall_s),
        tokens=quantiles_of(scan.results.sketches["num_tokens"]),
        latency={
            name: quantiles_of(scan.results.sketches[name]) for name in ("e2e_s", "ttft_s", "queue_wait_s", "decode_s")
        },
        exits=_exits(scan, record),
        device_time=device_time,
        cost=cost_of(
            record.get("cost") or {},
            wall_s,
            rows_ok=outcome.rows_ok,
            rows_error=outcome.rows_error,
            num_tokens=num_tokens,
            device_s=scan.results.sketches["device_s"],
        ),
        errors=_errors(scan, outcome.rows_read),
        quality=quality,
        against_full_depth=recorded_comparison(scan.full_depth_sample),
        full_depth_estimate=_estimate(scan.engine.full_depth),
        audit=audit,
    )


def _estimate(scan: FullDepthScan | None) -> FullDepthEstimate | None:
    if scan is None or scan.full_depth_s <= 0:
        return None
    device_s = scan.busy_s - scan.decoder_s + scan.full_depth_s
    return FullDepthEstimate(1 - scan.decoder_s / scan.full_depth_s, 1 - scan.busy_s / device_s)


def quantiles_of(sketch: Sketch) -> Quantiles:
    p50, p90, p99 = (sketch.quantile(share) for share in (0.5, 0.9, 0.99))
    highest = sketch.high if sketch.count else None
    return Quantiles(sketch.count, sketch.mean, p50, p90, p99, highest, tuple(sketch.histogram()))


def _outcome(scan: RunScan, record: Mapping[str, Any]) -> Outcome:
    counts = record.get("counts") or {}
    errors_of_rows = scan.errors.num_rows - scan.errors.num_shard_rows
    rows_ok, rows_error = counts.get("rows_ok", scan.results.num_rows), counts.get("rows_error", errors_of_rows)
    rows_read = counts.get("rows_read", rows_ok + rows_error)
    shard_errors = counts.get("shard_errors", scan.errors.num_shard_rows)
    checks = (
        _sum_check("rows read = done + failed", rows_read, {"done": rows_ok, "failed": rows_error}),
        _file_check("results/ holds the rows that are done", rows_ok, scan.results.num_rows, known=bool(counts)),
        _file_check(
            "errors/ holds the rows that failed", rows_error + shard_errors, scan.errors.num_rows, known=bool(counts)
        ),
    )
    return Outcome(
        status=record.get("status") or "unfinished",
        message=record.get("message"),
        shards=counts.get("shards"),
        shards_published=counts.get("shards_published", scan.num_published),
        samples=counts.get("samples"),
        rows_read=rows_read,
        rows_ok=rows_ok,
        rows_error=rows_error,
        shard_errors=shard_errors,
        rows_truncated=scan.results.finish_reasons["length"],
        rows_looped=scan.results.num_looping,
        rows_retried=scan.errors.num_retried,
        left_out=from_dicts(record.get("left_out") or ()),
        checks=checks,
    )


def _sum_check(name: str, total: int, parts: Mapping[str, int]) -> Check:
    text = " + ".join(f"{count:,} {part}" for part, count in parts.items())
    return Check(name, total == sum(parts.values()), f"{total:,} read, {text}")


def _file_check(name: str, expected: int, found: int, *, known: bool) -> Check:
    return Check(name, expected == found if known else None, f"{expected:,} counted, {found:,} in the files")


def _identity(scan: RunScan, record: Mapping[str, Any]) -> Identity:
    invocations = _get(record, "time", "invocations")
    return Identity(
        url=scan.url,
        command=tuple(record.get("command") or ()),
        config=record.get("config") or {},
        config_hash=record.get("config_hash"),
        weights_sha256=record.get("weights_sha256"),
        devices=tuple(_get(record, "device", "devices") or scan.engine.devices),
        start_utc=_get(record, "time", "start_utc"),
        end_utc=_get(record, "time", "end_utc"),
        num_invocations=None if invocations is None else len(invocations),
        hardware=record.get("hardware") or {},
        versions=record.get("versions") or {},
        energy=record.get("energy"),
    )


def _speed(scan: RunScan, record: Mapping[str, Any], rows_ok: int, num_tokens: int, wall_s: float | None) -> Speed:
    engine = scan.engine
    num_actors = _get(record, "device", "num_actors") or engine.num_actors or None
    images_per_s = _ratio(rows_ok, wall_s)
    decoder_s = None if engine.decode_s is None else engine.decode_s + (engine.gate_s or 0.0)
    return Speed(
        wall_s=wall_s,
        images_per_s=images_per_s,
        images_per_s_steady=_ratio(engine.num_completed - (_get(record, "audit", "rows") or 0), engine.span_s),
        images_per_s_per_actor=_ratio(images_per_s, num_actors),
        tokens_per_s=_ratio(num_tokens, wall_s),
        num_actors=num_actors,
        occupancy=engine.occupancy,
        decoder_share=_ratio(decoder_s, engine.busy_s),
        segments=_segments(scan, record),
        kv_cache_bytes=engine.kv_cache_bytes,
        involuntary_exits=engine.involuntary_exits,
        timeline=engine.timeline,
    )


def _segments(scan: RunScan, record: Mapping[str, Any]) -> tuple[Segment, ...]:
    engine, exits = scan.engine, _reachable_exits(record)
    count = len(engine.segment_visits)
    bounds = [0, *exits] if len(exits) == count else [None] * (count + 1)
    segments = []
    for i, (visits, rows) in enumerate(zip(engine.segment_visits, engine.segment_rows, strict=True)):
        first, last = bounds[i], bounds[i + 1]
        positions, seconds = engine.segment_positions[i : i + 1], engine.segment_s[i : i + 1]
        segments.append(
            Segment(
                first_layer=None if first is None else first + 1,
                last_layer=last,
                visits=visits,
                mean_rows=_ratio(rows, visits),
                mean_positions=_ratio(sum(positions), visits),
                seconds=sum(seconds),
            )
        )
    return tuple(segments)


def _reachable_exits(record: Mapping[str, Any]) -> list[int]:
    """Return the layers a token could leave at."""
    config = _get(record, "config", "engine") or {}
    exits, thresholds = config.get("exits") or [], config.get("thresholds")
    if config.get("schedule") == "full":
        return exits[-1:]
    return [*exits_that_can_fire(exits, thresholds), *exits[-1:]] if thresholds else exits


def _exits(scan: RunScan, record: Mapping[str, Any]) -> Exits:
    results = scan.results
    num_layers = _get(record, "device", "num_layers")
    num_steps = int(results.depth_steps.sum())
    work = work_of(_get(record, "config", "engine") or {})

    left = float((results.depth_steps * np.arange(results.depth_steps.size)).sum())
    computed = computed_depth(results.caught_up_layers, left, num_steps, work, num_layers)
    enough = min(_MIN_STEPS_AT_POSITION, max(1, results.num_rows))
    sums = zip(results.position_caught_up, results.position_layers, results.position_steps, strict=True)
    positions = [(i, float(c), float(d), int(steps)) for i, (c, d, steps) in enumerate(sums) if steps >= enough]
    used = {int(layer) for layer in np.flatnonzero(results.depth_steps)}
    layers = sorted(used | set(_reachable_exits(record)))
    return Exits(
        num_layers=num_layers,
        num_steps=num_steps,
        mean_depth=_ratio(left, num_steps),
        computed_depth=computed,
        layers_saved=None if computed is None or not num_layers else 1 - computed / num_layers,
        histogram=tuple(
            Depth(
                layer=layer,
                steps=(steps := int(results.depth_steps[layer])),
                share=steps / num_steps if num_steps else 0.0,
                mean_confidence=_ratio(float(results.depth_confidence[layer]), steps),
            )
            for layer in layers
        ),
        by_position=tuple((i, left / steps, steps) for i, _, left, steps in positions),
        computed_by_position=tuple(
            computed_depth(caught_up, left, steps, work, num_layers) for _, caught_up, left, steps in positions
        ),
        per_image=quantiles_of(results.sketches["mean_depth"]),
    )


def _errors(scan: RunScan, rows_read: int) -> tuple[ErrorKind, ...]:
    kinds = sorted(scan.errors.kinds.items(), key=lambda item: (-item[1].count, item[0]))
    return tuple(
        ErrorKind(
            stage, error_type, k.count, k.count / rows_read if rows_read else 0.0, k.sample_id, k.message, k.attempts
        )
        for (stage, error_type), k in kinds
    )


def _get(record: Mapping[str, Any], *path: str) -> Any:
    """Return a nested value; None where anything on the way is missing."""
    value: Any = record
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None
