"""What is reserved, and the sentence when it cannot be had."""

import re
import traceback
from typing import Any

import pytest
import ray.data
from ray.data import DataContext

from conf.errors import ClusterAway, OutputFailed, UserError
from conf.load import load_config
from conf.schema import JobConfig, PreprocessConfig
from pipeline.dataflow import summaries
from pipeline.ops.cluster import check_placement, fit_resources, plain_errors, ray_cluster
from pipeline.output.incarnation import Superseded
from pipeline.output.lease import LeaseLost
from pipeline.run import load_model


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
        ({"num_actors": 4}, 4, 0, "4 actors with 1 CPUs .* need 4.5 CPUs and 0 GPUs; the cluster has 4 and 0"),
        ({"num_actors": 4, "num_gpus": 1}, 4, 4, "need 4.5 CPUs and 4 GPUs; the cluster has 4 and 4"),
        ({"num_actors": 2, "num_gpus": 1}, 8, 1, "need 2.5 CPUs and 2 GPUs; the cluster has 8 and 1"),
        ({"num_gpus": 1}, 8, 0, "actors.num_gpus=1, but the cluster has 0 GPUs"),
    ],
)
def test_what_can_never_run_is_said_at_once(actors: dict[str, Any], cpus: float, gpus: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit_resources(config(**actors), cpus, gpus)


@pytest.mark.parametrize(
    ("actors", "cpus", "gpus", "pool"),
    [
        ({}, 8, 0, (1, 4, 4)),  # CPU actors may be given up: a lost node must leave CPUs for preprocessing
        ({}, 8, 2, (2, 2, 2)),
        ({"min_actors": 2, "max_actors": 8}, 8, 0, (2, 4, 8)),
        ({"max_actors": 2}, 8, 0, (1, 2, 2)),
        ({"num_actors": 3, "max_actors": 6}, 8, 0, (1, 3, 6)),
        ({"num_gpus": 0.5, "min_actors": 1, "max_actors": 16}, 8, 2, (1, 4, 16)),
        ({"num_gpus": 0.7}, 8, 2, (2, 2, 2)),  # one on each GPU: no actor is spread over two
        ({"num_gpus": 2}, 8, 4, (2, 2, 2)),
    ],
)
def test_the_pool_has_bounds(actors: dict[str, Any], cpus: float, gpus: float, pool: tuple[int, int, int]) -> None:
    fit = fit_resources(config(**actors), cpus, gpus)
    assert (fit.min_actors, fit.num_actors, fit.max_actors) == pool


@pytest.mark.parametrize(
    ("actors", "message"),
    [
        ({"min_actors": 3, "max_actors": 2}, "actors: min_actors=3 is more than max_actors=2"),
        ({"num_actors": 4, "max_actors": 2}, "actors: num_actors=4 is more than max_actors=2"),
        ({"num_gpus": 1.5}, "actors.num_gpus: must be a fraction of one GPU or a whole number of them, got 1.5"),
        ({"num_actors": 0}, "actors.num_actors: "),
    ],
)
def test_a_mistake_is_one_sentence(actors: dict[str, Any], message: str) -> None:
    sets = ["source.paths=[a]", "model.checkpoint=c", "output.path=o", *(f"actors.{k}={v}" for k, v in actors.items())]
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        load_config(None, sets, JobConfig)


NODES = [
    ({"CPU": 8.0}, {"ray.io/market-type": "on-demand"}),
    ({"CPU": 8.0, "GPU": 1.0, "accelerator_type:L4": 1.0}, {"ray.io/market-type": "spot", "zone": "a"}),
]


@pytest.mark.parametrize(
    "actors",
    [
        {"accelerator_type": "L4"},
        {"label_selector": {"ray.io/market-type": "spot"}},
        {"label_selector": {"ray.io/market-type": "in(spot, x)", "zone": "!b"}},
        {"accelerator_type": "H100", "max_actors": 4},  # such a node may still come
    ],
)
def test_a_place_that_exists_is_accepted(actors: dict[str, Any]) -> None:
    check_placement(config(**actors).actors, NODES)


@pytest.mark.parametrize(
    ("actors", "message"),
    [
        ({"accelerator_type": "H100"}, "no node has actors.accelerator_type='H100'; the cluster has L4"),
        ({"label_selector": {"zone": "b"}}, "no node matches actors.label_selector 'zone': 'b'; nodes have a"),
        (
            {"label_selector": {"rack": "1"}},
            "no node matches actors.label_selector 'rack': '1'; no node has that label",
        ),
    ],
)
def test_a_place_that_does_not_exist_is_said_at_once(actors: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        check_placement(config(**actors).actors, NODES)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data")  # copying its own context
def test_ray_gets_what_the_configuration_says(monkeypatch: pytest.MonkeyPatch) -> None:
    stages: list[dict[str, Any]] = []
    idle: list[float] = []

    class Dataset:
        def map_batches(self, stage: Any, **options: Any) -> "Dataset":
            stages.append(options)
            idle.append(DataContext.get_current().autoscaling_config.actor_pool_util_downscaling_threshold)
            return self

        def iter_batches(self, **_: Any) -> list[Any]:
            return []

    monkeypatch.setattr(ray.data, "from_items", lambda *_, **__: Dataset())
    job = config(
        num_gpus=0.25,
        num_cpus=0.5,
        min_actors=2,
        max_actors=9,
        accelerator_type="L4",
        label_selector={"zone": "a"},
        chunks_in_flight=5,
    )
    job = job.model_copy(update={"preprocess": PreprocessConfig(num_cpus=2, max_tasks=7)})
    fit = fit_resources(job, 16, 1)
    assert not list(summaries([{}], None, None, object, (), job, fit))  # type: ignore[arg-type]
    _, prepare, captioner = stages
    assert (prepare["num_cpus"], prepare["compute"].size) == (2, 7)
    assert (captioner["num_cpus"], captioner["num_gpus"]) == (0.5, 0.25)
    assert (captioner["accelerator_type"], captioner["label_selector"]) == ("L4", {"zone": "a"})
    pool = captioner["compute"]
    assert (pool.min_size, pool.initial_size, pool.max_size) == (2, 4, 9)
    assert idle[-1] == 0.25
    assert pool.max_concurrent_calls_per_actor == 5
    # Ray Data starts more actors only above 1.75 tasks for each concurrent call.
    assert pool.max_tasks_in_flight_per_actor >= 1.75 * 5


def raised_afar(error: Exception, wrapped_in: Exception | None = None) -> Exception:
    """As the driver gets it: of what is wrapped, the text is left."""
    from ray.exceptions import RayTaskError

    try:
        try:
            raise error
        except Exception as inner:
            if wrapped_in is None:
                raise
            raise wrapped_in from inner
    except Exception as last:
        afar: Exception = RayTaskError("task", traceback.format_exc(), last.with_traceback(None)).as_instanceof_cause()
    afar.__cause__ = None
    return afar


@pytest.mark.parametrize("afar", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    "error",
    [
        OutputFailed("cannot write to 's3://b: c/out': No space left on device"),
        LeaseLost("another run has taken over"),
        Superseded("begun anew"),
        UserError("cannot use 'x'"),
    ],
)
def test_what_one_sentence_explains_comes_out_of_rays_wrapping(error: Exception, wrapped: bool, afar: bool) -> None:
    from ray.exceptions import UserCodeException

    outer = UserCodeException("UDF failed to process a data block.") if wrapped else None
    seen = raised_afar(error, outer) if afar else error
    with pytest.raises(type(error)) as raised, plain_errors():
        raise seen
    assert (type(raised.value), str(raised.value)) == (type(error), str(error))


def test_so_does_what_an_actor_raises_while_it_is_made() -> None:
    from ray.exceptions import ActorDiedError, RayTaskError

    try:
        raise UserError("engine.tuning.max_cache_bytes=1 is less than one sequence takes")
    except UserError as error:
        task = RayTaskError("MapWorker.__init__", traceback.format_exc(), error.with_traceback(None))
    with (
        pytest.raises(UserError, match=r"^engine.tuning.max_cache_bytes=1 is less than one sequence takes$"),
        plain_errors(),
    ):
        raise ActorDiedError(task) from RuntimeError("of Ray's own")


def test_a_model_that_loads_and_whose_engine_does_not_start_is_found_before_anything_is_deleted() -> None:
    class Backend:
        def make_engine(self) -> None:
            raise UserError("does not fit")

    with pytest.raises(UserError, match="does not fit"):
        load_model(Backend)


def test_a_programmers_mistake_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError, match="a bug") as raised, plain_errors():
        raise raised_afar(RuntimeError("a bug"))
    assert "Traceback" in str(raised.value) or "raised_afar" in str(raised.value)


@pytest.mark.parametrize("address", [None, "10.0.0.9:6379"])
def test_ray_that_does_not_come_up_is_one_sentence(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: Any) -> None:
        raise Exception("The current node timed out during startup.\nThis could happen because ...")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ClusterAway, match="timed out during startup") as raised, ray_cluster():
        pass
    said = str(raised.value)
    assert "\n" not in said
    assert said.startswith("Ray does not start" if address is None else f"the Ray cluster of RAY_ADDRESS={address}")
