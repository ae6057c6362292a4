"""The scheduler with a scripted model and a virtual clock: what a policy costs, in seconds, without a model.

Pure Python. Costs come from a fit of a real machine (`QueuePolicy.costs`) or are made up; depths from a script,
one segment index per token, so that schedules are compared on exactly the same work.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from actors.engine.batch import Batch, Emission, EncodeBatch
from actors.engine.costs import VisitCost
from actors.engine.request import ActiveSequence, Completion, Request
from actors.engine.scheduler import Scheduler, SchedulerRules
from actors.engine.stats import Meter

Scripts = Sequence[
    Sequence[int]
]  # the segment every token of every sequence leaves at; the last token is the end token

_NO_PIXELS = np.zeros((1, 1, 3), np.uint8)


@dataclass
class Simulated:
    """What running the scripts took."""

    decode_s: float = 0.0
    visits: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    longest_wait_steps: int = 0  # of a row in a deep queue
    batches: list[Batch] = field(default_factory=list)
    completions: Mapping[int, Completion] = field(default_factory=dict)

    @property
    def mean_rows(self) -> list[float]:
        return [rows / max(1, visits) for rows, visits in zip(self.rows, self.visits, strict=True)]


def simulate(
    rules: SchedulerRules, scripts: Scripts, costs: Sequence[VisitCost], *, encode_s: float = 0.0
) -> Simulated:
    """Run every script to its end; all requests are there from the beginning, and an image takes `encode_s`."""
    now_s, step = 0.0, 0
    scheduler = Scheduler(rules, Meter(lambda: now_s, len(costs)))
    scheduler.policy.set_costs(costs)
    for request_id in range(len(scripts)):
        scheduler.add(Request(request_id, _NO_PIXELS, (3,)))
    result = Simulated(visits=[0] * len(costs), rows=[0] * len(costs))
    done: dict[int, Completion] = {}
    while scheduler.has_work():
        batch = scheduler.next_batch()
        step += 1
        if isinstance(batch, EncodeBatch):
            now_s += encode_s * len(batch.sequences)
            scheduler.encoded(batch)
            continue
        if batch.segment > 0:
            oldest = min(sequence.waiting_since for sequence in batch.sequences)
            result.longest_wait_steps = max(result.longest_wait_steps, step - oldest)
        spent_s = costs[batch.segment].seconds(sum(batch.weights))
        now_s, result.decode_s = now_s + spent_s, result.decode_s + spent_s
        result.visits[batch.segment] += 1
        result.rows[batch.segment] += len(batch.sequences)
        result.batches.append(batch)
        decision = _say(batch, scripts, rules.end_ids[0])
        for sequence in scheduler.commit(batch, decision, scheduler.exits(batch, decision.confidences)):
            done[sequence.request.request_id] = sequence.completion(now_s)
    scheduler.check_integrity()
    result.completions = done
    return result


def _say(batch: Batch, scripts: Scripts, eos_id: int) -> Emission:
    def leaves_here(sequence: ActiveSequence) -> bool:
        return batch.segment == scripts[sequence.request.request_id][sequence.position]

    ends = [sequence.position == len(scripts[sequence.request.request_id]) - 1 for sequence in batch.sequences]
    return Emission(
        [eos_id if end else eos_id + 1 for end in ends],
        [1.0 if leaves_here(sequence) else 0.0 for sequence in batch.sequences],
    )


def least_s(scripts: Scripts, costs: Sequence[VisitCost], max_rows: int) -> float:
    """Return the bound: every visit full, a position computed at a segment only if it or a later one goes there."""
    total_s = 0.0
    for segment, cost in enumerate(costs):
        rows = sum(depth >= segment for script in scripts for depth in script)
        positions = sum(max(script[t:]) >= segment for script in scripts for t in range(len(script)))
        total_s += math.ceil(rows / max_rows) * cost.floor_s + cost.slope_s * positions
    return total_s
