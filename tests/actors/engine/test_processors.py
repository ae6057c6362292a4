"""Generation options equal `transformers`' own processors, and the engine applies them as the reference does."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.engine.engine import Engine
from actors.engine.oracles.reference import generate
from actors.engine.oracles.replay import replay
from actors.engine.processors import BadWords, Past, Processors
from actors.engine.request import FinishReason
from conf.engine import Gate, GenerationConfig
from conf.errors import UserError
from conf.model import GenerationDefaults
from tests.actors.engine.tiny import config, requests, run, tiny_model

EOS = 2
TOKENS = st.integers(0, 5)
WORDS = st.lists(st.lists(TOKENS, min_size=1, max_size=3).map(tuple), max_size=4).map(tuple)


@settings(max_examples=80)
@given(
    rows=st.lists(st.lists(TOKENS, min_size=1, max_size=12), min_size=1, max_size=4),
    ngram=st.integers(0, 4),
    penalty=st.sampled_from([1.0, 0.8, 1.7]),
    young=st.integers(0, 6),
    words=WORDS,
    forced=st.booleans(),
)
def test_they_equal_those_of_transformers_for_any_mix_of_rows(
    rows: list[list[int]], ngram: int, penalty: float, young: int, words: tuple[tuple[int, ...], ...], forced: bool
) -> None:
    from transformers.generation import logits_process as theirs

    every: list[theirs.LogitsProcessor] = []
    if penalty != 1.0:
        every.append(theirs.RepetitionPenaltyLogitsProcessor(penalty))
    if ngram:
        every.append(theirs.NoRepeatNGramLogitsProcessor(ngram))
    if set(words) - {(EOS,)}:
        every.append(theirs.NoBadWordsLogitsProcessor([list(word) for word in words], EOS))
    if young:
        every.append(theirs.MinNewTokensLengthLogitsProcessor(1, young, EOS))
    if forced:
        every.append(theirs.ForcedBOSTokenLogitsProcessor(5))
    logits = torch.randn(len(rows), 8, generator=torch.Generator().manual_seed(len(rows[0])))
    ours = Processors(
        (EOS,), min_new_tokens=young, no_repeat_ngram=ngram, repetition_penalty=penalty,
        forced_bos_id=5 if forced else None, bad_words=BadWords.of(words, (EOS,)),
    )  # fmt: skip
    expected = [
        theirs.LogitsProcessorList(every)(torch.tensor([row]), logits[i : i + 1].clone()) for i, row in enumerate(rows)
    ]
    assert torch.equal(ours.apply(logits.clone(), Past.of(rows)), torch.cat(expected))
    junk = Past.of(rows)
    places = torch.arange(junk.token_BT.shape[1])
    junk.token_BT[places >= junk.length_B[:, None]] = 3  # what lies beyond a row is never looked at
    assert torch.equal(ours.apply(logits.clone(), junk), torch.cat(expected))


def test_a_prefix_does_not_count_as_said() -> None:
    processors = Processors((EOS,), min_new_tokens=2)
    row = torch.zeros(1, 8)
    assert processors.apply(row.clone(), Past.of([[1, 4, 5, 6]], num_given=3))[0, EOS] == -torch.inf
    assert processors.apply(row.clone(), Past.of([[1, 4, 5, 6]], num_given=2))[0, EOS] == 0


def test_a_word_the_model_does_not_have() -> None:
    with pytest.raises(UserError, match="bad_word_ids must be below the vocabulary's size 40, got 41"):
        Processors.resolve(tiny_model().config, GenerationConfig(bad_word_ids=((1, 41),)))


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
