"""What the engine promises, in fp32: just-in-time features are exact whatever the schedule and gate; copies are not."""

import itertools
from functools import cache

import pytest
import torch

from actors.engine.engine import Engine
from actors.engine.oracles.reference import encode_one, generate, verdicts
from actors.engine.oracles.replay import NOTHING, Replay, replay
from actors.engine.request import Completion
from actors.model.model import MultiExitModel
from conf.engine import Gate, KvPolicy, Schedule
from conf.resolve import resolve
from tests.actors.engine.tiny import config, requests, run, tiny_model
from tests.effort import effort

EXITS = (1, 3, 5)
WORK = requests(effort(18, 60), 5)
NUM_LOSSLESS = effort(300, 2000)


@cache
def model() -> MultiExitModel:
    """More tokens than a shortlist has, and learned gates."""
    made = tiny_model(seed=3, dtype=torch.float32, vocab_size=150, gates=True)
    with torch.no_grad():
        for gate in made.decoder.gates.values():
            torch.nn.init.normal_(gate.weight, std=0.3)  # type: ignore[arg-type]
    return made


@cache
def thresholds(gate: Gate) -> tuple[float, ...]:
    """What two in five tokens reach at each exit, so that all depths occur, between two confidences far enough apart
    that rounding decides nothing."""
    processors = Engine(model(), config()).executor.judge.processors
    found: list[list[float]] = [[] for _ in EXITS[:-1]]
    for request in WORK[:12]:
        trace = generate(model(), request, exit_layers=EXITS[-1:], thresholds=(), gate=gate, max_new_tokens=8)
        inputs = [model().config.start_id, *trace.step_ids[:-1]]
        said = verdicts(
            model(), inputs, *encode_one(model(), request), exit_layers=EXITS, gate=gate, processors=processors
        )
        for confidences, (_, at_exit) in zip(found, said, strict=False):
            confidences += at_exit
    return tuple(sorted(confidences)[3 * len(confidences) // 5] for confidences in found)


def replayed(schedule: Schedule, gate: Gate, kv: KvPolicy) -> tuple[Replay, dict[int, Completion]]:
    slots = 2 if schedule is Schedule.CONSENSUS else 6  # more never agree
    settings = config(exits=EXITS, thresholds=thresholds(gate), schedule=schedule, gate=gate, kv=kv, num_slots=slots)
    done = run(Engine(model(), settings), WORK)
    resolved = resolve(model().config, settings)
    found = (
        replay(
            model(),
            r,
            done[r.request_id],
            exit_layers=resolved.exit_layers,
            thresholds=resolved.thresholds,
            gate=gate,
            schedule=schedule,
        )
        for r in WORK
    )
    return sum(found, start=NOTHING), done


@pytest.mark.parametrize(("schedule", "gate"), list(itertools.product(Schedule, Gate)))
def test_every_step_of_jit_is_reproduced(schedule: Schedule, gate: Gate) -> None:
    found, done = replayed(schedule, gate, KvPolicy.JIT)
    assert found.num_steps > 60
    assert found.exact, found
    assert found.largest_confidence_gap < 1e-4
    depths = {layer for completion in done.values() for layer in completion.exit_layers}
    assert depths == ({5} if schedule is Schedule.FULL else set(EXITS))


def test_the_learned_gate_decides_as_in_the_reference() -> None:
    limits = thresholds(Gate.CLASSIFIER)
    done = run(Engine(model(), config(exits=EXITS, gate=Gate.CLASSIFIER, thresholds=limits)), WORK[:10])
    for request in WORK[:10]:
        completion, most = done[request.request_id], min(16, request.max_new_tokens or 16)
        trace = generate(
            model(), request, exit_layers=EXITS, thresholds=limits, gate=Gate.CLASSIFIER, max_new_tokens=most
        )
        assert completion.exit_layers == trace.exit_layers
        assert completion.confidences == pytest.approx(trace.confidences, abs=1e-5)
        assert completion.token_ids == trace.step_ids[: len(completion.token_ids)]
    assert {layer for completion in done.values() for layer in completion.exit_layers} == set(EXITS)


@pytest.mark.parametrize("kv", [KvPolicy.COPY, KvPolicy.PROJECT])
@pytest.mark.parametrize("schedule", [Schedule.POOL, Schedule.INPLACE, Schedule.CONSENSUS])
def test_copied_and_projected_features_are_not_reproduced(schedule: Schedule, kv: KvPolicy) -> None:
    found, _ = replayed(schedule, Gate.SOFTMAX_MAX, kv)
    assert found.same_token < 0.97 * found.num_steps
    assert found.largest_confidence_gap > 0.1


def test_lossless_says_what_full_depth_says_over_many_sequences() -> None:
    work = requests(NUM_LOSSLESS, 11)
    shared = {"num_slots": 64, "encode_batch": 64, "generation": {"max_new_tokens": 8}}
    full = run(Engine(model(), config(schedule="full", thresholds=None, **shared)), work)
    limits = thresholds(Gate.SOFTMAX_MAX)
    engine = Engine(model(), config(exits=EXITS, thresholds=limits, lossless=True, max_drafts=3, **shared))
    lossless = run(engine, work)
    same = sum(
        lossless[i].token_ids == full[i].token_ids and lossless[i].finish_reason is full[i].finish_reason
        for i in range(NUM_LOSSLESS)
    )
    assert same == NUM_LOSSLESS
    stats = engine.take_stats()
    assert 0 < stats.num_accepted < stats.num_drafted
    assert len({completion.token_ids for completion in full.values()}) > NUM_LOSSLESS // 4
