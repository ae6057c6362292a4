"""What the stages of a run are given beside their input."""

from dataclasses import dataclass, replace
from typing import Any

from pipeline.ops.crash_log import CrashLog
from pipeline.ops.duplicates import AnswerBook
from pipeline.output.storage import Storage
from pipeline.promise.choice import AuditPlan, Flag
from pipeline.tables import Passthrough


@dataclass(frozen=True, slots=True)
class RunServices:
    """Of one start of the command; travels to every worker."""

    storage: Storage  # of the output, with the permit of this run
    invocation: str  # which start of the command
    passthrough: Passthrough
    crash_log: Any = None  # handle of a Ray actor of CrashLog; None: nothing guards against images that hang or kill
    answers: Any = None  # handle of a Ray actor of AnswerBook; None: duplicates are not collapsed
    audit: AuditPlan | None = None  # None: no row is audited

    @classmethod
    def start(
        cls, storage: Storage, invocation: str, passthrough: Passthrough, *, remembered: int,
        audit: AuditPlan | None = None,
    ) -> "RunServices":  # fmt: skip
        """Start the actors. `remembered`: answers that duplicates are compared with; 0 collapses none."""
        answers = _actor(AnswerBook, remembered) if remembered else None
        if audit is not None and audit.falls_back:
            audit = replace(audit, flag=_actor(Flag))
        return cls(storage, invocation, passthrough, _actor(CrashLog), answers, audit)


def _actor(actor_class: type, *args: Any) -> Any:
    """Start an actor that every worker may ask. It may die with its node; a new one has forgotten everything, which
    costs tries but no rows."""
    import ray

    return ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(actor_class).remote(*args)
