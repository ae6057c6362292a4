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

VOCAB, LAYERS, STEPS = 97, 3, 12
QFORMER_VOCAB = 31
PATCH, MAX_PATCHES = 4, 20  # of the model that reads grids
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


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


def _t5(**changes: Any) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    settings = {
        "vocab_size": VOCAB, "d_model": 32, "d_kv": 12, "d_ff": 48, "num_layers": LAYERS + 1,
        "num_decoder_layers": LAYERS, "num_heads": 4, "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 20, "decoder_start_token_id": 0,
    }  # fmt: skip
    return T5ForConditionalGeneration(T5Config(**{**settings, **changes}))


def _t5_untied() -> Any:
    """T5 v1.1: its head is its own, although the library's configuration calls it tied."""
    model = _t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    model.lm_head.weight = nn.Parameter(torch.zeros(VOCAB, 32))
    return model


def _mt5(kind: str) -> Any:
    """`kind` is MT5 or UMT5. Its head is its own, as in the published weights."""
    import transformers

    settings = {**_t5(feed_forward_proj="gated-gelu").config.to_dict(), "model_type": kind.lower()}
    config = getattr(transformers, f"{kind}Config")(**settings)
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    model.lm_head.weight = nn.Parameter(torch.zeros(VOCAB, 32))
    return model


def _bart_settings(**changes: Any) -> dict[str, Any]:
    return {
        "vocab_size": VOCAB, "d_model": 24, "encoder_layers": 2, "decoder_layers": LAYERS,
        "encoder_attention_heads": 2, "decoder_attention_heads": 3, "encoder_ffn_dim": 32, "decoder_ffn_dim": 40,
        "max_position_embeddings": 48, **changes,
    }  # fmt: skip


def _bart(**changes: Any) -> Any:
    from transformers import BartConfig, BartForConditionalGeneration

    model = BartForConditionalGeneration(BartConfig(**_bart_settings(**changes)))
    model.generation_config.no_repeat_ngram_size = 2
    return model


def _mbart() -> Any:
    from transformers import MBartConfig, MBartForConditionalGeneration

    settings = _bart_settings(scale_embedding=True, decoder_start_token_id=5)
    return MBartForConditionalGeneration(MBartConfig(**settings))


def _pix2struct() -> Any:
    from transformers import Pix2StructConfig, Pix2StructForConditionalGeneration

    text = {
        "vocab_size": VOCAB, "hidden_size": 32, "d_kv": 8, "d_ff": 48, "num_layers": LAYERS, "num_heads": 4,
        "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "patch_embed_hidden_size": PATCH * PATCH * 3, "d_ff": 32, "d_kv": 8, "num_hidden_layers": 2,
        "num_attention_heads": 4, "seq_len": 64,
    }  # fmt: skip
    return Pix2StructForConditionalGeneration(Pix2StructConfig(text_config=text, vision_config=vision))


def _udop() -> Any:
    from transformers import UdopConfig, UdopForConditionalGeneration

    return UdopForConditionalGeneration(UdopConfig(
        vocab_size=VOCAB, d_model=32, d_kv=8, d_ff=48, num_layers=LAYERS, num_decoder_layers=LAYERS, num_heads=4,
        image_size=16, patch_size=4, max_2d_position_embeddings=64, decoder_start_token_id=0,
    ))  # fmt: skip


def _florence2() -> Any:
    from transformers import Florence2Config, Florence2ForConditionalGeneration

    vision = {
        "depths": (1, 1, 1, 1), "embed_dim": (8, 8, 8, 16), "num_heads": (1, 1, 1, 2), "num_groups": (1, 1, 1, 2),
        "projection_dim": 24, "window_size": 4,
    }  # fmt: skip
    config = Florence2Config(
        text_config={"model_type": "bart", **_bart_settings()},
        vision_config=vision, image_token_id=VOCAB - 1,
    )  # fmt: skip
    model = Florence2ForConditionalGeneration(config)
    model.generation_config.update(forced_bos_token_id=0, no_repeat_ngram_size=3)  # `generate` reads them here alone
    return model


def blip2(kind: str, vocab_size: int = VOCAB, image_token: int = VOCAB - 1, qformer_vocab: int = QFORMER_VOCAB) -> Any:
    """`kind` is Blip2 or InstructBlip. Flan-T5's head is its own, and of its activation two names are about."""
    import transformers

    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
              "image_size": 24, "patch_size": 8}  # fmt: skip
    qformer = {"vocab_size": qformer_vocab, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
               "intermediate_size": 24, "max_position_embeddings": 256}  # fmt: skip
    text = _t5(vocab_size=vocab_size, feed_forward_proj="gated-gelu", dense_act_fn="gelu").config.to_dict()
    config = getattr(transformers, f"{kind}Config")(
        vision_config=vision, qformer_config=qformer, text_config=text, num_query_tokens=4,
        image_token_index=image_token,
    )  # fmt: skip
    config.text_config.scale_decoder_outputs = False
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    model.language_model.lm_head.weight = nn.Parameter(torch.zeros(vocab_size, 32))
    return model


def _text_decoder(**changes: Any) -> dict[str, Any]:
    """Settings of a decoder of BERT's kind or GPT-2's, whose configurations speak of hidden layers."""
    return {
        "vocab_size": VOCAB, "hidden_size": 24, "num_hidden_layers": LAYERS, "num_attention_heads": 3,
        "max_position_embeddings": 48, "is_decoder": True, "add_cross_attention": True, **changes,
    }  # fmt: skip


def _vit_gpt2() -> Any:
    from transformers import GPT2Config

    return _vision(GPT2Config(**_text_decoder(n_inner=40, bos_token_id=0, eos_token_id=2)))


def _vit_gpt2_untied() -> Any:
    from transformers import GPT2Config

    return _vision(
        GPT2Config(
            **_text_decoder(tie_word_embeddings=False, activation_function="relu", bos_token_id=0, eos_token_id=2)
        )
    )


def _deit_bert() -> Any:
    """Manga-OCR's kind."""
    from transformers import BertConfig, DeiTConfig

    deit = DeiTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    decoder = BertConfig(**_text_decoder(intermediate_size=40, pad_token_id=1))
    return _vision(decoder, deit)  # widths 16 and 24: the states are projected


def _swin_roberta() -> Any:
    from transformers import RobertaConfig, SwinConfig

    swin = SwinConfig(image_size=32, patch_size=4, embed_dim=12, depths=[1, 1], num_heads=[1, 2], window_size=4)
    return _vision(RobertaConfig(**_text_decoder(intermediate_size=40, type_vocab_size=1)), swin)


def _beit_xlm_roberta() -> Any:
    from transformers import BeitConfig, XLMRobertaConfig

    beit = BeitConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    return _vision(XLMRobertaConfig(**_text_decoder(intermediate_size=40, hidden_act="relu")), beit)


def _blip(answers: bool) -> Any:
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipForQuestionAnswering

    text = {**_text_decoder(intermediate_size=40), "bos_token_id": VOCAB - 2, "sep_token_id": 2, "pad_token_id": 1}
    vision = {
        "hidden_size": 24 if answers else 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
        "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    config = BlipConfig(text_config=text, vision_config=vision)
    return (BlipForQuestionAnswering if answers else BlipForConditionalGeneration)(config)


def _vision(decoder: Any, encoder: Any = None) -> Any:
    from transformers import VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig

    vit = ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder or vit, decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 2, 1, 2
    return VisionEncoderDecoderModel(config)


def _donut() -> Any:
    from transformers import DonutSwinConfig, MBartConfig, VisionEncoderDecoderConfig, VisionEncoderDecoderModel

    swin = DonutSwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4)
    settings = _bart_settings(scale_embedding=True, is_decoder=True, add_cross_attention=True, encoder_layers=LAYERS)
    decoder = MBartConfig(**settings)  # generate sizes its cache by encoder_layers
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(swin, decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 2, 1, 2
    return VisionEncoderDecoderModel(config)  # widths 16 and 24: the states are projected


def _trocr(**changes: Any) -> Any:
    from transformers import TrOCRConfig

    settings = {
        "vocab_size": VOCAB, "d_model": 24, "decoder_layers": LAYERS, "decoder_attention_heads": 3,
        "decoder_ffn_dim": 40, "max_position_embeddings": 48, "cross_attention_hidden_size": 24,
    }  # fmt: skip
    return _vision(TrOCRConfig(**{**settings, **changes}))


def _padded(prompts: list[Any], before: list[int] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    rows = [[*(before or []), *prompt] for prompt in prompts]
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[1] * (width - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids, mask


def _pixels(requests: list[Request]) -> torch.Tensor:
    pixels = torch.from_numpy(np.stack([request.pixels_HWC for request in requests])).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def _text_inputs(model: Any, requests: list[Request]) -> dict[str, Any]:
    ids, mask = _padded([request.prompt_ids for request in requests])
    return {"input_ids": ids, "attention_mask": mask}


def _florence2_inputs(model: Any, requests: list[Request]) -> dict[str, Any]:
    ids, mask = _padded([request.prompt_ids for request in requests], [VOCAB - 1] * (2 * 2 + 1))
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": _pixels(requests)}


def _blip2_inputs(model: Any, requests: list[Request]) -> dict[str, Any]:
    """Ids beyond the vocabulary are the Q-Former's."""
    rows = [[t for t in request.prompt_ids if t < VOCAB] for request in requests]
    ids, mask = _padded(rows, [VOCAB - 1] * 4)
    inputs = {"input_ids": ids, "attention_mask": mask, "pixel_values": _pixels(requests)}
    read = [[t - VOCAB for t in request.prompt_ids if t >= VOCAB] for request in requests]
    if any(read):
        inputs["qformer_input_ids"], inputs["qformer_attention_mask"] = _padded(read)
    return inputs


def _vision_inputs(model: Any, requests: list[Request]) -> dict[str, Any]:
    return {"pixel_values": _pixels(requests)}


def _blip_inputs(model: Any, requests: list[Request]) -> dict[str, Any]:
    """The first token of a caption's prompt is replaced, the last is left out."""
    begun = torch.tensor([[0, *request.prefix_ids, 2] for request in requests])
    return {"input_ids": begun, "pixel_values": _pixels(requests)}


def _blip_vqa_inputs(model: Any, requests: list[Request]) -> dict[str, Any]:
    return {**_text_inputs(model, requests), "pixel_values": _pixels(requests)}


def _blip_forward(model: Any, inputs: dict[str, Any], fed: torch.Tensor) -> tuple[Any, Any]:
    states = model.vision_model(inputs["pixel_values"]).last_hidden_state
    if hasattr(model, "text_encoder"):
        question = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
        states = model.text_encoder(**question, encoder_hidden_states=states).last_hidden_state
    output = model.text_decoder(fed, encoder_hidden_states=states, output_hidden_states=True)
    return output.logits, output.hidden_states


def _pix2struct_inputs(model: Any, requests: list[Request]) -> dict[str, Any]:
    """Row, column and values of every patch, padded as the library's processor does it."""
    patches = torch.zeros(len(requests), MAX_PATCHES, 2 + PATCH * PATCH * 3)
    mask = torch.zeros(len(requests), MAX_PATCHES)
    for number, request in enumerate(requests):
        rows, columns = (side // PATCH for side in request.pixels_HWC.shape[:2])
        grid = torch.from_numpy(request.pixels_HWC).reshape(rows, PATCH, columns, PATCH, 3).transpose(1, 2)
        places = torch.cartesian_prod(torch.arange(1, rows + 1), torch.arange(1, columns + 1)).view(-1, 2)
        patches[number, : rows * columns] = torch.cat([places, grid.reshape(rows * columns, -1)], dim=1)
        mask[number, : rows * columns] = 1
    return {"flattened_patches": patches, "attention_mask": mask}


def _udop_inputs(model: Any, requests: list[Request]) -> dict[str, Any]:
    ids, mask = _padded([request.prompt_ids for request in requests])
    code = ids // VOCAB - 1
    boxes = torch.stack([code // 1001**i % 1001 for i in (3, 2, 1, 0)], dim=-1).where(code[..., None] >= 0, 0)
    return {"input_ids": ids % VOCAB, "attention_mask": mask, "bbox": boxes, "pixel_values": _pixels(requests)}


CASES: dict[str, Case] = {
    "t5": Case(_t5, _text_inputs, 32),
    "t5_untied_head": Case(_t5_untied, _text_inputs, 32, gain=0.9),
    "mt5": Case(lambda: _mt5("MT5"), _text_inputs, 32, gain=0.9),
    "umt5": Case(lambda: _mt5("UMT5"), _text_inputs, 32, gain=0.9),
    "bart": Case(_bart, _text_inputs, 32),
    "mbart": Case(_mbart, _text_inputs, 32),
    "pix2struct": Case(_pix2struct, _pix2struct_inputs, 16, prompts=False, gain=1.0, patches=True),
    "udop": Case(_udop, _udop_inputs, 16, boxes=True, batched=False),
    "florence2": Case(_florence2, _florence2_inputs, 64, gain=1.1),
    "t5gemma2": Case(
        lambda: t5gemma2.build(VOCAB, LAYERS),
        lambda model, requests: t5gemma2.inputs(model, [r.prompt_ids for r in requests], _pixels(requests)),
        t5gemma2.SIDE, image_id=VOCAB - 1,
    ),
    "blip2": Case(lambda: blip2("Blip2"), _blip2_inputs, 24, gain=0.9),
    "instructblip": Case(lambda: blip2("InstructBlip"), _blip2_inputs, 24, qformer=True, gain=0.9),
    "donut": Case(_donut, _vision_inputs, 32, prompts=False),
    "trocr": Case(_trocr, _vision_inputs, 32, prompts=False),
    "trocr_sinusoids": Case(
        lambda: _trocr(use_learned_position_embeddings=False, layernorm_embedding=False, scale_embedding=True,
                       activation_function="relu"), _vision_inputs, 32, prompts=False),
    "vit_gpt2": Case(_vit_gpt2, _vision_inputs, 32, prompts=False),
    "vit_gpt2_untied": Case(_vit_gpt2_untied, _vision_inputs, 32, prompts=False),
    "deit_bert": Case(_deit_bert, _vision_inputs, 32, prompts=False),
    "swin_roberta": Case(_swin_roberta, _vision_inputs, 32, prompts=False),
    "beit_xlm_roberta": Case(_beit_xlm_roberta, _vision_inputs, 32, prompts=False),
    "blip": Case(lambda: _blip(False), _blip_inputs, 32, prompts=False, batched=False, begun=True, gain=2.5,
                 forward=_blip_forward),
    "blip_vqa": Case(lambda: _blip(True), _blip_vqa_inputs, 32, batched=False, gain=2.5, forward=_blip_forward),
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
        pixels: Any = rng.integers(0, 256, (case.image_size, case.image_size, 3), dtype=np.uint8)
        if case.patches:
            rows = int(rng.integers(1, 7))
            columns = int(rng.integers(1, MAX_PATCHES // rows + 1))
            pixels = rng.normal(size=(rows * PATCH, columns * PATCH, 3)).astype(np.float32)
        begun = tuple(map(int, rng.integers(3, VOCAB - 2, i % 3))) if case.begun else None
        requests.append(Request(i, pixels, tuple(ids), prefix_ids=begun))
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
