"""Encoding beside decoding: the same tokens, statistics that add up, failures that surface, caches left clean."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from actors.engine.engine import Engine
from actors.engine.oracles.reference import generate
from actors.engine.request import FinishReason
from conf.engine import EngineConfig, Gate, Schedule
from tests.actors.engine.tiny import config, requests, run, tiny_model
from tests.effort import effort

MODEL = tiny_model()
EXITS, THRESHOLDS = (1, 3, 5), (0.35, 0.4)


@settings(max_examples=effort(5, 50))
@given(
    seed=st.integers(0, 1000),
    num_slots=st.integers(1, 6),
    encode_batch=st.integers(1, 5),
    arrivals=st.lists(st.integers(0, 6), min_size=10, max_size=10),
    schedule=st.sampled_from([Schedule.POOL, Schedule.INPLACE, Schedule.FULL]),
    cross=st.sampled_from(["projected", "absorbed", "auto"]),
)
def test_any_traffic_equals_the_reference(seed: int, arrivals: list[int], schedule: Schedule, **engine: object) -> None:
    work = requests(10, seed)
    settings_ = config(exits=EXITS, thresholds=THRESHOLDS, encode_overlap=True, schedule=schedule, **engine)
    done = run(Engine(MODEL, settings_), work, arrivals)
    full = schedule is Schedule.FULL
    for request in work:
        exits, thresholds = (EXITS[-1:], ()) if full else (EXITS, THRESHOLDS)
        trace = generate(MODEL, request, exit_layers=exits, thresholds=thresholds, gate=Gate.SOFTMAX_MAX,
                         max_new_tokens=min(16, request.max_new_tokens or 16))  # fmt: skip
        completion = done[request.request_id]
        ended = completion.finish_reason is FinishReason.EOS
        assert (*completion.token_ids, *([MODEL.config.eos_id] if ended else [])) == trace.step_ids
        assert completion.exit_layers == trace.exit_layers


def _held(engine: Engine) -> tuple[threading.Event, Callable[[], int]]:
    """Let the encoder wait for a signal; returns it, and a count of the batches it has begun."""
    signal, begun, encode = threading.Event(), [0], engine.executor.encode

    def slow(batch: Any) -> None:
        begun[0] += 1
        assert signal.wait(30)
        encode(batch)

    engine.executor.encode = slow  # type: ignore[method-assign]
    return signal, lambda: begun[0]


def test_the_decoder_runs_while_the_encoder_does() -> None:
    engine = Engine(MODEL, config(exits=EXITS, thresholds=THRESHOLDS, encode_overlap=True, encode_batch=2, num_slots=8))
    work = [r for r in requests(60, 3) if r.max_new_tokens is None][:6]
    for request in work[:2]:
        engine.add(request)
    engine.step()  # starts the encoder
    engine.step()  # waits for it, and decodes
    signal, begun = _held(engine)
    for request in work[2:]:
        engine.add(request)
    done = []
    for _ in range(12):  # the encoder stands still all the while
        if engine.scheduler.num_running:
            done += engine.step()
    assert begun() <= 1
    assert any(sequence.position > 2 for queue in engine.scheduler._queues for sequence in queue) or done
    assert engine.has_work()
    signal.set()
    while engine.has_work():
        done += engine.step()
    assert sorted(c.request_id for c in done) == sorted(r.request_id for r in work)
    stats = engine.take_stats()
    assert sum(c.device_s for c in done) == pytest.approx(stats.busy_s)
    assert sum(c.encode_s for c in done) <= stats.encode_s + stats.overlapped_s + 1e-9  # and what threads wait to run
    assert stats.overlapped_s > 0
    for c in done:
        assert c.enqueued_s <= c.admitted_s <= c.encoded_s <= c.first_token_s <= c.finished_s


def test_a_failure_of_the_encoder_is_the_engines() -> None:
    engine = Engine(MODEL, config(encode_overlap=True))

    def broken(batch: object) -> None:
        raise RuntimeError("the encoder chokes")

    engine.executor.encode = broken  # type: ignore[method-assign]
    engine.add(requests(1)[0])
    engine.step()
    with pytest.raises(RuntimeError, match="the encoder chokes"):
        engine.step()


def test_it_is_off_on_cpus_unless_asked_for_and_not_for_beams() -> None:
    assert Engine(MODEL, config())._background is None
    assert Engine(MODEL, config(encode_overlap=False))._background is None
    with pytest.raises(ValidationError, match="encode_overlap is for greedy outputs"):
        EngineConfig.from_record({"schedule": "full", "encode_overlap": True, "generation": {"num_beams": 2}})
