"""T5Gemma 2 from picture file and prompt to text, against its own processor and `generate`; what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from actors.engine.engine import Engine
from actors.engine.oracles.reference import encode_one
from actors.engine.request import Request
from actors.model.checkpoint import Checkpoint, load_checkpoint
from conf.engine import EngineConfig, Weights
from jobs.cli import main
from tests.actors.engine.tiny import run
from tests.actors.interop import zoo
from tests.actors.interop.t5gemma2 import IMAGE_TOKENS, SIDE
from tests.actors.training.own_run import write_own_run
from tests.actors.training.pretrained.small import changed_names, make_config, nothing_timed, trainer_of, write_images

STEPS = 10
BEGIN = "<start_of_image>"
PROMPTS = [
    "What does the image describe?", "", " a dog\n\n", f"{BEGIN} How many dogs are there?", f"the {BEGIN}\n\ntotal",
    f"read {BEGIN}", "\n\nthe text", "unheard: ÄÖ 漢字", "the dog " * 40,
]  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zoo.write("t5gemma2", tmp_path_factory.mktemp("zoo") / "source", seed=2)


@pytest.fixture(scope="module")
def checkpoint(source: Path) -> Checkpoint:
    assert main(["convert", str(source), str(source / "ours"), "--max-prompt-tokens", "256"]) == 0
    return load_checkpoint(source / "ours")


@pytest.fixture(scope="module")
def processor(source: Path) -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(source)


@pytest.fixture(scope="module")
def theirs(source: Path) -> Any:
    from transformers import T5Gemma2ForConditionalGeneration

    return T5Gemma2ForConditionalGeneration.from_pretrained(source).eval()


def _picture(number: int) -> Image.Image:
    rng = np.random.default_rng(number)
    height, width = rng.integers(20, 120, 2)
    return Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((width, height))


def _request(checkpoint: Checkpoint, number: int, prompt: str) -> Request:
    pixels = np.asarray(_picture(number).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    return Request(number, pixels, checkpoint.codec.encode_prompt(prompt))


def test_prompts_are_laid_out_as_by_the_processor(checkpoint: Checkpoint, processor: Any) -> None:
    place = processor.tokenizer.image_token_id
    for number, prompt in enumerate(PROMPTS):
        asked = prompt if BEGIN in prompt else BEGIN + prompt
        laid_out = processor(images=_picture(number), text=asked).input_ids[0]
        mine = [t for i in checkpoint.codec.encode_prompt(prompt) for t in [i] * (IMAGE_TOKENS if i == place else 1)]
        assert mine == list(laid_out), prompt


def test_from_picture_and_prompt_to_text(checkpoint: Checkpoint, processor: Any, theirs: Any) -> None:
    engine = Engine(checkpoint.model, EngineConfig.from_record(
        {"schedule": "full", "num_slots": 4, "encode_batch": 3, "generation": {"max_new_tokens": STEPS}}
    ))  # fmt: skip
    done = run(engine, [_request(checkpoint, number, prompt) for number, prompt in enumerate(PROMPTS)])
    for number, prompt in enumerate(PROMPTS):
        inputs = processor(
            images=_picture(number), text=prompt if BEGIN in prompt else BEGIN + prompt, return_tensors="pt"
        )
        with torch.no_grad():
            states = theirs.get_encoder()(**{k: v for k, v in inputs.items() if k != "token_type_ids"})
        mine, mask = encode_one(checkpoint.model, _request(checkpoint, number, prompt))
        assert mask.all()
        assert float((mine - states.last_hidden_state).abs().max()) < 1e-5
        said = theirs.generate(**inputs, max_new_tokens=STEPS, do_sample=False)[0, 1:].tolist()
        eos = checkpoint.config.eos_id
        assert done[number].token_ids == tuple(said[: said.index(eos)] if eos in said else said)
    assert len({completion.token_ids for completion in done.values()}) > 5


@pytest.mark.parametrize("weights", [Weights.BF16, Weights.INT8])
def test_smaller_weights_say_nearly_the_same(checkpoint: Checkpoint, weights: Weights) -> None:
    work = [_request(checkpoint, number, PROMPTS[0]) for number in range(6)]
    settings: dict[str, Any] = {"schedule": "full", "generation": {"max_new_tokens": STEPS}}
    full = run(Engine(checkpoint.model, EngineConfig.from_record(settings)), work)
    small = run(Engine(checkpoint.model, EngineConfig.from_record({**settings, "weights": weights})), work)
    first = [full[i].token_ids[0] == small[i].token_ids[0] for i in full]
    assert sum(first) >= 4, first


def test_exits_are_trained_on_the_frozen_model(source: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    write_images(tmp_path / "images.tar", [""] * 16)
    reports: list[dict[str, Any]] = []
    config = make_config(
        tmp_path, tmp_path / "run", checkpoint=str(source / "ours"), optimizer={"total_steps": 30, "gate_steps": 5},
        source={"paths": [str(tmp_path / "*.tar")], "prompt": {"template": PROMPTS[0]}},
    )  # fmt: skip
    write_own_run(config, tmp_path / "own")
    with nothing_timed():
        assert trainer_of(config, tmp_path, reports).run()
    losses = [r["losses"]["exit_2"] for r in reports if r.get("stage") == "exits" and "losses" in r]
    assert losses[-1] < 0.8 * losses[0]
    [lost] = (report["guard"]["lost"] for report in reports if "guard" in report)
    assert lost == 0, "full depth says what it said"
    assert changed_names(source / "ours", tmp_path / "run" / "checkpoint") == {
        f"decoder.adapters.{layer}.weight" for layer in checkpoint.config.exits[:-1]
    }


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        (f"{BEGIN} or {BEGIN}", "the prompt asks for 2 images with '<start_of_image>', a sample has one"),
        ("an <image_soft_token>", "the prompt holds '<image_soft_token>', which no prompt may"),
    ],
)
def test_a_prompt_that_no_sample_can_answer_is_refused(checkpoint: Checkpoint, prompt: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        checkpoint.codec.encode_prompt(prompt)


@pytest.mark.parametrize(
    ("file", "changes", "sentence"),
    [
        ("processor_config.json", {"image_processor": {"do_pan_and_scan": True}}, "adds crops of long images"),
        ("processor_config.json", {"image_processor": {"size": {"height": 64, "width": 64}}}, "processor makes 64"),
        ("config.json", {"decoder": {"rope_parameters": {"full_attention": {"rope_type": "yarn", "factor": 4.0}}}},
         "rotary positions of the type 'yarn' are not supported"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_one_sentence(source: Path, tmp_path: Path, file: str, changes: dict[str, Any],
                                               sentence: str, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    copy = tmp_path / "source"
    copy.mkdir()
    for path in source.iterdir():
        if path.is_file():
            (copy / path.name).write_bytes(path.read_bytes())
    values = json.loads((copy / file).read_text())
    _merge(values, changes)
    (copy / file).write_text(json.dumps(values))
    assert main(["convert", str(copy), str(tmp_path / "ours")]) == 2
    said = capsys.readouterr().err.strip()
    assert sentence in said
    assert "\n" not in said


def _merge(values: dict[str, Any], changes: dict[str, Any]) -> None:
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(values.get(name), dict):
            _merge(values[name], value)
        else:
            values[name] = value
