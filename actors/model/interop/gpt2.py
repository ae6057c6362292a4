"""GPT-2 with cross-attention, the decoder of ViT-GPT2 (Radford et al. 2019). Its matrices are stored transposed."""

from typing import Any

from actors.model.interop.family import activation
from actors.model.interop.weight_names import NameMap, fused
from conf.decoder import DecoderConfig
from conf.errors import UserError

_BOTH = ("weight", "bias")
TRANSPOSED = r".*\.h\.\d+\..*\.(c_attn|q_attn|c_proj|c_fc)\.weight"  # pattern of the tensors that are


def gpt2_decoder(hf: Any, *, tied: bool) -> DecoderConfig:
    """`hf` is a GPT-2 configuration; UserError where its layers scale their scores each in its own way."""
    if hf.scale_attn_by_inverse_layer_idx:
        raise UserError("GPT-2 with scale_attn_by_inverse_layer_idx is not supported")
    return DecoderConfig(
        num_layers=hf.num_hidden_layers,
        d_model=hf.hidden_size,
        num_heads=hf.num_attention_heads,
        d_head=hf.hidden_size // hf.num_attention_heads,
        d_ff=hf.n_inner or 4 * hf.hidden_size,
        d_cross=hf.hidden_size,
        vocab_size=hf.vocab_size,
        norm="layer",
        norm_eps=hf.layer_norm_epsilon,
        attn_scale=None if hf.scale_attn_weights else 1.0,
        attn_bias=True,
        ffn_bias=True,
        ffn=activation(hf.activation_function),
        positions="learned",
        max_positions=hf.max_position_embeddings,
        head_tied=tied,
    )


def gpt2_names(config: DecoderConfig, *, stack: str, head: str) -> NameMap:
    """`stack` is the prefix of embeddings and layers."""
    names: NameMap = {
        "decoder.embedding.weight": (f"{stack}wte.weight",),
        "decoder.position_table.weight": (f"{stack}wpe.weight",),
        **fused("decoder.final_norm", stack, ["ln_f"], _BOTH),
    }
    if not config.head_tied:
        names["decoder.head.weight"] = (head,)
    for i in range(config.num_layers):
        for ours, theirs in {
            "qkv": "attn.c_attn",
            "self_out": "attn.c_proj",
            "self_norm": "ln_1",
            "query": "crossattention.q_attn",
            "cross_kv_proj": "crossattention.c_attn",
            "cross_out": "crossattention.c_proj",
            "cross_norm": "ln_cross_attn",
            "ffn.expand": "mlp.c_fc",
            "ffn.contract": "mlp.c_proj",
            "ffn_norm": "ln_2",
        }.items():
            names |= fused(f"decoder.layers.{i}.{ours}", f"{stack}h.{i}.", [theirs], _BOTH)
    return names
