"""The two architectures of the paper, at the size one trains from nothing: LaTr-style (T5) and OFA-style (BART)."""

from conf.decoder import AbsoluteBias, DecoderConfig, RelativeBias
from conf.encoder import LatrEncoderConfig, OfaEncoderConfig
from conf.model import ModelConfig
from conf.text_rules import TextRules
from conf.training import ArchitectureConfig


def paper_style_config(a: ArchitectureConfig, vocab_size: int) -> ModelConfig:
    """Return the architecture of kind latr or ofa."""
    shape = {
        "num_layers": a.encoder_layers, "d_model": a.d_model, "num_heads": a.num_heads, "d_ff": a.d_ff,
        "stem_channels": a.stem_channels, "max_prompt_tokens": a.max_prompt_tokens,
    }  # fmt: skip
    d_head = a.d_model // a.num_heads
    common = {
        "num_layers": a.decoder_layers, "d_model": a.d_model, "num_heads": a.num_heads, "d_head": d_head,
        "d_ff": a.d_ff, "d_cross": a.d_model, "vocab_size": vocab_size, "max_positions": a.max_positions,
        "positions": "none",
    }  # fmt: skip
    encoder: LatrEncoderConfig | OfaEncoderConfig
    if a.kind == "latr":
        encoder = LatrEncoderConfig.model_validate(shape)
        decoder = {**common, "norm": "rms", "ffn": "relu", "relative_bias": RelativeBias()}
    else:
        encoder = OfaEncoderConfig.model_validate(shape)
        patches = (a.image_size // 2 ** (len(a.stem_channels) + 1)) ** 2
        decoder = {
            **common, "norm": "layer", "norm_eps": 1e-5, "ffn": "gelu", "attn_bias": True, "ffn_bias": True,
            "embed_norm": True, "attn_scale": (2 * d_head) ** -0.5, "sublayer_norm": True, "head_gains": True,
            "residual_gain": True, "absolute_bias": AbsoluteBias(max_context=patches + a.max_prompt_tokens),
        }  # fmt: skip
    return ModelConfig(
        name=a.name,
        family=a.kind,
        image_size=a.image_size,
        encoder=encoder,
        decoder=DecoderConfig.model_validate(decoder),
        text=TextRules(words=a.kind == "latr"),
        exits=tuple(range(1, a.decoder_layers + 1)),
        adapters=a.adapters,
        separate_heads=a.separate_heads,
    )
