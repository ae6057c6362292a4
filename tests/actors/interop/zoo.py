"""Tiny random models, one per published checkpoint's kind, as directories that `transformers` itself has written.

Image processors have the settings of the published checkpoints; sizes are scaled down, ratios, filters, paddings and
statistics are theirs. Nothing is downloaded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from conf.source import DEFAULT_PROMPT
from tests.actors.interop import t5gemma2
from tests.actors.interop.prompted_models import blip2
from tests.actors.interop.sources import randomise
from tests.actors.interop.text_models import bart_settings
from tests.actors.interop.vision_models import text_decoder, vision_encoder_decoder
from tests.actors.interop.zoo_tokenizers import (
    bart_tokenizer,
    bert_tokenizer,
    gemma_tokenizer,
    gpt2_tokenizer,
    nougat_tokenizer,
    t5_tokenizer,
    udop_tokenizer,
)

LAYERS = 3
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}


@dataclass(frozen=True)
class Kind:
    """`build` gives a model and its processor; `prompt` is what every picture is asked ("": nothing).

    `decoder_prefix`: what outputs begin with. `gain`: of the random weights.
    """

    build: Callable[[], tuple[Any, Any]]
    prompt: str = ""
    decoder_prefix: str = ""
    gain: float = 1.5


def write(kind: str, path: Path, seed: int) -> Path:
    """Write the model of a kind with the weights of a seed; returns the directory."""
    model, processor = ZOO[kind].build()
    randomise(model.eval(), seed, ZOO[kind].gain)
    model.save_pretrained(path)
    for part in processor if isinstance(processor, tuple) else (processor,):
        part.save_pretrained(path)
    return path


def _trocr(height: int, width: int) -> tuple[Any, Any]:
    from transformers import TrOCRConfig, TrOCRProcessor, ViTConfig, ViTImageProcessor

    tokenizer = bart_tokenizer()
    decoder = TrOCRConfig(
        vocab_size=len(tokenizer), d_model=24, decoder_layers=LAYERS, decoder_attention_heads=3, decoder_ffn_dim=40,
        max_position_embeddings=48, cross_attention_hidden_size=24,
    )  # fmt: skip
    vit = ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=[height, width],
        patch_size=8,
    )  # fmt: skip
    images = ViTImageProcessor(size={"height": height, "width": width}, resample=2, **HALF)
    return vision_encoder_decoder(decoder, vit), TrOCRProcessor(images, tokenizer)


def _named(model: Any, **ids: int) -> Any:
    """Give a vision-encoder-decoder its special tokens."""
    for config in (model.config, model.generation_config):
        for name, token_id in ids.items():
            setattr(config, name, token_id)
    return model


def _vit_gpt2() -> tuple[Any, Any]:
    from transformers import GPT2Config, ViTImageProcessor

    tokenizer = gpt2_tokenizer()
    end = {"bos_token_id": 0, "eos_token_id": 0}
    model = vision_encoder_decoder(GPT2Config(**text_decoder(vocab_size=len(tokenizer), n_inner=40, **end)))
    images = ViTImageProcessor(size={"height": 32, "width": 32}, resample=2, **HALF)  # 224
    return _named(model, decoder_start_token_id=0, pad_token_id=0, **end), (images, tokenizer)


def _manga() -> tuple[Any, Any]:
    from transformers import BertConfig, DeiTConfig, ViTImageProcessor

    tokenizer = bert_tokenizer()
    deit = DeiTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    decoder = BertConfig(**text_decoder(vocab_size=len(tokenizer), intermediate_size=40, pad_token_id=0))
    images = ViTImageProcessor(size={"height": 32, "width": 32}, resample=2, **HALF)  # 224
    ids = {"decoder_start_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    return _named(vision_encoder_decoder(decoder, deit), **ids), (images, tokenizer)


def _blip(answers: bool) -> tuple[Any, Any]:
    from transformers import (
        BlipConfig,
        BlipForConditionalGeneration,
        BlipForQuestionAnswering,
        BlipImageProcessor,
        BlipProcessor,
    )

    tokenizer = bert_tokenizer("[DEC]", "[ENC]")
    text = text_decoder(
        vocab_size=len(tokenizer), intermediate_size=40, bos_token_id=len(tokenizer) - 2, sep_token_id=3, pad_token_id=0
    )
    vision = {
        "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32,
        "patch_size": 8,
    }  # fmt: skip
    config = BlipConfig(text_config=text, vision_config=vision)
    images = BlipImageProcessor(size={"height": 32, "width": 32}, resample=3, **CLIP)  # 384
    model = (BlipForQuestionAnswering if answers else BlipForConditionalGeneration)(config)
    return model, BlipProcessor(images, tokenizer)


def _decoder_settings(tokenizer: Any) -> dict[str, Any]:
    """Of a BART or mBART that is the decoder of another model; `generate` sizes its cache by the encoder's layers."""
    layers = {"encoder_layers": LAYERS, "decoder_layers": LAYERS}
    return bart_settings(vocab_size=len(tokenizer), is_decoder=True, add_cross_attention=True, **layers)


def _deit_bart() -> tuple[Any, Any]:
    from transformers import BartConfig, DeiTImageProcessor

    tokenizer = bart_tokenizer()
    settings = _decoder_settings(tokenizer)
    side, crop = {"height": 37, "width": 37}, {"height": 32, "width": 32}  # 256 and 224
    processor = DeiTImageProcessor(size=side, crop_size=crop, do_center_crop=True, resample=3, **IMAGENET)
    return vision_encoder_decoder(BartConfig(**settings)), (processor, tokenizer)


def _swin_mbart(tokenizer: Any, height: int, width: int) -> Any:
    from transformers import DonutSwinConfig, MBartConfig, VisionEncoderDecoderConfig, VisionEncoderDecoderModel

    swin = DonutSwinConfig(
        image_size=[height, width], patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4
    )
    decoder = MBartConfig(**_decoder_settings(tokenizer), scale_embedding=True)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(swin, decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 2, 1, 2
    return VisionEncoderDecoderModel(config)


def _donut() -> tuple[Any, Any]:
    from transformers import DonutImageProcessor, DonutProcessor

    tokenizer = bart_tokenizer("<s_cord-v2>", "<s_menu>", "</s_menu>")
    size = {"height": 64, "width": 48}  # 1280 x 960
    images = DonutImageProcessor(size=size, do_thumbnail=True, do_align_long_axis=False, do_pad=True, resample=2,
                                 **HALF)  # fmt: skip
    return _swin_mbart(tokenizer, 64, 48), DonutProcessor(images, tokenizer)


def _donut_turned() -> tuple[Any, Any]:
    from transformers import DonutImageProcessor, DonutProcessor

    tokenizer = bart_tokenizer("<s_rvlcdip>")
    images = DonutImageProcessor(size={"height": 64, "width": 48}, do_align_long_axis=True, resample=2, **HALF)
    return _swin_mbart(tokenizer, 64, 48), DonutProcessor(images, tokenizer)


def _nougat() -> tuple[Any, Any]:
    from transformers import NougatImageProcessor

    tokenizer = nougat_tokenizer()
    size = {"height": 64, "width": 48}  # 896 x 672
    images = NougatImageProcessor(size=size, do_crop_margin=True, do_align_long_axis=False, resample=2, **IMAGENET)
    return _swin_mbart(tokenizer, 64, 48), (images, tokenizer)


def _pix2struct(vqa: bool) -> tuple[Any, Any]:
    from transformers import (
        Pix2StructConfig,
        Pix2StructForConditionalGeneration,
        Pix2StructImageProcessor,
        Pix2StructProcessor,
    )

    tokenizer = t5_tokenizer()
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "d_kv": 8, "d_ff": 48, "num_layers": LAYERS, "num_heads": 4,
        "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "patch_embed_hidden_size": 8 * 8 * 3, "d_ff": 32, "d_kv": 8, "num_hidden_layers": 2,
        "num_attention_heads": 4, "seq_len": 96,
    }  # fmt: skip
    model = Pix2StructForConditionalGeneration(Pix2StructConfig(text_config=text, vision_config=vision, is_vqa=vqa))
    patch = {"height": 8, "width": 8}  # of 16, 2,048 of them
    return model, Pix2StructProcessor(Pix2StructImageProcessor(max_patches=90, patch_size=patch, is_vqa=vqa), tokenizer)


def florence2_with(*tokens: str) -> tuple[Any, Any]:
    """Florence-2 with these tokens more."""
    from transformers import (
        CLIPImageProcessor,
        Florence2Config,
        Florence2ForConditionalGeneration,
        Florence2Processor,
    )

    tokenizer = bart_tokenizer(*tokens, image_token="<image>")
    vision = {
        "depths": (1, 1, 1, 1), "embed_dim": (8, 8, 8, 16), "num_heads": (1, 1, 1, 2), "num_groups": (1, 1, 1, 2),
        "projection_dim": 24, "window_size": 4,
    }  # fmt: skip
    config = Florence2Config(
        text_config={"model_type": "bart", **bart_settings(vocab_size=len(tokenizer))},
        vision_config=vision, image_token_id=tokenizer.image_token_id,
    )  # fmt: skip
    model = Florence2ForConditionalGeneration(config)
    model.generation_config.update(forced_bos_token_id=0, no_repeat_ngram_size=3, num_beams=3)
    side = {"height": 64, "width": 64}  # 768
    images = CLIPImageProcessor(size=side, crop_size=side, do_center_crop=False, resample=3, **IMAGENET)
    images.image_seq_length = 2 * 2 + 1  # 577
    kinds = (
        "pure_text", "ocr", "description_with_bboxes", "description_with_polygons", "polygons", "bboxes",
        "description_with_bboxes_or_polygons",
    )  # fmt: skip
    reading = {**{kind: {} for kind in kinds}, "phrase_grounding": {"banned_grounding_tokens": ["it", "the image"]}}
    return model, Florence2Processor(images, tokenizer, post_processor_config=reading)


def _udop() -> tuple[Any, Any]:
    from transformers import LayoutLMv3ImageProcessor, UdopConfig, UdopForConditionalGeneration, UdopProcessor

    tokenizer = udop_tokenizer()
    model = UdopForConditionalGeneration(UdopConfig(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=48, num_layers=LAYERS, num_decoder_layers=LAYERS,
        num_heads=4, image_size=32, patch_size=8, max_2d_position_embeddings=64, decoder_start_token_id=0,
    ))  # fmt: skip
    side = {"height": 32, "width": 32}  # 224
    images = LayoutLMv3ImageProcessor(size=side, apply_ocr=False, resample=2, **IMAGENET)
    return model, UdopProcessor(images, tokenizer)


def _blip2(kind: str) -> tuple[Any, Any]:
    """`kind` is Blip2 or InstructBlip."""
    import transformers

    tokenizer, qformer = t5_tokenizer(), bert_tokenizer()
    tokenizer.add_tokens([AddedToken("<image>", normalized=False, special=True)], special_tokens=True)
    model = blip2(kind, len(tokenizer), len(tokenizer) - 1, len(qformer))
    images = transformers.BlipImageProcessor(size={"height": 24, "width": 24}, resample=3, **CLIP)  # 224
    parts = (images, tokenizer) if kind == "Blip2" else (images, tokenizer, qformer)
    return model, getattr(transformers, f"{kind}Processor")(*parts, num_query_tokens=model.config.num_query_tokens)


def _t5gemma2() -> tuple[Any, Any]:
    from transformers import Gemma3ImageProcessor, Gemma3Processor

    tokenizer = gemma_tokenizer()
    side = {"height": t5gemma2.SIDE, "width": t5gemma2.SIDE}  # 896, patches of 14, 256 tokens
    images = Gemma3ImageProcessor(size=side, resample=2, **HALF)
    model = t5gemma2.build(
        len(tokenizer), LAYERS, boi_token_index=tokenizer.boi_token_id, eoi_token_index=tokenizer.eoi_token_id,
        image_token_index=tokenizer.image_token_id, pad_token_id=0, eos_token_id=1, bos_token_id=2,
    )  # fmt: skip
    return model, Gemma3Processor(images, tokenizer, image_seq_length=t5gemma2.IMAGE_TOKENS)


ZOO: dict[str, Kind] = {
    "trocr": Kind(lambda: _trocr(32, 32)),  # 384, patches of 16
    "lines": Kind(lambda: _trocr(24, 128)),  # a fine-tune that reads lines of 96 x 512
    "deit_bart": Kind(_deit_bart),
    "vit_gpt2": Kind(_vit_gpt2),
    "manga": Kind(_manga),
    "blip": Kind(lambda: _blip(answers=False), DEFAULT_PROMPT, gain=2.5),
    "blip_begun": Kind(lambda: _blip(answers=False), "a red car beside", gain=2.5),
    "blip_vqa": Kind(lambda: _blip(answers=True), "how many people are there?", gain=4.0),
    "donut": Kind(_donut, decoder_prefix="<s_cord-v2>"),
    "donut_turned": Kind(_donut_turned, decoder_prefix="<s_rvlcdip>"),
    "nougat": Kind(_nougat),
    "pix2struct": Kind(lambda: _pix2struct(vqa=False), gain=1.0),
    "pix2struct_vqa": Kind(lambda: _pix2struct(vqa=True), "How many people are there?", gain=1.0),
    "florence2": Kind(florence2_with, "<CAPTION>", gain=1.1),
    "t5gemma2": Kind(_t5gemma2, "What does the image describe?"),
    "blip2": Kind(lambda: _blip2("Blip2"), "Question: What does the image describe? Answer:", gain=0.9),
    "instructblip": Kind(lambda: _blip2("InstructBlip"), "How many people are there?", gain=0.9),
    "udop": Kind(_udop, "read the text\n100 100 400 200\tThe\n420 110 700 205\ttotal"),
}
