"""UDOP: T5 over words with places and image patches (Tang et al. 2023). Its head's input is always scaled."""

from collections.abc import Mapping
from typing import Any

from actors.model.interop import t5
from actors.model.interop.family import Family, Tensors, head_is_tied
from actors.model.interop.image_plans import ProcessorPlan, square_plan
from conf.decoder import DecoderConfig
from conf.text_rules import TextRules

PROCESSOR = {  # of the published checkpoints, which are of several sizes
    "image_processor_type": "LayoutLMv3ImageProcessor", "resample": 1,
    "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
}  # fmt: skip


def decoder(hf: Any, theirs: Tensors) -> DecoderConfig:
    return t5.t5_decoder(hf, tied=head_is_tied(theirs, "lm_head.weight", "shared.weight"), scaled=True)


def image_plan(hf: Any, processor: Mapping[str, Any]) -> ProcessorPlan:
    return square_plan(processor, PROCESSOR, int(hf.image_size))


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
    image_plan=image_plan,
    ignored=(r"decoder\.relative_bias\..*", r"decoder\.embed_patches\..*", r"patch_embed\..*"),
)
