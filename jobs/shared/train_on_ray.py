"""`deed train` with several workers: Ray Train starts them, they share every step (actors/training/workers.py)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conf.frozen import FrozenConfig
    from conf.training import TrainConfig


def train_on_ray(config: "TrainConfig | FrozenConfig") -> None:
    """Run the group to the end, starting it anew from the last saved state when a worker dies."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from jobs.shared.quiet import without_ray_noise
    from pipeline.ops.cluster import ray_cluster

    output = Path(config.output).resolve()
    output.mkdir(parents=True, exist_ok=True)
    with without_ray_noise(), ray_cluster():
        TorchTrainer(
            train_worker,
            train_loop_config={"config": config.model_copy(update={"output": str(output)})},
            scaling_config=ScalingConfig(
                num_workers=config.workers.num_workers,
                use_gpu=_use_gpu(config),
                resources_per_worker={"CPU": config.workers.num_cpus},
            ),
            run_config=RunConfig(
                name="ray",
                storage_path=str(output),
                failure_config=FailureConfig(max_failures=config.workers.max_failures),
            ),
        ).fit()


def _use_gpu(config: "TrainConfig | FrozenConfig") -> bool:
    import ray

    return config.device == "cuda" or (config.device == "auto" and ray.cluster_resources().get("GPU", 0) > 0)


def train_worker(settings: dict[str, Any]) -> None:
    """Run one worker: its rank comes from Ray Train, the process group exists already. Only the first one reports."""
    from ray.train import get_context

    from actors.training.workers import Workers
    from jobs.shared.training_run import make_trainer

    context = get_context()
    make_trainer(settings["config"], Workers(context.get_world_rank(), context.get_world_size())).run()
