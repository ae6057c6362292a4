"""Decoder building blocks whose attention core is left to the caller.

Shape suffixes: B sequences, T positions, S encoder positions, N packed rows, D model width, H heads, E head width,
I = H * E inner width. `...` stands for any leading dims, so that training ([B, T, D]) and the engine ([N, D]) run
the very same arithmetic.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actors.model.linear import linear_part, linear_relu
from conf.decoder import DecoderConfig, RelativeBias


class RMSNorm(nn.RMSNorm):
    """torch's, in the precision of its gain where autocast gives it narrower values."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.dtype == self.weight.dtype else x.to(self.weight.dtype))


class UnitOffsetRMSNorm(nn.Module):
    """Gain of one plus the weight; computed in float32 at least, and rounded once."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.zeros(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        return F.rms_norm(x.to(wide), self.weight.shape, 1.0 + self.weight.to(wide), self.eps).to(x.dtype)


def make_norm(config: DecoderConfig) -> nn.Module:
    """Return the configured normalisation over the model width."""
    if config.norm == "unit_offset_rms":
        return UnitOffsetRMSNorm(config.d_model, config.norm_eps)
    if config.norm == "rms":
        return RMSNorm(config.d_model, eps=config.norm_eps)
    return nn.LayerNorm(config.d_model, eps=config.norm_eps)


def sinusoids(num_positions: int, width: int) -> Tensor:
    """Return the fixed table [num_positions, width]: sines in the first half, cosines in the second."""
    position = torch.arange(num_positions, dtype=torch.float64)[:, None]
    frequency = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(10000.0) / width))
    angle = position * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)[:, :width].float()


def activate(x: Tensor, name: str) -> Tensor:
    """Apply an activation by its name in the configuration."""
    if name == "relu":
        return F.relu(x)
    return F.gelu(x, approximate="tanh" if name == "gelu_new" else "none")


class HeadTransform(nn.Module):
    """What BERT's heads read in place of a hidden state."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        assert config.head_transform is not None
        self.activation = config.head_transform
        self.dense = nn.Linear(config.d_model, config.d_model)
        self.norm = make_norm(config)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        y: Tensor = self.norm(activate(self.dense(x), self.activation))
        return y


class FeedForward(nn.Module):
    """Position-wise network; gated variants hold gate and value in one fused matrix [2 * d_ff, D]."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gated = config.ffn.startswith("gated")
        width = config.d_ff * (2 if self.gated else 1)
        self.expand = nn.Linear(config.d_model, width, bias=config.ffn_bias)
        self.contract = nn.Linear(config.d_ff, config.d_model, bias=config.ffn_bias)
        self.activation = config.ffn.removeprefix("gated_")
        self.inner_norm = nn.LayerNorm(config.d_ff, eps=config.norm_eps) if config.sublayer_norm else None

    def forward(self, x: Tensor) -> Tensor:
        if self.gated:
            gate, value = self.expand(x).chunk(2, dim=-1)
            x = activate(gate, self.activation) * value
        elif self.activation == "relu":
            x = linear_relu(self.expand, x)
        else:
            x = activate(self.expand(x), self.activation)
        return self.contract(x if self.inner_norm is None else self.inner_norm(x))


class DecoderLayer(nn.Module):
    """One decoder layer, cut at its two attention cores.

    `self_qkv` -> (caller attends) -> `after_self` -> `cross_q` -> (caller attends) -> `after_cross`.
    A position that is only passed over needs `self_kv_fused` alone.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        d_inner = config.d_inner
        self.num_heads, self.d_head, self.pre_norm = config.num_heads, config.d_head, config.pre_norm
        self.scale = config.d_head**-0.5 if config.attn_scale is None else config.attn_scale
        self.qkv = nn.Linear(config.d_model, 3 * d_inner, bias=config.attn_bias)
        self.self_out = nn.Linear(d_inner, config.d_model, bias=config.attn_bias)
        self.query = nn.Linear(config.d_model, d_inner, bias=config.attn_bias)
        self.cross_kv_proj = nn.Linear(config.d_cross, 2 * d_inner, bias=config.attn_bias)
        self.cross_out = nn.Linear(d_inner, config.d_model, bias=config.attn_bias)
        self.ffn = FeedForward(config)
        self.self_norm = make_norm(config)
        self.cross_norm = make_norm(config)
        self.ffn_norm = make_norm(config)
        self.self_out_norm = make_norm(config) if config.sublayer_norm else None
        self.cross_out_norm = make_norm(config) if config.sublayer_norm else None
        self.self_gains = nn.Parameter(torch.ones(config.num_heads)) if config.head_gains else None
        self.cross_gains = nn.Parameter(torch.ones(config.num_heads)) if config.head_gains else None
        self.residual_gain = nn.Parameter(torch.ones(config.d_model)) if config.residual_gain else None

    def heads(self, x: Tensor) -> Tensor:
        """[..., I] -> [..., H, E]."""
        return x.view(*x.shape[:-1], self.num_heads, self.d_head)

    def self_qkv(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """h [..., D] -> q, k, v, each [..., H, E]."""
        x = self.self_norm(h) if self.pre_norm else h
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.heads(q), self.heads(k), self.heads(v)

    def self_qkv_fused(self, h: Tensor) -> Tensor:
        """h [..., D] -> q, k and v side by side [..., 3 I]."""
        fused: Tensor = self.qkv(self.self_norm(h) if self.pre_norm else h)
        return fused

    def self_q(self, h: Tensor) -> Tensor:
        """h [..., D] -> q [..., H, E]."""
        x = self.self_norm(h) if self.pre_norm else h
        d_inner = self.num_heads * self.d_head
        return self.heads(linear_part(self.qkv, x, slice(d_inner)))

    def self_kv_fused(self, h: Tensor) -> Tensor:
        """h [..., D] -> k, then v [..., 2 I]: all that later positions need of a position that stops here."""
        x = self.self_norm(h) if self.pre_norm else h
        return linear_part(self.qkv, x, slice(self.num_heads * self.d_head, None))

    def after_self(self, h: Tensor, context: Tensor) -> Tensor:
        """h [..., D], self-attention output [..., I] -> h [..., D]."""
        update = self.self_out(self._gained(context, self.self_gains))
        h = h + (update if self.self_out_norm is None else self.self_out_norm(update))
        return h if self.pre_norm else self.self_norm(h)

    def _gained(self, context: Tensor, gains_H: Tensor | None) -> Tensor:
        return context if gains_H is None else (self.heads(context) * gains_H[:, None]).flatten(-2)

    def cross_q(self, h: Tensor) -> Tensor:
        """h [..., D] -> q [..., H, E]."""
        return self.heads(self.query(self.cross_norm(h) if self.pre_norm else h))

    def cross_kv(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder states [..., D_cross] -> k, v, each [..., H, E]."""
        k, v = self.cross_kv_proj(states).chunk(2, dim=-1)
        return self.heads(k), self.heads(v)

    def absorb_key(self, q_NHE: Tensor) -> Tensor:
        """q [N, H, E] -> [N, H, D_cross] whose products with encoder states are those of q with their keys.

        The bias of the keys adds the same to every score of a query and is left out: softmax does not see it.
        """
        key_HED = self.cross_kv_proj.weight[: q_NHE.shape[1] * self.d_head].unflatten(0, (-1, self.d_head))
        return torch.bmm(q_NHE.transpose(0, 1), key_HED).transpose(0, 1)

    def absorb_value(self, read_NHD: Tensor) -> Tensor:
        """Encoder states as every head mixed them [N, H, D_cross] -> attention output [N, I]."""
        d_inner = read_NHD.shape[1] * self.d_head
        value_HED = self.cross_kv_proj.weight[d_inner:].unflatten(0, (-1, self.d_head))
        context_NI = torch.bmm(read_NHD.transpose(0, 1), value_HED.mT).transpose(0, 1).flatten(1)
        return context_NI if self.cross_kv_proj.bias is None else context_NI + self.cross_kv_proj.bias[d_inner:]

    def after_cross(self, h: Tensor, context: Tensor) -> Tensor:
        """h [..., D], cross-attention output [..., I] -> the layer's output [..., D]."""
        update = self.cross_out(self._gained(context, self.cross_gains))
        h = h + (update if self.cross_out_norm is None else self.cross_out_norm(update))
        if self.pre_norm:
            return (h if self.residual_gain is None else h * self.residual_gain) + self.ffn(self.ffn_norm(h))
        h = self.cross_norm(h)
        return self.ffn_norm((h if self.residual_gain is None else h * self.residual_gain) + self.ffn(h))


class RelativePositionBias(nn.Module):
    """Causal T5 bucket bias, a table [num_buckets, H]."""

    def __init__(self, config: RelativeBias, num_heads: int) -> None:
        super().__init__()
        self.num_buckets, self.max_distance = config.num_buckets, config.max_distance
        self.table = nn.Embedding(config.num_buckets, num_heads)

    def forward(self, distance: Tensor) -> Tensor:
        """Distance query - key [...], negative values count as 0 -> bias [..., H]."""
        distance = distance.clamp(min=0)
        exact = self.num_buckets // 2
        log_ratio = torch.log(distance.clamp(min=1).float() / exact) / math.log(self.max_distance / exact)
        far = exact + (log_ratio * (self.num_buckets - exact)).to(distance.dtype)
        bucket = torch.where(distance < exact, distance, far.clamp(max=self.num_buckets - 1))
        return self.table(bucket)


class AbsolutePositionBias(nn.Module):
    """OFA's position scores: what a position asks of another, apart from what stands there.

    Positions have tables and norms of their own and are not added to the tokens; every layer adds a table over
    distances. Encoder positions are counted from the first, so the encoder's layout must not depend on the batch.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        assert config.absolute_bias is not None
        bias, width = config.absolute_bias, config.d_model
        self.scale = config.d_head**-0.5 if config.attn_scale is None else config.attn_scale
        self.num_heads, self.num_distances = config.num_heads, bias.num_distances
        self.outputs = nn.Embedding(config.max_positions, width)
        self.inputs = nn.Embedding(bias.max_context, width)
        self.outputs_norm, self.inputs_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.self_query, self.self_key = nn.Linear(width, config.d_inner), nn.Linear(width, config.d_inner)
        self.cross_query, self.cross_key = nn.Linear(width, config.d_inner), nn.Linear(width, config.d_inner)
        self.distances = nn.ModuleList(
            nn.Embedding(bias.num_distances, config.num_heads) for _ in range(config.num_layers)
        )
        self.initialise()

    def initialise(self) -> None:
        """Begin without a preferred distance."""
        for table in self.distances:
            nn.init.zeros_(table.weight)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1))

    def self_scores(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """Positions [B, T] and [B, S] -> what all layers share of the bias [B, H, T, S]."""
        q = self._heads(self.self_query(self.outputs_norm(self.outputs(query_positions)))) * self.scale
        k = self._heads(self.self_key(self.outputs_norm(self.outputs(key_positions))))
        return q.transpose(1, 2) @ k.permute(0, 2, 3, 1)

    def layer_scores(self, layer: int, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """Return what one layer adds to it [B, H, T, S]."""
        distance = (query_positions[:, :, None] - key_positions[:, None, :]).clamp(0, self.num_distances - 1)
        scores: Tensor = self.distances[layer](distance)
        return scores.permute(0, 3, 1, 2)

    def cross_scores(self, query_positions: Tensor, num_context: int) -> Tensor:
        """Positions [B, T] -> bias [B, H, T, S] over the first `num_context` encoder positions."""
        q = self._heads(self.cross_query(self.outputs_norm(self.outputs(query_positions)))) * self.scale
        k = self._heads(self.cross_key(self.inputs_norm(self.inputs.weight[:num_context])))
        return q.transpose(1, 2) @ k.permute(1, 2, 0)


_FEW_KEYS = 128  # measured with heads of 32 and 64, 2 to 80 queries, 1 to 32 rows: slower at 300, faster at 80


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """q [B, T, H, E], k and v [B, S, H, E], mask broadcastable to [B, H, T, S] (bool or additive) -> [B, T, I]."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    # On CPUs the fused kernel is made for one query or many keys: in between it is two to four times slower than these
    # products, and so is its backward pass.
    if q.device.type == "cpu" and (torch.is_grad_enabled() or (q.shape[2] > 1 and k.shape[2] <= _FEW_KEYS)):
        context = _attend_by_products(q, k, v, mask, scale)
    else:
        context = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    return context.transpose(1, 2).flatten(2)


def _attend_by_products(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """[B, H, T, E] and [B, H, S, E] -> [B, H, T, E]."""
    (num_rows, num_heads, num_queries, _), num_keys = q.shape, k.shape[2]
    # Copies of K and V in their own order; matmul would copy K transposed, which takes longer than the product.
    keys, values = k.reshape(-1, num_keys, k.shape[-1]), v.reshape(-1, num_keys, v.shape[-1])
    scores = torch.bmm((q * scale).reshape(-1, num_queries, q.shape[-1]), keys.mT)
    scores = scores.view(num_rows, num_heads, num_queries, num_keys)
    if mask is not None:
        scores = scores + additive(mask, scores.dtype)
    weights = scores.softmax(-1).to(v.dtype).view(-1, num_queries, num_keys)
    return torch.bmm(weights, values).view(num_rows, num_heads, num_queries, -1)


def attend_shared(q: Tensor, keys: Tensor, mask: Tensor, scale: float) -> Tensor:
    """One head whose keys are its values: q [B, T, D], keys [B, S, D], additive mask [B, 1 or T, S] -> [B, T, D]."""
    if keys.device.type == "cpu":
        return torch.bmm(torch.baddbmm(mask, q, keys.mT, alpha=scale).softmax(-1), keys)
    keys = keys[:, None]
    return F.scaled_dot_product_attention(q[:, None], keys, keys, attn_mask=mask[:, None], scale=scale)[:, 0]


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a bool mask (True = may attend) as 0 and -inf; an additive one as it is."""
    if mask.dtype is not torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, float("-inf"))
