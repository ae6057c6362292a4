"""`deed train` with several workers: Ray Train starts them, they share every step (actors/training/workers.py)."""

from pathlib import Path
from typing import Any

from conf.training import TrainConfig


def train_on_ray(config: TrainConfig) -> int:
    """Run the group to the end, starting it anew from the last saved state when a worker dies; 0 when done."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from jobs.quiet import without_ray_noise
    from pipeline.cluster import ray_cluster

    output = Path(config.output).resolve()
    output.mkdir(parents=True, exist_ok=True)
    with without_ray_noise(), ray_cluster():
        TorchTrainer(
            train_worker,
            train_loop_config={"config": config.model_copy(update={"output": str(output)}).model_dump_json()},
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
    print(f"checkpoint: {output / 'checkpoint'} (no thresholds yet: run deed calibrate)")
    return 0


def _use_gpu(config: TrainConfig) -> bool:
    import ray

    return config.device == "cuda" or (config.device == "auto" and ray.cluster_resources().get("GPU", 0) > 0)


def train_worker(settings: dict[str, Any]) -> None:
    """One worker: its rank comes from Ray Train, the process group exists already."""
    from ray.train import get_context

    from actors.training.trainer import Trainer
    from actors.training.workers import Workers
    from jobs.train import TrainReport

    config = TrainConfig.model_validate_json(settings["config"])
    context = get_context()
    workers = Workers(context.get_world_rank(), context.get_world_size())
    report = TrainReport(Path(config.output))
    trainer = Trainer(config, report, workers)  # only the first worker reports
    if workers.leads:
        report.log.rewind(trainer.step)
    trainer.run()
