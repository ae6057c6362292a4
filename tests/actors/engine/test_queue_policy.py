"""Costs, queues and over-subscription, with scripted depths and a virtual clock: no torch, no wall time."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.engine.costs import VisitCost, costs_by_layers, fit
from actors.engine.oracles.simulation import Scripts, Simulated, least_s, simulate
from actors.engine.queue_policy import QueuePolicy
from actors.engine.scheduler import SchedulerRules
from conf.engine import Schedule
from conf.resolve import Decay, threshold_at

STEPS = 20
EXITS = ((3, 12), (2, 12), (3, 6, 12))
SHARES = {(3, 12): (0.7, 0.3), (2, 12): (0.9, 0.1), (3, 6, 12): (0.65, 0.2, 0.15)}  # of tokens, by exit


def independent(count: int, shares: tuple[float, ...], seed: int) -> list[list[int]]:
    rng = random.Random(seed)
    return [rng.choices(range(len(shares)), shares, k=STEPS) for _ in range(count)]


def clustered(count: int, shares: tuple[float, ...], seed: int) -> list[list[int]]:
    """The same shares, but a third of the sequences hold nearly all hard tokens."""
    rng, hard = random.Random(seed), 0.35
    easy_shares = [0.95, *[0.05 / (len(shares) - 1)] * (len(shares) - 1)]
    hard_shares = [max(0.0, s - (1 - hard) * e) / hard for s, e in zip(shares, easy_shares, strict=True)]
    return [
        rng.choices(range(len(shares)), hard_shares if rng.random() < hard else easy_shares, k=STEPS)
        for _ in range(count)
    ]


def costs_of(exits: tuple[int, ...], floor_rows: float) -> list[VisitCost]:
    """A layer is one unit and a head 2.6 (T5-base); a visit of `floor_rows` rows is half floor."""
    units = [layers.floor_s + 1.6 for layers in costs_by_layers(exits)]
    return [VisitCost(unit, unit / floor_rows) for unit in units]


def run(
    exits: tuple[int, ...], scripts: Scripts, costs: list[VisitCost], batch: int, times: int, **changes: object
) -> Simulated:
    values = {
        "schedule": Schedule.POOL, "exit_layers": exits, "thresholds": (0.5,) * (len(exits) - 1),
        "num_slots": batch * times + batch // 2, "max_rows": batch, "encode_batch": batch // 2, "max_wait_steps": 32,
        "max_new_tokens": STEPS, "start_id": 1, "end_ids": (2,), **changes,
    }  # fmt: skip
    return simulate(SchedulerRules(**values), scripts, costs)  # type: ignore[arg-type]


@pytest.mark.parametrize("exits", EXITS)
@pytest.mark.parametrize("draw", [independent, clustered])
@pytest.mark.parametrize("floor_rows", [8, 512])  # a CPU, a GPU
def test_a_slot_for_every_exit_comes_close_to_the_bound(exits: tuple[int, ...], draw: object, floor_rows: int) -> None:
    scripts = draw(320, SHARES[exits], 1)  # type: ignore[operator]
    costs = costs_of(exits, floor_rows)
    bound_s = least_s(scripts, costs, 32)
    pooled, narrow = (run(exits, scripts, costs, 32, times) for times in (len(exits), 1))
    assert bound_s <= pooled.decode_s <= bound_s / 0.88
    assert pooled.decode_s < narrow.decode_s  # one slot a row starves one queue or the other
    assert min(pooled.mean_rows) > 0.6 * 32


@pytest.mark.parametrize("floor_rows", [8, 64, 512])
@pytest.mark.parametrize("batch", [4, 8, 32])
def test_pooling_beats_running_on_in_place_where_floors_count(floor_rows: int, batch: int) -> None:
    scripts, costs = clustered(10 * batch, SHARES[3, 12], 2), costs_of((3, 12), floor_rows)
    pooled = run((3, 12), scripts, costs, batch, 2)
    in_place = run((3, 12), scripts, costs, batch, 1, schedule=Schedule.INPLACE)
    assert pooled.decode_s < in_place.decode_s


def test_full_depth_runs_full_batches_although_rows_finish_one_by_one() -> None:
    scripts = [[0] * length for length in random.Random(0).choices(range(5, 20), k=300)]
    full = run((12,), scripts, costs_of((12,), 8), 32, 1, schedule=Schedule.FULL)
    visits = [len(batch.sequences) for batch in full.batches]
    started = visits.index(32)
    assert set(visits[started:-20]) == {32}  # finished rows were replaced at once until nothing was left


@given(
    scripts=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=STEPS), min_size=1, max_size=30),
    batch=st.integers(1, 6),
    times=st.integers(1, 4),
    max_wait_steps=st.integers(1, 12),
    floors=st.lists(st.floats(0, 5), min_size=3, max_size=3),
    slopes=st.lists(st.floats(0, 2), min_size=3, max_size=3),
)
def test_any_costs_and_slots_do_the_same_work(
    scripts: list[list[int]], batch: int, times: int, max_wait_steps: int, floors: list[float], slopes: list[float]
) -> None:
    costs = [VisitCost(floor, slope) for floor, slope in zip(floors, slopes, strict=True)]
    result = run((2, 4, 6), scripts, costs, batch, times, max_wait_steps=max_wait_steps, encode_batch=batch)
    assert {i: c.exit_layers for i, c in result.completions.items()} == {
        i: tuple(2 * (segment + 1) for segment in script) for i, script in enumerate(scripts)
    }
    assert max(len(b.sequences) for b in result.batches) <= batch
    assert result.rows == [sum(depth >= j for script in scripts for depth in script) for j in range(3)]
    assert result.decode_s >= least_s(scripts, costs, batch) - 1e-6
    num_slots = batch * times + batch // 2
    # Nobody in a deep queue waits longer than the limit and the visits that others as old as it need first.
    assert result.longest_wait_steps <= max_wait_steps + 2 * -(-num_slots // batch) + 2


def test_the_same_queues_give_the_same_decisions() -> None:
    scripts, costs = clustered(40, SHARES[3, 6, 12], 3), costs_of((3, 6, 12), 64)
    first, second = (run((3, 6, 12), scripts, costs, 8, 3).batches for _ in range(2))
    ran = [[(b.segment, [s.request.request_id for s in b.sequences]) for b in batches] for batches in (first, second)]
    assert ran[0] == ran[1]


def test_with_as_many_slots_as_queues_hold_some_queue_is_always_full() -> None:
    """The pigeonhole argument of policy.py, over all ways to share the rows of three queues of at most 4."""
    policy = QueuePolicy(costs_by_layers((1, 2, 3)), max_rows=4, max_wait_steps=100)
    for a in range(13):
        for b in range(13 - a):
            assert policy.pressing([a, b, 12 - a - b], [0, 0, 0]) is not None


def test_the_longest_queue_is_so_for_its_demand_and_floor() -> None:
    policy = QueuePolicy([VisitCost(1.0, 0.0), VisitCost(4.0, 0.0)], max_rows=64, max_wait_steps=5)
    for segment in [0] * 99 + [1] * 24:  # a quarter goes on, at four times the floor: both queues count alike
        policy.entered(segment)
    assert policy.longest([11, 10]) == 0
    assert policy.longest([10, 11]) == 1
    assert policy.pressing([10, 11], [0, 6]) == 1  # older than allowed
    assert policy.pressing([10, 11], [0, 5]) is None


def test_a_queue_need_not_fill_up_where_floors_hardly_count() -> None:
    assert VisitCost(1.0, 1.0).efficient_rows(64) == 19  # a twentieth is floor
    assert VisitCost(1.0, 0.01).efficient_rows(64) == 64
    assert VisitCost(1.0, 0.0).efficient_rows(64) == 64
    assert VisitCost(0.0, 1.0).efficient_rows(64) == 1


@given(floor=st.floats(0, 10), slope=st.floats(1e-3, 10), sizes=st.sets(st.integers(1, 200), min_size=2, max_size=6))
def test_a_fit_finds_the_line_that_was_there(floor: float, slope: float, sizes: set[int]) -> None:
    found = fit([(size, floor + slope * size) for size in sizes])
    assert found.floor_s == pytest.approx(floor, abs=1e-6 + 1e-6 * slope * 200)
    assert found.slope_s == pytest.approx(slope, rel=1e-6)


def test_a_fit_has_no_negative_parts() -> None:
    assert fit([(1, 5.0), (10, 4.0)]) == VisitCost(4.5, 0.0)
    assert fit([(1, 0.5), (10, 10.0)]).floor_s == 0.0


@given(threshold=st.floats(0, 1.5), rate=st.floats(0, 8), horizon=st.integers(1, 50))
def test_decayed_thresholds_fall_and_keep_the_extremes(threshold: float, rate: float, horizon: int) -> None:
    decay = Decay(rate, horizon)
    values = [threshold_at(threshold, position, decay) for position in range(horizon)]
    assert values == sorted(values, reverse=True)
    if threshold > 1 or threshold == 0:
        assert set(values) == {threshold}
    else:
        assert values[0] == pytest.approx(min(1.0, 0.9 * threshold + 0.1))
        assert all(0.9 * threshold <= value <= 1 for value in values)
