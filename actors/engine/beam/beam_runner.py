"""Beams -> logits: all layers for the current input of every beam of a batch of samples.

The K beams of a sample share its encoder states and its cross-attention K/V, which are projected once and read once
per layer and step: beams are queries of the same attention row. Self-attention K/V stay where they were written; which
row holds a beam's past is in `Beams.row_BKT`.

Shape suffixes: L layers, S slots (samples), B samples of a step, K beams, N = B * K rows, T output positions, C encoder
positions, I inner width of a layer's keys, D width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from actors.engine.beam.beam_layers import BeamLayers, BeamStep, MergedBeamLayers, SeparateBeamLayers
from actors.engine.encoding import encode_requests
from actors.engine.kv_cache import first_context, longer, wider_context
from actors.engine.request import Request
from actors.engine.visit import index_tensor
from actors.model.blocks import additive
from actors.model.model import MultiExitModel


class BeamRunner:
    """Holds the model and the caches of `num_slots` samples with `num_beams` beams each."""

    def __init__(self, model: MultiExitModel, *, num_slots: int, num_beams: int, num_positions: int) -> None:
        config, weight = model.config.decoder, model.decoder.embedding.weight.detach()
        self.model, self.decoder = model, model.decoder
        self.num_beams, self.num_positions = num_beams, num_positions
        self.device, self.dtype = weight.device, weight.dtype
        self.layers: BeamLayers = (
            SeparateBeamLayers(model.decoder) if config.merged is None else MergedBeamLayers(model.decoder)
        )
        layers, width = config.num_layers, config.kv_width
        self.self_kv_LSKT2I = weight.new_zeros(layers, num_slots, num_beams, num_positions, width)
        self.cross_kv_LSC2I = weight.new_zeros(layers, num_slots, first_context(model), width)
        self.blocked_SC = weight.new_full((num_slots, first_context(model)), float("-inf"))

    @property
    def capacity_bytes(self) -> int:
        return self.self_kv_LSKT2I.nbytes + self.cross_kv_LSC2I.nbytes + self.blocked_SC.nbytes

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
        for index, kv_SC2I in enumerate(self.cross_kv_LSC2I):
            kv_SC2I[slots_B, :width] = self.layers.context_kv(index, states_BCD)

    @torch.inference_mode()
    def step(self, slots: list[int], input_BK: Tensor, position_B: Tensor, row_BKT: Tensor, num_keys: int) -> Tensor:
        """Return logits [B, K, V] after the inputs at the positions; `num_keys` is the largest position + 1."""
        num_samples, num_beams = input_BK.shape
        slots_B = index_tensor(slots, self.device)
        neighbours = slots[-1] - slots[0] + 1 == num_samples  # in order: then their caches are read in place
        where = slice(slots[0], slots[-1] + 1) if neighbours else slots_B
        position_BK = position_B[:, None].expand(-1, num_beams)
        first_BK = slots_B[:, None] * num_beams
        own_BK = first_BK + torch.arange(num_beams, device=self.device)
        keys_T = torch.arange(num_keys, device=self.device)
        read_BKT = (first_BK[..., None] + row_BKT[..., :num_keys]) * self.num_positions + keys_T
        step = BeamStep(
            position_BK=position_BK,
            write_N=(own_BK * self.num_positions + position_BK).flatten(),
            read_X=read_BKT.flatten(),
            blocked_BC=self.blocked_SC[where],
            num_keys=num_keys,
        )
        sources = self.layers.sources(step)
        h_ND = self.decoder.embed(input_BK.flatten(), position_BK.flatten())
        for index, kv_SKT2I in enumerate(self.self_kv_LSKT2I):
            context_BC2I = self.cross_kv_LSC2I[index][where]
            h_ND = self.layers.run(index, h_ND, kv_SKT2I.flatten(0, 2), context_BC2I, step, sources)
        logits_NV = self.decoder.exit_logits(self.decoder.config.num_layers, h_ND)
        return logits_NV.view(num_samples, num_beams, -1)


def sample_bytes(model: MultiExitModel, num_beams: int, num_positions: int) -> int:
    """Return the bytes that one sample takes of the caches of `BeamRunner` and of `Beams`."""
    config, item = model.config.decoder, model.decoder.embedding.weight.element_size()
    features = config.num_layers * config.kv_width * (num_beams * num_positions + model.max_context)
    beams = num_beams * (num_positions * (3 * 8 + 2 * 4) + 2 * 4 + 8) + 1
    return item * (features + model.max_context) + beams
