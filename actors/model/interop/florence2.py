"""Florence-2: DaViT image tokens before the prompt in a BART encoder (Xiao et al. 2024)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from actors.model.interop.bart import bart_decoder, bart_names
from actors.model.interop.family import Family, OutputRules, Tensors, head_is_tied
from actors.model.interop.image_plans import ProcessorPlan, processor_plan
from actors.model.interop.weight_names import NameMap
from actors.model.pretrained.florence2 import num_image_tokens
from conf.decoder import DecoderConfig
from conf.errors import UserError
from conf.json_file import read_object
from conf.text_rules import OutputStructure, TextRules

_LANGUAGE, _SHARED = "model.language_model.", "model.language_model.shared.weight"

# Task tokens and what the model was trained to read in their place.
TASKS = {
    "<OCR>": "What is the text in the image?",
    "<OCR_WITH_REGION>": "What is the text in the image, with regions?",
    "<CAPTION>": "What does the image describe?",
    "<DETAILED_CAPTION>": "Describe in detail what is shown in the image.",
    "<MORE_DETAILED_CAPTION>": "Describe with a paragraph what is shown in the image.",
    "<OD>": "Locate the objects with category name in the image.",
    "<DENSE_REGION_CAPTION>": "Locate the objects in the image, with their descriptions.",
    "<REGION_PROPOSAL>": "Locate the region proposals in the image.",
    "<CAPTION_TO_PHRASE_GROUNDING>": "Locate the phrases in the caption: {input}",
    "<REFERRING_EXPRESSION_SEGMENTATION>": "Locate {input} in the image with mask",
    "<REGION_TO_SEGMENTATION>": "What is the polygon mask of region {input}",
    "<OPEN_VOCABULARY_DETECTION>": "Locate {input} in the image.",
    "<REGION_TO_CATEGORY>": "What is the region {input}?",
    "<REGION_TO_DESCRIPTION>": "What does the region {input} describe?",
    "<REGION_TO_OCR>": "What text is in the region {input}?",
}

# What the processor adds to BART's tokenizer: ids 50265 to 51288.
_MARKS = ("cap", "ncap", "dcap", "grounding", "seg")
_REGION_MARKS = ("region_cap", "region_to_desciption", "proposal", "poly")
ADDED_TOKENS = (
    *(f"<{end}{mark}>" for mark in ("od", "ocr") for end in ("", "/")),
    *(f"<loc_{place}>" for place in range(1000)),
    *(f"<{end}{mark}>" for mark in _MARKS for end in ("", "/")),
    "<sep>",
    *(f"<{end}{mark}>" for mark in _REGION_MARKS for end in ("", "/")),
    "<and>",
)


def decoder(hf: Any, theirs: Tensors) -> DecoderConfig:
    return bart_decoder(
        hf.text_config, pre_norm=False, tied=head_is_tied(theirs, "lm_head.weight", _SHARED), bias=False
    )


def decoder_names(hf: Any, config: DecoderConfig) -> NameMap:
    return bart_names(config, stack=f"{_LANGUAGE}decoder.", embedding=_SHARED, head="lm_head.weight", bias=None)


PROCESSOR = {  # of the published checkpoints
    "image_processor_type": "CLIPImageProcessor", "size": {"height": 768, "width": 768}, "do_center_crop": False,
    "resample": 3, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
}  # fmt: skip


def image_plan(hf: Any, processor: Mapping[str, Any]) -> ProcessorPlan:
    read = processor_plan(processor, PROCESSOR)
    height, width = read.plan.shape or (0, 0)
    if height != width:
        raise UserError(f"Florence-2 takes square images, the source's processor makes {height} x {width}")
    return read


def output_rules(path: Path, hf: Any, tokenizer: Tokenizer | None, start_id: int) -> OutputRules:
    """Return how outputs are read; the processor's file says which phrases grounding leaves out."""
    settings = read_object(path / "processor_config.json") or {}
    try:
        banned = settings["post_processor_config"]["phrase_grounding"]["banned_grounding_tokens"]
    except (KeyError, TypeError):
        banned = []
    structure = OutputStructure(kind="florence2", banned_phrases=sorted({str(phrase) for phrase in banned}))
    return OutputRules(structure, keep_special_tokens=True)


FAMILY = Family(
    name="bart",
    model_class="Florence2ForConditionalGeneration",
    decoder=decoder,
    decoder_names=decoder_names,
    encoder_prefixes=(
        ("model.vision_tower.", "vision."),
        ("model.multi_modal_projector.", "projector."),
        (f"{_LANGUAGE}encoder.", "stack."),
    ),
    copies=(f"{_LANGUAGE}decoder.embed_tokens.weight", "lm_head.weight"),
    text_config=lambda hf: hf.text_config,
    text_rules=lambda hf: TextRules(
        leading_space=False,
        prefix_ids=(hf.text_config.bos_token_id,),
        suffix_ids=(hf.text_config.eos_token_id,),
        tasks=TASKS,
    ),
    image_plan=image_plan,
    frames_prompts=True,
    most_prompt_tokens=lambda hf, image_size: (
        hf.text_config.max_position_embeddings - num_image_tokens(hf.vision_config, image_size)
    ),
    added_tokens=ADDED_TOKENS,
    output_rules=output_rules,
)
