"""The decoder of a checkpoint: one generic multi-exit decoder, whose every difference between families is a setting.

Nothing here imports torch.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from conf.section import Count, Section


class RelativeBias(Section):
    """T5 relative position bias, one table shared by all layers (Raffel et al. 2020, section 2.1)."""

    num_buckets: Count = 32
    max_distance: Count = 128


class AbsoluteBias(Section):
    """OFA: scores get the product of projected positions, in self- and cross-attention, and a table per layer."""

    max_context: Count = Field(description="Encoder positions, counted from the first.")
    num_distances: Count = Field(32, description="Distances told apart by each layer's table; larger ones are one.")


class Rope(Section):
    """Rotary positions: channel pair i of a head turns by position / factor / theta ** (2 i / d_head)."""

    theta: Annotated[float, Field(gt=0)]
    factor: Annotated[float, Field(gt=0)] = 1.0


class MergedAttention(Section):
    """A layer's own keys and those of the encoder in one softmax, from the same projections (T5Gemma 2).

    Own keys are rotated to their positions, encoder keys have none; keys and queries are normalised head by head.
    """

    num_kv_heads: Count = Field(description="Heads of keys and values, each read by equally many heads of queries.")
    sliding: tuple[bool, ...] = Field(description="By layer: whether it sees its own last `window` positions alone.")
    window: Count = Field(description="Own positions in sight of a sliding layer, the query's included.")
    full_rope: Rope
    sliding_rope: Rope
    image_end_id: int = Field(description="End of an image: its embedding is a vector of its own, and is not scaled.")


class DecoderConfig(Section):
    """Block settings of the multi-exit decoder."""

    num_layers: Count
    d_model: Count
    num_heads: Count
    d_head: Count = Field(description="Width of one head; num_heads * d_head may differ from d_model (T5).")
    d_ff: Count
    d_cross: Count = Field(description="Width of the encoder states the cross-attention reads.")
    vocab_size: Count
    norm: Literal["rms", "unit_offset_rms", "layer"] = Field(
        "rms", description="unit_offset_rms: the gain is one plus the weight, in float32 at least."
    )
    norm_eps: float = 1e-6
    pre_norm: bool = True
    final_norm: bool = True
    attn_scale: float | None = Field(None, description="Factor on q.k; none: d_head ** -0.5. T5 uses 1.")
    attn_bias: bool = False
    ffn_bias: bool = False
    ffn: Literal["relu", "gelu", "gelu_new", "gated_gelu", "gated_gelu_new"] = "gelu"
    relative_bias: RelativeBias | None = None
    relative_bias_per_layer: bool = Field(False, description="Every layer has a table of its own (UMT5).")
    absolute_bias: AbsoluteBias | None = None
    merged: MergedAttention | None = None
    sublayer_norm: bool = Field(
        False, description="Norms after both attentions and inside the feed-forward (NormFormer, arXiv 2110.09456)."
    )
    head_gains: bool = Field(False, description="A learned factor per attention head (NormFormer).")
    residual_gain: bool = Field(False, description="A learned factor per channel on the feed-forward's residual.")
    positions: Literal["none", "learned", "sinusoidal"] = "learned"
    max_positions: Count = Field(512, description="Longest output, in tokens.")
    position_offset: int = Field(0, description="Added to a position before the table is read (BART: 2).")
    embed_scale: float = 1.0
    embed_norm: bool = False
    token_types: int = Field(0, description="Rows of BERT's table of token types; the first is added to every input.")
    head_transform: Literal["relu", "gelu", "gelu_new"] | None = Field(
        None, description="A dense layer with this activation and a norm, between every exit and the head (BERT)."
    )
    head_tied: bool = True
    head_scale: float = Field(1.0, description="Factor on the head's input (tied T5: d_model ** -0.5).")
    head_bias: bool = False
    logit_softcap: float | None = Field(None, description="Logits x become c tanh(x / c).")

    @property
    def d_inner(self) -> int:
        return self.num_heads * self.d_head

    @property
    def kv_width(self) -> int:
        """Return the width of K and V of one position, side by side."""
        return 2 * (self.num_heads if self.merged is None else self.merged.num_kv_heads) * self.d_head

    @model_validator(mode="after")
    def _merged_attention_fits(self) -> "DecoderConfig":
        merged = self.merged
        if merged is not None and (len(merged.sliding) != self.num_layers or self.num_heads % merged.num_kv_heads):
            raise ValueError(
                f"merged attention of {self.num_layers} layers and {self.num_heads} heads needs one entry of `sliding` "
                f"per layer and a number of num_kv_heads that divides the heads, got {len(merged.sliding)} and "
                f"{merged.num_kv_heads}"
            )
        return self
