"""Batches -> tensors: encode newcomers, run one decoder segment, score its exit.

A visit is ragged: sequence s brings its q_s pending positions as packed rows, and only the last one, the current
token, is scored. Attention pads the rows of one visit to [B, Q]; everything else runs packed.

Shape suffixes: B sequences, N packed rows, Q most rows a sequence brings, T output positions, C encoder positions,
H heads, E head width, D width, V vocabulary.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from actors.engine.exit_policy import score
from actors.engine.kv_cache import SlotCache
from actors.engine.scheduler import Batch, Decision, EncodeBatch
from actors.model.blocks import DecoderLayer, attend
from actors.model.model import MultiExitModel
from conf.schema import Gate, KvPolicy


@dataclass(slots=True)
class Rows:
    """Index tensors of one visit, all on the device."""

    slot_B: Tensor
    slot_N: Tensor
    position_N: Tensor
    last_B: Tensor  # packed row of every sequence's current token
    padded_BQ: Tensor | None  # packed row at every padded place; None when every sequence brings one row
    place_N: Tensor | None  # flat padded place of every packed row
    query_position_BQ: Tensor
    num_keys: int


class Runner:
    """Holds the model and the slot caches; knows nothing of queues."""

    def __init__(
        self,
        model: MultiExitModel,
        *,
        exit_layers: tuple[int, ...],
        kv: KvPolicy,
        gate: Gate,
        num_slots: int,
        max_new_tokens: int,
        min_new_tokens: int,
    ) -> None:
        self.model, self.decoder = model, model.decoder
        self.exit_layers, self.kv, self.gate = exit_layers, kv, gate
        self.min_new_tokens = min_new_tokens
        self.segments = tuple(itertools.pairwise((0, *exit_layers)))
        embedding = model.decoder.embedding.weight
        self.device, self.dtype = embedding.device, embedding.dtype
        self.cache = SlotCache.allocate(
            model.config.decoder, num_slots, max_new_tokens, model.max_context, like=embedding.detach()
        )
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
        requests = [sequence.request for sequence in batch.sequences]
        longest = max(len(request.prompt_ids) for request in requests)
        ids = np.full((len(requests), longest), self.model.config.pad_id, dtype=np.int64)
        mask = np.zeros((len(requests), longest), dtype=np.bool_)
        for row, request in enumerate(requests):
            ids[row, : len(request.prompt_ids)] = request.prompt_ids
            mask[row, : len(request.prompt_ids)] = True
        pixels = np.stack([request.pixels_HWC for request in requests])
        states_BCD, mask_BC = self.model.encode(
            torch.from_numpy(pixels).to(self.device),
            torch.from_numpy(ids).to(self.device),
            torch.from_numpy(mask).to(self.device),
        )
        slots = self._index([sequence.slot for sequence in batch.sequences if sequence.slot is not None])
        width = states_BCD.shape[1]
        self.cache.context_SCD[slots, :width] = states_BCD
        self.cache.context_mask_SC[slots] = False
        self.cache.context_mask_SC[slots, :width] = mask_BC

    @torch.inference_mode()
    def run(self, batch: Batch) -> tuple[Rows, Tensor]:
        """Run the segment on all pending positions; return the index tensors and the current tokens' h [B, D]."""
        first_layer, end_layer = self.segments[batch.segment]
        rows = self._rows(batch)
        self._build_cross(batch, first_layer, end_layer)
        if batch.segment == 0:
            token_N = self._index([sequence.input_id for sequence in batch.sequences])  # one row each by construction
            h_ND = self.decoder.embed(token_N, rows.position_N)
        else:
            h_ND = self.cache.hidden_STD[rows.slot_N, rows.position_N]
        context_mask_BC = self.cache.context_mask_SC[rows.slot_B]
        cross_mask = context_mask_BC[:, None, None, :]
        self_mask = self._self_mask(rows)
        for index in range(first_layer, end_layer):
            h_ND = self._layer(index, h_ND, rows, self_mask, cross_mask)
        if batch.segment < len(self.segments) - 1:
            self.cache.hidden_STD[rows.slot_N, rows.position_N] = h_ND
        return rows, h_ND[rows.last_B]

    def _rows(self, batch: Batch) -> Rows:
        slots: list[int] = []
        positions: list[int] = []
        lengths: list[int] = []
        slot_of: list[int] = []
        for sequence in batch.sequences:
            assert sequence.slot is not None
            pending = sequence.pending(batch.segment)
            slot_of.append(sequence.slot)
            lengths.append(len(pending))
            slots += [sequence.slot] * len(pending)
            positions += pending
        most = max(lengths)
        ends = list(itertools.accumulate(lengths))
        num_keys = max(sequence.position for sequence in batch.sequences) + 1
        position_N = self._index(positions)
        last_B = self._index([end - 1 for end in ends])
        if most == 1:
            return Rows(self._index(slot_of), self._index(slots), position_N, last_B, None, None,
                        position_N[:, None], num_keys)  # fmt: skip
        padded = np.zeros((len(lengths), most), dtype=np.int64)
        places = np.empty(len(positions), dtype=np.int64)
        for row, (end, length) in enumerate(zip(ends, lengths, strict=True)):
            padded[row, :length] = np.arange(end - length, end)
            padded[row, length:] = end - 1  # padding repeats the current token, so that no row attends to nothing
            places[end - length : end] = row * most + np.arange(length)
        padded_BQ = torch.from_numpy(padded).to(self.device)
        return Rows(self._index(slot_of), self._index(slots), position_N, last_B, padded_BQ,
                    torch.from_numpy(places).to(self.device), position_N[padded_BQ], num_keys)  # fmt: skip

    def _self_mask(self, rows: Rows) -> Tensor:
        """[B, 1 or H, Q, T]: causal by position, plus the relative bias where the model has one."""
        keys_T = torch.arange(rows.num_keys, device=self.device)
        visible = keys_T[None, None, None, :] <= rows.query_position_BQ[:, None, :, None]
        bias = self.decoder.self_bias(rows.query_position_BQ, keys_T.expand(len(rows.slot_B), -1))
        return visible if bias is None else bias.masked_fill(~visible, float("-inf"))

    def _layer(self, index: int, h_ND: Tensor, rows: Rows, self_mask: Tensor, cross_mask: Tensor) -> Tensor:
        layer, cache = self.layer(index), self.cache
        q_NHE, k_NHE, v_NHE = layer.self_qkv(h_ND)
        self_k_SHTE, self_v_SHTE = cache.self_k_LSHTE[index], cache.self_v_LSHTE[index]
        self_k_SHTE[rows.slot_N, :, rows.position_N] = k_NHE
        self_v_SHTE[rows.slot_N, :, rows.position_N] = v_NHE
        k_BHTE = self_k_SHTE[:, :, : rows.num_keys][rows.slot_B]
        v_BHTE = self_v_SHTE[:, :, : rows.num_keys][rows.slot_B]
        h_ND = layer.after_self(h_ND, self._attend(q_NHE, k_BHTE, v_BHTE, self_mask, rows, layer.scale))
        cross_k_BHCE, cross_v_BHCE = cache.cross_k_LSHCE[index][rows.slot_B], cache.cross_v_LSHCE[index][rows.slot_B]
        context = self._attend(layer.cross_q(h_ND), cross_k_BHCE, cross_v_BHCE, cross_mask, rows, layer.scale)
        return layer.after_cross(h_ND, context)

    @staticmethod
    def _attend(q_NHE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor, mask: Tensor, rows: Rows, scale: float) -> Tensor:
        """Packed queries against their sequences' keys -> packed context [N, I]."""
        q_BQHE = q_NHE[:, None] if rows.padded_BQ is None else q_NHE[rows.padded_BQ]
        context_BQI = attend(q_BQHE, k_BHTE.transpose(1, 2), v_BHTE.transpose(1, 2), mask, scale)
        return context_BQI[:, 0] if rows.place_N is None else context_BQI.flatten(0, 1)[rows.place_N]

    def _build_cross(self, batch: Batch, first_layer: int, end_layer: int) -> None:
        """Project cross-attention K/V for the sequences that visit this segment for the first time."""
        newcomers = [sequence for sequence in batch.sequences if sequence.cross_segments <= batch.segment]
        if not newcomers:
            return
        slots = self._index([sequence.slot for sequence in newcomers if sequence.slot is not None])
        context_BCD = self.cache.context_SCD[slots]
        for index in range(first_layer, end_layer):
            k_BCHE, v_BCHE = self.layer(index).cross_kv(context_BCD)
            self.cache.cross_k_LSHCE[index, slots] = k_BCHE.transpose(1, 2)
            self.cache.cross_v_LSHCE[index, slots] = v_BCHE.transpose(1, 2)
        for sequence in newcomers:
            sequence.cross_segments = batch.segment + 1
        self.cross_rows_built += len(newcomers) * (end_layer - first_layer)

    @torch.inference_mode()
    def decide(self, batch: Batch, h_BD: Tensor) -> Decision:
        """Score the exit of the batch's segment: the token it would emit and how sure it is."""
        logits_BV = self.decoder.exit_logits(self.exit_layers[batch.segment], h_BD)
        if self.min_new_tokens:
            young = [row for row, sequence in enumerate(batch.sequences) if sequence.position < self.min_new_tokens]
            logits_BV[self._index(young), self.model.config.eos_id] = float("-inf")
        token_B, confidence_B = score(logits_BV, self.gate)
        return Decision(token_B.tolist(), confidence_B.tolist())  # sync: tokens and confidences to host

    @torch.inference_mode()
    def fill_skipped(self, batch: Batch, rows: Rows, h_BD: Tensor, leaves: list[bool]) -> None:
        """`project` and `copy`: give the layers that leaving rows skipped something to attend to.

        project: each skipped layer projects the exit's hidden state (CALM's state propagation, arXiv 2207.07061).
        copy: K and V of the last layer that ran, repeated.
        """
        chosen = self._index([row for row, leave in enumerate(leaves) if leave])
        exit_layer = self.exit_layers[batch.segment]
        slot, position = rows.slot_B[chosen], rows.position_N[rows.last_B[chosen]]
        for index in range(exit_layer, self.exit_layers[-1]):
            if self.kv is KvPolicy.PROJECT:
                k, v = self.layer(index).self_kv(h_BD[chosen])
            else:
                k = self.cache.self_k_LSHTE[exit_layer - 1][slot, :, position]
                v = self.cache.self_v_LSHTE[exit_layer - 1][slot, :, position]
            self.cache.self_k_LSHTE[index][slot, :, position] = k
            self.cache.self_v_LSHTE[index][slot, :, position] = v
        for sequence, leave in zip(batch.sequences, leaves, strict=True):
            if leave:
                filled = sequence.position + 1
                sequence.computed[batch.segment + 1 :] = [filled] * (len(sequence.computed) - batch.segment - 1)
