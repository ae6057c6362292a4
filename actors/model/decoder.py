"""The multi-exit decoder: token embedding, layers, and one shared head behind an adaptation module per exit.

DEED (arXiv 2311.08623): every chosen layer `i` may emit the token through `Head(Norm(A_i(h_i)))`; `A_N` is the
identity, so that full depth is the plain model. The adaptation module as a d x d linear that starts as the identity
is our reading; the paper's exact form was not available to us.

Shape suffixes as in blocks.py; V vocabulary.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from actors.model.blocks import DecoderLayer, RelativePositionBias, attend, make_norm, sinusoids
from conf.model import DecoderConfig


class MultiExitDecoder(nn.Module):
    """Decoder layers 0..N-1; "exit layer" e means "after e layers", so e runs from 1 to N."""

    def __init__(self, config: DecoderConfig, exits: Sequence[int], adapters: bool) -> None:
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
        self.embed_norm = make_norm(config) if config.embed_norm else None
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_layers))
        self.relative_bias = (
            RelativePositionBias(config.relative_bias, config.num_heads) if config.relative_bias else None
        )
        self.final_norm = make_norm(config) if config.final_norm else None
        self.adapters = nn.ModuleDict()
        if adapters:
            for layer in self.exits[:-1]:
                adapter = nn.Linear(config.d_model, config.d_model, bias=False)
                nn.init.eye_(adapter.weight)
                self.adapters[str(layer)] = adapter
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=config.head_bias)
        if config.head_tied:
            self.head.weight = self.embedding.weight

    def embed(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        """Token ids [...] and positions [...] -> h [..., D]."""
        h = self.embedding(token_ids) * self.config.embed_scale
        if self.position_table is not None:
            h = h + self.position_table(positions + self.config.position_offset)
        return h if self.embed_norm is None else self.embed_norm(h)

    def exit_features(self, exit_layer: int, h: Tensor) -> Tensor:
        """h [..., D] after `exit_layer` layers -> what the shared head reads [..., D]."""
        if exit_layer != self.config.num_layers and self.adapters:
            h = self.adapters[str(exit_layer)](h)
        if self.final_norm is not None:
            h = self.final_norm(h)
        return h * self.config.head_scale if self.config.head_scale != 1.0 else h

    def exit_logits(self, exit_layer: int, h: Tensor) -> Tensor:
        """h [..., D] after `exit_layer` layers -> logits [..., V]."""
        return F.linear(self.exit_features(exit_layer, h), self.head.weight, self.head.bias)

    def self_bias(self, query_positions: Tensor, key_positions: Tensor) -> Tensor | None:
        """Additive bias [B, H, T, S] for query positions [B, T] and key positions [B, S]; None without a table."""
        if self.relative_bias is None:
            return None
        distance = query_positions[:, :, None] - key_positions[:, None, :]
        return self.relative_bias(distance).permute(0, 3, 1, 2)

    def forward(
        self, token_ids_BT: Tensor, positions_BT: Tensor, states_BSD: Tensor, self_mask: Tensor, cross_mask: Tensor
    ) -> list[Tensor]:
        """Teacher-forced pass; masks are bool, True = may attend, [B, 1, T, T] and [B, 1, T, S].

        Returns the hidden states [B, T, D] after every layer, so `hidden[e - 1]` belongs to exit layer e.
        """
        h = self.embed(token_ids_BT, positions_BT)
        bias = self.self_bias(positions_BT, positions_BT)
        mask = self_mask if bias is None else bias.masked_fill(~self_mask, float("-inf"))
        hidden = []
        for layer in self.layers:
            assert isinstance(layer, DecoderLayer)
            h = layer.after_self(h, attend(*layer.self_qkv(h), mask, layer.scale))
            k, v = layer.cross_kv(states_BSD)
            h = layer.after_cross(h, attend(layer.cross_q(h), k, v, cross_mask, layer.scale))
            hidden.append(h)
        return hidden
