"""Beam search against `transformers` `generate`: equal outputs for every kind of early stopping, ragged and mixed."""

import random
from pathlib import Path
from typing import Any

import pytest

from actors.engine.beam.beam_engine import BeamEngine
from actors.engine.request import FinishReason
from conf.engine import EngineConfig
from tests.actors.engine.tiny import run
from tests.actors.interop.sources import (
    CASES,
    STEPS,
    load_ours,
    make_requests,
    randomise,
    save_source,
    set_end_token,
    their_outputs,
)
from tests.effort import effort

SEEDS = effort((0,), (0, 1, 2))
# num_beams, length_penalty, early_stopping
SEARCHES = ((2, 1.0, False), (3, 0.0, True), (4, 2.0, "never"), (5, -1.0, False), (3, 1.5, True), (2, 0.7, "never"))
NAMES = ("t5", "umt5", "bart", "florence2", "pix2struct", "trocr", "t5gemma2", "vit_gpt2", "blip_vqa")


@pytest.mark.parametrize("name", NAMES)
def test_outputs_equal_those_of_transformers(name: str, tmp_path: Path) -> None:
    case, distinct, ended, cut, differs = CASES[name], set[tuple[int, ...]](), 0, 0, 0
    for seed in SEEDS:
        theirs = case.build().eval()
        randomise(theirs, seed, case.gain)
        work = make_requests(case, 6, seed)
        set_end_token(theirs, work, case)
        path = tmp_path / str(seed)
        save_source(theirs, case, path)
        _, ours = load_ours(path)
        eos = ours.config.eos_id
        greedy = their_outputs(theirs, work, case)
        order = random.Random(seed).sample(work, len(work))
        for num_beams, penalty, early in SEARCHES:
            asked: dict[str, Any] = {"num_beams": num_beams, "length_penalty": penalty, "early_stopping": early}
            rows = their_outputs(theirs, work, case, **asked)
            expected = [tuple(row[: row.index(eos)] if eos in row else row) for row in rows]
            generation = {"max_new_tokens": STEPS, **asked}
            for slots, requests, waits in ((8, work, None), (3, order, [0, 0, 3, 1, 4, 2])):
                settings = EngineConfig.model_validate(
                    {"schedule": "full", "num_slots": slots, "tuning": {"encode_batch": 2}, "generation": generation}
                )
                engine = BeamEngine(ours, settings)
                done = run(engine, requests, waits)
                assert [done[i].token_ids for i in range(len(work))] == expected, (seed, asked, slots)
                stats = engine.take_stats()
                assert stats.num_completed == len(work)
                assert stats.num_tokens == sum(len(c.exit_layers) for c in done.values())
            ended += sum(c.finish_reason is FinishReason.EOS for c in done.values())
            cut += sum(c.finish_reason is FinishReason.LENGTH for c in done.values())
            differs += sum(tuple(row) != tuple(first) for row, first in zip(rows, greedy, strict=True))
            distinct |= set(expected)
    assert ended
    assert cut
    assert differs > 3 * len(SEEDS)  # than greedy
    assert len(distinct) > 6 * len(SEEDS)


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_options_and_prefixes_work_with_beams(name: str, tmp_path: Path) -> None:
    import torch

    case = CASES[name]
    theirs = case.build().eval()
    randomise(theirs, 7, case.gain)
    work = make_requests(case, 5, 7)
    set_end_token(theirs, work, case)
    save_source(theirs, case, tmp_path)
    _, ours = load_ours(tmp_path)
    start, eos = ours.config.start_id, ours.config.eos_id
    free = their_outputs(theirs, work, case, num_beams=3)
    bad = [[free[0][1]], free[1][2:4]]
    prefix = (11, 12, 13)
    theirs_asked = {
        "num_beams": 3, "min_new_tokens": 4, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2,
        "bad_words_ids": bad, "decoder_input_ids": torch.tensor([[start, *prefix]] * len(work)),
    }  # fmt: skip
    rows = [row[len(prefix) :] for row in their_outputs(theirs, work, case, **theirs_asked)]
    expected = [tuple(row[: row.index(eos)] if eos in row else row) for row in rows]
    settings = EngineConfig.model_validate({"schedule": "full", "num_slots": 2, "generation": {
        "max_new_tokens": STEPS, "num_beams": 3, "min_new_tokens": 4, "repetition_penalty": 1.3, "no_repeat_ngram": 2,
        "bad_word_ids": bad, "prefix_ids": prefix,
    }})  # fmt: skip
    done = run(BeamEngine(ours, settings), work)
    assert [done[i].token_ids for i in range(len(work))] == expected
    assert len(set(expected)) > 1
