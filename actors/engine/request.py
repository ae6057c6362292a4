"""What arrives at the engine, what leaves it, and the mutable state of one sequence in between. No torch here."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy.typing as npt


class FinishReason(str, Enum):
    EOS = "eos"  # the model ended the output
    LENGTH = "length"  # the limit on new tokens cut it
    LOOP = "loop"  # it repeated itself and was cut


@dataclass(frozen=True, slots=True)
class Request:
    """One image and one prompt. Pixels are [H, W, 3] as the model's image plan leaves them: uint8, grids of patches
    float32."""

    request_id: int
    pixels_HWC: npt.NDArray[Any]
    prompt_ids: tuple[int, ...]
    max_new_tokens: int | None = None  # tighter than the engine's limit, or none
    prefix_ids: tuple[int, ...] | None = None  # what the decoder begins with; none: the engine's
    full_depth: bool = False  # none of its tokens leaves early, whatever the engine's thresholds


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished request.

    `token_ids` leaves out the end token and what the output was given to begin with; `exit_layers` and `confidences`
    have one entry per decoding step, the step that emitted the end token included. Times are seconds of the engine's
    clock. `device_s` is this request's share of the engine's busy time, `encode_s` its share of its encoder batch: part
    of `device_s`, unless the encoder ran beside the decoder (engine.tuning.encode_overlap).
    """

    request_id: int
    token_ids: tuple[int, ...]
    exit_layers: tuple[int, ...]
    confidences: tuple[float, ...]
    finish_reason: FinishReason
    enqueued_s: float
    admitted_s: float
    encoded_s: float
    first_token_s: float
    finished_s: float
    encode_s: float
    device_s: float
    end_id: int | None = None  # the token it ended with, of finish reason EOS

    @property
    def said_ids(self) -> tuple[int, ...]:
        """Return the tokens, the end token included."""
        return self.token_ids if self.end_id is None else (*self.token_ids, self.end_id)


@dataclass(slots=True, eq=False)
class ActiveSequence:
    """A request that holds a slot.

    `computed[j]` is the number of leading positions that have run segment j: a staircase, which never rises from one
    segment to the next deeper one,

        computed[0] >= computed[1] >= ... >= computed[last],

    so the positions that a visit to segment j must bring along are exactly [computed[j], position].
    """

    request: Request
    slot: int
    computed: list[int]
    limit: int  # decoding steps allowed
    given_ids: tuple[int, ...] = (0,)  # decoder inputs before the first step: the start token and a prefix
    position: int = 0  # of the current token; the first step's is that of the last given one
    input_id: int = 0  # the current token
    num_context: int = 0  # encoder positions, rounded up
    cross_built: int = 0  # bit j: cross-attention K/V of segment j exist for this slot
    waiting_since: int = 0  # engine step at which it entered its queue
    token_ids: list[int] = field(default_factory=list)
    exit_layers: list[int] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    end_id: int | None = None
    enqueued_s: float = 0.0
    admitted_s: float = 0.0
    encoded_s: float = 0.0
    first_token_s: float = 0.0
    encode_s: float = 0.0
    device_s: float = 0.0

    @property
    def first_position(self) -> int:
        """Return the position of the first step, that of the last input that was given."""
        return len(self.given_ids) - 1

    @property
    def step(self) -> int:
        """Return how many decoding steps are done, which is the number of the current one."""
        return self.position - self.first_position

    def pending(self, segment: int) -> range:
        """Return the positions that a visit to `segment` computes, the current one last."""
        return range(self.computed[segment], self.position + 1)

    @property
    def pending_inputs(self) -> tuple[int, ...]:
        """Return the inputs at the positions that the first segment has not run."""
        return self.given_ids if self.computed[0] == 0 else (self.input_id,)

    def completion(self, finished_s: float) -> Completion:
        assert self.finish_reason is not None, "the sequence is still running"
        return Completion(
            request_id=self.request.request_id,
            token_ids=tuple(self.token_ids),
            exit_layers=tuple(self.exit_layers),
            confidences=tuple(self.confidences),
            finish_reason=self.finish_reason,
            enqueued_s=self.enqueued_s,
            admitted_s=self.admitted_s,
            encoded_s=self.encoded_s,
            first_token_s=self.first_token_s,
            finished_s=finished_s,
            encode_s=self.encode_s,
            device_s=self.device_s,
            end_id=self.end_id,
        )
