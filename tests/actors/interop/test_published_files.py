"""Directories as people publish them: old formats of weights and settings, parts, what is missing and what is left."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.model.interop.conversion import Converted, convert
from actors.model.interop.model_directory import read_source
from conf.image_plan import CentreCrop, Resize, Step
from jobs.cli import main
from tests.actors.interop.sources import make_source
from tests.actors.interop.test_convert import Bomb

SQUARE = Resize(height=32, width=32)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    root = tmp_path_factory.mktemp("published")
    return {name: (root / name, make_source(name, root / name)) for name in ("trocr", "t5")}


@pytest.fixture
def source(sources: dict[str, tuple[Path, Any]], tmp_path: Path) -> Path:
    """A TrOCR with a ViT, to spoil."""
    return shutil.copytree(sources["trocr"][0], tmp_path / "source")


def converted(path: Path) -> Converted:
    return convert(read_source(path), None, name="tiny")


def assert_same(path: Path, other: Path) -> None:
    a, b = converted(path), converted(other)
    assert a.config == b.config
    assert a.state.keys() == b.state.keys()
    assert all(torch.equal(a.state[name], b.state[name]) for name in a.state)


def change_weights(path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors")


def as_bin(path: Path, tensors: dict[str, Any]) -> None:
    """As `save_pretrained` wrote it until 2023: every tied copy is there."""
    (path / "model.safetensors").unlink()
    torch.save(tensors, path / "pytorch_model.bin")


def as_parts(path: Path, save: Callable[[dict[str, torch.Tensor], Path], Any], name: str) -> None:
    """Two files and an index."""
    tensors = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    stem, suffix = name.split(".")
    halves = [dict(list(tensors.items())[half::2]) for half in (0, 1)]
    files = [f"{stem}-0000{half + 1}-of-00002.{suffix}" for half in (0, 1)]
    for file, part in zip(files, halves, strict=True):
        save(part, path / file)
    weight_map = {key: file for file, part in zip(files, halves, strict=True) for key in part}
    (path / f"{name}.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


LAYOUTS: dict[str, Callable[[Path, Any], Any]] = {
    "bin": lambda path, model: as_bin(path, model.state_dict()),
    "bin of 2019": lambda path, model: (
        (path / "model.safetensors").unlink(),
        torch.save(model.state_dict(), path / "pytorch_model.bin", _use_new_zipfile_serialization=False)),
    "bin in parts": lambda path, model: as_parts(path, torch.save, "pytorch_model.bin"),
    "safetensors in parts": lambda path, model: as_parts(path, save_file, "model.safetensors"),
    "without the pooler": lambda path, model: change_weights(
        path, lambda t: [t.pop(key) for key in list(t) if "pooler" in key]),
    "with what older versions stored": lambda path, model: change_weights(path, lambda t: t.update({
        "decoder.model.decoder.embed_positions._float_tensor": torch.ones(1),
        "encoder.embeddings.position_ids": torch.arange(4),
        "decoder.transformer.h.0.attn.masked_bias": torch.tensor(-1e4),
    })),
    "no generation_config.json": lambda path, model: (path / "generation_config.json").unlink(),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_the_same_model(layout: str, source: Path, sources: dict[str, tuple[Path, Any]]) -> None:
    whole, model = sources["trocr"]
    LAYOUTS[layout](source, model)
    assert_same(source, whole)


def test_a_bin_with_all_tied_copies_is_the_same_t5(sources: dict[str, tuple[Path, Any]], tmp_path: Path) -> None:
    whole, model = sources["t5"]
    source = shutil.copytree(whole, tmp_path / "source")
    assert {"decoder.embed_tokens.weight", "lm_head.weight"} <= model.state_dict().keys()
    assert not {"decoder.embed_tokens.weight", "lm_head.weight"} & load_file(whole / "model.safetensors").keys()
    as_bin(source, model.state_dict())
    assert_same(source, whole)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept_whatever_the_configuration_says(dtype: torch.dtype, source: Path) -> None:
    change_weights(source, lambda t: t.update({key: x.to(dtype) for key, x in t.items() if x.is_floating_point()}))
    state = converted(source).state
    assert {x.dtype for x in state.values() if x.is_floating_point()} == {dtype}
    stored = load_file(source / "model.safetensors")
    assert torch.equal(state["encoder.vision.layernorm.weight"], stored["encoder.layernorm.weight"])


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"feature_extractor_type": "ViTFeatureExtractor", "size": 32}, (SQUARE,)),
        ({"size": 32}, (SQUARE,)),
        ({"image_processor_type": "ViTImageProcessorFast", "size": {"height": 32, "width": 32}}, (SQUARE,)),
        (
            {"feature_extractor_type": "DeiTFeatureExtractor", "size": 36, "crop_size": 32},
            (Resize(height=36, width=36, filter="bicubic"), CentreCrop(height=32, width=32)),
        ),
    ],
)
def test_settings_of_image_processors_of_all_years(
    settings: dict[str, Any], steps: tuple[Step, ...], source: Path
) -> None:
    (source / "preprocessor_config.json").write_text(json.dumps({**settings, "image_mean": [0.1, 0.2, 0.3]}))
    config = converted(source).config
    assert config.plan.steps == steps
    assert config.pixel_mean == (0.1, 0.2, 0.3)


def test_a_directory_without_image_processor_takes_the_size_of_its_encoder(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / "preprocessor_config.json").unlink()
    assert main(["convert", str(source), str(tmp_path / "ours")]) == 0
    said = capsys.readouterr().out
    assert "has no preprocessor_config.json: pictures are made ready" in said
    assert converted(source).config.image_size == 32


@pytest.mark.parametrize("part", [None, "decoder"])
def test_settings_of_generation_are_those_of_config_json_where_they_have_no_file(
    part: str | None, source: Path, sources: dict[str, tuple[Path, Any]]
) -> None:
    """As until 2022; the library reads them there, too."""
    (source / "generation_config.json").unlink()
    config = json.loads((source / "config.json").read_text())
    own = config if part is None else config[part]
    own |= {"no_repeat_ngram_size": 3, "repetition_penalty": 1.5, "forced_bos_token_id": 7, "num_beams": 4}
    (source / "config.json").write_text(json.dumps(config))
    theirs = type(sources["trocr"][1]).from_pretrained(source).generation_config
    assert theirs.no_repeat_ngram_size == 3
    ours = converted(source)
    generation = ours.config.generation
    assert generation.no_repeat_ngram == theirs.no_repeat_ngram_size
    assert generation.repetition_penalty == theirs.repetition_penalty
    assert generation.forced_bos_id == theirs.forced_bos_token_id
    assert any(f"the source asks for {theirs.num_beams} beams" in difference for difference in ours.differences)


def test_settings_of_generation_that_are_not_followed_are_said(source: Path) -> None:
    settings: dict[str, Any] = {
        "num_beams": 4, "max_length": 16, "length_penalty": 2.0, "encoder_repetition_penalty": 1.2,
        "begin_suppress_tokens": list(range(3, 99)),
    }  # fmt: skip
    said = "\n".join(converted_with_generation(source, settings).differences)
    assert "num_beams=4 and engine.generation.length_penalty=2.0" in said
    assert "begin_suppress_tokens=[3, 4, 5," in said
    assert "encoder_repetition_penalty=1.2 is not followed" in said
    assert "max_length=16 is not followed; a job can set engine.generation.max_new_tokens" in said
    assert max(map(len, said.splitlines())) < 200
    neutral = {"min_length": 0, "suppress_tokens": [], "encoder_repetition_penalty": 1.0, "guidance_scale": None}
    assert not converted_with_generation(source, neutral).differences


def converted_with_generation(source: Path, settings: dict[str, Any]) -> Converted:
    (source / "generation_config.json").write_text(json.dumps(settings))
    return converted(source)


def test_a_head_of_its_own_is_kept_whatever_the_configuration_says_of_ties(
    source: Path, sources: dict[str, tuple[Path, Any]]
) -> None:
    """TrOCR is published with one and a configuration that says both."""
    head, embedding = "decoder.output_projection.weight", "decoder.model.decoder.embed_tokens.weight"
    change_weights(source, lambda t: t.update({head: t[embedding] + 1}))
    config = json.loads((source / "config.json").read_text())
    for tied in (True, False):
        config["decoder"]["tie_word_embeddings"] = tied
        (source / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
        state = converted(source).state
        assert torch.equal(state["decoder.head.weight"], load_file(source / "model.safetensors")[head])
        assert torch.equal(state["decoder.embedding.weight"] + 1, state["decoder.head.weight"])


def bin_of(content: Any) -> Callable[[Path], None]:
    return lambda path: as_bin(path, content)


def lfs(path: Path) -> None:
    (path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def another(**config: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        (path / "config.json").write_text(json.dumps(config))
        (path / "model.safetensors").unlink()  # the family comes first, then the files

    return write


def index_of(weight_map: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        (path / "model.safetensors").unlink()
        (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return write


def processed(**settings: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        file = path / "preprocessor_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))

    return write


def as_adapter(also: Callable[[Path], None]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        (path / "model.safetensors").rename(path / "adapter_model.safetensors")
        (path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "who/knows"}))
        also(path)

    return write


def into_checkpoints(path: Path) -> None:
    """Leave the folder that a Trainer was told to write, with what it has kept in it."""
    for steps in (500, 1000):
        kept = path / f"checkpoint-{steps}"
        kept.mkdir()
        (kept / "config.json").write_text("{}")
        os.utime(kept, (steps, steps))
    (path / "config.json").unlink()


MISTAKES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "code in a pickle": (
        lambda path: as_bin(path, {"bomb": Bomb(path / "exploded")}), "hold something besides tensors"),
    "a number in a pickle": (bin_of({"epoch": 3}), "hold 'epoch', a int; only tensors are read"),
    "a list in a pickle": (bin_of([torch.ones(1)]), "are a list, not tensors by name"),
    "a cut pickle": (
        lambda path: (as_bin(path, {"a": torch.ones(99)}), (path / "pytorch_model.bin").write_bytes(b"PK\3\4cut")),
        "pytorch_model.bin' cannot be read"),
    "flax alone": (
        lambda path: (path / "model.safetensors").rename(path / "flax_model.msgpack"),
        "only as 'flax_model.msgpack'; what is read is model.safetensors or pytorch_model.bin"),
    "no weights": (lambda path: (path / "model.safetensors").unlink(), "has no model.safetensors"),
    "a pointer": (lfs, "git lfs pull fetches the file itself"),
    "a part is missing": (
        index_of({"a": "model-00001-of-00002.safetensors"}), "lacks the weights file 'model-00001-of-00002.safetens"),
    "a part elsewhere": (index_of({"a": "../model.safetensors"}), "outside itself"),
    "an index of nothing": (index_of({}), "names no files"),
    "an image size that is none": (
        lambda path: (path / "preprocessor_config.json").write_text(
            json.dumps({"image_processor_type": "ViTImageProcessor", "size": "large"})),
        "the settings of the image processor are not valid"),
    "statistics of four colours": (
        processed(image_mean=[0.5] * 4), "image_mean must be one number or three, got (0.5, 0.5, 0.5, 0.5)"),
    "a deviation of nothing": (
        processed(image_std=[0.5, 0, 0.5]), "image_std must be one number or three, none of them zero, got (0.5, 0"),
    "a filter by its name": (processed(resample="bicubic"), "resample must be a number from 0 to 5, got 'bicubic'"),
    "an adapter": (as_adapter(lambda path: (path / "config.json").unlink()), "merge it into who/knows (merge_and_unl"),
    "an adapter beside a configuration": (as_adapter(lambda path: None), "merge it into who/knows (merge_and_unload)"),
    "a folder of a Trainer": (into_checkpoints, "checkpoint-1000'"),
    "no tokenizer": (
        lambda path: (path / "tokenizer.json").unlink(), "copy its files there"),
    "an image processor that is a list": (
        lambda path: (path / "preprocessor_config.json").write_text("[]"), "is not a JSON object"),
    **{
        f"decoder-only {model_type}": (
            another(model_type=model_type),
            f"model_type {model_type!r} is a decoder-only model, and those are not converted (engines such as vLLM "
            "serve many of them); supported are t5, ")
        for model_type in ("llava", "qwen2_5_vl", "paligemma", "git", "kosmos-2")
    },
    "a language model": (another(model_type="llama", architectures=["LlamaForCausalLM"]), "is a decoder-only model"),
    "a family nobody knows": (another(model_type="mystery"), "model_type 'mystery' is not supported; supported"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_cannot_be_read_is_one_short_sentence(
    mistake: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, sentence = MISTAKES[mistake]
    spoil(source)
    assert main(["convert", str(source), str(tmp_path / "ours")]) == 2
    said = capsys.readouterr().err.strip()
    assert sentence in said
    assert said.startswith("deed convert: ")
    assert said.count("\n") == 0
    assert len(said.replace(str(source), "")) < 400
    assert not (source / "exploded").exists()
    assert not (tmp_path / "ours").exists()
