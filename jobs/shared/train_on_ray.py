"""`deed train` with several workers: Ray Train starts them, they share every step (actors/training/workers.py)."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.train import Result
    from ray.train.torch import TorchTrainer

    from conf.pretrained import PretrainedConfig
    from conf.training import TrainConfig

_MARK = "mark"


def train_on_ray(config: "TrainConfig | PretrainedConfig", runs: Sequence[str | None]) -> str | None:
    """Run the group to the end, starting it anew from the last saved state when a worker dies.

    Returns why the checkpoint is marked (training_run.mark_of). Raises jobs.caption.Stopped when a signal comes: what
    was saved last is what is gone on from.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from jobs.caption import raise_on_signals
    from jobs.shared.quiet import without_ray_noise
    from pipeline.ops.cluster import ray_cluster

    output = Path(config.output).resolve()
    output.mkdir(parents=True, exist_ok=True)
    with raise_on_signals(), without_ray_noise(), ray_cluster():
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={"config": config.model_copy(update={"output": str(output)}), "runs": runs},
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
        )
        return (_fit(trainer).metrics or {}).get(_MARK)


def _fit(trainer: "TorchTrainer") -> "Result":
    """Fit on a thread of its own: on the main one Ray takes Ctrl-C for itself, and ends as if all were done."""
    result: Future[Result] = Future()

    def fit() -> None:
        try:
            result.set_result(trainer.fit())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=fit, name="ray-train", daemon=True).start()
    return result.result()


def _use_gpu(config: "TrainConfig | PretrainedConfig") -> bool:
    import ray

    return config.device == "cuda" or (config.device == "auto" and ray.cluster_resources().get("GPU", 0) > 0)


def train_worker(settings: dict[str, Any]) -> None:
    """Run one worker: its rank comes from Ray Train, the process group exists already. Only the first one reports."""
    from ray.train import get_context, report

    from actors.training.workers import Workers
    from jobs.shared.training_run import make_trainer, mark_of

    context = get_context()
    workers = Workers(context.get_world_rank(), context.get_world_size())
    trainer = make_trainer(settings["config"], workers, settings["runs"])
    trainer.run()
    report({_MARK: mark_of(trainer)})
