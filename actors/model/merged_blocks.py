"""Decoder layers with one attention over two kinds of keys: a layer's own and those of the encoder (T5Gemma 2).

Both kinds come from the same projections, and one softmax weighs them together. Own keys carry their position by
rotation (RoPE) and may be hidden behind a window; encoder keys have no position and are always in sight. Keys and
values have fewer heads than queries: every group of query heads reads one of them.

Shape suffixes as in blocks.py; K heads of keys and values, G query heads that share one of them (H = K * G), J = K * E.
"""

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from actors.model.blocks import FeedForward, UnitOffsetRMSNorm, attend, make_norm
from actors.model.run_layer import RunLayer, run_plainly
from conf.decoder import DecoderConfig, Rope

Rotation = tuple[Tensor, Tensor]  # cosines and sines [..., E]


def rotation(rope: Rope, positions: Tensor, d_head: int, dtype: torch.dtype) -> Rotation:
    """Positions [...] -> what turns a head's vector to its position; computed in float32."""
    exponent = torch.arange(0, d_head, 2, dtype=torch.float32, device=positions.device) / d_head
    frequency = 1.0 / rope.theta**exponent / rope.factor
    angle = positions[..., None].float() * frequency
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: Tensor, turn: Rotation) -> Tensor:
    """x [..., heads, E], turned by the rotation [..., E] of its position."""
    first, second = x.chunk(2, dim=-1)
    cosine, sine = (part[..., None, :] for part in turn)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine


class MergedDecoderLayer(nn.Module):
    """One decoder layer, cut at its attention: `own_q` -> (caller attends) -> `after_attention`.

    A position that is only passed over needs `own_kv` alone; an encoder position `context_kv`.
    """

    def __init__(self, config: DecoderConfig, index: int) -> None:
        super().__init__()
        merged = config.merged
        assert merged is not None
        self.d_head, self.num_heads, self.num_kv_heads = config.d_head, config.num_heads, merged.num_kv_heads
        self.scale = config.d_head**-0.5 if config.attn_scale is None else config.attn_scale
        self.window = merged.window if merged.sliding[index] else None  # own positions in sight, the query's included
        self.rope = merged.sliding_rope if merged.sliding[index] else merged.full_rope
        self.query = nn.Linear(config.d_model, config.d_inner, bias=config.attn_bias)
        self.kv = nn.Linear(config.d_model, config.kv_width, bias=config.attn_bias)
        self.out = nn.Linear(config.d_inner, config.d_model, bias=config.attn_bias)
        self.query_norm = UnitOffsetRMSNorm(config.d_head, config.norm_eps)
        self.key_norm = UnitOffsetRMSNorm(config.d_head, config.norm_eps)
        self.attn_norm, self.attn_out_norm = make_norm(config), make_norm(config)
        self.ffn = FeedForward(config)
        self.ffn_norm, self.ffn_out_norm = make_norm(config), make_norm(config)

    def heads(self, x: Tensor) -> Tensor:
        """[..., heads * E] -> [..., heads, E]."""
        return x.unflatten(-1, (-1, self.d_head))

    def own_q(self, x: Tensor, turn: Rotation) -> Tensor:
        """Normalised input [..., D] -> q [..., H, E]."""
        return rotate(self.query_norm(self.heads(self.query(x))), turn)

    def own_kv(self, x: Tensor, turn: Rotation) -> Tensor:
        """Normalised input [..., D] -> k, then v [..., 2 J]: all that later positions need of it."""
        k, v = self.kv(x).chunk(2, dim=-1)
        return torch.cat([rotate(self.key_norm(self.heads(k)), turn).flatten(-2), v], dim=-1)

    def context_kv(self, states: Tensor) -> Tensor:
        """Encoder states [..., D] -> k, then v [..., 2 J]."""
        k, v = self.kv(states).chunk(2, dim=-1)
        return torch.cat([self.key_norm(self.heads(k)).flatten(-2), v], dim=-1)

    def attend(self, q_BTHE: Tensor, kv_BS2J: Tensor, mask_B1XS: Tensor) -> Tensor:
        """Return the attention output [B, T, I]; the mask is that of `shared_mask`."""
        k_BSKE, v_BSKE = (self.heads(half) for half in kv_BS2J.chunk(2, dim=-1))
        # The queries of a group are further positions of the one head they read, so that nothing is repeated.
        q_BTGKE = q_BTHE.unflatten(2, (self.num_kv_heads, -1)).transpose(2, 3)
        context_BXJ = attend(q_BTGKE.flatten(1, 2), k_BSKE, v_BSKE, mask_B1XS, self.scale)
        return self.heads(context_BXJ).view(q_BTGKE.shape).transpose(2, 3).flatten(2)

    def after_attention(self, h: Tensor, context: Tensor) -> Tensor:
        """h [..., D], attention output [..., I] -> the layer's output [..., D]."""
        h = h + self.attn_out_norm(self.out(context))
        return h + self.ffn_out_norm(self.ffn(self.ffn_norm(h)))


def shared_mask(mask_BhTS: Tensor, group: int) -> Tensor:
    """[B, 1, T, S] -> [B, 1, T * G, S]: what a position may attend to, for all query heads of a group."""
    return mask_BhTS if mask_BhTS.shape[2] == 1 else mask_BhTS.repeat_interleave(group, dim=2)


def teacher_forced(
    layers: Iterable[nn.Module], h_BTD: Tensor, positions_BT: Tensor, states_BSD: Tensor, self_mask: Tensor,
    cross_mask: Tensor, *, run_layer: RunLayer | None = None,
) -> list[Tensor]:  # fmt: skip
    """Return the hidden states [B, T, D] after every layer; masks as `MultiExitDecoder.forward` has them."""
    distance_BTT = positions_BT[:, :, None] - positions_BT[:, None, :]
    num_rows, num_positions = positions_BT.shape
    cross_mask = cross_mask.expand(num_rows, 1, num_positions, -1)
    turns: dict[Rope, Rotation] = {}
    masks: dict[int | None, Tensor] = {}

    def after_layer(layer: MergedDecoderLayer, turn: Rotation, mask: Tensor, h_BTD: Tensor) -> Tensor:
        x = layer.attn_norm(h_BTD)
        q_BTHE = layer.own_q(x, turn)
        kv_BS2J = torch.cat([layer.own_kv(x, turn), layer.context_kv(states_BSD)], dim=1)
        return layer.after_attention(h_BTD, layer.attend(q_BTHE, kv_BS2J, mask))

    hidden = []
    for index, layer in enumerate(layers):
        assert isinstance(layer, MergedDecoderLayer)
        if layer.rope not in turns:
            turns[layer.rope] = rotation(layer.rope, positions_BT, layer.d_head, h_BTD.dtype)
        if layer.window not in masks:
            near = self_mask if layer.window is None else self_mask & (distance_BTT < layer.window)[:, None]
            mask = torch.cat([near.expand(num_rows, 1, -1, -1), cross_mask], dim=-1)
            masks[layer.window] = shared_mask(mask, layer.num_heads // layer.num_kv_heads)
        whole_layer = partial(after_layer, layer, turns[layer.rope], masks[layer.window])
        h_BTD = (run_layer or run_plainly)(index, whole_layer, h_BTD)
        hidden.append(h_BTD)
    return hidden
