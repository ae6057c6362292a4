"""Beam search on our own models: one beam is greedy search, scores are those of full depth, caches are shared."""

import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from actors.engine.beam.beam_engine import BeamEngine
from actors.engine.beam.beam_runner import sample_bytes
from actors.engine.engine import Engine
from actors.engine.oracles.reference import encode_one, teacher_forced
from actors.engine.request import FinishReason
from conf.engine import EngineConfig
from conf.errors import UserError
from tests.actors.engine.tiny import VARIANTS, config, requests, run, tiny_model


def beams(num_beams: int, room: int | None = None, **values: object) -> EngineConfig:
    generation = {"max_new_tokens": 16, "num_beams": num_beams, **values}
    return config(schedule="full", thresholds=None, num_slots=3, max_cache_bytes=room, generation=generation)


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_beam_is_greedy_search(variant: str) -> None:
    model, work = tiny_model(variant), requests(12, 3)
    greedy = run(Engine(model, beams(1)), work)
    single = run(BeamEngine(model, beams(1, early_stopping=True)), work, [0, 1, 2] * 4)
    assert {i: c.token_ids for i, c in single.items()} == {i: c.token_ids for i, c in greedy.items()}
    for i, completion in single.items():
        assert completion.finish_reason is greedy[i].finish_reason
        assert completion.exit_layers == greedy[i].exit_layers
        assert completion.confidences == pytest.approx(greedy[i].confidences, abs=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_probabilities_are_those_of_full_depth(variant: str) -> None:
    model, work = tiny_model(variant), requests(8, 4)
    done = run(BeamEngine(model, beams(4)), work)
    greedy, better = run(Engine(model, beams(1)), work), 0
    for request in work:
        completion = done[request.request_id]
        ended = completion.finish_reason is FinishReason.EOS
        said = [*completion.token_ids, *([model.config.eos_id] if ended else [])]
        hidden = teacher_forced(model, [model.config.start_id, *said[:-1]], *encode_one(model, request))
        probabilities = model.decoder.exit_logits(5, hidden[-1][0]).softmax(-1)
        expected = probabilities[torch.arange(len(said)), torch.tensor(said)].tolist()
        assert completion.confidences == pytest.approx(expected, abs=1e-5)
        assert completion.encode_s <= completion.device_s
        assert completion.enqueued_s <= completion.admitted_s <= completion.encoded_s <= completion.first_token_s

        def score(confidences: tuple[float, ...]) -> float:
            return sum(map(math.log, confidences)) / len(confidences)

        better += score(completion.confidences) > score(greedy[request.request_id].confidences) + 1e-9
    assert better


def test_a_request_may_ask_for_fewer_tokens_and_its_own_prefix() -> None:
    model, work = tiny_model(), requests(6, 5)
    settings = beams(3, max_prefix_tokens=2)
    together = run(BeamEngine(model, settings), [replace(work[0], prefix_ids=(7, 9)), *work[1:]])
    assert all(len(together[r.request_id].token_ids) <= (r.max_new_tokens or 16) for r in work)
    alone = run(BeamEngine(model, settings), [replace(work[0], prefix_ids=(7, 9))])[0]
    assert alone.token_ids == together[0].token_ids
    assert run(BeamEngine(model, settings), work[:1])[0].token_ids != alone.token_ids


def test_bytes_are_known_and_limited() -> None:
    model = tiny_model()
    engine = BeamEngine(model, beams(4))
    one = sample_bytes(model, 4, 17)
    assert engine.take_stats().kv_cache_bytes == 3 * one
    small = BeamEngine(model, beams(4, room=2 * one + 1))
    assert small.slots.num_slots == 2
    with pytest.raises(UserError, match="less than the"):
        BeamEngine(model, beams(4, room=one - 1))


def test_beams_do_not_exit_early() -> None:
    with pytest.raises(ValidationError, match="num_beams=2 needs schedule=full"):
        EngineConfig.model_validate({"generation": {"num_beams": 2}})
    with pytest.raises(ValidationError, match="loop_ngram is for greedy outputs"):
        EngineConfig.model_validate({"schedule": "full", "generation": {"num_beams": 2, "loop_ngram": 3}})
