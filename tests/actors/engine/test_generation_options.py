"""Every generation option in every mixture: the engine gives what the reference gives, and replay agrees."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from actors.engine.engine import Engine
from actors.engine.loops import LoopRule
from actors.engine.oracles.reference import Trace, generate
from actors.engine.oracles.replay import NOTHING, replay
from actors.engine.processors import Processors
from actors.engine.request import Completion, FinishReason, Request
from conf.engine import EngineConfig, Gate, GenerationConfig, KvPolicy, Schedule
from conf.model import GenerationDefaults
from tests.actors.engine.tiny import config, requests, run, tiny_model
from tests.effort import effort

MODEL = tiny_model(seed=3)
EOS = MODEL.config.eos_id
EXITS, THRESHOLDS = (1, 3, 5), (0.3, 0.4)


def said(completion: Completion) -> tuple[int, ...]:
    return (*completion.token_ids, *([EOS] if completion.finish_reason is FinishReason.EOS else []))


def with_prefixes(work: Sequence[Request], prefixes: Sequence[tuple[int, ...] | None]) -> list[Request]:
    return [replace(request, prefix_ids=prefixes[i % len(prefixes)]) for i, request in enumerate(work)]


def expected(request: Request, settings_: EngineConfig, *, full: bool = False, gate: Gate = Gate.SOFTMAX_MAX) -> Trace:
    generation = settings_.generation
    return generate(
        MODEL, request,
        exit_layers=EXITS[-1:] if full else EXITS, thresholds=() if full else THRESHOLDS, gate=gate,
        max_new_tokens=min(generation.max_new_tokens, request.max_new_tokens or generation.max_new_tokens),
        processors=Processors.resolve(MODEL.config, generation), loop=LoopRule.resolve(generation),
        prefix_ids=generation.prefix_ids,
    )  # fmt: skip


TOKENS = st.integers(3, 39)
PREFIX = st.lists(TOKENS, max_size=4).map(tuple)
OPTIONS = st.fixed_dictionaries(
    {
        "max_new_tokens": st.integers(1, 12),
        "min_new_tokens": st.integers(0, 4),
        "no_repeat_ngram": st.sampled_from([None, 0, 1, 2, 3]),
        "repetition_penalty": st.sampled_from([None, 0.7, 1.4]),
        "bad_word_ids": st.lists(st.lists(TOKENS, min_size=1, max_size=2).map(tuple), max_size=20).map(tuple),
        "prefix_ids": PREFIX,
        "max_prefix_tokens": st.sampled_from([4, 7]),
        "loop_ngram": st.integers(0, 4),
        "loop_repeats": st.integers(2, 3),
    }
)


@settings(max_examples=effort(15, 200))
@given(
    options=OPTIONS,
    prefixes=st.lists(st.none() | PREFIX, min_size=1, max_size=3),
    arrivals=st.lists(st.integers(0, 5), min_size=6, max_size=6),
    seed=st.integers(0, 1000),
    num_slots=st.integers(1, 6),
    schedule=st.sampled_from([Schedule.POOL, Schedule.INPLACE, Schedule.FULL]),
    gate=st.sampled_from([Gate.SOFTMAX_MAX, Gate.SOFTMAX_DIFF, Gate.SATURATION, Gate.SHORTLIST]),
    cross=st.sampled_from(["projected", "absorbed", "auto"]),
    lossless=st.booleans(),
)
def test_any_options_equal_the_reference(options: dict[str, object], prefixes: list[tuple[int, ...] | None],
                                         arrivals: list[int], seed: int, schedule: Schedule, gate: Gate,
                                         lossless: bool, **engine: object) -> None:  # fmt: skip
    settings_ = config(exits=EXITS, thresholds=THRESHOLDS, generation=options, schedule=schedule, gate=gate,
                       lossless=lossless, **engine)  # fmt: skip
    work = with_prefixes(requests(6, seed), prefixes)
    done = run(Engine(MODEL, settings_), work, arrivals)
    full = lossless or schedule is Schedule.FULL
    for request in work:
        trace = expected(request, settings_, full=full, gate=Gate.SOFTMAX_MAX if lossless else gate)
        completion = done[request.request_id]
        assert said(completion) == trace.step_ids
        assert completion.finish_reason is trace.finish_reason
        if not lossless:
            assert completion.exit_layers == trace.exit_layers
            assert completion.confidences == pytest.approx(trace.confidences, abs=1e-6)


def test_replay_sees_prefixes_and_options() -> None:
    settings_ = config(exits=EXITS, thresholds=THRESHOLDS, generation={
        "max_new_tokens": 12, "prefix_ids": (7, 9, 11), "max_prefix_tokens": 5, "no_repeat_ngram": 2,
        "bad_word_ids": ((12,), (13, 14), (15, 16, 17)),
    })  # fmt: skip
    work = with_prefixes(requests(20, 2), [None, (), (20, 21, 22, 23, 24)])
    done = run(Engine(MODEL, settings_), work)
    found = sum(
        (replay(MODEL, r, done[r.request_id], exit_layers=EXITS, thresholds=THRESHOLDS, gate=Gate.SOFTMAX_MAX,
                processors=Processors.resolve(MODEL.config, settings_.generation), prefix_ids=(7, 9, 11))
         for r in work),
        start=NOTHING,
    )  # fmt: skip
    assert found.exact
    assert len({layer for c in done.values() for layer in c.exit_layers}) == len(EXITS)
    assert not any(12 in c.token_ids for c in done.values())


@pytest.mark.parametrize("kv", [KvPolicy.COPY, KvPolicy.PROJECT])
def test_with_copied_features_a_prefix_is_read_at_full_depth(kv: KvPolicy) -> None:
    settings_ = config(exits=(1, 5), thresholds=(0.0,), kv=kv, generation={"max_new_tokens": 8, "prefix_ids": (7, 9)})
    done = run(Engine(MODEL, settings_), requests(8, 1))
    assert {c.exit_layers[0] for c in done.values()} == {5}
    assert {layer for c in done.values() for layer in c.exit_layers[1:]} == {1}
    plain = run(Engine(MODEL, settings_.model_copy(update={"kv": KvPolicy.JIT})), requests(8, 1))
    assert {layer for c in plain.values() for layer in c.exit_layers} == {1}


@given(st.lists(st.integers(0, 2), max_size=14), st.integers(1, 4), st.integers(2, 4))
def test_a_loop_is_some_sequence_several_times_in_a_row(tokens: list[int], longest: int, repeats: int) -> None:
    loops = any(
        len(tokens) >= n * repeats and tokens[len(tokens) - n * repeats :] == tokens[-n:] * repeats
        for n in range(1, longest + 1)
    )
    assert LoopRule(longest, repeats).loops(tokens) == loops


def test_outputs_that_loop_are_cut_there() -> None:
    free = config(exits=EXITS, thresholds=THRESHOLDS)
    loops = free.model_copy(update={"generation": GenerationConfig(max_new_tokens=16, loop_ngram=2, loop_repeats=3)})
    before, after = run(Engine(MODEL, free), requests(40, 4)), run(Engine(MODEL, loops), requests(40, 4))
    cut = [i for i, c in after.items() if c.finish_reason is FinishReason.LOOP]
    assert 0 < len(cut) < 40
    for i, completion in after.items():
        assert completion.token_ids == before[i].token_ids[: len(completion.token_ids)]
        assert i in cut or completion.finish_reason is before[i].finish_reason


def test_forced_bos_and_a_prefix() -> None:
    model = tiny_model(seed=3)
    model.config = model.config.model_copy(update={"generation": GenerationDefaults(forced_bos_id=7)})
    work = with_prefixes(requests(6, 1), [(), (9,)])
    done = run(Engine(model, config(generation={"max_new_tokens": 6, "max_prefix_tokens": 1})), work)
    assert all((done[i].token_ids[:1] == (7,)) for i in range(0, 6, 2))  # after a prefix it is no first token
    assert any((done[i].token_ids[:1] != (7,)) for i in range(1, 6, 2))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValidationError, match="not both"):
        GenerationConfig(decoder_prefix="a", prefix_ids=(3,))
    engine, [request] = Engine(MODEL, config()), requests(1)
    with pytest.raises(ValueError, match="decoder prefix must have at most 0 tokens, got 1"):
        engine.add(replace(request, prefix_ids=(3,)))
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        engine.add(replace(request, max_new_tokens=0))
