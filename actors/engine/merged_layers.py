"""Layers with one attention over own and encoder keys (merged_blocks.py), over the slot caches.

Both kinds of keys lie in one cache, so that a query reads one range of it: output position t in row T - 1 - t, encoder
position c in row T + c, where T is the room for output positions.

Shape suffixes: N packed rows, R attention rows, Q most rows a sequence brings (see visit.py), T output positions,
C encoder positions, S keys of both kinds, H heads, E head width, J width of all keys of a position, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from actors.engine.kv_cache import SlotCache
from actors.engine.visit import Visit, VisitPart
from actors.model.decoder import MultiExitDecoder
from actors.model.linear import is_packed
from actors.model.merged_blocks import MergedDecoderLayer, Rotation, rotation, shared_mask
from conf.decoder import Rope


@dataclass(frozen=True, slots=True)
class _Sources:
    """What the rows of a visit may attend to; masks are additive and in the model's dtype."""

    row_N: Tensor  # of the cache, for the K and V of the packed rows
    turns: dict[Rope, Rotation]
    keys: tuple[slice, ...]  # of every part: the rows of a slot that it reads
    masks: tuple[dict[int | None, Tensor], ...]  # of every part, by the layer's window


class MergedLayers:
    """The layers of a decoder whose attention reads one cache."""

    def __init__(self, decoder: MultiExitDecoder, cache: SlotCache) -> None:
        self.cache = cache
        self.layers = [layer for layer in decoder.layers if isinstance(layer, MergedDecoderLayer)]
        self.max_positions = cache.hidden_STD.shape[1]
        self.group = decoder.config.num_heads // self.layers[0].num_kv_heads
        device, dtype = cache.hidden_STD.device, cache.hidden_STD.dtype
        with torch.inference_mode():
            position_T = torch.arange(self.max_positions, device=device)
            ropes = {layer.rope for layer in self.layers}
            self._turns = {rope: rotation(rope, position_T, self.layers[0].d_head, dtype) for rope in ropes}
            distance_TT = position_T[:, None] - position_T.flip(0)  # keys in the order of the cache
            self._masks_TT: dict[int | None, Tensor] = {}
            for window in {self._window(layer) for layer in self.layers}:
                hidden_TT = distance_TT < 0 if window is None else (distance_TT < 0) | (distance_TT >= window)
                zeros_TT = torch.zeros(hidden_TT.shape, dtype=dtype, device=device)
                self._masks_TT[window] = zeros_TT.masked_fill(hidden_TT, float("-inf"))

    def _window(self, layer: MergedDecoderLayer) -> int | None:
        """Return None also for a window that no output is longer than."""
        return None if layer.window is None or layer.window >= self.max_positions else layer.window

    @property
    def is_packed(self) -> bool:
        return is_packed(self.layers[0].query)

    def sources(self, visit: Visit, *, absorbed: bool) -> _Sources:
        assert not absorbed  # keys are normalised, so that no query can take their projection over
        keys, masks = [], []
        for part in visit.parts:
            keys.append(slice(self.max_positions - part.num_keys, self.max_positions + visit.num_context))
            masks.append({window: self._mask(mask_TT, part, visit) for window, mask_TT in self._masks_TT.items()})
        return _Sources(
            self.kv_rows(visit.slot_N, visit.position_N), self._turns_at(visit.position_N), tuple(keys), tuple(masks)
        )

    def _turns_at(self, position_N: Tensor) -> dict[Rope, Rotation]:
        return {rope: (cosine[position_N], sine[position_N]) for rope, (cosine, sine) in self._turns.items()}

    def _mask(self, mask_TT: Tensor, part: VisitPart, visit: Visit) -> Tensor:
        """Return [R, 1, Q or Q * G, S]."""
        own_RQT = mask_TT[:, self.max_positions - part.num_keys :][part.query_position_RQ]
        context_RC = part.read(self.cache.context_bias_SC[:, : visit.num_context])
        context_RQC = context_RC[:, None].expand(-1, own_RQT.shape[1], -1)
        return shared_mask(torch.cat([own_RQT, context_RQC], dim=-1)[:, None], self.group)

    def run(self, index: int, h_ND: Tensor, visit: Visit, sources: _Sources) -> Tensor:
        x_ND = self._leave(index, h_ND, visit, sources)
        return self._attend_and_mix(index, h_ND, x_ND, visit, sources)

    def leave(self, index: int, h_ND: Tensor, visit: Visit, sources: _Sources) -> None:
        self._leave(index, h_ND, visit, sources)

    def run_current(self, index: int, h_ND: Tensor, visit: Visit, sources: _Sources) -> Tensor:
        return self._attend_and_mix(index, h_ND, self.layers[index].attn_norm(h_ND), visit, sources)

    def own_kv(self, index: int, h_ND: Tensor, position_N: Tensor) -> Tensor:
        layer = self.layers[index]
        cosine_TE, sine_TE = self._turns[layer.rope]
        return layer.own_kv(layer.attn_norm(h_ND), (cosine_TE[position_N], sine_TE[position_N]))

    def kv_rows(self, slot_N: Tensor, position_N: Tensor) -> Tensor:
        return slot_N * self.cache.self_kv_LST2I.shape[2] + (self.max_positions - 1) - position_N

    def write_cross(self, index: int, slots_B: Tensor, context_BCD: Tensor) -> None:
        rows = slice(self.max_positions, self.max_positions + context_BCD.shape[1])
        kv_SC2J = self.cache.self_kv_LST2I[index, :, rows]
        kv_SC2J.index_copy_(0, slots_B, self.layers[index].context_kv(context_BCD))

    def _leave(self, index: int, h_ND: Tensor, visit: Visit, sources: _Sources) -> Tensor:
        """Write K and V of the packed rows; return the layer's normalised input [N, D]."""
        layer, real = self.layers[index], slice(visit.num_rows)
        x_ND: Tensor = layer.attn_norm(h_ND)
        kv_N2J = layer.own_kv(x_ND, sources.turns[layer.rope])
        self.cache.self_kv_LST2I[index].flatten(0, 1).index_copy_(0, sources.row_N[real], kv_N2J[real])
        return x_ND

    def _attend_and_mix(self, index: int, h_ND: Tensor, x_ND: Tensor, visit: Visit, sources: _Sources) -> Tensor:
        """Run the layer from its queries on; K and V of the packed rows are in the cache."""
        layer = self.layers[index]
        q_NHE, window = layer.own_q(x_ND, sources.turns[layer.rope]), self._window(layer)
        read = [
            layer.attend(part.pad(q_NHE), part.read(self.cache.self_kv_LST2I[index, :, keys]), masks[window])
            for part, keys, masks in zip(visit.parts, sources.keys, sources.masks, strict=True)
        ]
        return layer.after_attention(h_ND, visit.pack(read))
