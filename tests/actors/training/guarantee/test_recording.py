"""One recording of full depth's texts foretells, for every vector of thresholds, of which images the texts change when
they are really decoded early.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from actors.training.guarantee.certify import losses_of, said_at
from actors.training.guarantee.path import path_of
from actors.training.guarantee.recording import Recorded
from actors.training.guarantee.sample import draw
from conf.engine import EngineConfig, GenerationConfig, TuningConfig
from conf.evaluation import CalibrateConfig
from tests.integration.test_model import write_tiny_checkpoint
from tests.shards import sample_members, write_tar

NUM_IMAGES = 30
OPTIONS = {
    "plain": GenerationConfig(max_new_tokens=8),
    "rules": GenerationConfig(max_new_tokens=8, min_new_tokens=3, no_repeat_ngram=2, repetition_penalty=1.3),
    "prefix": GenerationConfig(max_new_tokens=6, decoder_prefix="what {prompt}", loop_ngram=1, loop_repeats=2),
}


def quiet(folder: Path, seed: int) -> Path:
    """Write a random checkpoint whose layers change little, so that exits agree with full depth here and there."""
    loaded = load_checkpoint(write_tiny_checkpoint(folder, thresholds=None))
    torch.manual_seed(seed)
    state = dict(loaded.model.state_dict())
    for name, tensor in state.items():
        if ".adapters." in name:
            state[name] = torch.eye(len(tensor)) + 0.15 * torch.randn_like(tensor)
        elif tensor.dim() >= 2:
            state[name] = torch.randn_like(tensor) * (0.06 if ".layers." in name else 0.3)
    save_checkpoint(folder, loaded.config, state, loaded.codec.tokenizer)
    return folder


def questions(number: int) -> list[tuple[str, bytes]]:
    return sample_members(number, qa=[{"question": f"{n}?"} for n in range(number % 3)])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recording")
    for shard in range(3):
        members = [m for n in range(shard, NUM_IMAGES, 3) for m in questions(n)]
        write_tar(folder / f"{shard}.tar", members)
    return folder


def config_of(root: Path, checkpoint: Path, **changes: object) -> CalibrateConfig:
    values = {
        "checkpoint": str(checkpoint), "source": {"paths": [str(root / "*.tar")]},
        "tasks": [{"prompt": {"list_field": "qa", "template": "{question}"}}],
        "guarantee": {"risk": 0.3, "sample_images": 20, "path_images": 10}, **changes,
    }  # fmt: skip
    return CalibrateConfig.model_validate(values)


def engine_of(generation: GenerationConfig) -> EngineConfig:
    return EngineConfig(num_slots=5, generation=generation, tuning=TuningConfig(calibration_s=0.0))


@pytest.mark.parametrize("options", OPTIONS)
def test_the_recording_says_which_texts_change_for_every_vector(options: str, root: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(quiet(tmp_path / "checkpoint", list(OPTIONS).index(options)))
    drawn = draw(config_of(root, tmp_path / "checkpoint"), checkpoint, engine_of(OPTIONS[options]))
    exits = checkpoint.config.exits
    tested = Recorded.of(drawn.tested, drawn.engine)
    assert tested.recording.agrees_NE[:, -1].all(), "full depth says its own text"
    path = path_of(Recorded.of(drawn.path, drawn.engine), exits)
    loose = [tuple(np.random.default_rng(n).uniform(0.02, 0.9, len(exits) - 1)) for n in range(2)]
    shares = []
    for thresholds in (*path[:: len(path) // 3], path[-1], *loose):
        foretold_I = tested.differs_I(exits, thresholds)
        completions = said_at(drawn.tested, drawn.engine, exits, thresholds)
        loss_I, differs_I = losses_of("text_differs", drawn.tested, completions)
        assert foretold_I.tolist() == differs_I.tolist() == loss_I.astype(bool).tolist()
        shares.append(foretold_I.mean())
        if not foretold_I.any():
            layers = [layer for completion in completions for layer in completion.exit_layers]
            assert tested.depths(exits, thresholds)[0] == pytest.approx(np.mean(layers))
    assert shares[0] == 0
    assert max(shares) > 0.2, "the model shows nothing about texts that change"


def test_vectors_get_looser_and_begin_with_closed_exits(root: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(quiet(tmp_path / "checkpoint", 0))
    drawn = draw(config_of(root, tmp_path / "checkpoint"), checkpoint, engine_of(OPTIONS["plain"]))
    exits = (1, 3, checkpoint.config.exits[-1])
    path = np.array(path_of(Recorded.of(drawn.path, drawn.engine), exits))
    assert path.shape[1] == 2
    assert (path[0] > 1).all()
    assert (np.diff(path, axis=0) <= 0).all()
    assert (np.diff(path, axis=0) < 0).any(axis=1).all()
    assert (path[-1] <= 1).any()


def drawn_keys(root: Path, checkpoint: Checkpoint, folder: Path, **changes: object) -> tuple[list[str], list[str]]:
    drawn = draw(config_of(root, folder, **changes), checkpoint, engine_of(OPTIONS["plain"]))
    path, tested = ([image.rows[0].key for image in part.images.images] for part in (drawn.path, drawn.tested))
    assert drawn.corpus.num_images == NUM_IMAGES
    return path, tested


def test_images_are_drawn_from_all_shards_by_their_names_and_the_seed(root: Path, tmp_path: Path) -> None:
    folder = quiet(tmp_path / "checkpoint", 0)
    checkpoint = load_checkpoint(folder)
    few = {"risk": 0.3, "sample_images": 12, "path_images": 6}
    path, tested = drawn_keys(root, checkpoint, folder, guarantee=few)
    assert (len(path), len(tested)) == (6, 12)
    assert not set(path) & set(tested)
    assert {int(key) % 3 for key in tested} == {0, 1, 2}, "shards"
    assert drawn_keys(root, checkpoint, folder, guarantee=few) == (path, tested)
    assert drawn_keys(root, checkpoint, folder, guarantee=few, seed=1) != (path, tested)
    more = {**few, "path_images": 12}  # than there are: in proportion
    path, tested = drawn_keys(root, checkpoint, folder, guarantee={**more, "sample_images": 24})
    assert (len(path), len(tested)) == (10, 20)


def test_images_that_cannot_be_read_are_not_drawn(root: Path, tmp_path: Path) -> None:
    members = [member for n in range(18) for member in questions(n)]
    write_tar(tmp_path / "s.tar", [*members, *((f"bad{n}.png", b"no image") for n in range(6))])
    folder = quiet(tmp_path / "checkpoint", 0)
    config = config_of(tmp_path, folder)
    drawn = draw(config, load_checkpoint(folder), engine_of(OPTIONS["plain"]))
    assert len(drawn.path.images) + len(drawn.tested.images) == 18
    assert drawn.corpus.num_images == 24
    assert sum(part.count for part in drawn.left_out if part.reason != "no_prompt") == 6


def test_prompts_of_an_image_may_be_limited(root: Path, tmp_path: Path) -> None:
    folder = quiet(tmp_path / "checkpoint", 0)
    checkpoint = load_checkpoint(folder)
    config = config_of(root, folder, prompts_per_image=1)
    drawn = draw(config, checkpoint, engine_of(OPTIONS["plain"]))
    assert max(len(image.rows) for image in drawn.tested.images.images) == 2  # one of each task
    recorded = Recorded.of(drawn.tested, drawn.engine)
    whole = replace(drawn.tested, images=drawn.tested.images.first(3))
    assert Recorded.of(whole, drawn.engine).texts_I.tolist() == recorded.texts_I[:3].tolist()
