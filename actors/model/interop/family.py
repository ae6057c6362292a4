"""What the interop needs to know of one model family."""

import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import Tensor

from actors.model.interop.image_plans import ProcessorPlan
from actors.model.interop.weight_names import NameMap
from conf.decoder import DecoderConfig
from conf.errors import UserError
from conf.text_rules import OutputStructure, TextRules

Tensors = Mapping[str, Tensor]
DECODER_ONLY = "a decoder-only model, and those are not converted (engines such as vLLM serve many of them)"
POOLER = r"(.*\.)?pooler\..*"  # no decoder reads it: what an encoder says in one vector
_CARRIES_NOTHING = (  # of any family: what older versions stored, and every version computes by itself
    POOLER, r"(.*\.)?position_ids", r"(.*\.)?embed_positions\.(_float_tensor|weights)",
    r".*\.(attn|crossattention)\.(masked_)?bias", r".*\.relative_position_index",
)  # fmt: skip


@dataclass(frozen=True)
class OutputRules:
    """How the outputs of a source begin, and what they hold besides words; as in `ModelConfig` and its `TextRules`."""

    structure: OutputStructure | None = None
    keep_special_tokens: bool = False
    decoder_prefix: str = ""
    prefix_starts: bool = False
    notes: tuple[str, ...] = ()  # for the user


def plain_outputs(path: Path, hf: Any, tokenizer: Tokenizer | None, start_id: int) -> OutputRules:
    return OutputRules()


@dataclass(frozen=True)
class Family:
    """One `model_type` of `transformers`. `hf` arguments are its configuration object."""

    name: str  # of the decoder's arithmetic: t5, bart, bert, gpt2
    model_class: str  # in `transformers`
    decoder: Callable[[Any, Tensors], DecoderConfig]
    decoder_names: Callable[[Any, DecoderConfig], NameMap]
    encoder_prefixes: tuple[tuple[str, str], ...]  # theirs -> ours, after "encoder."
    copies: tuple[str, ...]  # their tensors that are another one under a second name
    text_config: Callable[[Any], Any]  # where the special-token ids of the decoder are
    text_rules: Callable[[Any], TextRules]
    image_plan: Callable[[Any, Mapping[str, Any]], ProcessorPlan]  # from configuration and image processor
    added_tokens: tuple[str, ...] = ()  # special ones that a processor adds to a tokenizer without them, in order
    reads_images: bool = True  # False: text to text
    frames_prompts: bool = False  # the processor, not the tokenizer, puts tokens around a prompt
    # (configuration, side of images) -> tokens that its positions leave to a prompt; none: any number
    most_prompt_tokens: Callable[[Any, int], int | None] = lambda hf, image_size: None
    check: Callable[[Mapping[str, Any]], None] = lambda raw: None  # UserError for a config.json it does not take
    # (source's folder, configuration, tokenizer, start token) -> rules
    output_rules: Callable[[Path, Any, Tokenizer | None, int], OutputRules] = plain_outputs
    ignored: tuple[str, ...] = field(default=())  # patterns of tensors that carry nothing
    generation: Callable[[Any], dict[str, Any]] | None = None  # what its generate reads, if not generation_config.json
    transposed: tuple[str, ...] = ()  # patterns of matrices that are stored with their inputs first

    def encoder_name(self, theirs: str) -> str | None:
        """Return our name of an encoder tensor; None when it belongs elsewhere."""
        for prefix, ours in self.encoder_prefixes:
            if theirs.startswith(prefix):
                return f"encoder.{ours}{theirs.removeprefix(prefix)}"
        return None

    def is_ignored(self, theirs: str) -> bool:
        return any(re.fullmatch(pattern, theirs) for pattern in (*_CARRIES_NOTHING, *self.ignored))

    def turned(self, theirs: Tensors) -> dict[str, Tensor]:
        """Return their tensors with the transposed ones turned: from theirs to ours, and back alike."""
        return {
            name: tensor.t() if any(re.fullmatch(pattern, name) for pattern in self.transposed) else tensor
            for name, tensor in theirs.items()
        }


def activation(name: str, gated: bool = False) -> str:
    """Return our name of an activation; UserError for one we do not have."""
    known = {"relu": "relu", "gelu": "gelu", "gelu_new": "gelu_new", "gelu_pytorch_tanh": "gelu_new"}
    if name not in known or (gated and known[name] == "relu"):
        raise UserError(f"activation {'gated ' if gated else ''}{name!r} is not supported")
    return f"gated_{known[name]}" if gated else known[name]


def generation_of(config: Any) -> dict[str, Any]:
    """Return what `generate` reads where there is no generation_config.json: the same settings in config.json."""
    from transformers.generation.configuration_utils import GenerationConfig

    return dict(GenerationConfig.from_model_config(deepcopy(config)).to_dict())  # the library empties it


def head_is_tied(theirs: Tensors, head: str, embedding: str) -> bool:
    """Return True when there is no head of its own, or an equal one."""
    return (
        head not in theirs
        or theirs[head].data_ptr() == theirs[embedding].data_ptr()
        or bool(theirs[head].shape == theirs[embedding].shape and (theirs[head] == theirs[embedding]).all())
    )
