"""Words of a sample -> lines of its prompt."""

from typing import Any

import pytest

from conf.source import PromptConfig, SourceConfig
from pipeline.source.prompts import make_prompts
from pipeline.source.readers import field_names
from pipeline.source.words_field import word_lines

SCENE = {
    "image_size": 200,
    "question": "what does the sign say?",
    "sign": {"plates": [{"text": "K7", "x": 20.0, "y": 100.0, "width": 40.0, "height": 20.0}]},
}


def test_boxes_in_thousandths_whatever_they_come_in() -> None:
    assert word_lines(SCENE, "sign.plates") == "\n0 450 200 550\tK7"
    found = {"words": [{"text": "two\tparts", "box": [1, 2, 3.4, 1400]}, {"text": "b", "box": (5, 6, 7, 8)}]}
    assert word_lines(found, "words") == "\n1 2 3 1000\ttwo parts\n5 6 7 8\tb"


@pytest.mark.parametrize("fields", [{}, {"sign": None}, {"sign": {"plates": None}}, {"sign": "text"}])
def test_a_sample_without_words_adds_nothing(fields: dict[str, Any]) -> None:
    assert word_lines(fields, "sign.plates") == ""


@pytest.mark.parametrize("words", [[{"text": "a"}], [{"box": [1, 2, 3, 4]}], [{"text": "a", "box": [1, 2]}], "a", [3]])
def test_words_of_another_form_are_the_samples_mistake(words: Any) -> None:
    with pytest.raises(LookupError, match="field 'words' must hold a list of words with `text` and `box`"):
        word_lines({"words": words}, "words")


def test_readers_are_asked_for_the_words() -> None:
    prompt = PromptConfig(template="{question}", words_field="sign.plates")
    names = field_names(SourceConfig(paths=("in/*.tar",), prompt=prompt))
    assert names == ("question", "sign", "image_size")


def test_every_prompt_of_a_sample_gets_the_words() -> None:
    one = PromptConfig(template="{question}", words_field="sign.plates")
    assert [prompt.text for prompt in make_prompts(one, SCENE)] == ["what does the sign say?\n0 450 200 550\tK7"]
    several = PromptConfig(list_field="qa", words_field="sign.plates")
    prompts = make_prompts(several, {**SCENE, "qa": ["a?", "b?"]})
    assert [prompt.text for prompt in prompts] == ["a?\n0 450 200 550\tK7", "b?\n0 450 200 550\tK7"]
