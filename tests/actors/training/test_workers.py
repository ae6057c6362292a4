"""Several workers give what one gives; training ends early where it should."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, multiprocessing

from actors.training.scratch.trainer import Trainer
from actors.training.workers import Workers
from conf.errors import UserError
from conf.training import TrainConfig
from tests.actors.training.corpus import tiny_config, write_corpus


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_corpus(tmp_path_factory.mktemp("corpus"), 24, places=False)


def _config(output: Path, shards: str, **changes: Any) -> TrainConfig:
    # One pair per image, so that every worker's mean is over about as many tokens.
    data = tiny_config(output, shards).data.model_copy(update={"target_tokens": 12, "prompt_tokens": 8})
    return tiny_config(output, shards, data=data, **changes)


def _worker(rank: int, config_json: str, store: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    trainer = Trainer(TrainConfig.model_validate_json(config_json), lambda _: None, Workers(rank, 2))
    trainer.run()
    state = {name: t for name, t in trainer.model.state_dict().items() if t.is_floating_point()}
    torch.save(state, f"{store}-{rank}")
    distributed.destroy_process_group()


def test_two_workers_train_as_one_and_stay_equal(tmp_path: Path, shards: str) -> None:
    config = _config(tmp_path / "two", shards, save_every=100)
    store = tmp_path / "store"
    multiprocessing.start_processes(_worker, (config.model_dump_json(), str(store)), nprocs=2, start_method="spawn")
    first, second = (torch.load(f"{store}-{rank}", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (tmp_path / "two" / "checkpoint" / "model.safetensors").is_file()
    alone = Trainer(_config(tmp_path / "one", shards), lambda _: None)
    start = {
        name: t.clone()
        for name, t in Trainer(_config(tmp_path / "zero", shards), lambda _: None).model.state_dict().items()
    }
    alone.run()
    moved = torch.cat([(t - start[n]).flatten() for n, t in alone.model.state_dict().items() if "adapters" in n])
    moved_by_two = torch.cat([(first[n] - start[n]).flatten() for n in first if "adapters" in n])
    assert (
        float(torch.cosine_similarity(moved, moved_by_two, dim=0)) > 0.9
    )  # normalisation statistics are each worker's own


def test_shares_are_all_samples_once() -> None:
    samples = list(range(12))
    assert sorted(Workers(0, 3).mine(samples) + Workers(1, 3).mine(samples) + Workers(2, 3).mine(samples)) == samples


def test_a_step_that_cannot_be_shared_is_the_users_mistake(tmp_path: Path, shards: str) -> None:
    with pytest.raises(UserError, match="batch_images=4 must be a multiple of 3 workers"):
        Trainer(_config(tmp_path, shards), lambda _: None, Workers(0, 3))


def test_it_ends_when_validation_stops_improving(tmp_path: Path, shards: str) -> None:
    reports: list[dict[str, Any]] = []
    optimizer = {"batch_images": 4, "total_steps": 40, "warmup_steps": 1, "peak_lr": 0.0}
    config = _config(tmp_path, shards, optimizer=optimizer, validate_every=2, patience=2)
    trainer = Trainer(config, reports.append)
    assert trainer.run()
    assert trainer.step == 6  # the first validation is the best, two more are not better
    assert Trainer(config, reports.append).run()  # nothing left to do
    assert (tmp_path / "checkpoint" / "config.json").is_file()
