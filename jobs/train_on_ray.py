"""`deed train` with several workers: Ray Train starts them, they share every step (actors/training/workers.py)."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conf.frozen import FrozenConfig
from conf.training import TrainConfig

if TYPE_CHECKING:
    from actors.training.frozen import FrozenTrainer
    from actors.training.trainer import Trainer
    from actors.training.workers import Workers
    from jobs.training_log import TrainingLog


def train_on_ray(config: TrainConfig | FrozenConfig) -> int:
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
    hint = "" if config.mode == "frozen" else " (no thresholds yet: run deed calibrate)"
    print(f"checkpoint: {output / 'checkpoint'}{hint}")
    return 0


def _use_gpu(config: TrainConfig | FrozenConfig) -> bool:
    import ray

    return config.device == "cuda" or (config.device == "auto" and ray.cluster_resources().get("GPU", 0) > 0)


def train_worker(settings: dict[str, Any]) -> None:
    """One worker: its rank comes from Ray Train, the process group exists already. Only the first one reports."""
    from ray.train import get_context

    from actors.training.workers import Workers

    context = get_context()
    workers = Workers(context.get_world_rank(), context.get_world_size())
    frozen = json.loads(settings["config"])["mode"] == "frozen"
    trainer, log = (_frozen if frozen else _deeply_supervised)(settings["config"], workers)
    if workers.leads:
        log.rewind(trainer.step)
    trainer.run()


def _deeply_supervised(config_json: str, workers: "Workers") -> "tuple[Trainer, TrainingLog]":
    from actors.training.trainer import Trainer
    from jobs.train import TrainReport

    config = TrainConfig.model_validate_json(config_json)
    report = TrainReport(Path(config.output))
    return Trainer(config, report, workers), report.log


def _frozen(config_json: str, workers: "Workers") -> "tuple[FrozenTrainer, TrainingLog]":
    from actors.training.frozen import FrozenTrainer
    from jobs.train_frozen import FrozenReport

    config = FrozenConfig.model_validate_json(config_json)
    report = FrozenReport(Path(config.output))
    return FrozenTrainer(config, report, workers), report.log
