"""Layers with a self-attention and a cross-attention of their own (blocks.py), over the slot caches.

Shape suffixes: N packed rows, R attention rows, Q most rows a sequence brings (see visit.py), T output positions,
C encoder positions, H heads, E head width, I = H * E, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from actors.engine.cross_source import CrossSource
from actors.engine.kv_cache import SlotCache
from actors.engine.visit import Visit, VisitPart
from actors.model.blocks import DecoderLayer, attend, attend_shared
from actors.model.decoder import MultiExitDecoder
from actors.model.linear import is_packed


@dataclass(frozen=True, slots=True)
class _Source:
    """What the rows of a part may attend to; masks are additive and in the model's dtype."""

    part: VisitPart
    self_RhQT: Tensor  # h: 1, or H with a relative position bias
    cross_RhqC: Tensor  # h and q: 1, or H and Q with a position bias
    context_RCD: Tensor | None  # encoder states, where cross-attention reads them and not their K/V


def _absorbed_attention(layer: DecoderLayer, q_NHE: Tensor, source: _Source) -> Tensor:
    """Return encoder states as every head mixes them [R, Q, H, D]; every head of every position is a row here."""
    assert source.context_RCD is not None
    q_RQHD, mask = source.part.pad(layer.absorb_key(q_NHE)), source.cross_RhqC
    if mask.shape[1] == mask.shape[2] == 1:
        mask_RXC = mask[:, 0]
    else:
        mask_RXC = mask.transpose(1, 2).flatten(1, 2)
    return attend_shared(q_RQHD.flatten(1, 2), source.context_RCD, mask_RXC, layer.scale).view(q_RQHD.shape)


class SeparateLayers:
    """The layers of a decoder whose two attentions read two caches."""

    def __init__(self, decoder: MultiExitDecoder, cache: SlotCache, cross: CrossSource) -> None:
        self.decoder, self.cache, self.cross = decoder, cache, cross
        self.layers = [layer for layer in decoder.layers if isinstance(layer, DecoderLayer)]
        self.max_positions = cache.hidden_STD.shape[1]
        self.dtype, self.device = cache.hidden_STD.dtype, cache.hidden_STD.device
        self._self_mask_hTT = self._causal_mask()

    @property
    def is_packed(self) -> bool:
        return is_packed(self.layers[0].qkv)

    @torch.inference_mode()
    def _causal_mask(self) -> Tensor:
        """Return what position t may attend to [h, T, T], h as in `_Source`; what OFA adds depends on the layer."""
        position_1T = torch.arange(self.max_positions, device=self.device)[None]
        hidden_TT = position_1T > position_1T.T
        relative = self.decoder.relative_bias is not None
        bias_1HTT = self.decoder.self_bias(position_1T, position_1T) if relative else None
        if bias_1HTT is None:
            bias_1HTT = torch.zeros(1, 1, *hidden_TT.shape, dtype=self.dtype, device=self.device)
        return bias_1HTT[0].masked_fill(hidden_TT, float("-inf"))

    def sources(self, visit: Visit, *, absorbed: bool) -> list[_Source]:
        sources = []
        for part in visit.parts:
            cross_mask = part.read(self.cache.context_bias_SC[:, : visit.num_context])[:, None, None, :]
            bias = self.decoder.cross_bias(part.query_position_RQ, visit.num_context)
            context_RCD = part.read(self.cache.context_SCD[:, : visit.num_context]) if absorbed else None
            sources.append(
                _Source(part, self._self_mask(part), cross_mask if bias is None else cross_mask + bias, context_RCD)
            )
        return sources

    def _self_mask(self, part: VisitPart) -> Tensor:
        """Return [R, 1 or H, Q, T]: causal by position, plus the relative bias where the model has one."""
        shape_RQ, query_position_X = part.query_position_RQ.shape, part.query_position_RQ.flatten()
        mask_hXT = self._self_mask_hTT[:, :, : part.num_keys].index_select(1, query_position_X)
        mask_RhQT = mask_hXT.view(len(mask_hXT), *shape_RQ, part.num_keys).transpose(0, 1)
        if self.decoder.absolute_bias is None:
            return mask_RhQT
        keys_1T = torch.arange(part.num_keys, device=self.device)[None]
        shared_RHQT: Tensor = self.decoder.absolute_bias.self_scores(part.query_position_RQ, keys_1T)
        return mask_RhQT + shared_RHQT

    def run(self, index: int, h_ND: Tensor, visit: Visit, sources: list[_Source]) -> Tensor:
        layer = self.layers[index]
        qkv_N3I = layer.self_qkv_fused(h_ND)
        d_inner = qkv_N3I.shape[-1] // 3
        self._write_kv(index, visit, qkv_N3I[:, d_inner:])
        return self._attend_and_mix(index, h_ND, layer.heads(qkv_N3I[:, :d_inner]), visit, sources)

    def leave(self, index: int, h_ND: Tensor, visit: Visit, sources: list[_Source]) -> None:
        self._write_kv(index, visit, self.layers[index].self_kv_fused(h_ND))

    def run_current(self, index: int, h_ND: Tensor, visit: Visit, sources: list[_Source]) -> Tensor:
        return self._attend_and_mix(index, h_ND, self.layers[index].self_q(h_ND), visit, sources)

    def own_kv(self, index: int, h_ND: Tensor, position_N: Tensor) -> Tensor:
        return self.layers[index].self_kv_fused(h_ND)

    def kv_rows(self, slot_N: Tensor, position_N: Tensor) -> Tensor:
        return slot_N * self.max_positions + position_N

    def write_cross(self, index: int, slots_B: Tensor, context_BCD: Tensor) -> None:
        kv_SC2I = self.cache.cross_kv_LSC2I[index - self.cross.first_kv_layer, :, : context_BCD.shape[1]]
        kv_SC2I.index_copy_(0, slots_B, self.layers[index].cross_kv_proj(context_BCD))

    def _write_kv(self, index: int, visit: Visit, kv_N2I: Tensor) -> None:
        real = slice(visit.num_rows)
        self.cache.self_kv_LST2I[index].flatten(0, 1).index_copy_(0, visit.flat_N[real], kv_N2I[real])

    def _attend_and_mix(self, index: int, h_ND: Tensor, q_NHE: Tensor, visit: Visit, sources: list[_Source]) -> Tensor:
        """Run the layer from its self-attention on; K and V of the packed rows are in the cache."""
        layer = self.layers[index]
        h_ND = layer.after_self(h_ND, visit.pack([self._self_attention(index, q_NHE, source) for source in sources]))
        q_NHE = layer.cross_q(h_ND)
        if sources[0].context_RCD is not None:
            read_NHD = visit.pack([_absorbed_attention(layer, q_NHE, source) for source in sources])
            return layer.after_cross(h_ND, layer.absorb_value(read_NHD))
        return layer.after_cross(h_ND, visit.pack([self._cross_attention(index, q_NHE, source) for source in sources]))

    def _self_attention(self, index: int, q_NHE: Tensor, source: _Source) -> Tensor:
        layer, part, mask = self.layers[index], source.part, source.self_RhQT
        kv_RT2I = part.read(self.cache.self_kv_LST2I[index, :, : part.num_keys])
        k_RTHE, v_RTHE = (layer.heads(half) for half in kv_RT2I.chunk(2, dim=-1))
        keys_1T = torch.arange(part.num_keys, device=self.device)[None]
        own_RHQT = self.decoder.layer_bias(index, part.query_position_RQ, keys_1T)
        if own_RHQT is not None:
            mask = mask + own_RHQT
        return attend(part.pad(q_NHE), k_RTHE, v_RTHE, mask, layer.scale)

    def _cross_attention(self, index: int, q_NHE: Tensor, source: _Source) -> Tensor:
        layer, num_context = self.layers[index], source.cross_RhqC.shape[-1]
        kv_SC2I = self.cache.cross_kv_LSC2I[index - self.cross.first_kv_layer, :, :num_context]
        k_RCHE, v_RCHE = (layer.heads(half) for half in source.part.read(kv_SC2I).chunk(2, dim=-1))
        return attend(source.part.pad(q_NHE), k_RCHE, v_RCHE, source.cross_RhqC, layer.scale)
