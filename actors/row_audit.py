"""What the audit adds to rows in an actor: full depth asked about some of them too, and the columns that come of it."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace

from actors.backend import Backend
from actors.engine.request import Completion, Request
from actors.engine_thread import Outcome
from actors.row_work import Columns, RowWork, text_of
from pipeline.promise.choice import AuditPlan
from pipeline.promise.losses import loss_of


class RowAudit:
    """Of an actor. Where the plan is None nothing is audited, and nothing asked for."""

    def __init__(self, plan: AuditPlan | None) -> None:
        self._plan = plan

    async def falls_back(self) -> bool:
        """Return whether the rows of a chunk that begins now are decoded at full depth."""
        if self._plan is None or self._plan.flag is None:
            return False
        return bool(await self._plan.flag.is_raised.remote())

    def twin(self, work: RowWork, request_ids: Iterator[int]) -> Request | None:
        """Return the request of a row once more, at full depth; None where the row is not audited, or is so anyway.

        `request_ids`: ids never used before.
        """
        if self._plan is None or work.full_depth or not self._plan.chosen(work.row["sample_id"]):
            return None
        assert work.request is not None
        return replace(work.request, request_id=next(request_ids), full_depth=True)

    async def completed(
        self, backend: Backend, work: RowWork, own: Columns, twin: "asyncio.Future[Outcome] | None"
    ) -> Columns:
        """Return the columns of a row with those of its audit; `own` alone where the row failed, or its twin did.

        A row at full depth is its own twin.
        """
        outcome = work.completion if twin is None else await twin
        if self._plan is None or own.get("stage") is not None:
            return own
        if work.full_depth:
            own = own | {"fallback": True}
            if not self._plan.chosen(work.row["sample_id"]):
                return own
        elif twin is None:
            return own
        if work.completion is None or not isinstance(outcome, Completion):
            return own
        full = text_of(backend, work, outcome)
        loss = loss_of(self._plan.loss, (work.completion.token_ids, outcome.token_ids), (own["text"], full))
        device_s = 0.0 if twin is None else outcome.device_s
        return own | {"audit_loss": loss, "audit_text": full, "audit_device_s": device_s}
