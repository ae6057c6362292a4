"""The audit in an actor, without Ray and without a model: who is asked twice, what is written, and what is counted."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from actors.backend import Backend
from actors.captioner import Captioner
from actors.engine.request import Request
from jobs.bench.null_engine import POISON_RAISE, Answer, make_null_backend
from pipeline.ops.crash_log import CrashLog
from pipeline.ops.duplicates import AnswerBook
from pipeline.output.staging import chunk_name
from pipeline.output.storage import Storage
from pipeline.promise.choice import AuditPlan, Flag
from pipeline.promise.losses import NOTHING, Audited
from pipeline.services import RunServices
from tests.actors.test_captioner import SIZE, LocalActor, bad, chunk, good, pixels_of

DEEP = 8


def answer(request: Request, asked: list[Request]) -> Answer:
    """Early exit says "a dog" of all images, full depth "a cat" of every other."""
    asked.append(request)
    odd = int(request.pixels_HWC[0, 0, 0]) % 2
    text = b"a cat" if request.full_depth and odd else b"a dog"
    layer = DEEP if request.full_depth else 2
    return Answer(tuple(text), (layer,) * 6, (0.9,) * 6)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


class Run:
    """A captioner over chunks, one after the other."""

    def __init__(self, storage: Storage, plan: AuditPlan | None, answers: AnswerBook | None = None) -> None:
        self.storage, self.asked = storage, list[Request]()
        book = None if answers is None else LocalActor(answers)
        self._services = RunServices(storage, "run", ("note",), LocalActor(CrashLog()), book, plan)

    def _backend(self) -> Backend:
        return make_null_backend(SIZE, answer=partial(answer, asked=self.asked))

    def caption(self, *chunks: pa.Table) -> list[Audited | None]:
        async def main() -> list[dict[str, Any]]:
            captioner = Captioner(self._backend, self._services)
            return [(await captioner(table)).to_pylist()[0] for table in chunks]

        found = [summary["audit"] for summary in asyncio.run(main())]
        return [None if audit is None else Audited.from_json(audit) for audit in found]

    def rows(self, number: int) -> list[dict[str, Any]]:
        return self.storage.read_table(chunk_name(self.storage, "s", number)).to_pylist()


def eight(index: int = 0) -> pa.Table:
    return chunk(index, [good(row, row) for row in range(8)], pixels_of(8))


def test_without_an_audit_nothing_is_asked_twice_and_nothing_is_said(storage: Storage) -> None:
    run = Run(storage, None)
    assert run.caption(eight()) == [None]
    assert len(run.asked) == 8
    assert not any(request.full_depth for request in run.asked)
    assert all(row[name] is None for row in run.rows(0) for name in ("audit_loss", "audit_text", "fallback"))


def test_chosen_rows_are_asked_at_full_depth_too_and_keep_what_early_exit_said(storage: Storage) -> None:
    plan = AuditPlan(0.5, "text_differs")
    run = Run(storage, plan)
    (found,) = run.caption(eight())
    rows = run.rows(0)
    chosen = [plan.chosen(row["sample_id"]) for row in rows]
    assert 0 < sum(chosen) < 8
    assert [row["text"] for row in rows] == ["a dog"] * 8
    assert [row["audit_loss"] for row in rows] == [n % 2 if own else None for n, own in enumerate(chosen)]
    assert [row["audit_text"] for row in rows] == [
        ("a dog", "a cat")[n % 2] if own else None for n, own in enumerate(chosen)
    ]
    assert len({request.request_id for request in run.asked}) == len(run.asked) == 8 + sum(chosen)
    losses = tuple(float(n % 2) for n, own in enumerate(chosen) if own)
    assert found == Audited(losses, num_twice=sum(chosen))
    assert Run(storage, plan).caption(eight()) == [found]  # whenever it is done again


def test_a_similarity_is_told_in_parts(storage: Storage) -> None:
    run = Run(storage, AuditPlan(1.0, "dissimilarity"))
    (found,) = run.caption(eight())
    assert found is not None
    assert found.losses == (0.0, 0.5) * 4  # "a cat" for "a dog"


def test_rows_that_fail_are_audited_by_nobody(storage: Storage) -> None:
    pixels = pixels_of(2)
    pixels[1, 0, 0] = POISON_RAISE
    run = Run(storage, AuditPlan(1.0, "text_differs"))
    assert run.caption(chunk(0, [good(0, 0), bad(1), good(2, 1)], pixels)) == [Audited((0.0,), num_twice=1)]
    assert [row["stage"] for row in run.rows(0)] == [None, "preprocess", "engine"]


def test_copies_of_an_answer_are_not_audited_again(storage: Storage) -> None:
    same = [{**good(row, 0), "sha256": "same"} for row in range(3)]
    run = Run(storage, AuditPlan(1.0, "text_differs"), AnswerBook(10))
    first, second = run.caption(chunk(0, same, pixels_of(1)), chunk(1, same, pixels_of(1)))
    assert (first, second) == (Audited((0.0,), num_twice=1), NOTHING)


def test_after_the_alarm_chunks_are_decoded_at_full_depth_and_none_of_their_images_twice(storage: Storage) -> None:
    flag = Flag()
    plan = AuditPlan(0.5, "text_differs", falls_back=True, flag=LocalActor(flag))
    run = Run(storage, plan)
    run.caption(eight(0))
    flag.hoist()
    before = len(run.asked)
    (found,) = run.caption(eight(1))
    rows = run.rows(1)
    assert [row["text"] for row in rows] == ["a dog", "a cat"] * 4
    assert all(row["fallback"] and set(row["exit_layers"]) == {DEEP} for row in rows)
    assert not any(row["fallback"] for row in run.rows(0))
    assert len(run.asked) - before == 8
    chosen = sum(plan.chosen(row["sample_id"]) for row in rows)
    assert found == Audited((), num_followed=chosen, num_fallback_rows=8)
    assert {row["audit_loss"] for row in rows} == {0.0, None}


def test_a_fallback_takes_no_answers_that_left_early(storage: Storage) -> None:
    flag, rows = Flag(), [{**good(row, 1), "sha256": "same"} for row in range(2)]
    run = Run(storage, AuditPlan(0.01, "text_differs", True, LocalActor(flag)), AnswerBook(10))
    run.caption(chunk(0, rows, pixels_of(2)))
    flag.hoist()
    (found,) = run.caption(chunk(1, rows, pixels_of(2)))
    assert [(row["text"], row["fallback"]) for row in run.rows(1)] == [("a cat", True)] * 2
    assert found is not None
    assert found.num_fallback_rows == 2
