"""Questions of a sample from the list, the file and its own field; what is asked twice is asked once."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from pydantic import ValidationError

from conf.errors import UserError
from conf.image_plan import ImagePlan
from conf.vqa import QuestionsConfig, VqaConfig
from pipeline.chunk import from_ipc
from pipeline.output.publish import publish_shard
from pipeline.output.staging import rows_table, stage_chunk
from pipeline.output.storage import Storage
from pipeline.source.prompts import Prompt
from pipeline.source.questions import Questions
from pipeline.stages import IndexShard, PrepareChunk, shard_task
from pipeline.text import original
from pipeline.vqa.ticks import Tick, TickReader, plan_tick, tick_config
from tests.shards import sample_members, write_tar


def resolve(**values: object) -> Questions:
    return Questions.resolve(QuestionsConfig.model_validate(values))


def texts(questions: Questions, **fields: object) -> list[str]:
    return [prompt.text for prompt in questions.prompts(fields) if prompt.error_type is None]


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
    own = {"question": "why?", "answer": "so"}
    assert questions.prompts({"vqa": [own]}) == [Prompt("why?", own)]
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


def test_questions_and_names_with_half_characters_are_asked_once(tmp_path: Path) -> None:
    half = chr(0xD83D)
    write_tar(
        tmp_path / "in" / "s.tar", [m for n, said in enumerate((half, "ä")) for m in sample_members(n, said=said)]
    )
    source = {"paths": (f"{tmp_path}/in/s.tar",), "id_column": "said"}
    config = VqaConfig.model_validate(
        {
            "source": source,
            "model": {"checkpoint": "x"},
            "output": {"path": f"{tmp_path}/out"},
            "questions": {"ask": ("What is {said}?", f"Is it {half}?")},
        }
    )
    root, questions = Storage(config.output.path), Questions.resolve(config.questions)
    tick = plan_tick(config, questions, [])
    assert tick is not None
    answer_tick(config, root, tick)
    results = root.read_table("ticks/000001/results/s.parquet")
    assert sorted({original(name) for name in results["sample_id"].to_pylist()}) == sorted([half, "ä"])
    assert {original(prompt) for prompt in results["prompt"].to_pylist()} == {
        f"What is {half}?", "What is ä?", f"Is it {half}?",
    }  # fmt: skip
    again = replace(
        tick, number=2, shards=tuple(replace(e, earlier=("ticks/000001/{}/s.parquet",)) for e in tick.shards)
    )
    assert TickReader.of(config, root, again).index(tick.shards[0].shard).samples == ()


def answer_tick(config: VqaConfig, root: Storage, tick: Tick) -> None:
    """What a run does for a tick, with "yes" for an answer."""
    job, reader = tick_config(config, tick), TickReader.of(config, root, tick)
    storage = Storage(job.output.path)
    prepare = PrepareChunk(reader, job.source.prompt, job.source.id_column, (), ImagePlan.squeeze(32), 10_000)
    for shard in reader.shards(()).shards:
        for tasks in IndexShard(reader, storage, 10)(pa.Table.from_pylist([shard_task(shard, ())])):
            for chunk in prepare(tasks):
                rows = from_ipc(chunk["rows"][0].as_buffer()).to_pylist()
                stage_chunk(
                    storage, shard.name, 0, rows_table([{**r, "shard": shard.name, "text": "yes"} for r in rows])
                )
        assert publish_shard(storage, shard.name).counts is not None
