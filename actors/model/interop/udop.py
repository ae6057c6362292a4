"""UDOP: T5 over words with places and image patches (Tang et al. 2023). Its head's input is always scaled."""

from typing import Any

from actors.model.interop import t5
from actors.model.interop.family import Family, Tensors, head_is_tied
from conf.model import DecoderConfig, TextRules


def decoder(hf: Any, theirs: Tensors) -> DecoderConfig:
    return t5.t5_decoder(hf, tied=head_is_tied(theirs, "lm_head.weight", "shared.weight"), scaled=True)


FAMILY = Family(
    name="t5",
    model_class="UdopForConditionalGeneration",
    decoder=decoder,
    decoder_names=t5.decoder_names,
    encoder_prefixes=(("encoder.", "stack."),),
    copies=t5.FAMILY.copies,
    text_config=lambda hf: hf,
    text_rules=lambda hf: TextRules(
        leading_space=False, suffix_ids=(hf.eos_token_id,), words=True, words_end_ids=(hf.eos_token_id,)
    ),
    image_shape=lambda hf, processor: (hf.image_size, hf.image_size),
    ignored=(r"decoder\.relative_bias\..*", r"decoder\.embed_patches\..*", r"patch_embed\..*"),
)
