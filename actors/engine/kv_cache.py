"""Slot-indexed device memory: attention K/V of every layer, encoder states, hidden states at the frontier.

Rows never move: a sequence keeps its slot from admission to the end, and regrouping only changes which slot numbers a
batch names. K and V of a position lie side by side, so that one copy writes them and one gather reads them.

Shape suffixes: L layers, S slots, T positions, C encoder positions, I inner width of attention, D width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from actors.model.model import MultiExitModel
from conf.decoder import DecoderConfig
from conf.errors import UserError

USUAL_PROMPT = 64  # caches begin with room for prompts of so many tokens, and grow when a longer one comes


@dataclass(slots=True)
class SlotCache:
    """`num_context` encoder positions and `max_positions` output positions per slot; the former may grow."""

    self_kv_LST2I: Tensor  # with merged attention also those of encoder positions
    cross_kv_LSC2I: Tensor  # of the last layers; L is 0 where cross-attention reads the encoder states themselves
    context_SCD: Tensor  # encoder states
    context_bias_SC: Tensor  # 0 where there is one, -inf elsewhere
    hidden_STD: Tensor  # output of the last segment a position has run
    token_ST: Tensor  # decoder input at a position

    @classmethod
    def allocate(
        cls, config: DecoderConfig, num_slots: int, max_positions: int, num_context: int, *,
        num_kv_layers: int, like: Tensor,
    ) -> "SlotCache":  # fmt: skip
        """Allocate it; `like` gives device and dtype, the last `num_kv_layers` have room for cross-attention K/V."""
        layers, width = config.num_layers, config.kv_width
        if config.merged is not None:  # both kinds of keys are in one range of a slot's rows
            own_rows, num_kv_layers = max_positions + num_context, 0
        else:
            own_rows = max_positions
        return cls(
            self_kv_LST2I=like.new_zeros(layers, num_slots, own_rows, width),
            cross_kv_LSC2I=like.new_zeros(num_kv_layers, num_slots, num_context, width),
            context_SCD=like.new_zeros(num_slots, num_context, config.d_cross),
            context_bias_SC=like.new_full((num_slots, num_context), float("-inf")),
            hidden_STD=like.new_zeros(num_slots, max_positions, config.d_model),
            token_ST=torch.zeros(num_slots, max_positions, dtype=torch.int64, device=like.device),
        )

    @property
    def num_context(self) -> int:
        return self.context_SCD.shape[1]

    def grow(self, num_context: int) -> None:
        """Make room for so many encoder positions; what the slots hold stays."""
        if self.self_kv_LST2I.shape[2] > self.hidden_STD.shape[1]:  # encoder positions come behind the output's
            self.self_kv_LST2I = longer(self.self_kv_LST2I, 2, self.hidden_STD.shape[1] + num_context)
        self.cross_kv_LSC2I = longer(self.cross_kv_LSC2I, 2, num_context)
        self.context_SCD = longer(self.context_SCD, 1, num_context)
        self.context_bias_SC = longer(self.context_bias_SC, 1, num_context, float("-inf"))

    @property
    def capacity_bytes(self) -> int:
        tensors = (
            self.self_kv_LST2I, self.cross_kv_LSC2I, self.context_SCD, self.context_bias_SC, self.hidden_STD,
            self.token_ST,
        )  # fmt: skip
        return sum(tensor.nbytes for tensor in tensors)

    def clear(self, slots: Sequence[int]) -> None:
        """Make free slots as new."""
        for slot in slots:
            self.self_kv_LST2I[:, slot] = 0
            self.cross_kv_LSC2I[:, slot] = 0
            self.context_SCD[slot] = 0
            self.context_bias_SC[slot] = float("-inf")
            self.hidden_STD[slot] = 0
            self.token_ST[slot] = 0

    @contextmanager
    def lent(self, num_slots: int) -> Iterator[None]:
        """Let free slots be written for a measurement: they look as if all their encoder states were real."""
        self.context_bias_SC[:num_slots] = 0
        try:
            yield
        finally:
            self.context_bias_SC[:num_slots] = float("-inf")
            self.self_kv_LST2I[:, :num_slots] = 0
            self.hidden_STD[:num_slots] = 0
            self.token_ST[:num_slots] = 0


def longer(tensor: Tensor, dim: int, length: int, value: float = 0.0) -> Tensor:
    """Return the tensor with `value` in what it lacks of this length."""
    shape = list(tensor.shape)
    shape[dim] = length - shape[dim]
    return torch.cat([tensor, tensor.new_full(shape, value)], dim)


def first_context(model: MultiExitModel) -> int:
    """Return the encoder positions that caches begin with."""
    return model.context_for(USUAL_PROMPT)


def wider_context(model: MultiExitModel, now: int, prompt_tokens: int) -> int:
    """Return the encoder positions that caches need for a prompt, `now` if that does; steps are large, to be few."""
    needed = model.context_for(prompt_tokens)
    return now if needed <= now else min(model.max_context, max(needed, now * 3 // 2))


def slot_bytes(
    config: DecoderConfig, max_positions: int, max_context: int, *, num_kv_layers: int, item_bytes: int
) -> int:
    """Return the bytes that one sequence takes of every cache of `SlotCache.allocate`."""
    per_position = config.num_layers * config.kv_width + config.d_model
    per_context = config.d_cross + num_kv_layers * config.kv_width + 1
    tokens = 8 * max_positions
    return item_bytes * (max_positions * per_position + max_context * per_context) + tokens


def fitting_slots(wanted: int, one_bytes: int, max_bytes: int | None) -> int:
    """Return as many of the wanted slots as `max_bytes` holds; UserError where it does not hold one."""
    if max_bytes is None:
        return wanted
    if max_bytes < one_bytes:
        raise UserError(
            f"engine.tuning.max_cache_bytes={max_bytes} is less than the {one_bytes} bytes one sequence takes"
        )
    return min(wanted, max_bytes // one_bytes)
