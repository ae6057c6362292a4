"""Replay oracle: run full depth over what was emitted and check that every step is reproduced.

If every layer's keys and values are that layer's own features, then each emitted token is the argmax of its exit
layer in a teacher-forced full-depth run, each earlier exit was too unsure, and the confidences agree. `jit` passes by
construction; state propagation (`copy`, `project`) does not.
"""

from dataclasses import dataclass

import torch

from actors.engine.oracles.reference import encode_one, given_ids, verdicts
from actors.engine.processors import Processors
from actors.engine.request import Completion, Request
from actors.model.model import MultiExitModel
from conf.engine import Gate, Schedule
from conf.resolve import Decay, threshold_at


@dataclass(frozen=True)
class Replay:
    """What a replay found, over the steps of one or more completions."""

    num_steps: int
    same_token: int
    same_exit: int
    largest_confidence_gap: float

    @property
    def exact(self) -> bool:
        return self.same_token == self.same_exit == self.num_steps

    def __add__(self, other: "Replay") -> "Replay":
        return Replay(
            self.num_steps + other.num_steps,
            self.same_token + other.same_token,
            self.same_exit + other.same_exit,
            max(self.largest_confidence_gap, other.largest_confidence_gap),
        )


NOTHING = Replay(0, 0, 0, 0.0)


@torch.inference_mode()
def replay(
    model: MultiExitModel,
    request: Request,
    completion: Completion,
    *,
    exit_layers: tuple[int, ...],
    thresholds: tuple[float, ...],
    gate: Gate,
    min_new_tokens: int = 0,
    processors: Processors | None = None,
    tolerance: float = 1e-4,
    decay: Decay | None = None,
    prefix_ids: tuple[int, ...] = (),
    schedule: Schedule = Schedule.POOL,
) -> Replay:
    """Replay one completion. A confidence within `tolerance` of its threshold counts as either side of it.

    Under `consensus` a sure row stays while others are unsure: there an exit is right if the row was sure enough.
    """
    emitted = list(completion.said_ids)
    given = given_ids(model, request, prefix_ids)
    inputs = [*given, *emitted[:-1]]
    processors = processors or Processors(model.config.end_ids, min_new_tokens)
    everywhere = verdicts(
        model, inputs, *encode_one(model, request),
        exit_layers=exit_layers, gate=gate, processors=processors, num_given=len(given),
    )  # fmt: skip
    said = [(tokens[len(given) - 1 :], confidences[len(given) - 1 :]) for tokens, confidences in everywhere]
    same_token = same_exit = 0
    largest = 0.0
    for step, (token_id, exit_layer) in enumerate(zip(emitted, completion.exit_layers, strict=True)):
        index = exit_layers.index(exit_layer)
        tokens, confidences = said[index]
        same_token += tokens[step] == token_id
        largest = max(largest, abs(confidences[step] - completion.confidences[step]))
        needed = [threshold_at(threshold, step, decay) for threshold in thresholds]
        stayed = all(said[j][1][step] < needed[j] + tolerance for j in range(index))
        left = index == len(exit_layers) - 1 or confidences[step] >= needed[index] - tolerance
        same_exit += (stayed or schedule is Schedule.CONSENSUS) and left
    return Replay(len(emitted), same_token, same_exit, largest)
