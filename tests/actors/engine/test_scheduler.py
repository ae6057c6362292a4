"""Slots, staircase and queues under random traffic, with a scripted model: no torch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.engine.batch import Batch, Emission, EncodeBatch
from actors.engine.request import Completion, Request
from actors.engine.scheduler import Scheduler, SchedulerRules
from actors.engine.slots import SlotAllocator
from actors.engine.stats import Meter
from conf.engine import Schedule

EOS = 2
PIXELS = np.zeros((1, 1, 3), np.uint8)


def rules(**changes: object) -> SchedulerRules:
    values: dict[str, object] = {
        "schedule": Schedule.POOL, "exit_layers": (2, 4, 6), "thresholds": (0.5, 0.5), "num_slots": 4,
        "encode_batch": 2, "max_wait_steps": 5, "max_new_tokens": 20, "start_id": 1, "end_ids": (EOS,),
    }  # fmt: skip
    return SchedulerRules(**{**values, **changes})  # type: ignore[arg-type]


def meter() -> Meter:
    return Meter(lambda: 0.0, 3)


def drive(scheduler: Scheduler, depths: dict[int, list[int]]) -> tuple[dict[int, Completion], list[Batch]]:
    """Run to the end; request i's step t leaves at segment depths[i][t], and its last step is the end token."""
    done: dict[int, Completion] = {}
    batches = []
    while scheduler.has_work():
        batch = scheduler.next_batch()
        if isinstance(batch, EncodeBatch):
            scheduler.encoded(batch)
            continue
        batches.append(batch)
        tokens, confidences = [], []
        for sequence in batch.sequences:
            script = depths[sequence.request.request_id]
            step = sequence.position
            assert batch.segment <= script[step], "a row ran deeper than it asked for"
            assert list(sequence.pending(batch.segment))[-1] == step
            tokens.append(EOS if step == len(script) - 1 else 5)
            confidences.append(1.0 if batch.segment == script[step] else 0.0)
        decision = Emission(tokens, confidences)
        for sequence in scheduler.commit(batch, decision, scheduler.exits(batch, confidences)):
            done[sequence.request.request_id] = sequence.completion(0.0)
    scheduler.check_integrity()
    return done, batches


SCRIPTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=15)


@given(
    scripts=SCRIPTS,
    num_slots=st.integers(1, 6),
    encode_batch=st.integers(1, 4),
    max_wait_steps=st.integers(1, 8),
    schedule=st.sampled_from([Schedule.POOL, Schedule.INPLACE]),
)
def test_everyone_finishes_at_the_depths_they_asked_for(scripts: list[list[int]], **changes: object) -> None:
    scheduler = Scheduler(rules(**changes), meter())
    for request_id in range(len(scripts)):
        scheduler.add(Request(request_id, PIXELS, (3,)))
    done, batches = drive(scheduler, dict(enumerate(scripts)))
    for request_id, script in enumerate(scripts):
        assert done[request_id].exit_layers == tuple(2 * (segment + 1) for segment in script)
    rows = [sum(len(b.sequences) for b in batches if b.segment == segment) for segment in range(3)]
    assert rows == [sum(depth >= segment for script in scripts for depth in script) for segment in range(3)]


@given(scripts=SCRIPTS, num_slots=st.integers(1, 6))
def test_a_segment_runs_exactly_the_positions_some_later_step_needs(scripts: list[list[int]], num_slots: int) -> None:
    """Work per sequence is the suffix maximum of its depths; tail tokens nobody needs are never computed."""
    scheduler = Scheduler(rules(num_slots=num_slots), meter())
    for request_id in range(len(scripts)):
        scheduler.add(Request(request_id, PIXELS, (3,)))
    ran: dict[tuple[int, int], list[int]] = {}
    original = scheduler.commit

    def recording(batch: Batch, decision: Emission, leaves: list[bool]) -> list[object]:
        for sequence in batch.sequences:
            ran.setdefault((sequence.request.request_id, batch.segment), []).extend(sequence.pending(batch.segment))
        return original(batch, decision, leaves)  # type: ignore[return-value]

    scheduler.commit = recording  # type: ignore[method-assign,assignment]
    drive(scheduler, dict(enumerate(scripts)))
    for request_id, script in enumerate(scripts):
        for segment in range(3):
            needed = [t for t in range(len(script)) if max(script[t:]) >= segment]
            assert ran.get((request_id, segment), []) == needed  # once each, in order


@given(
    scripts=SCRIPTS,
    num_slots=st.integers(1, 6),
    encode_batch=st.integers(1, 4),
    delays=st.lists(st.integers(0, 4), min_size=15, max_size=15),
)
def test_encoding_may_take_its_time(scripts: list[list[int]], delays: list[int], **changes: int) -> None:
    """One encoder batch is under way while others decode; everything has its place at every step."""
    scheduler = Scheduler(rules(**changes), meter())
    for request_id in range(len(scripts)):
        scheduler.add(Request(request_id, PIXELS, (3,)))
    done: dict[int, Completion] = {}
    under_way: EncodeBatch | None = None
    left = 0
    while scheduler.has_work():
        if under_way is not None and (left == 0 or not scheduler.num_running):
            scheduler.encoded(under_way)
            under_way = None
        batch = scheduler.next_batch(may_admit=under_way is None)
        left -= 1
        if isinstance(batch, EncodeBatch):
            assert under_way is None
            under_way, left = batch, delays.pop() if delays else 0
        else:
            at = [(scripts[s.request.request_id], s.position) for s in batch.sequences]
            tokens = [EOS if step == len(script) - 1 else 5 for script, step in at]
            confidences = [float(batch.segment == script[step]) for script, step in at]
            finished = scheduler.commit(batch, Emission(tokens, confidences), scheduler.exits(batch, confidences))
            done |= {sequence.request.request_id: sequence.completion(0.0) for sequence in finished}
        scheduler.check_integrity()
    for request_id, script in enumerate(scripts):
        assert done[request_id].exit_layers == tuple(2 * (segment + 1) for segment in script)


def test_deep_rows_wait_for_company_but_not_for_ever() -> None:
    scheduler = Scheduler(rules(num_slots=9, encode_batch=9, max_wait_steps=4), meter())
    scripts = {0: [2] * 19, **{request_id: [0] * 19 for request_id in range(1, 9)}}
    for request_id in scripts:
        scheduler.add(Request(request_id, PIXELS, (3,)))
    _, batches = drive(scheduler, scripts)
    deep = [i for i, batch in enumerate(batches) if batch.segment == 1]
    assert deep[0] == 5  # alone in its queue, it ran when it was older than max_wait_steps
    assert all(b.segment == 0 for b in batches[: deep[0]])


def test_inplace_goes_on_with_the_survivors_at_once() -> None:
    scheduler = Scheduler(rules(schedule=Schedule.INPLACE), meter())
    for request_id in range(4):
        scheduler.add(Request(request_id, PIXELS, (3,)))
    _, batches = drive(scheduler, {0: [0, 0], 1: [1, 0], 2: [2, 0], 3: [2, 0]})
    assert [(b.segment, len(b.sequences)) for b in batches[-4:]] == [(0, 4), (1, 3), (2, 2), (0, 4)]


def test_consensus_waits_until_everyone_is_sure() -> None:
    scheduler = Scheduler(rules(schedule=Schedule.CONSENSUS), meter())
    for request_id in range(2):
        scheduler.add(Request(request_id, PIXELS, (3,)))
    scheduler.encoded(scheduler.next_batch())  # type: ignore[arg-type]
    both = scheduler.next_batch()
    assert isinstance(both, Batch)
    assert scheduler.exits(both, [0.9, 0.1]) == [False, False]
    assert scheduler.exits(both, [0.9, 0.6]) == [True, True]


def test_a_request_may_ask_for_fewer_tokens() -> None:
    scheduler = Scheduler(rules(max_new_tokens=10), meter())
    scheduler.add(Request(0, PIXELS, (3,), max_new_tokens=4))
    scheduler.add(Request(1, PIXELS, (3,), max_new_tokens=40))
    done, _ = drive(scheduler, {0: [0] * 30, 1: [0] * 30})
    assert [len(done[i].token_ids) for i in (0, 1)] == [4, 10]
    assert done[0].finish_reason.value == "length"


@given(st.lists(st.integers(0, 99), max_size=200), st.integers(1, 8))
def test_slots_are_never_given_twice_and_never_lost(choices: list[int], num_slots: int) -> None:
    allocator = SlotAllocator(num_slots)
    held: list[int] = []
    for choice in choices:
        if allocator.num_free and (choice % 2 or not held):
            slot = allocator.allocate()
            assert slot not in held
            held.append(slot)
        elif held:
            allocator.release(held.pop(choice % len(held)))
        allocator.check_integrity(set(held))


def test_misuse_of_slots_is_caught() -> None:
    allocator = SlotAllocator(2)
    slot = allocator.allocate()
    with pytest.raises(AssertionError, match="lost"):
        allocator.check_integrity(set())
    allocator.release(slot)
    with pytest.raises(AssertionError, match="free already"):
        allocator.release(slot)
