"""The models: a checkpoint for our engine, and where `transformers` has the class, the very same weights for it.

Random weights are drawn once into `work_dir`; nothing is downloaded. Weights are read as memory maps, so that the
processes of all variants share them.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from actors.model.checkpoint import save_checkpoint
from actors.model.interop.conversion import convert
from actors.model.interop.model_directory import read_source
from conf.bench import BenchConfig, BenchModel
from jobs.bench.engine.places import folder_of

_NEVER = 1  # the end token of the source; its embedding is zero, so that no output holds it
# Of the library's initial weights, so that outputs vary: layers must speak louder than the token before, and attention
# must choose.
_EMBEDDING_SCALE, _ATTENTION_SCALE = 0.1, 4.0


@dataclass(frozen=True)
class RandomModel:
    """`prompt_tokens`: shortest and longest prompt. `side`: of the grid of patches, for models that see."""

    build: Callable[[], Any]
    prompt_tokens: tuple[int, int]
    side: int = 0


def _t5(**sizes: int) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0))


def _pix2struct(text: dict[str, int], vision: dict[str, int]) -> Any:
    from transformers import Pix2StructConfig, Pix2StructForConditionalGeneration

    config = Pix2StructConfig(text_config={**text, "decoder_start_token_id": 0}, vision_config=vision)
    return Pix2StructForConditionalGeneration(config)


def _t5gemma2(text: dict[str, int], vision: dict[str, int], *, tokens: int, encoder_layers: int) -> Any:
    """Return a model whose last ids are an image's: begin, end and place, as published."""
    from transformers import T5Gemma2Config, T5Gemma2ForConditionalGeneration

    begin = text["vocab_size"] * 125 // 128
    special = {"pad_token_id": 0, "eos_token_id": _NEVER, "bos_token_id": 2}
    encoder = {
        "text_config": {**text, **special, "num_hidden_layers": encoder_layers}, "vision_config": vision,
        "mm_tokens_per_image": tokens, "boi_token_index": begin, "eoi_token_index": begin + 1,
    }  # fmt: skip
    config = T5Gemma2Config(encoder=encoder, decoder={**text, **special}, image_token_index=begin + 2)
    return T5Gemma2ForConditionalGeneration(config)


RANDOM_MODELS = {
    BenchModel.T5_BASE: RandomModel(
        lambda: _t5(
            vocab_size=32128, d_model=768, d_kv=64, d_ff=3072, num_layers=12, num_decoder_layers=12, num_heads=12
        ),
        prompt_tokens=(32, 64),
    ),
    BenchModel.PIX2STRUCT_BASE: RandomModel(
        lambda: _pix2struct(
            {"vocab_size": 50244, "hidden_size": 768, "d_kv": 64, "d_ff": 2048, "num_layers": 12, "num_heads": 12},
            {"hidden_size": 768, "patch_embed_hidden_size": 768, "d_ff": 2048, "d_kv": 64, "num_hidden_layers": 12,
             "num_attention_heads": 12, "seq_len": 4096},
        ),
        prompt_tokens=(1, 1),
        side=16,  # 256 patches; the published checkpoints take up to 2048, which no two cores encode in a minute
    ),
    BenchModel.T5GEMMA2_270M: RandomModel(  # the decoder is that of the published checkpoint, the encoder small
        lambda: _t5gemma2(
            {"vocab_size": 262144, "hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18,
             "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "sliding_window": 512},
            {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2,
             "image_size": 64, "patch_size": 4},
            tokens=256, encoder_layers=2,
        ),
        prompt_tokens=(8, 16),
    ),
    BenchModel.T5_TINY: RandomModel(
        lambda: _t5(vocab_size=120, d_model=32, d_kv=8, d_ff=48, num_layers=4, num_decoder_layers=4, num_heads=4),
        prompt_tokens=(3, 9),
    ),
    BenchModel.PIX2STRUCT_TINY: RandomModel(
        lambda: _pix2struct(
            {"vocab_size": 120, "hidden_size": 32, "d_kv": 8, "d_ff": 48, "num_layers": 4, "num_heads": 4},
            {"hidden_size": 32, "patch_embed_hidden_size": 48, "d_ff": 32, "d_kv": 8, "num_hidden_layers": 2,
             "num_attention_heads": 4, "seq_len": 64},
        ),
        prompt_tokens=(1, 1),
        side=4,
    ),
    BenchModel.T5GEMMA2_TINY: RandomModel(
        lambda: _t5gemma2(
            {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
             "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 4},
            {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
             "image_size": 32, "patch_size": 8},
            tokens=4, encoder_layers=1,
        ),
        prompt_tokens=(3, 9),
    ),
}  # fmt: skip


def make_model(config: BenchConfig, model: BenchModel) -> None:
    """Draw a random model and write all its forms, unless they are there."""
    folder = folder_of(config, model)
    if model is BenchModel.SCENES or folder.is_dir():
        return
    from transformers.utils import logging

    logging.disable_progress_bar()
    spec, partial = RANDOM_MODELS[model], folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    torch.manual_seed(config.seed)
    theirs = spec.build().eval()
    with torch.no_grad():
        for embedding in {id(m): m for m in (theirs.get_output_embeddings(), _input_embedding(theirs))}.values():
            embedding.weight[_NEVER] = 0.0
        _input_embedding(theirs).weight.mul_(_EMBEDDING_SCALE)
        for name, weight in theirs.named_parameters():
            if name.endswith(("SelfAttention.q.weight", "attention.query.weight", "relative_attention_bias.weight")):
                weight.mul_(_ATTENTION_SCALE)
            if name.endswith("EncDecAttention.o.weight"):  # what is read is nearly the same at every step
                weight.mul_(1 / _ATTENTION_SCALE)
            if name.endswith("DenseReluDense.wo.weight"):  # ReLU's mean would say the same at every step
                weight.sub_(weight.mean(dim=1, keepdim=True))
    theirs.save_pretrained(partial / "hf")
    if spec.side:
        (partial / "hf" / "preprocessor_config.json").write_text(f'{{"max_patches": {spec.side**2}}}')
    exits = None  # quarters of the depth
    converted = convert(read_source(partial / "hf"), None, name=model.value, exits=exits)
    ours = converted.config.model_copy(update={"gates": True})
    width = ours.decoder.d_model
    gates = {}
    for layer in ours.exits[:-1]:
        gates[f"decoder.gates.{layer}.weight"] = torch.zeros(1, width)
        gates[f"decoder.gates.{layer}.bias"] = torch.zeros(1)
    save_checkpoint(partial / "ours", ours, converted.state | gates, Tokenizer(WordLevel({"w0": 0}, unk_token="w0")))
    if model in (BenchModel.T5_BASE, BenchModel.T5_TINY):
        _save_ctranslate2(theirs, partial / "ct2")
    partial.rename(folder)


def _input_embedding(theirs: Any) -> Any:
    decoder = theirs.get_decoder() if hasattr(theirs, "get_decoder") else theirs.decoder
    return decoder.get_input_embeddings()


def token_names(vocab_size: int) -> list[str]:
    """Return the names of tokens, by which CTranslate2 takes them."""
    return ["<pad>", "</s>", "<unk>", *(f"w{i}" for i in range(3, vocab_size))]


def _save_ctranslate2(theirs: Any, path: Path) -> None:
    """Save by the package's own loader for the class; do nothing where the package is not installed."""
    try:
        from ctranslate2.converters.transformers import T5Loader
    except ImportError:
        return
    spec = T5Loader().get_model_spec(theirs)
    names = token_names(theirs.config.vocab_size)
    spec.register_source_vocabulary(names)
    spec.register_target_vocabulary(names)
    spec.config.bos_token = spec.config.decoder_start_token = names[0]
    spec.config.eos_token, spec.config.unk_token = names[_NEVER], names[2]
    spec.validate()
    spec.optimize(quantization=None)
    path.mkdir(parents=True)
    spec.save(str(path))
