"""What decoding costs on this device: passes of the engine itself over some of the rows, and the costs they imply.

Encoding is left out. The passes take turns, and of each the median of all rounds counts.
"""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from actors.engine.drain import drain
from actors.engine.engine import Engine
from actors.engine.request import Request
from actors.generation_texts import tokenized
from actors.model.checkpoint import Checkpoint
from actors.training.exits.work import Costs, Work, fit_costs
from actors.training.thresholds import Recording, thresholds_at_risk
from conf.engine import EngineConfig

FULL = "full depth"


@dataclass(frozen=True)
class Pass:
    """What an engine computed and how long that took, encoding aside."""

    work: Work
    tokens: int
    seconds: float
    left_at: frozenset[int]  # layers

    @property
    def token_s(self) -> float:
        return self.seconds / self.tokens


@dataclass(frozen=True)
class Measured:
    """Costs at one number of slots, and the passes they were fitted to."""

    num_slots: int
    costs: Costs
    passes: dict[str, Pass]

    @property
    def built_from(self) -> int | None:
        """The first segment that keys and values of the encoder's states are computed for (`work_of`)."""
        if self.passes[FULL].work.cross_built:
            return 0
        return 1 if any(one.work.cross_built for one in self.passes.values()) else None

    def as_dict(self) -> dict[str, Any]:
        """Return them as JSON has them; of every pass what was computed, its seconds, and those the costs explain."""
        passes = {
            name: {**asdict(one.work), "tokens": one.tokens, "seconds": one.seconds,
                   "explained_s": self.costs.seconds(one.work)}
            for name, one in self.passes.items()
        }  # fmt: skip
        return {"num_slots": self.num_slots, **asdict(self.costs), "passes": passes}


def measure(
    checkpoint: Checkpoint, engine: EngineConfig, recording: Recording, risk: float, requests: Sequence[Request],
    rounds: int,
) -> Measured:  # fmt: skip
    """Fit the costs of a checkpoint with an exit at every layer; `recording` has a column for each.

    The passes differ in how often they ask an exit and in how far texts catch up, so that the parts of the cost can be
    told apart: full depth asks once a token; in another pass every token leaves at the first layer; in a third half of
    the tokens leave halfway, and the others make them catch up; the last has exits at the quarters of the depth, with
    thresholds for the risk.
    """
    num_layers = recording.confidence_NE.shape[1]
    quarters = sorted({max(1, round(num_layers * quarter / 4)) for quarter in (1, 2, 3)} - {num_layers})
    middle = max(1, num_layers // 2)
    half = float(np.median(recording.confidence_NE[:, middle - 1]))
    at_risk = thresholds_at_risk(recording, risk, tuple(layer - 1 for layer in (*quarters, num_layers)))
    configs = {
        FULL: engine.at_full_depth(),
        "first layer": leaving_at(engine, (1, num_layers), (0.0,)),
        "halfway": leaving_at(engine, (middle, num_layers), (half,)),
        "quarters": leaving_at(engine, (*quarters, num_layers), at_risk),
    }
    passes = timed(checkpoint, configs, requests, rounds)
    costs = fit_costs([(one.work, one.seconds) for one in passes.values()])
    return Measured(engine.num_slots, costs, passes)


def leaving_at(engine: EngineConfig, exits: Sequence[int], thresholds: Sequence[float]) -> EngineConfig:
    """Return the same engine with these exits, full depth included, and one threshold for each other one."""
    return engine.model_copy(update={"exits": tuple(exits), "thresholds": tuple(thresholds)})


def timed(
    checkpoint: Checkpoint, configs: Mapping[str, EngineConfig], requests: Sequence[Request], rounds: int
) -> dict[str, Pass]:
    """Decode the requests with every configuration, in turns; return the median pass of each."""
    passes: dict[str, list[Pass]] = {name: [] for name in configs}
    for number in range(rounds):
        for name in list(configs) if number % 2 == 0 else list(reversed(configs)):
            passes[name].append(_run(checkpoint, configs[name], requests))
    return {name: sorted(runs, key=lambda one: one.token_s)[len(runs) // 2] for name, runs in passes.items()}


def clock_of(checkpoint: Checkpoint) -> Callable[[], float]:
    """Return the clock to measure by: where one CPU thread computes its own time, which other programs add less to."""
    on_one_thread = checkpoint.model.decoder.embedding.weight.device.type == "cpu" and torch.get_num_threads() == 1
    return time.thread_time if on_one_thread else time.perf_counter


def repeated(requests: Sequence[Request], count: int) -> list[Request]:
    """Return `count` requests, the given ones over and over, so that few rows fill all slots too."""
    return [replace(each, request_id=i) for i, each in enumerate(itertools.islice(itertools.cycle(requests), count))]


def _run(checkpoint: Checkpoint, config: EngineConfig, requests: Sequence[Request]) -> Pass:
    tuning = config.tuning.model_copy(update={"encode_overlap": False})  # an encoder beside it would slow the decoder
    generation = tokenized(config.generation, checkpoint.codec, checkpoint.config.decoder.max_positions)
    changes = {"tuning": tuning, "generation": generation}
    engine = Engine(checkpoint.model, config.model_copy(update=changes), clock=clock_of(checkpoint))
    done = drain(engine, requests)
    stats, runner = engine.take_stats(), engine.executor.runner
    layers = [end - start for start, end in runner.segments]
    work = Work(
        visits=sum(stats.segment_visits),
        rows=sum(stats.segment_rows),
        layer_visits=sum(n * count for n, count in zip(layers, stats.segment_visits, strict=True)),
        layer_positions=sum(n * count for n, count in zip(layers, stats.segment_positions, strict=True)),
        cross_built=runner.cross_rows_built,
    )
    left_at = frozenset(layer for completion in done for layer in completion.exit_layers)
    return Pass(work, stats.num_tokens, stats.busy_s - stats.encode_s, left_at)
