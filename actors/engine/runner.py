"""Batches -> hidden states: encode newcomers, run one decoder segment.

Shape suffixes: B sequences, N packed rows, C encoder positions, I inner width of a layer's keys, D width.
"""

import itertools

import torch
from torch import Tensor

from actors.engine.batch import Batch, EncodeBatch
from actors.engine.cross_source import CrossSource
from actors.engine.encoding import encode_requests
from actors.engine.exit_gate import ExitStates
from actors.engine.kv_cache import SlotCache, first_context, wider_context
from actors.engine.layer_runner import LayerRunner
from actors.engine.merged_layers import MergedLayers
from actors.engine.separate_layers import SeparateLayers
from actors.engine.visit import Visit, index_tensor, plan_visit
from actors.model.blocks import additive
from actors.model.linear import filled_rows
from actors.model.model import MultiExitModel
from conf.engine import KvPolicy
from conf.resolve import Resolved

CONTEXT_MULTIPLE = 8  # encoder positions are read in multiples of it, which products are quicker at


def _real_widths(mask_BC: Tensor) -> list[int]:
    """Return how many encoder positions each row has up to its last real one: what lies behind is never read."""
    place_C = torch.arange(1, mask_BC.shape[1] + 1, device=mask_BC.device)
    widths: list[int] = (mask_BC * place_C).amax(1).tolist()
    return widths


class Runner:
    """Holds the model and the slot caches; knows nothing of queues."""

    def __init__(self, model: MultiExitModel, resolved: Resolved, num_slots: int, *, keeps_tokens: bool) -> None:
        settings, exit_layers, limit = resolved.settings, resolved.exit_layers, resolved.max_new_tokens
        self.model, self.decoder = model, model.decoder
        self.exit_layers, self.kv = exit_layers, settings.kv
        self.checks_drafts = settings.lossless  # full depth says the tokens of all pending positions
        self.segments = tuple(itertools.pairwise((0, *exit_layers)))
        self.cross = CrossSource(
            settings.tuning.cross, model.config.decoder, exit_layers=exit_layers, max_new_tokens=limit
        )
        self.max_positions = resolved.max_prefix + limit
        self.keeps_tokens = keeps_tokens  # somebody reads cache.token_ST
        embedding = model.decoder.embedding.weight
        self.device, self.dtype = embedding.device, embedding.dtype
        self.cache = SlotCache.allocate(
            model.config.decoder, num_slots, self.max_positions, first_context(model),
            num_kv_layers=self.cross.num_kv_layers, like=embedding.detach(),
        )  # fmt: skip
        self.layers: LayerRunner = (
            SeparateLayers(self.decoder, self.cache, self.cross)
            if model.config.decoder.merged is None
            else MergedLayers(self.decoder, self.cache)
        )
        self._fill = filled_rows if self.layers.is_packed else int
        self.cross_rows_built = 0  # (sequence, layer) pairs whose cross-attention K/V were projected

    def make_room(self, batch: EncodeBatch) -> None:
        """Let the caches grow where the batch has a prompt that needs it."""
        longest = max(len(sequence.request.prompt_ids) for sequence in batch.sequences)
        wanted = wider_context(self.model, self.cache.num_context, longest)
        if wanted > self.cache.num_context:
            self.cache.grow(wanted)

    @torch.inference_mode()
    def encode(self, batch: EncodeBatch) -> None:
        """Write the encoder states of the batch into its slots."""
        states_BCD, mask_BC = encode_requests(self.model, [sequence.request for sequence in batch.sequences])
        slots = index_tensor([sequence.slot for sequence in batch.sequences], self.device)
        width, most = states_BCD.shape[1], self.cache.num_context
        real_B = _real_widths(mask_BC)
        self.cache.context_SCD[slots, :width] = states_BCD
        self.cache.context_bias_SC[slots] = float("-inf")
        self.cache.context_bias_SC[slots, :width] = additive(mask_BC, self.dtype)
        for sequence, real in zip(batch.sequences, real_B, strict=True):
            sequence.num_context = min(most, -(-real // CONTEXT_MULTIPLE) * CONTEXT_MULTIPLE)

    def _plan(self, batch: Batch, *, current_only: bool = False) -> Visit:
        return plan_visit(
            batch.sequences, batch.segment,
            max_positions=self.max_positions, device=self.device, fill=self._fill, current_only=current_only,
        )  # fmt: skip

    @torch.inference_mode()
    def run(self, batch: Batch, *, all_layers: bool = False) -> ExitStates:
        """Run the segment on all pending positions; return the current tokens' hidden states.

        Where full depth checks drafts, its last segment returns those of all pending positions. `all_layers`: the
        first segment and all others after it, as one.
        """
        first_layer, end_layer = (0, self.exit_layers[-1]) if all_layers else self.segments[batch.segment]
        last_segment = end_layer == self.exit_layers[-1]
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
        sources = self.layers.sources(visit, absorbed=absorbed)
        before_ND = h_ND
        for index in range(first_layer, end_layer):
            before_ND = h_ND
            if last_segment and index == end_layer - 1 and visit.last_N is not None and not self.checks_drafts:
                # Nothing will ever read what earlier positions put out here: they leave their K and V, no more.
                self.layers.leave(index, h_ND, visit, sources)
                h_ND, visit = h_ND[visit.last_N], self._plan(batch, current_only=True)
                sources = self.layers.sources(visit, absorbed=absorbed)
                out_ND = self.layers.run_current(index, h_ND, visit, sources)
                return ExitStates(out_ND[: visit.num_rows], h_ND[: visit.num_rows])
            h_ND = self.layers.run(index, h_ND, visit, sources)
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

    def _build_cross(self, batch: Batch, first_layer: int, end_layer: int) -> None:
        """Project cross-attention K/V for the sequences that have none yet for this segment."""
        newcomers = [sequence for sequence in batch.sequences if not sequence.cross_built >> batch.segment & 1]
        if not newcomers:
            return
        slots = index_tensor([sequence.slot for sequence in newcomers], self.device)
        width = max(sequence.num_context for sequence in newcomers)
        context_BCD = self.cache.context_SCD[slots, :width]
        for index in range(first_layer, end_layer):
            self.layers.write_cross(index, slots, context_BCD)
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
        slot_N, position_N = index_tensor([[s.slot for s in leaving], [s.position for s in leaving]], self.device)
        row_N = self.layers.kv_rows(slot_N, position_N)
        exit_layer = self.exit_layers[batch.segment]
        kv_LN2I = self.cache.self_kv_LST2I.flatten(1, 2)
        for index in range(exit_layer, self.exit_layers[-1]):
            if self.kv is KvPolicy.PROJECT:
                kv_N2I = self.layers.own_kv(index, h_BD[chosen], position_N)
            else:
                kv_N2I = kv_LN2I[exit_layer - 1, row_N]
            kv_LN2I[index].index_copy_(0, row_N, kv_N2I)
        for sequence in leaving:
            filled = sequence.position + 1
            sequence.computed[batch.segment + 1 :] = [filled] * (len(sequence.computed) - batch.segment - 1)
