"""The row of one variant in one cell: what the results file holds, and the columns that tables show of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from jobs.bench.engine.cells import title

SCHEMA_VERSION = 3


@dataclass(frozen=True)
class Row:
    """None is unknown, or not defined for the variant. Seconds, bytes, layers; shares are between 0 and 1."""

    # where it comes from
    time_utc: str
    command: str
    commit: str | None
    weights_sha256: str | None
    hardware: dict[str, Any]
    versions: dict[str, str | None]
    seed: int
    # what was measured
    model: str
    distribution: str
    encoder: str
    slots: int
    length: int | None
    dtype: str
    variant: str
    skipped: str | None = None  # why the variant does not apply to the cell; all below is None then
    rounds: int = 0
    rows_in: int | None = None
    rows_out: int | None = None
    # speed: medians over rounds; ratios to full depth are taken within a round
    sequences_per_s: float | None = None
    tokens_per_s: float | None = None
    decode_s_per_sequence: float | None = None
    ratio: float | None = None
    ratio_min: float | None = None
    ratio_max: float | None = None
    decode_ratio: float | None = None
    decode_ratio_min: float | None = None
    decode_ratio_max: float | None = None
    decode_bound: float | None = None  # largest decode_ratio that is possible
    latency_p50_s: float | None = None
    latency_p99_s: float | None = None
    # where the time goes
    encode_share: float | None = None
    decode_share: float | None = None
    gate_share: float | None = None
    host_share: float | None = None
    # what was computed
    mean_depth: float | None = None
    computed_depth: float | None = None  # layers per token, pending positions included
    rows_per_visit: Sequence[float] = ()
    padding: float | None = None
    peak_memory_bytes: int | None = None
    # is it right
    agreement_outputs: float | None = None
    agreement_tokens: float | None = None
    replayed_tokens: float | None = None
    involuntary_exits: int | None = None
    schema_version: int = SCHEMA_VERSION

    @property
    def title(self) -> str:
        return title(self.model, self.distribution, self.length, self.slots, self.encoder, self.dtype)


def row_of(values: Mapping[str, Any]) -> Row:
    """Return the row of a line of the results file; older versions have more fields, which no table shows."""
    known = {field.name for field in fields(Row)}
    return Row(**{name: value for name, value in values.items() if name in known})


@dataclass(frozen=True)
class Column:
    """`head` of documents, `short` of the terminal."""

    head: str
    short: str
    text: Callable[[Row], str]


def number(value: float | None, form: str, times: float = 1) -> str:
    """Format a number; nothing for None."""
    return "" if value is None else format(value if times == 1 else times * value, form)


def _spread(middle: float | None, low: float | None, high: float | None) -> str:
    return "" if middle is None else f"{middle:.2f} ({low:.2f} to {high:.2f})"


def _of_bound(row: Row) -> float | None:
    return None if row.decode_ratio is None or row.decode_bound is None else row.decode_ratio / row.decode_bound


COLUMNS = (
    Column("variant", "", lambda r: r.variant),
    Column("seq/s", "seq/s", lambda r: number(r.sequences_per_s, ".2f")),
    Column("tokens/s", "tok/s", lambda r: number(r.tokens_per_s, ".0f")),
    Column("ratio (spread)", "ratio", lambda r: _spread(r.ratio, r.ratio_min, r.ratio_max)),
    Column(
        "decode ratio (spread)", "decode", lambda r: _spread(r.decode_ratio, r.decode_ratio_min, r.decode_ratio_max)
    ),
    Column("bound of decoding", "bound", lambda r: number(r.decode_bound, ".2f")),
    Column("of it", "of it", lambda r: number(_of_bound(r), ".0%")),
    Column("depth", "depth", lambda r: number(r.mean_depth, ".2f")),
    Column("computed", "comp", lambda r: number(r.computed_depth, ".2f")),
    Column("encode", "enc", lambda r: number(r.encode_share, ".0%")),
    Column("decode", "dec", lambda r: number(r.decode_share, ".0%")),
    Column("gate", "gate", lambda r: number(r.gate_share, ".1%")),
    Column("host", "host", lambda r: number(r.host_share, ".1%")),
    Column("rows a visit", "rows a visit", lambda r: " ".join(map(str, r.rows_per_visit))),
    Column("padding", "pad", lambda r: number(r.padding, ".0%")),
    Column("p50 ms", "p50 ms", lambda r: number(r.latency_p50_s, ".1f", 1e3)),
    Column("p99 ms", "p99 ms", lambda r: number(r.latency_p99_s, ".1f", 1e3)),
    Column("= full depth", "= full", lambda r: number(r.agreement_tokens, ".2%")),
    Column("oracle", "oracle", lambda r: number(r.replayed_tokens, ".1%")),
    Column("forced exits", "forced", lambda r: number(r.involuntary_exits, "d")),
    Column("peak MB", "MB", lambda r: number(r.peak_memory_bytes, ".0f", 1e-6)),
)
