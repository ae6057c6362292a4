"""The Ray cluster of a run: started quietly on this machine, or joined, and checked to be large enough."""

import logging
import math
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from conf.errors import ClusterAway, Explained, OutputFailed, UserError
from conf.schema import ActorsConfig, JobConfig
from pipeline.unexpected_errors import one_line

_ACCELERATOR = "accelerator_type:"
_IDLE_WORKERS = 8  # kept on this machine for listing and publishing, beside two for every CPU
_UPLOADS = "/runtime_resources/working_dir_files/"


@dataclass(frozen=True, slots=True)
class Fit:
    """What the run will reserve; `num_actors` are there at the start."""

    num_actors: int
    actor_cpus: float
    actor_gpus: float
    cluster_cpus: float
    cluster_gpus: float
    min_actors: int = 1
    max_actors: int = 1


@contextmanager
def ray_cluster() -> Iterator[None]:
    """Join the cluster of RAY_ADDRESS or one already joined; else start one here and shut it down at the end."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would ask the cloud's metadata service who we are
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # actors without a GPU leave CUDA settings alone
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    # A stage waits for the next one however empty the object store is. Otherwise all shards are listed at once, which
    # takes time from the first chunks, and the driver's memory holds every listing.
    os.environ.setdefault("RAY_DATA_DOWNSTREAM_CAPACITY_OBJECT_STORE_BUDGET_UTIL_THRESHOLD", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    import ray.data  # configures its loggers, so it comes before quieting them

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    for chatty in ("ray.data._internal.progress", "ray._private.authentication"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    for repeating in ("ray.data.exceptions", "ray.data._internal.execution.streaming_executor_state"):
        logging.getLogger(repeating).setLevel(logging.CRITICAL)  # what they say of an error is raised as well
    on_sigterm = signal.getsignal(signal.SIGTERM)
    if address := os.environ.get("RAY_ADDRESS"):
        with _explained(f"the Ray cluster of RAY_ADDRESS={address} cannot be joined"):
            ray.init(logging_level=logging.WARNING)
    else:
        # Ray ends idle worker processes down to one per CPU. Starting one again takes longer than most chunks.
        num_kept = _IDLE_WORKERS + 2 * (os.cpu_count() or 1)
        os.environ.setdefault("RAY_num_workers_soft_limit", str(num_kept))
        # So many start together. Ray takes three times as many for a mistake and says so, at a CPU each by default.
        os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(num_kept // 2))
        # Two logical CPUs at least, so that one actor and one preprocessing task fit even on a single core.
        with _explained("Ray does not start on this machine, which may be too busy for it"):
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


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Ray raises exceptions of many kinds, some of them bare, where it does not come up."""
    try:
        yield
    except Exception as error:
        raise ClusterAway(f"{what}: {one_line(error)}; the same command may be tried again") from None


@contextmanager
def plain_errors() -> Iterator[None]:
    """What a task or an actor raised and one sentence explains, without the wrapping that Ray puts around it."""
    try:
        yield
    except Exception as error:
        plain = _explanation(error)
        if plain is None or plain is error:
            raise
        raise plain from None


def _explanation(error: BaseException | None) -> Explained | None:
    """The sentence in an exception or in what it was raised from. Of that, what happened in another process is there
    as text only."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        inner, from_afar = getattr(error, "cause", None), _is_from_afar(error)
        if isinstance(error, Explained) and not from_afar:
            return error
        if from_afar and (told := _explanation_in(str(error))) is not None:
            return told
        if type(error).__name__ == "OutOfDiskError":
            return OutputFailed(
                f"Ray has no room left for its own files: {str(error).splitlines()[0]}; make room there"
            )
        error = inner if isinstance(inner, BaseException) else error.__cause__ or error.__context__
    return None


def _is_from_afar(error: BaseException) -> bool:
    """Whether it is what Ray says of an exception of another process: of a task, or of the making of an actor."""
    return "RayTaskError" in type(error).__name__ or type(error).__name__ == "ActorDiedError"


def _explanation_in(trace: str) -> Explained | None:
    """Return the first that a traceback tells of: what came after was raised from it."""
    kinds, todo = {}, [Explained]
    while todo:
        kind = todo.pop()
        kinds[f"{kind.__module__}.{kind.__qualname__}"] = kind
        todo += kind.__subclasses__()
    for line in trace.splitlines():
        name, _, message = line.strip().partition(": ")
        if name in kinds:
            return kinds[name](message)
    return None


def check_outlives_job(url: str) -> None:
    """UserError for an output in the folder that Ray unpacks a submitted job into: one node's, and deleted later."""
    if _UPLOADS in url:
        raise UserError(
            f"output.path is relative, so it would lie in {url!r}, a folder on one node that Ray deletes; "
            "give an absolute path or a URL that every node reaches"
        )


def fit_cluster(config: JobConfig) -> Fit:
    """Return how many actors to start; UserError if they, and one preprocessing task beside them, can never all run."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    check_placement(config.actors, [(node["Resources"], node.get("Labels", {})) for node in nodes])
    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return fit_resources(config, float(resources.get("CPU", 0)), float(resources.get("GPU", 0)))


def fit_resources(config: JobConfig, cpus: float, gpus: float) -> Fit:
    """Return the same for given resources. GPU actors reserve CPUs too: without this check Ray would wait for ever."""
    actors, task_cpus = config.actors, config.preprocess.num_cpus
    actor_gpus = actors.num_gpus
    if actors.num_actors == "auto" and actor_gpus == 0 and gpus > 0 and config.model.device != "cpu":
        actor_gpus = 1.0
    if actor_gpus > gpus:
        raise UserError(f"actors.num_gpus={actor_gpus:g}, but the cluster has {gpus:g} GPUs")
    if actors.num_actors != "auto":
        num_actors = actors.num_actors
    elif actor_gpus > 0:
        num_actors = actors_on_gpus(actor_gpus, gpus)
    else:
        num_actors = max(1, math.floor(cpus / 2 / max(actors.num_cpus, 1.0)))
    if actors.num_actors == "auto":
        num_actors = min(max(num_actors, actors.min_actors or 1), actors.max_actors or num_actors)
    needed_cpus = num_actors * actors.num_cpus + task_cpus
    needed_gpus = num_actors * actor_gpus
    if needed_cpus > cpus or needed_gpus > gpus:
        raise UserError(
            f"{num_actors} actors with {actors.num_cpus:g} CPUs and {actor_gpus:g} GPUs each and a preprocessing task "
            f"with {task_cpus:g} CPUs need {needed_cpus:g} CPUs and {needed_gpus:g} GPUs; "
            f"the cluster has {cpus:g} and {gpus:g}"
        )
    min_actors = actors.min_actors or (num_actors if actor_gpus > 0 else 1)
    max_actors = actors.max_actors or num_actors
    return Fit(num_actors, actors.num_cpus, actor_gpus, cpus, gpus, min_actors, max(max_actors, num_actors))


def actors_on_gpus(actor_gpus: float, gpus: float) -> int:
    """Return how many fit when no actor is spread over parts of several GPUs, which Ray never does."""
    return int(gpus) * math.floor(1 / actor_gpus + 1e-9) if actor_gpus <= 1 else math.floor(gpus / actor_gpus)


def check_placement(actors: ActorsConfig, nodes: Sequence[tuple[Mapping[str, float], Mapping[str, str]]]) -> None:
    """Raise UserError if no node, given as (resources, labels), is one the actors may run on: they would wait for ever.

    Where the pool may grow (actors.max_actors), such a node may still come.
    """
    if actors.max_actors is not None:
        return
    wanted = actors.accelerator_type
    found = sorted({name.removeprefix(_ACCELERATOR) for r, _ in nodes for name in r if name.startswith(_ACCELERATOR)})
    if wanted is not None and wanted not in found:
        raise UserError(f"no node has actors.accelerator_type={wanted!r}; the cluster has {', '.join(found) or 'none'}")
    for key, value in actors.label_selector.items():
        there = sorted({labels[key] for _, labels in nodes if key in labels})
        if not any(selects(value, labels.get(key)) for _, labels in nodes):
            raise UserError(
                f"no node matches actors.label_selector {key!r}: {value!r}; "
                + (f"nodes have {', '.join(there)}" if there else "no node has that label")
            )


def selects(wanted: str, label: str | None) -> bool:
    """Whether a selector's value (`a`, `!a`, `in(a,b)`, `!in(a,b)`) matches a node's label; None: it has none."""
    negated, text = wanted.startswith("!"), wanted.removeprefix("!").strip()
    values = text[3:-1].split(",") if text.startswith("in(") and text.endswith(")") else [text]
    return (label in {value.strip() for value in values}) != negated
