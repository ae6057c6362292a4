"""What is reserved, and the sentence when it cannot be had."""

from typing import Any

import pytest

from conf.errors import UserError
from conf.schema import JobConfig
from pipeline.cluster import fit_resources


def config(device: str = "auto", **actors: Any) -> JobConfig:
    return JobConfig.model_validate(
        {
            "source": {"paths": ["a"]},
            "model": {"checkpoint": "c", "device": device},
            "output": {"path": "o"},
            "actors": actors,
        }
    )


@pytest.mark.parametrize(
    ("actors", "cpus", "gpus", "num_actors", "actor_gpus"),
    [
        ({}, 2, 0, 1, 0),
        ({}, 16, 0, 8, 0),
        ({"num_cpus": 4}, 16, 0, 2, 0),
        ({}, 16, 4, 4, 1),
        ({"num_gpus": 0.5}, 16, 1, 2, 0.5),
        ({"num_actors": 3}, 4, 0, 3, 0),
    ],
)
def test_auto_fills_the_cluster(
    actors: dict[str, Any], cpus: float, gpus: float, num_actors: int, actor_gpus: float
) -> None:
    fit = fit_resources(config(**actors), cpus, gpus)
    assert (fit.num_actors, fit.actor_gpus) == (num_actors, actor_gpus)


def test_the_cpu_device_leaves_gpus_alone() -> None:
    assert fit_resources(config(device="cpu"), 8, 2).actor_gpus == 0


@pytest.mark.parametrize(
    ("actors", "cpus", "gpus", "message"),
    [
        ({"num_actors": 4}, 4, 0, "4 actors with 1 CPUs .* need 5 CPUs and 0 GPUs; the cluster has 4 and 0"),
        ({"num_actors": 4, "num_gpus": 1}, 4, 4, "need 5 CPUs and 4 GPUs; the cluster has 4 and 4"),
        ({"num_actors": 2, "num_gpus": 1}, 8, 1, "need 3 CPUs and 2 GPUs; the cluster has 8 and 1"),
        ({"num_gpus": 1}, 8, 0, "actors.num_gpus=1, but the cluster has 0 GPUs"),
    ],
)
def test_what_can_never_run_is_said_at_once(actors: dict[str, Any], cpus: float, gpus: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit_resources(config(**actors), cpus, gpus)
