"""THE test: any slots, arrival order, schedule and thresholds give the reference's tokens, depths and confidences."""

from dataclasses import fields
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.engine.confidence import score
from actors.engine.engine import Engine
from actors.engine.oracles.reference import encode_one, generate, teacher_forced
from actors.engine.oracles.replay import NOTHING, replay
from actors.engine.request import FinishReason
from actors.engine.stats import EngineStats
from actors.model.model import MultiExitModel
from conf.engine import CrossAttention, Gate, KvPolicy, Schedule
from conf.errors import UserError
from pipeline.tables import ENGINE_STATS
from tests.actors.engine.tiny import VARIANTS, config, requests, run, tiny_model
from tests.effort import effort

MODELS = {variant: tiny_model(variant) for variant in VARIANTS}
THRESHOLDS = (0.3, 0.35, 0.4, 0.5)


def _check(model: MultiExitModel, exits: tuple[int, ...], thresholds: tuple[float, ...], num_requests: int, seed: int,
           arrivals: list[int] | None = None, **engine: object) -> set[int]:  # fmt: skip
    """Compare with the reference; return the depths that occurred."""
    work = requests(num_requests, seed)
    settings_ = config(exits=exits, thresholds=thresholds, **engine)
    done = run(Engine(model, settings_), work, arrivals)
    assert sorted(done) == list(range(num_requests))
    depths: set[int] = set()
    full = settings_.schedule is Schedule.FULL
    for request in work:
        limit = min(16, request.max_new_tokens or 16)
        trace = generate(
            model,
            request,
            exit_layers=exits[-1:] if full else exits,
            thresholds=() if full else thresholds,
            gate=settings_.gate,
            max_new_tokens=limit,
            min_new_tokens=settings_.generation.min_new_tokens,
        )
        completion = done[request.request_id]
        ended = completion.finish_reason is FinishReason.EOS
        assert (*completion.token_ids, *([model.config.eos_id] if ended else [])) == trace.step_ids
        assert completion.exit_layers == trace.exit_layers
        assert completion.confidences == pytest.approx(trace.confidences, abs=1e-6)
        assert ended or len(completion.token_ids) == limit
        depths |= set(completion.exit_layers)
    return depths


@cache
def _telling_thresholds(model: MultiExitModel, exits: tuple[int, ...]) -> tuple[float, ...]:
    """Thresholds that about a third of the tokens pass at each exit, so that every depth occurs."""
    found: list[list[float]] = [[] for _ in exits[:-1]]
    for request in requests(8, 9):
        trace = generate(model, request, exit_layers=exits[-1:], thresholds=(), gate=Gate.SOFTMAX_MAX, max_new_tokens=8)
        inputs = [model.config.start_id, *trace.step_ids[:-1]]
        hidden = teacher_forced(model, inputs, *encode_one(model, request))
        for confidences, layer in zip(found, exits, strict=False):
            confidences += score(model.decoder.exit_logits(layer, hidden[layer - 1][0]), Gate.SOFTMAX_MAX)[1].tolist()
    return tuple(sorted(confidences)[2 * len(confidences) // 3] for confidences in found)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("schedule", [Schedule.POOL, Schedule.INPLACE, Schedule.FULL])
@pytest.mark.parametrize("cross", [CrossAttention.PROJECTED, CrossAttention.ABSORBED])
def test_engine_equals_reference(variant: str, schedule: Schedule, cross: CrossAttention) -> None:
    thresholds = _telling_thresholds(MODELS[variant], (1, 2, 3, 4, 5))
    depths = _check(MODELS[variant], (1, 2, 3, 4, 5), thresholds, effort(12, 40), 3, schedule=schedule, cross=cross)
    assert depths == {5} if schedule is Schedule.FULL else len(depths) >= 4


@pytest.mark.parametrize("num_slots", [1, 4, 32])
def test_slots_do_not_change_anything(num_slots: int) -> None:
    _check(MODELS["pre_rms"], (2, 3, 5), (0.35, 0.5), effort(12, 60), 2, num_slots=num_slots)


@settings(max_examples=effort(8, 100))
@given(
    seed=st.integers(0, 1000),
    num_slots=st.integers(1, 9),
    encode_batch=st.integers(1, 5),
    exits=st.sets(st.integers(1, 4)).map(lambda chosen: (*sorted(chosen), 5)),
    threshold=st.floats(0.05, 0.95),
    arrivals=st.lists(st.integers(0, 6), min_size=8, max_size=8),
    schedule=st.sampled_from([Schedule.POOL, Schedule.INPLACE]),
    gate=st.sampled_from([Gate.SOFTMAX_MAX, Gate.SOFTMAX_DIFF, Gate.SATURATION, Gate.SHORTLIST]),
    max_wait_steps=st.integers(1, 20),
    min_new_tokens=st.integers(0, 3),
    cross=st.sampled_from([CrossAttention.PROJECTED, CrossAttention.ABSORBED]),
)
def test_any_traffic_equals_reference(seed: int, exits: tuple[int, ...], threshold: float, arrivals: list[int],
                                      min_new_tokens: int, **engine: object) -> None:  # fmt: skip
    thresholds = tuple(threshold * (0.9**i) for i in range(len(exits) - 1))
    generation = {"max_new_tokens": 16, "min_new_tokens": min_new_tokens}
    _check(MODELS["pre_rms"], exits, thresholds, 8, seed, arrivals, generation=generation, **engine)


def _replay_all(kv: KvPolicy, schedule: Schedule, dtype: torch.dtype) -> tuple[int, int, int]:
    model = tiny_model(dtype=dtype, seed=3)
    work = requests(30, 5)
    exits = (1, 2, 3, 5)
    done = run(
        Engine(model, config(exits=exits, thresholds=THRESHOLDS[:3], kv=kv, schedule=schedule, num_slots=6)), work
    )
    total = sum(
        (
            replay(model, r, done[r.request_id], exit_layers=exits, thresholds=THRESHOLDS[:3], gate=Gate.SOFTMAX_MAX)
            for r in work
        ),
        start=NOTHING,
    )
    return total.num_steps, total.same_token, total.same_exit


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("schedule", [Schedule.POOL, Schedule.INPLACE])
def test_replay_oracle_reproduces_every_step_of_jit(schedule: Schedule, dtype: torch.dtype) -> None:
    steps, same_token, same_exit = _replay_all(KvPolicy.JIT, schedule, dtype)
    assert steps > 100
    assert same_token == same_exit == steps


def test_consensus_emits_the_argmax_of_the_layer_it_reports() -> None:
    steps, same_token, _ = _replay_all(KvPolicy.JIT, Schedule.CONSENSUS, torch.float64)
    assert same_token == steps


@pytest.mark.parametrize("kv", [KvPolicy.COPY, KvPolicy.PROJECT])
def test_replay_oracle_catches_state_propagation(kv: KvPolicy) -> None:
    steps, same_token, same_exit = _replay_all(kv, Schedule.POOL, torch.float64)
    assert min(same_token, same_exit) < 0.99 * steps


def test_thresholds_zero_and_above_one_are_the_two_extremes() -> None:
    assert _check(MODELS["pre_rms"], (2, 5), (0.0,), 10, 3) == {2}
    assert _check(MODELS["pre_rms"], (2, 5), (1.01,), 10, 3) == {5}


def test_deep_cross_attention_is_built_only_for_those_who_go_deep() -> None:
    model, work = MODELS["pre_rms"], requests(12, 4)
    shallow = Engine(model, config(exits=(2, 5), thresholds=(0.0,), cross="projected"))
    run(shallow, work)
    assert shallow.executor.runner.cross_rows_built == 12 * 2
    deep = Engine(model, config(exits=(2, 5), thresholds=(1.01,), cross="projected"))
    run(deep, work)
    assert deep.executor.runner.cross_rows_built == 12 * 5


def test_statistics_add_up() -> None:
    engine = Engine(MODELS["pre_rms"], config(exits=(1, 3, 5), thresholds=(0.35, 0.5), num_slots=5))
    done = run(engine, requests(20, 6))
    stats = engine.take_stats()
    assert stats.num_completed == 20
    assert stats.num_tokens == sum(len(c.exit_layers) for c in done.values())
    assert sum(c.device_s for c in done.values()) == pytest.approx(stats.busy_s)
    assert sum(c.encode_s for c in done.values()) == pytest.approx(stats.encode_s)
    assert stats.busy_s == pytest.approx(stats.encode_s + stats.decode_s + stats.gate_s + stats.host_s)
    assert sum(stats.segment_s) <= stats.busy_s
    assert stats.segment_rows[0] == stats.num_tokens  # every token runs the first segment once
    assert stats.segment_positions[0] == stats.num_tokens
    per_exit = {layer: sum(c.exit_layers.count(layer) for c in done.values()) for layer in (1, 3, 5)}
    assert stats.segment_rows == [stats.num_tokens, per_exit[3] + per_exit[5], per_exit[5]]
    suffix_maxima = [
        sum(max(c.exit_layers[t:]) > floor for c in done.values() for t in range(len(c.exit_layers)))
        for floor in (0, 1, 3)
    ]
    assert stats.segment_positions == suffix_maxima  # JIT's bound: a position runs what it or a later one needs
    assert 0 < stats.occupancy <= 1
    assert stats.involuntary_exits == 0
    assert stats.kv_cache_bytes > 0
    for c in done.values():
        assert c.enqueued_s <= c.admitted_s <= c.encoded_s <= c.first_token_s <= c.finished_s
    assert engine.take_stats().num_steps == 0


def test_requests_the_model_cannot_take_are_refused() -> None:
    engine = Engine(MODELS["pre_rms"], config())
    [request] = requests(1)
    with pytest.raises(ValueError, match="a prompt must have 1 to 9 tokens, got 10"):
        engine.add(type(request)(0, request.pixels_HWC, tuple(range(10))))
    with pytest.raises(ValueError, match="pixels must have shape"):
        engine.add(type(request)(0, request.pixels_HWC[:16], (1,)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"exits": (2, 6), "thresholds": (0.5,)}, "must be among the checkpoint's exits"),
        ({"exits": (2, 4), "thresholds": (0.5,)}, "must end with the full depth, 5"),
        ({"exits": (2, 5), "thresholds": None}, "no calibrated thresholds"),
        ({"gate": Gate.CLASSIFIER}, "learned gates"),
        ({"generation": {"max_new_tokens": 99}}, "more than the checkpoint's 24"),
    ],
)
def test_settings_that_do_not_fit_the_model(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(Engine(MODELS["pre_rms"], config(**values)), requests(1))


def test_statistics_are_named_as_the_columns_of_their_table() -> None:
    added = {"invocation", "actor", "device", "start_utc", "end_utc", "model_load_s"}  # by the captioner
    counted = {field.name for field in fields(EngineStats)} - {"start_s", "end_s"}
    assert counted == set(ENGINE_STATS.names) - added
