"""The dataflow: shards in, published Parquet out, every input row exactly once.

    stage           one row is    columns after it                                  runs as
    --------------  ------------  ------------------------------------------------  --------------------------------
    from_items      a shard       shard, staged                                     -
    IndexShard      a chunk*      shard, chunks, num_chunks, index                  CPU tasks, a few at a time
    PrepareChunk    a chunk       shard, chunk, num_chunks, rows, pixels            CPU tasks, as many as fit
    Captioner       a chunk       tables.SUMMARY: counts of what was committed      actors, one engine each
    Driver          -             publishes a shard once all its chunks are staged  pipeline.run; publication: Ray tasks

    * all unfinished chunks of a compressed shard are one row, because they must be read in one go

Ray executes each stage at least once. Exactly-once comes from storage: a chunk is committed as one atomic file by the
captioner, a shard is published only after an audit of those files, and a pass that ends with unpublished shards (Ray
lost something) is followed by another pass over just those.
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from conf.schema import JobConfig
from pipeline.ops.cluster import Fit
from pipeline.stages import IndexShard, PrepareChunk

_INDEX_TASKS = 8
_IDLE = 0.25  # share of its concurrent calls below which a pool gives actors back, down to actors.min_actors
_MAX_INPUT_BLOCKS = 1000  # of shard descriptions; more would only fill the object store's books


def summaries(
    tasks: Sequence[dict[str, Any]],
    index: IndexShard,
    prepare: PrepareChunk,
    captioner: type,
    captioner_args: tuple[Any, ...],
    config: JobConfig,
    fit: Fit,
) -> Iterator[dict[str, Any]]:
    """Run the dataflow over shard tasks; yield one summary for each committed chunk."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy

    context = DataContext.get_current().copy()
    context.target_max_block_size = 1  # every row is a block of its own: chunks are never merged
    context.enable_progress_bars = False
    # Getting an actor back costs a model load. Unless fewer are asked for, one goes only when none has work, as when
    # a node was lost and actors have all the CPUs that preprocessing needs.
    idle = 0.0 if config.actors.min_actors is None else _IDLE
    context.autoscaling_config.actor_pool_util_downscaling_threshold = idle
    chunk_by_chunk: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow"}
    # A pool size of its own for every stage also keeps Ray from fusing them: preprocessing must not run in the actor.
    index_tasks = TaskPoolStrategy(min(_INDEX_TASKS, len(tasks)))
    prepare_tasks = TaskPoolStrategy(
        config.preprocess.max_tasks or max(1, int(fit.cluster_cpus / config.preprocess.num_cpus))
    )
    in_flight = config.actors.chunks_in_flight  # Ray adds actors only while each has 1.75 times as many given to it
    actors = ActorPoolStrategy(
        min_size=fit.min_actors,
        max_size=fit.max_actors,
        initial_size=fit.num_actors,
        max_concurrent_calls_per_actor=in_flight,
        max_tasks_in_flight_per_actor=in_flight + 1 if fit.min_actors == fit.max_actors else 2 * in_flight,
    )
    with DataContext.current(context), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The (min|max)imum number of concurrent")  # few chunks are no mistake
        dataset = (
            ray.data.from_items(list(tasks), override_num_blocks=min(len(tasks), _MAX_INPUT_BLOCKS))
            .map_batches(index, compute=index_tasks, num_cpus=0, **chunk_by_chunk)
            .map_batches(prepare, compute=prepare_tasks, num_cpus=config.preprocess.num_cpus, **chunk_by_chunk)
            .map_batches(
                captioner,
                fn_constructor_args=captioner_args,
                compute=actors,
                num_cpus=fit.actor_cpus,
                num_gpus=fit.actor_gpus or None,
                accelerator_type=config.actors.accelerator_type,
                label_selector=config.actors.label_selector or None,
                **chunk_by_chunk,
            )
        )
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from batch.to_pylist()  # type: ignore[union-attr,operator]
