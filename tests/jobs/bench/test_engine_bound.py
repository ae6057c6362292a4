"""The arithmetic of the bound, by cases worked out by hand, and the scripts it is fed with."""

import pytest

from conf.bench import Distribution
from conf.engine import Gate, KvPolicy
from jobs.bench.engine.bound import Costs, Time, decode_bound, early_work, fit_line, full_work, scaled, time_of
from jobs.bench.engine.scripts import depth_shares, script_depths

EXITS = (2, 4)  # two layers each
DEPTHS = [[0, 1, 0], [0, 0, 0]]  # one token of six goes to full depth; just-in-time features bring the one before


def test_full_depth_computes_everything_once() -> None:
    work = full_work([3, 3], 4, num_slots=2)
    assert (work.layer_visits, work.layer_positions) == (4 * 3, 4 * 6)
    assert (work.head_visits, work.head_rows) == (3, 6)
    assert full_work([3, 3], 4, num_slots=32).head_visits == 3  # no batch has more rows than there are sequences


def test_just_in_time_features_count_the_suffix_maximum() -> None:
    work = early_work(DEPTHS, EXITS, 2, KvPolicy.JIT, Gate.SOFTMAX_MAX)
    assert work.layer_positions == 2 * 6 + 2 * 2  # positions 0 and 1 of the first sequence; position 2 never
    assert work.layer_visits == 2 * 6 / 2 + 2 * 1 / 2
    assert work.head_rows == 6 + 1


@pytest.mark.parametrize("kv", [KvPolicy.PROJECT, KvPolicy.COPY])
def test_approximate_features_count_the_tokens_alone(kv: KvPolicy) -> None:
    assert early_work(DEPTHS, EXITS, 2, kv, Gate.SOFTMAX_MAX).layer_positions == 2 * 6 + 2 * 1


@pytest.mark.parametrize(
    ("gate", "head_rows"),
    [(Gate.SOFTMAX_DIFF, 3 + 2 + 1), (Gate.SHORTLIST, 3 + 1), (Gate.CLASSIFIER, 3), (Gate.SATURATION, 3)],
)
def test_the_head_runs_as_often_as_the_gate_needs_it(gate: Gate, head_rows: int) -> None:
    assert early_work([[0, 1, 2]], (1, 2, 3), 1, KvPolicy.JIT, gate).head_rows == head_rows


def test_time_and_bound() -> None:
    costs = Costs(encode_s=1.0, layer_floor_s=0.5, layer_slope_s=0.25, head_floor_s=0.0, head_slope_s=1.0)
    full = time_of(full_work([3, 3], 4, 2), costs)
    assert full == Time(encode_s=2.0, layers_s=12 * 0.5 + 24 * 0.25, head_s=6.0)
    early = time_of(early_work(DEPTHS, EXITS, 2, KvPolicy.JIT, Gate.SOFTMAX_MAX), costs)
    assert early == Time(encode_s=2.0, layers_s=7 * 0.5 + 16 * 0.25, head_s=7.0)


def test_the_bound_is_by_what_full_depth_was_measured_to_take() -> None:
    costs = Costs(encode_s=1.0, layer_floor_s=0.5, layer_slope_s=0.25, head_floor_s=0.0, head_slope_s=1.0)
    full, work = full_work([3, 3], 4, 2), early_work(DEPTHS, EXITS, 2, KvPolicy.JIT, Gate.SOFTMAX_MAX)
    as_modelled = time_of(full, costs)
    assert decode_bound(work, full, costs, as_modelled, host_s=0.0) == pytest.approx(18 / 14.5)
    assert decode_bound(work, full, costs, as_modelled, host_s=2.0) == pytest.approx(20 / 14.5)
    slow_head = Time(0.0, as_modelled.layers_s, 2 * as_modelled.head_s)
    assert decode_bound(work, full, costs, slow_head, host_s=0.0) == pytest.approx(24 / 21.5)


def test_scaled_costs_give_full_depths_own_time() -> None:
    costs, work = Costs(1.0, 0.5, 0.25, 0.1, 1.0), full_work([3, 3], 4, 2)
    again = time_of(work, scaled(costs, time_of(work, costs), Time(0.0, layers_s=3.0, head_s=0.6)))
    assert (again.layers_s, again.head_s) == pytest.approx((3.0, 0.6))


def test_a_line_is_fitted_and_never_has_a_negative_floor() -> None:
    assert fit_line([(1, 3.0), (8, 10.0), (32, 34.0)]) == pytest.approx((2.0, 1.0))
    floor, slope = fit_line([(1, 1.0), (8, 16.0), (32, 80.0)])
    assert floor == 0.0
    assert 1.0 < slope < 2.5


@pytest.mark.parametrize("exits", [(2, 4, 6, 8), (3, 6, 9, 12), (1, 2, 3, 4, 5, 6, 7, 8)])
def test_shares_fall_and_have_the_wanted_mean(exits: tuple[int, ...]) -> None:
    shares = depth_shares(exits, 0.4)
    assert sum(shares) == pytest.approx(1)
    assert sum(s * e for s, e in zip(shares, exits, strict=True)) == pytest.approx(0.4 * exits[-1])
    assert shares == sorted(shares, reverse=True)


def test_a_mean_that_no_shares_have_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit exits"):
        depth_shares((3, 6, 9, 12), 0.2)


@pytest.mark.parametrize("length", [8, 20, 64])
def test_both_distributions_hold_the_same_depths_dealt_otherwise(length: int) -> None:
    exits = (3, 6, 9, 12)
    independent, clustered = (
        script_depths(kind, exits, num_sequences=48, num_tokens=length, mean_share=0.4, seed=0)
        for kind in (Distribution.INDEPENDENT, Distribution.CLUSTERED)
    )
    assert sorted(i for row in independent for i in row) == sorted(i for row in clustered for i in row)
    drawn = [i for row in independent for i in row]
    assert sum(exits[i] for i in drawn) / len(drawn) == pytest.approx(4.8, abs=0.02)
    positions = [
        early_work(depths, exits, 8, KvPolicy.JIT, Gate.SOFTMAX_MAX).layer_positions / len(drawn)
        for depths in (clustered, independent)
    ]
    assert positions[0] < positions[1] - 1
    by_sequence = sorted(sum(row) / length for row in clustered)
    assert by_sequence[-1] > by_sequence[0] + 1  # there are hard sequences and easy ones
    assert {len(row) for row in clustered} == {length}
