"""Generation options equal `transformers`' own processors, and the engine applies them as the reference does."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.engine.engine import Engine
from actors.engine.processors import Processors
from actors.engine.reference import generate
from actors.engine.replay import replay
from actors.engine.request import FinishReason
from conf.model import GenerationDefaults
from conf.schema import Gate, GenerationConfig
from tests.actors.engine.tiny import config, requests, run, tiny_model


@settings(max_examples=60, deadline=None)
@given(
    past=st.lists(st.integers(0, 5), min_size=1, max_size=12),
    ngram=st.integers(0, 4),
    penalty=st.sampled_from([1.0, 0.8, 1.7]),
    young=st.integers(0, 6),
)
def test_they_equal_those_of_transformers(past: list[int], ngram: int, penalty: float, young: int) -> None:
    from transformers.generation.logits_process import (
        LogitsProcessorList,
        MinNewTokensLengthLogitsProcessor,
        NoRepeatNGramLogitsProcessor,
        RepetitionPenaltyLogitsProcessor,
    )

    theirs = LogitsProcessorList()
    if penalty != 1.0:
        theirs.append(RepetitionPenaltyLogitsProcessor(penalty))
    if ngram:
        theirs.append(NoRepeatNGramLogitsProcessor(ngram))
    if young:
        theirs.append(MinNewTokensLengthLogitsProcessor(1, young, 2))
    logits = torch.randn(1, 8, generator=torch.Generator().manual_seed(len(past)))
    ours = Processors(2, min_new_tokens=young, no_repeat_ngram=ngram, repetition_penalty=penalty)
    expected = theirs(torch.tensor([past]), logits.clone())
    assert torch.equal(ours.apply(logits.clone(), [past]), expected)


def test_the_first_step_can_be_forced() -> None:
    processors = Processors(2, forced_bos_id=5)
    assert processors.apply(torch.randn(2, 8), [[1], [1]]).argmax(-1).tolist() == [5, 5]
    later = torch.randn(1, 8)
    assert torch.equal(processors.apply(later.clone(), [[1, 5]]), later)


def test_the_job_overrides_the_checkpoint() -> None:
    model = tiny_model().config.model_copy(update={"generation": GenerationDefaults(no_repeat_ngram=3)})
    assert Processors.resolve(model, GenerationConfig()).no_repeat_ngram == 3
    assert Processors.resolve(model, GenerationConfig(no_repeat_ngram=0)).idle


@pytest.mark.parametrize("forced_eos", [False, True])
def test_engine_reference_and_replay_agree(forced_eos: bool) -> None:
    model = tiny_model(seed=3)
    asked = GenerationDefaults(forced_bos_id=7, forced_eos=forced_eos, no_repeat_ngram=2, repetition_penalty=1.3)
    model.config = model.config.model_copy(update={"generation": asked})
    settings_ = config(thresholds=(0.3, 0.35, 0.4, 0.45))
    processors = Processors.resolve(model.config, settings_.generation)
    rules = {"exit_layers": (1, 2, 3, 4, 5), "thresholds": settings_.thresholds, "gate": Gate.SOFTMAX_MAX}
    work = requests(12, 1)
    done = run(Engine(model, settings_), work)
    cut = 0
    for request in work:
        limit = min(16, request.max_new_tokens or 16)
        trace = generate(model, request, **rules, max_new_tokens=max(1, limit - forced_eos), processors=processors)
        completion = done[request.request_id]
        ended = completion.finish_reason is FinishReason.EOS
        assert (*completion.token_ids, *([model.config.eos_id] if ended else [])) == trace.step_ids
        assert completion.exit_layers == trace.exit_layers
        assert completion.exit_layers[0] == 1  # a forced step is sure of itself
        assert completion.token_ids[0] == 7
        pairs = list(zip(completion.token_ids, completion.token_ids[1:], strict=False))
        assert len(set(pairs)) == len(pairs)
        assert replay(model, request, completion, **rules, processors=processors).exact
        cut += not ended
    assert cut
