"""The last line of defence: whatever is raised at any step of one row's way costs that row and no other.

The steps are found from the lists that the code itself goes through, so that a new step is tried as well.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from actors import row_work
from actors.backend import Backend
from actors.captioner import Captioner
from conf.image_plan import ImagePlan
from conf.source import PromptConfig
from pipeline import sample_rows
from pipeline.images.decode_isolated import image_to_pixels_or_die
from pipeline.ops.crash_log import CrashLog
from pipeline.output.publish import publish_shard
from pipeline.output.storage import Storage
from pipeline.services import RunServices
from pipeline.source.plan import Shard
from pipeline.source.readers.webdataset import WebDatasetReader
from pipeline.stages import IndexShard, PrepareChunk, shard_task
from tests.actors.test_captioner import LocalActor
from tests.fake_engine import FakeEngine, make_backend
from tests.shards import sample_members, write_tar

NUM_ROWS, BAD, SIZE = 7, 4, 16
BAD_ID = f"a/{BAD:06d}"
PROMPT = PromptConfig(template="{question}")
PREPARING = [step for _, step in (*sample_rows.SAMPLE_STEPS, *sample_rows.PROMPT_STEPS)]
ANSWERING = [*row_work.BEFORE_ENGINE, *row_work.AFTER_ENGINE]


class Died(BaseException):
    """Stands for the end of the process."""


def poisoned(step: Callable[..., None], error: BaseException) -> Callable[..., None]:
    """The step, which raises for the bad row: after its work, so that it may leave something half-done."""

    def do(context: Any, state: Any) -> None:
        step(context, state)
        is_draft = isinstance(state, sample_rows.Draft)
        row = state.shared if is_draft else state.row
        if row["sample_id"] == BAD_ID and (not is_draft or state.raw.fields):  # none: it was not even read
            raise error

    do.__name__ = step.__name__
    return do


def inject(monkeypatch: pytest.MonkeyPatch, step: Callable[..., None], error: BaseException) -> None:
    bad = poisoned(step, error)
    for name in ("SAMPLE_STEPS", "PROMPT_STEPS"):
        steps = tuple((stage, bad if own is step else own) for stage, own in getattr(sample_rows, name))
        monkeypatch.setattr(sample_rows, name, steps)
    for name in ("BEFORE_ENGINE", "AFTER_ENGINE"):
        monkeypatch.setattr(row_work, name, tuple(bad if own is step else own for own in getattr(row_work, name)))


@pytest.fixture
def source(tmp_path: Path) -> tuple[WebDatasetReader, Shard]:
    path = write_tar(tmp_path / "a.tar", [member for n in range(NUM_ROWS) for member in sample_members(n)])
    return WebDatasetReader((str(path),)), Shard("a", str(path), path.stat().st_size)


def prepared(reader: Any, shard: Shard, storage: Storage, crash_log: Any = None) -> Iterator[pa.Table]:
    prepare = PrepareChunk(reader, PROMPT, None, ("number",), ImagePlan.squeeze(SIZE), 10_000, crash_log)
    for tasks in IndexShard(reader, storage, NUM_ROWS)(pa.Table.from_pylist([shard_task(shard, ())])):
        yield from prepare(tasks)


def caption(chunks: list[pa.Table], storage: Storage, log: CrashLog, make: Callable[[], Backend] | None = None) -> None:
    async def main() -> None:
        services = RunServices(storage, "run", ("number",), LocalActor(log))
        captioner = Captioner(make or partial(make_backend, SIZE), services)
        for chunk in chunks:
            await captioner(chunk)

    asyncio.run(main())


def check(storage: Storage, stage: str | None = None, error_type: str = "unexpected_error") -> str:
    """All rows but the bad one are results; gives the message of the bad one."""
    assert publish_shard(storage, "a", ("number",)).counts is not None
    results = storage.read_table("results/a.parquet").to_pylist()
    (error,) = storage.read_table("errors/a.parquet").to_pylist()
    assert [row["key"] for row in results] == [f"{n:06d}" for n in range(NUM_ROWS) if n != BAD]
    assert all(row["text"] and row["src_number"] == str(int(row["key"])) for row in results)
    assert (error["key"], error["sample_id"], error["error_type"]) == (f"{BAD:06d}", BAD_ID, error_type)
    assert stage in (None, error["stage"])
    assert "\n" not in error["message"]
    return str(error["message"])


@pytest.mark.parametrize("step", [*PREPARING, *ANSWERING], ids=lambda step: step.__name__)
def test_an_exception_at_any_step_costs_one_row(
    monkeypatch: pytest.MonkeyPatch, source: Any, tmp_path: Path, step: Callable[..., None]
) -> None:
    inject(monkeypatch, step, ValueError("who would\nhave thought"))
    storage = Storage(str(tmp_path / "out"))
    caption(list(prepared(*source, storage)), storage, CrashLog())
    message = check(storage)
    assert step.__name__ in message
    assert "ValueError: who would have thought" in message


ERRORS = [
    TypeError("x"),
    RecursionError("x"),
    UnicodeEncodeError("utf-8", "\ud83d", 0, 1, "x"),
    MemoryError(),
    KeyError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("step", [sample_rows.ask, row_work.encode_prompt], ids=lambda step: step.__name__)
def test_whatever_is_raised_costs_one_row(
    monkeypatch: pytest.MonkeyPatch, source: Any, tmp_path: Path, step: Callable[..., None], error: Exception
) -> None:
    inject(monkeypatch, step, error)
    storage = Storage(str(tmp_path / "out"))
    caption(list(prepared(*source, storage)), storage, CrashLog())
    assert type(error).__name__ in check(storage)


def test_a_reader_that_raises_something_of_its_own_goes_on_behind_that_row(source: Any, tmp_path: Path) -> None:
    reader, shard = source

    class Surprised:
        index, spans = reader.index, reader.spans

        def read(self, shard: Shard, samples: Any) -> Iterator[Any]:
            for raw in reader.read(shard, samples):
                if raw.sample.row == BAD:
                    raise TypeError("nobody has thought of this row")
                yield raw

    storage = Storage(str(tmp_path / "out"))
    caption(list(prepared(Surprised(), shard, storage)), storage, CrashLog())
    assert "nobody has thought of this row" in check(storage, "read")


@pytest.mark.parametrize("stage", ["preprocess", "engine"])
def test_a_value_that_no_column_can_hold_costs_its_row(
    monkeypatch: pytest.MonkeyPatch, source: Any, tmp_path: Path, stage: str
) -> None:
    def misfit(context: Any, state: Any) -> None:
        if stage == "preprocess" and state.shared["sample_id"] == BAD_ID:
            state.row["prompt"] = object()
        if stage == "engine" and state.row["sample_id"] == BAD_ID:
            state.columns["exit_layers"] = [300]

    if stage == "preprocess":
        monkeypatch.setattr(sample_rows, "PROMPT_STEPS", (*sample_rows.PROMPT_STEPS, (stage, misfit)))
    else:
        monkeypatch.setattr(row_work, "AFTER_ENGINE", (*row_work.AFTER_ENGINE, misfit))
    storage = Storage(str(tmp_path / "out"))
    caption(list(prepared(*source, storage)), storage, CrashLog())
    assert "cannot be stored" in check(storage, stage, "unstorable_value")


def test_a_request_that_the_engine_does_not_take_or_cannot_do_costs_its_row(source: Any, tmp_path: Path) -> None:
    for place in ("add", "step"):

        class Choking(FakeEngine):
            def add(self, request: Any, place: str = place) -> None:
                if place == "add" and bytes(request.prompt_ids) == f"how many in {BAD}?".encode():
                    raise TypeError("not this one")
                super().add(request)

            def step(self, place: str = place) -> Any:
                asked = [bytes(request.prompt_ids) for request, _ in self.queue]
                if place == "step" and f"how many in {BAD}?".encode() in asked:
                    raise TypeError("not this one")
                return super().step()

        storage = Storage(str(tmp_path / place))
        chunks = list(prepared(*source, storage))
        caption(chunks, storage, CrashLog(), lambda made=Choking: replace(make_backend(SIZE), make_engine=made))  # type: ignore[misc]
        assert "not this one" in check(storage, "engine", "TypeError")


class Handle:
    """A Ray actor handle of an object in this process, whose answers `ray.get` gives as they are."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        return type("Method", (), {"remote": staticmethod(getattr(self._target, name))})


@pytest.mark.parametrize("step", ["reading", *PREPARING], ids=lambda step: getattr(step, "__name__", step))
def test_a_sample_that_kills_its_task_at_any_step_is_found(
    monkeypatch: pytest.MonkeyPatch, source: Any, tmp_path: Path, step: Any
) -> None:
    (reader, shard), storage, log = source, Storage(str(tmp_path / "out")), CrashLog()
    monkeypatch.setattr("ray.get", lambda answer: answer)
    monkeypatch.setattr("pipeline.stages.image_to_pixels_isolated", image_to_pixels_or_die)

    plain = reader

    class Deadly:
        index, spans = plain.index, plain.spans

        def read(self, shard: Shard, samples: Any) -> Iterator[Any]:
            for raw in plain.read(shard, samples):
                if raw.sample.row == BAD:
                    raise Died
                yield raw

    if step == "reading":
        reader = Deadly()
    else:
        inject(monkeypatch, step, Died())
    for _ in range(30):
        try:
            chunks = list(prepared(reader, shard, storage, Handle(log)))
            break
        except Died:
            continue
    else:
        pytest.fail("the sample was never found")
    monkeypatch.undo()
    caption(chunks, storage, CrashLog())
    assert "the task dies whenever it reads or prepares this sample" in check(storage, "read", "worker_crash")
    assert log.attempts("a (preprocess)", [0]) == [0]


@pytest.mark.parametrize("step", ANSWERING, ids=lambda step: step.__name__)
def test_a_row_that_kills_the_actor_at_any_step_is_found(
    monkeypatch: pytest.MonkeyPatch, source: Any, tmp_path: Path, step: Callable[..., None]
) -> None:
    inject(monkeypatch, step, Died())
    storage, log = Storage(str(tmp_path / "out")), CrashLog()
    chunks = list(prepared(*source, storage))
    for _ in range(30):
        try:
            caption(chunks, storage, log)
            break
        except Died:
            continue
    else:
        pytest.fail("the row was never found")
    assert "dies whenever it runs this row" in check(storage, "engine", "worker_crash")
