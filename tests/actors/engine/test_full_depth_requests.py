"""Requests that ask for full depth, among others: their tokens are full depth's, and the others' what they were."""

import dataclasses

import pytest

from actors.engine.engine import Engine
from actors.engine.oracles.reference import generate
from conf.engine import Gate
from tests.actors.engine.tiny import VARIANTS, config, requests, run, tiny_model

MODELS = {variant: tiny_model(variant) for variant in VARIANTS}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("schedule", ["pool", "inplace"])
def test_one_engine_decodes_at_full_depth_what_is_asked_for_and_nothing_else(variant: str, schedule: str) -> None:
    model, work = MODELS[variant], requests(10, seed=5)
    twins = [dataclasses.replace(r, request_id=100 + r.request_id, full_depth=True) for r in work[::2]]
    settings = config(schedule=schedule, exits=(1, 2, 5), thresholds=(0.2, 0.2), num_slots=3)
    alone = run(Engine(model, settings), work)
    engine = Engine(model, settings)
    together = run(engine, [r for pair in zip(work, [*twins, *[None] * 5], strict=True) for r in pair if r is not None])
    full = run(Engine(model, settings.at_full_depth()), twins)
    for request in work:
        early = together[request.request_id]
        assert (early.token_ids, early.exit_layers) == (
            alone[request.request_id].token_ids,
            alone[request.request_id].exit_layers,
        )
    assert any(together[r.request_id].token_ids != together[100 + r.request_id].token_ids for r in work[::2])
    for twin in twins:
        done = together[twin.request_id]
        assert set(done.exit_layers) == {model.config.exits[-1]}
        assert done.token_ids == full[twin.request_id].token_ids
        trace = generate(
            model, twin, exit_layers=(1, 2, 5), thresholds=(0.2, 0.2), gate=Gate.SOFTMAX_MAX,
            max_new_tokens=min(16, twin.max_new_tokens or 16),
        )  # fmt: skip
        assert trace.exit_layers == done.exit_layers
    assert engine.take_stats().involuntary_exits == 0
