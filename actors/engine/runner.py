"""Batches -> hidden states: encode newcomers, run one decoder segment.

Shape suffixes: B sequences, N packed rows, R attention rows, Q most rows a sequence brings (see visit.py), T output
positions, C encoder positions, H heads, E head width, I = H * E, D width.
"""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from actors.engine.cross_source import CrossSource
from actors.engine.encoding import encode_requests
from actors.engine.exit_judge import ExitStates
from actors.engine.kv_cache import SlotCache
from actors.engine.scheduler import Batch, EncodeBatch
from actors.engine.visit import Visit, plan_visit
from actors.model.blocks import DecoderLayer, attend
from actors.model.model import MultiExitModel
from conf.schema import CrossAttention, KvPolicy


@dataclass(frozen=True, slots=True)
class _Masks:
    """Additive masks of one visit, in the model's dtype."""

    self_RhQT: Tensor  # h: 1, or H with a relative position bias
    cross_RhqC: Tensor  # h and q: 1, or H and Q with a position bias
    blocked_R11C: Tensor  # the part of it that says what is no encoder state


def _by_row(mask_RhqC: Tensor) -> Tensor:
    """The same mask where every head of every position is a row: [R, 1, 1 or Q * H, C]."""
    heads, positions = mask_RhqC.shape[1:3]
    return mask_RhqC if heads == positions == 1 else mask_RhqC.transpose(1, 2).flatten(1, 2)[:, None]


class Runner:
    """Holds the model and the slot caches; knows nothing of queues."""

    def __init__(
        self,
        model: MultiExitModel,
        *,
        exit_layers: tuple[int, ...],
        kv: KvPolicy,
        cross: CrossAttention,
        num_slots: int,
        max_new_tokens: int,
        max_prefix: int = 0,
        checks_drafts: bool = False,
        keeps_tokens: bool = False,
    ) -> None:
        self.model, self.decoder = model, model.decoder
        self.exit_layers, self.kv = exit_layers, kv
        self.checks_drafts = checks_drafts  # full depth says the tokens of all pending positions
        self.segments = tuple(itertools.pairwise((0, *exit_layers)))
        self.cross = CrossSource(cross, model.config.decoder, exit_layers=exit_layers, max_new_tokens=max_new_tokens)
        self.max_positions = max_prefix + max_new_tokens
        self.keeps_tokens = keeps_tokens  # somebody reads cache.token_ST
        embedding = model.decoder.embedding.weight
        self.device, self.dtype = embedding.device, embedding.dtype
        self.cache = SlotCache.allocate(
            model.config.decoder, num_slots, self.max_positions, model.max_context,
            num_kv_layers=self.cross.num_kv_layers, like=embedding.detach(),
        )  # fmt: skip
        self.cross_rows_built = 0  # (sequence, layer) pairs whose cross-attention K/V were projected

    def layer(self, index: int) -> DecoderLayer:
        layer = self.decoder.layers[index]
        assert isinstance(layer, DecoderLayer)
        return layer

    def _index(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64).to(self.device, non_blocking=True)

    @torch.inference_mode()
    def encode(self, batch: EncodeBatch) -> None:
        """Write the encoder states of the batch into its slots."""
        states_BCD, mask_BC = encode_requests(self.model, [sequence.request for sequence in batch.sequences])
        slots = self._index([sequence.slot for sequence in batch.sequences if sequence.slot is not None])
        width = states_BCD.shape[1]
        self.cache.context_SCD[slots, :width] = states_BCD
        self.cache.context_mask_SC[slots] = False
        self.cache.context_mask_SC[slots, :width] = mask_BC

    def _plan(self, batch: Batch, *, current_only: bool = False) -> Visit:
        return plan_visit(
            batch.sequences, batch.segment,
            max_positions=self.max_positions, device=self.device, current_only=current_only,
        )  # fmt: skip

    @torch.inference_mode()
    def run(self, batch: Batch) -> ExitStates:
        """Run the segment on all pending positions; return the current tokens' hidden states.

        Where full depth checks drafts, its last segment returns those of all pending positions.
        """
        first_layer, end_layer = self.segments[batch.segment]
        last_segment = batch.segment == len(self.segments) - 1
        visit = self._plan(batch)
        num_places = visit.num_places
        hidden_ND = self.cache.hidden_STD.flatten(0, 1)
        if batch.segment == 0:
            token_N = self._inputs(batch, visit)
            h_ND = self.decoder.embed(token_N, visit.position_N)
        else:
            h_ND = hidden_ND.index_select(0, visit.flat_N)
        context_RCD = self._context(batch, visit, first_layer, end_layer)
        masks = self._masks(visit)
        before_ND = h_ND
        for index in range(first_layer, end_layer):
            before_ND = h_ND
            if last_segment and index == end_layer - 1 and visit.last_N is not None and not self.checks_drafts:
                # Nothing will ever read what earlier positions put out here: they leave their K and V, no more.
                self._write_kv(index, visit, torch.cat(self._flat_kv(index, h_ND), dim=-1))
                h_ND, visit = h_ND[visit.last_N], self._plan(batch, current_only=True)
                masks = _Masks(self._self_mask(visit), self._cross_mask(visit, masks.blocked_R11C), masks.blocked_R11C)
                q_NHE = self.layer(index).self_q(h_ND)
                return ExitStates(self._attend_and_mix(index, h_ND, q_NHE, visit, masks, context_RCD), h_ND, num_places)
            h_ND = self._layer(index, h_ND, visit, masks, context_RCD)
        if not last_segment:
            hidden_ND.index_copy_(0, visit.flat_N, h_ND)
        if visit.last_N is None or (last_segment and self.checks_drafts):
            return ExitStates(h_ND, before_ND, num_places)
        return ExitStates(h_ND[visit.last_N], before_ND[visit.last_N], num_places)

    def _inputs(self, batch: Batch, visit: Visit) -> Tensor:
        """Decoder inputs [N] of a visit to the first segment: one each, but for sequences that begin with a prefix."""
        if visit.last_N is None:
            token_N = self._index([sequence.input_id for sequence in batch.sequences])
        else:
            given = (sequence.pending_inputs for sequence in batch.sequences)
            token_N = self._index(list(itertools.chain.from_iterable(given)))
        if self.keeps_tokens:
            self.cache.token_ST.view(-1).index_copy_(0, visit.flat_N, token_N)
        return token_N

    def _context(self, batch: Batch, visit: Visit, first_layer: int, end_layer: int) -> Tensor | None:
        """Encoder states of the visit's slots where cross-attention reads them; else see that its K/V are there."""
        if self.cross.absorbed(batch):
            return visit.read(self.cache.context_SCD, self.cache.context_SCD.shape[1])
        self._build_cross(batch, first_layer, end_layer)
        return None

    def _masks(self, visit: Visit) -> _Masks:
        visible_RC = visit.read(self.cache.context_mask_SC, self.cache.context_mask_SC.shape[1])
        blocked_RC = torch.zeros(visible_RC.shape, dtype=self.dtype, device=self.device)
        blocked_RC.masked_fill_(~visible_RC, float("-inf"))
        blocked_R11C = blocked_RC[:, None, None, :]
        return _Masks(self._self_mask(visit), self._cross_mask(visit, blocked_R11C), blocked_R11C)

    def _cross_mask(self, visit: Visit, blocked_R11C: Tensor) -> Tensor:
        """[R, 1 or H, 1 or Q, C]: what is no encoder state, plus the position bias where the model has one."""
        bias = self.decoder.cross_bias(visit.query_position_RQ, blocked_R11C.shape[-1])
        return blocked_R11C if bias is None else blocked_R11C + bias

    def _self_mask(self, visit: Visit) -> Tensor:
        """[R, 1 or H, Q, T]: causal by position, plus the relative bias where the model has one."""
        keys_T = torch.arange(visit.num_keys, device=self.device)
        hidden = keys_T[None, None, None, :] > visit.query_position_RQ[:, None, :, None]
        bias = self.decoder.self_bias(visit.query_position_RQ, keys_T[None])
        if bias is None:
            bias = torch.zeros(hidden.shape, dtype=self.dtype, device=self.device)
        return bias.masked_fill_(hidden, float("-inf"))

    def _flat_kv(self, index: int, h_ND: Tensor) -> tuple[Tensor, Tensor]:
        k_NHE, v_NHE = self.layer(index).self_kv(h_ND)
        return k_NHE.flatten(1), v_NHE.flatten(1)

    def _write_kv(self, index: int, visit: Visit, kv_N2I: Tensor) -> None:
        self.cache.self_kv_LST2I[index].flatten(0, 1).index_copy_(0, visit.flat_N, kv_N2I)

    def _layer(self, index: int, h_ND: Tensor, visit: Visit, masks: _Masks, context_RCD: Tensor | None) -> Tensor:
        layer = self.layer(index)
        qkv_N3I = layer.self_qkv_fused(h_ND)
        d_inner = qkv_N3I.shape[-1] // 3
        self._write_kv(index, visit, qkv_N3I[:, d_inner:])
        q_NHE = layer.heads(qkv_N3I[:, :d_inner])
        return self._attend_and_mix(index, h_ND, q_NHE, visit, masks, context_RCD)

    def _attend_and_mix(
        self, index: int, h_ND: Tensor, q_NHE: Tensor, visit: Visit, masks: _Masks, context_RCD: Tensor | None
    ) -> Tensor:
        """The layer from its self-attention on; K and V of the packed rows are in the cache."""
        layer = self.layer(index)
        kv_RT2I = visit.read(self.cache.self_kv_LST2I[index], visit.num_keys)
        k_RTHE, v_RTHE = (layer.heads(part) for part in kv_RT2I.chunk(2, dim=-1))
        self_mask = masks.self_RhQT
        if self.decoder.absolute_bias is not None:
            keys_1T = torch.arange(visit.num_keys, device=self.device)[None]
            self_mask = self_mask + self.decoder.absolute_bias.layer_scores(index, visit.query_position_RQ, keys_1T)
        h_ND = layer.after_self(h_ND, visit.pack(attend(visit.pad(q_NHE), k_RTHE, v_RTHE, self_mask, layer.scale)))
        q_NHE = layer.cross_q(h_ND)
        if context_RCD is not None:
            q_RQHD = visit.pad(layer.absorb_key(q_NHE))
            read_RXD = torch.nn.functional.scaled_dot_product_attention(  # every head of every position is a row here
                q_RQHD.flatten(1, 2)[:, None], context_RCD[:, None], context_RCD[:, None],
                attn_mask=_by_row(masks.cross_RhqC), scale=layer.scale,
            )[:, 0]  # fmt: skip
            return layer.after_cross(h_ND, layer.absorb_value(visit.pack(read_RXD.view(q_RQHD.shape))))
        cross_kv_RC2I = visit.read(
            self.cache.cross_kv_LSC2I[index - self.cross.first_kv_layer], self.cache.context_SCD.shape[1]
        )
        k_RCHE, v_RCHE = (layer.heads(part) for part in cross_kv_RC2I.chunk(2, dim=-1))
        context_RQI = attend(visit.pad(q_NHE), k_RCHE, v_RCHE, masks.cross_RhqC, layer.scale)
        return layer.after_cross(h_ND, visit.pack(context_RQI))

    def _build_cross(self, batch: Batch, first_layer: int, end_layer: int) -> None:
        """Project cross-attention K/V for the sequences that have none yet for this segment."""
        newcomers = [sequence for sequence in batch.sequences if not sequence.cross_built >> batch.segment & 1]
        if not newcomers:
            return
        slots = self._index([sequence.slot for sequence in newcomers if sequence.slot is not None])
        context_BCD = self.cache.context_SCD[slots]
        for index in range(first_layer, end_layer):
            self.cache.cross_kv_LSC2I[index - self.cross.first_kv_layer].index_copy_(
                0, slots, self.layer(index).cross_kv_proj(context_BCD)
            )
        for sequence in newcomers:
            sequence.cross_built |= 1 << batch.segment
        self.cross_rows_built += len(newcomers) * (end_layer - first_layer)

    @torch.inference_mode()
    def fill_skipped(self, batch: Batch, h_BD: Tensor, leaves: list[bool]) -> None:
        """`project` and `copy`: give the layers that leaving rows skipped something to attend to.

        project: each skipped layer projects the exit's hidden state (CALM's state propagation, arXiv 2207.07061).
        copy: K and V of the last layer that ran, repeated.
        """
        leaving = [sequence for sequence, leave in zip(batch.sequences, leaves, strict=True) if leave]
        chosen = self._index([row for row, leave in enumerate(leaves) if leave])
        flat = self._index([(s.slot or 0) * self.max_positions + s.position for s in leaving])
        exit_layer = self.exit_layers[batch.segment]
        kv_LN2I = self.cache.self_kv_LST2I.flatten(1, 2)
        for index in range(exit_layer, self.exit_layers[-1]):
            if self.kv is KvPolicy.PROJECT:
                kv_N2I = torch.cat(self._flat_kv(index, h_BD[chosen]), dim=-1)
            else:
                kv_N2I = kv_LN2I[exit_layer - 1, flat]
            kv_LN2I[index].index_copy_(0, flat, kv_N2I)
        for sequence in leaving:
            filled = sequence.position + 1
            sequence.computed[batch.segment + 1 :] = [filled] * (len(sequence.computed) - batch.segment - 1)
