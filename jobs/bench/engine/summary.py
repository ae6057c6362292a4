"""Passes of a cell's variants -> its rows. Pure arithmetic: no torch, no clock."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conf.schema import EngineConfig, Gate, KvPolicy
from jobs.bench.engine.bound import Bound, Costs, Time, Work, bound, calibrated, early_work, full_work, time_of
from jobs.bench.engine.cells import Cell
from jobs.bench.engine.passes import Outcome, Pass
from jobs.bench.engine.rows import Row
from jobs.bench.engine.variants import FULL, VARIANTS, Variant

Rounds = Sequence[Mapping[str, Pass]]


@dataclass(frozen=True)
class Measured:
    """A cell, done. `skipped`: variant -> why it does not apply."""

    cell: Cell
    outcomes: Mapping[str, Outcome]
    rounds: Rounds
    skipped: Mapping[str, str]
    costs: Costs  # of bare matrix products
    num_layers: int
    engine: EngineConfig
    scripted: bool


def rows_of(measured: Measured, origin: Mapping[str, Any]) -> list[Row]:
    """One row per variant of the cell, in the order of the variants."""
    cell = measured.cell
    what = {
        "model": cell.model.value,
        "distribution": cell.distribution.value,
        "encoder": cell.encoder,
        "slots": cell.slots,
        "length": cell.length,
        "rounds": len(measured.rounds),
        **origin,
    }
    return [
        Row(**what, variant=name, skipped=measured.skipped[name])
        if name in measured.skipped
        else Row(**what, variant=name, **_numbers(measured, name))
        for name in cell.variants
    ]


def _numbers(measured: Measured, name: str) -> dict[str, Any]:
    passes = [each[name] for each in measured.rounds]
    full = [each[FULL] for each in measured.rounds]
    last, outcome = passes[-1], measured.outcomes[name]
    wall_s, decode_s = median(passes, lambda p: p.wall_s), median(passes, lambda p: p.decode_s)
    ratios = [a.wall_s / b.wall_s for a, b in zip(full, passes, strict=True)]
    decode_ratios = [a.decode_s / b.decode_s for a, b in zip(full, passes, strict=True)]
    replayed = measured.cell.encoder == "replayed"
    numbers: dict[str, Any] = {
        "rows_in": measured.cell.num_sequences,
        "rows_out": last.num_sequences,
        # With the encoder replayed there is no end to end.
        "sequences_per_s": None if replayed else last.num_sequences / wall_s,
        "tokens_per_s": last.num_tokens / decode_s,
        "decode_s_per_sequence": decode_s / last.num_sequences,
        **({} if replayed else spread("ratio", ratios)),
        **spread("decode_ratio", decode_ratios),
        "latency_p50_s": median(passes, lambda p: p.latency_p50_s),
        "latency_p99_s": median(passes, lambda p: p.latency_p99_s),
        "encode_share": median(passes, lambda p: p.encode_s / p.wall_s),
        "padding": outcome.padding,
        "involuntary_exits": last.involuntary_exits,
        "peak_memory_bytes": max(p.peak_memory_bytes for p in passes),
        "kv_cache_bytes": last.kv_cache_bytes,
        **agreement(measured, name),
    }
    if outcome.replayed_steps:
        for field in ("replayed_steps", "replayed_tokens", "replayed_exits"):
            numbers[field] = getattr(outcome, field)
    if last.gate_s is not None:
        numbers |= _engine_numbers(passes, outcome)
        numbers |= bounds(measured, name, numbers)
    return numbers


def _engine_numbers(passes: Sequence[Pass], outcome: Outcome) -> dict[str, Any]:
    """What only our engine tells."""
    last = passes[-1]
    assert outcome.exit_indices is not None
    depths = [outcome.exit_layers[i] for row in outcome.exit_indices for i in row]
    layers = [b - a for a, b in zip((0, *outcome.exit_layers), outcome.exit_layers, strict=False)]
    visits = [max(1, count) for count in last.visits]
    return {
        "gate_share": median(passes, lambda p: (p.gate_s or 0.0) / p.wall_s),
        "host_share": median(passes, lambda p: (p.host_s or 0.0) / p.wall_s),
        "decode_share": median(passes, lambda p: 1 - (p.encode_s + (p.gate_s or 0.0) + (p.host_s or 0.0)) / p.wall_s),
        "mean_depth": sum(depths) / len(depths),
        "computed_depth": sum(n * p for n, p in zip(layers, last.positions, strict=True)) / len(depths),
        "visits_by_segment": last.visits,
        "rows_per_visit": tuple(round(r / v, 2) for r, v in zip(last.rows, visits, strict=True)),
        "positions_per_visit": tuple(round(p / v, 2) for p, v in zip(last.positions, visits, strict=True)),
        "accepted_drafts": last.num_accepted / last.num_drafted if last.num_accepted and last.num_drafted else None,
    }


def median(passes: Sequence[Pass], value: Callable[[Pass], float | None]) -> float | None:
    values = [value(each) for each in passes]
    return None if None in values else statistics.median(v for v in values if v is not None)


def spread(name: str, values: Sequence[float]) -> dict[str, float]:
    return {name: statistics.median(values), f"{name}_min": min(values), f"{name}_max": max(values)}


def agreement(measured: Measured, name: str) -> dict[str, float | None]:
    """Share of outputs, and of tokens in their places, that are full depth's. Scripted exits say what they say."""
    if measured.scripted and VARIANTS[name].exits_early:
        return {"agreement_outputs": None, "agreement_tokens": None}
    pairs = list(zip(measured.outcomes[name].tokens, measured.outcomes[FULL].tokens, strict=True))
    equal = sum(a == b for mine, theirs in pairs for a, b in zip(mine, theirs, strict=False))
    return {
        "agreement_outputs": sum(mine == theirs for mine, theirs in pairs) / len(pairs),
        "agreement_tokens": equal / max(1, sum(max(len(mine), len(theirs)) for mine, theirs in pairs)),
    }


def ideal_work(measured: Measured, name: str) -> Work | None:
    """The least the variant has to compute for the exits its tokens took; None where that is not defined."""
    variant, outcome = VARIANTS[name], measured.outcomes[name]
    assert outcome.exit_indices is not None
    if not variant.exits_early:
        counts = [len(row) for row in outcome.exit_indices]
        return full_work(counts, measured.num_layers, measured.cell.slots)
    if variant.changes.get("lossless"):
        return None  # what full depth must check depends on the drafts, which depend on it
    kv, gate = _settings(variant, measured.engine)
    # A consensus exits as deep as its deepest row; what it is held against is where each row would have left.
    like = "pool" if "consensus" in variant.changes.values() and "pool" in measured.outcomes else name
    indices = measured.outcomes[like].exit_indices
    assert indices is not None
    return early_work(indices, outcome.exit_layers, measured.cell.slots, kv, gate)


def _settings(variant: Variant, engine: EngineConfig) -> tuple[KvPolicy, Gate]:
    return KvPolicy(variant.changes.get("kv", engine.kv)), Gate(variant.changes.get("gate", engine.gate))


def bounds(measured: Measured, name: str, numbers: Mapping[str, Any]) -> dict[str, float | None]:
    """Distance from the bound by full depth's measured costs, and from bare matrix products."""
    work, full = ideal_work(measured, name), ideal_work(measured, FULL)
    if work is None:
        return {}
    assert full is not None
    replayed = measured.cell.encoder == "replayed"
    bare = Costs(**{**measured.costs.__dict__, "encode_s": 0.0}) if replayed else measured.costs
    found = measured_bound(measured, work, full, bare)
    ratio, decode_ratio = numbers.get("ratio"), numbers["decode_ratio"]
    roof, roof_full = time_of(work, bare), time_of(full, bare)
    wall_s = median([each[name] for each in measured.rounds], lambda p: p.decode_s if replayed else p.wall_s)
    assert wall_s is not None
    return {
        "bound": None if replayed else found.total,
        "decode_bound": found.decode,
        "of_bound": None if ratio is None else ratio / found.total,
        "decode_of_bound": decode_ratio / found.decode,
        "roofline_bound": roof_full.total_s / roof.total_s,
        "of_roofline": roof.total_s / wall_s,
    }


def measured_bound(measured: Measured, work: Work, full: Work, bare: Costs) -> Bound:
    passes = [each[FULL] for each in measured.rounds]
    encode_s, decode_s = median(passes, lambda p: p.encode_s), median(passes, lambda p: p.decode_s)
    gate_s, host_s = median(passes, lambda p: p.gate_s), median(passes, lambda p: p.host_s)
    assert encode_s is not None
    assert decode_s is not None
    assert gate_s is not None
    assert host_s is not None
    took = Time(encode_s if bare.encode_s else 0.0, max(1e-12, decode_s - gate_s - host_s), gate_s)
    costs = calibrated(bare, time_of(full, bare), took)
    return bound(took, time_of(work, costs), host_s=host_s)
