"""Requests in, completions out, for callers that have nothing else to do meanwhile. No torch here."""

from collections.abc import Iterable
from typing import Protocol

from actors.engine.request import Completion, Request
from actors.engine.stats import EngineStats


class EngineLike(Protocol):
    """An engine as its callers see it: engine.Engine, beam_engine.BeamEngine, and stand-ins without a model."""

    def add(self, request: Request) -> None: ...
    def step(self) -> list[Completion]: ...
    def has_work(self) -> bool: ...
    def take_stats(self) -> EngineStats: ...


def drain(engine: EngineLike, requests: Iterable[Request], *, ahead: int | None = None) -> list[Completion]:
    """Run all requests to their end and return one completion for each, in their order.

    Of `requests`, at most `ahead` are taken before they are needed, so that memory stays flat; none: all of them.
    """
    order: list[int] = []
    done: dict[int, Completion] = {}

    def step() -> None:
        done.update((completion.request_id, completion) for completion in engine.step())

    for request in requests:
        engine.add(request)
        order.append(request.request_id)
        while ahead is not None and len(order) - len(done) > ahead:
            step()
    while engine.has_work():
        step()
    assert len(done) == len(order), "requests in must be completions out"
    return [done[request_id] for request_id in order]
