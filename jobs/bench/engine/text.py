"""What the bench prints while it runs."""

from collections.abc import Sequence
from typing import Any

from conf.bench import Distribution
from conf.schema import EngineConfig
from jobs.bench.engine.bound import Bound, Costs, bound, early_work, full_work, time_of
from jobs.bench.engine.cells import Cell
from jobs.bench.engine.passes import Outcome
from jobs.bench.engine.rows import Row
from jobs.bench.engine.scripts import mean_layers, suffix_mean_layers
from jobs.bench.engine.variants import FULL

_OVERHEAD = {"transformers": 2.5, "ctranslate2": 2.0}  # times over full depth, for the forecast alone


def rates_lines(name: str, rates: dict[str, Any]) -> list[str]:
    costs = rates["costs"]
    by_rows = ", ".join(f"{g:.1f} at {m} rows" for m, g in zip(rates["rows"], rates["layer_gflops"], strict=True))
    gains = ", ".join(f"{g:.1f}" for g in rates["packing_gain"])
    return [
        f"{name}: decoder layer {by_rows} GFLOP/s; weights at one row {rates['weights_gb_per_s']:.1f} GB/s, "
        f"large copy {rates['copy_gb_per_s']:.1f} GB/s; {gains} times as fast as with plain products",
        f"  a layer's visit {1e3 * costs['layer_floor_s']:.3f} ms + {1e3 * costs['layer_slope_s']:.4f} ms a position; "
        f"the head {1e3 * costs['head_floor_s']:.3f} ms + {1e3 * costs['head_slope_s']:.4f} ms; "
        f"encoder {1e3 * costs['encode_s']:.1f} ms a sequence",
    ]


def forecast_s(cell: Cell, costs: Costs, num_layers: int, setup_s: float) -> float:
    """Seconds the cell will take, by bare matrix products: every variant as slow as full depth or slower."""
    work = full_work([cell.length or 20] * cell.num_sequences, num_layers, cell.slots)
    time = time_of(work, costs)
    once_s = time.total_s if cell.encoder == "run" else time.decode_s
    weight = sum(_OVERHEAD.get(name, 1.5) for name in cell.variants)
    return (cell.rounds + 1) * weight * once_s + setup_s * len(cell.variants)


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def bound_line(cell: Cell, outcomes: dict[str, Outcome], costs: Costs, num_layers: int, engine: EngineConfig) -> str:
    """The bound by bare matrix products, known before anything is timed; it needs the exits tokens take."""
    early = next((o for name, o in outcomes.items() if name.startswith("pool") and name != "pool_never"), None)
    early = early or next((outcomes[name] for name in ("inplace",) if name in outcomes), None)
    if early is None or early.exit_indices is None:
        return "  no variant that exits early"
    full = outcomes[FULL].exit_indices
    assert full is not None
    found = roofline_bound(cell, early, [len(row) for row in full], costs, num_layers, engine)
    decode_only = cell.encoder == "replayed"
    return (
        f"  mean depth {mean_layers(early.exit_indices, early.exit_layers):.2f} of {num_layers} layers, "
        f"just-in-time features compute {suffix_mean_layers(early.exit_indices, early.exit_layers):.2f}; "
        f"bound of early exit by bare matrix products: "
        + ("" if decode_only else f"{found.total:.2f}x end to end, ")
        + f"{found.decode:.2f}x of decoding"
    )


def roofline_bound(
    cell: Cell, early: Outcome, full_counts: Sequence[int], costs: Costs, num_layers: int, engine: EngineConfig
) -> Bound:
    assert early.exit_indices is not None
    work = early_work(early.exit_indices, early.exit_layers, cell.slots, engine.kv, engine.gate)
    return bound(time_of(full_work(full_counts, num_layers, cell.slots), costs), time_of(work, costs))


def table(rows: Sequence[Row]) -> list[str]:
    lines = [
        f"  {'':<18} {'seq/s':>8} {'tok/s':>8} {'ratio':>6} {'spread':>11} {'decode':>7} {'spread':>11} {'bound':>6} "
        f"{'of it':>6} {'depth':>6} {'enc':>4} {'gate':>5} {'host':>5} {'pad':>4} {'p50 ms':>8} {'p99 ms':>8} "
        f"{'= full':>7} {'oracle':>7} {'MB':>6}  rows a visit"
    ]
    for row in rows:
        if row.skipped is not None:
            lines.append(f"  {row.variant:<18} skipped: {row.skipped}")
            continue
        lines.append(
            f"  {row.variant:<18} {_n(row.sequences_per_s, '.2f'):>8} {_n(row.tokens_per_s, '.1f'):>8} "
            f"{_n(row.ratio, '.2f'):>6} {_range(row.ratio_min, row.ratio_max):>11} "
            f"{_n(row.decode_ratio, '.2f'):>7} {_range(row.decode_ratio_min, row.decode_ratio_max):>11} "
            f"{_n(row.decode_bound, '.2f'):>6} {_n(row.decode_of_bound, '.0%'):>6} {_n(row.mean_depth, '.2f'):>6} "
            f"{_n(row.encode_share, '.0%'):>4} {_n(row.gate_share, '.1%'):>5} {_n(row.host_share, '.1%'):>5} "
            f"{_n(row.padding, '.0%'):>4} {_ms(row.latency_p50_s):>8} {_ms(row.latency_p99_s):>8} "
            f"{_n(row.agreement_tokens, '.2%'):>7} {_n(row.replayed_tokens, '.1%'):>7} "
            f"{_mb(row.peak_memory_bytes):>6}  {' '.join(map(str, row.rows_per_visit))}"
        )
    return lines


def latency_line(rows: Sequence[Row]) -> str | None:
    """At one slot: what early exit does to the time of one image in the decoder."""
    by_name = {row.variant: row for row in rows if row.skipped is None}
    early = [by_name[name] for name in ("pool", "lossless") if name in by_name]
    if rows[0].slots != 1 or rows[0].distribution != Distribution.OWN.value or not early:
        return None
    full = by_name[FULL].decode_s_per_sequence
    assert full is not None
    shown = [
        f"{row.variant} {1e3 * row.decode_s_per_sequence:.1f} ms ({row.decode_s_per_sequence / full - 1:+.0%}, "
        f"{_n(row.agreement_tokens, '.1%')} of tokens as full depth's)"
        for row in early
        if row.decode_s_per_sequence is not None
    ]
    return f"  decoder, one image at a time: full depth {1e3 * full:.1f} ms, " + ", ".join(shown)


def _n(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _ms(value: float | None) -> str:
    return _n(None if value is None else 1e3 * value, ".1f")


def _mb(value: float | None) -> str:
    return _n(None if value is None else value / 1e6, ".0f")


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.2f}-{high:.2f}"
