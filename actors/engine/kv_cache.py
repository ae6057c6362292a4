"""Slot-indexed device memory: attention K/V of every layer, encoder states, hidden states at the frontier.

Rows never move: a sequence keeps its slot from admission to the end, and regrouping only changes which slot numbers a
batch names. Cross-attention K/V of a layer are written when a sequence first visits its segment.

Shape suffixes: L layers, S slots, T positions, C encoder positions, H heads, E head width, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from conf.model import DecoderConfig


@dataclass(slots=True)
class SlotCache:
    """Allocated once; `max_context` encoder positions and `max_positions` output positions per slot."""

    self_k_LSHTE: Tensor
    self_v_LSHTE: Tensor
    cross_k_LSHCE: Tensor
    cross_v_LSHCE: Tensor
    context_SCD: Tensor  # encoder states
    context_mask_SC: Tensor  # True = real
    hidden_STD: Tensor  # output of the last segment a position has run

    @classmethod
    def allocate(
        cls, config: DecoderConfig, num_slots: int, max_positions: int, max_context: int, like: Tensor
    ) -> "SlotCache":
        """`like` gives device and dtype."""
        layers, heads, width = config.num_layers, config.num_heads, config.d_head
        return cls(
            self_k_LSHTE=like.new_zeros(layers, num_slots, heads, max_positions, width),
            self_v_LSHTE=like.new_zeros(layers, num_slots, heads, max_positions, width),
            cross_k_LSHCE=like.new_zeros(layers, num_slots, heads, max_context, width),
            cross_v_LSHCE=like.new_zeros(layers, num_slots, heads, max_context, width),
            context_SCD=like.new_zeros(num_slots, max_context, config.d_cross),
            context_mask_SC=torch.zeros(num_slots, max_context, dtype=torch.bool, device=like.device),
            hidden_STD=like.new_zeros(num_slots, max_positions, config.d_model),
        )

    @property
    def capacity_bytes(self) -> int:
        tensors = (self.self_k_LSHTE, self.self_v_LSHTE, self.cross_k_LSHCE, self.cross_v_LSHCE,
                   self.context_SCD, self.context_mask_SC, self.hidden_STD)  # fmt: skip
        return sum(tensor.nbytes for tensor in tensors)
