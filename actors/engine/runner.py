"""Batches -> hidden states: encode newcomers, run one decoder segment.

Shape suffixes: B sequences, N packed rows, R attention rows, Q most rows a sequence brings (see visit.py), T output
positions, C encoder positions, H heads, E head width, I = H * E, D width.
"""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from actors.engine.batch import Batch, EncodeBatch
from actors.engine.cross_source import CrossSource
from actors.engine.encoding import encode_requests
from actors.engine.exit_gate import ExitStates
from actors.engine.kv_cache import SlotCache
from actors.engine.visit import Visit, VisitPart, index_tensor, plan_visit
from actors.model.blocks import DecoderLayer, additive, attend, attend_shared
from actors.model.linear import filled_rows, is_packed
from actors.model.model import MultiExitModel
from conf.engine import KvPolicy
from conf.resolve import Resolved

CONTEXT_MULTIPLE = 8  # encoder positions are read in multiples of it, which products are quicker at


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


class Runner:
    """Holds the model and the slot caches; knows nothing of queues."""

    def __init__(self, model: MultiExitModel, resolved: Resolved, num_slots: int, *, keeps_tokens: bool) -> None:
        settings, exit_layers, limit = resolved.settings, resolved.exit_layers, resolved.max_new_tokens
        self.model, self.decoder = model, model.decoder
        self.layers = [layer for layer in model.decoder.layers if isinstance(layer, DecoderLayer)]
        self.exit_layers, self.kv = exit_layers, settings.kv
        self.checks_drafts = settings.lossless  # full depth says the tokens of all pending positions
        self._fill = filled_rows if is_packed(self.layers[0].qkv) else int
        self.segments = tuple(itertools.pairwise((0, *exit_layers)))
        self.cross = CrossSource(
            settings.tuning.cross, model.config.decoder, exit_layers=exit_layers, max_new_tokens=limit
        )
        self.max_positions = resolved.max_prefix + limit
        self.keeps_tokens = keeps_tokens  # somebody reads cache.token_ST
        embedding = model.decoder.embedding.weight
        self.device, self.dtype = embedding.device, embedding.dtype
        self.cache = SlotCache.allocate(
            model.config.decoder, num_slots, self.max_positions, model.max_context,
            num_kv_layers=self.cross.num_kv_layers, like=embedding.detach(),
        )  # fmt: skip
        self._self_mask_hTT = self._causal_mask()
        self.cross_rows_built = 0  # (sequence, layer) pairs whose cross-attention K/V were projected

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

    @torch.inference_mode()
    def encode(self, batch: EncodeBatch) -> None:
        """Write the encoder states of the batch into its slots."""
        states_BCD, mask_BC = encode_requests(self.model, [sequence.request for sequence in batch.sequences])
        slots = index_tensor([sequence.slot for sequence in batch.sequences], self.device)
        width, most = states_BCD.shape[1], self.cache.context_SCD.shape[1]
        self.cache.context_SCD[slots, :width] = states_BCD
        self.cache.context_bias_SC[slots] = float("-inf")
        self.cache.context_bias_SC[slots, :width] = additive(mask_BC, self.dtype)
        for sequence in batch.sequences:
            sequence.num_context = min(most, -(-width // CONTEXT_MULTIPLE) * CONTEXT_MULTIPLE)

    def _plan(self, batch: Batch, *, current_only: bool = False) -> Visit:
        return plan_visit(
            batch.sequences, batch.segment,
            max_positions=self.max_positions, device=self.device, fill=self._fill, current_only=current_only,
        )  # fmt: skip

    @torch.inference_mode()
    def run(self, batch: Batch) -> ExitStates:
        """Run the segment on all pending positions; return the current tokens' hidden states.

        Where full depth checks drafts, its last segment returns those of all pending positions.
        """
        first_layer, end_layer = self.segments[batch.segment]
        last_segment = batch.segment == len(self.segments) - 1
        visit = self._plan(batch)
        hidden_SD = self.cache.hidden_STD.flatten(0, 1)
        if batch.segment == 0:
            token_N = self._inputs(batch, visit)
            h_ND = self.decoder.embed(token_N, visit.position_N)
        else:
            h_ND = hidden_SD.index_select(0, visit.flat_N)
        absorbed = self.cross.absorbed(batch)
        if not absorbed:
            self._build_cross(batch, first_layer, end_layer)
        sources = self._sources(visit, absorbed)
        before_ND = h_ND
        for index in range(first_layer, end_layer):
            before_ND = h_ND
            if last_segment and index == end_layer - 1 and visit.last_N is not None and not self.checks_drafts:
                # Nothing will ever read what earlier positions put out here: they leave their K and V, no more.
                self._write_kv(index, visit, self.layers[index].self_kv_fused(h_ND))
                h_ND, visit = h_ND[visit.last_N], self._plan(batch, current_only=True)
                sources, q_NHE = self._sources(visit, absorbed), self.layers[index].self_q(h_ND)
                out_ND = self._attend_and_mix(index, h_ND, q_NHE, visit, sources)
                return ExitStates(out_ND[: visit.num_rows], h_ND[: visit.num_rows])
            h_ND = self._layer(index, h_ND, visit, sources)
        if not last_segment:
            hidden_SD.index_copy_(0, visit.flat_N[: visit.num_rows], h_ND[: visit.num_rows])
        if visit.last_N is None or (last_segment and self.checks_drafts):
            return ExitStates(h_ND[: visit.num_rows], before_ND[: visit.num_rows])
        last_B = visit.last_N[: visit.num_sequences]
        return ExitStates(h_ND[last_B], before_ND[last_B])

    def _inputs(self, batch: Batch, visit: Visit) -> Tensor:
        """Return inputs [N] of a visit to the first segment: one each, but for sequences that begin with a prefix."""
        if visit.last_N is None:
            token_ids = [sequence.input_id for sequence in batch.sequences]
        else:
            given = (sequence.pending_inputs for sequence in batch.sequences)
            token_ids = list(itertools.chain.from_iterable(given))
        token_N = index_tensor(token_ids + token_ids[-1:] * (len(visit.flat_N) - visit.num_rows), self.device)
        if self.keeps_tokens:
            real = slice(visit.num_rows)
            self.cache.token_ST.view(-1).index_copy_(0, visit.flat_N[real], token_N[real])
        return token_N

    def _sources(self, visit: Visit, absorbed: bool) -> list[_Source]:
        """Return what every part of the visit may attend to, the same for all layers."""
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

    def _write_kv(self, index: int, visit: Visit, kv_N2I: Tensor) -> None:
        real = slice(visit.num_rows)
        self.cache.self_kv_LST2I[index].flatten(0, 1).index_copy_(0, visit.flat_N[real], kv_N2I[real])

    def _layer(self, index: int, h_ND: Tensor, visit: Visit, sources: list[_Source]) -> Tensor:
        layer = self.layers[index]
        qkv_N3I = layer.self_qkv_fused(h_ND)
        d_inner = qkv_N3I.shape[-1] // 3
        self._write_kv(index, visit, qkv_N3I[:, d_inner:])
        return self._attend_and_mix(index, h_ND, layer.heads(qkv_N3I[:, :d_inner]), visit, sources)

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
        if self.decoder.absolute_bias is not None:
            keys_1T = torch.arange(part.num_keys, device=self.device)[None]
            mask = mask + self.decoder.absolute_bias.layer_scores(index, part.query_position_RQ, keys_1T)
        return attend(part.pad(q_NHE), k_RTHE, v_RTHE, mask, layer.scale)

    def _cross_attention(self, index: int, q_NHE: Tensor, source: _Source) -> Tensor:
        layer, num_context = self.layers[index], source.cross_RhqC.shape[-1]
        kv_SC2I = self.cache.cross_kv_LSC2I[index - self.cross.first_kv_layer, :, :num_context]
        k_RCHE, v_RCHE = (layer.heads(half) for half in source.part.read(kv_SC2I).chunk(2, dim=-1))
        return attend(source.part.pad(q_NHE), k_RCHE, v_RCHE, source.cross_RhqC, layer.scale)

    def _build_cross(self, batch: Batch, first_layer: int, end_layer: int) -> None:
        """Project cross-attention K/V for the sequences that have none yet for this segment."""
        newcomers = [sequence for sequence in batch.sequences if not sequence.cross_built >> batch.segment & 1]
        if not newcomers:
            return
        slots = index_tensor([sequence.slot for sequence in newcomers], self.device)
        width = max(sequence.num_context for sequence in newcomers)
        context_BCD = self.cache.context_SCD[slots, :width]
        for index in range(first_layer, end_layer):
            self.cache.cross_kv_LSC2I[index - self.cross.first_kv_layer, :, :width].index_copy_(
                0, slots, self.layers[index].cross_kv_proj(context_BCD)
            )
        for sequence in newcomers:
            sequence.cross_built |= 1 << batch.segment
        self.cross_rows_built += len(newcomers) * (end_layer - first_layer)

    @torch.inference_mode()
    def fill_skipped(self, batch: Batch, h_BD: Tensor, leaves: list[bool]) -> None:
        """Give the layers that leaving rows skipped something to attend to, where it is not computed just in time.

        project: each skipped layer projects the exit's hidden state (CALM's state propagation, arXiv 2207.07061).
        copy: K and V of the last layer that ran, repeated.
        """
        if batch.segment == len(self.segments) - 1 or not any(leaves):
            return
        leaving = [sequence for sequence, leave in zip(batch.sequences, leaves, strict=True) if leave]
        chosen = index_tensor([row for row, leave in enumerate(leaves) if leave], self.device)
        flat_N = index_tensor([s.slot * self.max_positions + s.position for s in leaving], self.device)
        exit_layer = self.exit_layers[batch.segment]
        kv_LN2I = self.cache.self_kv_LST2I.flatten(1, 2)
        for index in range(exit_layer, self.exit_layers[-1]):
            if self.kv is KvPolicy.PROJECT:
                kv_N2I = self.layers[index].self_kv_fused(h_BD[chosen])
            else:
                kv_N2I = kv_LN2I[exit_layer - 1, flat_N]
            kv_LN2I[index].index_copy_(0, flat_N, kv_N2I)
        for sequence in leaving:
            filled = sequence.position + 1
            sequence.computed[batch.segment + 1 :] = [filled] * (len(sequence.computed) - batch.segment - 1)
