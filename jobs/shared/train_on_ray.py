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

_REFUSED = "refused.txt"  # in the output's state folder: why no worker could begin
_WAIT_S = 86_400  # that workers wait for the first one, which alone measures held-out rows


def train_on_ray(config: "TrainConfig | PretrainedConfig", runs: Sequence[str | None]) -> None:
    """Run the group to the end, starting it anew from the last saved state when a worker dies.

    Raises jobs.caption.Stopped when a signal comes: what was saved last is what is gone on from. UserError where no
    worker can begin.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from conf.errors import UserError
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
            torch_config=TorchConfig(timeout_s=_WAIT_S),
            run_config=RunConfig(
                name="ray",
                storage_path=str(output),
                failure_config=FailureConfig(max_failures=config.workers.max_failures),
            ),
        )
        refused = output / "state" / _REFUSED
        refused.unlink(missing_ok=True)
        _fit(trainer)
    if refused.is_file():
        raise UserError(refused.read_text())


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
    from ray.train import get_context

    from actors.training.workers import Workers
    from conf.errors import UserError
    from jobs.shared.training_run import make_trainer

    context, config = get_context(), settings["config"]
    workers = Workers(context.get_world_rank(), context.get_world_size())
    try:
        trainer = make_trainer(config, workers, settings["runs"])
    except UserError as error:  # every worker finds it: what is read is the same for all
        if workers.leads:
            state = Path(config.output) / "state"
            state.mkdir(parents=True, exist_ok=True)
            (state / _REFUSED).write_text(str(error))
        return
    trainer.run()
