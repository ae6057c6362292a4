"""Tiny random models, one per published checkpoint's kind, as directories that `transformers` itself has written.

Image processors have the settings of the published checkpoints; sizes are scaled down, ratios, filters, paddings and
statistics are theirs. Tokenizers are made here: nothing is downloaded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from tests.actors.interop import t5gemma2
from tests.actors.interop.sources import _bart_settings, randomise

LAYERS = 3
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
_SENTENCES = (
    "What does the image describe? a dog on the grass beside a red car. How many people are there? Two men.",
    "The total of this receipt is 12.95 in all; read the text in the image, with regions, and locate the objects.",
)


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


@cache
def _bytes_bpe(special: tuple[str, ...]) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=len(special) + 256 + 40, special_tokens=list(special), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(_SENTENCES, trainer)
    return str(tokenizer.to_str())


def bart_tokenizer(*more: str, **named: str) -> Any:
    """<s> text </s>, byte-level; `more` are tokens of a task, `named` are special ones with a name of their own."""
    from transformers import PreTrainedTokenizerFast

    special = ("<s>", "<pad>", "</s>", "<unk>", *named.values())
    tokenizer = Tokenizer.from_str(_bytes_bpe(special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_tokens(list(more))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        extra_special_tokens=named,
    )  # fmt: skip


def t5_tokenizer() -> Any:
    """text </s>, byte-level."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer.from_str(_bytes_bpe(("<pad>", "</s>", "<unk>")))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def udop_tokenizer() -> Any:
    from transformers import UdopTokenizer

    letters = sorted(set("".join(_SENTENCES)) - {" "})
    words = sorted({f"▁{word}" for sentence in _SENTENCES for word in sentence.split()})
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    return UdopTokenizer(vocab=[*pieces, *((piece, -3.0 - len(piece) / 9) for piece in (*words, *letters))])


def gemma_tokenizer() -> Any:
    """<bos> text, of pieces that hold their spaces, and the three tokens of an image."""
    from transformers import GemmaTokenizer

    letters = sorted(set("".join(_SENTENCES)) - {" "})
    pieces = (
        "<pad>",
        "<eos>",
        "<bos>",
        "<unk>",
        "<mask>",
        "▁",
        "\n",
        "\n\n",
        *letters,
        "do",
        "dog",
        "▁dog",
        "th",
        "▁th",
    )
    merges = [("\n", "\n"), ("d", "o"), ("do", "g"), ("▁", "dog"), ("t", "h"), ("▁", "th")]
    images = {"boi_token": "<start_of_image>", "image_token": "<image_soft_token>", "eoi_token": "<end_of_image>"}
    vocab = {piece: i for i, piece in enumerate(pieces)}
    return GemmaTokenizer(vocab=vocab, merges=merges, add_bos_token=True, extra_special_tokens=images)


def _vit(decoder: Any, height: int = 32, width: int = 32) -> Any:
    """A vision-encoder-decoder on a ViT."""
    from transformers import VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig

    vit = ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=[height, width],
        patch_size=8,
    )  # fmt: skip
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(vit, decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 2, 1, 2
    return VisionEncoderDecoderModel(config)


def _trocr(height: int, width: int) -> tuple[Any, Any]:
    from transformers import TrOCRConfig, TrOCRProcessor, ViTImageProcessor

    tokenizer = bart_tokenizer()
    decoder = TrOCRConfig(
        vocab_size=len(tokenizer), d_model=24, decoder_layers=LAYERS, decoder_attention_heads=3, decoder_ffn_dim=40,
        max_position_embeddings=48, cross_attention_hidden_size=24,
    )  # fmt: skip
    images = ViTImageProcessor(size={"height": height, "width": width}, resample=2, **HALF)
    return _vit(decoder, height, width), TrOCRProcessor(images, tokenizer)


def _deit_bart() -> tuple[Any, Any]:
    from transformers import BartConfig, DeiTImageProcessor

    tokenizer = bart_tokenizer()
    settings = _bart_settings(vocab_size=len(tokenizer), is_decoder=True, add_cross_attention=True)
    side, crop = {"height": 37, "width": 37}, {"height": 32, "width": 32}  # 256 and 224
    processor = DeiTImageProcessor(size=side, crop_size=crop, do_center_crop=True, resample=3, **IMAGENET)
    return _vit(BartConfig(**settings)), (processor, tokenizer)


def _swin_mbart(tokenizer: Any, height: int, width: int) -> Any:
    from transformers import DonutSwinConfig, MBartConfig, VisionEncoderDecoderConfig, VisionEncoderDecoderModel

    swin = DonutSwinConfig(
        image_size=[height, width], patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4
    )
    settings = _bart_settings(
        vocab_size=len(tokenizer), scale_embedding=True, is_decoder=True, add_cross_attention=True,
        encoder_layers=LAYERS,  # `generate` sizes its cache by it
    )  # fmt: skip
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(swin, MBartConfig(**settings))
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

    tokenizer = bart_tokenizer()
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


def _florence2() -> tuple[Any, Any]:
    from transformers import (
        CLIPImageProcessor,
        Florence2Config,
        Florence2ForConditionalGeneration,
        Florence2Processor,
    )

    tokenizer = bart_tokenizer(image_token="<image>")
    vision = {
        "depths": (1, 1, 1, 1), "embed_dim": (8, 8, 8, 16), "num_heads": (1, 1, 1, 2), "num_groups": (1, 1, 1, 2),
        "projection_dim": 24, "window_size": 4,
    }  # fmt: skip
    config = Florence2Config(
        text_config={"model_type": "bart", **_bart_settings(vocab_size=len(tokenizer))},
        vision_config=vision, image_token_id=tokenizer.image_token_id,
    )  # fmt: skip
    model = Florence2ForConditionalGeneration(config)
    model.generation_config.update(forced_bos_token_id=0, no_repeat_ngram_size=3, num_beams=3)
    side = {"height": 64, "width": 64}  # 768
    images = CLIPImageProcessor(size=side, crop_size=side, do_center_crop=False, resample=3, **IMAGENET)
    images.image_seq_length = 2 * 2 + 1  # 577
    return model, Florence2Processor(images, tokenizer)


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
    "donut": Kind(_donut, decoder_prefix="<s_cord-v2>"),
    "donut_turned": Kind(_donut_turned, decoder_prefix="<s_rvlcdip>"),
    "nougat": Kind(_nougat),
    "pix2struct": Kind(lambda: _pix2struct(vqa=False), gain=1.0),
    "pix2struct_vqa": Kind(lambda: _pix2struct(vqa=True), "How many people are there?", gain=1.0),
    "florence2": Kind(_florence2, "<CAPTION>", gain=1.1),
    "t5gemma2": Kind(_t5gemma2, "What does the image describe?"),
    "udop": Kind(_udop, "read the text\n100 100 400 200\tThe\n420 110 700 205\ttotal"),
}
