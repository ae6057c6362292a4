"""The engine's promises, for decoders whose self- and cross-attention are one: exact whatever the schedule and gate."""

import itertools
from functools import cache

import pytest
import torch

from actors.engine.engine import Engine
from actors.engine.oracles.reference import encode_one, generate, teacher_forced, verdicts
from actors.engine.oracles.replay import NOTHING, replay
from actors.engine.request import FinishReason
from actors.model.model import MultiExitModel
from conf.engine import Gate, KvPolicy, Schedule
from conf.errors import UserError
from conf.resolve import resolve
from tests.actors.engine.tiny import config, requests, run, tiny_model
from tests.effort import effort

EXITS = (1, 3, 5)
WORK = requests(effort(10, 60), 5)


@cache
def model() -> MultiExitModel:
    """More tokens than a shortlist has, and learned gates."""
    made = tiny_model("merged", seed=3, dtype=torch.float32, vocab_size=150, gates=True)
    with torch.no_grad():
        for gate in made.decoder.gates.values():
            torch.nn.init.normal_(gate.weight, std=0.3)  # type: ignore[arg-type]
    return made


@cache
def thresholds(gate: Gate) -> tuple[float, ...]:
    """What about two in five tokens reach at each exit, amid a gap so that rounding decides nothing."""
    processors = Engine(model(), config()).executor.judge.processors
    found: list[list[float]] = [[] for _ in EXITS[:-1]]
    for request in WORK[:6]:
        trace = generate(model(), request, exit_layers=EXITS[-1:], thresholds=(), gate=gate, max_new_tokens=8)
        inputs = [model().config.start_id, *trace.step_ids[:-1]]
        said = verdicts(
            model(), inputs, *encode_one(model(), request), exit_layers=EXITS, gate=gate, processors=processors
        )
        for confidences, (_, at_exit) in zip(found, said, strict=False):
            confidences += at_exit
    return tuple(_amid_a_gap(sorted(confidences)) for confidences in found)


def _amid_a_gap(ordered: list[float]) -> float:
    near = range(len(ordered) // 2, 7 * len(ordered) // 10)
    place = max(near, key=lambda i: ordered[i] - ordered[i - 1])
    return (ordered[place - 1] + ordered[place]) / 2


@pytest.mark.parametrize(("schedule", "gate"), list(itertools.product([Schedule.POOL, Schedule.INPLACE], Gate)))
def test_every_step_of_jit_is_reproduced(schedule: Schedule, gate: Gate) -> None:
    settings = config(exits=EXITS, thresholds=thresholds(gate), schedule=schedule, gate=gate, num_slots=6)
    done = run(Engine(model(), settings), WORK)
    resolved = resolve(model().config, settings)
    found = sum(
        (
            replay(
                model(), request, done[request.request_id],
                exit_layers=resolved.exit_layers, thresholds=resolved.thresholds, gate=gate, schedule=schedule,
            )
            for request in WORK
        ),
        start=NOTHING,
    )  # fmt: skip
    assert found.num_steps > 60
    assert found.exact, found
    assert found.largest_confidence_gap < 1e-4
    assert {layer for completion in done.values() for layer in completion.exit_layers} == set(EXITS)


@pytest.mark.parametrize("kv", list(KvPolicy))
def test_the_engine_equals_the_reference_with_features_of_the_layer_alone(kv: KvPolicy) -> None:
    limits = thresholds(Gate.SOFTMAX_MAX)
    done = run(
        Engine(model(), config(exits=EXITS, thresholds=limits, kv=kv, num_slots=3)), WORK, [0, 2] * (len(WORK) // 2)
    )
    same = 0
    for request in WORK:
        trace = generate(
            model(), request, exit_layers=EXITS, thresholds=limits, gate=Gate.SOFTMAX_MAX,
            max_new_tokens=min(16, request.max_new_tokens or 16),
        )  # fmt: skip
        completion = done[request.request_id]
        ended = completion.finish_reason is FinishReason.EOS
        said = (*completion.token_ids, *([model().config.eos_id] if ended else []))
        same += (said, completion.exit_layers) == (trace.step_ids, trace.exit_layers)
    assert same == len(WORK) if kv is KvPolicy.JIT else same < len(WORK)


@pytest.mark.parametrize("num_slots", [2, 16])
def test_lossless_says_what_full_depth_says(num_slots: int) -> None:
    work = requests(effort(4 * min(num_slots, 10), 600), 11)
    shared = {"num_slots": num_slots, "encode_batch": 16, "generation": {"max_new_tokens": 12}}
    full = run(Engine(model(), config(schedule="full", thresholds=None, **shared)), work)
    engine = Engine(
        model(), config(exits=EXITS, thresholds=thresholds(Gate.SOFTMAX_MAX), lossless=True, max_drafts=3, **shared)
    )
    lossless = run(engine, work)
    assert [lossless[i].token_ids for i in full] == [full[i].token_ids for i in full]
    stats = engine.take_stats()
    assert 0 < stats.num_accepted < stats.num_drafted
    assert len({completion.token_ids for completion in full.values()}) > len(work) // 4


def test_windows_and_rotations_matter() -> None:
    """What the engine reproduces is not the same without them."""
    merged = model().config.decoder.merged
    assert merged is not None
    states = []
    for changes in ({}, {"window": 24}, {"sliding_rope": merged.full_rope}):
        changed = {"merged": merged.model_copy(update=changes)}
        decoder = model().config.decoder.model_copy(update=changed)
        other = MultiExitModel(model().config.model_copy(update={"decoder": decoder}))
        other.load_state_dict(model().state_dict())
        states.append(teacher_forced(other.eval(), list(range(3, 13)), *encode_one(model(), WORK[0]))[-1])
    as_it_is, no_window, one_rotation = states
    assert torch.allclose(as_it_is[:, : merged.window], no_window[:, : merged.window], atol=1e-5)
    assert not torch.allclose(as_it_is[:, merged.window :], no_window[:, merged.window :], atol=1e-2)
    assert not torch.allclose(as_it_is, one_rotation, atol=1e-2)


def test_what_normalised_keys_do_not_allow_is_refused() -> None:
    with pytest.raises(UserError, match="cross=absorbed is for models whose keys are plain projections"):
        Engine(model(), config(cross="absorbed"))
