"""Lossless mode: drafts of early exits, checked by full depth; the text is full depth's."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from actors.engine.engine import Engine
from actors.engine.oracles.reference import generate
from actors.engine.request import FinishReason
from conf.engine import EngineConfig, Gate, Schedule
from tests.actors.engine.tiny import VARIANTS, config, requests, run, tiny_model
from tests.effort import effort

MODELS = {variant: tiny_model(variant) for variant in VARIANTS}


def _check(variant: str, num_requests: int, seed: int, arrivals: list[int] | None = None, **engine: object) -> Engine:
    model, work = MODELS[variant], requests(num_requests, seed)
    settings_ = config(lossless=True, **engine)
    running = Engine(model, settings_)
    done = run(running, work, arrivals)
    for request in work:
        trace = generate(
            model, request, exit_layers=model.config.exits[-1:], thresholds=(), gate=Gate.SOFTMAX_MAX,
            max_new_tokens=min(16, request.max_new_tokens or 16), min_new_tokens=settings_.generation.min_new_tokens,
        )  # fmt: skip
        completion = done[request.request_id]
        ended = completion.finish_reason is FinishReason.EOS
        assert (*completion.token_ids, *([model.config.eos_id] if ended else [])) == trace.step_ids
        assert len(completion.exit_layers) == len(completion.confidences) == len(trace.step_ids)
        assert completion.exit_layers[-1] == model.config.exits[-1]  # nothing ends unchecked
    return running


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("num_slots", [1, 6])
def test_text_is_that_of_full_depth(variant: str, num_slots: int) -> None:
    engine = _check(variant, effort(8, 40), 1, exits=(1, 2, 5), thresholds=(0.2, 0.2), num_slots=num_slots)
    stats = engine.take_stats()
    assert 0 < stats.num_accepted < stats.num_drafted  # some drafts stood, some were taken back
    assert stats.involuntary_exits == 0


@settings(max_examples=effort(8, 100))
@given(
    seed=st.integers(0, 1000),
    num_slots=st.integers(1, 7),
    exits=st.sets(st.integers(1, 4)).map(lambda chosen: (*sorted(chosen), 5)),
    threshold=st.floats(0.0, 0.6),
    max_drafts=st.integers(1, 9),
    arrivals=st.lists(st.integers(0, 6), min_size=6, max_size=6),
    schedule=st.sampled_from([Schedule.POOL, Schedule.INPLACE, Schedule.CONSENSUS]),
    gate=st.sampled_from([Gate.SOFTMAX_MAX, Gate.SATURATION, Gate.SHORTLIST]),
    min_new_tokens=st.integers(0, 3),
    cross=st.sampled_from(["projected", "absorbed", "auto"]),
)
def test_any_traffic_is_lossless(seed: int, exits: tuple[int, ...], threshold: float, arrivals: list[int],
                                 min_new_tokens: int, **engine: object) -> None:  # fmt: skip
    generation = {"max_new_tokens": 16, "min_new_tokens": min_new_tokens}
    _check("pre_rms", 6, seed, arrivals, exits=exits, thresholds=(threshold,) * (len(exits) - 1),
           generation=generation, **engine)  # fmt: skip


def test_a_check_comes_after_at_most_max_drafts() -> None:
    model, work = MODELS["pre_rms"], requests(6, 2)
    for max_drafts in (1, 3):
        engine = Engine(model, config(exits=(1, 5), thresholds=(0.0,), lossless=True, max_drafts=max_drafts))
        run(engine, work)
        stats = engine.take_stats()
        assert stats.segment_positions[-1] <= (max_drafts + 1) * stats.segment_rows[-1]
        assert stats.num_tokens == sum(len(c.exit_layers) for c in run(engine, work).values())


def test_drafts_need_real_features() -> None:
    with pytest.raises(ValidationError, match="lossless needs kv=jit"):
        EngineConfig.model_validate({"lossless": True, "kv": "copy"})
