"""The captioner without Ray: rows in, one committed file and one summary out, several chunks sharing the engine."""

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from actors.backend import Backend
from actors.captioner import Captioner
from actors.engine.request import Request
from actors.engine_turns import Room
from pipeline.chunk import Chunk
from pipeline.images.packed import ImagePacker
from pipeline.ops.crash_log import CrashLog
from pipeline.ops.duplicates import AnswerBook
from pipeline.output.staging import chunk_name
from pipeline.output.storage import Storage
from pipeline.services import RunServices
from pipeline.tables import ENGINE_STATS, SUMMARY, prepared_schema, staging_schema
from tests.fake_engine import POISON_RAISE, FakeEngine, decode_tokens, expected_tokens, make_backend

SIZE = 4


class LocalActor:
    """A Ray actor handle of an object in this process: `handle.method.remote(...)` is awaitable."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        async def remote(*args: Any) -> Any:
            return getattr(self._target, name)(*args)

        return type("Method", (), {"remote": staticmethod(remote)})


def chunk(index: int, rows: list[dict[str, Any]], pixels: np.ndarray[Any, Any], num_chunks: int = 3) -> pa.Table:
    table = pa.Table.from_pylist(rows, schema=prepared_schema(("note",)))
    packer = ImagePacker(pixels.size, pixels.size)
    for image in pixels.astype(np.uint8):
        packer.add(image)
    return Chunk("s", index, num_chunks, table, packer.packed()).to_table()


def good(row: int, pixel_index: int, prompt: str = "what?") -> dict[str, Any]:
    base = {"row": row, "sample_id": f"s/{row}", "key": str(row), "prompt": prompt, "src_note": f"note {row}"}
    return {**base, "prompt_index": 0, "num_prompts": 1, "pixel_index": pixel_index, "width": 9, "height": 8}


def bad(row: int) -> dict[str, Any]:
    failed = {"stage": "preprocess", "error_type": "empty_image", "message": "zero bytes"}
    return {"row": row, "sample_id": f"s/{row}", "key": str(row), "num_prompts": 1, **failed}


def pixels_of(count: int) -> np.ndarray[Any, Any]:
    return np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1) * np.ones((1, SIZE, SIZE, 3), np.uint8)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def caption(
    storage: Storage,
    chunks: list[pa.Table],
    crash_log: CrashLog | None = None,
    backend: Callable[[], Backend] | None = None,
    answers: AnswerBook | None = None,
) -> list[dict[str, Any]]:
    """Run all chunks at once through one captioner; gives the summaries."""

    async def main() -> list[dict[str, Any]]:
        services = RunServices(
            storage,
            "run",
            ("note",),
            LocalActor(crash_log or CrashLog()),
            None if answers is None else LocalActor(answers),
        )
        captioner = Captioner(backend or partial(make_backend, SIZE), services)
        tables = await asyncio.gather(*(captioner(table) for table in chunks))
        assert all(table.schema.equals(SUMMARY) for table in tables)
        return [table.to_pylist()[0] for table in tables]

    return asyncio.run(main())


def test_a_chunk_becomes_one_file_with_results_and_errors(storage: Storage) -> None:
    pixels = pixels_of(2)
    (summary,) = caption(storage, [chunk(1, [good(4, 0), bad(5), good(6, 1, "a longer prompt")], pixels)])
    table = storage.read_table(chunk_name(storage, "s", 1))
    assert table.schema.equals(staging_schema(("note",)))
    first, failed, last = table.to_pylist()
    tokens = expected_tokens(b"what?", pixels[0])
    assert first["text"] == decode_tokens(tokens)
    assert (first["num_tokens"], first["finish_reason"]) == (len(tokens), "eos")
    assert len(first["exit_layers"]) == len(first["confidences"]) == len(first["token_texts"]) == len(tokens) + 1
    assert "".join(first["token_texts"]) == first["text"]
    assert first["token_ids"] == list(tokens)
    assert first["mean_depth"] == pytest.approx(np.mean(first["exit_layers"]))
    assert first["min_confidence"] == pytest.approx(min(first["confidences"]))
    assert (first["shard"], first["key"], first["width"], first["src_note"]) == ("s", "4", 9, "note 4")
    assert all(first[name] >= 0 for name in ("queue_wait_s", "ttft_s", "decode_s", "e2e_s"))
    assert (failed["stage"], failed["error_type"], failed["attempts"], failed["text"]) == (
        "preprocess",
        "empty_image",
        1,
        None,
    )
    assert last["text"] == decode_tokens(expected_tokens(b"a longer prompt", pixels[1]))
    assert (summary["num_rows"], summary["num_errors"]) == (3, 1)
    assert json.loads(summary["error_types"]) == {"preprocess/empty_image": 1}
    texts = (first["exit_layers"], last["exit_layers"])
    assert summary["num_layers_run"] == sum(map(sum, texts))
    assert summary["num_layers_caught_up"] == sum(max(text[i:]) for text in texts for i in range(len(text)))


def test_what_an_output_says_besides_words_is_read_with_its_prompt_and_the_size_of_its_image(storage: Storage) -> None:
    def backend() -> Backend:
        return replace(make_backend(SIZE), read_fields=lambda tokens, *asked: json.dumps([len(tokens), *asked]))

    caption(storage, [chunk(0, [good(4, 0), bad(5)], pixels_of(1))], backend=backend)
    first, failed = storage.read_table(chunk_name(storage, "s", 0)).to_pylist()
    assert json.loads(first["fields"]) == [first["num_tokens"], "what?", [first["width"], first["height"]]]
    assert failed["fields"] is None
    caption(storage, [chunk(1, [good(4, 0)], pixels_of(1))])
    assert storage.read_table(chunk_name(storage, "s", 1))["fields"].to_pylist() == [None]


def test_limits_and_prefixes_reach_the_engine(storage: Storage) -> None:
    seen: list[tuple[int | None, tuple[int, ...] | None]] = []

    class Listening(FakeEngine):
        def add(self, request: Request) -> None:
            seen.append((request.max_new_tokens, request.prefix_ids))
            super().add(request)

    def backend() -> Backend:
        return replace(make_backend(SIZE), make_engine=Listening, encode_prefix=lambda prompt: tuple(prompt.encode()))

    rows = [{**good(0, 0, "a"), "max_new_tokens": 5}, good(1, 0, "b"), {**good(2, 0, "b"), "max_new_tokens": 7}]
    caption(storage, [chunk(0, rows, pixels_of(1))], backend=backend, answers=AnswerBook(9))
    assert seen == [(5, (97,)), (None, (98,)), (7, (98,))]


def test_an_empty_chunk_is_committed_too(storage: Storage) -> None:
    (summary,) = caption(storage, [chunk(0, [], pixels_of(0))])
    assert storage.read_table(chunk_name(storage, "s", 0)).num_rows == 0
    assert (summary["num_rows"], summary["num_steps"]) == (0, 0)


def test_engine_failures_and_refused_prompts_are_error_rows(storage: Storage) -> None:
    pixels = pixels_of(3)
    pixels[1] = POISON_RAISE
    caption(storage, [chunk(0, [good(0, 0), good(1, 1), good(2, 2, "x" * 600)], pixels)])
    rows = storage.read_table(chunk_name(storage, "s", 0)).to_pylist()
    assert [(row["stage"], row["error_type"], row["attempts"]) for row in rows] == [
        (None, None, None),
        ("engine", "RuntimeError", 2),
        ("engine", "ValueError", 1),
    ]
    assert rows[1]["message"] == "s/1: the engine chokes on this image"


def test_chunks_of_one_actor_share_the_engine(storage: Storage) -> None:
    batch_sizes: list[int] = []

    class Watched(FakeEngine):
        def step(self) -> Any:
            batch_sizes.append(min(self.slots, len(self.queue)))
            return super().step()

    def backend() -> Backend:
        plain = make_backend(SIZE)
        return Backend(
            lambda: Watched(slots=8, step_s=0.01),
            plain.encode_prompt,
            plain.decode_tokens,
            plain.token_texts,
            SIZE,
            "fake",
        )

    chunks = [chunk(n, [good(row, row % 5) for row in range(5 * n, 5 * n + 5)], pixels_of(5)) for n in range(4)]
    summaries = caption(storage, chunks, backend=backend)
    assert [summary["chunk"] for summary in summaries] == [0, 1, 2, 3]
    assert sum(batch_sizes) == 20
    assert max(batch_sizes) > 5, "batches never held rows of two chunks"


def test_engine_statistics_cover_all_work(storage: Storage) -> None:
    caption(storage, [chunk(n, [good(row, row) for row in range(3)], pixels_of(3)) for n in range(3)])
    tables = [storage.read_table(f"engine_stats/{name}") for name in storage.names("engine_stats")]
    assert len(tables) == 1
    assert tables[0].schema.equals(ENGINE_STATS)
    rows = tables[0].to_pylist()
    assert sum(row["num_completed"] for row in rows) == 9
    assert [row["model_load_s"] is None for row in rows] == [False] + [True] * (len(rows) - 1)
    assert all(row["end_utc"] >= row["start_utc"] for row in rows)


def test_rows_condemned_by_the_crash_log_are_not_run(storage: Storage) -> None:
    log = CrashLog()
    while 1 not in (attempt := log.begin("s", 0, 3)).condemned:  # a worker that dies whenever row 1 runs
        for piece in attempt.pieces if attempt.alone else ():
            log.enter("s", 0, piece)
            if piece[0] <= 1 < piece[1]:
                break
            log.leave("s", 0)
    caption(storage, [chunk(0, [good(0, 0), good(1, 1), good(2, 2)], pixels_of(3))], log)
    rows = storage.read_table(chunk_name(storage, "s", 0)).to_pylist()
    assert [row["error_type"] for row in rows] == [None, "worker_crash", None]
    assert rows[1]["stage"] == "engine"
    assert rows[1]["attempts"] > 3


def test_alone_means_alone() -> None:
    room, inside, most = Room(), [0], {"together": 0, "alone": 0}

    async def visit(how: str) -> None:
        async with room.enter(alone=how == "alone"):
            inside[0] += 1
            most[how] = max(most[how], inside[0])
            await asyncio.sleep(0.001)
            inside[0] -= 1

    async def main() -> None:
        await asyncio.gather(*(visit("alone" if n % 4 == 0 else "together") for n in range(40)))

    asyncio.run(main())
    assert most["alone"] == 1
    assert most["together"] > 1


def test_many_questions_of_one_image_wait_outside_the_engine(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """However many there are, only so many are requests at a time; how far the chunk is, is said once a minute."""
    monkeypatch.setattr("actors.captioner._MOST_WAITING", 600)
    monkeypatch.setattr("pipeline.ops.slow.SLOW_S", 0.0)
    most = 0

    class Watched(FakeEngine):
        def add(self, request: Request) -> None:
            nonlocal most
            super().add(request)
            most = max(most, len(self.queue))

    rows = [
        {**good(0, 0, f"question {n}"), "prompt_index": n, "num_prompts": 5000, "src_note": None} for n in range(5000)
    ]
    backend = lambda: replace(make_backend(SIZE), make_engine=Watched)  # noqa: E731
    (summary,) = caption(storage, [chunk(0, rows, pixels_of(1))], backend=backend)
    assert summary["num_rows"] == 5000
    assert most <= 600 + 256
    table = storage.read_table(chunk_name(storage, "s", 0))
    assert table["prompt_index"].to_pylist() == list(range(5000))
    assert table["prompt"].to_pylist() == [f"question {n}" for n in range(5000)]
    assert "chunk 0 of s in the engine: 2,560 of 5,000 rows" in caplog.text


def test_the_engine_s_thread_is_prepared_by_the_backend(storage: Storage) -> None:
    entered: list[str] = []
    backend = replace(make_backend(SIZE), enter_thread=lambda: entered.append(threading.current_thread().name))
    caption(storage, [chunk(0, [good(0, 0)], pixels_of(1))], backend=lambda: backend)
    assert entered == ["engine"]
