"""Small models of `transformers` and their own processors: what `train` trains and a directory of them holds."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer

from actors.model.tokenizer import train_tokenizer

LAYERS, WIDTH, FFN, HEADS = 4, 64, 128, 4  # of the decoders trained on strips
DEEP, WIDE, WIDE_FFN, WIDE_HEADS = 8, 64, 192, 2  # of the decoders trained on scenes
ENCODER_LAYERS, SCENE_PX, PATCH_PX = 3, 64, 8  # of their encoders
INIT_STD = 0.05  # the library's 0.02 suits widths of several hundred
PAD, START, END = 0, 1, 2  # as `train_tokenizer` numbers them
TASK = "<s_scene>"  # Donut's prompt


@dataclass(frozen=True)
class Trainable:
    """`build` makes the model for a vocabulary, `processor` what its own pictures go through.

    A step sees `batch` pictures, each with some of its captions and questions. `is_asked`: outputs begin with the
    prompt or the question. Matrices inside the layers move at `muon_rate`, everything else at `learning_rate`.
    """

    build: Callable[[Tokenizer], Any]
    processor: Callable[[], Any]
    learning_rate: float
    muon_rate: float = 0.0
    batch: int = 32
    steps: int = 1_500
    captions: int = 1
    questions: int = 0
    is_asked: bool = False
    special_tokens: tuple[str, ...] = ()


def _pix2struct(tokenizer: Tokenizer) -> Any:
    from transformers import Pix2StructConfig, Pix2StructForConditionalGeneration

    text = {
        "vocab_size": tokenizer.get_vocab_size(), "hidden_size": WIDTH, "d_kv": WIDTH // HEADS, "d_ff": FFN,
        "num_layers": LAYERS, "num_heads": HEADS, "pad_token_id": PAD, "decoder_start_token_id": START,
        "eos_token_id": END, "dropout_rate": 0.0,
    }  # fmt: skip
    vision = {
        "hidden_size": WIDTH, "patch_embed_hidden_size": 8 * 8 * 3, "d_ff": FFN, "d_kv": WIDTH // HEADS,
        "num_hidden_layers": 2, "num_attention_heads": HEADS, "seq_len": 128, "dropout_rate": 0.0,
    }  # fmt: skip
    config = Pix2StructConfig(text_config=text, vision_config=vision)
    config.pad_token_id, config.decoder_start_token_id, config.eos_token_id = PAD, START, END
    return Pix2StructForConditionalGeneration(config)


def _pix2struct_processor() -> Any:
    from transformers import Pix2StructImageProcessorPil

    return Pix2StructImageProcessorPil(max_patches=64, patch_size={"height": 8, "width": 8})


def _donut(tokenizer: Tokenizer) -> Any:
    from transformers import DonutSwinConfig, MBartConfig, VisionEncoderDecoderConfig, VisionEncoderDecoderModel

    encoder = DonutSwinConfig(
        image_size=[96, 72], patch_size=4, embed_dim=32, depths=[2, 2], num_heads=[2, 4], window_size=6,
        mlp_ratio=2.0, drop_path_rate=0.0,
    )  # fmt: skip
    decoder = MBartConfig(
        vocab_size=tokenizer.get_vocab_size(), d_model=WIDTH, decoder_layers=LAYERS, decoder_ffn_dim=FFN,
        decoder_attention_heads=HEADS, encoder_layers=LAYERS, scale_embedding=True, is_decoder=True,
        add_cross_attention=True, dropout=0.0, max_position_embeddings=64,
    )  # fmt: skip
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id = tokenizer.token_to_id(TASK)
    config.pad_token_id, config.eos_token_id = PAD, END
    model = VisionEncoderDecoderModel(config)
    generation = model.generation_config
    generation.decoder_start_token_id, generation.pad_token_id, generation.eos_token_id = (
        config.decoder_start_token_id, PAD, END,
    )  # fmt: skip
    generation.forced_eos_token_id = generation.bos_token_id = None
    return model


def _donut_processor() -> Any:
    from transformers import DonutImageProcessorPil

    return DonutImageProcessorPil(size={"height": 96, "width": 72}, do_align_long_axis=True)


def _pix2struct8(tokenizer: Tokenizer) -> Any:
    from transformers import Pix2StructConfig, Pix2StructForConditionalGeneration

    text = {
        "vocab_size": tokenizer.get_vocab_size(), "hidden_size": WIDE, "d_kv": WIDE // WIDE_HEADS, "d_ff": WIDE_FFN,
        "num_layers": DEEP, "num_heads": WIDE_HEADS, "pad_token_id": PAD, "decoder_start_token_id": START,
        "eos_token_id": END, "dropout_rate": 0.0,
    }  # fmt: skip
    vision = {
        "hidden_size": WIDE, "patch_embed_hidden_size": PATCH_PX * PATCH_PX * 3, "d_ff": WIDE_FFN,
        "d_kv": WIDE // WIDE_HEADS, "num_hidden_layers": ENCODER_LAYERS, "num_attention_heads": WIDE_HEADS,
        "seq_len": 128, "dropout_rate": 0.0, "initializer_range": INIT_STD,
    }  # fmt: skip
    config = Pix2StructConfig(text_config=text, vision_config=vision, initializer_range=INIT_STD)
    config.pad_token_id, config.decoder_start_token_id, config.eos_token_id = PAD, START, END
    return Pix2StructForConditionalGeneration(config)


def _pix2struct8_processor() -> Any:
    from transformers import Pix2StructImageProcessorPil

    patches = (SCENE_PX // PATCH_PX) ** 2
    return Pix2StructImageProcessorPil(max_patches=patches, patch_size={"height": PATCH_PX, "width": PATCH_PX})


def _bart8(tokenizer: Tokenizer) -> Any:
    from transformers import MBartConfig, VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig

    encoder = ViTConfig(
        hidden_size=WIDE, num_hidden_layers=ENCODER_LAYERS, num_attention_heads=WIDE_HEADS,
        intermediate_size=2 * WIDE_FFN, image_size=SCENE_PX, patch_size=PATCH_PX, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, initializer_range=INIT_STD,
    )  # fmt: skip
    decoder = MBartConfig(
        vocab_size=tokenizer.get_vocab_size(), d_model=WIDE, decoder_layers=DEEP, decoder_ffn_dim=WIDE_FFN,
        decoder_attention_heads=WIDE_HEADS, encoder_layers=DEEP, scale_embedding=False, is_decoder=True,
        add_cross_attention=True, dropout=0.0, max_position_embeddings=96, init_std=INIT_STD,
        pad_token_id=PAD, bos_token_id=START, eos_token_id=END, decoder_start_token_id=START,
    )  # fmt: skip
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = START, PAD, END
    model = VisionEncoderDecoderModel(config)
    generation = model.generation_config
    generation.decoder_start_token_id, generation.pad_token_id, generation.eos_token_id = START, PAD, END
    generation.forced_eos_token_id = generation.bos_token_id = None
    return model


def _bart8_processor() -> Any:
    from transformers import ViTImageProcessorPil

    return ViTImageProcessorPil(size={"height": SCENE_PX, "width": SCENE_PX})


_ON_SCENES: dict[str, Any] = {
    "muon_rate": 1e-2,
    "batch": 32,
    "steps": 4_000,
    "captions": 1,
    "questions": 2,
    "is_asked": True,
}
MODELS = {
    "pix2struct": Trainable(_pix2struct, _pix2struct_processor, 3e-3),
    "donut": Trainable(_donut, _donut_processor, 2e-3, special_tokens=(TASK,)),
    "pix2struct8": Trainable(_pix2struct8, _pix2struct8_processor, 2e-3, **_ON_SCENES),
    "bart8": Trainable(_bart8, _bart8_processor, 2e-3, **_ON_SCENES),
}
STRIPS, SCENES = ("pix2struct", "donut"), ("pix2struct8", "bart8")


def make_tokenizer(texts: Iterable[str], special_tokens: tuple[str, ...]) -> Tokenizer:
    tokenizer = train_tokenizer(texts, 512)
    tokenizer.add_special_tokens(list(special_tokens))
    return tokenizer


def inputs_of(processor: Any, images: list[Image.Image]) -> dict[str, torch.Tensor]:
    """What `forward` and `generate` take for pictures, by the library's own processor."""
    return dict(processor(images, return_tensors="pt"))


def save_directory(folder: Path, model: Any, processor: Any, tokenizer: Tokenizer) -> None:
    """Write what a published directory holds, by the library's own writers; weights in half precision."""
    from transformers import PreTrainedTokenizerFast

    copy.deepcopy(model).half().save_pretrained(folder)
    processor.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
