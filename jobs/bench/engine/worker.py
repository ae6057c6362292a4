"""One variant in a process of its own, driven by the bench: JSON lines in, JSON lines out.

The bench asks every variant for one measurement in turn, so that rounds interleave although memory, threads and
allocators are never shared. What libraries print goes to stderr.
"""

import json
import os
import subprocess
import sys
import traceback
from dataclasses import asdict
from typing import Any

from conf.bench import BenchConfig, BenchModel
from conf.errors import UserError
from jobs.bench.engine.cells import Cell


class Worker:
    """The bench's end. `ask` raises UserError for what does not apply, RuntimeError for what went wrong."""

    def __init__(self, name: str, config: BenchConfig, model: BenchModel, num_threads: int) -> None:
        self.name = name
        environment = {**os.environ, "OMP_NUM_THREADS": str(num_threads), "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jobs.bench.engine.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self._start = {"variant": name, "config": config.model_dump(mode="json"), "model": model.value,
                       "num_threads": num_threads}  # fmt: skip

    def start(self) -> None:
        """UserError where the model has no such variant."""
        self._send(self._start)

    def ask(self, what: str, **arguments: Any) -> Any:
        return self._send({"do": what, **arguments})

    def _send(self, message: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(f"the process of {self.name} ended with code {self._process.wait()}")
        answer = json.loads(line)
        if "refused" in answer:
            raise UserError(answer["refused"])
        if "failed" in answer:
            raise RuntimeError(f"{self.name}: {answer['failed']}")
        return answer["result"]

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _make(start: dict[str, Any]) -> Any:
    """The runner of a variant; the probe has none."""
    import torch

    from jobs.bench.engine.variants import VARIANTS

    torch.set_num_threads(start["num_threads"])
    config = BenchConfig.model_validate(start["config"]).model_copy(update={"num_threads": start["num_threads"]})
    model = BenchModel(start["model"])
    if start["variant"] == "probe":
        return config, model
    variant = VARIANTS[start["variant"]]
    if variant.runner == "engine":
        from jobs.bench.engine.ours import OurEngine

        return OurEngine(config, model, variant)
    from jobs.bench.engine.theirs import make_opponent

    return make_opponent(variant.runner, config, model)


def _do(runner: Any, message: dict[str, Any]) -> Any:
    what = message["do"]
    if what == "rates":
        from jobs.bench.engine.machine import measure_rates

        return asdict(measure_rates(*runner, message["encode_batch"]))
    if what == "prepare":
        return runner.prepare(cell_from(message["cell"]))
    if what == "release":
        return runner.release()
    return asdict({"verify": runner.verify, "measure": runner.measure}[what]())


def cell_from(values: dict[str, Any]) -> Cell:
    """What JSON made of a cell -> the cell."""
    from conf.bench import Distribution

    changes = {
        "model": BenchModel(values["model"]),
        "distribution": Distribution(values["distribution"]),
        "variants": tuple(values["variants"]),
    }
    return Cell(**{**values, **changes})


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    runner = None
    for line in sys.stdin:
        message = json.loads(line)
        try:
            if "do" not in message:
                runner, result = _make(message), None
            else:
                result = _do(runner, message)
            answer = {"result": result}
        except UserError as error:
            answer = {"refused": str(error)}
        except Exception:
            answer = {"failed": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
