"""What the bench prints while it runs."""

from collections.abc import Sequence

from conf.bench import Distribution
from jobs.bench.engine.bound import Costs, Rates, full_work, time_of
from jobs.bench.engine.cells import Cell
from jobs.bench.engine.result_rows import COLUMNS, Row, number
from jobs.bench.engine.variants import FULL

_OVERHEAD = {"transformers": 2.5, "ctranslate2": 2.0}  # times over full depth, for the forecast alone


def rates_lines(name: str, rates: Rates) -> list[str]:
    costs = rates.costs
    by_rows = ", ".join(f"{g:.1f} at {m} rows" for m, g in zip(rates.rows, rates.layer_gflops, strict=True))
    gains = ", ".join(f"{g:.1f}" for g in rates.packing_gain)
    return [
        f"{name}: decoder layer {by_rows} GFLOP/s; weights at one row {rates.weights_gb_per_s:.1f} GB/s; "
        f"{gains} times as fast as with plain products",
        f"  a layer's visit {1e3 * costs.layer_floor_s:.3f} ms + {1e3 * costs.layer_slope_s:.4f} ms a position; "
        f"the head {1e3 * costs.head_floor_s:.3f} ms + {1e3 * costs.head_slope_s:.4f} ms; "
        f"encoder {1e3 * costs.encode_s:.1f} ms a sequence",
    ]


def forecast_s(cell: Cell, costs: Costs, num_layers: int, setup_s: float) -> float:
    """Return the seconds the cell will take, by bare matrix products: every variant as slow as full depth or slower."""
    work = full_work([cell.length or 20] * cell.num_sequences, num_layers, cell.slots)
    time = time_of(work, costs)
    once_s = time.total_s if cell.encoder == "run" else time.decode_s
    weight = sum(_OVERHEAD.get(name, 1.5) for name in cell.variants)
    return (cell.rounds + 1) * weight * once_s + setup_s * len(cell.variants)


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def table(rows: Sequence[Row]) -> list[str]:
    """Return the columns of the rendered page, under shorter heads."""
    lines = [[column.short for column in COLUMNS]]
    lines += [[column.text(row) for column in COLUMNS] for row in rows if row.skipped is None]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = [
        "  " + "  ".join([first.ljust(widths[0]), *(text.rjust(w) for text, w in zip(rest, widths[1:], strict=True))])
        for first, *rest in lines
    ]
    return shown + [f"  {row.variant} skipped: {row.skipped}" for row in rows if row.skipped is not None]


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
        f"{number(row.agreement_tokens, '.1%')} of tokens as full depth's)"
        for row in early
        if row.decode_s_per_sequence is not None
    ]
    return f"  decoder, one image at a time: full depth {1e3 * full:.1f} ms, " + ", ".join(shown)
