"""A model from nothing: the architecture a training configuration describes, and its first weights."""

import torch

from actors.model.encoder import ScenesEncoder
from actors.model.model import MultiExitModel
from actors.training.scratch.paper_style import paper_style_config
from conf.decoder import DecoderConfig
from conf.encoder import ScenesEncoderConfig
from conf.model import ModelConfig
from conf.training import ArchitectureConfig, TrainConfig


def model_config(config: TrainConfig, vocab_size: int) -> ModelConfig:
    """Return the architecture that the training configuration describes, with the prefix its outputs begin with."""
    a = config.architecture
    model = _scenes_config(a, vocab_size) if a.kind == "scenes" else paper_style_config(a, vocab_size)
    text = model.text.model_copy(update={"decoder_prefix": config.data.decoder_prefix})
    return model.model_copy(update={"text": text})


def _scenes_config(a: ArchitectureConfig, vocab_size: int) -> ModelConfig:
    return ModelConfig(
        name=a.name,
        image_size=a.image_size,
        encoder=ScenesEncoderConfig(
            num_layers=a.encoder_layers, d_model=a.d_model, num_heads=a.num_heads, d_ff=a.d_ff,
            stem_channels=a.stem_channels, max_prompt_tokens=a.max_prompt_tokens,
        ),
        decoder=DecoderConfig(
            num_layers=a.decoder_layers, d_model=a.d_model, num_heads=a.num_heads, d_head=a.d_model // a.num_heads,
            d_ff=a.d_ff, d_cross=a.d_model, vocab_size=vocab_size, max_positions=a.max_positions, ffn="relu",
        ),
        exits=tuple(range(1, a.decoder_layers + 1)),
        adapters=a.adapters,
        separate_heads=a.separate_heads,
    )  # fmt: skip


def initialise(model: MultiExitModel) -> None:
    """Draw the weights: normal(0, 0.02) embeddings, scaled output projections so that depth does not add variance."""
    depth = model.config.decoder.num_layers
    for name, parameter in model.named_parameters():
        if name.endswith("patch_positions"):
            continue  # starts as sines and cosines of the grid
        if name.endswith(("embedding.weight", "position_table.weight", "positions.weight")):
            torch.nn.init.normal_(parameter, std=0.02)
        elif parameter.dim() == 2 and "adapters" not in name:
            std = parameter.shape[1] ** -0.5
            if name.endswith(("self_out.weight", "cross_out.weight", "contract.weight", "out.weight")):
                std *= (3 * depth) ** -0.5
            torch.nn.init.normal_(parameter, std=std)
    if not isinstance(model.encoder, ScenesEncoder):
        model.encoder.initialise()
        if model.decoder.absolute_bias is not None:
            model.decoder.absolute_bias.initialise()
        return
    for layer in model.encoder.layers:
        q, k, v = layer.qkv.weight.data.chunk(3)
        _look_alike(q, k, v, layer.out.weight.data)
    for block in model.decoder.layers:
        k, v = block.cross_kv_proj.weight.data.chunk(2)
        _look_alike(block.query.weight.data, k, v, block.cross_out.weight.data)


def _look_alike(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor) -> None:
    """Half of the heads begin by attending to what resembles the query and by copying it (out = v transposed).

    A name in a question then finds the patch of that name, and a patch's name reaches the output, from the first step.
    """
    half = q.shape[0] // 2
    k[:half] = q[:half]
    out[:, :half] = v[:half].T * (out.std() / v.std())
