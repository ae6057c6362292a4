"""The checkpoint in assets/, on held-out scenes: slots and order change nothing, and the replay oracle agrees."""

import itertools
import random
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.engine.beam.beam_engine import BeamEngine
from actors.engine.engine import Engine
from actors.engine.oracles.replay import NOTHING, replay
from actors.engine.request import Completion, Request
from actors.model.checkpoint import Checkpoint, load_checkpoint
from conf.checkpoint_files import read_model_config
from conf.engine import EngineConfig, Gate, Schedule
from conf.resolve import resolve
from jobs.scenes.config import ScenesConfig
from jobs.scenes.shards import make_scene
from tests.actors.engine.tiny import run
from tests.effort import effort

PATH = Path(__file__).parents[2] / "assets" / "checkpoints" / "deed-scenes"
NUM_IMAGES = effort(8, 40)


@cache
def checkpoint() -> Checkpoint:
    return load_checkpoint(PATH)


@cache
def requests() -> tuple[Request, ...]:
    """Captions and questions of the first scenes of the test split."""
    config = ScenesConfig(split="test", num_images=NUM_IMAGES)
    work = []
    for index in range(NUM_IMAGES):
        image, row = make_scene(config.seed, config.split, index, config)
        pixels = np.asarray(image.convert("RGB"))
        for prompt in ("describe the image in detail", row["qa"][0]["question"]):
            work.append(Request(len(work), pixels, checkpoint().codec.encode_prompt(prompt)))
    return tuple(work)


def decode(order: list[int], **engine: object) -> dict[int, Completion]:
    running = Engine(checkpoint().model, EngineConfig.model_validate(engine))
    for index in order:
        running.add(requests()[index])
    done: dict[int, Completion] = {}
    while running.has_work():
        done |= {c.request_id: c for c in running.step()}
    return done


def test_it_is_small_and_says_who_made_it() -> None:
    assert sum(file.stat().st_size for file in PATH.iterdir()) < 25_000_000
    assert {file.name for file in PATH.iterdir()} == {"config.json", "model.safetensors", "tokenizer.json", "README.md"}
    assert checkpoint().sha256 in (PATH / "README.md").read_text()
    assert read_model_config(PATH).thresholds is not None


def test_slots_and_arrival_order_do_not_change_text_or_depth() -> None:
    order = list(range(len(requests())))
    shuffled = random.Random(0).sample(order, len(order))
    runs = [decode(order, num_slots=slots) for slots in (1, 4, 32)] + [decode(shuffled, num_slots=7)]
    for a, b in itertools.pairwise(runs):
        for index in order:
            assert a[index].token_ids == b[index].token_ids
            assert a[index].exit_layers == b[index].exit_layers
            assert a[index].confidences == pytest.approx(b[index].confidences, abs=1e-4)


def test_replay_oracle_reproduces_every_token_and_exit() -> None:
    model = checkpoint().model
    resolved = resolve(model.config, EngineConfig())
    done = decode(list(range(len(requests()))))
    total = sum(
        (
            replay(
                model,
                r,
                done[r.request_id],
                exit_layers=resolved.exit_layers,
                thresholds=resolved.thresholds,
                gate=Gate.SOFTMAX_MAX,
            )
            for r in requests()
        ),
        start=NOTHING,
    )
    assert total.num_steps > 20 * NUM_IMAGES
    assert total.exact, total


def test_early_exit_saves_layers_and_full_depth_saves_none() -> None:
    order = list(range(len(requests())))
    depths = [layer for completion in decode(order).values() for layer in completion.exit_layers]
    assert sum(depths) / len(depths) < 0.8 * 8
    full = [layer for c in decode(order, schedule=Schedule.FULL).values() for layer in c.exit_layers]
    assert set(full) == {8}


@pytest.mark.parametrize("weights", ["bf16", "int8"])
def test_smaller_weights_say_nearly_the_same(weights: str) -> None:
    order = list(range(len(requests())))
    for engine in ({}, {"schedule": "full"}):
        plain, small = decode(order, **engine), decode(order, **engine, weights=weights)
        pairs = [(plain[i].token_ids, small[i].token_ids) for i in order]
        equal = sum(a == b for one, other in pairs for a, b in zip(one, other, strict=False))
        assert equal >= 0.95 * sum(len(one) for one, _ in pairs)


@pytest.mark.parametrize(
    "engine", [{}, {"schedule": "full"}, {"gate": "shortlist"}, {"lossless": True}, {"generation": {"num_beams": 3}}]
)
def test_in_bfloat16_nearly_all_tokens_agree(engine: dict[str, object]) -> None:
    beams = "generation" in engine
    settings = EngineConfig.model_validate({**engine, **({"schedule": "full"} if beams else {})})
    rough = load_checkpoint(PATH, dtype=torch.bfloat16).model
    made = [(BeamEngine if beams else Engine)(model, settings) for model in (checkpoint().model, rough)]
    exact, done = (run(running, list(requests()[: effort(8, 40)])) for running in made)
    equal = sum(a == b for i in done for a, b in zip(exact[i].token_ids, done[i].token_ids, strict=False))
    assert equal >= 0.95 * sum(len(completion.token_ids) for completion in exact.values())
