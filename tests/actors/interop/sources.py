"""Tiny random models of `transformers`, one per supported class, and what they are asked.

A case gives the model, and for a batch of requests the inputs of `generate`. Nothing is downloaded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

from actors.engine.request import Request
from actors.model.interop.conversion import Converted, convert
from actors.model.interop.model_directory import read_source
from actors.model.model import MultiExitModel
from actors.model.word_boxes import pack
from tests.actors.interop import t5gemma2
from tests.actors.interop.model_inputs import (
    MAX_PATCHES,
    MEAN,
    STD,
    blip2_inputs,
    blip_forward,
    blip_inputs,
    blip_vqa_inputs,
    florence2_inputs,
    pix2struct_inputs,
    pixels,
    text_inputs,
    udop_inputs,
    vision_inputs,
)  # fmt: skip
from tests.actors.interop.prompted_models import PATCH, QFORMER_VOCAB, blip2, florence2, pix2struct, udop
from tests.actors.interop.text_models import LAYERS, VOCAB, bart, mbart, mt5, t5, t5_untied
from tests.actors.interop.vision_models import (
    beit_xlm_roberta,
    blip,
    deit_bert,
    donut,
    swin_roberta,
    trocr,
    vit_gpt2,
    vit_gpt2_untied,
)  # fmt: skip

STEPS = 12


def _whole_model(model: Any, inputs: dict[str, Any], fed: torch.Tensor) -> tuple[Any, Any]:
    output = model(**inputs, decoder_input_ids=fed, output_hidden_states=True)
    output = getattr(output, "language_model_outputs", output)
    return output.logits, output.decoder_hidden_states


@dataclass(frozen=True)
class Case:
    """`build` gives a model of random weights; `inputs` what its `generate` and `forward` take for requests."""

    build: Callable[[], Any]
    inputs: Callable[[Any, list[Request]], dict[str, Any]]
    image_size: int
    prompts: bool = True
    boxes: bool = False
    image_id: int | None = None  # token that two of three prompts ask for the image with
    qformer: bool = False  # a Q-Former reads the prompt as well
    gain: float = 1.5  # of the random weights: larger speaks more varied and amplifies rounding
    patches: bool = False  # images are grids of different shapes, as a plan leaves them
    batched: bool = True  # False: the source's own answer depends on the padding of its batch
    begun: bool = False  # some requests bring what their output goes on from
    forward: Callable[[Any, dict[str, Any], torch.Tensor], tuple[Any, Any]] = _whole_model  # logits, hidden states


CASES: dict[str, Case] = {
    "t5": Case(t5, text_inputs, 32),
    "t5_untied_head": Case(t5_untied, text_inputs, 32, gain=0.9),
    "mt5": Case(lambda: mt5("MT5"), text_inputs, 32, gain=0.9),
    "umt5": Case(lambda: mt5("UMT5"), text_inputs, 32, gain=0.9),
    "bart": Case(bart, text_inputs, 32),
    "mbart": Case(mbart, text_inputs, 32),
    "pix2struct": Case(pix2struct, pix2struct_inputs, 16, prompts=False, gain=1.0, patches=True),
    "udop": Case(udop, udop_inputs, 16, boxes=True, batched=False),
    "florence2": Case(florence2, florence2_inputs, 64, gain=1.1),
    "t5gemma2": Case(
        lambda: t5gemma2.build(VOCAB, LAYERS),
        lambda model, requests: t5gemma2.inputs(model, [r.prompt_ids for r in requests], pixels(requests)),
        t5gemma2.SIDE, image_id=VOCAB - 1,
    ),
    "blip2": Case(lambda: blip2("Blip2"), blip2_inputs, 24, gain=0.9),
    "instructblip": Case(lambda: blip2("InstructBlip"), blip2_inputs, 24, qformer=True, gain=0.9),
    "donut": Case(donut, vision_inputs, 32, prompts=False),
    "trocr": Case(trocr, vision_inputs, 32, prompts=False),
    "trocr_sinusoids": Case(
        lambda: trocr(use_learned_position_embeddings=False, layernorm_embedding=False, scale_embedding=True,
                       activation_function="relu"), vision_inputs, 32, prompts=False),
    "vit_gpt2": Case(vit_gpt2, vision_inputs, 32, prompts=False),
    "vit_gpt2_untied": Case(vit_gpt2_untied, vision_inputs, 32, prompts=False),
    "deit_bert": Case(deit_bert, vision_inputs, 32, prompts=False),
    "swin_roberta": Case(swin_roberta, vision_inputs, 32, prompts=False),
    "beit_xlm_roberta": Case(beit_xlm_roberta, vision_inputs, 32, prompts=False),
    "blip": Case(lambda: blip(False), blip_inputs, 32, prompts=False, batched=False, begun=True, gain=2.5,
                 forward=blip_forward),
    "blip_vqa": Case(lambda: blip(True), blip_vqa_inputs, 32, batched=False, gain=2.5, forward=blip_forward),
}  # fmt: skip


# of decoders; they speak louder too, so that a token is not said for ever
POSITIONS = ("embed_positions", "relative_attention_bias", "wpe.weight", "embeddings.position_embeddings.weight")


def randomise(model: nn.Module, seed: int, gain: float = 1.5) -> None:
    """Weights that make texts vary: layers speak louder than the embedding of the token before."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = gain * parameter[0].numel() ** -0.5 if parameter.dim() >= 2 else 0.1
            noise = scale * torch.randn(parameter.shape, generator=generator)
            if any(part in name for part in POSITIONS):
                noise = noise * 4
            if name.endswith(("post_self_attn_layernorm.weight", "post_feedforward_layernorm.weight")):
                noise = noise + 4  # there, embeddings are scaled up and layers normalised
            parameter.copy_(noise if parameter.dim() >= 2 else parameter + noise)
            if name.endswith("lm_head.bias"):  # RoBERTa gives padding inside an output no position of its own
                parameter[1] = -10
        for name, buffer in model.named_buffers():
            if name.endswith("final_logits_bias"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator))


def make_requests(case: Case, count: int, seed: int) -> list[Request]:
    """Random images and, where the model reads any, prompts of 2 to 9 tokens."""
    rng = np.random.default_rng(seed)
    requests = []
    for i in range(count):
        ids = [int(x) for x in rng.integers(3, VOCAB - 1, rng.integers(2, 10))] if case.prompts else [1]
        if case.boxes:  # the first two tokens are the question
            ids[2:] = [x for t in ids[2:] for x in pack([t], tuple(map(int, rng.integers(1, 1000, 4))), VOCAB)]
        if case.image_id is not None and i % 3:
            ids.insert(int(rng.integers(0, len(ids) + 1)), case.image_id)
        if case.qformer:
            ids += [VOCAB + int(x) for x in rng.integers(0, QFORMER_VOCAB, rng.integers(1, 4))]
        image: Any = rng.integers(0, 256, (case.image_size, case.image_size, 3), dtype=np.uint8)
        if case.patches:
            rows = int(rng.integers(1, 7))
            columns = int(rng.integers(1, MAX_PATCHES // rows + 1))
            image = rng.normal(size=(rows * PATCH, columns * PATCH, 3)).astype(np.float32)
        begun = tuple(map(int, rng.integers(3, VOCAB - 2, i % 3))) if case.begun else None
        requests.append(Request(i, image, tuple(ids), prefix_ids=begun))
    return requests


def their_outputs(model: Any, requests: list[Request], case: Case, **options: Any) -> list[list[int]]:
    """What `generate` says, without what it was given; all in one batch where the source allows it."""
    outputs = []
    for group in [requests] if case.batched else [[request] for request in requests]:
        inputs = case.inputs(model, group)
        given = 1 + len(group[0].prefix_ids or ())
        outputs += model.generate(**inputs, max_new_tokens=STEPS, do_sample=False, **options)[:, given:].tolist()
    return outputs


def language_model(model: Any) -> Any:
    """What generates: the model itself, or the part that BLIP-2 asks."""
    return model.language_model if hasattr(model, "qformer") else model


def set_end_token(model: Any, requests: list[Request], case: Case) -> int:
    """Make a token the end token that some rows say early and others do not; returns its id."""
    if model.config.model_type == "blip":  # its generate says itself what ends an output
        model.config.text_config.sep_token_id = None
        free = their_outputs(model, requests, case)
    else:
        free = their_outputs(model, requests, case, min_new_tokens=STEPS, forced_eos_token_id=None, eos_token_id=None)
    early = [set(row[1:7]) for row in free]
    counts = {token: sum(token in row for row in early) for token in set().union(*early)}
    forced = model.generation_config.forced_bos_token_id
    eos = min((t for t in counts if t not in (0, 1, forced)), key=lambda t: (abs(counts[t] - len(free) / 2), t))
    configs = [model.config, model.generation_config]
    configs += [language_model(model).config, language_model(model).generation_config]
    configs += [getattr(model.config, name) for name in ("text_config", "decoder") if hasattr(model.config, name)]
    for config in configs:
        config.sep_token_id = config.eos_token_id = eos
        if getattr(config, "forced_eos_token_id", None) is not None:
            config.forced_eos_token_id = eos
    return eos


def save_source(model: Any, case: Case, path: Path) -> None:
    """What a user has on disk, image statistics included."""
    import json

    model.save_pretrained(path)
    side = {"height": case.image_size, "width": case.image_size}
    processor: dict[str, Any] = {"image_mean": MEAN, "image_std": STD, "size": side}
    if case.patches:
        processor = {"max_patches": MAX_PATCHES, "patch_size": {"height": PATCH, "width": PATCH}}
    (path / "preprocessor_config.json").write_text(json.dumps(processor))


def load_ours(path: Path, **options: Any) -> tuple[Converted, MultiExitModel]:
    """Convert a source directory in memory; every layer is an exit."""
    converted = convert(read_source(path), None, name="tiny", exits=range(1, LAYERS + 1), **options)
    model = MultiExitModel(converted.config)
    model.load_state_dict(converted.state)
    return converted, model.eval().requires_grad_(False)


def save_tokenizer(path: Path) -> None:
    """One token per word; ids 0 to 2 are the start, padding and end that BART-like models use."""
    words = {"<s>": 0, "<pad>": 1, "</s>": 2, **{f"w{i}": i for i in range(3, VOCAB)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w3"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(path / "tokenizer.json"))


def make_source(name: str, path: Path, seed: int = 0) -> Any:
    """A complete directory of a random model, tokenizer included; returns the model."""
    model = CASES[name].build().eval()
    randomise(model, seed, CASES[name].gain)
    save_source(model, CASES[name], path)
    save_tokenizer(path)
    if CASES[name].qformer:
        (path / "qformer_tokenizer").mkdir()
        save_tokenizer(path / "qformer_tokenizer")
    return model
