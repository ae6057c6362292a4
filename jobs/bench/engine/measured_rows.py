"""Passes of a cell's variants -> its rows. Pure arithmetic: no torch, no clock."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conf.bench import Distribution
from conf.engine import EngineConfig, Gate, KvPolicy
from jobs.bench.engine.bound import Costs, Time, Work, decode_bound, early_work, full_work
from jobs.bench.engine.cells import Cell
from jobs.bench.engine.passes import Outcome, Pass
from jobs.bench.engine.result_rows import Row
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


def rows_of(measured: Measured, origin: Mapping[str, Any]) -> list[Row]:
    """Return one row per variant of the cell, in the order of the variants."""
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
        "replayed_tokens": outcome.replayed_tokens,
        **agreement(measured, name),
    }
    if last.gate_s is not None:
        numbers |= _engine_numbers(passes, outcome) | {"decode_bound": bound_of(measured, name)}
    return numbers


def _engine_numbers(passes: Sequence[Pass], outcome: Outcome) -> dict[str, Any]:
    """Return what only our engine tells."""
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
        "rows_per_visit": tuple(round(r / v, 2) for r, v in zip(last.rows, visits, strict=True)),
    }


def median(passes: Sequence[Pass], value: Callable[[Pass], float | None]) -> float | None:
    values = [value(each) for each in passes]
    return None if None in values else statistics.median(v for v in values if v is not None)


def spread(name: str, values: Sequence[float]) -> dict[str, float]:
    return {name: statistics.median(values), f"{name}_min": min(values), f"{name}_max": max(values)}


def agreement(measured: Measured, name: str) -> dict[str, float | None]:
    """Share of outputs, and of tokens in their places, that are full depth's. Scripted exits say what they say."""
    if measured.cell.distribution is not Distribution.OWN and VARIANTS[name].exits_early:
        return {"agreement_outputs": None, "agreement_tokens": None}
    pairs = list(zip(measured.outcomes[name].tokens, measured.outcomes[FULL].tokens, strict=True))
    equal = sum(a == b for mine, theirs in pairs for a, b in zip(mine, theirs, strict=False))
    return {
        "agreement_outputs": sum(mine == theirs for mine, theirs in pairs) / len(pairs),
        "agreement_tokens": equal / max(1, sum(max(len(mine), len(theirs)) for mine, theirs in pairs)),
    }


def ideal_work(measured: Measured, name: str) -> Work | None:
    """Return the least the variant has to compute for the exits its tokens took; None where that is not defined."""
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


def bound_of(measured: Measured, name: str) -> float | None:
    """Return the largest speedup of decoding that the variant could have, by full depth's measured times."""
    work, full = ideal_work(measured, name), ideal_work(measured, FULL)
    if work is None:
        return None
    assert full is not None
    passes = [each[FULL] for each in measured.rounds]
    decode_s = statistics.median(p.decode_s for p in passes)
    gate_s = statistics.median(p.gate_s or 0.0 for p in passes)
    host_s = statistics.median(p.host_s or 0.0 for p in passes)
    took = Time(0.0, max(1e-12, decode_s - gate_s - host_s), gate_s)
    return decode_bound(work, full, measured.costs, took, host_s)
