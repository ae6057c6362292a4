"""One variant in a process of its own, asked by the bench for one thing at a time.

The bench asks every variant for one measurement in turn, so that rounds interleave although memory, threads and
allocators are never shared. What libraries print goes to stderr.
"""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from conf.bench import BenchConfig, BenchModel

PROBE = "probe"  # a process without a variant, which measures what the machine can do

_runner: Any = None  # of this process, where it is a worker's


class Worker:
    """The bench's end. UserError for what does not apply to the variant; all else is raised as it was in the worker."""

    def __init__(self, name: str, config: BenchConfig, model: BenchModel, num_threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._process = ProcessPoolExecutor(1, context, initializer=_settle_in, initargs=(num_threads,))
        try:
            self._process.submit(_start, name, config, model, num_threads).result()
        except BaseException:
            self.close()
            raise

    def ask(self, what: str, *arguments: Any) -> Any:
        """Call a method of the variant's runner."""
        return self._process.submit(_do, what, *arguments).result()

    def close(self) -> None:
        self._process.shutdown()


def _settle_in(num_threads: int) -> None:
    os.environ["OMP_NUM_THREADS"] = str(num_threads)  # before torch is imported
    os.dup2(2, 1)


def _start(name: str, config: BenchConfig, model: BenchModel, num_threads: int) -> None:
    global _runner
    import torch

    from jobs.bench.engine.variants import VARIANTS

    torch.set_num_threads(num_threads)
    config = config.model_copy(update={"num_threads": num_threads})
    if name == PROBE:
        from jobs.bench.engine.machine import Machine

        _runner = Machine(config, model)
    elif VARIANTS[name].runner == "engine":
        from jobs.bench.engine.ours import OurEngine

        _runner = OurEngine(config, model, VARIANTS[name])
    else:
        from jobs.bench.engine.theirs import make_opponent

        _runner = make_opponent(VARIANTS[name].runner, config, model)


def _do(what: str, *arguments: Any) -> Any:
    return getattr(_runner, what)(*arguments)
