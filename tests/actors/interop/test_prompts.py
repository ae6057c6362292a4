"""Prompts as the library's own tokenizers and processors lay them out, from text to text."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from actors.engine.engine import Engine
from actors.engine.request import Request
from actors.model.checkpoint import Checkpoint, load_checkpoint
from actors.model.interop.families import FAMILIES, configuration
from actors.model.interop.model_directory import read_source
from actors.model.interop.prompt_rules import prompt_room
from actors.model.word_boxes import unpack
from conf.engine import EngineConfig
from jobs.cli import main
from tests.actors.engine.tiny import run
from tests.actors.interop.prompted_models import blip2
from tests.actors.interop.sources import make_source, randomise
from tests.actors.interop.text_models import LAYERS

STEPS = 10
FULL = EngineConfig.model_validate({"schedule": "full", "generation": {"max_new_tokens": STEPS}})
# One has more tokens than caches begin with room for.
PROMPTS = ["w1", "w2 w3", " w4  w5 ", "w6 w1 w1 w7", "unheard w8", "w9 " * 80, "w10", "w11 w12", "w13 </s> w2", "w14."]


PIECES = [(f"▁w{i}", -3.0) for i in range(30)]


def _converted(source: Path) -> Checkpoint:
    assert main(["convert", str(source), str(source / "ours")]) == 0
    return load_checkpoint(source / "ours")


def _said(checkpoint: Checkpoint, prompt_ids: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    side = checkpoint.config.image_size
    pixels = torch.zeros(side, side, 3, dtype=torch.uint8).numpy()
    done = run(Engine(checkpoint.model, FULL), [Request(i, pixels, ids) for i, ids in enumerate(prompt_ids)])
    return [done[i].token_ids for i in range(len(prompt_ids))]


def _text_to_text(model: Any, tokenizer: Any, source: Path) -> Checkpoint:
    """Save model and tokenizer, convert them, and compare ids and outputs for every prompt."""
    randomise(model.eval(), 3, gain=2.5)
    model.save_pretrained(source)
    tokenizer.save_pretrained(source)
    checkpoint = _converted(source)
    ids = [checkpoint.codec.encode_prompt(prompt) for prompt in PROMPTS]
    assert ids == [tuple(tokenizer(prompt).input_ids) for prompt in PROMPTS]
    forced = checkpoint.config.generation.forced_bos_id is not None
    said, eos = _said(checkpoint, ids), checkpoint.config.eos_id
    for prompt, mine in zip(PROMPTS, said, strict=True):
        inputs = tokenizer(prompt, return_tensors="pt")
        theirs = model.generate(**inputs, max_new_tokens=STEPS, do_sample=False)[0, 1:].tolist()
        assert mine == tuple(theirs[: theirs.index(eos)] if eos in theirs else theirs)
        assert checkpoint.codec.decode(mine) == tokenizer.decode(theirs, skip_special_tokens=True).strip()
    assert len({mine[forced:] for mine in said}) > 5
    return checkpoint


def _t5_tokenizer() -> Any:
    from transformers import T5Tokenizer

    specials = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    return T5Tokenizer(vocab=[*specials, *PIECES], extra_ids=4)


def _mbart_tokenizer(kind: str, **languages: str) -> Any:
    import transformers

    specials = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    return getattr(transformers, kind)(vocab=[*specials, *PIECES], **languages)


def _udop_processor() -> Any:
    from transformers import UdopProcessor, UdopTokenizer
    from transformers.models.layoutlmv3.image_processing_pil_layoutlmv3 import LayoutLMv3ImageProcessorPil

    specials = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    images = LayoutLMv3ImageProcessorPil(apply_ocr=False, size={"height": 16, "width": 16})
    return UdopProcessor(images, UdopTokenizer(vocab=[*specials, *PIECES]))


def _mbart(vocab_size: int, **settings: Any) -> Any:
    from transformers import MBartConfig, MBartForConditionalGeneration

    return MBartForConditionalGeneration(MBartConfig(
        vocab_size=vocab_size, d_model=24, encoder_layers=2, decoder_layers=LAYERS, encoder_attention_heads=2,
        decoder_attention_heads=3, encoder_ffn_dim=32, decoder_ffn_dim=40, max_position_embeddings=96,
        scale_embedding=True, **settings,
    ))  # fmt: skip


@pytest.mark.parametrize("model_type", ["t5", "mt5"])
def test_prompts_of_t5_end_as_its_tokenizer_ends_them(model_type: str, tmp_path: Path) -> None:
    import transformers

    tokenizer = _t5_tokenizer()
    config = getattr(transformers, f"{model_type.upper()}Config")(
        vocab_size=len(tokenizer), d_model=32, d_kv=12, d_ff=48, num_layers=LAYERS, num_heads=4,
        relative_attention_num_buckets=8, relative_attention_max_distance=20, decoder_start_token_id=0,
    )  # fmt: skip
    model = getattr(transformers, f"{model_type.upper()}ForConditionalGeneration")(config)
    _text_to_text(model, tokenizer, tmp_path)


def test_prompts_of_mbart_end_with_their_language(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = _mbart_tokenizer("MBartTokenizer", src_lang="ro_RO", tgt_lang="de_DE")
    german, romanian = tokenizer.convert_tokens_to_ids(["de_DE", "ro_RO"])
    model = _mbart(len(tokenizer), decoder_start_token_id=german)
    rules = _text_to_text(model, tokenizer, tmp_path).config
    assert (rules.text.prefix_ids, rules.text.suffix_ids, rules.start_id) == ((), (2, romanian), german)
    assert rules.encoder.max_prompt_tokens == 96  # as many as it has positions
    assert "prompts are in ro_RO" in capsys.readouterr().out
    assert main(["convert", str(tmp_path), str(tmp_path / "more"), "--max-prompt-tokens", "97"]) == 2
    assert "--max-prompt-tokens=97 is more than the 96 that the model has positions for" in capsys.readouterr().err


@pytest.mark.parametrize("forced", [True, False])
def test_prompts_of_mbart50_begin_with_their_language(
    forced: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = _mbart_tokenizer("MBart50Tokenizer", src_lang="ro_RO", tgt_lang="de_DE")
    german, romanian = tokenizer.convert_tokens_to_ids(["de_DE", "ro_RO"])
    model = _mbart(len(tokenizer), decoder_start_token_id=2)
    model.generation_config.forced_bos_token_id = german if forced else None
    rules = _text_to_text(model, tokenizer, tmp_path).config
    assert (rules.text.prefix_ids, rules.text.suffix_ids) == ((romanian,), (2,))
    assert rules.generation.forced_bos_id == (german if forced else None)
    assert ("engine.generation.decoder_prefix=de_DE" in capsys.readouterr().out) == (not forced)


def _blip2_processor(kind: str, tokenizer: Any) -> Any:
    import transformers
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    images = BlipImageProcessorPil(size={"height": 24, "width": 24})
    if kind == "Blip2":
        return transformers.Blip2Processor(images, tokenizer, num_query_tokens=4)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "w", *(f"##{digit}" for digit in range(10))]
    own = transformers.BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)})
    return transformers.InstructBlipProcessor(images, tokenizer, own, num_query_tokens=4)


@pytest.mark.parametrize("kind", ["Blip2", "InstructBlip"])
def test_blip2_reads_a_prompt_as_its_processor_lays_it_out(kind: str, tmp_path: Path) -> None:
    processor = _blip2_processor(kind, _t5_tokenizer())
    image_token = processor.tokenizer.convert_tokens_to_ids("<image>")
    model = blip2(kind, vocab_size=len(processor.tokenizer), image_token=image_token).eval()
    randomise(model, 3, gain=2.0)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    unread = {"no_repeat_ngram_size": 1, "num_beams": 5, "repetition_penalty": 9.0, "eos_token_id": 1}
    (tmp_path / "generation_config.json").write_text(json.dumps(unread))
    model = type(model).from_pretrained(tmp_path).eval()
    checkpoint, rng = _converted(tmp_path), np.random.default_rng(0)
    codec = checkpoint.codec
    requests, expected = [], []
    for i, prompt in enumerate(PROMPTS):
        pixels = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
        inputs = processor(Image.fromarray(pixels), prompt, return_tensors="pt")
        ids = codec.encode_prompt(prompt)
        own = [codec.vocab_size + t for t in inputs["qformer_input_ids"][0].tolist()] if kind != "Blip2" else []
        assert list(ids) == [*inputs["input_ids"][0, 4:].tolist(), *own]
        requests.append(Request(i, pixels, ids))
        expected.append(model.generate(**inputs, max_new_tokens=STEPS, do_sample=False)[0, 1:].tolist())
    done, eos = run(Engine(checkpoint.model, FULL), requests), checkpoint.config.eos_id
    for i, theirs in enumerate(expected):
        assert done[i].token_ids == tuple(theirs[: theirs.index(eos)] if eos in theirs else theirs)
    assert len({completion.token_ids for completion in done.values()}) > 5
    if kind == "InstructBlip":
        assert len(codec.encode_prompt("w1 " * 90, 20)) == 20


def test_prompts_have_the_room_that_a_source_declares(tmp_path: Path) -> None:
    from transformers import Florence2Config

    make_source("t5", tmp_path)
    settings, hf = tmp_path / "tokenizer_config.json", configuration(read_source(tmp_path).config)

    def room(declared: float, family: str = "t5", image_size: int = 32) -> int:
        settings.write_text(json.dumps({"model_max_length": declared}))
        return prompt_room(read_source(tmp_path), FAMILIES[family], hf, image_size, None)

    assert [room(1e30), room(200), room(131_072)] == [512, 200, 1024]
    hf = Florence2Config()
    hf.text_config.max_position_embeddings = 1024
    assert room(1024, "florence2", 768) == 1024 - 577


def test_blip2_with_a_decoder_only_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "blip-2", "text_config": {"model_type": "opt"}}')
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    assert main(["convert", str(tmp_path), str(tmp_path / "ours")]) == 2
    assert "blip-2 with 'opt' is a decoder-only model" in capsys.readouterr().err


def test_udop_reads_question_and_words_as_its_processor_lays_them_out(tmp_path: Path) -> None:
    from transformers import UdopConfig, UdopForConditionalGeneration

    processor = _udop_processor()
    model = UdopForConditionalGeneration(UdopConfig(
        vocab_size=len(processor.tokenizer), d_model=32, d_kv=8, d_ff=48, num_layers=LAYERS, num_heads=4,
        image_size=16, patch_size=4, max_2d_position_embeddings=64, decoder_start_token_id=0,
    ))  # fmt: skip
    randomise(model.eval(), 3, gain=2.5)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    checkpoint, rng = _converted(tmp_path), np.random.default_rng(0)
    requests, expected = [], []
    for i, question in enumerate(PROMPTS):
        words = [f"w{rng.integers(40)}" for _ in range(5 * i)]  # some are in no vocabulary; the first has no words
        boxes = rng.integers(0, 1001, (len(words), 4)).tolist()
        pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        inputs = processor(Image.fromarray(pixels), [question], text_pair=[words], boxes=[boxes], return_tensors="pt")
        lines = [f"{' '.join(map(str, box))}\t{word}" for box, word in zip(boxes, words, strict=True)]
        ids = checkpoint.codec.encode_prompt("\n".join([question, *lines]))
        tokens, places, _ = unpack(torch.tensor([ids]), checkpoint.codec.vocab_size)
        assert torch.equal(tokens, inputs["input_ids"])
        assert torch.equal(places, inputs["bbox"])
        requests.append(Request(i, pixels, ids))
        expected.append(model.generate(**inputs, max_new_tokens=STEPS, do_sample=False)[0, 1:].tolist())
    done, eos = run(Engine(checkpoint.model, FULL), requests), checkpoint.config.eos_id
    for i, theirs in enumerate(expected):
        assert done[i].token_ids == tuple(theirs[: theirs.index(eos)] if eos in theirs else theirs)
    assert len({completion.token_ids for completion in done.values()}) > 5

    cut = checkpoint.codec.encode_prompt("\n".join(["w1 w2", *["1 2 3 4\tw5"] * 90]), 20)
    assert len(cut) == 20
    assert cut[-1] % checkpoint.codec.vocab_size == eos  # what does not fit is left out before the end
