"""A `transformers` directory -> a multi-exit model, and back. Full depth keeps the original's weights bit for bit."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from actors.model.interop.families import configuration, family_of
from actors.model.interop.family import POOLER, Family
from actors.model.interop.model_directory import Source, load_tensors, side_files
from actors.model.interop.prompt_rules import prompt_room, text_rules
from actors.model.interop.special_tokens import special_tokens
from actors.model.interop.vision_encoder_decoder import trocr_sinusoids
from actors.model.interop.weight_names import to_ours, to_theirs
from actors.model.model import MultiExitModel
from conf.encoder import TransformersEncoderConfig
from conf.errors import UserError
from conf.model import ModelConfig

_NOT_OURS = ("auto_map", "transformers_version", "_name_or_path")
_POSITIONS = "decoder.position_table.weight"


@dataclass(frozen=True)
class Converted:
    """`believed` says which of contradicting files were believed, `differences` what will not be as in the source:
    sentences for the user."""

    config: ModelConfig
    state: dict[str, Tensor]
    believed: tuple[str, ...]
    differences: tuple[str, ...]


def convert(
    source: Source,
    tokenizer: Tokenizer | None,
    *,
    name: str,
    exits: Sequence[int] | None = None,
    max_prompt_tokens: int | None = None,
    max_new_tokens: int | None = None,
) -> Converted:
    """Convert a source, its adapters starting as the identity; UserError where source and family do not fit."""
    family, hf = family_of(source.config), configuration(source.config)
    tensors = family.turned(load_tensors(source, family, hf))
    if family.generation is not None:
        source = replace(source, generation=family.generation(hf))
    decoder = family.decoder(hf, tensors)
    if max_new_tokens is not None and decoder.positions == "none":
        decoder = decoder.model_copy(update={"max_positions": max_new_tokens})
    rules, rule_notes = text_rules(source, family, hf, tokenizer, decoder.vocab_size)
    special = special_tokens(source, hf, family.text_config(hf), tokenizer, decoder.vocab_size)
    outputs = family.output_rules(source.path, hf, tokenizer, special.start_id)
    layers = tuple(exits) if exits is not None else default_exits(decoder.num_layers)
    images = family.image_plan(hf, source.processor)
    if images.plan.draws_prompt:
        rules = rules.model_copy(update={"prompt": "bytes"})
    room = prompt_room(source, family, hf, images.plan.longest_side, max_prompt_tokens)
    try:
        config = ModelConfig(
            name=name,
            family=family.name,
            image_size=images.plan.longest_side,
            image_plan=images.plan,
            pixel_mean=images.mean,
            pixel_std=images.std,
            encoder=TransformersEncoderConfig(
                model_type=source.config["model_type"],
                hf_config={key: value for key, value in source.config.items() if key not in _NOT_OURS},
                max_prompt_tokens=room,
            ),
            text=rules.model_copy(
                update={
                    "structure": outputs.structure,
                    "keep_special_tokens": outputs.keep_special_tokens,
                    "decoder_prefix": outputs.decoder_prefix,
                }
            ),
            decoder=decoder,
            exits=layers,
            untrained_exits=layers[:-1],
            start_id=special.start_id,
            eos_id=special.eos_id,
            pad_id=special.pad_id,
            prefix_starts=outputs.prefix_starts,
            generation=special.generation,
        )
    except ValueError as error:
        raise UserError(f"the conversion does not fit the source: {_first_reason(error)}") from None
    believed, differences = (*special.believed, *rule_notes), (*special.differences, *outputs.notes, *images.notes)
    return Converted(config, to_state(config, hf, family, tensors), believed, differences)


def to_state(config: ModelConfig, hf: Any, family: Family, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors -> the state of our model; UserError for the first that is missing, unknown or of another shape."""
    with torch.device("meta"):  # names and shapes are enough
        expected = MultiExitModel(config).state_dict()
    names = family.decoder_names(hf, config.decoder)
    state = to_ours(names, tensors, expected)
    used = {source for sources in names.values() for source in sources}
    for theirs, tensor in tensors.items():
        if theirs in used:
            continue
        ours = family.encoder_name(theirs)
        if ours is not None and ours in expected:
            if tensor.shape != expected[ours].shape:
                raise UserError(
                    f"source tensor {theirs!r} has shape {list(tensor.shape)} where the configuration says "
                    f"{list(expected[ours].shape)}"
                )
            state[ours] = tensor
        elif theirs not in family.copies and not family.is_ignored(theirs):
            raise UserError(f"the source tensor {theirs!r} has no place in a {family.name} decoder or its encoder")
    if config.decoder.positions == "sinusoidal":
        state[_POSITIONS] = trocr_sinusoids(*expected[_POSITIONS].shape)
    for layer in config.exits[:-1] if config.adapters else ():
        state[f"decoder.adapters.{layer}.weight"] = torch.eye(
            config.decoder.d_model, dtype=state["decoder.embedding.weight"].dtype
        )
    if config.decoder.head_tied:
        state["decoder.head.weight"] = state["decoder.embedding.weight"]
    if missing := sorted(set(expected) - set(state)):
        raise UserError(f"the source weights lack the tensors behind {missing[0]!r} ({len(missing)} missing)")
    return state


def default_exits(num_layers: int) -> tuple[int, ...]:
    """Return quarters of the depth: the shared head costs several layers, so a few exits beat one at every layer."""
    return tuple(sorted({max(1, round(num_layers * quarter / 4)) for quarter in (1, 2, 3, 4)}))


def export(config: ModelConfig, state: Mapping[str, Tensor], files: Path, out: Path) -> None:
    """Write the plain model back: what `transformers` loads with from_pretrained. Exits and adapters stay behind."""
    if not isinstance(config.encoder, TransformersEncoderConfig):
        raise UserError(f"a model with the {config.encoder.kind} encoder has no class in transformers")
    raw = config.encoder.hf_config
    family, hf = family_of(raw), configuration(raw)
    names = family.decoder_names(hf, config.decoder)
    theirs = family.turned(to_theirs(names, state))
    for prefix, ours in family.encoder_prefixes:
        start = f"encoder.{ours}"
        theirs |= {prefix + name.removeprefix(start): t for name, t in state.items() if name.startswith(start)}
    import transformers

    model = getattr(transformers, family.model_class)(hf)
    if not config.decoder.head_tied:  # the library ties what has two values here
        head = model.get_submodule(names["decoder.head.weight"][0].removesuffix(".weight"))
        head.weight = torch.nn.Parameter(state["decoder.head.weight"].clone())
    model.to(state["decoder.embedding.weight"].dtype)
    report = model.load_state_dict(theirs, strict=False)
    assert not report.unexpected_keys, report.unexpected_keys
    if lost := [name for name in report.missing_keys if name not in family.copies and not family.is_ignored(name)]:
        raise UserError(f"the checkpoint lacks what {lost[0]!r} is made of")
    own = {name: tensor for name, tensor in model.state_dict().items() if not re.fullmatch(POOLER, name)}
    model.save_pretrained(out, state_dict=own)
    (out / "config.json").write_text(json.dumps(raw, indent=2) + "\n")
    for name in side_files(files):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_bytes((files / name).read_bytes())


def _first_reason(error: ValueError) -> str:
    errors = getattr(error, "errors", None)
    return str(errors()[0]["msg"]) if callable(errors) else str(error)
