"""`deed convert` there and back, and one clear sentence for every directory it cannot take."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from actors.engine.engine import Engine
from actors.engine.request import Request
from actors.model.checkpoint import load_checkpoint
from conf.checkpoint_files import read_model_config
from conf.checkpoint_info import read_checkpoint_info
from conf.engine import EngineConfig
from conf.model import ModelConfig
from conf.text_rules import OutputStructure
from jobs.cli import main
from pipeline.images.plan import carry_out
from tests.actors.engine.tiny import run
from tests.actors.interop.sources import CASES, STEPS, make_requests, make_source, their_outputs

FULL = EngineConfig.model_validate(
    {"schedule": "full", "generation": {"max_new_tokens": STEPS, "max_prefix_tokens": 4}}
)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """A directory and its model, for some families."""
    root = tmp_path_factory.mktemp("sources")
    return {name: (root / name, make_source(name, root / name)) for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_there_and_back(name: str, sources: dict[str, tuple[Path, Any]], tmp_path: Path,
                        capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    source, theirs = sources[name]
    ours, back = tmp_path / "ours", tmp_path / "back"
    assert main(["convert", str(source), str(ours), "--exits", "1,3", "--max-prompt-tokens", "12"]) == 0
    said = capsys.readouterr()
    assert "exits [1] are untrained" in said.out
    assert not said.err

    info = read_checkpoint_info(str(ours)).model
    assert (info.exits, info.decoder.num_layers, info.thresholds) == ((1, 3), 3, None)
    assert info.image_size == CASES[name].image_size
    checkpoint = load_checkpoint(ours)
    assert checkpoint.config.untrained_exits == (1,)
    assert checkpoint.config.encoder.max_prompt_tokens == 12
    work = make_requests(CASES[name], 6, 3)
    done = run(Engine(checkpoint.model, FULL), work)
    for i, row in enumerate(their_outputs(theirs, work, CASES[name])):
        assert done[i].token_ids == tuple(
            row[: row.index(info_eos)] if (info_eos := checkpoint.config.eos_id) in row else row
        )

    assert main(["convert", "--to-hf", str(ours), str(back)]) == 0
    again, report = type(theirs).from_pretrained(back, output_loading_info=True)
    missing = {key for key in report["missing_keys"] if not key.startswith("encoder.pooler.")}
    assert not missing | report["unexpected_keys"] | report["mismatched_keys"]
    mine, other = again.state_dict(), theirs.state_dict()
    assert mine.keys() == other.keys()
    unread = ("decoder.embed_patches", "decoder.relative_bias", "decoder.embed_positions.weights", "encoder.pooler.")
    assert all(torch.equal(mine[key], other[key]) for key in other if not key.startswith(unread))  # bit for bit
    assert json.loads((back / "config.json").read_text())["model_type"] == theirs.config.model_type
    assert (back / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    assert (back / "preprocessor_config.json").read_bytes() == (source / "preprocessor_config.json").read_bytes()


def test_florence2_prompts_are_those_of_its_processor(sources: dict[str, tuple[Path, Any]], tmp_path: Path) -> None:
    main(["convert", str(sources["florence2"][0]), str(tmp_path / "ours")])
    codec = load_checkpoint(tmp_path / "ours").codec
    assert codec.encode_prompt("w5 w6") == (0, 5, 6, 2)  # <s> prompt </s>
    assert codec._task("<CAPTION>") == "What does the image describe?"
    assert codec._task("<REGION_TO_OCR> <loc_1>") == "What text is in the region <loc_1>?"
    with pytest.raises(ValueError, match="nothing may follow the task <OD>"):
        codec.encode_prompt("<OD> cat")
    assert codec.pieces((5, 6)) == ["w5", " w6"]


def test_the_structure_of_outputs_is_that_of_the_sources_processor_and_tokenizer(
    sources: dict[str, tuple[Path, Any]], tmp_path: Path
) -> None:
    def converted(name: str, source: Path) -> ModelConfig:
        assert main(["convert", str(source), str(tmp_path / name)]) == 0
        return read_model_config(tmp_path / name)

    source = Path(shutil.copytree(sources["florence2"][0], tmp_path / "florence2_source"))
    config = converted("plain", source)
    assert (config.text.structure, config.text.keep_special_tokens) == (OutputStructure(kind="florence2"), True)
    phrases = {"post_processor_config": {"phrase_grounding": {"banned_grounding_tokens": ["it", "I", "it"]}}}
    (source / "processor_config.json").write_text(json.dumps(phrases))
    assert converted("phrases", source).text.structure == OutputStructure(kind="florence2", banned_phrases=("I", "it"))

    source = Path(shutil.copytree(sources["donut"][0], tmp_path / "donut_source"))
    config = converted("nougat", source)  # the same classes, no tags
    assert (config.text.structure, config.text.keep_special_tokens) == (None, False)
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.add_special_tokens(["<s_menu>", "</s_menu>"])
    tokenizer.save(str(source / "tokenizer.json"))
    config = converted("donut", source)
    assert (config.text.structure, config.text.keep_special_tokens) == (OutputStructure(kind="donut"), True)


def test_an_encoder_of_rectangles_reads_them_as_its_processor_makes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_source("donut", tmp_path / "source")
    settings = json.loads((tmp_path / "source" / "preprocessor_config.json").read_text())
    settings |= {"size": {"height": 64, "width": 32}, "resample": 3, "image_processor_type": "DonutImageProcessor"}
    (tmp_path / "source" / "preprocessor_config.json").write_text(json.dumps(settings))
    assert main(["convert", str(tmp_path / "source"), str(tmp_path / "ours")]) == 0
    said = capsys.readouterr().out
    assert (
        "images are resized until the shorter side has 32 pixels (bicubic), made to fit 64 x 32 (bicubic), "
        "padded to 64 x 32"
    ) in said
    checkpoint = load_checkpoint(tmp_path / "ours")
    assert checkpoint.config.image_size == 64
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (50, side, 3), dtype=np.uint8)) for side in (20, 90)]
    work = [Request(i, carry_out(picture, checkpoint.config.plan), (1,)) for i, picture in enumerate(pictures)]
    done = run(Engine(checkpoint.model, FULL), work)
    assert all(completion.token_ids for completion in done.values())


def test_wrong_special_tokens_of_a_fine_tune_are_not_believed(
    sources: dict[str, tuple[Path, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source"
    shutil.copytree(sources["florence2"][0], source)
    (source / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "pad_token": {"content": "<pad>"}}))
    wrong = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0, "decoder_start_token_id": 2, "num_beams": 3}
    (source / "generation_config.json").write_text(json.dumps(wrong))
    assert main(["convert", str(source), str(tmp_path / "ours")]) == 0
    config = read_model_config(tmp_path / "ours")
    assert (config.eos_id, config.pad_id, config.start_id) == (2, 1, 2)
    said = capsys.readouterr().out
    assert "eos_token_id is 1 in generation_config.json and 2 in the tokenizer; 2 is used" in said
    assert "asks for 3 beams" in said


@pytest.mark.parametrize("name", ["florence2", "bart"])  # named in text_config, and at the top
def test_wrong_start_and_first_tokens_are_not_believed_either(
    name: str, sources: dict[str, tuple[Path, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source"
    shutil.copytree(sources[name][0], source)
    config = json.loads((source / "config.json").read_text())
    text = config.get("text_config", config)
    text |= {"decoder_start_token_id": 2, "forced_bos_token_id": 0}
    (source / "config.json").write_text(json.dumps(config))
    wrong = {"decoder_start_token_id": 5, "forced_bos_token_id": 7}
    (source / "generation_config.json").write_text(json.dumps(wrong))
    assert main(["convert", str(source), str(tmp_path / "ours")]) == 0
    ours = read_model_config(tmp_path / "ours")
    assert (ours.start_id, ours.generation.forced_bos_id) == (2, 0)
    said = capsys.readouterr().out
    assert "decoder_start_token_id is 5 in generation_config.json and 2 in config.json; 2 is used" in said
    assert "forced_bos_token_id is 7 in generation_config.json and 0 in config.json; 0 is used" in said


def test_a_first_token_that_ends_or_is_none_is_said(
    sources: dict[str, tuple[Path, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source"
    shutil.copytree(sources["t5"][0], source)
    small = json.loads((source / "tokenizer.json").read_text())
    small["model"]["vocab"] = {token: i for token, i in small["model"]["vocab"].items() if i < 90}
    (source / "tokenizer.json").write_text(json.dumps(small))
    eos = json.loads((source / "config.json").read_text())["eos_token_id"]
    odd = {"forced_bos_token_id": eos, "decoder_start_token_id": 95}
    _configure(source, **odd)
    (source / "generation_config.json").unlink()
    assert main(["convert", str(source), str(tmp_path / "ours")]) == 0
    ours = read_model_config(tmp_path / "ours")
    assert (ours.start_id, ours.generation.forced_bos_id) == (95, None)
    said = capsys.readouterr().out
    assert f"forced_bos_token_id={eos} is the end token" in said
    assert "decoder_start_token_id=95 is no token of the tokenizer" in said


def test_code_named_by_a_part_of_the_configuration_is_not_run(
    sources: dict[str, tuple[Path, Any]], tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(sources["trocr"][0], source)
    (source / "evil.py").write_text(f"open({str(source / 'exploded')!r}, 'w')")
    encoder = json.loads((source / "config.json").read_text())["encoder"]
    _configure(source, encoder={**encoder, "auto_map": {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"}})
    assert main(["convert", str(source), str(tmp_path / "ours")]) == 0
    load_checkpoint(tmp_path / "ours")
    assert not (source / "exploded").exists()


def test_scaling_and_tying_are_two_flags(sources: dict[str, tuple[Path, Any]], tmp_path: Path) -> None:
    """A file of version 4 has only the tie flag, one of version 5 says the scale itself and calls everything tied."""
    for raw, scaled in (
        ({"tie_word_embeddings": False}, False),
        ({"tie_word_embeddings": True}, True),
        ({}, True),
        ({"tie_word_embeddings": True, "scale_decoder_outputs": False}, False),
    ):
        source = tmp_path / f"source{len(list(tmp_path.iterdir()))}"
        shutil.copytree(sources["t5_untied_head"][0], source)
        config = json.loads((source / "config.json").read_text())
        config = {k: v for k, v in config.items() if k not in ("tie_word_embeddings", "scale_decoder_outputs")} | raw
        (source / "config.json").write_text(json.dumps(config))
        assert main(["convert", str(source), str(source / "ours")]) == 0
        decoder = read_model_config(source / "ours").decoder
        assert decoder.head_scale == (32**-0.5 if scaled else 1.0)
        assert not decoder.head_tied


class Bomb:
    """Unpickling this leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def _pickle_with_code(path: Path) -> None:
    (path / "model.safetensors").unlink()
    torch.save({"weight": torch.ones(1), "bomb": Bomb(path / "exploded")}, path / "pytorch_model.bin")


def _own_code(path: Path) -> None:
    (path / "modeling_evil.py").write_text(f"open({str(path / 'exploded')!r}, 'w')")
    _configure(path, model_type="evil", auto_map={"AutoConfig": "modeling_evil.Config"})


def _configure(path: Path, **changes: Any) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **changes}))


def _change_weights(path: Path, change: Any) -> None:
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


NORM = "decoder.final_layer_norm.weight"
MISTAKES = {
    "a pickle with code": (_pickle_with_code, "hold something besides tensors, which could run code"),
    "code of its own": (_own_code, "model_type 'evil' is not supported; supported are t5, "),
    "a tensor too few": (lambda p: _change_weights(p, lambda t: t.pop(NORM)), f"lack the tensor {NORM!r} (1 missing)"),
    "a tensor too many": (
        lambda p: _change_weights(p, lambda t: t.update(stranger=torch.ones(1))), "hold the unknown tensor 'stranger'"),
    "a wrong shape": (
        lambda p: _change_weights(p, lambda t: t.update({NORM: torch.ones(5)})), "has shape [5] where the config"),
    "cut weights": (
        lambda p: (p / "model.safetensors").write_bytes((p / "model.safetensors").read_bytes()[:999]),
        "are not readable safetensors"),
    "no configuration": (lambda p: (p / "config.json").unlink(), "has no config.json"),
    "broken configuration": (lambda p: (p / "config.json").write_text("{"), "is not readable JSON"),
    "a nested configuration": (lambda p: (p / "config.json").write_text('{"a":' * 100_000), "nested too deeply"),
    "a million layers": (
        lambda p: _configure(p, text_config={"num_layers": 10**6}), "cannot have text_config.num_layers=1000000"),
    "a nested tokenizer": (lambda p: (p / "tokenizer.json").write_text('{"a":' * 100_000), "tokenizer '"),
    "invalid configuration": (lambda p: _configure(p, text_config={"num_heads": "many"}), "config.json is not valid"),
    "no tokenizer": (lambda p: (p / "tokenizer.json").unlink(), "has no tokenizer that can be read"),
    "a start token that is no token": (
        lambda p: _configure(p, decoder_start_token_id=4000),
        "decoder_start_token_id=4000 is outside the vocabulary of 97"),
    "a first token outside the vocabulary": (
        lambda p: (p / "generation_config.json").write_text(json.dumps({"forced_bos_token_id": 97})),
        "forced_bos_token_id=97 is outside the vocabulary of 97"),
    "quantised": (lambda p: _configure(p, quantization_config={"load_in_8bit": True}), "is quantised"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_and_runs_nothing(
    mistake: str, sources: dict[str, tuple[Path, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, sentence = MISTAKES[mistake]
    source = tmp_path / "source"
    shutil.copytree(sources["pix2struct"][0], source)
    spoil(source)
    assert main(["convert", str(source), str(tmp_path / "ours")]) == 2
    said = capsys.readouterr().err.strip()
    assert said.count("\n") == 0
    assert said.startswith("deed convert: ")
    assert sentence in said
    assert not (tmp_path / "ours").exists()
    assert not (source / "exploded").exists()


def test_an_output_that_holds_a_model_and_exits_that_do_not_fit(
    sources: dict[str, tuple[Path, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = sources["pix2struct"][0]
    assert main(["convert", str(source), str(source)]) == 2
    assert "holds a model already" in capsys.readouterr().err
    assert main(["convert", str(source), str(tmp_path / "ours"), "--exits", "1,9"]) == 2
    assert "exits must be increasing layers that end with 3" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "nowhere"), str(tmp_path / "ours")]) == 2
    assert "is not a directory" in capsys.readouterr().err
