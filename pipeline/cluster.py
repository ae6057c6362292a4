"""The Ray cluster of a run: started quietly on this machine, or joined, and checked to be large enough."""

import logging
import math
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from conf.errors import UserError
from conf.schema import JobConfig


@dataclass(frozen=True, slots=True)
class Fit:
    """What the run will reserve."""

    num_actors: int
    actor_cpus: float
    actor_gpus: float
    cluster_cpus: float
    cluster_gpus: float


@contextmanager
def ray_cluster() -> Iterator[None]:
    """Join the cluster of RAY_ADDRESS or one already joined; else start one here and shut it down at the end."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would ask the cloud's metadata service who we are
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # actors without a GPU leave CUDA settings alone
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    import ray

    if ray.is_initialized():
        yield
        return
    import ray.data  # configures its loggers, so it comes before quieting them

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    for chatty in ("ray.data._internal.progress", "ray._private.authentication"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    if os.environ.get("RAY_ADDRESS"):
        ray.init(logging_level=logging.WARNING)
    else:
        # Two logical CPUs at least, so that one actor and one preprocessing task fit even on a single core.
        ray.init(
            address="local",
            num_cpus=max(2, os.cpu_count() or 1),
            include_dashboard=False,
            logging_level=logging.WARNING,
        )
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray installs its own, which ends without releasing the output
    try:
        yield
    finally:
        ray.shutdown()


def fit_cluster(config: JobConfig) -> Fit:
    """How many actors to start; UserError if they, and one preprocessing task beside them, can never all run."""
    import ray

    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return fit_resources(config, float(resources.get("CPU", 0)), float(resources.get("GPU", 0)))


def fit_resources(config: JobConfig, cpus: float, gpus: float) -> Fit:
    """The same for given resources. GPU actors reserve CPUs too: without this check Ray would wait for ever."""
    actors, task_cpus = config.actors, config.preprocess.num_cpus
    actor_gpus = actors.num_gpus
    if actors.num_actors == "auto" and actor_gpus == 0 and gpus > 0 and config.model.device != "cpu":
        actor_gpus = 1.0
    if actor_gpus > gpus:
        raise UserError(f"actors.num_gpus={actor_gpus:g}, but the cluster has {gpus:g} GPUs")
    if actors.num_actors != "auto":
        num_actors = actors.num_actors
    elif actor_gpus > 0:
        num_actors = math.floor(gpus / actor_gpus)
    else:
        num_actors = max(1, math.floor(cpus / 2 / max(actors.num_cpus, 1.0)))
    needed_cpus = num_actors * actors.num_cpus + task_cpus
    needed_gpus = num_actors * actor_gpus
    if needed_cpus > cpus or needed_gpus > gpus:
        raise UserError(
            f"{num_actors} actors with {actors.num_cpus:g} CPUs and {actor_gpus:g} GPUs each and a preprocessing task "
            f"with {task_cpus:g} CPUs need {needed_cpus:g} CPUs and {needed_gpus:g} GPUs; "
            f"the cluster has {cpus:g} and {gpus:g}"
        )
    return Fit(num_actors, actors.num_cpus, actor_gpus, cpus, gpus)
