"""Decoder building blocks whose attention core is left to the caller.

Shape suffixes: B sequences, T positions, S encoder positions, N packed rows, D model width, H heads, E head width,
I = H * E inner width. `...` stands for any leading dims, so that training ([B, T, D]) and the engine ([N, D]) run
the very same arithmetic.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conf.model import DecoderConfig, RelativeBias


def make_norm(config: DecoderConfig) -> nn.Module:
    """Return the configured normalisation over the model width."""
    if config.norm == "rms":
        return nn.RMSNorm(config.d_model, eps=config.norm_eps)
    return nn.LayerNorm(config.d_model, eps=config.norm_eps)


def sinusoids(num_positions: int, width: int) -> Tensor:
    """Return the fixed table [num_positions, width]: sines in the first half, cosines in the second."""
    position = torch.arange(num_positions, dtype=torch.float64)[:, None]
    frequency = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(10000.0) / width))
    angle = position * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)[:, :width].float()


class FeedForward(nn.Module):
    """Position-wise network; gated variants hold gate and value in one fused matrix [2 * d_ff, D]."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gated = config.ffn.startswith("gated")
        width = config.d_ff * (2 if self.gated else 1)
        self.expand = nn.Linear(config.d_model, width, bias=config.ffn_bias)
        self.contract = nn.Linear(config.d_ff, config.d_model, bias=config.ffn_bias)
        self.activation = config.ffn.removeprefix("gated_")

    def _activate(self, x: Tensor) -> Tensor:
        if self.activation == "relu":
            return F.relu(x)
        return F.gelu(x, approximate="tanh" if self.activation == "gelu_new" else "none")

    def forward(self, x: Tensor) -> Tensor:
        x = self.expand(x)
        if self.gated:
            gate, value = x.chunk(2, dim=-1)
            x = self._activate(gate) * value
        else:
            x = self._activate(x)
        return self.contract(x)


class DecoderLayer(nn.Module):
    """One decoder layer, cut at its two attention cores.

    `self_qkv` -> (caller attends) -> `after_self` -> `cross_q` -> (caller attends) -> `after_cross`.
    A position that is only passed over needs `self_kv` alone.
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

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.d_head))

    def self_qkv(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """h [..., D] -> q, k, v, each [..., H, E]."""
        x = self.self_norm(h) if self.pre_norm else h
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self._heads(q), self._heads(k), self._heads(v)

    def self_kv(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """h [..., D] -> k, v, each [..., H, E]: all that later positions need of a position that stops here."""
        x = self.self_norm(h) if self.pre_norm else h
        d_inner = self.num_heads * self.d_head
        bias = None if self.qkv.bias is None else self.qkv.bias[d_inner:]
        k, v = F.linear(x, self.qkv.weight[d_inner:], bias).chunk(2, dim=-1)
        return self._heads(k), self._heads(v)

    def after_self(self, h: Tensor, context: Tensor) -> Tensor:
        """h [..., D], self-attention output [..., I] -> h [..., D]."""
        h = h + self.self_out(context)
        return h if self.pre_norm else self.self_norm(h)

    def cross_q(self, h: Tensor) -> Tensor:
        """h [..., D] -> q [..., H, E]."""
        return self._heads(self.query(self.cross_norm(h) if self.pre_norm else h))

    def cross_kv(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder states [..., D_cross] -> k, v, each [..., H, E]."""
        k, v = self.cross_kv_proj(states).chunk(2, dim=-1)
        return self._heads(k), self._heads(v)

    def after_cross(self, h: Tensor, context: Tensor) -> Tensor:
        """h [..., D], cross-attention output [..., I] -> the layer's output [..., D]."""
        h = h + self.cross_out(context)
        if self.pre_norm:
            return h + self.ffn(self.ffn_norm(h))
        h = self.cross_norm(h)
        return self.ffn_norm(h + self.ffn(h))


class RelativePositionBias(nn.Module):
    """Causal T5 bucket bias, one table [num_buckets, H] for all layers."""

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


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """q [B, T, H, E], k and v [B, S, H, E], mask broadcastable to [B, H, T, S] (bool or additive) -> [B, T, I]."""
    context = F.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask, scale=scale
    )
    return context.transpose(1, 2).flatten(2)
