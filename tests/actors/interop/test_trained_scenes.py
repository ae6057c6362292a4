"""The models that `tests.actors.interop.trained.train` trains on scenes: asked by the beginning of their own outputs.

The training itself takes an hour; here models that know nothing yet say what the library says, and a training that was
stopped ends where one that was not ends.
"""

import dataclasses
from pathlib import Path

import pytest
import torch

from actors.parity.compare import Asked, Verdict, compare
from actors.parity.library import Library
from actors.parity.ours import Ours
from conf.engine import EngineConfig
from conf.load import load_config
from conf.source import DEFAULT_PROMPT
from jobs.cli import main
from jobs.scenes.config import ScenesConfig
from jobs.scenes.shards import jpeg_bytes, make_scene, write_shards
from tests.actors.interop.trained.models import MODELS, SCENES, make_tokenizer, save_directory
from tests.actors.interop.trained.scores import main as scores
from tests.actors.interop.trained.train import train

CORPUS = load_config("conf/scenes-small.yaml", [], ScenesConfig)
PICTURES, STEPS, PREFIX = 6, 12, "{prompt}"
ENGINE = EngineConfig.from_record(
    {"schedule": "full", "generation": {"max_new_tokens": STEPS, "decoder_prefix": PREFIX}}
)


@pytest.mark.parametrize("name", SCENES)
def test_an_output_goes_on_from_its_prompt_as_the_library_goes_on(name: str, tmp_path: Path) -> None:
    scenes = [make_scene(0, "test", index, CORPUS) for index in range(PICTURES)]
    questions = [row["qa"][0]["question"] for _, row in scenes]
    recipe = MODELS[name]
    tokenizer = make_tokenizer([DEFAULT_PROMPT, *questions], ())
    torch.manual_seed(0)
    model = recipe.build(tokenizer)
    for values in model.parameters():  # louder, or pictures make no difference to what it says
        values.data.mul_(2.0 if values.dim() == 2 else 1.0)
    save_directory(tmp_path / "theirs", model, recipe.processor(), tokenizer)
    assert main(["convert", str(tmp_path / "theirs"), str(tmp_path / "ours"), "--exits", "1,2,4,8"]) == 0
    work = [
        Asked(f"{place}: {prompt}", jpeg_bytes(image, 95), prompt)
        for place, (image, _) in enumerate(scenes)
        for prompt in (DEFAULT_PROMPT, questions[place])
    ]
    library = Library(tmp_path / "theirs", STEPS, decoder_prefix=PREFIX)
    found = list(compare(library, Ours.load(str(tmp_path / "ours"), ENGINE), work))
    assert [comparison.verdict for comparison in found] == [Verdict.EQUAL] * len(work)
    captions, answers = ({c.ours for c in found[first::2]} for first in (0, 1))
    assert len(captions) > 1  # of pictures alone
    assert captions != answers
    bare = list(compare(Library(tmp_path / "theirs", STEPS), Ours.load(str(tmp_path / "ours"), ENGINE), work))
    assert any(comparison.verdict is Verdict.DIFFERENT for comparison in bare)


def test_a_training_that_was_stopped_ends_with_the_same_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "val"):
        list(write_shards(CORPUS.model_copy(update={"out": str(tmp_path), "split": split, "num_images": 9})))
    recipe = dataclasses.replace(MODELS["bart8"], batch=4)
    train(recipe, tmp_path, tmp_path / "once", steps=4, every=2)
    train(recipe, tmp_path, tmp_path / "twice", steps=4, every=2, stop=3)  # the third step is done again
    train(recipe, tmp_path, tmp_path / "twice", steps=4, every=2)
    once, twice = (torch.load(tmp_path / run / "state.pt", weights_only=True) for run in ("once", "twice"))
    assert once["done"] == twice["done"] == 4
    for mine, theirs in zip(once["parts"][0].values(), twice["parts"][0].values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    untrained = recipe.build(make_tokenizer(["a"], ())).state_dict()
    assert any(not torch.equal(untrained[key], value) for key, value in once["parts"][0].items() if key in untrained)
    assert len((tmp_path / "twice" / "log.csv").read_text().splitlines()) == 3
    for file in ("model.safetensors", "config.json", "preprocessor_config.json", "tokenizer.json"):
        assert (tmp_path / "twice" / file).exists()
    scores(["bart8", str(tmp_path / "once"), f"{tmp_path}/val/*.tar", "--pictures", "2"])
    assert "all captions exact 0.000" in capsys.readouterr().out
