"""The engine's thread: results reach the right futures, one bad request fails alone, statistics are complete."""

import asyncio
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from actors.engine.request import Completion, Request
from actors.engine_thread import EngineThread, RequestFailure
from tests.fake_engine import POISON_RAISE, FakeEngine, decode_tokens, expected_tokens


def request(number: int, colour: tuple[int, int, int] | None = None, prompt: str = "p") -> Request:
    pixels = np.full((4, 4, 3), number % 251, np.uint8)
    if colour is not None:
        pixels[:] = colour
    return Request(number, pixels, tuple(prompt.encode()))


def run(
    make_engine: Callable[[], Any], work: Callable[[EngineThread], Coroutine[Any, Any, Any]], **options: Any
) -> tuple[Any, EngineThread]:
    async def main() -> Any:
        thread = EngineThread(make_engine, **options)
        try:
            return await asyncio.wait_for(work(thread), 30), thread
        finally:
            thread.stop()

    return asyncio.run(main())


def text(outcome: Any) -> str:
    assert isinstance(outcome, Completion), outcome
    return decode_tokens(outcome.token_ids)


@pytest.mark.parametrize("slots", [1, 4, 32])
def test_every_future_gets_its_own_result_whatever_the_batch(slots: int) -> None:
    requests = [request(number) for number in range(50)]

    async def work(thread: EngineThread) -> Any:
        halves = [asyncio.gather(*thread.submit(requests[:25])), asyncio.gather(*thread.submit(requests[25:]))]
        return [outcome for half in halves for outcome in await half]

    outcomes, _ = run(lambda: FakeEngine(slots), work)
    assert [outcome.token_ids for outcome in outcomes] == [
        expected_tokens(r.prompt_ids, r.pixels_HWC) for r in requests
    ]


def test_a_request_the_engine_refuses_fails_alone() -> None:
    async def work(thread: EngineThread) -> Any:
        return await asyncio.gather(*thread.submit([request(1), request(2, prompt="x" * 600), request(3)]))

    (first, refused, third), _ = run(FakeEngine, work)
    assert refused == RequestFailure("ValueError", "a prompt of 600 tokens is too long", attempts=1)
    assert text(first)
    assert text(third)


def test_a_request_that_breaks_the_engine_fails_alone_and_the_engine_is_rebuilt() -> None:
    built: list[FakeEngine] = []

    def make_engine() -> FakeEngine:
        built.append(FakeEngine(4))
        return built[-1]

    async def work(thread: EngineThread) -> Any:
        requests = [request(number, POISON_RAISE if number in (3, 6) else None) for number in range(9)]
        outcomes = await asyncio.gather(*thread.submit(requests))
        return outcomes, await asyncio.gather(*thread.submit([request(10)]))

    (outcomes, later), _ = run(make_engine, work)
    failed = RequestFailure("RuntimeError", "the engine chokes on this image", attempts=2)
    assert [number for number, outcome in enumerate(outcomes) if outcome == failed] == [3, 6]
    assert all(text(outcome) for number, outcome in enumerate(outcomes) if number not in (3, 6))
    assert text(later[0])
    assert len(built) > 1


def test_an_engine_that_cannot_be_rebuilt_ends_the_process() -> None:
    ended = threading.Event()
    engines = [FakeEngine()]

    def make_engine() -> FakeEngine:
        return engines.pop()  # IndexError the second time

    async def work(thread: EngineThread) -> None:
        thread.submit([request(1, POISON_RAISE)])
        assert await asyncio.to_thread(ended.wait, 10)

    run(make_engine, work, on_fatal=ended.set)


def test_the_window_of_finished_work_is_there_when_its_result_is() -> None:
    async def work(thread: EngineThread) -> Any:
        windows = []
        for number in range(5):
            await asyncio.gather(*thread.submit([request(10 * number + i) for i in range(7)]))
            windows.append(sum(window.num_completed for window in thread.take_windows()))
        return windows

    counts, _ = run(FakeEngine, work)
    assert counts == [7] * 5


def test_a_cancelled_future_is_no_trouble() -> None:
    async def work(thread: EngineThread) -> Any:
        futures = thread.submit([request(1), request(2)])
        futures[0].cancel()
        return await futures[1]

    outcome, _ = run(lambda: FakeEngine(step_s=0.05), work)
    assert text(outcome)


def test_the_broken_engine_is_gone_before_the_next_is_made() -> None:
    """Its caches are as large as the next one's, and there may be no memory for both."""
    built: list[weakref.ref[FakeEngine]] = []
    alive: list[int] = []

    def make_engine() -> FakeEngine:
        alive.append(sum(reference() is not None for reference in built))
        engine = FakeEngine(4)
        built.append(weakref.ref(engine))
        return engine

    async def work(thread: EngineThread) -> Any:
        requests = [request(number, POISON_RAISE if number in (3, 6) else None) for number in range(9)]
        return await asyncio.gather(*thread.submit(requests))

    run(make_engine, work)
    assert alive == [0] * len(built)
    assert len(built) == 4
