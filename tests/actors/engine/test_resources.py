"""What an engine measures and reserves: costs of visits, slots in flight, bytes of caches, merged exits, decay."""

import gc
import itertools

import pytest
import torch

from actors.engine.beam.beam_engine import BeamEngine
from actors.engine.engine import Engine
from actors.engine.kv_cache import slot_bytes
from actors.engine.oracles.reference import generate
from actors.engine.oracles.replay import NOTHING, replay
from actors.engine.request import FinishReason
from conf.engine import EngineConfig, Gate, Schedule
from conf.errors import UserError
from conf.resolve import resolve
from tests.actors.engine.tiny import config, requests, run, tiny_model

MODEL = tiny_model()


def test_measured_costs_change_nothing_but_who_runs_when() -> None:
    ticks = itertools.count()
    values = {"exits": (1, 3, 5), "thresholds": (0.3, 0.4)}
    measured = Engine(MODEL, config(**values, calibration_s=1000.0), clock=lambda: float(next(ticks)))
    plain = Engine(MODEL, config(**values))
    for engine in (measured, plain):
        cache = engine.executor.runner.cache
        for tensor in (cache.self_kv_LST2I, cache.context_SCD, cache.hidden_STD):
            assert not tensor.any()  # as new
        assert not cache.context_bias_SC.isfinite().any()
    work = requests(20, 1)
    first, second = run(measured, work), run(plain, work)
    assert {i: (c.token_ids, c.exit_layers) for i, c in first.items()} == {
        i: (c.token_ids, c.exit_layers) for i, c in second.items()
    }
    costs = measured.scheduler.policy.costs
    assert [cost.floor_s for cost in costs] == [1.0, 1.0, 1.0]  # every timing took one tick of the clock
    assert [cost.slope_s for cost in costs] == [0.0, 0.0, 0.0]


def test_no_time_to_measure_means_costs_by_layers() -> None:
    ticks = itertools.count()
    settings = config(exits=(1, 5), thresholds=(0.3,), calibration_s=0.5)
    engine = Engine(MODEL, settings, clock=lambda: float(next(ticks)))
    assert [cost.floor_s for cost in engine.scheduler.policy.costs] == [2.0, 5.0]


@pytest.mark.parametrize("cross", ["projected", "absorbed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bytes_of_a_sequence_are_known(cross: str, dtype: torch.dtype) -> None:
    model = tiny_model(dtype=dtype)
    engine = Engine(model, config(cross=cross, exits=(2, 5), thresholds=(0.5,)))
    one = slot_bytes(
        model.config.decoder, 16, model.max_context,
        num_kv_layers=5 if cross == "projected" else 0, item_bytes=dtype.itemsize,
    )  # fmt: skip
    num_slots = engine.scheduler.slots.num_slots
    assert num_slots == 4 * 2 + 4  # a row of every queue for each row of a visit, and an encoder batch
    assert engine.take_stats().kv_cache_bytes == one * num_slots


def test_memory_bounds_what_is_in_flight() -> None:
    one = (
        Engine(MODEL, config(num_slots=1, encode_batch=1, schedule="full", cross="absorbed"))
        .take_stats()
        .kv_cache_bytes
        // 2
    )
    work = requests(12, 2)
    free = run(Engine(MODEL, config()), work)
    for slots in (1, 3, 7):
        engine = Engine(MODEL, config(max_cache_bytes=slots * one + 1, cross="absorbed"))
        assert engine.scheduler.slots.num_slots == slots
        tight = run(engine, work)
        assert {i: c.exit_layers for i, c in tight.items()} == {i: c.exit_layers for i, c in free.items()}
        assert engine.take_stats().kv_cache_bytes <= slots * one
    with pytest.raises(UserError, match=f"max_cache_bytes=99 is less than the {one} bytes one sequence takes"):
        Engine(MODEL, config(max_cache_bytes=99, cross="absorbed"))


def test_exits_that_cannot_fire_cost_nothing() -> None:
    work = requests(20, 3)
    full, never = Engine(MODEL, config(schedule="full")), Engine(MODEL, config(thresholds=(1.5, 2.0, 1.01, 1.1)))
    outputs = [{i: (c.token_ids, c.exit_layers) for i, c in run(engine, work).items()} for engine in (full, never)]
    assert outputs[0] == outputs[1]
    assert never.scheduler.rules.exit_layers == (5,)
    assert full.take_stats().segment_visits == never.take_stats().segment_visits  # the very same visits
    some = Engine(MODEL, config(thresholds=(1.5, 0.3, 1.5, 0.4)))
    run(some, work)
    assert some.scheduler.rules.exit_layers == (2, 4, 5)


@pytest.mark.parametrize("schedule", [Schedule.POOL, Schedule.INPLACE])
def test_falling_thresholds_equal_the_reference_and_replay(schedule: Schedule) -> None:
    exits, thresholds = (1, 3, 5), (0.35, 0.4)
    settings = config(exits=exits, thresholds=thresholds, threshold_decay=4.0, schedule=schedule)
    decay, work = resolve(MODEL.config, settings).decay, requests(24, 4)
    done = run(Engine(MODEL, settings), work)
    still = run(Engine(MODEL, settings.model_copy(update={"threshold_decay": None})), work)
    assert [done[i].exit_layers for i in range(24)] != [still[i].exit_layers for i in range(24)]  # it does something
    found = NOTHING
    for request in work:
        completion = done[request.request_id]
        trace = generate(
            MODEL, request, exit_layers=exits, thresholds=thresholds, gate=Gate.SOFTMAX_MAX,
            max_new_tokens=min(16, request.max_new_tokens or 16), decay=decay,
        )  # fmt: skip
        ended = completion.finish_reason is FinishReason.EOS
        assert (*completion.token_ids, *([MODEL.config.eos_id] if ended else [])) == trace.step_ids
        assert completion.exit_layers == trace.exit_layers
        found += replay(
            MODEL, request, completion, exit_layers=exits, thresholds=thresholds, gate=Gate.SOFTMAX_MAX, decay=decay
        )
    assert found.exact


def test_thousands_of_sequences_leave_nothing_behind() -> None:
    """Caches are fixed; what the scheduler keeps must not grow with what it has done."""
    model = tiny_model(num_layers=2, dtype=torch.float32)
    engine = Engine(model, config(num_slots=32, encode_batch=32, exits=(1, 2), thresholds=(0.2,),
                                  generation={"max_new_tokens": 2}))  # fmt: skip
    [request, *_] = requests(1)
    before, done = engine.take_stats().kv_cache_bytes, 0
    for _ in range(10):
        for request_id in range(200):
            engine.add(type(request)(request_id, request.pixels_HWC, request.prompt_ids))
        while engine.has_work():
            done += len(engine.step())
        scheduler = engine.scheduler
        assert scheduler.slots.num_free == scheduler.slots.num_slots
        assert scheduler.num_running == 0
        assert not scheduler.has_work()
    assert done == 2000
    assert engine.take_stats().kv_cache_bytes == before


def test_nothing_is_kept_of_sequences_that_are_done() -> None:
    engine = Engine(MODEL, config(exits=(1, 3, 5), thresholds=(0.3, 0.4)))
    objects = []
    for seed in range(4):
        run(engine, requests(50, seed))
        gc.collect()
        objects.append(len(gc.get_objects()))
    assert objects[-1] - objects[1] < 25  # one kept for each sequence would be 100


@pytest.mark.parametrize(
    ("variant", "cross", "overlap"),
    [("pre_rms", "projected", False), ("pre_rms", "projected", True), ("pre_rms", "absorbed", False),
     ("merged", "auto", False)],
)  # fmt: skip
def test_a_long_prompt_makes_caches_grow_and_no_text_change(
    variant: str, cross: str, overlap: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(variant)
    work = sorted(requests(20, 3), key=lambda request: len(request.prompt_ids))
    settings = config(exits=(1, 3, 5), thresholds=(0.3, 0.4), cross=cross, encode_overlap=overlap)
    waits = [2] * len(work)
    roomy = Engine(model, settings)
    expected = run(roomy, work, waits)
    monkeypatch.setattr("actors.engine.kv_cache.USUAL_PROMPT", 1)
    narrow = Engine(model, settings)
    start, cache = narrow.executor.capacity_bytes, narrow.executor.runner.cache
    assert cache.num_context == model.max_context - 8
    done = run(narrow, work, waits)
    assert {i: (c.token_ids, c.exit_layers) for i, c in done.items()} == {
        i: (c.token_ids, c.exit_layers) for i, c in expected.items()
    }
    assert cache.num_context == model.max_context
    assert start < narrow.take_stats().kv_cache_bytes == roomy.take_stats().kv_cache_bytes


def test_a_long_prompt_makes_caches_of_beams_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    work = sorted(requests(8, 3), key=lambda request: len(request.prompt_ids))
    generation = {"max_new_tokens": 8, "num_beams": 3}
    settings = EngineConfig.model_validate({"schedule": "full", "num_slots": 3, "generation": generation})
    expected = run(BeamEngine(MODEL, settings), work)
    monkeypatch.setattr("actors.engine.kv_cache.USUAL_PROMPT", 1)
    narrow = BeamEngine(MODEL, settings)
    start = narrow.runner.capacity_bytes
    done = run(narrow, work)
    assert {i: c.token_ids for i, c in done.items()} == {i: c.token_ids for i, c in expected.items()}
    assert narrow.runner.capacity_bytes > start
