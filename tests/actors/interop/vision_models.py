"""Tiny random models whose images have an encoder of their own: vision-encoder-decoders and BLIP."""

from typing import Any

from tests.actors.interop.text_models import LAYERS, VOCAB, bart_settings


def text_decoder(**changes: Any) -> dict[str, Any]:
    """Settings of a decoder of BERT's kind or GPT-2's, whose configurations speak of hidden layers."""
    return {
        "vocab_size": VOCAB, "hidden_size": 24, "num_hidden_layers": LAYERS, "num_attention_heads": 3,
        "max_position_embeddings": 48, "is_decoder": True, "add_cross_attention": True, **changes,
    }  # fmt: skip


def vit_gpt2() -> Any:
    from transformers import GPT2Config

    return vision_encoder_decoder(GPT2Config(**text_decoder(n_inner=40, bos_token_id=0, eos_token_id=2)))


def vit_gpt2_untied() -> Any:
    from transformers import GPT2Config

    return vision_encoder_decoder(
        GPT2Config(
            **text_decoder(tie_word_embeddings=False, activation_function="relu", bos_token_id=0, eos_token_id=2)
        )
    )


def deit_bert() -> Any:
    """Manga-OCR's kind."""
    from transformers import BertConfig, DeiTConfig

    deit = DeiTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    decoder = BertConfig(**text_decoder(intermediate_size=40, pad_token_id=1))
    return vision_encoder_decoder(decoder, deit)  # widths 16 and 24: the states are projected


def swin_roberta() -> Any:
    from transformers import RobertaConfig, SwinConfig

    swin = SwinConfig(image_size=32, patch_size=4, embed_dim=12, depths=[1, 1], num_heads=[1, 2], window_size=4)
    return vision_encoder_decoder(RobertaConfig(**text_decoder(intermediate_size=40, type_vocab_size=1)), swin)


def beit_xlm_roberta() -> Any:
    from transformers import BeitConfig, XLMRobertaConfig

    beit = BeitConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    return vision_encoder_decoder(XLMRobertaConfig(**text_decoder(intermediate_size=40, hidden_act="relu")), beit)


def blip(answers: bool) -> Any:
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipForQuestionAnswering

    text = {**text_decoder(intermediate_size=40), "bos_token_id": VOCAB - 2, "sep_token_id": 2, "pad_token_id": 1}
    vision = {
        "hidden_size": 24 if answers else 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
        "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    config = BlipConfig(text_config=text, vision_config=vision)
    return (BlipForQuestionAnswering if answers else BlipForConditionalGeneration)(config)


def vision_encoder_decoder(decoder: Any, encoder: Any = None) -> Any:
    from transformers import VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig

    vit = ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder or vit, decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 2, 1, 2
    return VisionEncoderDecoderModel(config)


def donut() -> Any:
    from transformers import DonutSwinConfig, MBartConfig, VisionEncoderDecoderConfig, VisionEncoderDecoderModel

    swin = DonutSwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4)
    settings = bart_settings(scale_embedding=True, is_decoder=True, add_cross_attention=True, encoder_layers=LAYERS)
    decoder = MBartConfig(**settings)  # generate sizes its cache by encoder_layers
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(swin, decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 2, 1, 2
    return VisionEncoderDecoderModel(config)  # widths 16 and 24: the states are projected


def trocr(**changes: Any) -> Any:
    from transformers import TrOCRConfig

    settings = {
        "vocab_size": VOCAB, "d_model": 24, "decoder_layers": LAYERS, "decoder_attention_heads": 3,
        "decoder_ffn_dim": 40, "max_position_embeddings": 48, "cross_attention_hidden_size": 24,
    }  # fmt: skip
    return vision_encoder_decoder(TrOCRConfig(**{**settings, **changes}))
