"""engine_stats/ -> busy time by kind of work, work by segment, and the pace of the run over time."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.report.sketch import floats
from pipeline.report.work import of_kept_tokens

_TIMELINE_BINS = 60
_SUMS = ("busy_s", "encode_s", "decode_s", "gate_s", "host_s")


@dataclass(frozen=True)
class FullDepthScan:
    """Sums over the windows whose engine estimated what full depth takes, in actor-seconds."""

    busy_s: float
    decoder_s: float  # of that, in visits to segments
    full_depth_s: float  # what those visits would have taken at full depth, for the same tokens


@dataclass(frozen=True)
class EngineScan:
    """Sums over all windows of all actors; every time is in actor-seconds. None where there are no statistics."""

    num_actors: int = 0
    devices: tuple[str, ...] = ()
    window_s: float | None = None
    busy_s: float | None = None
    encode_s: float | None = None
    decode_s: float | None = None
    gate_s: float | None = None
    host_s: float | None = None
    num_completed: int = 0
    model_load_s: float | None = None  # summed over the starts of actors
    span_s: float | None = None  # wall time from the first window to the last, summed over invocations
    occupancy: float | None = None  # mean share of slots in use, while busy
    segment_visits: tuple[int, ...] = ()
    segment_rows: tuple[int, ...] = ()
    segment_positions: tuple[int, ...] = ()
    segment_s: tuple[float, ...] = ()
    full_depth: FullDepthScan | None = None  # None: no engine knew
    kv_cache_bytes: int | None = None  # largest of one actor
    involuntary_exits: int | None = None
    timeline: tuple[tuple[float, float], ...] = field(default=())  # seconds of work, finished requests per second


def scan_engine_stats(tables: Sequence[pa.Table]) -> EngineScan:
    tables = [table for table in tables if table.num_rows]
    if not tables:
        return EngineScan()
    table = pa.concat_tables(tables)
    columns = {name: floats(table[name]) for name in (*_SUMS, "num_completed", "occupancy")}
    start_s, end_s = _seconds(table["start_utc"]), _seconds(table["end_utc"])
    loads = floats(table["model_load_s"])
    loads = loads[np.isfinite(loads)]
    occupancy, busy_s = columns["occupancy"], columns["busy_s"]
    known = np.isfinite(occupancy) & (busy_s > 0)
    clock = _Clock.of(table["invocation"], start_s, end_s)
    return EngineScan(
        num_actors=pc.count_distinct(table["actor"]).as_py(),
        devices=tuple(sorted(device for device in pc.unique(table["device"]).to_pylist() if device is not None)),
        window_s=float((end_s - start_s).sum()),
        **{name: float(np.nansum(columns[name])) for name in _SUMS},
        num_completed=int(np.nansum(columns["num_completed"])),
        model_load_s=float(loads.sum()) if loads.size else None,
        span_s=clock.total_s,
        occupancy=float(np.average(occupancy[known], weights=busy_s[known])) if known.any() else None,
        segment_visits=tuple(int(n) for n in _by_segment(table["segment_visits"])),
        segment_rows=tuple(int(n) for n in _by_segment(table["segment_rows"])),
        segment_positions=tuple(int(n) for n in _by_segment(table["segment_positions"])),
        segment_s=tuple(float(s) for s in _by_segment(table["segment_s"])),
        full_depth=_full_depth(table),
        kv_cache_bytes=pc.max(table["kv_cache_bytes"]).as_py(),
        involuntary_exits=pc.sum(table["involuntary_exits"]).as_py(),
        timeline=_timeline(clock, columns["num_completed"]),
    )


def _full_depth(table: pa.Table) -> FullDepthScan | None:
    known = table.filter(pc.is_valid(table["full_depth_s"]))
    if not known.num_rows:
        return None
    rows, num_tokens = _by_segment(known["segment_rows"])[:1].sum(), pc.sum(known["num_tokens"]).as_py() or 0
    return FullDepthScan(
        busy_s=float(np.nansum(floats(known["busy_s"]))),
        decoder_s=float(_by_segment(known["segment_s"]).sum()),
        full_depth_s=of_kept_tokens(float(np.nansum(floats(known["full_depth_s"]))), num_tokens, int(rows)),
    )


def _by_segment(column: pa.ChunkedArray) -> np.ndarray:
    """Lists, one entry per segment, summed entry by entry."""
    lists = pa.concat_arrays(column.chunks)
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    values = np.nan_to_num(floats(lists.flatten()))
    segments = np.arange(values.size) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.bincount(segments, weights=values) if values.size else np.zeros(0)


@dataclass(frozen=True)
class _Clock:
    """The windows on one time axis from which the pauses between invocations are cut out."""

    start_s: np.ndarray
    end_s: np.ndarray
    total_s: float

    @classmethod
    def of(cls, invocations: pa.ChunkedArray, start_s: np.ndarray, end_s: np.ndarray) -> "_Clock":
        encoded = pc.dictionary_encode(pc.fill_null(invocations, "")).combine_chunks()
        codes, count = encoded.indices.to_numpy(zero_copy_only=False), len(encoded.dictionary)
        begins, ends = np.full(count, np.inf), np.full(count, -np.inf)
        np.minimum.at(begins, codes, start_s)
        np.maximum.at(ends, codes, end_s)
        by_time = np.argsort(begins)
        spans = (ends - begins)[by_time]
        shifts = np.empty(count)
        shifts[by_time] = np.cumsum(spans) - spans - begins[by_time]
        return cls(start_s + shifts[codes], end_s + shifts[codes], float(spans.sum()))


def _timeline(clock: _Clock, completed: np.ndarray) -> tuple[tuple[float, float], ...]:
    """(seconds of work, finished requests per second); each window spreads its requests evenly over its length."""
    if clock.total_s <= 0:
        return ()
    edges = np.linspace(0, clock.total_s, _TIMELINE_BINS + 1)
    rate = np.nan_to_num(completed) / np.maximum(clock.end_s - clock.start_s, 1e-9)
    points = []
    for left, right in itertools.pairwise(edges):
        overlap_s = np.clip(np.minimum(clock.end_s, right) - np.maximum(clock.start_s, left), 0, None)
        points.append((float((left + right) / 2), float((rate * overlap_s).sum() / (right - left))))
    return tuple(points)


def _seconds(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(pc.cast(column, pa.int64()).to_numpy(), np.float64) / 1e6
