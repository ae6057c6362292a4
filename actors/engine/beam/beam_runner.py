"""Beams -> logits: all layers for the current input of every beam of a batch of samples.

The K beams of a sample share its encoder states and its cross-attention K/V, which are projected once and read once
per layer and step: beams are queries of the same attention row. Self-attention K/V stay where they were written; which
row holds a beam's past is in `Beams.row_BKT`.

Shape suffixes: L layers, S slots (samples), B samples of a step, K beams, N = B * K rows, T output positions, C encoder
positions, H heads, E head width, I = H * E, D width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from actors.engine.encoding import encode_requests
from actors.engine.kv_cache import first_context, longer, wider_context
from actors.engine.request import Request
from actors.engine.visit import index_tensor
from actors.model.blocks import DecoderLayer, additive, attend
from actors.model.model import MultiExitModel


class BeamRunner:
    """Holds the model and the caches of `num_slots` samples with `num_beams` beams each."""

    def __init__(self, model: MultiExitModel, *, num_slots: int, num_beams: int, num_positions: int) -> None:
        config, weight = model.config.decoder, model.decoder.embedding.weight.detach()
        self.model, self.decoder = model, model.decoder
        self.num_beams, self.num_positions = num_beams, num_positions
        self.device, self.dtype = weight.device, weight.dtype
        layers, width = config.num_layers, 2 * config.d_inner
        self.self_kv_LSKT2I = weight.new_zeros(layers, num_slots, num_beams, num_positions, width)
        self.cross_kv_LSC2I = weight.new_zeros(layers, num_slots, first_context(model), width)
        self.blocked_SC = weight.new_full((num_slots, first_context(model)), float("-inf"))

    @property
    def capacity_bytes(self) -> int:
        return self.self_kv_LSKT2I.nbytes + self.cross_kv_LSC2I.nbytes + self.blocked_SC.nbytes

    def layers(self) -> list[DecoderLayer]:
        return [layer for layer in self.decoder.layers if isinstance(layer, DecoderLayer)]

    @torch.inference_mode()
    def encode(self, requests: Sequence[Request], slots_B: Tensor) -> None:
        """Write cross-attention K/V of every layer into the slots of the requests."""
        now, longest = self.blocked_SC.shape[1], max(len(request.prompt_ids) for request in requests)
        if (wanted := wider_context(self.model, now, longest)) > now:
            self.cross_kv_LSC2I = longer(self.cross_kv_LSC2I, 2, wanted)
            self.blocked_SC = longer(self.blocked_SC, 1, wanted, float("-inf"))
        states_BCD, mask_BC = encode_requests(self.model, requests)
        width = states_BCD.shape[1]
        self.blocked_SC[slots_B] = float("-inf")
        self.blocked_SC[slots_B, :width] = additive(mask_BC, self.dtype)
        for index, layer in enumerate(self.layers()):
            self.cross_kv_LSC2I[index, slots_B, :width] = layer.cross_kv_proj(states_BCD)

    @torch.inference_mode()
    def step(self, slots: list[int], input_BK: Tensor, position_B: Tensor, row_BKT: Tensor, num_keys: int) -> Tensor:
        """Return logits [B, K, V] after the inputs at the positions; `num_keys` is the largest position + 1."""
        num_samples, num_beams = input_BK.shape
        slots_B = index_tensor(slots, self.device)
        neighbours = slots[-1] - slots[0] + 1 == num_samples  # in order: then their caches are read in place
        where = slice(slots[0], slots[-1] + 1) if neighbours else slots_B
        position_BK = position_B[:, None].expand(-1, num_beams)
        position_N1, keys_T = position_BK.reshape(-1, 1), torch.arange(num_keys, device=self.device)
        first_BK = slots_B[:, None] * num_beams
        own_BK = first_BK + torch.arange(num_beams, device=self.device)
        write_N = (own_BK * self.num_positions + position_BK).flatten()
        read_BKT = (first_BK[..., None] + row_BKT[..., :num_keys]) * self.num_positions + keys_T
        blocked_B11C = self.blocked_SC[where][:, None, None]
        cross_bias = self.decoder.cross_bias(position_BK, blocked_B11C.shape[-1])
        cross_mask = blocked_B11C if cross_bias is None else blocked_B11C + cross_bias
        future_N11T = (keys_T > position_N1)[:, None, None]
        bias = self.decoder.self_bias(position_N1, keys_T[None])
        if bias is None:
            bias = torch.zeros(future_N11T.shape, dtype=self.dtype, device=self.device)
        self_mask = bias.masked_fill(future_N11T, float("-inf"))
        h_ND = self.decoder.embed(input_BK.flatten(), position_N1[:, 0])
        for index, layer in enumerate(self.layers()):
            own = self.decoder.layer_bias(index, position_N1, keys_T[None])
            kv_F2I = self.self_kv_LSKT2I[index].flatten(0, 2)
            q_NHE, k_NHE, v_NHE = layer.self_qkv(h_ND)
            kv_F2I.index_copy_(0, write_N, torch.cat([k_NHE.flatten(1), v_NHE.flatten(1)], dim=-1))
            past_NT2I = kv_F2I.index_select(0, read_BKT.flatten()).view(-1, num_keys, kv_F2I.shape[-1])
            k_NTHE, v_NTHE = (layer.heads(part) for part in past_NT2I.chunk(2, dim=-1))
            mask = self_mask if own is None else self_mask + own
            h_ND = layer.after_self(h_ND, attend(q_NHE[:, None], k_NTHE, v_NTHE, mask, layer.scale)[:, 0])
            k_BCHE, v_BCHE = (layer.heads(part) for part in self.cross_kv_LSC2I[index][where].chunk(2, dim=-1))
            q_NHE = layer.cross_q(h_ND)
            q_BKHE = q_NHE.view(num_samples, num_beams, *q_NHE.shape[1:])
            h_ND = layer.after_cross(h_ND, attend(q_BKHE, k_BCHE, v_BCHE, cross_mask, layer.scale).flatten(0, 1))
        logits_NV = self.decoder.exit_logits(self.decoder.config.num_layers, h_ND)
        return logits_NV.view(num_samples, num_beams, -1)


def sample_bytes(model: MultiExitModel, num_beams: int, num_positions: int) -> int:
    """Return the bytes that one sample takes of the caches of `BeamRunner` and of `Beams`."""
    config, item = model.config.decoder, model.decoder.embedding.weight.element_size()
    features = config.num_layers * 2 * config.d_inner * (num_beams * num_positions + model.max_context)
    beams = num_beams * (num_positions * (3 * 8 + 2 * 4) + 2 * 4 + 8) + 1
    return item * (features + model.max_context) + beams
