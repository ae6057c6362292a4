"""Questions of a sample from the list, the file and its own field; what is asked twice is asked once."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from conf.errors import UserError
from conf.vqa import QuestionsConfig
from pipeline.questions import Questions


def resolve(**values: object) -> Questions:
    return Questions.resolve(QuestionsConfig.model_validate(values))


def texts(questions: Questions, **fields: object) -> list[str]:
    return [prompt for prompt, _ in questions.prompts(fields)]


def test_all_kinds_are_put_together_each_once(tmp_path: Path) -> None:
    file = tmp_path / "questions.txt"
    file.write_text("# about colour\nwhat colour?\n\nhow many {what}?\n", encoding="utf-8")
    questions = resolve(ask=["what colour?"], file=str(file), field="vqa", template="Q: {question} A:")
    own = ["where?", "what colour?", None]
    assert texts(questions, what="cats", vqa=own) == ["Q: what colour? A:", "Q: how many cats? A:", "Q: where? A:"]
    assert questions.columns == ("what", "vqa")


def test_a_field_holds_one_question_or_objects() -> None:
    questions = resolve(field="vqa")
    assert texts(questions, vqa="why?") == ["why?"]
    assert questions.prompts({"vqa": [{"question": "why?", "answer": "so"}]}) == [
        ("why?", {"question": "why?", "answer": "so"})
    ]
    for fields in ({}, {"vqa": None}, {"vqa": []}):
        with pytest.raises(LookupError, match="holds no question"):
            questions.prompts(fields)


def test_an_empty_field_leaves_the_questions_of_the_list() -> None:
    assert texts(resolve(ask=["why?"], field="vqa"), vqa=None) == ["why?"]


def test_a_question_is_not_a_template_once_it_is_filled_in() -> None:
    assert texts(resolve(field="vqa", template="{question}!"), vqa="what is {x}?") == ["what is {x}?!"]


def test_digest_is_of_the_set() -> None:
    assert resolve(ask=["a", "b"]).digest == resolve(ask=["b", "a", "b"]).digest != resolve(ask=["a"]).digest


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="give questions by ask, file or field"):
        resolve()
    with pytest.raises(ValidationError, match="must contain"):
        resolve(ask=["a"], template="no place")
    with pytest.raises(UserError, match="cannot read"):
        resolve(file=str(tmp_path / "none.txt"))
    (tmp_path / "empty.txt").write_text("# nothing\n", encoding="utf-8")
    with pytest.raises(UserError, match="holds no question"):
        resolve(file=str(tmp_path / "empty.txt"))
