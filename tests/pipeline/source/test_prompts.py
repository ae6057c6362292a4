"""What cannot be asked costs that prompt; what would be too long is never built."""

import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from conf.errors import UserError
from conf.source import PromptConfig
from conf.vqa import QuestionsConfig
from pipeline.output.storage import Storage
from pipeline.source.prompts import NoPrompts, PromptLimits, make_prompts
from pipeline.source.questions import Questions
from tests.pipeline.test_stages import prepare_all, shard_with
from tests.shards import sample_members

QA = PromptConfig(template="{question}", list_field="qa")


def asked(config: PromptConfig, **fields: Any) -> list[tuple[str, str | None]]:
    return [(prompt.text, prompt.error_type) for prompt in make_prompts(config, fields)]


def test_a_null_and_an_object_without_the_key_cost_that_question_alone(tmp_path: Path) -> None:
    items: list[Any] = [
        {"question": "a?"},
        None,
        {"answer": "no question"},
        {"question": ["a", "list"]},
        {"question": "b?"},
    ]
    reader, shard = shard_with(tmp_path, sample_members(0, qa=items, question=None) + sample_members(1, qa=["c?"]))
    ((_, rows, pixels),) = prepare_all(
        reader, shard, Storage(str(tmp_path / "out")), prompt=QA, passthrough=("answer",)
    )
    assert [(r["prompt_index"], r["prompt"], r["stage"], r["error_type"], r["num_prompts"]) for r in rows[:5]] == [
        (0, "a?", None, None, 5),
        (1, "{question}", "read", "no_prompt", 5),
        (2, "{question}", "read", "no_prompt", 5),
        (3, "{question}", "read", "no_prompt", 5),
        (4, "b?", None, None, 5),
    ]
    assert [row["pixel_index"] for row in rows[:5]] == [0, None, None, None, 0]
    assert [row["message"] for row in rows[1:4]] == [
        "a/000000: an item of field 'qa' is null",
        "a/000000: the prompt needs field 'question', which is null",
        "a/000000: the prompt needs a text in field 'question', which holds a list",
    ]
    assert rows[2]["src_answer"] is not None
    assert (rows[5]["prompt"], rows[5]["error_type"]) == ("how many in 1?", None)  # the sample's own question
    assert len(pixels) == 2


def test_a_sample_without_any_prompt_is_not_decoded(tmp_path: Path) -> None:
    reader, shard = shard_with(tmp_path, [("0.png", b"no image"), ("0.json", b'{"qa": [null]}')])
    ((_, (row,), _),) = prepare_all(reader, shard, Storage(str(tmp_path / "out")), prompt=QA)
    assert (row["stage"], row["error_type"], row["prompt_index"]) == ("read", "no_prompt", 0)


def test_objects_without_a_template_are_never_printed() -> None:
    items = [{"question": "a?"}, "b?"]
    assert asked(PromptConfig(list_field="qa"), qa=items) == [("{qa}", "no_prompt"), ("b?", None)]
    assert asked(PromptConfig(template="Q: {qa}", list_field="qa"), qa=items) == [
        ("Q: {qa}", "no_prompt"),
        ("Q: b?", None),
    ]
    assert asked(PromptConfig(template="{tags}"), tags=["a"]) == [("{tags}", "no_prompt")]
    assert asked(PromptConfig(template="{n} {yes}"), n=1.5, yes=True) == [("1.5 True", None)]


def test_doubled_braces_reach_the_model_as_single_ones() -> None:
    assert asked(PromptConfig(template='{{"caption": "{a}"}}'), a="x") == [('{"caption": "x"}', None)]
    assert asked(PromptConfig(template="{{}}", list_field="qa"), qa=["x"]) == [("x", None)]


def test_the_same_for_questions(tmp_path: Path) -> None:
    file = tmp_path / "questions.txt"
    file.write_text('is {{"a": 1}} right?\nwhat of {thing}?\n', encoding="utf-8")
    config = QuestionsConfig(file=str(file), field="qa", template="<{question}>")
    questions = Questions.resolve(config)
    found = questions.prompts({"qa": [None, {"question": "b?"}, {"answer": "x"}, None]})
    assert [(prompt.text, prompt.error_type) for prompt in found] == [
        ('<is {"a": 1} right?>', None),
        ("what of {thing}?", "no_prompt"),
        ("<{question}>", "no_prompt"),
        ("<b?>", None),
    ]
    file.write_text('as {"a": 1}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"questions.txt.*write \{\{ and \}\}"):
        Questions.resolve(config)


def test_a_prompt_that_would_be_too_long_is_refused_before_it_is_built() -> None:
    huge = "word " * 8_000_000
    limits = PromptLimits(characters=100_000)
    tracemalloc.start()
    try:
        (repeated,) = make_prompts(PromptConfig(template="{a}" * 500), {"a": huge}, limits)
        (once,) = make_prompts(PromptConfig(template="{a}"), {"a": huge}, limits)
        (again,) = make_prompts(PromptConfig(template="{a}"), {"a": huge}, limits)
        (other,) = make_prompts(PromptConfig(template="{a}"), {"a": huge[:-1] + "."}, limits)
        assert tracemalloc.get_traced_memory()[1] < 3 * len(huge)
    finally:
        tracemalloc.stop()
    assert {prompt.error_type for prompt in (repeated, once, other)} == {"bad_prompt"}
    assert "20,000,000,000 characters, more than the 100,000" in repeated.message
    assert all(len(prompt.text) < 400 for prompt in (repeated, once, other))
    assert once == again
    assert len({repeated.text, once.text, other.text}) == 3


def test_questions_too_are_refused_by_their_length_and_number() -> None:
    questions = Questions(("what?",), "qa", "{question}")
    found = questions.prompts({"qa": ["x" * 200_000]}, PromptLimits(100_000, 10))
    assert [prompt.error_type for prompt in found] == [None, "bad_prompt"]
    with pytest.raises(NoPrompts, match=r"11 prompts are more than source.max_prompts=10") as told:
        questions.prompts({"qa": ["x"] * 10}, PromptLimits(100_000, 10))
    assert told.value.error_type == "too_many_prompts"


def test_an_image_with_too_many_prompts_is_one_errors_row(tmp_path: Path) -> None:
    reader, shard = shard_with(tmp_path, sample_members(0, qa=["x"] * 4) + sample_members(1, qa=["y"] * 3))
    storage, prompt = Storage(str(tmp_path / "out")), PromptConfig(list_field="qa")
    ((_, rows, _),) = prepare_all(reader, shard, storage, prompt=prompt, limits=PromptLimits(prompts=3))
    assert [(r["key"], r["error_type"], r["num_prompts"]) for r in rows] == [
        ("000000", "too_many_prompts", 1),
        *[("000001", None, 3)] * 3,
    ]


def test_rows_of_many_prompts_are_packed_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline import stages

    monkeypatch.setattr(stages, "_BLOCK_ROWS", 7)
    reader, shard = shard_with(tmp_path, sample_members(0, qa=[f"q{n}" for n in range(100)]))
    storage, prompt = Storage(str(tmp_path / "out")), PromptConfig(list_field="qa")
    ((_, rows, pixels),) = prepare_all(reader, shard, storage, prompt=prompt, passthrough=("number",))
    assert [(row["prompt"], row["prompt_index"]) for row in rows] == [(f"q{n}", n) for n in range(100)]
    assert len(pixels) == 1
