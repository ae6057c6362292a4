"""Braces: names of fields, doubled ones as they are, and a sentence for everything else."""

import pytest
from pydantic import ValidationError

from conf.source import PromptConfig
from conf.templates import parse_template
from conf.vqa import QuestionsConfig


def filled(text: str, **values: str) -> str:
    return parse_template(text).fill(values)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("plain", "plain"),
        ("", ""),
        ("{a} and {b}, {a}", "1 and 2, 1"),
        ('Reply as JSON like {{"caption": "..."}} for {a}', 'Reply as JSON like {"caption": "..."} for 1'),
        ("{{{a}}}", "{1}"),
        ("{{a}}", "{a}"),
        ("{{", "{"),
    ],
)
def test_names_and_braces(text: str, result: str) -> None:
    assert filled(text, a="1", b="2") == result


@pytest.mark.parametrize("name", ["caption", "dc:title", "Text (English)", "描述", "2", "exif.make", "_", "a-b"])
def test_names_that_columns_have(name: str) -> None:
    assert parse_template(f"x {{{name}}}").names == (name,)


def test_what_is_filled_in_is_not_a_template() -> None:
    assert filled("{a}", a="{b} }}") == "{b} }}"


@pytest.mark.parametrize(
    "text", ['like {"caption": "..."}', "{}", "{ a }", "{...}", "a } b", "{ open", "{a\nb}", "{'a'}", '{"a": {"b": 1}}']
)
def test_other_braces_are_told_with_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match=r"write \{\{ and \}\} for literal braces") as told:
        parse_template(text)
    assert "\n" not in str(told.value)
    for make in (
        lambda: PromptConfig(template=text),
        lambda: QuestionsConfig(ask=(text,)),
        lambda: QuestionsConfig(ask=("a",), template=text + "{question}"),
    ):
        with pytest.raises(ValidationError, match="for literal braces"):
            make()


def test_a_template_for_questions_has_the_question_as_a_field() -> None:
    with pytest.raises(ValidationError, match="must contain"):
        QuestionsConfig(ask=("a",), template="{{question}}")
