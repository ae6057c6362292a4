"""The multi-exit decoder: token embedding, layers, and one shared head behind an adaptation module per exit.

DEED (arXiv 2311.08623): every chosen layer `i` may emit the token through `Head(Norm(A_i(h_i)))`; `A_N` is the
identity, so that full depth is the plain model. The adaptation module as a d x d linear that starts as the identity
is our reading; the paper's exact form was not available to us.

Shape suffixes as in blocks.py; V vocabulary.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actors.model.blocks import (
    AbsolutePositionBias,
    DecoderLayer,
    HeadTransform,
    RelativePositionBias,
    attend,
    make_norm,
    sinusoids,
)
from actors.model.linear import SmallLinear, weight_rows
from actors.model.merged_blocks import MergedDecoderLayer, teacher_forced
from actors.model.run_layer import RunLayer, run_plainly
from conf.decoder import DecoderConfig, MergedAttention


class MultiExitDecoder(nn.Module):
    """Decoder layers 0..N-1; "exit layer" e means "after e layers", so e runs from 1 to N."""

    def __init__(
        self,
        config: DecoderConfig,
        exits: Sequence[int],
        adapters: bool,
        *,
        separate_heads: bool = False,
        gates: bool = False,
    ) -> None:
        super().__init__()
        self.config, self.exits = config, tuple(exits)
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.position_table: nn.Embedding | None = None
        if config.positions != "none":
            self.position_table = nn.Embedding(config.max_positions + config.position_offset, config.d_model)
            if config.positions == "sinusoidal":
                self.position_table.weight = nn.Parameter(
                    sinusoids(self.position_table.num_embeddings, config.d_model), requires_grad=False
                )
        self.token_types = nn.Embedding(config.token_types, config.d_model) if config.token_types else None
        self.embed_norm = make_norm(config) if config.embed_norm else None
        self.image_end_embedding: nn.Parameter | None = None
        if config.merged is not None:
            self.image_end_embedding = nn.Parameter(torch.zeros(config.d_model))
            self.layers = nn.ModuleList(MergedDecoderLayer(config, index) for index in range(config.num_layers))
        else:
            self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_layers))
        self.relative_bias: RelativePositionBias | None = None
        self.layer_relative_biases: nn.ModuleList | None = None
        if config.relative_bias is not None:
            count = config.num_layers if config.relative_bias_per_layer else 1
            tables = [RelativePositionBias(config.relative_bias, config.num_heads) for _ in range(count)]
            if config.relative_bias_per_layer:
                self.layer_relative_biases = nn.ModuleList(tables)
            else:
                self.relative_bias = tables[0]
        self.absolute_bias = AbsolutePositionBias(config) if config.absolute_bias else None
        self.final_norm = make_norm(config) if config.final_norm else None
        self.adapters = nn.ModuleDict()
        if adapters:
            for layer in self.exits[:-1]:
                adapter = nn.Linear(config.d_model, config.d_model, bias=False)
                nn.init.eye_(adapter.weight)
                self.adapters[str(layer)] = adapter
        self.head_transform = HeadTransform(config) if config.head_transform else None
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=config.head_bias)
        if config.head_tied:
            self.head.weight = self.embedding.weight
        shallow = self.exits[:-1]
        self.own_heads = nn.ModuleDict()  # the ablation of the shared head
        if separate_heads:
            for layer in shallow:
                self.own_heads[str(layer)] = nn.Linear(config.d_model, config.vocab_size, bias=config.head_bias)
        self.gates = nn.ModuleDict({str(layer): nn.Linear(config.d_model, 1) for layer in shallow if gates})
        for parameter in self.gates.parameters():
            nn.init.zeros_(parameter)

    def embed(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        """Token ids [...] and positions [...] -> h [..., D]."""
        if self.config.merged is not None:
            return self._embed_merged(token_ids, self.config.merged)
        h = self.embedding(token_ids) * self.config.embed_scale
        if self.position_table is not None:
            h = h + self.position_table(positions + self.config.position_offset)
        if self.token_types is not None:
            h = h + self.token_types.weight[0]
        return h if self.embed_norm is None else self.embed_norm(h)

    def _embed_merged(self, token_ids: Tensor, merged: MergedAttention) -> Tensor:
        """Scale in the precision of the weights, where the factor itself is rounded."""
        h = self.embedding(token_ids)
        h = h * torch.tensor(self.config.embed_scale, dtype=h.dtype, device=h.device)
        return torch.where((token_ids == merged.image_end_id)[..., None], self.image_end_embedding, h)

    def exit_features(self, exit_layer: int, h: Tensor) -> Tensor:
        """h [..., D] after `exit_layer` layers -> what the shared head reads [..., D]."""
        if exit_layer != self.config.num_layers and self.adapters:
            h = self.adapters[str(exit_layer)](h)
        if self.final_norm is not None:
            h = self.final_norm(h)
        if self.config.head_scale != 1.0:
            h = h * self.config.head_scale
        return h if self.head_transform is None else self.head_transform(h)

    def exit_logits(self, exit_layer: int, h: Tensor, *, head_gradient: bool = True) -> Tensor:
        """h [..., D] after `exit_layer` layers -> logits [..., V].

        Without `head_gradient` the shared head's matrix and bias are constants, and what it reads still learns
        (arXiv 2011.03109).
        """
        head, features = self._head(exit_layer), self.exit_features(exit_layer, h)
        if head_gradient or head is not self.head:
            return self._capped(head(features))
        assert isinstance(head, nn.Linear)
        bias = None if head.bias is None else head.bias.detach()
        return self._capped(F.linear(features, head.weight.detach(), bias))

    def _capped(self, logits: Tensor) -> Tensor:
        cap = self.config.logit_softcap
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def _head(self, exit_layer: int) -> nn.Linear | SmallLinear:
        has_own = self.own_heads and exit_layer != self.config.num_layers
        head = self.own_heads[str(exit_layer)] if has_own else self.head
        assert isinstance(head, nn.Linear | SmallLinear)
        return head

    def gate_logit(self, exit_layer: int, h: Tensor) -> Tensor:
        """h [..., D] after `exit_layer` layers -> log-odds [...] that its token is full depth's (CALM's classifier)."""
        return self.gates[str(exit_layer)](F.layer_norm(h, h.shape[-1:])).squeeze(-1)

    def exit_logits_of(self, exit_layer: int, h_BD: Tensor, token_ids_BK: Tensor) -> Tensor:
        """h [B, D] after `exit_layer` layers -> logits [B, K] of the given tokens alone."""
        head = self._head(exit_layer)
        features_BD = self.exit_features(exit_layer, h_BD)
        logits_BK = (weight_rows(head, token_ids_BK).to(h_BD.dtype) @ features_BD[..., None]).squeeze(-1)
        return self._capped(logits_BK if head.bias is None else logits_BK + head.bias[token_ids_BK])

    def self_bias(self, query_positions: Tensor, key_positions: Tensor) -> Tensor | None:
        """Additive bias [B, H, T, S] for query positions [B, T] and key positions [B, S]; None without a table."""
        if self.absolute_bias is not None:
            return self.absolute_bias.self_scores(query_positions, key_positions)
        if self.relative_bias is None:
            return None
        distance = query_positions[:, :, None] - key_positions[:, None, :]
        return self.relative_bias(distance).permute(0, 3, 1, 2)

    def layer_bias(self, layer: int, query_positions: Tensor, key_positions: Tensor) -> Tensor | None:
        """Return what one layer adds to `self_bias`; None where all layers share one bias."""
        if self.layer_relative_biases is not None:
            distance = query_positions[:, :, None] - key_positions[:, None, :]
            bias: Tensor = self.layer_relative_biases[layer](distance).permute(0, 3, 1, 2)
            return bias
        if self.absolute_bias is None:
            return None
        return self.absolute_bias.layer_scores(layer, query_positions, key_positions)

    def cross_bias(self, query_positions: Tensor, num_context: int) -> Tensor | None:
        """Return the additive bias [B, H, T, S] of cross-attention over encoder positions 0..S-1; None without one."""
        if self.absolute_bias is None:
            return None
        return self.absolute_bias.cross_scores(query_positions, num_context)

    def forward(
        self, token_ids_BT: Tensor, positions_BT: Tensor, states_BSD: Tensor, self_mask: Tensor, cross_mask: Tensor,
        *, run_layer: RunLayer | None = None,
    ) -> list[Tensor]:  # fmt: skip
        """Teacher-forced pass; masks are bool, True = may attend, [B, 1, T, T] and [B, 1, T, S].

        Returns the hidden states [B, T, D] after every layer, so `hidden[e - 1]` belongs to exit layer e.
        """
        h = self.embed(token_ids_BT, positions_BT)
        if self.config.merged is not None:
            return teacher_forced(self.layers, h, positions_BT, states_BSD, self_mask, cross_mask, run_layer=run_layer)
        bias = self.self_bias(positions_BT, positions_BT)
        mask = self_mask if bias is None else bias.masked_fill(~self_mask, float("-inf"))
        cross = self.cross_bias(positions_BT, states_BSD.shape[1])
        if cross is not None:
            cross_mask = cross.masked_fill(~cross_mask, float("-inf"))

        def after_layer(index: int, h: Tensor) -> Tensor:
            layer = self.layers[index]
            assert isinstance(layer, DecoderLayer)
            own = self.layer_bias(index, positions_BT, positions_BT)
            if own is None:
                own_mask = mask
            else:
                own_mask = (own if bias is None else bias + own).masked_fill(~self_mask, float("-inf"))
            h = layer.after_self(h, attend(*layer.self_qkv(h), own_mask, layer.scale))
            k, v = layer.cross_kv(states_BSD)
            return layer.after_cross(h, attend(layer.cross_q(h), k, v, cross_mask, layer.scale))

        hidden = []
        for index in range(len(self.layers)):
            h = (run_layer or run_plainly)(index, partial(after_layer, index), h)
            hidden.append(h)
        return hidden
