"""What once went wrong: numbers that stay behind in a slot, ids nobody checked, a measurement that leaves traces."""

import asyncio
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from actors.backend import load_backend
from actors.engine.batch import Batch
from actors.engine.cross_source import CrossSource
from actors.engine.engine import Engine
from actors.engine.request import Completion
from actors.engine_thread import EngineThread, RequestFailure
from conf.engine import CrossAttention, EngineConfig, Gate, GenerationConfig, Schedule
from conf.errors import UserError
from conf.schema import ModelSection
from jobs.shared.job_arguments import SHIPPED_CHECKPOINT
from tests.actors.engine.tiny import config, requests, run, tiny_model
from tests.effort import effort

MODEL = tiny_model()


@pytest.mark.parametrize("stranger", [40, 999, -1])
def test_token_ids_outside_of_the_vocabulary_are_refused_and_cost_nobody_else(stranger: int) -> None:
    if stranger >= 0:  # otherwise the configuration says so
        with pytest.raises(UserError, match=f"prefix has the token id {stranger}, the vocabulary's ids are 0 to 39"):
            Engine(MODEL, config(generation={"max_new_tokens": 8, "prefix_ids": [3, stranger]}))
    engine = Engine(MODEL, config(generation={"max_new_tokens": 8, "max_prefix_tokens": 4}))
    good, bad = requests(2)
    engine.add(good)
    with pytest.raises(ValueError, match=f"a decoder prefix has the token id {stranger}"):
        engine.add(replace(bad, prefix_ids=(3, stranger)))
    with pytest.raises(ValueError, match=f"a prompt has the token id {stranger}"):
        engine.add(replace(bad, prompt_ids=(stranger,)))
    assert run(engine, []).keys() == {good.request_id}


def test_a_measurement_times_the_path_that_runs_and_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deep segments read encoder states until they have seen sequences that bring many positions."""
    decisions: list[bool] = []
    decide = CrossSource.absorbed

    def absorbed(self: CrossSource, batch: Batch) -> bool:
        decisions.append(decide(self, batch))
        return decisions[-1]

    monkeypatch.setattr(CrossSource, "absorbed", absorbed)
    ticks = itertools.count()
    values = {"num_slots": 8, "exits": (1, 3, 5), "thresholds": (0.999,) * 2, "generation": {"max_new_tokens": 20}}
    measured = Engine(MODEL, config(**values, calibration_s=1e9), clock=lambda: float(next(ticks)))
    assert decisions
    assert all(decisions)
    plain = Engine(MODEL, config(**values))
    for engine in (measured, plain):
        decisions.clear()
        run(engine, [replace(requests(1)[0], max_new_tokens=3)])
        assert all(decisions)
        assert engine.executor.runner.cross_rows_built == 0


def test_only_the_last_exit_needs_no_thresholds() -> None:
    bare = MODEL.config.model_copy(update={"thresholds": None})
    assert bare.thresholds is None
    alone = run(Engine(MODEL, config(exits=(5,), thresholds=None)), requests(6))
    full = run(Engine(MODEL, config(schedule="full", thresholds=None)), requests(6))
    assert {i: c.token_ids for i, c in alone.items()} == {i: c.token_ids for i, c in full.items()}
    with pytest.raises(UserError, match="no calibrated thresholds"):
        Engine(MODEL, config(exits=(1, 5), thresholds=None))


def broken_model() -> tuple[torch.nn.Module, int]:
    """A model in which one token of the prompt makes every number NaN."""
    model = tiny_model(dtype=torch.float32)
    poison = 39
    model.encoder.prompt_embedding.weight.data[poison] = float("nan")  # type: ignore[union-attr,operator]
    return model, poison


@pytest.mark.parametrize("gate", [Gate.SOFTMAX_MAX, Gate.SATURATION, Gate.SHORTLIST])
@pytest.mark.parametrize("cross", [CrossAttention.AUTO, CrossAttention.PROJECTED])
def test_numbers_that_are_not_finite_stay_with_their_sequence(gate: Gate, cross: CrossAttention) -> None:
    model, poison = broken_model()
    work = [
        replace(r, prompt_ids=tuple(i % 30 for i in r.prompt_ids), max_new_tokens=None)
        for r in requests(effort(12, 60), 5)
    ]
    settings = config(gate=gate, cross=cross, num_slots=2, encode_batch=1, thresholds=(0.9, 0.9, 0.9, 0.9))
    expected = run(Engine(model, settings), work)
    broken = [replace(r, prompt_ids=(poison, 4)) if r.request_id % 3 == 0 else r for r in work]
    found = run(Engine(model, settings), broken)
    for request in broken:
        said = found[request.request_id]
        if request.request_id % 3:
            assert said.token_ids == expected[request.request_id].token_ids
            assert np.isfinite(said.confidences).all()
        else:
            assert not np.isfinite(said.confidences).all()


def test_an_output_of_numbers_that_are_not_finite_is_an_error() -> None:
    model, poison = broken_model()
    good, bad = requests(2)

    async def work() -> list[object]:
        thread = EngineThread(lambda: Engine(model, config()))
        try:
            futures = thread.submit([replace(good, prompt_ids=(5,)), replace(bad, prompt_ids=(poison,))])
            return list(await asyncio.wait_for(asyncio.gather(*futures), 30))
        finally:
            thread.stop()

    fine, failed = asyncio.run(work())
    assert isinstance(fine, Completion)
    assert isinstance(failed, RequestFailure)
    assert failed.error_type == "not_finite"


def test_the_thread_of_engines_flushes_denormals_and_no_other_does() -> None:
    section = ModelSection(checkpoint=str(SHIPPED_CHECKPOINT), device="cpu")
    full = EngineConfig(schedule=Schedule.FULL, num_slots=1, generation=GenerationConfig(max_new_tokens=2))
    backend = load_backend(section, full, 1)

    def largest() -> float:
        return float((torch.full((1 << 20,), 1e-39) * 0.5).max())  # large enough for every thread of the pool

    class Probe(Engine):
        def add(self, request: object) -> None:
            seen.append(largest())
            raise ValueError("enough")

    seen: list[float] = []

    async def work() -> None:
        thread = EngineThread(lambda: Probe(MODEL, config()), on_start=backend.enter_thread)
        try:
            await asyncio.wait_for(asyncio.gather(*thread.submit(requests(1))), 30)
        finally:
            thread.stop()

    asyncio.run(work())
    assert seen == [0.0]
    assert largest() > 0
