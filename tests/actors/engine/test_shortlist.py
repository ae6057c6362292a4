"""The agreement a shortlist reports is the share of its tokens that the whole vocabulary would have given."""

import pytest
import torch

from actors.engine import exit_gate as exit_gate
from actors.engine.confidence import Shortlist, largest
from actors.engine.engine import Engine
from actors.engine.oracles.reference import encode_one, verdicts
from actors.engine.processors import Processors
from actors.engine.request import Completion, FinishReason
from actors.model.model import MultiExitModel
from conf.engine import Gate
from tests.actors.engine.tiny import config, requests, run, tiny_model

EXITS, THRESHOLDS = (1, 2, 4, 5), (0.5, 0.05, 0.1)
MODEL = tiny_model(seed=6, dtype=torch.float32, vocab_size=300)
WORK = requests(30, 8)


def counted(model: MultiExitModel, done: dict[int, Completion], processors: Processors) -> tuple[int, int]:
    """Tokens that left at an exit with a shortlist, and those the whole vocabulary gives there, by the reference."""
    tokens = same = 0
    for request in WORK:
        completion = done[request.request_id]
        ended = completion.finish_reason is FinishReason.EOS
        said = [*completion.token_ids, *([model.config.eos_id] if ended else [])]
        inputs = [model.config.start_id, *said[:-1]]
        at_exits = verdicts(model, inputs, *encode_one(model, request), exit_layers=EXITS, gate=Gate.SOFTMAX_MAX,
                            processors=processors)  # fmt: skip
        for step, (token_id, layer) in enumerate(zip(said, completion.exit_layers, strict=True)):
            if layer in EXITS[1:-1]:
                tokens += 1
                same += at_exits[EXITS.index(layer)][0][step] == token_id
    return tokens, same


@pytest.mark.parametrize("ngram", [0, 2])
def test_it_is_counted_over_the_tokens_that_left(ngram: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exit_gate, "AUDIT_EVERY", 1)
    generation = {"max_new_tokens": 12, "no_repeat_ngram": ngram}
    settings = config(
        exits=EXITS, thresholds=THRESHOLDS, gate=Gate.SHORTLIST, generation=generation, calibration_s=0.05
    )
    engine = Engine(MODEL, settings)
    done = run(engine, WORK)
    stats = engine.take_stats()
    assert (stats.num_audited, stats.num_audited_same) == counted(MODEL, done, engine.executor.judge.processors)
    assert 0 < stats.num_audited_same < stats.num_audited
    assert engine.take_stats().num_audited == 0


def test_auditing_is_rare_and_changes_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(exits=EXITS, thresholds=THRESHOLDS, gate=Gate.SHORTLIST)
    seldom = Engine(MODEL, settings)
    rare = run(seldom, WORK)
    monkeypatch.setattr(exit_gate, "AUDIT_EVERY", 1)
    always = Engine(MODEL, settings)
    assert {i: c.token_ids for i, c in run(always, WORK).items()} == {i: c.token_ids for i, c in rare.items()}
    assert 0 < seldom.take_stats().num_audited < always.take_stats().num_audited


@pytest.mark.parametrize("size", [40, 2**14, 2**14 + 37, 262_144])
def test_the_candidates_of_a_large_vocabulary_are_the_likeliest(size: int) -> None:
    logits = torch.randn(3, size, generator=torch.Generator().manual_seed(size))
    logits[1, -5:] = 9.0 + torch.arange(5)  # in what is left over by whole blocks, or in one block
    logits[2, 128:160] = 20.0 + torch.arange(32) if size > 160 else 0.0
    confidence = logits.softmax(-1).amax(-1)
    values, ids = largest(logits, 32)
    assert torch.equal(values, logits.topk(32, dim=-1).values)
    assert torch.equal(logits.gather(1, ids), values)
    shortlist, top = Shortlist.take(logits.clone())
    token, said = shortlist.score(top)
    assert torch.equal(token, logits.argmax(-1))
    torch.testing.assert_close(said, confidence)
