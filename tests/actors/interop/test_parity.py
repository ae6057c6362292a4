"""Every supported class against `transformers` `generate`: equal greedy tokens, logits within 1e-4, per exit."""

import random
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from actors.engine.beam.beam_engine import BeamEngine
from actors.engine.drain import drain
from actors.engine.engine import Engine
from actors.engine.oracles.reference import encode_one, generate, teacher_forced
from actors.engine.processors import Processors
from actors.engine.request import FinishReason
from actors.model.model import MultiExitModel
from conf.engine import EngineConfig, Schedule
from conf.model import GenerationDefaults
from tests.actors.engine.tiny import run
from tests.actors.interop.sources import (
    CASES,
    LAYERS,
    STEPS,
    language_model,
    load_ours,
    make_requests,
    randomise,
    save_source,
    set_end_token,
    their_outputs,
)
from tests.effort import effort

SEEDS = effort((0, 1), (0, 1, 2, 3))
ASKED = {  # what the sources ask of `generate` must be what is compared
    "bart": GenerationDefaults(forced_eos=True, no_repeat_ngram=2),
    "florence2": GenerationDefaults(forced_bos_id=0, forced_eos=True, no_repeat_ngram=3),
}


def _engine(**values: Any) -> EngineConfig:
    return EngineConfig.from_record(
        {"generation": {"max_new_tokens": STEPS, "max_prefix_tokens": 4}, "schedule": "full", **values}
    )


def _exit_logits_of_theirs(theirs: Any, hidden: torch.Tensor, ours: MultiExitModel) -> torch.Tensor:
    """The shared head of the source applied to what a middle layer gives."""
    text = getattr(theirs, "text_decoder", None) or getattr(theirs, "decoder", None)
    if ours.config.family == "bert":  # their heads are modules that begin with the transform
        return (text.cls if hasattr(text, "cls") else text.lm_head)(hidden)
    if ours.config.family == "gpt2":
        return text.lm_head(text.transformer.ln_f(hidden))
    decoder = theirs.get_decoder() if hasattr(theirs, "get_decoder") else theirs.decoder
    decoder = getattr(decoder, "decoder", decoder)
    decoder = getattr(decoder, "model", decoder)
    decoder = getattr(decoder, "decoder", decoder)
    norms = (getattr(decoder, name, None) for name in ("final_layer_norm", "layer_norm", "norm"))
    norm = next((norm for norm in norms if norm is not None), None)
    hidden = hidden if norm is None else norm(hidden)
    logits = theirs.get_output_embeddings()(hidden * ours.decoder.config.head_scale)
    cap = ours.decoder.config.logit_softcap
    logits = logits + getattr(theirs, "final_logits_bias", 0.0)
    return logits if cap is None else torch.tanh(logits / cap) * cap


@pytest.mark.parametrize("name", CASES)
def test_tokens_and_logits_equal_those_of_transformers(name: str, tmp_path: Path) -> None:
    case, distinct, ended, cut, largest = CASES[name], set[int](), 0, 0, 0.0
    for seed in SEEDS:
        theirs = case.build().eval()
        randomise(theirs, seed, case.gain)
        work = make_requests(case, 6, seed)
        set_end_token(theirs, work, case)
        path = tmp_path / str(seed)
        save_source(theirs, case, path)
        converted, ours = load_ours(path)
        assert not [note for note in converted.believed if "_token_id" in note]
        assert converted.config.generation == ASKED.get(name, converted.config.generation)

        expected = []
        for row in their_outputs(theirs, work, case):
            ending = row.index(ours.config.eos_id) if ours.config.eos_id in row else None
            forced = ending == STEPS - 1 and ours.config.generation.forced_eos
            expected.append(tuple(row[:ending]))
            ended += ending is not None and not forced
            cut += ending is None or forced
        done = run(Engine(ours, _engine(num_slots=8, encode_batch=8)), work)
        assert [done[i].token_ids for i in range(len(work))] == expected
        distinct |= {token for row in expected for token in row}

        order = random.Random(seed).sample(work, len(work))
        for changes, requests, waits in (
            ({"num_slots": 1, "encode_batch": 1}, work, None),  # solo
            ({"num_slots": 3, "encode_batch": 2}, order, [0, 0, 3, 1, 4, 2]),  # shuffled, and steps mixed
        ):
            again = run(Engine(ours, _engine(**changes)), requests, waits)
            assert {i: c.token_ids for i, c in again.items()} == {i: c.token_ids for i, c in done.items()}

        with torch.no_grad():
            for group in [work] if case.batched else [[request] for request in work]:
                said = [[ours.config.start_id, *(r.prefix_ids or ()), *expected[r.request_id]] for r in group]
                width = max(map(len, said))
                fed = torch.tensor([[*row, *[ours.config.pad_id] * (width - len(row))] for row in said])
                logits, hidden_states = case.forward(theirs, case.inputs(theirs, group), fed)
                for i, request in enumerate(group):
                    hidden = teacher_forced(ours, said[i], *encode_one(ours, request))
                    for layer in range(1, LAYERS + 1):
                        mine = ours.decoder.exit_logits(layer, hidden[layer - 1][0])
                        if layer == LAYERS:
                            wanted = logits[i, : len(said[i])]
                        else:
                            middle = hidden_states[layer][i, : len(said[i])]
                            wanted = _exit_logits_of_theirs(language_model(theirs), middle, ours).view_as(mine)
                        largest = max(largest, float((mine - wanted).abs().max()))
    assert largest < 1e-4
    assert len(distinct) >= 8
    assert ended
    assert cut
    print(f"{name}: largest logit difference {largest:.1e}, {len(distinct)} distinct tokens, {ended} ended, {cut} cut")


@pytest.mark.parametrize("name", ["t5", "florence2", "blip", "vit_gpt2"])
def test_early_exit_of_a_converted_model_equals_the_reference(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    theirs = case.build().eval()
    randomise(theirs, 5, case.gain)
    work = make_requests(case, 8, 5)
    save_source(theirs, case, tmp_path)
    _, ours = load_ours(tmp_path)
    thresholds = []
    for layer in (1, 2):  # what half of the tokens pass
        static = run(Engine(ours, _engine(schedule="pool", exits=(layer, LAYERS), thresholds=(0.0,))), work)
        thresholds.append(statistics.median(c for completion in static.values() for c in completion.confidences))
    settings = _engine(schedule="pool", thresholds=tuple(thresholds), num_slots=3)
    done = run(Engine(ours, settings), work)
    processors = Processors.resolve(ours.config, settings.generation)
    depths = set()
    for request in work:
        trace = generate(
            ours, request, exit_layers=(1, 2, 3), thresholds=tuple(thresholds), gate=settings.gate,
            max_new_tokens=STEPS - ours.config.generation.forced_eos, processors=processors,
        )  # fmt: skip
        completion = done[request.request_id]
        ended = completion.finish_reason is FinishReason.EOS
        assert (*completion.token_ids, *([ours.config.eos_id] if ended else [])) == trace.step_ids
        assert completion.exit_layers == trace.exit_layers
        depths |= set(trace.exit_layers)
    assert len(depths) >= 2
    assert settings.schedule is Schedule.POOL
    checked = run(Engine(ours, _engine(schedule="pool", thresholds=(0.0, 0.0), num_slots=3, lossless=True)), work)
    full = run(Engine(ours, _engine()), work)
    assert {i: c.token_ids for i, c in checked.items()} == {i: c.token_ids for i, c in full.items()}


@pytest.mark.parametrize("num_beams", [1, 3])
def test_what_the_source_asks_of_generation_is_followed(num_beams: int, tmp_path: Path) -> None:
    """Several end tokens, the least length, words never to be said."""
    case = CASES["t5"]
    theirs = case.build().eval()
    randomise(theirs, 0, case.gain)
    work = make_requests(case, 6, 0)
    free = [token for row in their_outputs(theirs, work, case) for token in row]
    often = [token for token, _ in Counter(free).most_common() if token != theirs.generation_config.eos_token_id]
    theirs.generation_config.update(
        eos_token_id=[theirs.config.eos_token_id, often[0], often[1]], min_length=4,
        bad_words_ids=[[often[2], often[3]]], suppress_tokens=[often[4]],
    )  # fmt: skip
    save_source(theirs, case, tmp_path)
    converted, ours = load_ours(tmp_path)
    ends = ours.config.end_ids
    expected = []
    for row in their_outputs(theirs, work, case, num_beams=num_beams, early_stopping=False):
        expected.append(tuple(row[: next((place for place, token in enumerate(row) if token in ends), None)]))
    engine = _engine(num_slots=4)
    generation = engine.generation.model_copy(update={"num_beams": num_beams})
    engine = engine.model_copy(update={"generation": generation})
    done = drain((Engine if num_beams == 1 else BeamEngine)(ours, engine), work)
    assert [completion.token_ids for completion in done] == expected
    assert len({completion.end_id for completion in done}) > 1, "they end in several ways"
    assert min(map(len, expected)) == 3
    assert not converted.differences
