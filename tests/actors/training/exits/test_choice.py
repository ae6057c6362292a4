"""The set that is proposed is the one that takes least, by brute force, and keeps the risk it was asked for."""

import itertools

import numpy as np
import pytest

from actors.training.exits.choice import Choice, Rows
from actors.training.exits.measure import FULL, Measured, Pass
from actors.training.exits.search import best_sets
from actors.training.exits.work import Costs, Texts, Work, fit_costs, work_of
from actors.training.thresholds import Recording, thresholds_at_risk

LAYERS = 6


def make_rows(seed: int, texts: int = 60) -> Rows:
    """Confidences that grow with depth and are calibrated by construction; texts of different lengths."""
    rng = np.random.default_rng(seed)
    steps_T = rng.integers(1, 12, texts)
    hardness_N = rng.beta(1, 3, steps_T.sum())
    confidence = np.clip(1 - hardness_N[:, None] * np.linspace(1, 0, LAYERS) - 0.02 * rng.random((1, LAYERS)), 0, 1)
    agrees = rng.random(confidence.shape) < confidence
    agrees[:, -1] = True
    return Rows(Recording(confidence, agrees), Texts(steps_T, rng.integers(0, 3, texts)))


def measured(slots: int, *, visit: float, row: float, layer: float, position: float) -> Measured:
    """Costs that are given and not measured."""
    nothing = Pass(Work(1, 1, 1, 1, 0), 1, 1.0, frozenset())
    return Measured(slots, Costs(visit, row, layer, position, 0.0), {FULL: nothing})


ALONE = measured(1, visit=2.0, row=0.0, layer=3.0, position=0.1)
TOGETHER = measured(8, visit=1.0, row=0.3, layer=2.0, position=0.7)


def seconds_by_hand(rows: Rows, exits: tuple[int, ...], thresholds: tuple[float, ...], costs: Measured) -> float:
    """Count visit by visit, as the engine would go."""
    total, start = 0.0, 0
    c, ends = costs.costs, (*exits, LAYERS)
    for steps, given in zip(rows.texts.steps_T, rows.texts.given_T, strict=True):
        computed = [0] * len(ends)
        for step in range(steps):
            confidence, below = rows.recording.confidence_NE[start + step], 0
            for segment, end in enumerate(ends):
                pending = given + step + 1 - computed[segment]
                computed[segment] = given + step + 1
                each = costs.num_slots
                total += c.visit_s / each + c.row_s + (end - below) * (c.layer_visit_s / each)
                total += (end - below) * c.layer_position_s * pending
                below = end
                if end < LAYERS and confidence[end - 1] >= thresholds[segment]:
                    break
        start += steps
    return total


@pytest.mark.parametrize("costs", [ALONE, TOGETHER])
def test_time_is_what_visits_cost_one_by_one(costs: Measured) -> None:
    rows = make_rows(0)
    for exits in [(), (1,), (2, 4), (1, 2, 3, 5)]:
        thresholds = thresholds_at_risk(rows.recording, 0.05, tuple(e - 1 for e in (*exits, LAYERS)))
        by_hand = seconds_by_hand(rows, exits, thresholds, costs) / seconds_by_hand(rows, (), (), costs)
        assert rows.share_of_time(rows.layer_N(exits, thresholds), exits, costs) == pytest.approx(by_hand)


@pytest.mark.parametrize(("best_for", "costs"), [("latency", ALONE), ("throughput", TOGETHER)])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_best_set_is_that_of_brute_force(best_for: str, costs: Measured, seed: int) -> None:
    rows = make_rows(seed)
    choice = Choice(rows, rows, risk=0.05, alone=ALONE, together=TOGETHER, best_for=best_for)
    best = choice.best(range(1, LAYERS), 1)[0]
    times = {}
    for exits in itertools.chain.from_iterable(itertools.combinations(range(1, LAYERS), n) for n in range(LAYERS)):
        thresholds = choice.thresholds(exits)
        times[exits] = seconds_by_hand(rows, exits, thresholds, costs) / seconds_by_hand(rows, (), (), costs)
    assert min(times.values()) == pytest.approx(times[best.exits])
    assert (best.time_alone if best_for == "latency" else best.time_together) == pytest.approx(times[best.exits])
    assert 1 - best.equal_tokens <= 0.05


def test_costs_decide_where_exits_are() -> None:
    rows = make_rows(4)

    def best(**costs: float) -> tuple[int, ...]:
        given = measured(8, **{"visit": 0.0, "row": 0.0, "layer": 0.0, "position": 1.0, **costs})
        return Choice(rows, rows, risk=0.05, alone=given, together=given, best_for="latency").best(
            range(1, LAYERS), 1
        )[0].exits  # fmt: skip

    assert len(best(row=0.0)) > len(best(row=0.5)) > len(best(row=50.0)) == 0


def test_the_search_in_steps_finds_what_trying_all_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    gain = rng.normal(size=9)

    def time(exits: tuple[int, ...]) -> float:
        return 10 + sum(gain[e - 1] for e in exits) + 0.3 * sum(b - a < 2 for a, b in itertools.pairwise(exits))

    exhaustive = best_sets(range(1, 10), time, 1)
    monkeypatch.setattr("actors.training.exits.search.MOST_EXHAUSTIVE", 3)
    assert best_sets(range(1, 10), time, 1) == exhaustive


def test_untrained_exits_are_used_only_where_they_keep_the_risk_on_other_rows() -> None:
    by, on = make_rows(5), make_rows(6)
    choice = Choice(by, on, risk=0.1, alone=ALONE, together=TOGETHER, best_for="throughput")
    first = choice.best_to_use(range(1, LAYERS), untrained=()).exits[0]
    on.recording.agrees_NE[:, first - 1] = False
    assert first in choice.best_to_use(range(1, LAYERS), untrained=()).exits
    kept = choice.best_to_use(range(1, LAYERS), untrained=(first,))
    assert first not in kept.exits
    assert kept.exits


def test_costs_are_found_again_from_passes() -> None:
    rng = np.random.default_rng(0)
    costs = Costs(1e-3, 2e-4, 5e-4, 1e-4, 0.0)
    works = [Work(*rng.uniform(10, 1000, 5)) for _ in range(7)]
    found = fit_costs([(work, costs.seconds(work)) for work in works])
    assert [found.visit_s, found.row_s, found.layer_visit_s, found.layer_position_s] == pytest.approx(
        [1e-3, 2e-4, 5e-4, 1e-4]
    )
    assert found.cross_built_s == pytest.approx(0, abs=1e-9)


def test_a_prefix_catches_up_too() -> None:
    texts = Texts(np.array([2]), np.array([5]))
    work = work_of(np.array([1, 3]), (1, 3), texts, 1, built_from=0)
    assert work == Work(visits=3, rows=3, layer_visits=1 * 2 + 2 * 1, layer_positions=1 * 7 + 2 * 7, cross_built=3)
    deep_alone = work_of(np.array([1, 3]), (1, 3), texts, 1, built_from=1)
    assert deep_alone.cross_built == 2
