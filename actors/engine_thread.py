"""One engine on its own thread: the event loop of the actor only ever awaits futures.

The engine is single-threaded, so everything that touches it happens here. A request that makes the engine raise fails
alone: the engine is rebuilt and the requests that were in it are run again one at a time.
"""

import asyncio
import contextlib
import gc
import math
import os
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from actors.engine.drain import EngineLike
from actors.engine.request import Completion, Request
from actors.engine.stats import EngineStats

WINDOW_S = 10.0


@dataclass(frozen=True, slots=True)
class RequestFailure:
    """The engine could not do this request; it becomes an errors row."""

    error_type: str
    message: str
    attempts: int


Outcome = Completion | RequestFailure


def exit_process() -> NoReturn:
    """Leave at once, so that Ray restarts the actor. `ray.actor.exit_actor` in an async method would hang the job."""
    sys.stderr.flush()
    os._exit(70)


class EngineThread:
    """Feeds an engine from any event loop and collects its statistics in windows of about `window_s`.

    `on_start` is called in the thread before anything runs there.
    """

    def __init__(
        self,
        make_engine: Callable[[], EngineLike],
        *,
        window_s: float = WINDOW_S,
        on_fatal: Callable[[], Any] = exit_process,
        on_start: Callable[[], object] = lambda: None,
    ) -> None:
        self._make_engine = make_engine
        self._engine = make_engine()
        self._window_s = window_s
        self._window_start_s = time.monotonic()
        self._on_fatal, self._on_start = on_fatal, on_start
        self._wakeup = threading.Condition()
        self._inbox: deque[tuple[Request, asyncio.Future[Outcome]]] = deque()
        self._stopping = False
        self._in_flight: dict[int, tuple[Request, asyncio.Future[Outcome]]] = {}
        self._windows: list[EngineStats] = []
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, requests: Sequence[Request]) -> list["asyncio.Future[Outcome]"]:
        """Queue requests (with ids never used before); call it from the event loop that will await the futures."""
        loop = asyncio.get_running_loop()
        pairs = [(request, loop.create_future()) for request in requests]
        with self._wakeup:
            self._inbox.extend(pairs)
            self._wakeup.notify()
        return [future for _, future in pairs]

    def take_windows(self) -> list[EngineStats]:
        """Engine statistics since the last call, one entry a window; the window of work just finished is included."""
        with self._wakeup:
            windows, self._windows = self._windows, []
        return windows

    def stop(self) -> None:
        with self._wakeup:
            self._stopping = True
            self._wakeup.notify()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        try:
            self._on_start()
            while (arrivals := self._next_arrivals()) is not None:
                done = self._admit(arrivals)
                failure: str | None = None
                try:
                    done += self._settle(self._engine.step()) if self._engine.has_work() else []
                except Exception as error:
                    failure = repr(error)
                if failure is not None:  # after the except: the error's frames hold the engine and its caches
                    print(f"engine failed, running its requests one at a time: {failure}", file=sys.stderr)
                    done += self._run_one_at_a_time()
                self._close_window_if_due()
                _resolve(done)
        except BaseException:  # the engine cannot even be rebuilt: a device that is gone, a bug
            traceback.print_exc()
            self._on_fatal()

    def _next_arrivals(self) -> list[tuple[Request, "asyncio.Future[Outcome]"]] | None:
        """Return new requests, waiting for some while the engine is idle; None when it is time to stop."""
        with self._wakeup:
            while not self._inbox and not self._stopping and not self._engine.has_work():
                self._wakeup.wait()
            if self._stopping:
                return None
            arrivals = list(self._inbox)
            self._inbox.clear()
        return arrivals

    def _admit(
        self, arrivals: Iterable[tuple[Request, "asyncio.Future[Outcome]"]]
    ) -> list[tuple["asyncio.Future[Outcome]", Outcome]]:
        refused: list[tuple[asyncio.Future[Outcome], Outcome]] = []
        for request, future in arrivals:
            try:
                self._engine.add(request)
                self._in_flight[request.request_id] = (request, future)
            except Exception as error:  # one bad request, for example a prompt that is too long
                refused.append((future, RequestFailure(type(error).__name__, str(error), attempts=1)))
        return refused

    def _settle(self, completions: Iterable[Completion]) -> list[tuple["asyncio.Future[Outcome]", Outcome]]:
        return [(self._in_flight.pop(done.request_id)[1], _checked(done)) for done in completions]

    def _run_one_at_a_time(self) -> list[tuple["asyncio.Future[Outcome]", Outcome]]:
        suspects = list(self._in_flight.values())
        self._in_flight.clear()
        done: list[tuple[asyncio.Future[Outcome], Outcome]] = []
        self._rebuild()
        for request, future in suspects:
            outcome = self._run_alone(request)
            done.append((future, outcome))
            if isinstance(outcome, RequestFailure):
                self._rebuild()
        return done

    def _run_alone(self, request: Request) -> Outcome:
        try:
            self._engine.add(request)
            completions: list[Completion] = []
            while not completions:
                completions = self._engine.step()
            return _checked(completions[0], attempts=2)
        except Exception as error:
            return RequestFailure(type(error).__name__, str(error), attempts=2)

    def _rebuild(self) -> None:
        """Return a new engine; the time that the broken one spent was spent all the same.

        The broken one goes first: there may be no memory for two of them.
        """
        with contextlib.suppress(Exception):
            stats = self._engine.take_stats()
            with self._wakeup:
                self._windows.append(stats)
        del self._engine
        gc.collect()
        self._engine = self._make_engine()

    def _close_window_if_due(self) -> None:
        """A window ends when it is old enough or the engine runs dry; before the last futures are resolved, so that
        whoever awaits them finds the window."""
        now_s = time.monotonic()
        with self._wakeup:
            idle = not self._inbox and not self._engine.has_work()
            if idle or now_s - self._window_start_s >= self._window_s:
                self._windows.append(self._engine.take_stats())
                self._window_start_s = now_s


def _checked(done: Completion, attempts: int = 1) -> Outcome:
    """Return the completion, or a failure where the model's numbers were not finite: its text means nothing."""
    if all(map(math.isfinite, done.confidences)):
        return done
    step = next(number for number, value in enumerate(done.confidences) if not math.isfinite(value))
    message = (
        f"the model's numbers were not finite at step {step}: they overflowed, or the checkpoint holds such weights"
    )
    return RequestFailure("not_finite", message, attempts)


def _resolve(done: Sequence[tuple["asyncio.Future[Outcome]", Outcome]]) -> None:
    """Hand outcomes to the event loop, all in one call."""
    if not done:
        return

    def set_results() -> None:
        for future, outcome in done:
            if not future.done():  # its task may have been cancelled
                future.set_result(outcome)

    loop = done[0][0].get_loop()
    if not loop.is_closed():
        loop.call_soon_threadsafe(set_results)
