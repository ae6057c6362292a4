"""Label once, fan out: what is copied, what is not, and that a bisection sees the same rows every time."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipeline.ops.crash_log import CrashLog
from pipeline.ops.duplicates import Answer, AnswerBook
from pipeline.output.staging import chunk_name
from pipeline.output.storage import Storage
from tests.actors.test_captioner import SIZE, caption, chunk, good, pixels_of
from tests.fake_engine import POISON_RAISE, make_backend

TIMES = ("queue_wait_s", "encode_s", "ttft_s", "decode_s", "e2e_s")


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "out"))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log"
    path.touch()
    return path


def row(number: int, image: int, prompt: str = "what?") -> dict[str, Any]:
    """`image` stands for the file: rows with the same number have the same bytes."""
    return {**good(number, image, prompt), "sha256": f"hash of {image}"}


def run(
    storage: Storage, log: Path, index: int, rows: list[dict[str, Any]], book: AnswerBook | None, **options: Any
) -> list[dict[str, Any]]:
    pixels = options.pop("pixels", pixels_of(9))
    backend = partial(make_backend, SIZE, log=str(log))
    caption(storage, [chunk(index, rows, pixels)], backend=backend, answers=book, **options)
    found: list[dict[str, Any]] = storage.read_table(chunk_name(storage, "s", index)).to_pylist()
    return found


def executed(log: Path) -> int:
    return log.stat().st_size


def test_an_image_and_a_prompt_are_answered_once_and_every_row_gets_the_answer(storage: Storage, log: Path) -> None:
    rows = [row(0, 1), row(1, 2), row(2, 1), row(3, 1, "how many?"), row(4, 1)]
    plain = run(storage, log, 0, rows, None)
    assert executed(log) == 5
    book = AnswerBook(100)
    found = run(storage, log, 1, rows, book)
    assert executed(log) == 5 + 3
    assert [(r["key"], r["text"], r["exit_layers"]) for r in found] == [
        (r["key"], r["text"], r["exit_layers"]) for r in plain
    ]
    assert [r["duplicate_of"] for r in found] == [None, None, "s/0", None, "s/0"]
    assert [r["src_note"] for r in found] == [f"note {n}" for n in range(5)], "its own columns stay its own"
    assert all(found[2][name] is None for name in TIMES)
    assert (found[2]["device_s"], found[0]["e2e_s"] >= 0) == (0.0, True)
    again = run(storage, log, 2, [row(5, 2), row(6, 3), row(7, 2)], book)
    assert executed(log) == 8 + 1
    assert [r["duplicate_of"] for r in again] == ["s/1", None, "s/1"]
    assert again[0]["text"] == plain[1]["text"]


def test_failures_are_not_remembered(storage: Storage, log: Path) -> None:
    pixels = pixels_of(3)
    pixels[1] = POISON_RAISE
    book = AnswerBook(100)
    found = run(storage, log, 0, [row(0, 1), row(1, 1)], book, pixels=pixels)
    assert [(r["error_type"], r["message"]) for r in found] == [
        ("RuntimeError", f"s/{n}: the engine chokes on this image") for n in range(2)
    ]
    assert book.known([("hash of 1", "what?")]) == [None]


def test_rows_without_a_hash_are_answered_one_by_one(storage: Storage, log: Path) -> None:
    run(storage, log, 0, [good(0, 1), good(1, 1)], AnswerBook(100))
    assert executed(log) == 2


def test_a_chunk_under_suspicion_is_not_shortened_by_what_others_have_learnt(storage: Storage, log: Path) -> None:
    """The crash log numbers the rows of a chunk; they must be the same in every attempt."""
    book, crash_log = AnswerBook(100), CrashLog()
    book.add({("hash of 1", "what?"): Answer({"text": "from elsewhere", "duplicate_of": "t/1"})})
    for _ in range(2):
        crash_log.begin("s", 0, 2)
    found = run(storage, log, 0, [row(0, 1), row(1, 2)], book, crash_log=crash_log)
    assert executed(log) == 2
    assert [r["duplicate_of"] for r in found] == [None, None]


def test_the_book_forgets_what_was_used_longest_ago() -> None:
    book = AnswerBook(2)
    a, b, c = (("a", ""), ("b", ""), ("c", ""))
    book.add({a: Answer({"text": "A"}), b: Answer({"text": "B"})})
    assert book.known([a]) == [Answer({"text": "A"})]
    book.add({c: Answer({"text": "C"})})
    assert [answer is not None for answer in book.known([a, b, c])] == [True, False, True]
