"""Two workers: each reads images of its own, every token counts alike, and both end with the same weights."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, multiprocessing

from actors.training.pretrained.trainer import MAIN, PretrainedTrainer
from actors.training.rows.loader import Batch, Position
from actors.training.workers import Workers
from conf.errors import UserError
from conf.pretrained import PretrainedConfig
from tests.actors.training.pretrained.small import DEEP, make_config, nothing_measured, trainer_of, weights_of

STEPS = 4


def _trainer(root: Path, config: PretrainedConfig, rank: int) -> tuple[PretrainedTrainer, list[list[str]]]:
    """Return a worker's trainer, and the names of the images that it will have read in each step."""
    trainer, read = trainer_of(config, root, workers=Workers(rank, 2)), []
    step = trainer._train_step

    def remembered(stage: str, batch: Batch) -> dict[str, float]:
        read.append([image.rows[0].key for image in batch.images])
        return step(stage, batch)

    trainer._train_step = remembered  # type: ignore[method-assign]
    return trainer, read


def _worker(rank: int, root: Path, straight: PretrainedConfig, stopped: PretrainedConfig, store: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    with nothing_measured():
        trainer, read = _trainer(root, straight, rank)
        assert trainer.run()
        calls = iter(range(1, 100))
        before, first = _trainer(root, stopped, rank)
        assert not before.run(lambda: next(calls) == 2 and rank == 0)
        resumed, rest = _trainer(root, stopped, rank)
        assert resumed.run()
    ends = {"weights": weights_of(trainer), "resumed": weights_of(resumed)}
    torch.save({**ends, "read": read, "read_resumed": first + rest}, f"{store}-{rank}")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def done(converted: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What both workers end with, of a whole run and of one that was stopped and went on."""
    folder = tmp_path_factory.mktemp("workers")
    configs = [_config(converted, folder / name) for name in ("straight", "stopped")]
    store = str(folder / "store")
    multiprocessing.start_processes(_worker, (converted, *configs, store), nprocs=2, start_method="spawn")
    return [torch.load(f"{store}-{rank}", weights_only=True) for rank in (0, 1)]


def _config(root: Path, output: Path) -> PretrainedConfig:
    optimizer = {"batch_images": 6, "total_steps": STEPS, "decoder_lr": 3e-3, "accumulate": 2}
    source = {"paths": [str(root / "images.tar")], "chunk_rows": 32}
    return make_config(root, output, **DEEP, parts="everything", optimizer=optimizer, source=source)


def test_they_end_with_equal_weights_and_resume_exactly(done: list[dict[str, Any]]) -> None:
    first, second = done
    assert torch.equal(first["weights"], second["weights"])
    for worker in done:
        assert torch.equal(worker["resumed"], worker["weights"])
        assert worker["read_resumed"] == worker["read"]


def test_an_epochs_images_are_shared(done: list[dict[str, Any]]) -> None:
    epoch = [key for worker in done for step in worker["read"][:2] for key in step]
    assert len(set(epoch)) == len(epoch) == 12


def test_a_step_is_that_of_one_worker_with_the_images_of_both(
    done: list[dict[str, Any]], converted: Path, tmp_path: Path
) -> None:
    alone = trainer_of(_config(converted, tmp_path), converted)
    start = weights_of(alone)
    places = {place.sample.key: place for place in alone.places.training}
    for parameter in alone.parameters.values():
        parameter.requires_grad_(True)
    for shares in zip(*(worker["read"] for worker in done), strict=True):
        found = alone.source.readable([places[key] for share in shares for key in share], alone.targets.label)
        images = tuple(image for image in map(alone.source.decode, found) if image is not None)
        assert len({len(image.rows[0].targets[0]) for image in images}) > 1, "tokens are not spread evenly"
        alone._train_step(MAIN, Batch(images, Position()))
        alone.step += 1
    moved, moved_by_two = weights_of(alone) - start, done[0]["weights"] - start
    assert float((moved_by_two - moved).norm() / moved.norm()) < 1e-3


def test_a_step_that_cannot_be_shared_is_the_users_mistake(converted: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="batch_images=6 must be a multiple of 4 workers"):
        trainer_of(_config(converted, tmp_path), converted, workers=Workers(0, 4))


@pytest.mark.usefixtures("unmeasured")
def test_another_number_of_workers_does_not_go_on(converted: Path, tmp_path: Path) -> None:
    config = _config(converted, tmp_path)
    assert not trainer_of(config, converted).run(lambda: True)
    with pytest.raises(UserError, match="holds a run of 1 workers, this one has 2; go on with as many"):
        trainer_of(config, converted, workers=Workers(0, 2))
