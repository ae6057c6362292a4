"""BLIP for captions and for answers to questions (Li et al. 2022), by the class that config.json names."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from actors.model.interop.bert import bert_decoder, bert_names
from actors.model.interop.family import Family, OutputRules, Tensors, generation_of, head_is_tied, plain_outputs
from actors.model.interop.image_plans import ProcessorPlan, square_plan
from actors.model.interop.weight_names import NameMap
from conf.decoder import DecoderConfig
from conf.engine import PROMPT_PLACE
from conf.errors import UserError
from conf.source import DEFAULT_PROMPT
from conf.text_rules import TextRules

_STACK, _HEAD = "text_decoder.bert.", "text_decoder.cls.predictions.decoder"
_TRANSFORM = tuple(f"text_decoder.cls.predictions.transform.{part}" for part in ("dense", "LayerNorm"))


def decoder(hf: Any, theirs: Tensors) -> DecoderConfig:
    text = hf.text_config
    return bert_decoder(
        text,
        d_cross=text.encoder_hidden_size,
        tied=head_is_tied(theirs, f"{_HEAD}.weight", f"{_STACK}embeddings.word_embeddings.weight"),
        token_types=0,
        head_activation=text.hidden_act,
    )


def _answering_decoder(hf: Any, theirs: Tensors) -> DecoderConfig:
    """The decoder reads states of the question with matrices made for those of the image."""
    config = decoder(hf, theirs)
    if config.d_cross != config.d_model:
        raise UserError(f"a BLIP for answers needs image and text of one width, got {config.d_cross}, {config.d_model}")
    return config


def decoder_names(hf: Any, config: DecoderConfig) -> NameMap:
    return bert_names(config, stack=_STACK, transform=(_TRANSFORM[0], _TRANSFORM[1]), head=_HEAD)


def image_plan(hf: Any, processor: Mapping[str, Any]) -> ProcessorPlan:
    return square_plan(processor, {"image_processor_type": "BlipImageProcessor"}, int(hf.vision_config.image_size))


def text_config(hf: Any) -> Any:
    """`generate` ends at the separator and starts from bos_token_id, whatever else is configured."""
    text = copy.copy(hf.text_config)
    text.eos_token_id, text.decoder_start_token_id = text.sep_token_id, text.bos_token_id
    return text


def generation(hf: Any) -> dict[str, Any]:
    """`generate` is that of the decoder, which reads no generation_config.json but its own part of config.json."""
    return generation_of(text_config(hf))


def _captions(path: Path, hf: Any, tokenizer: Tokenizer | None, start_id: int) -> OutputRules:
    """A caption goes on from its prompt ("a picture of"), which the source's `generate` repeats."""
    note = f"captions go on from their prompt, which is part of the text; {DEFAULT_PROMPT!r} counts as no prompt"
    return OutputRules(decoder_prefix=PROMPT_PLACE, notes=(note,))


def _question_rules(hf: Any) -> TextRules:
    """Questions stand between [CLS] and [SEP], which are neighbours in BERT's vocabulary; config.json names one."""
    end = hf.text_config.sep_token_id
    return TextRules(leading_space=False, prefix_ids=(end - 1,), suffix_ids=(end,))


_CAPTIONS = Family(
    name="bert",
    model_class="BlipForConditionalGeneration",
    decoder=decoder,
    decoder_names=decoder_names,
    encoder_prefixes=(("vision_model.", "vision."),),
    copies=(f"{_HEAD}.weight", "text_decoder.cls.predictions.bias"),
    text_config=text_config,
    text_rules=lambda hf: TextRules(prompt="none", leading_space=False),
    image_plan=image_plan,
    output_rules=_captions,
    added_tokens=("[DEC]", "[ENC]"),  # the first starts outputs, the second was for questions
    generation=generation,
)
_ANSWERS = replace(
    _CAPTIONS,
    model_class="BlipForQuestionAnswering",
    decoder=_answering_decoder,
    encoder_prefixes=(("vision_model.", "vision."), ("text_encoder.", "questions.")),
    text_rules=_question_rules,
    output_rules=plain_outputs,
    most_prompt_tokens=lambda hf, image_size: hf.text_config.max_position_embeddings,
)
_BY_CLASS = {family.model_class: family for family in (_CAPTIONS, _ANSWERS)}


def family(raw: Mapping[str, Any]) -> Family:
    """Return the family of the class in a config.json; UserError where it is none of ours."""
    classes = raw.get("architectures")
    name = classes[0] if isinstance(classes, list) and classes else None
    if name not in _BY_CLASS:
        raise UserError(f"a BLIP model of class {name!r} is not supported; supported are {', '.join(_BY_CLASS)}")
    return _BY_CLASS[name]
