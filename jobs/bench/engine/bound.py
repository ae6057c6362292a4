"""How much faster early exit could decode at most, in plain arithmetic.

    decoding time of full depth / (sum over segments of visits x segment cost + gate cost)

A visit of a segment costs floor + slope * positions for each of its layers; the floor is what a batch of any size pays
(weights from memory, launches), the slope what a position adds. The ideal engine fills every visit with all slots, so
segment j needs rows_j / slots visits, where rows_j counts the tokens that go that deep. With just-in-time features it
computes as many positions of a layer as the suffix maximum of depths says; with projected or copied ones rows_j. The
head runs as often as the gate needs it. Python costs nothing. Costs are those of bare matrix products, scaled so that
full depth takes the time it was measured to take.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from conf.engine import Gate, KvPolicy
from jobs.bench.engine.scripts import Depths


@dataclass(frozen=True)
class Costs:
    """Seconds. A layer's and the head's are per visit (`floor`) and per position in it (`slope`)."""

    encode_s: float  # per sequence
    layer_floor_s: float
    layer_slope_s: float
    head_floor_s: float
    head_slope_s: float


@dataclass(frozen=True)
class Rates:
    """What a machine can do at a model's shapes. Lists go with `rows`."""

    rows: tuple[int, ...]
    layer_gflops: tuple[float, ...]  # GFLOP/s that the matrix products of a decoder layer reach
    packing_gain: tuple[float, ...]  # time of the layer with torch's plain products / with those the engine calls
    weights_gb_per_s: float  # memory bandwidth of weights at one row
    costs: Costs
    weights_sha256: str


@dataclass(frozen=True)
class Work:
    """What has to be computed for some sequences; visits are means and need not be whole."""

    num_sequences: int
    layer_visits: float  # sum over visits of their layers
    layer_positions: float  # sum over visits of layers x positions
    head_visits: float
    head_rows: float


@dataclass(frozen=True)
class Time:
    """Seconds of some work, by part."""

    encode_s: float
    layers_s: float
    head_s: float

    @property
    def decode_s(self) -> float:
        return self.layers_s + self.head_s

    @property
    def total_s(self) -> float:
        return self.encode_s + self.decode_s


def full_work(token_counts: Sequence[int], num_layers: int, num_slots: int) -> Work:
    """Return the work of every token through every layer and the head once, in batches of all slots."""
    tokens = sum(token_counts)
    visits = tokens / min(num_slots, len(token_counts))
    return Work(len(token_counts), num_layers * visits, num_layers * tokens, visits, tokens)


def early_work(depths: Depths, exit_layers: Sequence[int], num_slots: int, kv: KvPolicy, gate: Gate) -> Work:
    """Return the least an engine must compute when every token leaves at its exit of `depths`."""
    slots = min(num_slots, len(depths))
    rows = [sum(index >= j for row in depths for index in row) for j in range(len(exit_layers))]
    positions = rows if kv is not KvPolicy.JIT else _suffix_positions(depths, len(exit_layers))
    layers = [b - a for a, b in zip((0, *exit_layers), exit_layers, strict=False)]
    visits = [count / slots for count in rows]
    if gate is Gate.SHORTLIST:  # the whole vocabulary at the first exit and at full depth
        scored = [0, len(rows) - 1] if len(rows) > 1 else [0]
        head_visits, head_rows = sum(visits[j] for j in scored), sum(rows[j] for j in scored)
    elif gate in (Gate.CLASSIFIER, Gate.SATURATION):  # once per token, wherever it leaves
        head_visits, head_rows = sum(visits), rows[0]
    else:
        head_visits, head_rows = sum(visits), sum(rows)
    return Work(
        len(depths),
        sum(n * v for n, v in zip(layers, visits, strict=True)),
        sum(n * p for n, p in zip(layers, positions, strict=True)),
        head_visits,
        head_rows,
    )


def _suffix_positions(depths: Depths, num_exits: int) -> list[int]:
    """Return the positions computed in each segment: up to the last token of the sequence that goes there."""
    return [
        sum(max((t + 1 for t, index in enumerate(row) if index >= j), default=0) for row in depths)
        for j in range(num_exits)
    ]


def time_of(work: Work, costs: Costs) -> Time:
    return Time(
        work.num_sequences * costs.encode_s,
        work.layer_visits * costs.layer_floor_s + work.layer_positions * costs.layer_slope_s,
        work.head_visits * costs.head_floor_s + work.head_rows * costs.head_slope_s,
    )


def scaled(costs: Costs, modelled: Time, measured: Time) -> Costs:
    """The costs of decoding scaled, part by part, so that what is modelled takes the time it was measured to take."""
    layers = measured.layers_s / modelled.layers_s
    head = measured.head_s / modelled.head_s
    return replace(
        costs,
        layer_floor_s=costs.layer_floor_s * layers,
        layer_slope_s=costs.layer_slope_s * layers,
        head_floor_s=costs.head_floor_s * head,
        head_slope_s=costs.head_slope_s * head,
    )


def decode_bound(work: Work, full: Work, costs: Costs, took: Time, host_s: float) -> float:
    """The largest speedup of decoding for `work` over full depth, which `took` that long, and `host_s` outside of
    tensors; the ideal engine spends none there."""
    ideal = time_of(work, scaled(costs, time_of(full, costs), took))
    return (took.decode_s + host_s) / ideal.decode_s


def fit_line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(rows, seconds) -> (floor, slope) by least squares of relative error; neither is negative."""
    assert len({rows for rows, _ in points}) > 1, "a line needs two batch sizes"
    weights = [1 / seconds**2 for _, seconds in points]
    total = sum(weights)
    mean_x = sum(w * x for w, (x, _) in zip(weights, points, strict=True)) / total
    mean_y = sum(w * y for w, (_, y) in zip(weights, points, strict=True)) / total
    across = sum(w * (x - mean_x) * (y - mean_y) for w, (x, y) in zip(weights, points, strict=True))
    along = sum(w * (x - mean_x) ** 2 for w, (x, _) in zip(weights, points, strict=True))
    slope = max(0.0, across / along)
    floor = mean_y - slope * mean_x
    if floor < 0:  # all of it is slope
        squares = sum(w * x * x for w, (x, _) in zip(weights, points, strict=True))
        return 0.0, sum(w * x * y for w, (x, y) in zip(weights, points, strict=True)) / squares
    return floor, slope
