"""Florence-2 in the layout of the repositories that bring their own code: read by its names, no code run."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.engine.engine import Engine
from actors.model.checkpoint import load_checkpoint
from actors.parity.library import Library
from conf.engine import EngineConfig
from conf.errors import UserError
from jobs.cli import main
from tests.actors.engine.tiny import run
from tests.actors.interop.sources import CASES, STEPS, make_requests, make_source, their_outputs

FULL = EngineConfig.model_validate({"schedule": "full", "generation": {"max_new_tokens": STEPS}})


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    path = tmp_path_factory.mktemp("native")
    return path, make_source("florence2", path)


def old_name(name: str) -> str:
    """The library's name -> the one of the remote code."""
    name = name.replace("model.language_model.", "language_model.model.").replace("lm_head.", "language_model.lm_head.")
    name = name.replace("model.multi_modal_projector.image_projection.weight", "image_projection")
    name = name.replace("model.multi_modal_projector.image_position_embed.", "image_pos_embed.")
    name = name.replace("model.multi_modal_projector.", "").replace("model.vision_tower.", "vision_tower.")
    if not name.startswith("vision_tower."):
        return name
    attention = "window_attn" if "spatial_block" in name else "channel_attn"
    name = re.sub(r"(convs\.\d+)\.conv\.", r"\1.proj.", name)
    name = re.sub(r"block\.conv(\d)\.", r"block.conv\1.fn.dw.", name)
    name = name.replace(".ffn.", ".ffn.fn.net.").replace(f".{attention}.", f".{attention}.fn.")
    return name.replace("block.norm1.", f"block.{attention}.norm.").replace("block.norm2.", "block.ffn.norm.")


def old_layout(path: Path) -> None:
    """Rewrite a native directory as the remote code's."""
    config = json.loads((path / "config.json").read_text())
    vision, text = config["vision_config"], config["text_config"]
    text |= {"model_type": "florence2_language", "num_beams": 3, "no_repeat_ngram_size": 3, "early_stopping": True}
    vision |= {
        "model_type": "davit", "dim_embed": vision.pop("embed_dim"), "enable_checkpoint": False,
        "image_pos_embed": {"type": "learned_abs_2d", "max_pos_embeddings": vision.pop("max_position_embeddings")},
        "visual_temporal_embedding": {
            "type": "COSINE", "max_temporal_embeddings": vision.pop("max_temporal_embeddings")},
        "image_feature_source": ["spatial_avg_pool", "temporal_avg_pool"],
    }  # fmt: skip
    del config["image_token_id"]
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_florence2.Florence2ForConditionalGeneration"}
    (path / "config.json").write_text(json.dumps(config))
    (path / "modeling_florence2.py").write_text(f"open({str(path / 'exploded')!r}, 'w')")
    tensors = {old_name(name): tensor for name, tensor in load_file(path / "model.safetensors").items()}
    tensors["image_projection"] = tensors["image_projection"].T.contiguous()
    shared = tensors["language_model.model.shared.weight"]
    tensors["language_model.model.encoder.embed_tokens.weight"] = shared.clone()
    tensors["language_model.lm_head.weight"] = shared.clone()
    tensors["language_model.final_logits_bias"] = torch.zeros(1, len(shared))
    save_file(tensors, path / "model.safetensors")


def test_the_remote_layout_says_what_the_native_one_says(native: tuple[Path, Any], tmp_path: Path) -> None:
    path, model = native
    source, ours, back = shutil.copytree(path, tmp_path / "source"), tmp_path / "ours", tmp_path / "back"
    old_layout(source)
    assert "vision_tower.blocks.0.0.spatial_block.window_attn.fn.qkv.weight" in load_file(source / "model.safetensors")
    with pytest.raises(UserError, match="only by code that comes with it, which is not run"):
        Library(source, STEPS)
    assert "image_proj_norm.weight" in load_file(source / "model.safetensors")
    assert main(["convert", str(source), str(ours), "--exits", "1,3"]) == 0
    assert not (source / "exploded").exists()
    checkpoint, work = load_checkpoint(ours), make_requests(CASES["florence2"], 6, 3)
    done = run(Engine(checkpoint.model, FULL), work)
    eos = checkpoint.config.eos_id
    for i, row in enumerate(their_outputs(model, work, CASES["florence2"])):
        assert done[i].token_ids == tuple(row[: row.index(eos)] if eos in row else row)
    assert main(["convert", "--to-hf", str(ours), str(back)]) == 0
    again = type(model).from_pretrained(back).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items())


def test_a_fine_tune_with_the_ids_of_another_tokenizer_says_what_the_original_says(
    native: tuple[Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong everywhere but in the tokenizer; and rows of the vocabulary that no token has, as padding leaves them."""
    path, model = native
    source, ours = shutil.copytree(path, tmp_path / "source"), tmp_path / "ours"
    old_layout(source)
    wrong = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    config = json.loads((source / "config.json").read_text())
    config["text_config"] |= {**wrong, "forced_eos_token_id": 1}
    (source / "config.json").write_text(json.dumps({**config, **wrong}))
    asked = json.loads((source / "generation_config.json").read_text())
    (source / "generation_config.json").write_text(json.dumps({**asked, **wrong}))
    names = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": "<pad>"}
    (source / "special_tokens_map.json").write_text(json.dumps(names))
    tokens = json.loads((source / "tokenizer.json").read_text())
    tokens["model"]["vocab"] = {token: i for token, i in tokens["model"]["vocab"].items() if i < 80}
    (source / "tokenizer.json").write_text(json.dumps(tokens))
    assert main(["convert", str(source), str(ours)]) == 0
    said = capsys.readouterr().out
    assert "eos_token_id is 1 in config.json and 2 in the tokenizer; 2 is used" in said
    checkpoint, work = load_checkpoint(ours), make_requests(CASES["florence2"], 6, 3)
    assert (checkpoint.config.start_id, checkpoint.config.eos_id, checkpoint.config.pad_id) == (2, 2, 1)
    assert checkpoint.codec.encode_prompt("w5 w6") == (0, 5, 6, 2)
    done = run(Engine(checkpoint.model, FULL), work)
    for i, row in enumerate(their_outputs(model, work, CASES["florence2"])):
        assert done[i].token_ids == tuple(row[: row.index(2)] if 2 in row else row)
        checkpoint.codec.decode(done[i].token_ids)  # rows without a token are no error


def change(path: Path, **vision: Any) -> None:
    config = json.loads((path / "config.json").read_text())
    config["vision_config"] |= vision
    (path / "config.json").write_text(json.dumps(config))


def spoil_bias(path: Path) -> None:
    tensors = load_file(path / "model.safetensors")
    tensors["language_model.final_logits_bias"][0, 3] = 1
    save_file(tensors, path / "model.safetensors")


MISTAKES = {
    "another pooling": (
        lambda path: change(path, image_feature_source=["last_frame"]), "image_feature_source=['last_frame'] is not"),
    "a bias": (spoil_bias, "'language_model.final_logits_bias' is not zero"),
    "another width": (lambda path: change(path, dim_embed=[8, 8, 8, 8]), "where the configuration says"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_the_native_class_has_not_is_one_sentence(
    mistake: str, native: tuple[Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = shutil.copytree(native[0], tmp_path / "source")
    old_layout(source)
    spoil, sentence = MISTAKES[mistake]
    spoil(source)
    assert main(["convert", str(source), str(tmp_path / "ours")]) == 2
    said = capsys.readouterr().err.strip()
    assert sentence in said
    assert said.count("\n") == 0
    assert len(said) < 400
