"""What a kind of decoder layer does in a step of beams; the caches are the runner's.

Shape suffixes: B samples of a step, K beams, N = B * K rows, F rows of the flattened cache, T output positions,
C encoder positions, H heads, E head width, I inner width of a layer's keys, D width.
"""

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from actors.model.blocks import DecoderLayer, attend
from actors.model.decoder import MultiExitDecoder
from actors.model.merged_blocks import MergedDecoderLayer, rotation

Sources: TypeAlias = Any  # what the rows of a step may attend to, the same for all layers; each kind has its own


@dataclass(frozen=True, slots=True)
class BeamStep:
    """Which rows of the caches a step writes and reads."""

    position_BK: Tensor
    write_N: Tensor  # of the flattened cache of own keys, a row for each beam's current position
    read_X: Tensor  # of the same, N * T rows: the pasts of all beams
    blocked_BC: Tensor  # 0 where there is an encoder position, -inf elsewhere
    num_keys: int

    def past(self, kv_F2I: Tensor, kv_N2I: Tensor) -> Tensor:
        """Write K and V of the current positions; return those of every beam's past, these included [N, T, 2 I]."""
        kv_F2I.index_copy_(0, self.write_N, kv_N2I)
        return kv_F2I.index_select(0, self.read_X).view(-1, self.num_keys, kv_F2I.shape[-1])


class BeamLayers(Protocol):
    """All layers of one decoder."""

    def context_kv(self, index: int, states_BCD: Tensor) -> Tensor:
        """Return K and V of encoder positions side by side [B, C, 2 I], as they are kept."""

    def sources(self, step: BeamStep) -> Sources:
        """Return what the step's rows may attend to."""

    def run(self, index: int, h_ND: Tensor, kv_F2I: Tensor, context_BC2I: Tensor, step: BeamStep,
            sources: Sources) -> Tensor:  # fmt: skip
        """Return what the layer makes of the rows; `kv_F2I` are own K and V, `context_BC2I` those of the samples."""


class SeparateBeamLayers:
    """Layers with a self- and a cross-attention: beams are queries of the same row of the latter."""

    def __init__(self, decoder: MultiExitDecoder) -> None:
        self.decoder = decoder
        self.layers = [layer for layer in decoder.layers if isinstance(layer, DecoderLayer)]

    def context_kv(self, index: int, states_BCD: Tensor) -> Tensor:
        kv_BC2I: Tensor = self.layers[index].cross_kv_proj(states_BCD)
        return kv_BC2I

    def sources(self, step: BeamStep) -> tuple[Tensor, Tensor]:
        """Return the masks of self- and cross-attention."""
        position_N1 = step.position_BK.reshape(-1, 1)
        keys_T = torch.arange(step.num_keys, device=position_N1.device)
        blocked_B11C = step.blocked_BC[:, None, None]
        cross_bias = self.decoder.cross_bias(step.position_BK, blocked_B11C.shape[-1])
        future_N11T = (keys_T > position_N1)[:, None, None]
        bias = self.decoder.self_bias(position_N1, keys_T[None])
        if bias is None:
            bias = torch.zeros(future_N11T.shape, dtype=blocked_B11C.dtype, device=keys_T.device)
        return (
            bias.masked_fill(future_N11T, float("-inf")),
            blocked_B11C if cross_bias is None else blocked_B11C + cross_bias,
        )

    def run(self, index: int, h_ND: Tensor, kv_F2I: Tensor, context_BC2I: Tensor, step: BeamStep,
            sources: tuple[Tensor, Tensor]) -> Tensor:  # fmt: skip
        layer, (self_mask, cross_mask) = self.layers[index], sources
        position_N1 = step.position_BK.reshape(-1, 1)
        own = self.decoder.layer_bias(index, position_N1, torch.arange(step.num_keys, device=h_ND.device)[None])
        q_NHE, k_NHE, v_NHE = layer.self_qkv(h_ND)
        past_NT2I = step.past(kv_F2I, torch.cat([k_NHE.flatten(1), v_NHE.flatten(1)], dim=-1))
        k_NTHE, v_NTHE = (layer.heads(part) for part in past_NT2I.chunk(2, dim=-1))
        mask = self_mask if own is None else self_mask + own
        h_ND = layer.after_self(h_ND, attend(q_NHE[:, None], k_NTHE, v_NTHE, mask, layer.scale)[:, 0])
        k_BCHE, v_BCHE = (layer.heads(part) for part in context_BC2I.chunk(2, dim=-1))
        q_NHE = layer.cross_q(h_ND)
        q_BKHE = q_NHE.view(*step.position_BK.shape, *q_NHE.shape[1:])
        return layer.after_cross(h_ND, attend(q_BKHE, k_BCHE, v_BCHE, cross_mask, layer.scale).flatten(0, 1))


class MergedBeamLayers:
    """Layers with one attention over both kinds of keys, which are put side by side for every beam."""

    def __init__(self, decoder: MultiExitDecoder) -> None:
        self.layers = [layer for layer in decoder.layers if isinstance(layer, MergedDecoderLayer)]

    def context_kv(self, index: int, states_BCD: Tensor) -> Tensor:
        return self.layers[index].context_kv(states_BCD)

    def sources(self, step: BeamStep) -> tuple[dict[Any, Any], dict[int | None, Tensor]]:
        """Return rotations and, by window, masks [N, 1, 1, T + C]."""
        position_N = step.position_BK.flatten()
        distance_NT = position_N[:, None] - torch.arange(step.num_keys, device=position_N.device)
        blocked_NC = step.blocked_BC.repeat_interleave(step.position_BK.shape[1], dim=0)
        turns, masks = {}, {}
        for layer in self.layers:
            if layer.rope not in turns:
                turns[layer.rope] = rotation(layer.rope, position_N, layer.d_head, blocked_NC.dtype)
            if layer.window not in masks:
                hidden_NT = (
                    distance_NT < 0 if layer.window is None else (distance_NT < 0) | (distance_NT >= layer.window)
                )
                own_NT = torch.zeros_like(distance_NT, dtype=blocked_NC.dtype).masked_fill(hidden_NT, float("-inf"))
                masks[layer.window] = torch.cat([own_NT, blocked_NC], dim=-1)[:, None, None]
        return turns, masks

    def run(self, index: int, h_ND: Tensor, kv_F2I: Tensor, context_BC2I: Tensor, step: BeamStep,
            sources: tuple[dict[Any, Any], dict[int | None, Tensor]]) -> Tensor:  # fmt: skip
        layer, (turns, masks) = self.layers[index], sources
        x_ND, turn = layer.attn_norm(h_ND), turns[layer.rope]
        past_NT2I = step.past(kv_F2I, layer.own_kv(x_ND, turn))
        past_BKT2I = past_NT2I.view(*step.position_BK.shape, *past_NT2I.shape[1:])
        context_BKC2I = context_BC2I[:, None].expand(-1, past_BKT2I.shape[1], -1, -1)
        kv_NS2I = torch.cat([past_BKT2I, context_BKC2I], dim=2).flatten(0, 1)
        context_NI = layer.attend(layer.own_q(x_ND, turn)[:, None], kv_NS2I, masks[layer.window])[:, 0]
        return layer.after_attention(h_ND, context_NI)
